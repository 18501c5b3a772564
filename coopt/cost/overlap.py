"""What of a layer shows: compute, the share of communication that it cannot hide, and waiting for the host."""

from __future__ import annotations

import functools

from coopt.spec.nouns import Hardware, Leaf, Ops, Row
from coopt.tree import replace, struct
from coopt.xp import always, at_least, maximum, minimum

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
    unmet: Leaf = 0.0  # s that it takes longer where no other micro-batch is computed meanwhile


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
    sure: Leaf = 0.0  # further seconds, all of which may, before or after these
    sure_links: tuple[Leaf, ...] = ()

    @property
    def may(self) -> Leaf:
        """Seconds that may hide."""
        seconds = self.share * self.time
        return seconds + self.sure if self.sure_links else seconds

    @property
    def all(self) -> Leaf:
        """Seconds in all."""
        return self.time + self.sure if self.sure_links else self.time

    def on(self, tier: int) -> Leaf:
        """Seconds of those on the link of a tier."""
        links = self.share * self.links[tier] if self.links else 0.0
        return links + self.sure_links[tier] if self.sure_links else links


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
    busiest = [kind.may for kind in kinds]
    for tier in range(max((len(kind.links) for kind in kinds), default=0)):
        sent = sum((kind.on(tier) for kind in kinds if kind.links), under[tier] if under else 0.0)
        busiest.append(sent)
    return maximum(sum((kind.cores * kind.may for kind in kinds), 0.0), functools.reduce(maximum, busiest) - window)


def shows(window: Leaf, *kinds: Hidden, under: tuple[Leaf, ...] = ()) -> tuple[Leaf, tuple[Leaf, ...]]:
    """Seconds of communication that show, and the share of each kind: what cannot hide, and of the rest what is longer
    than the window, in proportion.
    """
    beyond = longer(window, *kinds, under=under)
    part = ratio(beyond, sum((kind.may for kind in kinds), 0.0))
    shares = tuple(
        ratio((1.0 - kind.share) * kind.time + part * kind.may, kind.all)
        if kind.sure_links
        else 1.0 - kind.share + kind.share * part
        for kind in kinds
    )
    return beyond + sum(((1.0 - kind.share) * kind.time for kind in kinds), 0.0), shares


def ratio(part: Leaf, whole: Leaf) -> Leaf:
    """Part / whole, 0 where there is nothing."""
    return part / at_least(whole, 1e-30)


def layer_time(ops: Ops, hardware: Hardware, busy: tuple[Busy, ...]) -> Layer:
    """The mean layer and micro-batch of a stage: compute, what shows of communication, and waiting for the host.

    Where micro-batches are paired, all of the expert collectives of one may hide behind the computing of another, on
    its way back: of m micro-batches m - 1 meet another.
    """
    alone = _layer(ops, hardware, busy, paired=0.0)
    if always(ops.paired, 0.0):
        return alone
    met, one = _layer(ops, hardware, busy, paired=ops.paired), 1.0 / ops.micro_batches
    mean = {
        field: one * getattr(alone, field) + (1.0 - one) * getattr(met, field)
        for field in ("dispatch", "tensor", "data", "host", "time")
    }
    return replace(alone, **mean, unmet=at_least(alone.time - mean["time"], 0.0))


def _others(ops: Ops, busy: tuple[Busy, ...], paired: Leaf) -> Hidden:
    """Context and expert collectives of a layer; of those of experts, `paired` may hide for sure."""

    def both(*groups: str) -> tuple[Leaf, tuple[Leaf, ...]]:
        return total(ops.rows, busy, "layer", groups=groups), linked(ops.rows, busy, "layer", groups=groups)

    if always(paired, 0.0):
        time, links = both("context", "expert")
        return Hidden(time=time, links=links)
    (near, context), (time, expert), left = both("context"), both("expert"), 1.0 - paired
    return Hidden(
        time=near + left * time,
        links=tuple(a + left * b for a, b in zip(context, expert, strict=True)),
        sure=paired * time,
        sure_links=tuple(paired * b for b in expert),
    )


def _layer(ops: Ops, hardware: Hardware, busy: tuple[Busy, ...], *, paired: Leaf) -> Layer:
    """One layer and micro-batch: compute, what shows of each kind of communication, and waiting for the host.

    Context and expert collectives, those of tensor parallelism where the layout overlaps them, weight gathering and
    host transfers hide behind the layer's compute, beside one another; what is longer shows in proportion. The host
    launches kernels and collectives ahead of the device: the device waits where launching takes longer than all that.
    """
    rows, cores = ops.rows, hardware.stolen
    compute = total(rows, busy, "layer", groups=None)
    blocking = total(rows, busy, "layer", groups=("tensor",))
    own, further = (linked(rows, busy, "layer", groups=groups) for groups in (("tensor",), ("context", "expert")))
    gathers, others = linked(rows, busy, "layer", groups=("data",)), _others(ops, busy, paired)
    able = replace(
        others,
        time=ops.overlap * blocking + others.time,  # what may hide at all
        share=hardware.hide_tensor,
        links=tuple(ops.overlap * a + b for a, b in zip(own, others.links, strict=True)),
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
    if not always(ops.synchronised, 0.0):
        dispatch = dispatch + SYNCHRONISED * ops.synchronised * minimum(launched * hardware.dispatch, device)
    return Layer(
        compute=compute,
        dispatch=dispatch,
        tensor=ratio(waited + of_able * able.all, blocking + others.all),
        data=of_data,
        host=of_host,
        time=device + dispatch,
        links=tuple(a + b + c for a, b, c in zip(own, further, gathers, strict=True)),
    )
