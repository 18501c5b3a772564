"""What of a layer shows: compute, the share of communication that it cannot hide, and waiting for the host."""

from __future__ import annotations

from coopt.spec.nouns import Hardware, Leaf, Row
from coopt.tree import struct
from coopt.xp import at_least, maximum

COMPUTE = ("matmul", "attention", "elementwise", "gather")


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
    """Kernels of a scope's compute rows."""
    return sum((row.count * row.launches for row in rows if row.scope == scope and row.kind in COMPUTE), 0.0)


def waiting(hardware: Hardware, rows: tuple[Row, ...], scope: str, busy: Leaf) -> Leaf:
    """Seconds the device waits because the host launches kernels more slowly than they run."""
    return maximum(launches(rows, scope) * hardware.dispatch - busy, 0.0)


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


def layer_time(hardware: Hardware, rows: tuple[Row, ...], busy: tuple[Leaf, ...]) -> Layer:
    """One layer and micro-batch: compute, what shows of each kind of communication, and waiting for the host.

    Tensor, context and expert collectives hide behind the layer's compute first, weight gathering behind what is
    left of it, host transfers behind the rest. Where the host launches more slowly than kernels run, the kernels'
    gaps are no shorter for it: chips arrive at collectives apart, and wait (measured on eight chips, small layers).
    """
    compute = total(rows, busy, "layer", groups=None)
    tensor = total(rows, busy, "layer", groups=("tensor", "context", "expert"))
    data = total(rows, busy, "layer", groups=("data",))
    host = total(rows, busy, "layer", groups=("host",))
    dispatch = waiting(hardware, rows, "layer", compute)
    window = compute + dispatch
    shown_tensor = shows(tensor, hardware.hide_tensor, window)
    window = left(tensor, hardware.hide_tensor, window)
    shown_data = shows(data, hardware.hide_data, window)
    shown_host = shows(host, hardware.hide_data, left(data, hardware.hide_data, window))
    return Layer(
        compute=compute,
        dispatch=dispatch,
        tensor=ratio(shown_tensor, tensor),
        data=ratio(shown_data, data),
        host=ratio(shown_host, host),
        time=compute + dispatch + shown_tensor + shown_data + shown_host,
    )
