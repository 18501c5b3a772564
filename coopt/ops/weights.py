"""Weights that one chip holds: by layer and by stage, dense and expert, before any sharding over data."""

from __future__ import annotations

from coopt.ops.cut import Cut
from coopt.ops.shapes import dense_weights, expert_weights, layers, mixer_weights, vectors
from coopt.spec.nouns import Layout, Leaf, Model
from coopt.tree import struct
from coopt.xp import ceil, floor, maximum, where


@struct
class Stages:
    """Layers on the first, a middle and the last stage; middle ones take what does not divide."""

    first: Leaf = 0.0
    middle: Leaf = 0.0
    last: Leaf = 0.0


@struct
class Weights:
    """Weights of one chip, in elements."""

    layer_dense: Leaf = 0.0  # a mean layer
    layer_expert: Leaf = 0.0
    ends: Leaf = 0.0  # embedding or head, the larger stage's share
    stage_dense: Leaf = 0.0  # the fullest stage, ends included
    stage_expert: Leaf = 0.0


def stages(model: Model, layout: Layout) -> Stages:
    """Splits layers over pp stages in whole chunks of vpp.

    The rest of L / pp goes to the middle stages, away from embedding and head, as far as there are enough of them;
    otherwise to the first stages. Interleaved, a stage waits for its largest chunk in every round: a middle stage takes
    vpp * ceil(L / (pp vpp)) layers' time, so that chunks of unequal layers are never free.
    """
    total = layers(model)
    pp = layout.pp
    most, least = layout.vpp * ceil(total / (pp * layout.vpp) - 1e-6), floor(total / pp + 1e-6)
    extra = total - least * pp
    roomy = extra <= maximum(pp - 2.0, 0.0) + 0.5
    first = where(roomy, least, most)
    last = where(roomy, least, where(extra > pp - 0.5, most, least))
    # interleaved: up to two missing layers are the places of embedding and head, as trainers put them
    missing, chunked = most * pp - total, layout.vpp > 1.5
    first = where(chunked, most - where(missing > 1.5, 1.0, 0.0), first)
    last = where(chunked, most - where(missing > 0.5, 1.0, 0.0), last)
    return Stages(first=first, middle=most, last=last)


def chip_weights(model: Model, layout: Layout, cut: Cut, stages: Stages) -> Weights:
    """Weights of one chip: matmul weights over tp, experts over ep (and tp where ep = 1), vectors copied."""
    dense = expert = 0.0
    total = layers(model)
    for kind in model.kinds:
        share = kind.count / total
        dense = dense + share * (
            (mixer_weights(kind, model.d_model) + dense_weights(kind, model.d_model)) / layout.tp
            + vectors(kind, model.d_model)
        )
        if kind.feedforward == "moe":
            expert = expert + share * kind.experts * expert_weights(kind, model.d_model) / (
                layout.ep * cut.expert_tensor
            )
    most = maximum(stages.first, maximum(stages.middle, stages.last))
    matrix = (model.vocab * model.d_model) / layout.tp
    lone = (model.positions + model.norms) * model.d_model
    # one stage: embedding and head (one matrix where tied); more: one of them on each end
    ends = matrix * where(layout.pp > 1.5, 1.0, 2.0 - model.tied) + lone
    return Weights(
        layer_dense=dense,
        layer_expert=expert,
        ends=ends,
        stage_dense=most * dense + ends,
        stage_expert=most * expert,
    )
