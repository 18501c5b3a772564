"""What a design costs and when it can be had: yield, parts, development, what stands around it, dollars an hour."""

from __future__ import annotations

import math

from coopt.spec.nouns import Leaf
from coopt.spec.silicon import Design, Link, Node, Package, Process, Silicon, Stack
from coopt.tree import replace
from coopt.xp import at_least, ceil, exp, log, maximum, minimum, sqrt

YEAR = 365.25 * 86400.0
HOUR = 3600.0


def gross_dies(area: Leaf, package: Package) -> Leaf:
    """Dies on a wafer: pi (D/2 - e)^2 / A' - pi (D - 2e) / sqrt(2 A'), A' = A + 2 s sqrt(A) + s^2.

    Source: Feng and Ma, Chiplet Actuary, DAC 2022, chip.py.

    >>> wafer = Package(diameter=0.3, margin=0.005, scribe=0.0002)
    >>> round(float(gross_dies(800e-6, wafer)), 1)
    58.8
    """
    cut = area + 2.0 * package.scribe * sqrt(area) + package.scribe * package.scribe
    usable = package.diameter - 2.0 * package.margin
    return math.pi * (usable / 2.0) * (usable / 2.0) / cut - math.pi * usable / sqrt(2.0 * cut)


def good(area: Leaf, spare: Leaf, node: Node, package: Package) -> Leaf:
    """Share of dies that can be sold: y + q (1 - y), y = (1 + D A / a)^-a, q = salvage spare / (spare + half).

    y is the negative binomial law of clustered defects; of the rest, spare units and lanes save the share q.

    >>> round(float(good(800e-6, 0.0, Node(defects=1100.0), Package(clustering=10.0))), 2)
    0.43
    """
    perfect = exp(-package.clustering * log(1.0 + node.defects * area / package.clustering))
    saved = package.salvage * spare / (spare + package.half)
    return perfect + saved * (1.0 - perfect)


def bill(made: Silicon, design: Design, process: Process, node: Node, memory: Stack) -> Silicon:
    """Parts of one tested package, development, and the price to whoever orders.

    parts = (dies wafer / (gross good) + stacks + interposer) / bond^(dies + stacks) + test
    price = parts / (1 - margin) + own development / volume
    """
    package = process.package
    share = good(made.die, design.spare, node, package)
    dies = design.dies * node.wafer / (at_least(gross_dies(made.die, package), 1e-3) * share)
    stacks = design.stacks * memory.price
    interposer = made.interposer * package.price
    placed = exp(log(package.bond) * (design.dies + design.stacks))
    parts = (dies + stacks + interposer) / placed + package.test
    development = developed(made.die, process, node)
    return replace(
        made,
        good=share,
        dollars_dies=dies / placed,
        dollars_memory=stacks / placed,
        dollars_package=interposer / placed,
        dollars_test=package.test,
        parts=parts,
        development=development,
        price=parts / (1.0 - design.margin) + design.own * development / design.volume,
    )


def developed(die: Leaf, process: Process, node: Node) -> Leaf:
    """USD once: design, verification and software, of which a share grows with the die; masks, and a respin's odds."""
    money = process.money
    grown = 1.0 - money.scales + money.scales * die / money.reference
    return node.development * grown + node.masks * (1.0 + money.respin)


def dated(design: Design, process: Process, node: Node, memory: Stack, link: Link) -> Leaf:
    """Year of volume: when node, memory and link are there, and, of a part that is ordered, when it is developed."""
    money = process.money
    quarters = node.quarters + money.respin * money.respin_quarters
    return maximum(maximum(node.date, memory.date), maximum(link.date, design.start + design.own * quarters / 4.0))


def levels(domain: Leaf, radix: Leaf) -> Leaf:
    """Levels of switches that join so many chips without blocking: one up to the radix, then k/2 times as many each.

    >>> [float(levels(n, 72.0)) for n in (8.0, 72.0, 73.0, 2592.0)]
    [1.0, 1.0, 2.0, 2.0]
    """
    more = log(at_least(domain, 1.0) / radix) / log(radix / 2.0)
    return 1.0 + maximum(ceil(more - 1e-9), 0.0)


def around(design: Design, process: Process, link: Link) -> tuple[Leaf, Leaf]:
    """USD and W a chip of what is bought with it: host, scale-out, and the scale-up switches, modules and cables.

    A network of L levels without blocking has (2 L - 1) switch ports and 2 L ends of a link for each chip's; a torus
    has no switch.
    """
    rack = process.around
    switched = 1.0 - minimum(design.torus, 1.0)
    deep = levels(design.domain, rack.switch_radix)
    joined = minimum(at_least(design.domain - 1.0, 0.0), 1.0)
    switches = joined * switched * (2.0 * deep - 1.0) * design.scale_up / rack.switch_rate
    ends = joined * (switched * 2.0 * deep + 1.0 - switched) * design.scale_up / link.rate
    # the chip's own end is in the chip's watts; each further pair of ends adds as much again
    beyond = joined * switched * (deep - 1.0) * design.scale_up * link.energy
    network = rack.network * design.scale_out / rack.network_rate
    return (
        rack.host + network + switches * rack.switch_price + ends * link.price,
        switches * rack.switch_watts + beyond,
    )


def annuity(rate: Leaf, life: Leaf) -> Leaf:
    """Share of a price to be earned a year so that it is repaid with interest over `life` seconds.

    >>> round(float(annuity(0.1, 5 * YEAR)), 4)
    0.2638
    """
    return rate / (1.0 - exp(-life / YEAR * log(1.0 + rate)))


def hourly(process: Process, *, capital: Leaf, watts: Leaf) -> Leaf:
    """USD a chip-hour to its owner: annuities of machine and plant, and electricity with its cooling.

        (capital annuity(life) + plant W annuity(plant life)) / hours a year + W pue electricity

    The machine is paid for every hour of its life, at work or not, as the roadmap pays for it.
    """
    money = process.money
    plant = process.around.plant * watts * annuity(money.rate, money.plant_life)
    yearly = capital * annuity(money.rate, money.life) + plant
    return yearly / (YEAR / HOUR) + watts * money.pue * money.electricity * HOUR
