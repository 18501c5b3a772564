"""A mix of futures that a chip may meet: the same question with longer contexts, sparser models, no 4-bit training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from coopt.ops.shapes import layers, parameters
from coopt.problems import Problem, Refused
from coopt.search.chips import Work
from coopt.search.layouts import SEARCHED, layout_space
from coopt.search.space import axis, get
from coopt.spec import load
from coopt.spec.nouns import LayerKind, Model, training
from coopt.tree import replace

# What shapes differ in, all of one kind of layer.
SHAPE = ("d_model", *(f"kinds.0.{name}" for name in ("count", "heads", "kv_heads", "head_dim", "d_ff", "d_expert",
                                                      "d_shared")))  # fmt: skip
NAMES = ("today", "context-8x", "sparsity-4x", "no-fp4")
SAME = 0.03  # relative difference in parameters that counts as the same model
# What layouts are chosen from while chips are: a narrower choice than a search's own.
LAYOUTS: Mapping[str, Sequence] = {
    "tp": (1, 2, 4, 8, 16), "cp": (1, 2, 4, 8), "pp": (1, 2, 4, 8, 16), "micro_batch": (1, 2, 4), "vpp": (1, 2, 4),
    "zero": (1, 3), "recompute": (0, 1, 2), "offload": (0.0,), "order": (0,), "ep": (1, 8, 32, 64),
}  # fmt: skip


def futures(
    model: Model,
    *,
    seq_len: float,
    batch: float,
    chips: Sequence[int],
    precision: Sequence[str],
    mix: Mapping[str, float],
    aspect: tuple[float, float],
) -> tuple[Work, ...]:
    """The futures of a mix around a model and its work; Refused where one is not known or has no legal layout.

    Each is one space: shapes of equal size, layouts, numbers of chips. `aspect` is the range of d_model / layers in
    which shapes may be offered.
    """
    unknown = [name for name in mix if name not in NAMES]
    if unknown:
        hint = "decode is not priced yet: it cannot be part of a mix" if "decode" in unknown else ""
        raise Refused(
            *(Problem(field="mix", expected=f"one of {', '.join(NAMES)}", got=n[:40], hint=hint) for n in unknown)
        )
    if batch != int(batch) or ("context-8x" in mix and batch % 8):
        raise Refused(
            Problem(field="global_batch", expected="whole sequences, in eights for context-8x", got=f"{batch:g}",
                    hint="its sequences are eight times as long, and as many fewer")
        )  # fmt: skip
    total = sum(mix.values())
    wide = tuple(recipe for recipe in precision if recipe != "nvfp4") or ("bf16",)
    asked = {
        "today": (model, seq_len, batch, tuple(precision)),
        "context-8x": (model, 8.0 * seq_len, batch / 8.0, tuple(precision)),
        "sparsity-4x": (sparser(model), seq_len, batch, tuple(precision)),
        "no-fp4": (model, seq_len, batch, wide),
    }
    return tuple(
        _future(name, weight / total, *asked[name], chips=chips, aspect=aspect)
        for name, weight in mix.items()
        if weight > 0
    )


def _future(name, weight, model, seq_len, batch, precision, *, chips, aspect) -> Work:
    offered = load.practised({**LAYOUTS, "precision": precision}, stack="generic", searched=SEARCHED)
    if all(kind.feedforward != "moe" for kind in model.kinds):
        offered.pop("ep")
    some = shapes(model, aspect=aspect)
    several = []
    if len(some) > 1:
        rows = [[get(shape, path) for path in SHAPE] for _, shape in some]
        several = [axis("shape", [f"model.{path}" for path in SHAPE], rows, labels=[label for label, _ in some])]
    try:
        space = layout_space(model, training(seq_len, batch), chips=chips, choices=offered, axes=several)
    except Refused:  # the batch or the heads divide among none of those numbers of chips
        raise Refused(
            Problem(field=f"mix.{name}", expected="a batch that divides among the chips", got=f"{batch:g} sequences",
                    hint="give --global_batch in sequences, a multiple of the chips or a power of two")
        ) from None  # fmt: skip
    return Work(name, space, weight)


def shapes(model: Model, *, aspect: tuple[float, float]) -> tuple[tuple[str, Model], ...]:
    """The model as published, and shapes of as many parameters: heads half and twice as wide, layers wider or more.

    A law of N and D gives all of them one loss; a shape whose d_model / layers lies outside `aspect`, the range the law
    was fitted on, is not offered. Models of several kinds of layers are taken as published.
    """
    found = [("published", model)]
    if len(model.kinds) == 1 and model.kinds[0].mixer in ("full", "window"):
        kind = model.kinds[0]
        for label, times in (("wide heads", 2.0), ("narrow heads", 0.5)):
            changed = replace(
                kind, heads=kind.heads / times, kv_heads=kind.kv_heads / times, head_dim=kind.head_dim * times
            )
            found.append((label, replace(model, kinds=(changed,))))
        found += [("wide layers", _wider(model, kind, 1.25)), ("narrow layers", _wider(model, kind, 0.75))]
    size = float(parameters(model))
    return tuple(
        (label, shape)
        for label, shape in found
        if label == "published" or (_same(shape, size) and _whole(shape) and _within(shape, aspect))
    )


def _wider(model: Model, kind: LayerKind, times: float) -> Model:
    widths = {name: getattr(kind, name) * times for name in ("heads", "kv_heads", "d_ff", "d_expert", "d_shared")}
    layers = float(np.round(kind.count / times**2))
    return replace(model, d_model=model.d_model * times, kinds=(replace(kind, count=layers, **widths),))


def _same(model: Model, size: float) -> bool:
    return abs(float(parameters(model)) / size - 1.0) < SAME


def _within(model: Model, aspect: tuple[float, float]) -> bool:
    return aspect[0] <= model.d_model / float(layers(model)) <= aspect[1]


def _whole(model: Model) -> bool:
    kind = model.kinds[0]
    numbers = (model.d_model, kind.heads, kind.kv_heads, kind.head_dim, kind.d_ff, kind.d_expert, kind.d_shared)
    return all(number == int(number) for number in numbers) and kind.kv_heads >= 1


def sparser(model: Model) -> Model:
    """Four times as many feed-forward parameters for the same work: a mixture's experts times four, or a dense one cut.

    A dense feed-forward becomes sixteen experts of a quarter of its width, of which a token visits four.
    """

    def kind(one: LayerKind) -> LayerKind:
        if one.feedforward == "moe":
            return replace(one, experts=4.0 * one.experts)
        return replace(one, feedforward="moe", experts=16.0, top_k=4.0, d_expert=one.d_ff / 4.0, d_ff=0.0)

    return replace(model, name=f"{model.name}, four times as sparse", kinds=tuple(kind(one) for one in model.kinds))
