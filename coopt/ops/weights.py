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
    layers: Leaf = 1.0  # on that stage
    second: Leaf = 0.0  # 1 where the second stage is the fullest: layers without experts fill the first one


def stages(model: Model, layout: Layout) -> Stages:
    """Splits layers over pp stages, in chunks as equal as may be where it is interleaved.

    The rest of L / pp goes to the middle stages, away from embedding and head, as far as there are enough of them;
    otherwise to the first stages. Chunks of unequal layers hardly wait for one another, as long as the stages have
    equal ones: against a replay of 1F1B, event by event, that is within 4% for nine tenths of such pipelines.
    """
    total, pp = layers(model), layout.pp
    most, least = ceil(total / pp - 1e-6), floor(total / pp + 1e-6)
    extra = total - least * pp
    roomy = extra <= maximum(pp - 2.0, 0.0) + 0.5
    first = where(roomy, least, most)
    last = where(roomy, least, where(extra > pp - 0.5, most, least))
    if model.mtp:  # the last stage has further layers and heads, and takes all the places that stay empty
        first, last = most, maximum(most - (most * pp - total), 0.0)
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
    second, crowded = _second(model, layout)
    return Weights(
        layer_dense=dense,
        layer_expert=expert,
        ends=ends,
        stage_dense=most * dense + ends,
        stage_expert=most * expert * crowded,
        layers=most,
        second=second,
    )


def _second(model: Model, layout: Layout) -> tuple[Leaf, Leaf]:
    """Whether stages beyond the first hold expert layers alone, and their experts over those of a mean stage.

    A few dense layers before the mixture (DeepSeek-V3: 3 of 61) stand together; as many of each kind take turns.
    """
    routed = sum(kind.count for kind in model.kinds if kind.feedforward == "moe")
    if len({kind.feedforward for kind in model.kinds}) < 2:
        return 0.0, 1.0
    second = where(layout.pp > 1.5, where(routed > 0.7 * layers(model), 1.0, 0.0), 0.0)
    return second, 1.0 + second * (layers(model) / routed - 1.0)
