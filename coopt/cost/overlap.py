"""What of a layer shows: compute, the share of communication that it cannot hide, and waiting for the host."""

from __future__ import annotations

from coopt.spec.nouns import Hardware, Leaf, Ops, Row
from coopt.tree import struct
from coopt.xp import at_least, maximum, minimum

COMPUTE = ("matmul", "attention", "elementwise", "gather", "cast")


# Share of the shorter of launching and running that does not overlap where the host waits for the device once a layer:
# mixtures of 1 and of 4 sequences a micro-batch on the same chips (Qwen3 30B on B200 and GB200, no captured graphs).
SYNCHRONISED = 0.4


@struct
class Layer:
    """Sums over the rows of one layer and one micro-batch, in seconds, and what of them shows."""

    compute: Leaf = 0.0
    dispatch: Leaf = 0.0  # host time of the launches beyond compute: the device waits for work
    tensor: Leaf = 0.0  # share of tensor, context and expert collectives that shows
    data: Leaf = 0.0  # share of per-layer weight collectives that shows
    host: Leaf = 0.0  # share of host transfers that shows
    time: Leaf = 0.0


def total(rows: tuple[Row, ...], busy: tuple[Leaf, ...], scope: str, *, groups: tuple[str, ...] | None) -> Leaf:
    """Seconds of count * busy over a scope's compute rows (`groups` None) or the collectives of some groups."""
    seconds: Leaf = 0.0
    for row, time in zip(rows, busy, strict=True):
        wanted = row.kind in COMPUTE if groups is None else row.group in groups
        if row.scope == scope and wanted:
            seconds = seconds + row.count * time
    return seconds


def launches(rows: tuple[Row, ...], scope: str) -> Leaf:
    """Kernels of a scope that the host launches: compute, and collectives of more than one chip."""
    kinds = (*COMPUTE, "collective")
    return sum((row.count * row.launches for row in rows if row.scope == scope and row.kind in kinds), 0.0)


def waiting(hardware: Hardware, launched: Leaf, busy: Leaf) -> Leaf:
    """Seconds the device waits because the host launches kernels more slowly than they run."""
    return maximum(launched * hardware.dispatch - busy, 0.0)


def shows(time: Leaf, share: Leaf, window: Leaf) -> Leaf:
    """Seconds of communication that compute cannot hide: at most a share of it, and no more than the window.

        time - min(share time, window) = max((1 - share) time, time - window)

    The second form is never negative whatever is known of `time`: bounds over many candidates stay tight.
    """
    return maximum((1.0 - share) * time, time - window)


def left(time: Leaf, share: Leaf, window: Leaf) -> Leaf:
    """Seconds of the window that are left for others to hide behind: window - min(share time, window)."""
    return maximum(window - share * time, 0.0)


def ratio(part: Leaf, whole: Leaf) -> Leaf:
    """Part / whole, 0 where there is nothing."""
    return part / at_least(whole, 1e-30)


def layer_time(ops: Ops, hardware: Hardware, busy: tuple[Leaf, ...]) -> Layer:
    """One layer and micro-batch: compute, what shows of each kind of communication, and waiting for the host.

    Context and expert collectives hide behind the layer's compute first, with them those of tensor parallelism where
    the layout overlaps them; weight gathering behind what is left of it, host transfers behind the rest. The host
    launches kernels and collectives ahead of the device: the device waits where launching takes longer than all that.
    """
    rows = ops.rows
    compute = total(rows, busy, "layer", groups=None)
    blocking = total(rows, busy, "layer", groups=("tensor",))
    others = total(rows, busy, "layer", groups=("context", "expert"))
    data = total(rows, busy, "layer", groups=("data",))
    host = total(rows, busy, "layer", groups=("host",))
    able = ops.overlap * blocking + others  # what may hide at all
    shown_tensor = (1.0 - ops.overlap) * blocking + shows(able, hardware.hide_tensor, compute)
    window = left(able, hardware.hide_tensor, compute)
    shown_data = shows(data, hardware.hide_data, window)
    shown_host = shows(host, hardware.hide_data, left(data, hardware.hide_data, window))
    device = compute + shown_tensor + shown_data + shown_host
    launched = ops.eager * launches(rows, "layer")
    dispatch = waiting(hardware, launched, device)
    if not (isinstance(ops.synchronised, float) and ops.synchronised == 0.0):
        dispatch = dispatch + SYNCHRONISED * ops.synchronised * minimum(launched * hardware.dispatch, device)
    return Layer(
        compute=compute,
        dispatch=dispatch,
        tensor=ratio(shown_tensor, blocking + others),
        data=ratio(shown_data, data),
        host=ratio(shown_host, host),
        time=device + dispatch,
    )
