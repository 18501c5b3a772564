"""A chip from its free parameters: `build(design, process) -> Hardware`, by way of area, edge, volts and watts.

Elementwise and differentiable in every leaf but the codes. What the parts cost and when they can exist is in
`bill.py`; constants and their sources are in `hw_profiles/process/`.
"""

from __future__ import annotations

from typing import TypeVar

import jax

from coopt.cost.bill import around, bill, dated, hourly, levels
from coopt.spec.constants import FAMILY, SATURATION, STACK, applied
from coopt.spec.nouns import Hardware, Leaf, Tier
from coopt.spec.silicon import Design, Link, Node, Process, Silicon, Stack
from coopt.tree import replace
from coopt.xp import at_least, choose, minimum, sqrt

T = TypeVar("T")


def pick(code: Leaf, options: tuple[T, ...]) -> T:
    """The option whose position is `code`, leaf by leaf; codes may be arrays."""
    return jax.tree.map(lambda *leaves: choose(code, leaves), *options)


def choices(design: Design, process: Process) -> tuple[Node, Stack, Link]:
    """The node, the memory and the link that a design's codes name."""
    return pick(design.node, process.nodes), pick(design.memory, process.memories), pick(design.link, process.links)


def volts(design: Design, node: Node) -> Leaf:
    """Supply voltage at the design's clock: V = threshold + (V0 - threshold) clock / clock0.

    Clock and voltage are one variable; the straight line stands for the alpha-power law at an exponent of one
    (Sakurai and Newton 1990), which is where short channels are.

    >>> round(float(volts(Design(clock=1e9), Node(voltage=0.8, threshold=0.5, clock=2e9))), 3)
    0.65
    """
    return node.threshold + (node.voltage - node.threshold) * design.clock / node.clock


def areas(design: Design, process: Process) -> tuple[Leaf, Leaf, Leaf]:
    """m2 of logic, of SRAM and of interfaces, all dies together.

        logic = shrink (1 + control) (1 + spare) (units (multiplier e^2 + port e) + lanes lane + exponentials exp)
        sram  = bits bitcell / array          interfaces = PHYs of HBM, links, host and neighbour; these do not shrink

    A large matrix unit feeds e^2 multipliers through e rows: its ports weigh less, and its tiles are coarser.
    """
    blocks = process.blocks
    node, memory, link = choices(design, process)
    types = 1.0 + blocks.eight * (design.eight - 1.0) + blocks.four * design.four
    unit = blocks.multiplier * types * design.edge * design.edge + blocks.port * design.edge
    active = design.units * unit + design.lanes * blocks.lane + design.exponentials * blocks.exponential
    logic = node.logic * (1.0 + blocks.control) * (1.0 + design.spare) * active
    sram = 8.0 * design.sram * node.bitcell / blocks.array
    interfaces = (
        design.stacks * memory.area
        + design.scale_up / link.rate * link.area
        + blocks.host
        + 2.0 * (design.dies - 1.0) * blocks.joint
    )
    return logic, sram, interfaces


def edges(design: Design, process: Process, die: Leaf) -> tuple[Leaf, Leaf]:
    """Die edge that memory, links and host need, and that there is, m: four sides a die less those that meet."""
    _, memory, link = choices(design, process)
    needed = design.stacks * memory.edge + design.scale_up / link.rate * link.edge + process.blocks.host_edge
    sides = 4.0 * design.dies - 2.0 * (design.dies - 1.0)
    return needed, process.package.shore * sides * sqrt(die)


def power(design: Design, process: Process, active: Leaf) -> tuple[Leaf, Leaf, Leaf, Leaf, Leaf]:
    """W that follow the clock, leak, go to memory, to links and to other interfaces, at full load.

    clocked = clock (V / V0)^2 energy (units (e^2 multiply + e feed) + lanes vector + exponentials transcend);
    leaking = leakage * active area * (V / V0)^2; memory and links at their full rate.
    """
    blocks = process.blocks
    node, memory, link = choices(design, process)
    relative = volts(design, node) / node.voltage
    matrix = design.units * design.edge * (design.edge * blocks.multiply + blocks.feed)
    switched = matrix + design.lanes * blocks.vector + design.exponentials * blocks.transcend
    return (
        design.clock * relative * relative * node.energy * switched,
        node.leakage * active * relative * relative,
        design.stacks * memory.bandwidth * memory.energy,
        design.scale_up * link.energy,
        blocks.interface + (design.dies - 1.0) * blocks.joint_watts,
    )


def silicon(design: Design, process: Process) -> Silicon:
    """The design as an object: area and edge, watts, yield, parts, price, date."""
    node, memory, link = choices(design, process)
    logic, sram, interfaces = areas(design, process)
    area = logic + sram + interfaces
    die = area / design.dies
    needed, shore = edges(design, process, die)
    clocked, leaking, watts_memory, watts_links, interface = power(design, process, logic + sram)
    watts = clocked + leaking + watts_memory + watts_links + interface
    interposer = process.package.over * (area + design.stacks * memory.footprint)
    made = Silicon(
        die=die,
        area=area,
        logic=logic,
        sram=sram,
        interfaces=interfaces,
        interposer=interposer,
        edge=needed,
        shore=shore,
        watts=watts,
        clocked=clocked,
        leaking=leaking,
        watts_memory=watts_memory,
        watts_links=watts_links,
        density=watts / area,
        voltage=volts(design, node),
    )
    made = bill(made, design, process, node, memory)
    return replace(made, date=dated(design, process, node, memory, link))


def build(design: Design, process: Process) -> Hardware:
    """The machine that a design makes: what `estimate` reads, with its watts, dollars and date.

    What silicon sets is computed; what software reaches on it is the process's `delivered`, the middle of the
    families that were fitted, and `sigma` is their spread.
    """
    made = silicon(design, process)
    blocks, around_it, reached = process.blocks, process.around, process.delivered
    _, memory, link = choices(design, process)
    sixteen = 2.0 * design.units * design.edge * design.edge * design.clock
    eight, four = design.eight * sixteen, design.four * sixteen
    vector = 2.0 * design.lanes * design.clock
    beside, watts_switch = around(design, process, link)
    watts_all_in = made.watts * (1.0 + around_it.share) + watts_switch
    tile = sqrt(design.edge * design.edge + blocks.least * blocks.least)
    capital = made.price + beside
    bare = Hardware(
        name=design.name,
        chip=design.name,
        assumed=("what software reaches on a chip not built yet is taken from families that were fitted",),
        peak=(vector, 0.5 * sixteen, sixteen, sixteen, eight, eight, four, eight),
        vector=vector,
        score=1.0 / (design.exponentials * design.clock) + blocks.softmax / vector,
        pointwise=blocks.pointwise / vector,
        spill=sqrt(design.dies / design.sram),  # a die blocks its own part of a product in its own SRAM
        edge=design.edge,
        bandwidth=design.stacks * memory.bandwidth,
        memory=design.stacks * memory.capacity * reached.usable,
        cache=design.sram,
        cores=design.units,
        tile_m=tile,
        tile_n=tile,
        host_bandwidth=around_it.host_bandwidth,
        host_memory=around_it.host_memory,
        tiers=_tiers(design, process, link),
        watts=made.watts,
        watts_idle=reached.idle * made.watts,
        watts_all_in=watts_all_in,
        clocked=made.clocked / made.watts,
        leaking=made.leaking / made.watts,
        slope=_slope(design, process),
        dollars=capital + around_it.plant * watts_all_in,
        dollars_hour=hourly(process, capital=capital, watts=watts_all_in),
        date=made.date,
        failure_rate=1.0 / around_it.interval,
        restart=around_it.restart,
        checkpoint=around_it.checkpoint,
        repair=around_it.repair,
        blast=design.domain,
        sigma=reached.sigma,
    )
    family = {name: getattr(reached, name) for name in FAMILY}
    # Little's law: bytes on their way from HBM, bandwidth times latency, need room on chip
    family["stream"] = reached.stream * design.sram / (design.sram + bare.bandwidth * blocks.latency)
    stack = {name: 1.0 if name == "attention" else getattr(reached, name) for name in STACK}
    deep = sqrt(reached.depth * reached.depth + design.edge * design.edge)
    return replace(applied(bare, family, stack), depth=deep)


def _slope(design: Design, process: Process) -> Leaf:
    """Slope d log V / d log clock at the design's clock."""
    node = pick(design.node, process.nodes)
    voltage = volts(design, node)
    return (voltage - node.threshold) / voltage


def _tiers(design: Design, process: Process, link: Link) -> tuple[Tier, Tier]:
    """Scale-up links, through as many levels of switches as the domain needs, or in a torus; then scale-out."""
    hops = 2.0 * levels(design.domain, process.around.switch_radix) - 1.0
    switched = 1.0 - minimum(design.torus, 1.0)
    return (
        Tier(
            name="scale-up",
            size=design.domain,
            bandwidth=at_least(design.scale_up, 1.0),
            latency=link.latency * (switched * hops + 1.0 - switched),
            saturation=SATURATION,
            reduction=switched,
            axes=design.torus,
        ),
        Tier(
            name="scale-out", size=float("inf"), bandwidth=design.scale_out, latency=process.around.latency,
            saturation=SATURATION,
        ),
    )  # fmt: skip
