"""How one piece of a layer becomes rows: forward, again when recomputed, and backward."""

from __future__ import annotations

from coopt.ops.cut import Cut
from coopt.spec.nouns import TYPE_BYTES, Layout, Leaf, Row
from coopt.xp import choose

Rows = tuple[Row, ...]


def matmul(
    name: str, cut: Cut, layout: Layout, *, m: Leaf, n: Leaf, k: Leaf, type: Leaf, batch: Leaf = 1.0,
    count: Leaf = 1.0, scope: str = "layer", launches: Leaf = 1.0,
) -> Rows:  # fmt: skip
    """A linear layer y(m, n) = x(m, k) w(k, n): one product forward, two backward (input and weight gradient).

    FLOPs 2 m n k each; bytes of the operands in their type, outputs in the activation type; the weight gradient
    is added into the gradient buffer.
    """
    operand = choose(type, TYPE_BYTES)
    out = layout.precision.activation
    grad = layout.precision.gradient
    flops = 2.0 * m * n * k * batch

    def product(part: str, phase: str, count: Leaf, sizes, read: Leaf, written: Leaf) -> Row:
        a, b, c = sizes
        return Row(
            name=f"{name}{part}", kind="matmul", phase=phase, scope=scope, count=count, launches=launches,
            m=a, n=b, k=c, batch=batch, type=type, flops=flops, read=read * batch, written=written * batch,
        )  # fmt: skip

    forward_read = operand * (m * k + k * n)
    forward = product("", "forward", count, (m, n, k), forward_read, out * m * n)
    again = product(".again", "recompute", count * (cut.full if scope == "layer" else 0.0), (m, n, k),
                    forward_read, out * m * n)  # fmt: skip
    inputs = product(".dx", "backward", count, (m, k, n), operand * (m * n + k * n), out * m * k)
    weights = product(".dw", "backward", count, (k, n, m), operand * (m * k + m * n) + grad * k * n, grad * k * n)
    return forward, again, inputs, weights


def elementwise(
    name: str, cut: Cut, *, read: Leaf, written: Leaf, back_read: Leaf, back_written: Leaf, count: Leaf = 1.0,
    scope: str = "layer", launches: Leaf = 1.0, back_launches: Leaf = 1.0, kind: str = "elementwise",
    flops: Leaf = 0.0, again: Leaf | None = None,
) -> Rows:  # fmt: skip
    """A fused pointwise or normalising kernel: bytes in, bytes out, a launch; backward has its own bytes.

    `again` is the share recomputed; by default all of it under full recompute.
    """
    repeat = (cut.full if scope == "layer" else 0.0) if again is None else again

    def kernel(part: str, phase: str, count: Leaf, read: Leaf, written: Leaf, launches: Leaf) -> Row:
        return Row(name=f"{name}{part}", kind=kind, phase=phase, scope=scope, count=count, launches=launches,
                   flops=flops, read=read, written=written)  # fmt: skip

    return (
        kernel("", "forward", count, read, written, launches),
        kernel(".again", "recompute", count * repeat, read, written, launches),
        kernel(".dx", "backward", count, back_read, back_written, back_launches),
    )


def wire(
    name: str, *, collective: str, group: str, phase: str, count: Leaf, payload: Leaf, size: Leaf, stride: Leaf,
    scope: str = "layer",
) -> Row:  # fmt: skip
    """A collective over `size` chips, `stride` apart; `payload` is the whole buffer on one chip, in bytes."""
    kind = "p2p" if collective == "p2p" else "collective"
    return Row(
        name=name, kind=kind, phase=phase, scope=scope, group=group, collective=collective, count=count,
        launches=1.0, payload=payload, size=size, stride=stride,
    )  # fmt: skip
