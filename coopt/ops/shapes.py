"""Sizes that follow from a model's shape alone: weights, parameters, attended keys."""

from __future__ import annotations

import jax

from coopt.problems import Problem, Refused
from coopt.spec.nouns import FEEDFORWARDS, MIXERS, LayerKind, Leaf, Model
from coopt.tree import replace
from coopt.xp import maximum, minimum, where

LATENT = ("mla", "sparse-mla")  # keys and values of all heads are one compressed row
RECURRENT = ("linear", "delta")  # a state instead of keys: state-space duals and linear attention; gated delta rule
CHOSEN = ("sparse", "sparse-mla")  # an indexer chooses the keys of a token (DeepSeek-V3.2)
# Tokens that a recurrent mixer takes at a time: within, as attention; between, by its state. Kernels take 64 to 256.
CHUNKS = {"linear": 128.0, "delta": 64.0}


def check_kinds(model: Model) -> None:
    """Refuses, by name, a layer kind that has no rows."""
    problems = []
    for position, kind in enumerate(model.kinds):
        for field, known in (("mixer", MIXERS), ("feedforward", FEEDFORWARDS)):
            if getattr(kind, field) not in known:
                expected, got = f"one of {', '.join(known)}", getattr(kind, field)
                problems.append(Problem(field=f"layers[{position}].{field}", expected=expected, got=got))
    if problems:
        raise Refused(*problems)


def query_key_dim(kind: LayerKind) -> Leaf:
    """Head size of queries and keys: `head_dim`, plus the part that carries positions in MLA."""
    return kind.head_dim + kind.rope_dim if kind.mixer in LATENT else kind.head_dim


def value_dim(kind: LayerKind) -> Leaf:
    """Head size of values."""
    if kind.mixer in RECURRENT:
        return kind.v_dim + where(kind.v_dim > 0.0, 0.0, kind.head_dim)
    return kind.v_dim if kind.mixer in LATENT else kind.head_dim


def product_dims(kind: LayerKind) -> tuple[Leaf, Leaf]:
    """Sizes of the two products of a head: scores, and values.

    Those of queries and values; where keys are chosen among compressed rows, which all heads share, those of the rows
    themselves (DeepSeek-V3.2: the projections are absorbed into query and output).
    """
    if kind.mixer == "sparse-mla":
        return kind.kv_rank + kind.rope_dim, kind.kv_rank
    return query_key_dim(kind), value_dim(kind)


def chunk(kind: LayerKind, seq_len: Leaf) -> Leaf:
    """Tokens that a recurrent mixer takes at a time."""
    return minimum(CHUNKS[kind.mixer], seq_len)


def attended(kind: LayerKind, seq_len: Leaf) -> Leaf:
    """Mean number of keys a token attends to under a causal mask: s / 2, or w - w^2 / 2s of at most w keys, w <= s.

    A recurrent mixer attends to the keys of its chunk.
    """
    if kind.mixer in RECURRENT:
        return chunk(kind, seq_len) / 2.0
    if kind.mixer != "window" and kind.mixer not in CHOSEN:
        return seq_len / 2.0
    width = minimum(kind.window, seq_len)
    return width - width * width / (2.0 * seq_len)


def mixing(kind: LayerKind, seq_len: Leaf) -> Leaf:
    """Multiply-adds a token in the products of all heads: keys (e_qk + e_v); recurrent, with c tokens a chunk:

        linear: c/2 (h_kv e_qk + h e_v) + 2 h e_qk e_v                  Dao and Gu 2024, arXiv 2405.21060, section 6
        delta:  h (c/2 (3 e_qk + 2 e_v) + 3 e_qk e_v + c^2 / 6)         Yang et al. 2024, arXiv 2406.06484, 2412.06464

    Linear: scores of a group, once for its heads, their product with values, and a state that is written and read.
    Delta: keys against keys, the inverse of that triangle, what it makes of keys and values, and the state read once
    more to see what it holds already.

    >>> mamba = LayerKind(mixer="linear", heads=80.0, kv_heads=1.0, head_dim=128.0, v_dim=64.0)
    >>> float(mixing(mamba, 8192.0)) / 80 / 128 / 64
    2.5125
    """
    keys, (qk, v) = attended(kind, seq_len), product_dims(kind)
    if kind.mixer == "linear":
        return keys * (kind.kv_heads * qk + kind.heads * v) + 2.0 * kind.heads * qk * v
    if kind.mixer == "delta":
        size = chunk(kind, seq_len)
        return kind.heads * (keys * (3.0 * qk + 2.0 * v) + 3.0 * qk * v + size * size / 6.0)
    return keys * kind.heads * (qk + v)


def indexing(kind: LayerKind, seq_len: Leaf) -> Leaf:
    """FLOPs of one trained token in the indexer of a sparse mixer: every key before it forward, the chosen ones back.

        2 (s / 2) h_i e_i + 6 keys h_i e_i

    It learns the distribution of attention over the chosen keys, and hands nothing back to the layers before it
    (DeepSeek-V3.2, arXiv 2512.02556, section 2.1).
    """
    if kind.mixer not in CHOSEN:
        return 0.0
    return (seq_len + 6.0 * attended(kind, seq_len)) * kind.index_heads * kind.index_dim


def index_weights(kind: LayerKind, d_model: Leaf) -> Leaf:
    """Weights of an indexer: queries, from the compressed ones where there are any, one key, a weight a head."""
    if kind.mixer not in CHOSEN:
        return 0.0
    compressed = minimum(kind.q_rank, 1.0) if kind.mixer in LATENT else 0.0
    source = compressed * kind.q_rank + (1.0 - compressed) * d_model
    return source * kind.index_heads * kind.index_dim + d_model * (kind.index_heads + kind.index_dim)


def mixer_weights(kind: LayerKind, d_model: Leaf) -> Leaf:
    """Matmul weights of one mixer.

    Full and window: d (h + 2 h_kv) e + h e d. MLA: the down and up projections of query and compressed key-value.
    Recurrent: query and key of h_kv groups, value, gate and two scalars of h heads. Sparse: with its indexer.
    """
    if kind.mixer in RECURRENT:
        return d_model * (linear_columns(kind) + kind.heads * value_dim(kind))
    if kind.mixer in LATENT:
        query_out = kind.heads * query_key_dim(kind)
        # q_rank = 0 means one direct projection of the query
        query = minimum(kind.q_rank, 1.0) * kind.q_rank * (d_model + query_out)
        query = query + (1.0 - minimum(kind.q_rank, 1.0)) * d_model * query_out
        key_value = d_model * (kind.kv_rank + kind.rope_dim)
        key_value = key_value + kind.kv_rank * kind.heads * (kind.head_dim + kind.v_dim)
        return query + key_value + kind.heads * kind.v_dim * d_model + index_weights(kind, d_model)
    return d_model * kind.head_dim * (2.0 * kind.heads + 2.0 * kind.kv_heads) + index_weights(kind, d_model)


def linear_columns(kind: LayerKind) -> Leaf:
    """Columns that a recurrent mixer projects to: query and key, value and gate, decay and rate."""
    return 2.0 * kind.kv_heads * kind.head_dim + 2.0 * kind.heads * value_dim(kind) + 2.0 * kind.heads


def expert_weights(kind: LayerKind, d_model: Leaf) -> Leaf:
    """Matmul weights of one routed expert: 2 d w, or 3 d w when gated."""
    return (2.0 + kind.gated) * d_model * kind.d_expert


def dense_weights(kind: LayerKind, d_model: Leaf) -> Leaf:
    """Matmul weights of a layer's feed-forward that every token visits: dense, or shared experts and router."""
    if kind.feedforward == "dense":
        return (2.0 + kind.gated) * d_model * kind.d_ff
    return kind.shared * (2.0 + kind.gated) * d_model * kind.d_shared + d_model * kind.experts


def vectors(kind: LayerKind, d_model: Leaf) -> Leaf:
    """Parameters of one layer that are no matmul weights: norms and biases."""
    norms = kind.norms * d_model
    if kind.mixer in RECURRENT:  # a convolution of four taps, decay and rate of a head, the gated norm
        norms = norms + 4.0 * (2.0 * kind.kv_heads * kind.head_dim + kind.heads * value_dim(kind))
        norms = norms + 2.0 * kind.heads + value_dim(kind)
    if kind.mixer in LATENT:
        norms = norms + kind.q_rank + kind.kv_rank
    attention = (kind.heads + 2.0 * kind.kv_heads) * kind.head_dim + d_model
    if kind.feedforward == "dense":
        feedforward = (1.0 + kind.gated) * kind.d_ff + d_model
    else:
        feedforward = kind.experts * ((1.0 + kind.gated) * kind.d_expert + d_model + 1.0)
    return norms + kind.bias * (attention + feedforward)


def layers(model: Model) -> Leaf:
    """Layers of all kinds."""
    return sum(kind.count for kind in model.kinds)


def embedding(model: Model) -> Leaf:
    """Parameters of the input embedding and learned positions: V d + P d."""
    return (model.vocab + model.positions) * model.d_model


def parameters(model: Model) -> Leaf:
    """All parameters: embedding, layers (every expert), norms, head unless tied.

    >>> from coopt.spec.nouns import LayerKind, Model
    >>> llama = LayerKind(count=80., heads=64., kv_heads=8., head_dim=128., d_ff=28672., gated=1.)
    >>> f"{parameters(Model(d_model=8192., vocab=128256., kinds=(llama,))):,.0f}"
    '70,553,706,496'
    """
    model = jax.tree.map(lambda leaf: leaf * 1.0, model)  # whole numbers wrap in silence
    total = embedding(model) + (1.0 - model.tied) * model.vocab * model.d_model + model.norms * model.d_model
    for kind in model.kinds:
        routed = kind.experts * expert_weights(kind, model.d_model) if kind.feedforward == "moe" else 0.0
        layer = mixer_weights(kind, model.d_model) + dense_weights(kind, model.d_model) + routed
        total = total + kind.count * (layer + vectors(kind, model.d_model))
    return total


def matmul_weights(model: Model) -> Leaf:
    """W: matmul weights active for one token, the head included and the embedding look-up excluded."""
    total = model.vocab * model.d_model
    for kind in model.kinds:
        routed = kind.top_k * expert_weights(kind, model.d_model) if kind.feedforward == "moe" else 0.0
        total = total + kind.count * (mixer_weights(kind, model.d_model) + dense_weights(kind, model.d_model) + routed)
    return total


def active_parameters(model: Model) -> Leaf:
    """Parameters that one token uses: all of them, less the experts it is not routed to."""
    total = parameters(model)
    for kind in model.kinds:
        if kind.feedforward == "moe":
            idle = maximum(kind.experts - kind.top_k, 0.0)
            total = total - kind.count * idle * expert_weights(kind, model.d_model)
    return total


def model_flops(model: Model, seq_len: Leaf) -> Leaf:
    """FLOPs of one trained token, recompute not counted: 6W + 1.5A, with A = 4 s h e summed over layers.

    Written over the products of the mixer, 6 * keys * h (e_qk + e_v), which is 1.5A for full causal attention.
    """
    attention = sum(kind.count * (6.0 * mixing(kind, seq_len) + indexing(kind, seq_len)) for kind in model.kinds)
    total = 6.0 * matmul_weights(model) + attention
    if model.mtp:
        total = total + float(model.mtp) * further_flops(model, seq_len)
    return total


def further_flops(model: Model, seq_len: Leaf) -> Leaf:
    """FLOPs of one trained token in one layer of multi-token prediction: the last kind, 2 d^2 and the head."""
    single = replace(model, mtp=0, kinds=(replace(model.kinds[-1], count=1.0),))
    return model_flops(single, seq_len) + 12.0 * model.d_model * model.d_model
