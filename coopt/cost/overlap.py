"""What of a layer shows: compute, the share of communication that it cannot hide, and waiting for the host."""

from __future__ import annotations

import functools

from coopt.spec.nouns import Hardware, Leaf, Ops, Row
from coopt.tree import struct
from coopt.xp import at_least, maximum, minimum

COMPUTE = ("matmul", "attention", "elementwise", "gather", "cast")


# Share of the shorter of launching and running that does not overlap where the host waits for the device once a layer:
# mixtures of 1 and of 4 sequences a micro-batch on the same chips (Qwen3 30B on B200 and GB200, no captured graphs).
SYNCHRONISED = 0.4


@struct
class Busy:
    """What one occurrence of a row takes alone: seconds, and of them those on the link of each tier."""

    time: Leaf = 0.0
    links: tuple[Leaf, ...] = ()


@struct
class Layer:
    """Sums over the rows of one layer and one micro-batch, in seconds, and what of them shows."""

    compute: Leaf = 0.0
    dispatch: Leaf = 0.0  # host time of the launches beyond compute: the device waits for work
    tensor: Leaf = 0.0  # share of tensor, context and expert collectives that shows
    data: Leaf = 0.0  # share of per-layer weight collectives that shows
    host: Leaf = 0.0  # share of host transfers that shows
    time: Leaf = 0.0
    links: tuple[Leaf, ...] = ()  # s that its collectives take of each tier


def total(rows: tuple[Row, ...], busy: tuple[Busy, ...], scope: str, *, groups: tuple[str, ...] | None) -> Leaf:
    """Seconds of count * busy over a scope's compute rows (`groups` None) or the collectives of some groups."""
    seconds: Leaf = 0.0
    for row, one in zip(rows, busy, strict=True):
        wanted = row.kind in COMPUTE if groups is None else row.group in groups
        if row.scope == scope and wanted:
            seconds = seconds + row.count * one.time
    return seconds


def linked(rows: tuple[Row, ...], busy: tuple[Busy, ...], scope: str, *, groups: tuple[str, ...]) -> tuple[Leaf, ...]:
    """Seconds that the collectives of some groups take of the link of each tier."""
    chosen = [(row, one) for row, one in zip(rows, busy, strict=True) if row.scope == scope and row.group in groups]
    tiers = max((len(one.links) for one in busy), default=0)
    return tuple(sum((row.count * one.links[tier] for row, one in chosen), 0.0) for tier in range(tiers))


def launches(rows: tuple[Row, ...], scope: str) -> Leaf:
    """Kernels of a scope that the host launches: compute, and collectives of more than one chip."""
    kinds = (*COMPUTE, "collective")
    return sum((row.count * row.launches for row in rows if row.scope == scope and row.kind in kinds), 0.0)


def waiting(hardware: Hardware, launched: Leaf, busy: Leaf) -> Leaf:
    """Seconds the device waits because the host launches kernels more slowly than they run."""
    return maximum(launched * hardware.dispatch - busy, 0.0)


@struct
class Hidden:
    """Communication that may hide behind compute: seconds, those on each tier's link, and the share that may."""

    time: Leaf = 0.0
    share: Leaf = 0.0
    links: tuple[Leaf, ...] = ()
    cores: Leaf = 0.0  # share of the cores that it takes meanwhile


def longer(window: Leaf, *kinds: Hidden, under: tuple[Leaf, ...] = ()) -> Leaf:
    """Seconds by which compute of `window` seconds and what of some kinds of communication may hide outlast the window.

        max(sum cores_i share_i time_i, max(share_i time_i, under_t + sum share_i link_it) - window)

    All kinds go on beside one another. Those on one tier t share its link, with `under` that is there already: together
    they are never quicker than the sum of their bytes. What takes cores slows compute for as long as it lasts. Never
    negative whatever is known of the times: bounds over many candidates stay tight.

    >>> near, far = Hidden(time=3.0, share=1.0, links=(3.0, 0.0)), Hidden(time=3.0, share=1.0, links=(0.0, 3.0))
    >>> [float(longer(4.0, *kinds)) for kinds in ((near,), (near, far), (near, near))]
    [0.0, 0.0, 2.0]
    """
    busiest = [kind.share * kind.time for kind in kinds]
    for tier in range(max((len(kind.links) for kind in kinds), default=0)):
        sent = sum((kind.share * kind.links[tier] for kind in kinds if kind.links), under[tier] if under else 0.0)
        busiest.append(sent)
    return maximum(
        sum((kind.cores * kind.share * kind.time for kind in kinds), 0.0), functools.reduce(maximum, busiest) - window
    )


def shows(window: Leaf, *kinds: Hidden, under: tuple[Leaf, ...] = ()) -> tuple[Leaf, tuple[Leaf, ...]]:
    """Seconds of communication that show, and the share of each kind: what cannot hide, and of the rest what is longer
    than the window, in proportion.
    """
    beyond = longer(window, *kinds, under=under)
    part = ratio(beyond, sum((kind.share * kind.time for kind in kinds), 0.0))
    shares = tuple(1.0 - kind.share + kind.share * part for kind in kinds)
    return beyond + sum(((1.0 - kind.share) * kind.time for kind in kinds), 0.0), shares


def ratio(part: Leaf, whole: Leaf) -> Leaf:
    """Part / whole, 0 where there is nothing."""
    return part / at_least(whole, 1e-30)


def layer_time(ops: Ops, hardware: Hardware, busy: tuple[Busy, ...]) -> Layer:
    """One layer and micro-batch: compute, what shows of each kind of communication, and waiting for the host.

    Context and expert collectives, those of tensor parallelism where the layout overlaps them, weight gathering and
    host transfers hide behind the layer's compute, beside one another; what is longer shows in proportion. The host
    launches kernels and collectives ahead of the device: the device waits where launching takes longer than all that.
    """
    rows, cores = ops.rows, hardware.stolen
    compute = total(rows, busy, "layer", groups=None)
    blocking = total(rows, busy, "layer", groups=("tensor",))
    others = total(rows, busy, "layer", groups=("context", "expert"))
    own, further = (linked(rows, busy, "layer", groups=groups) for groups in (("tensor",), ("context", "expert")))
    gathers = linked(rows, busy, "layer", groups=("data",))
    able = Hidden(
        time=ops.overlap * blocking + others,  # what may hide at all
        share=hardware.hide_tensor,
        links=tuple(ops.overlap * a + b for a, b in zip(own, further, strict=True)),
        cores=cores,
    )
    data = Hidden(
        time=total(rows, busy, "layer", groups=("data",)),
        share=hardware.hide_data * (1.0 - ops.late),  # not while anything is computed
        links=gathers,
        cores=cores,
    )
    host = Hidden(time=total(rows, busy, "layer", groups=("host",)), share=hardware.hide_data)
    shown, (of_able, of_data, of_host) = shows(compute, able, data, host)
    waited = (1.0 - ops.overlap) * blocking
    device = compute + waited + shown
    launched = ops.eager * launches(rows, "layer")
    dispatch = waiting(hardware, launched, device)
    if not (isinstance(ops.synchronised, float) and ops.synchronised == 0.0):
        dispatch = dispatch + SYNCHRONISED * ops.synchronised * minimum(launched * hardware.dispatch, device)
    return Layer(
        compute=compute,
        dispatch=dispatch,
        tensor=ratio(waited + of_able * able.time, blocking + others),
        data=of_data,
        host=of_host,
        time=device + dispatch,
        links=tuple(a + b + c for a, b, c in zip(own, further, gathers, strict=True)),
    )
