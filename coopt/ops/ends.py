"""Rows that run once a micro-batch at the ends of the pipeline: embedding, final norm, head, loss."""

from __future__ import annotations

from coopt.ops.cut import Cut
from coopt.ops.rows import Rows, elementwise, matmul, norm, wire
from coopt.spec.nouns import Layout, Leaf, Model, Row


def embedding(model: Model, layout: Layout, cut: Cut) -> Rows:
    """Looking up tokens (first stage): a gather forward, a scatter-add into the gradient backward."""
    moved = layout.precision.activation * cut.tokens * model.d_model
    grad = layout.precision.gradient * cut.tokens * model.d_model
    rows = elementwise(
        "embedding",
        cut,
        kind="gather",
        scope="first",
        read=moved,
        written=moved,
        back_read=moved + grad,
        back_written=grad,
        launches=3.0,
        back_launches=3.0,
    )
    return (
        *rows,
        wire(
            "embedding.tp",
            collective="all_reduce",
            group="tensor",
            phase="forward",
            scope="first",
            count=1.0,
            payload=moved,
            size=layout.tp,
            stride=cut.stride_tensor,
        ),
    )


def head(model: Model, layout: Layout, cut: Cut) -> Rows:
    """Final norm, logits and cross-entropy (last stage), with the vocabulary split over tp."""
    d, tokens, byte = model.d_model, cut.tokens, layout.precision.activation
    between = byte * tokens / cut.split * d
    rows = norm("head.norm", cut, between, scope="last")
    rows += matmul("head", cut, layout, scope="last", m=tokens, n=cut.vocab, k=d, type=layout.precision.head)
    logits = tokens * cut.vocab
    # forward: to fp32, maximum, exponential and sum, pick the target; backward: softmax minus target, back to 16 bit
    rows += elementwise(
        "loss",
        cut,
        scope="last",
        read=(byte + 8.0) * logits,
        written=8.0 * logits,
        back_read=8.0 * logits,
        back_written=(4.0 + byte) * logits,
        launches=8.0,
        back_launches=4.0,
    )
    full = layout.precision.wire * tokens * d

    def one(part: str, collective: str, phase: str, count: Leaf, payload: Leaf) -> Row:
        return wire(
            part, collective=collective, group="tensor", phase=phase, scope="last", count=count, payload=payload,
            size=layout.tp, stride=cut.stride_tensor,
        )  # fmt: skip

    return (
        *rows,
        one("head.tp", "all_gather", "forward", layout.sp, full),
        one("head.tp.dx", "all_reduce", "backward", 1.0, full),
        one("loss.tp", "all_reduce", "forward", 3.0, 4.0 * tokens),
    )
