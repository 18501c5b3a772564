"""Rows that run once a micro-batch at the ends of the pipeline: embedding, final norm, head, loss."""

from __future__ import annotations

from coopt.ops.cut import Cut
from coopt.ops.rows import Rows, elementwise, matmul, norm, wire
from coopt.spec.nouns import Layout, Leaf, Model, Row


def embedding(model: Model, layout: Layout, cut: Cut) -> Rows:
    """Looking up tokens (first stage): a gather forward; backward a scatter-add into a dense gradient, which is summed.

    The dense gradient of V d / tp is cleared and added to what earlier micro-batches left, whoever was looked up.
    """
    moved = layout.precision.activation * cut.tokens * model.d_model
    dense = cut.vocab * model.d_model
    kept, byte = layout.precision.gradient * dense, layout.precision.activation
    rows = elementwise(
        "embedding",
        cut,
        kind="gather",
        scope="first",
        read=moved,
        written=moved,
        back_read=2.0 * moved + byte * dense + kept,
        back_written=moved + byte * dense + kept,
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
    # Fused: statistics, then the gradient in place of the logits, scaled on the way back. Else, in 32 bits: convert,
    # maximum, subtract, exponential, sum, divide, and back the softmax minus its target in 16 bits.
    plain = 1.0 - layout.fused_loss
    rows += elementwise(
        "loss",
        cut,
        scope="last",
        read=(2.0 * byte + 18.0 * plain) * logits,
        written=(byte + 14.0 * plain) * logits,
        back_read=(byte + 6.0 * plain) * logits,
        back_written=(byte + 4.0 * plain) * logits,
        launches=2.0 + 6.0 * plain,
        back_launches=1.0 + 3.0 * plain,
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
