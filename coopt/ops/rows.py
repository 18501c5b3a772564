"""How one piece of a layer becomes rows: forward, again when recomputed, and backward."""

from __future__ import annotations

import numpy as np

from coopt.ops.cut import Cut
from coopt.spec.nouns import TYPE_BYTES, Layout, Leaf, Row
from coopt.xp import choose, maximum, minimum

Rows = tuple[Row, ...]

# A collective beside a launch of compute: one call of the host, where a launch of a row stands for about three kernels
# of an eager trainer, with their casts and nodes of the gradient. A recomputed GPT layer has 61 launches here; its host
# takes 3 ms (vTrain, measured), 200 kernels at 15 us. Chosen among 0 to 1 while looking at vTrain: docs/agreement.md.
CALL = 1.0 / 3.0


def never(choice: Leaf, code: float) -> bool:
    """True where it is known, before anything is compiled, that nobody chooses a code: its rows then cost nothing."""
    return isinstance(choice, float | np.ndarray | np.generic) and not np.any(choice == code)


def matmul(
    name: str,
    cut: Cut,
    layout: Layout,
    *,
    m: Leaf,
    n: Leaf,
    k: Leaf,
    type: Leaf,
    batch: Leaf = 1.0,
    count: Leaf = 1.0,
    scope: str = "layer",
    again: Leaf | None = None,
    launches: Leaf = 1.0,
    weights: bool = True,
) -> Rows:
    """A product y(m, n) = x(m, k) w(k, n): one forward, two backward (gradients of both operands).

    FLOPs 2 m n k each; bytes of the operands in their type, outputs in the activation type. Where w are weights,
    their gradient is added to what earlier micro-batches left, unless that is a kernel of its own. `again` is the share
    recomputed: all under full recompute.
    """
    operand = choose(type, TYPE_BYTES)
    out = layout.precision.activation
    grad, old = _gradient(layout, out) if weights else (out, 0.0)
    repeat = (cut.full if scope == "layer" else 0.0) if again is None else again

    def product(part: str, phase: str, count: Leaf, sizes: tuple[Leaf, Leaf, Leaf], read: Leaf, written: Leaf) -> Row:
        a, b, c = sizes
        return Row(
            name=f"{name}{part}", kind="matmul", phase=phase, scope=scope, count=count, launches=launches, m=a, n=b,
            k=c, batch=batch, type=type, flops=2.0 * m * n * k * batch, read=read * batch, written=written * batch,
        )  # fmt: skip

    read = operand * (m * k + k * n)
    read_back = operand * (m * k + m * n) + old * k * n
    return (
        product("", "forward", count, (m, n, k), read, out * m * n),
        product(".again", "recompute", count * repeat, (m, n, k), read, out * m * n),
        product(".dx", "backward", count, (m, k, n), operand * (m * n + k * n), out * m * k),
        product(".dw", "backward", count, (k, n, m), read_back, grad * k * n),
    )


def _gradient(layout: Layout, out: Leaf) -> tuple[Leaf, Leaf]:
    """Bytes an element of a weight gradient that its product writes, and that it reads to add to."""
    kept = layout.precision.gradient
    if never(layout.apart, 1.0):
        return kept, kept
    return kept + layout.apart * (out - kept), kept - layout.apart * kept


def elementwise(
    name: str,
    cut: Cut,
    *,
    read: Leaf,
    written: Leaf,
    back_read: Leaf,
    back_written: Leaf,
    count: Leaf = 1.0,
    scope: str = "layer",
    launches: Leaf = 1.0,
    back_launches: Leaf = 1.0,
    kind: str = "elementwise",
    flops: Leaf = 0.0,
    again: Leaf | None = None,
) -> Rows:
    """A fused pointwise or normalising kernel: bytes in, bytes out, a launch; backward has its own bytes.

    `again` is the share recomputed; by default all of it under full recompute, and in a traced program under any.
    """
    repeat = (cut.pointwise if scope == "layer" else 0.0) if again is None else again

    def kernel(part: str, phase: str, count: Leaf, read: Leaf, written: Leaf, launches: Leaf) -> Row:
        return Row(
            name=f"{name}{part}",
            kind=kind,
            phase=phase,
            scope=scope,
            count=count,
            launches=launches,
            flops=flops,
            read=read,
            written=written,
        )

    return (
        kernel("", "forward", count, read, written, launches),
        kernel(".again", "recompute", count * repeat, read, written, launches),
        kernel(".dx", "backward", count, back_read, back_written, back_launches),
    )


def norm(name: str, cut: Cut, moved: Leaf, *, scope: str = "layer", launches: Leaf = 1.0) -> Rows:
    """A normalisation of `moved` bytes: in and out forward, twice as much again backward."""
    return elementwise(
        name, cut, scope=scope, read=moved, written=moved, back_read=3.0 * moved, back_written=moved,
        launches=launches, back_launches=2.0 * launches,
        again=maximum(cut.pointwise, cut.norm) if scope == "layer" else None,
    )  # fmt: skip


def residual(name: str, cut: Cut, moved: Leaf, dropout: Leaf) -> Rows:
    """Adding a block's output of `moved` bytes to the stream: two in, one out; backward both gradients are added."""
    return elementwise(
        name, cut, read=2.0 * moved, written=moved, back_read=(2.0 + dropout) * moved,
        back_written=(1.0 + dropout) * moved, back_launches=1.0 + dropout,
    )  # fmt: skip


def wire(
    name: str,
    *,
    collective: str,
    group: str,
    phase: str,
    count: Leaf,
    payload: Leaf,
    size: Leaf,
    stride: Leaf,
    scope: str = "layer",
    fan: Leaf = 1.0,
    parts: Leaf = 1.0,
    top_parts: Leaf = 1.0,
    copies: Leaf = 0.0,
) -> Row:
    """A collective over `size` chips, `stride` apart; `payload` is the whole buffer on one chip, in bytes.

    `copies` are kernels that put its parts in place, where it does not do so itself.
    """
    kind = "p2p" if collective == "p2p" else "collective"
    return Row(
        name=name,
        kind=kind,
        phase=phase,
        scope=scope,
        group=group,
        collective=collective,
        count=count,
        launches=CALL * (1.0 + copies) * minimum(size - 1.0, 1.0),  # a group of one is never called
        payload=payload,
        fan=fan,
        parts=parts,
        top_parts=top_parts,
        size=size,
        stride=stride,
    )
