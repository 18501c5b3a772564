"""Bytes on the fullest chip, by part."""

from __future__ import annotations

from coopt.ops.cut import Cut
from coopt.ops.feedforward import routed_tokens
from coopt.ops.optimizer import state
from coopt.ops.rows import never
from coopt.ops.shapes import (
    CHOSEN,
    LATENT,
    RECURRENT,
    attended,
    dense_weights,
    linear_columns,
    product_dims,
    query_key_dim,
    value_dim,
)
from coopt.ops.weights import Stages, Weights
from coopt.spec.nouns import LayerKind, Layout, Leaf, Memory, Model
from coopt.xp import maximum, minimum, where


def kept(model: Model, kind: LayerKind, layout: Layout, cut: Cut) -> tuple[Leaf, Leaf]:
    """Bytes one layer keeps of one micro-batch for its backward pass, and those it makes again, module by module.

    With b bytes an element, T tokens and t = tp: the inputs of both norms and both blocks, 4 b T d, split over t with
    sequence parallelism; inside the blocks, over t, what projections, attention and activation function need; masks of
    one byte where there is dropout; and, when attention is not fused, 2 b + 1 bytes for each score (softmax output, its
    dropout, the mask). For a GPT layer: 34 T d + 5 a s T, or T d (10 + 24 / t) + 5 a s T / t. What products and
    activation functions keep of their inputs may be of fewer bytes (`Precision.kept`).
    Source: Korthikanti et al. 2022, arXiv 2205.05198, section 4, extended to grouped heads and gated layers.
    """
    byte, small = layout.precision.activation, layout.precision.kept
    d, tokens, tp = model.d_model, cut.tokens, layout.tp
    qk, v = query_key_dim(kind), value_dim(kind)
    between = tokens / cut.split * d * (2.0 * byte + 2.0 * kind.dropout)
    normed = tokens / cut.split * d * 2.0 * small
    heads, up = _heads(kind, layout, cut), 0.0
    if kind.mixer in RECURRENT:
        heads = byte * tokens / tp * (linear_columns(kind) + 2.0 * kind.heads * v)
    if kind.mixer in CHOSEN:  # the indexer: what it projected to, and which keys it chose
        columns = kind.index_heads * (kind.index_dim + 1.0) + kind.index_dim
        between = between + tokens * (byte * columns + 4.0 * attended(kind, cut.reach))
    if kind.mixer in LATENT:
        rows = product_dims(kind) if kind.mixer in CHOSEN else (qk, v)  # absorbed queries, mixed rows
        heads = byte * tokens / tp * kind.heads * v
        up = byte * tokens / tp * kind.heads * (qk + rows[0])
        more = byte * tokens / tp * kind.heads * rows[1]  # values, made again as well, or rows that were mixed
        up, heads = (up, heads + more) if kind.mixer in CHOSEN else (up + more, heads)
        latent = tokens / cut.split * (kind.q_rank + kind.kv_rank + kind.rope_dim)
        between, normed = between + byte * latent, normed + small * latent
    scores = _plain(kind, layout) * tokens * cut.seq_len * kind.heads / tp
    attention = heads + scores * (byte + kind.dropout * (1.0 + byte))
    if kind.feedforward == "dense":
        inside, made = small * tokens / tp * (1.0 + kind.gated) * kind.d_ff, small * tokens / tp * kind.d_ff
    else:
        # experts: tokens as they came, what goes into the activation function and comes out, and their results, which
        # are weighed; where the function is made again it weighs as well (Megatron-Core: with the tokens' weights)
        routed = routed_tokens(kind, layout, cut)
        each, shared = kind.d_expert / cut.expert_tensor, tokens / tp * kind.shared * kind.d_shared
        inside = small * (routed * (d + (1.0 + kind.gated) * each) + (1.0 + kind.gated) * shared)
        inside = inside + 4.0 * routed / kind.top_k * kind.experts
        made = small * (routed * each + shared) + byte * routed * d
    modules = ((normed, cut.norm), (up, cut.up), (inside, cut.mlp),
               (made, maximum(cut.mlp, cut.act)))  # fmt: skip
    stay = sum((part * (1.0 - again) for part, again in modules), between + attention)
    return stay, sum(part * again for part, again in modules)


def _heads(kind: LayerKind, layout: Layout, cut: Cut) -> Leaf:
    """Bytes of queries, keys, values and outputs of attention; of their gradients as many."""
    sizes = query_key_dim(kind) + value_dim(kind)
    each = (kind.heads + maximum(kind.kv_heads, layout.tp)) * sizes
    return layout.precision.activation * cut.tokens / layout.tp * each


def _plain(kind: LayerKind, layout: Layout) -> Leaf:
    """1 where the scores of a layer are written to memory."""
    return 0.0 if kind.mixer in RECURRENT or kind.mixer in CHOSEN else 1.0 - layout.fused_attention


def differentiated(model: Model, kind: LayerKind, layout: Layout, cut: Cut) -> Leaf:
    """Bytes beyond `kept` that one layer keeps where each operation of a traced program is differentiated by itself.

    A norm keeps its input and what it made of it in 32 bits beside its output (8 + b bytes an element, where a kernel
    keeps 2 b); a gated activation its sigmoid and all three products of it, tanh-GELU five steps, in 32 bits where the
    bias is; a written-out softmax 8 bytes a score.
    """
    byte, tokens = layout.precision.activation, cut.tokens
    norms = 2.0 * tokens / cut.split * model.d_model * (8.0 - byte)
    each = kind.gated * 3.0 * byte + (1.0 - kind.gated) * (4.0 * byte + 5.0 * kind.bias * (4.0 - byte))
    if kind.feedforward == "dense":
        acts = each * tokens / layout.tp * kind.d_ff
    else:
        acts = each * routed_tokens(kind, layout, cut) * kind.d_expert / cut.expert_tensor
    scores = _plain(kind, layout) * tokens * cut.seq_len * kind.heads / layout.tp
    return norms + acts + scores * (8.0 - byte)


def spared(kind: LayerKind, layout: Layout, cut: Cut, d: Leaf) -> Leaf:
    """Bytes of `kept` that selective recompute does without.

    By hand: everything between the scores and their product. A traced program keeps what products of weights gave, and
    no more: neither the outputs of attention, of the norms and of the activation, nor anything of routed experts.
    """
    byte, tokens = layout.precision.activation, cut.tokens
    scores = _plain(kind, layout) * tokens * cut.seq_len * kind.heads / layout.tp
    by_hand = scores * (byte + kind.dropout * (1.0 + byte))
    more = byte * tokens * (kind.heads * value_dim(kind) / layout.tp + 2.0 * d / cut.split)
    if kind.feedforward == "dense":
        more = more + byte * tokens * kind.d_ff / layout.tp
    else:
        routed = routed_tokens(kind, layout, cut)
        more = more + byte * routed * (2.0 * d + (2.0 + kind.gated) * kind.d_expert / cut.expert_tensor)
    return by_hand + layout.traced * more


def flowing(kind: LayerKind, layout: Layout, cut: Cut, d: Leaf) -> Leaf:
    """Bytes under way where a layer's backward pass is widest.

    The activation, made again, and the gradients of both products that led to it: as much as all three of them. XLA
    still holds these in attention, with its output and three gradients, and with three copies of the residual stream.
    """
    byte, tokens = layout.precision.activation, cut.tokens
    attention = layout.traced * (_heads(kind, layout, cut) + 3.0 * byte * tokens / cut.split * d)
    if kind.feedforward == "dense":
        return attention + byte * tokens / layout.tp * (2.0 + kind.gated) * kind.d_ff
    routed = routed_tokens(kind, layout, cut)
    return attention + byte * routed * (d + (2.0 + kind.gated) * kind.d_expert / cut.expert_tensor)


def _ahead(layout: Layout, ordinary: Leaf) -> Leaf:
    """Micro-batches under way on the fullest stage: one more where two of them meet; pp + 1 where they come both ways.

    Source: DeepSeek-V3, arXiv 2412.19437, table 2.
    """
    ahead = ordinary + layout.paired
    return ahead if never(layout.dualpipe, 1.0) else where(layout.dualpipe > 0.5, layout.pp + 1.0, ahead)


def _logits(layout: Layout, cut: Cut) -> tuple[Leaf, Leaf]:
    """Bytes of the logits while the loss is made, and of those that stay while layers go backward.

    In 32 bits, in the type of the product, and a gradient, which a traced program writes over one of them; where the
    head is gathered by partial sums, these too.
    """
    byte = layout.precision.activation
    each = where(layout.traced > 0.5, 4.0 + byte + cut.sharded * byte, 4.0 + 2.0 * byte)
    # Of one sequence, XLA makes a sharded head's gradient after all layers', from the logits: they stay until then.
    alone = layout.traced * cut.sharded * where(cut.sequences < 1.5, 1.0, 0.0)
    return each * cut.tokens * cut.vocab, alone * (4.0 + byte) * cut.tokens * cut.vocab


def _buffers(layout: Layout, cut: Cut, weights: Weights, d: Leaf, *, moving: Leaf, feed: Leaf) -> Leaf:
    """Bytes a layer's backward pass holds besides what is kept and recomputed: gradients under way, gathered weights.

    With sequence parallelism its input is gathered again, the gradient that arrives is, and partial sums leave: three
    times the whole residual stream in the feed-forward, which is the widest place where everything is made again, and
    five in attention, the widest where products are kept. Zero 3 by hand gathers two layers and the ends ahead of use
    and has a layer's gradient whole; a compiler gathers the feed-forward's matrices, has the gradient of one of them
    whole, and that of the head until it is reduced. As XLA schedules TPUs: measurements/xla_memory.csv.
    """
    recipe = layout.precision
    exchanged = where(cut.split > 1.5, where(cut.full > 0.5, 3.0, 5.0), 0.0) * recipe.activation * cut.tokens * d
    whole = weights.layer_dense + weights.layer_expert
    by_hand = 2.0 * recipe.weight * (whole + weights.ends) + recipe.gradient * whole
    wide = feed + weights.layer_expert
    compiled = recipe.weight * (wide + wide / 3.0 + cut.vocab * d)
    gathered = cut.sharded * where(layout.traced > 0.5, compiled, by_hand)
    return exchanged + where(cut.full > 0.5, 0.0, moving) + gathered


def memory(
    model: Model, layout: Layout, cut: Cut, stages: Stages, weights: Weights, *, shards: Leaf, expert_shards: Leaf
) -> Memory:
    """Memory by part of the fullest chip at the moment when it holds most, before the allocator's margin.

    Weights, gradients and optimizer state over `shards` as zero says; activations of the micro-batches in flight on
    the first stage (1F1B: min(m, pp) of them, one more where they are paired; interleaving adds (pp - 1) / vpp chunks;
    GPipe: all m; dualpipe: pp + 1, with weights and gradients of two stages). Beside these, the larger of two moments:
    the loss, with its logits; and the backward pass of one layer, with what is recomputed of it, gradients under way,
    its weights gathered and their gradients whole before each chip keeps its share.
    """
    recipe, d = layout.precision, model.d_model
    own = weights.stage_dense, weights.stage_expert
    over = shards, expert_shards

    def split(bytes_each: Leaf, from_stage: float) -> Leaf:
        """Bytes of both kinds of weights, split over data replicas from this zero stage on."""
        divided = layout.zero > from_stage - 0.5
        return sum(bytes_each * w / where(divided, s, 1.0) for w, s in zip(own, over, strict=True))

    total = sum(kind.count for kind in model.kinds)
    everything = partial = once = remade = moving = feed = 0.0
    for kind in model.kinds:
        share = kind.count / total
        whole, modules = kept(model, kind, layout, cut)
        everything = everything + share * (whole + layout.traced * differentiated(model, kind, layout, cut))
        partial = partial + share * (whole - spared(kind, layout, cut, d))
        once, remade = once + share * (whole + modules), remade + share * modules
        feed = feed + share * dense_weights(kind, d) / layout.tp
        moving = moving + share * flowing(kind, layout, cut, d)
    boundary = recipe.activation * cut.tokens / cut.split * d
    # Full recompute keeps a layer's input, and the whole of the one layer being recomputed.
    layer = where(cut.full > 0.5, boundary, where(cut.partial > 0.5, partial, everything))
    m, pp = cut.micro_batches, layout.pp
    most = maximum(stages.first, maximum(stages.middle, stages.last))
    extra = where(layout.vpp > 1.5, (pp - 1.0) / layout.vpp, 0.0)
    in_flight = where(abs(layout.schedule - 1.0) < 0.5, m, minimum(m, _ahead(layout, pp - weights.second + extra)))
    activations = layer * most * in_flight
    # Of what goes to the host, one layer's is in use and one's is under way.
    away = layout.offload * maximum(activations - 2.0 * layer, 0.0)
    ends = recipe.activation * cut.tokens / cut.split * d * minimum(in_flight, pp)
    logits, stay = _logits(layout, cut)
    buffers = _buffers(layout, cut, weights, d, moving=moving, feed=feed)
    again = cut.full * once + (1.0 - cut.full) * remade
    gradients = split(recipe.gradient, 2.0)
    # One traced micro-batch has no gradients before its loss: they are made on the way back.
    late = layout.traced * where(m < 1.5, gradients, 0.0)
    back = where(again + buffers + late + stay > logits, 1.0, 0.0)
    return Memory(
        parameters=split(recipe.weight, 3.0),
        gradients=gradients - (1.0 - back) * late,
        optimizer=split(state(layout), 1.0),
        activations=activations - away + back * again + ends,
        logits=(1.0 - back) * logits + back * stay,
        buffers=back * buffers,
        host=activations * layout.offload,
    )
