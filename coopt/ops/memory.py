"""Bytes on the fullest chip, by part."""

from __future__ import annotations

from coopt.ops.cut import Cut
from coopt.ops.feedforward import routed_tokens
from coopt.ops.optimizer import state
from coopt.ops.shapes import CHOSEN, LATENT, RECURRENT, attended, linear_columns, product_dims, query_key_dim, value_dim
from coopt.ops.weights import Stages, Weights
from coopt.spec.nouns import LayerKind, Layout, Leaf, Memory, Model
from coopt.xp import maximum, minimum, where


def kept(model: Model, kind: LayerKind, layout: Layout, cut: Cut) -> Leaf:
    """Bytes one layer keeps of one micro-batch for its backward pass, nothing recomputed.

    With b bytes an element, T tokens and t = tp: the inputs of both norms and both blocks, 4 b T d, split over t with
    sequence parallelism; inside the blocks, over t, what projections, attention and activation function need; masks of
    one byte where there is dropout; and, when attention is not fused, 2 b + 1 bytes for each score (softmax output, its
    dropout, the mask). For a GPT layer: 34 T d + 5 a s T, or T d (10 + 24 / t) + 5 a s T / t.
    Source: Korthikanti et al. 2022, arXiv 2205.05198, section 4, extended to grouped heads and gated layers.
    """
    byte, d, tokens, tp = layout.precision.activation, model.d_model, cut.tokens, layout.tp
    qk, v = query_key_dim(kind), value_dim(kind)
    between = tokens / cut.split * d * (4.0 * byte + 2.0 * kind.dropout)
    heads = byte * tokens / tp * (kind.heads * (qk + v) + maximum(kind.kv_heads, tp) * (qk + v))
    if kind.mixer in RECURRENT:
        heads = byte * tokens / tp * (linear_columns(kind) + 2.0 * kind.heads * v)
    if kind.mixer in CHOSEN:  # the indexer: what it projected to, and which keys it chose
        columns = kind.index_heads * (kind.index_dim + 1.0) + kind.index_dim
        between = between + tokens * (byte * columns + 4.0 * attended(kind, cut.reach))
    if kind.mixer in LATENT:
        rows = product_dims(kind) if kind.mixer in CHOSEN else (qk, v)  # absorbed queries, mixed rows
        heads = byte * tokens / tp * kind.heads * (qk + v + sum(rows))
        between = between + 2.0 * byte * tokens / cut.split * (kind.q_rank + kind.kv_rank + kind.rope_dim)
    scores = _plain(kind, layout) * tokens * cut.seq_len * kind.heads / tp
    attention = heads + scores * (byte + kind.dropout * (1.0 + byte))
    if kind.feedforward == "dense":
        return between + attention + byte * tokens / tp * (2.0 + kind.gated) * kind.d_ff
    routed = routed_tokens(kind, layout, cut)
    experts = byte * routed * (2.0 * d + (2.0 + kind.gated) * kind.d_expert / cut.expert_tensor)
    shared = byte * tokens / tp * (2.0 + kind.gated) * kind.shared * kind.d_shared
    return between + attention + experts + shared + 4.0 * routed / kind.top_k * kind.experts


def _plain(kind: LayerKind, layout: Layout) -> Leaf:
    """1 where the scores of a layer are written to memory."""
    return 0.0 if kind.mixer in RECURRENT or kind.mixer in CHOSEN else 1.0 - layout.fused_attention


def attention_part(model: Model, kind: LayerKind, layout: Layout, cut: Cut) -> Leaf:
    """Bytes of `kept` that selective recompute does without: everything between the scores and their product."""
    scores = _plain(kind, layout) * cut.tokens * cut.seq_len * kind.heads / layout.tp
    return scores * (layout.precision.activation + kind.dropout * (1.0 + layout.precision.activation))


def memory(
    model: Model, layout: Layout, cut: Cut, stages: Stages, weights: Weights, *, shards: Leaf, expert_shards: Leaf
) -> Memory:
    """Memory by part of the fullest chip, before the allocator's margin.

    Weights, gradients and optimizer state over `shards` as zero says; activations of the micro-batches in flight on
    the first stage (1F1B: min(m, pp) of them; interleaving adds (pp - 1) / vpp chunks; GPipe: all m).
    """
    recipe = layout.precision
    own = weights.stage_dense, weights.stage_expert
    over = shards, expert_shards

    def split(bytes_each: Leaf, from_stage: float) -> Leaf:
        """Bytes of both kinds of weights, split over data replicas from this zero stage on."""
        divided = layout.zero > from_stage - 0.5
        return sum(bytes_each * w / where(divided, s, 1.0) for w, s in zip(own, over, strict=True))

    total = sum(kind.count for kind in model.kinds)
    everything = partial = 0.0
    for kind in model.kinds:
        share = kind.count / total
        whole = kept(model, kind, layout, cut)
        everything = everything + share * whole
        partial = partial + share * (whole - attention_part(model, kind, layout, cut))
    boundary = recipe.activation * cut.tokens / cut.split * model.d_model
    # Full recompute keeps a layer's input, and the whole of the one layer being recomputed.
    layer = where(cut.full > 0.5, boundary, where(cut.partial > 0.5, partial, everything))
    working = cut.full * everything
    m, pp = cut.micro_batches, layout.pp
    most = maximum(stages.first, maximum(stages.middle, stages.last))
    extra = where(layout.vpp > 1.5, (pp - 1.0) / layout.vpp, 0.0)
    in_flight = where(abs(layout.schedule - 1.0) < 0.5, m, minimum(m, pp - weights.second + extra))
    activations = layer * most * in_flight
    ends = recipe.activation * cut.tokens / cut.split * model.d_model * minimum(in_flight, pp)
    logits = (4.0 + 2.0 * recipe.activation) * cut.tokens * cut.vocab
    gathered = cut.sharded * 2.0 * recipe.weight * (weights.layer_dense + weights.layer_expert + weights.ends)
    unsharded = cut.sharded * recipe.gradient * (weights.layer_dense + weights.layer_expert)
    return Memory(
        parameters=split(recipe.weight, 3.0),
        gradients=split(recipe.gradient, 2.0),
        optimizer=split(state(layout), 1.0),
        activations=activations * (1.0 - layout.offload) + working + ends,
        logits=logits,
        buffers=gathered + unsharded,
        host=activations * layout.offload,
    )
