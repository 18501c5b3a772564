"""Rows of a layer's mixer: norm, projections, positions, attention itself, output, residual."""

from __future__ import annotations

from coopt.ops.cut import Cut
from coopt.ops.rows import Rows, elementwise, matmul, norm, residual
from coopt.ops.shapes import (
    attended,
    index_weights,
    indexing,
    linear_columns,
    mixing,
    query_key_dim,
    value_dim,
)
from coopt.spec.nouns import LayerKind, Layout, Leaf, Model, Row
from coopt.xp import at_least, maximum, minimum

# Passes over the score matrix between the two products when it is written to memory: scaling, masking and softmax in
# one kernel read and write it, dropout reads it, writes it and keeps a mask of half the size; backward the same again.
SCORE_PASSES = 4.5
SCORE_PASSES_BACK = 5.0


def attention(name: str, model: Model, kind: LayerKind, layout: Layout, cut: Cut) -> Rows:
    """The rows of one mixer on one chip, a micro-batch and layer at a time; `name` prefixes them."""
    d, tokens, tp = model.d_model, cut.tokens, layout.tp
    recipe = layout.precision
    byte = recipe.activation
    between = tokens / cut.split  # tokens a chip keeps between the parallel blocks
    if kind.mixer == "linear":
        return _linear(name, model, kind, layout, cut)
    heads = kind.heads / tp
    kv_heads = maximum(kind.kv_heads / tp, 1.0)  # fewer heads than chips are copied
    qk, v = query_key_dim(kind), value_dim(kind)
    linear = recipe.linear

    rows = norm(f"{name}norm", cut, byte * between * d)
    if kind.mixer == "mla":
        key_value = kind.head_dim + kind.v_dim
        rank = kind.kv_rank + kind.rope_dim
        has_rank = minimum(kind.q_rank, 1.0)
        rows += matmul(f"{name}q_down", cut, layout, m=between, n=kind.q_rank, k=d, type=linear, count=has_rank)
        rows += matmul(
            f"{name}q_up",
            cut,
            layout,
            m=tokens,
            n=heads * qk,
            k=has_rank * kind.q_rank + (1.0 - has_rank) * d,
            type=linear,
        )
        rows += matmul(f"{name}kv_down", cut, layout, m=between, n=rank, k=d, type=linear)
        rows += matmul(f"{name}kv_up", cut, layout, m=tokens, n=heads * key_value, k=kind.kv_rank, type=linear)
        kv_heads = heads
        rows += norm(f"{name}latent_norm", cut, byte * between * (kind.q_rank + rank), launches=2.0)
    else:
        if kind.mixer == "sparse":
            rows += _index(name, model, kind, layout, cut)
        rows += matmul(f"{name}qkv", cut, layout, m=tokens, n=(heads + 2.0 * kv_heads) * qk, k=d, type=linear)
    rotated = tokens * (heads + kv_heads) * qk * byte
    rows += elementwise(
        f"{name}rope",
        cut,
        read=rotated,
        written=rotated,
        back_read=rotated,
        back_written=rotated,
        launches=2.0,
        back_launches=2.0,
    )
    rows += _products(name, kind, layout, cut, heads=heads, kv_heads=kv_heads)
    rows += matmul(f"{name}out", cut, layout, m=tokens, n=d, k=heads * v, type=linear)
    return rows + residual(f"{name}residual", cut, byte * between * d, kind.dropout)


def _kernel(
    name: str, cut: Cut, layout: Layout, *, keys: Leaf, k: Leaf, batch: Leaf, flops: Leaf, read: Leaf, written: Leaf
) -> Rows:
    """A fused mixer: forward, again where it is recomputed, and backward at two and a half times the products."""

    def row(part: str, phase: str, count: Leaf, work: Leaf, passes: Leaf) -> Row:
        return Row(
            name=f"{name}{part}", kind="attention", phase=phase, count=count, launches=passes, m=cut.tokens, n=keys,
            k=k, batch=batch, type=layout.precision.attention, flops=work * flops, read=passes * (read + written),
            written=passes * written,
        )  # fmt: skip

    return (
        row("", "forward", 1.0, 1.0, 1.0),
        row(".again", "recompute", cut.partial, 1.0, 1.0),
        row(".dx", "backward", 1.0, 2.5, 2.0),
    )


def _linear(name: str, model: Model, kind: LayerKind, layout: Layout, cut: Cut) -> Rows:
    """A linear mixer: one projection, a short convolution, chunks with a state between them, gated norm, output."""
    tokens, tp, byte, linear = cut.tokens, layout.tp, layout.precision.activation, layout.precision.linear
    d, v, between = model.d_model, value_dim(kind), byte * cut.tokens / cut.split * model.d_model
    heads, groups = kind.heads / tp, maximum(kind.kv_heads / tp, 1.0)
    columns = linear_columns(kind) / tp
    mixed = byte * tokens * (2.0 * groups * kind.head_dim + heads * v)  # query, key and value, through the convolution
    out = byte * tokens * heads * v
    rows = norm(f"{name}norm", cut, between) + matmul(f"{name}in", cut, layout, m=tokens, n=columns, k=d, type=linear)
    rows += elementwise(f"{name}convolution", cut, read=mixed, written=mixed, back_read=2.0 * mixed, back_written=mixed)
    flops = 2.0 * tokens * mixing(kind, cut.reach) / tp
    keys = attended(kind, cut.reach)
    rows += _kernel(
        f"{name}chunks", cut, layout, keys=keys, k=kind.head_dim, batch=heads, flops=flops, read=mixed, written=out
    )
    rows += elementwise(f"{name}gate", cut, read=2.0 * out, written=out, back_read=3.0 * out, back_written=2.0 * out)
    rows += matmul(f"{name}out", cut, layout, m=tokens, n=d, k=heads * v, type=linear)
    return rows + residual(f"{name}residual", cut, between, kind.dropout)


def _index(name: str, model: Model, kind: LayerKind, layout: Layout, cut: Cut) -> Rows:
    """The indexer of a sparse mixer: a projection, scores of every key before a token, and the choice among them."""
    tokens, linear = cut.tokens, layout.precision.linear
    columns = index_weights(kind)
    rows = matmul(f"{name}index", cut, layout, m=tokens, n=columns, k=model.d_model, type=linear)
    scores = 4.0 * tokens * cut.reach / 2.0
    read = layout.precision.activation * tokens * columns
    flops = 2.0 * tokens * indexing(kind, cut.reach)
    rows += _kernel(
        f"{name}index.scores", cut, layout, keys=cut.reach / 2.0, k=kind.index_dim, batch=kind.index_heads, flops=flops,
        read=read, written=scores,
    )  # fmt: skip
    return rows + elementwise(
        f"{name}choose", cut, kind="gather", read=scores, written=0.0, back_read=0.0, back_written=0.0,
        back_launches=0.0,
    )  # fmt: skip


def _products(name: str, kind: LayerKind, layout: Layout, cut: Cut, *, heads: Leaf, kv_heads: Leaf) -> Rows:
    """The two products and the softmax between them, in one fused kernel or written out.

    Fused: 2 products forward, 5 backward, over the causal half, with no score traffic. Unfused: batched matmuls over
    the whole square, and the scores pass through memory.
    """
    fused = layout.fused_attention
    qk, v = query_key_dim(kind), value_dim(kind)
    byte, type = layout.precision.activation, layout.precision.attention
    keys = attended(kind, cut.reach)
    one = 2.0 * cut.tokens * keys * heads  # FLOPs of one product, a unit of head size
    read = byte * cut.tokens * (heads * qk + kv_heads * (qk + v))
    written = byte * cut.tokens * heads * v

    def flash(part: str, phase: str, count: Leaf, flops: Leaf, passes: Leaf) -> Row:
        return Row(
            name=f"{name}flash{part}", kind="attention", phase=phase, count=count * fused, launches=passes,
            m=cut.tokens, n=keys, k=qk, batch=heads, type=type, flops=flops, read=passes * (read + written) - written,
            written=passes * written,
        )  # fmt: skip

    forward, back = one * (qk + v), one * (3.0 * qk + 2.0 * v)
    rows = (
        flash("", "forward", 1.0, forward, 1.0),
        flash(".again", "recompute", cut.partial, forward, 1.0),
        flash(".dx", "backward", 1.0, back, 2.0),
    )
    plain = 1.0 - fused
    square = cut.tokens / at_least(cut.sequences, 1e-9)  # rows of one sequence on this chip
    each = {"type": type, "batch": cut.sequences * heads, "count": plain, "again": cut.partial, "weights": False}
    rows += matmul(f"{name}scores", cut, layout, m=square, n=cut.seq_len, k=qk, **each)
    rows += matmul(f"{name}values", cut, layout, m=square, n=v, k=cut.seq_len, **each)
    scores = plain * byte * cut.tokens * cut.seq_len * heads  # B of one pass
    return rows + elementwise(
        f"{name}softmax",
        cut,
        read=0.5 * SCORE_PASSES * scores,
        written=0.5 * SCORE_PASSES * scores,
        back_read=0.5 * SCORE_PASSES_BACK * scores,
        back_written=0.5 * SCORE_PASSES_BACK * scores,
        launches=4.0 * plain,
        back_launches=4.0 * plain,
        again=cut.partial,
    )
