"""Sizes that follow from a model's shape alone: weights, parameters, attended keys."""

from __future__ import annotations

import jax

from coopt.problems import Problem, Refused
from coopt.spec.nouns import FEEDFORWARDS, MIXERS, LayerKind, Leaf, Model
from coopt.xp import maximum, minimum

PRICED_MIXERS = ("full", "window", "mla")


def check_kinds(model: Model) -> None:
    """Refuses, by name, a layer kind that has no rows yet."""
    problems = []
    for position, kind in enumerate(model.kinds):
        if kind.mixer not in PRICED_MIXERS:
            known = "unknown" if kind.mixer not in MIXERS else "not priced yet"
            problems.append(
                Problem(
                    field=f"layers[{position}].mixer",
                    expected=f"one of {', '.join(PRICED_MIXERS)}",
                    got=f"{kind.mixer} ({known})",
                )
            )
        if kind.feedforward not in FEEDFORWARDS:
            problems.append(
                Problem(
                    field=f"layers[{position}].feedforward",
                    expected=f"one of {', '.join(FEEDFORWARDS)}",
                    got=kind.feedforward,
                )
            )
    if problems:
        raise Refused(*problems)


def query_key_dim(kind: LayerKind) -> Leaf:
    """Head size of queries and keys: `head_dim`, plus the part that carries positions in MLA."""
    return kind.head_dim + kind.rope_dim if kind.mixer == "mla" else kind.head_dim


def value_dim(kind: LayerKind) -> Leaf:
    """Head size of values."""
    return kind.v_dim if kind.mixer == "mla" else kind.head_dim


def attended(kind: LayerKind, seq_len: Leaf) -> Leaf:
    """Mean number of keys a token attends to under a causal mask: s / 2, or w - w^2 / 2s in a window w <= s."""
    if kind.mixer != "window":
        return seq_len / 2.0
    width = minimum(kind.window, seq_len)
    return width - width * width / (2.0 * seq_len)


def mixer_weights(kind: LayerKind, d_model: Leaf) -> Leaf:
    """Matmul weights of one mixer.

    Full and window: d (h + 2 h_kv) e + h e d. MLA: the down and up projections of query and compressed key-value.
    """
    if kind.mixer == "mla":
        query_out = kind.heads * query_key_dim(kind)
        # q_rank = 0 means one direct projection of the query
        query = minimum(kind.q_rank, 1.0) * kind.q_rank * (d_model + query_out)
        query = query + (1.0 - minimum(kind.q_rank, 1.0)) * d_model * query_out
        key_value = d_model * (kind.kv_rank + kind.rope_dim)
        key_value = key_value + kind.kv_rank * kind.heads * (kind.head_dim + kind.v_dim)
        return query + key_value + kind.heads * kind.v_dim * d_model
    return d_model * kind.head_dim * (2.0 * kind.heads + 2.0 * kind.kv_heads)


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
    if kind.mixer == "mla":
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

    Written over attended keys, 6 * (keys) * h (e_qk + e_v), which is 1.5A for full causal attention.
    """
    attention = sum(
        kind.count * 6.0 * attended(kind, seq_len) * kind.heads * (query_key_dim(kind) + value_dim(kind))
        for kind in model.kinds
    )
    return 6.0 * matmul_weights(model) + attention
