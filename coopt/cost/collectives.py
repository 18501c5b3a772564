"""Seconds of one collective over the tiers of the network, nearest first."""

from __future__ import annotations

from coopt.spec.nouns import Hardware, Leaf, Row, Tier
from coopt.tree import struct
from coopt.xp import always, at_least, exp, log, maximum, minimum, where

START = 4.0  # steps' worth of latency to start a collective: measured, 2 and 8 chips, 16 kB, three generations

# Share of an all-reduce's second pass that switches save by adding up: NCCL's large all-reduce over 8 H100 takes
# 1.5 times an all-gather of the same buffer, not 2 and not 1.
SAVED = 0.5


@struct
class Crossing:
    """Seconds that a collective takes in one tier: its bytes on the link, which others wait for, and its steps."""

    link: Leaf = 0.0
    steps: Leaf = 0.0
    reaches: Leaf = True  # a message between two chips crosses the first tier alone that does


def spans(hardware: Hardware, row: Row) -> tuple[Leaf, ...]:
    """Ways of the group inside each tier: how many members one unit of the tier holds, over the tiers below.

    A group of g chips, s apart, has min(g, max(1, size / s)) members in a unit of `size` chips; the product over
    tiers is g.
    """
    inside, ways = 1.0, []
    for position, tier in enumerate(hardware.tiers):
        if position == len(hardware.tiers) - 1:
            reach = row.size
        else:
            reach = minimum(row.size, maximum(tier.size / row.stride, 1.0))
        ways.append(at_least(reach / inside, 1.0))
        inside = reach
    return tuple(ways)


def rate(tier: Tier, ways: Leaf) -> Leaf:
    """One-way B/s a chip gets from a tier for very large messages over `ways` members.

    Oversubscription divides it, efficiency multiplies it. A torus gives a group the axes it spans: one of `axes` at
    least, all for the whole tier, in proportion to log(ways) / log(size).
    """
    full = tier.bandwidth * tier.efficiency / tier.oversubscription
    share = minimum(maximum(tier.axes * log(ways) / log(at_least(tier.size, 2.0)), 1.0), at_least(tier.axes, 1.0))
    share = where(tier.axes > 0.5, share / at_least(tier.axes, 1.0), 1.0)
    return at_least(full * share, 1e-30)


def send_time(tier: Tier, ways: Leaf, sent: Leaf, passes: Leaf = 1.0) -> Leaf:
    """Seconds to send some bytes: (sent + passes saturation) / rate; a pass of `saturation` bytes has half of it."""
    some = minimum(ways - 1.0, 1.0)  # nothing is sent by a group of one
    return (sent + passes * tier.saturation * some) / rate(tier, ways)


def ring_steps(tier: Tier, ways: Leaf, outer: Leaf) -> Leaf:
    """Hops of one ring through the whole group that cross this tier: w - 1 in each of the `outer` units around it.

    A torus has a ring an axis: a group of w chips spans axes of w^(1/axes).
    """
    axes = at_least(tier.axes, 1.0)
    around = at_least(exp(log(at_least(ways, 1.0)) / axes) - 1.0, 0.0)  # what rounding leaves below 0 is nothing
    return axes * around * where(tier.axes > 0.5, 1.0, outer)


def reduction_steps(tier: Tier, ways: Leaf) -> Leaf:
    """Steps of a reduction in one tier: w - 1 for a ring, 2 log2(w) for a tree; the quicker where there are trees."""
    around = ways - 1.0
    return where(tier.ring > 0.5, around, minimum(around, 2.0 * log(at_least(ways, 1.0)) / log(2.0)))


def collective_time(hardware: Hardware, row: Row) -> Leaf:
    """Seconds of a collective whose whole buffer is `payload` bytes on one chip: what it takes tier after tier.

    Only an all-to-all sends over all tiers at once, so that the slowest decides.

    >>> from coopt.spec.nouns import Hardware, Row, Tier
    >>> net = Hardware(tiers=(Tier(size=8., bandwidth=4e11), Tier(bandwidth=5e10)))
    >>> round(float(collective_time(net, Row(collective="all_reduce", payload=1e9, size=16.))) * 1e3, 3)
    6.875
    """
    return joined(row, crossed(hardware, row))


def joined(row: Row, tiers: tuple[Crossing, ...]) -> Leaf:
    """Seconds of a collective from those in each tier."""
    time: Leaf = 0.0
    for tier in reversed(tiers):
        here = tier.link + tier.steps
        if row.collective == "p2p":
            time = where(tier.reaches, here, time)
        else:
            time = maximum(time, here) if row.collective == "all_to_all" else time + here
    return time


def links(row: Row, tiers: tuple[Crossing, ...]) -> tuple[Leaf, ...]:
    """Seconds of the link of each tier that a collective takes."""
    if row.collective != "p2p":
        return tuple(tier.link for tier in tiers)
    nearer = (False, *(tier.reaches for tier in tiers))
    return tuple(
        where(near, 0.0, where(tier.reaches, tier.link, 0.0)) for near, tier in zip(nearer, tiers, strict=False)
    )


def crossed(hardware: Hardware, row: Row) -> tuple[Crossing, ...]:
    """What a collective takes of each tier, nearest first."""
    if not hardware.tiers:
        return ()
    kinds = {"p2p": _message, "all_to_all": _exchange}
    return kinds.get(row.collective, _hierarchical)(hardware, row)


def _hierarchical(hardware: Hardware, row: Row) -> tuple[Crossing, ...]:
    """An all-gather or reduce-scatter crosses the outer tiers with the share of the buffer that is left after the inner
    ones, P / w1, then P / (w1 w2): (w - 1) / w of it in each; an all-reduce is both (passes = 2).
    """
    found, held, outer = [], row.payload, row.size
    for tier, ways in zip(hardware.tiers, spans(hardware, row), strict=True):
        outer = outer / ways
        if row.collective == "all_reduce":
            passes = 2.0 - SAVED * tier.reduction * minimum(ways - 1.0, 1.0)
            steps = passes * reduction_steps(tier, ways)
        else:
            passes, steps = 1.0, ring_steps(tier, ways, outer)
        steps = steps + START * minimum(ways - 1.0, 1.0)
        sent = passes * (ways - 1.0) / ways * held
        found.append(Crossing(link=send_time(tier, ways, sent, passes), steps=steps * tier.latency))
        held = held / ways
    return tuple(found)


def _exchange(hardware: Hardware, row: Row) -> tuple[Crossing, ...]:
    """An all-to-all: each member gets 1 / g of the payload, over the nearest tier that holds both.

    An item whose `fan` copies go to members at random crosses into a unit once and is copied there: of r other units,
    each with a share p of the members, it reaches r (1 - (1 - p)^fan) (DeepEP and HybridEP: once a node, once a chip).
    Where all copies are in `top_parts` of the group's `parts`, a unit has one of these with probability u = 1 - (1 -
    top_parts / parts)^max(p parts, 1), and r u (1 - (1 - p / u)^fan) are reached: within 1% of drawing them.

    >>> from coopt.spec.nouns import Hardware, Row, Tier
    >>> from coopt.tree import replace
    >>> net = Hardware(tiers=(Tier(size=8., bandwidth=4e11), Tier(bandwidth=5e10)))
    >>> sent = Row(collective="all_to_all", payload=8e8, size=32.)
    >>> once = replace(sent, fan=8.0)
    >>> near = replace(once, parts=4.0, top_parts=2.0)
    >>> [round(float(collective_time(net, one)) * 1e3, 2) for one in (sent, once, near)]
    [12.0, 5.4, 2.99]
    """
    found, inside = [], 1.0
    for tier, ways in zip(hardware.tiers, spans(hardware, row), strict=True):
        reached = inside * ways
        share = inside / row.size
        held = _held(row, share)
        missed = log(at_least(1.0 - share / held, 1e-30))
        units = (reached - inside) / inside  # units of this tier but the own one
        away = row.payload / row.fan * units * held * (1.0 - exp(row.fan * missed))
        steps = (START + 1.0) * minimum(ways - 1.0, 1.0)
        found.append(Crossing(link=send_time(tier, ways, away), steps=steps * tier.latency))
        inside = reached
    return tuple(found)


def _held(row: Row, share: Leaf) -> Leaf:
    """Probability that a unit with a share of the members has one of the parts that an item's copies go to."""
    if always(row.parts, 1.0):
        return 1.0
    others = log(at_least(1.0 - row.top_parts / row.parts, 1e-30))
    return 1.0 - exp(maximum(share * row.parts, 1.0) * others)


def _message(hardware: Hardware, row: Row) -> tuple[Crossing, ...]:
    """One message to the neighbour `stride` chips away, over the first tier that holds both."""
    found, beyond = [], len(hardware.tiers) - 1
    for position, tier in enumerate(hardware.tiers):
        reaches = True if position == beyond else row.stride * row.size <= tier.size + 0.5
        found.append(Crossing(link=row.payload / rate(tier, 2.0), steps=tier.latency, reaches=reaches))
    return tuple(found)
