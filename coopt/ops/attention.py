"""Rows of a layer's mixer: norm, projections, positions, attention itself, output, residual."""

from __future__ import annotations

from coopt.ops.cut import Cut
from coopt.ops.rows import Rows, elementwise, matmul, norm, residual
from coopt.ops.shapes import (
    CHOSEN,
    LATENT,
    RECURRENT,
    attended,
    chunk,
    linear_columns,
    mixing,
    product_dims,
    query_key_dim,
    value_dim,
)
from coopt.spec.nouns import LayerKind, Layout, Leaf, Model, Row
from coopt.xp import at_least, maximum, minimum

# Passes over the score matrix between the two products when it is written to memory: scaling, masking and softmax in
# one kernel read and write it, dropout reads it, writes it and keeps a mask of half the size; backward the same again.
SCORE_PASSES = 4.5
SCORE_PASSES_BACK = 5.0
# Kernels of a recurrent mixer forward, and times that its states pass through memory each way in them: a state a chunk,
# its sum over chunks and output (Dao and Gu); the triangle, its inverse, keys and values of it, states and output.
RECURRENT_KERNELS = {"linear": (5.0, 2.0), "delta": (6.0, 1.0)}


def attention(name: str, model: Model, kind: LayerKind, layout: Layout, cut: Cut) -> Rows:
    """The rows of one mixer on one chip, a micro-batch and layer at a time; `name` prefixes them."""
    d, tokens, tp = model.d_model, cut.tokens, layout.tp
    recipe = layout.precision
    byte = recipe.activation
    between = tokens / cut.split  # tokens a chip keeps between the parallel blocks
    if kind.mixer in RECURRENT:
        return _recurrent(name, model, kind, layout, cut)
    heads = kind.heads / tp
    kv_heads = maximum(kind.kv_heads / tp, 1.0)  # fewer heads than chips are copied
    qk, v = query_key_dim(kind), value_dim(kind)
    linear = recipe.linear

    rows = norm(f"{name}norm", cut, byte * between * d)
    if kind.mixer in CHOSEN:
        rows += _index(name, model, kind, layout, cut)
    if kind.mixer in LATENT:
        rows += _latent(name, model, kind, layout, cut, heads=heads)
        kv_heads = heads if kind.mixer == "mla" else 0.0  # compressed rows carry positions once for all heads
    else:
        rows += matmul(f"{name}qkv", cut, layout, m=tokens, n=(heads + 2.0 * kv_heads) * qk, k=d, type=linear)
    rotated = tokens * (heads + kv_heads) * qk * byte
    rows += elementwise(
        f"{name}rope", cut, read=rotated, written=rotated, back_read=rotated, back_written=rotated, launches=2.0,
        back_launches=2.0, again=maximum(cut.pointwise, cut.up) if kind.mixer in LATENT else None,
    )  # fmt: skip
    rows += _products(name, kind, layout, cut, heads=heads, kv_heads=kv_heads)
    rows += matmul(f"{name}out", cut, layout, m=tokens, n=d, k=heads * v, type=linear)
    return rows + residual(f"{name}residual", cut, byte * between * d, kind.dropout)


def _latent(name: str, model: Model, kind: LayerKind, layout: Layout, cut: Cut, *, heads: Leaf) -> Rows:
    """Projections of MLA: query, by way of a rank or directly, and keys and values by way of theirs.

    Where keys are chosen, attention works on the compressed rows: what would make keys and values of them is multiplied
    with query and output instead, a head at a time.
    """
    d, tokens, between, linear = model.d_model, cut.tokens, cut.tokens / cut.split, layout.precision.linear
    rank, has_rank = kind.kv_rank + kind.rope_dim, minimum(kind.q_rank, 1.0)
    source = has_rank * kind.q_rank + (1.0 - has_rank) * d
    rows = matmul(f"{name}q_down", cut, layout, m=between, n=kind.q_rank, k=d, type=linear, count=has_rank)
    width = heads * query_key_dim(kind)
    rows += matmul(
        f"{name}q_up", cut, layout, m=tokens, n=width, k=source, type=linear, again=maximum(cut.full, cut.up)
    )
    rows += matmul(f"{name}kv_down", cut, layout, m=between, n=rank, k=d, type=linear)
    if kind.mixer == "mla":
        width = heads * (kind.head_dim + kind.v_dim)
        rows += matmul(
            f"{name}kv_up", cut, layout, m=tokens, n=width, k=kind.kv_rank, type=linear, again=maximum(cut.full, cut.up)
        )
    else:
        each = {"m": tokens, "batch": heads, "type": linear}
        rows += matmul(
            f"{name}absorb_q", cut, layout, n=kind.kv_rank, k=kind.head_dim, again=maximum(cut.full, cut.up), **each
        )
        rows += matmul(f"{name}absorb_v", cut, layout, n=kind.v_dim, k=kind.kv_rank, **each)
    moved = layout.precision.activation * between * (kind.q_rank + rank)
    return rows + norm(f"{name}latent_norm", cut, moved, launches=2.0)


def _recurrent(name: str, model: Model, kind: LayerKind, layout: Layout, cut: Cut) -> Rows:
    """A recurrent mixer: one projection, a short convolution, chunks with a state between them, gated norm, output.

    The states of all chunks pass through memory in 32 bits.
    """
    tokens, tp, byte, linear = cut.tokens, layout.tp, layout.precision.activation, layout.precision.linear
    d, v, between = model.d_model, value_dim(kind), byte * cut.tokens / cut.split * model.d_model
    heads, groups = kind.heads / tp, maximum(kind.kv_heads / tp, 1.0)
    columns = linear_columns(kind) / tp
    mixed = byte * tokens * (2.0 * groups * kind.head_dim + heads * v)  # query, key and value, through the convolution
    out = byte * tokens * heads * v
    kernels, ways = RECURRENT_KERNELS[kind.mixer]
    states = ways * 4.0 * tokens / chunk(kind, cut.reach) * heads * kind.head_dim * v
    rows = norm(f"{name}norm", cut, between) + matmul(f"{name}in", cut, layout, m=tokens, n=columns, k=d, type=linear)
    rows += elementwise(f"{name}convolution", cut, read=mixed, written=mixed, back_read=2.0 * mixed, back_written=mixed)
    rows += tuple(
        Row(
            name=f"{name}chunks{part}", kind="attention", phase=phase, count=count, launches=passes * kernels, m=tokens,
            n=attended(kind, cut.reach), k=kind.head_dim, batch=heads, type=layout.precision.attention,
            flops=work * 2.0 * tokens * mixing(kind, cut.reach) / tp,
            read=passes * (mixed + out + states), written=passes * (out + states),
        )
        for part, phase, count, work, passes in (
            ("", "forward", 1.0, 1.0, 1.0),
            (".again", "recompute", cut.partial, 1.0, 1.0),
            (".dx", "backward", 1.0, 2.5, 2.0),
        )
    )  # fmt: skip
    rows += elementwise(f"{name}gate", cut, read=2.0 * out, written=out, back_read=3.0 * out, back_written=2.0 * out)
    rows += matmul(f"{name}out", cut, layout, m=tokens, n=d, k=heads * v, type=linear)
    return rows + residual(f"{name}residual", cut, between, kind.dropout)


def _index(name: str, model: Model, kind: LayerKind, layout: Layout, cut: Cut) -> Rows:
    """The indexer of a sparse mixer: projections, scores of every key before a token, and the choice among them.

    Scores are written in 32 bits and read twice, to count and to choose. Backward it learns from attention over the
    chosen keys, whose scores are made once more for it; its input gets no gradient. Each tensor rank has all of it.
    """
    tokens, recipe, keys = cut.tokens, layout.precision, attended(kind, cut.reach)
    compressed = minimum(kind.q_rank, 1.0) if kind.mixer in LATENT else 0.0
    source = compressed * kind.q_rank + (1.0 - compressed) * model.d_model
    queries, others = kind.index_heads * kind.index_dim, kind.index_heads + kind.index_dim
    rows = matmul(f"{name}index_q", cut, layout, m=tokens, n=queries, k=source, type=recipe.linear)
    rows += matmul(f"{name}index_k", cut, layout, m=tokens, n=others, k=model.d_model, type=recipe.linear)
    rows = tuple(row for row in rows if not row.name.endswith(".dx"))
    scores, chosen = 4.0 * tokens * cut.reach / 2.0, 4.0 * tokens * keys
    read = recipe.activation * tokens * (queries + others)
    target = kind.heads / layout.tp * product_dims(kind)[0]  # one product of attention itself
    rows += tuple(
        Row(
            name=f"{name}index{part}", kind="attention", phase=phase, count=count, m=tokens, n=seen, k=kind.index_dim,
            batch=kind.index_heads, type=recipe.attention, flops=2.0 * tokens * seen * work, read=read + extra,
            written=written,
        )
        for part, phase, count, seen, work, extra, written in (
            ("", "forward", 1.0, cut.reach / 2.0, queries, 0.0, scores),
            (".again", "recompute", cut.partial, cut.reach / 2.0, queries, 0.0, scores),
            (".dx", "backward", 1.0, keys, 3.0 * queries + target, 2.0 * chosen, read),
        )
    )  # fmt: skip
    return rows + elementwise(
        f"{name}choose", cut, kind="gather", read=2.0 * scores, written=chosen, back_read=0.0, back_written=0.0,
        back_launches=0.0, again=cut.partial,
    )  # fmt: skip


def _products(name: str, kind: LayerKind, layout: Layout, cut: Cut, *, heads: Leaf, kv_heads: Leaf) -> Rows:
    """The two products and the softmax between them, in one fused kernel or written out.

    Fused: 2 products forward, 5 backward, over the causal half, with no score traffic. Unfused: batched matmuls over
    the whole square, and the scores pass through memory. Chosen keys are always fused: forward, neighbours choose much
    the same and find it in the cache (FlashMLA reaches with chosen keys what it reaches with all, on an H800); backward
    every token adds to the gradients of all its keys, in 32 bits.
    """
    sparse = kind.mixer in CHOSEN
    fused = 1.0 if sparse else layout.fused_attention
    qk, v = product_dims(kind)
    byte, type = layout.precision.activation, layout.precision.attention
    keys = attended(kind, cut.reach)
    one = 2.0 * cut.tokens * keys * heads  # FLOPs of one product, a unit of head size
    width = qk if kind.mixer == "sparse-mla" else kv_heads * (qk + v)  # of the keys and values of a token
    read = byte * cut.tokens * (heads * qk + width)
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
    if sparse:
        return rows + elementwise(
            f"{name}scatter", cut, kind="gather", read=0.0, written=0.0, launches=0.0, back_read=0.0,
            back_written=4.0 * cut.tokens * keys * width, again=0.0,
        )  # fmt: skip
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
