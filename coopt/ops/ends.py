"""Rows that run once a micro-batch at the ends of the pipeline: embedding, final norm, head, loss."""

from __future__ import annotations

from coopt.ops.cut import Cut
from coopt.ops.rows import Rows, elementwise, matmul, wire
from coopt.spec.nouns import Layout, Model


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
    rows = elementwise(
        "head.norm",
        cut,
        scope="last",
        read=between,
        written=between,
        back_read=3.0 * between,
        back_written=between,
        back_launches=2.0,
    )
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
    rows += (
        wire(
            "head.tp",
            collective="all_gather",
            group="tensor",
            phase="forward",
            scope="last",
            count=layout.sp,
            payload=full,
            size=layout.tp,
            stride=cut.stride_tensor,
        ),
        wire(
            "head.tp.dx",
            collective="all_reduce",
            group="tensor",
            phase="backward",
            scope="last",
            count=1.0,
            payload=full,
            size=layout.tp,
            stride=cut.stride_tensor,
        ),
        wire(
            "loss.tp",
            collective="all_reduce",
            group="tensor",
            phase="forward",
            scope="last",
            count=3.0,
            payload=4.0 * tokens,
            size=layout.tp,
            stride=cut.stride_tensor,
        ),
    )
    return rows
