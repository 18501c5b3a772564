"""The candidates of a study on one machine: shapes, tokens and batches times every legal layout, as a space."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from coopt.search import describe
from coopt.search.layouts import PARALLEL, SEARCHED
from coopt.search.space import Candidate, Space, candidate, digits
from coopt.spec import load, read
from coopt.spec.find import find
from coopt.spec.nouns import Hardware, Law, Model, training
from coopt.spec.settings import FIELDS
from coopt.study.given.schema import Study
from coopt.tree import replace


@dataclasses.dataclass(frozen=True)
class Family:
    """What is searched over before layouts: one model, or the description of a family of shapes."""

    model: Model | None
    description: dict[str, Any]
    file: str = ""

    @property
    def name(self) -> str:
        """What its members are called."""
        return self.model.name if self.model else str(self.description.get("model", {}).get("name", "model"))


def family(study: Study, *, path: Any = None) -> Family:
    """The model or the family of a study, read and checked."""
    if study.model is not None:
        model = load.model(study.model, path=path, **study.set)
        return Family(load.padded(model, 1.0, stack=study.stack, path=path), {})
    if isinstance(study.space, dict):
        return Family(None, study.space, "")
    file = find("space", str(study.space), path=path)
    return Family(None, read.read(file)[0], str(file))


def space(study: Study, found: Family, *, chips: float | Sequence[float], path: Any = None) -> Space:
    """Every candidate of a study on `chips` chips, or on several numbers of them; the rest is its stack's practice.

    Refused with what is wrong with the family or the layout.
    """
    shape = dict(found.description.get("shape", {}))
    shape |= {"batch": _form(study.workload.global_batch)}
    if study.workload.tokens is not None:
        shape |= {"tokens": _form(study.workload.tokens)}
    layout = {**found.description.get("layout", {}), **study.layout}
    numbers = [int(one) for one in (chips if isinstance(chips, Sequence) else [chips])]
    if max(numbers) == 1 and 0 in (layout.get("zero") or (0,)):
        layout["zero"] = [0]  # there is nobody to share the state with
    description = {
        "name": found.name,
        "model": found.description.get("model", {}),
        "shape": shape,
        "limits": found.description.get("limits", []),
        "layout": load.practised(
            {name: offered if isinstance(offered, list) else [offered] for name, offered in layout.items()},
            stack=study.stack,
            searched=SEARCHED,
            path=path,
        ),  # fmt: skip
    }
    work = training(study.workload.seq_len, _first(study.workload.global_batch), _first(study.workload.tokens))
    within = describe.space_from(description, chips=numbers, model=found.model, workload=work, file=found.file)
    return _padded(within, study, path)


def _padded(within: Space, study: Study, path: Any) -> Space:
    """The space with vocabularies padded as the stack pads them for each tp, where no axis offers several."""
    if any("model.vocab" in one.paths for one in within.axes):
        return within
    axes = []
    for one in within.axes:
        if "layout.tp" in one.paths:
            ways = one.values[:, one.paths.index("layout.tp")]
            vocab = [load.padded(within.base.model, tp, stack=study.stack, path=path).vocab for tp in ways]
            one = dataclasses.replace(one, paths=(*one.paths, "model.vocab"), values=np.c_[one.values, vocab])
        axes.append(one)
    return dataclasses.replace(within, axes=tuple(axes))


def practice(study: Study, found: Family, plan: Candidate, *, path: Any = None) -> tuple[str, ...]:
    """What neither the study nor the search decides of a layout: a sentence for each field left to the stack."""
    told = {*SEARCHED, *PARALLEL, *found.description.get("layout", {}), *study.layout}
    given = {field: getattr(plan.layout, field) for field in FIELDS if field in told}
    return load.layout(given, model=plan.model, stack=study.stack, path=path)[1]


def chosen(within: Space, index: int, family: Family, hardware: Hardware, law: Law | None) -> Candidate:
    """One candidate with its machine, its law, and a name that tells its shape."""
    one = candidate(within, index)
    model = one.model
    if family.model is None:
        model = replace(model, name=shape_name(family.name, model))
    label = recipe(within, index)
    layout = one.layout
    if label:
        layout = replace(layout, precision=replace(layout.precision, name=label))
    return replace(one, model=model, layout=layout, hardware=hardware, law=law)


def recipe(within: Space, index: int) -> str:
    """The recipe of a candidate by name; fields of a recipe are leaves, its name is not."""
    for one, digit in zip(within.axes, digits(within, index), strict=True):
        if one.name == "precision" and one.labels:
            return one.labels[digit]
    return ""


def shape_name(family: str, model: Model) -> str:
    """A searched shape by its layers and width.

    >>> from coopt.spec.nouns import LayerKind
    >>> shape_name("gpt", Model(d_model=640.0, kinds=(LayerKind(count=12.0),)))
    'gpt-l12-d640'
    """
    layers = sum(float(kind.count) for kind in model.kinds)
    experts = max((float(kind.experts) for kind in model.kinds if kind.feedforward == "moe"), default=0.0)
    return f"{family}-l{layers:g}-d{float(model.d_model):g}" + (f"-e{experts:g}" if experts else "")


def law_of(study: Study, *, path: Any = None) -> Law | None:
    """The law of the loss, without what a batch costs where the study asks for that."""
    if study.law is None:
        return None
    law = load.law(study.law, path=path)
    return replace(law, critical=(0.0, 0.0)) if study.batch_penalty == "none" else law


def _form(given: Any) -> Any:
    return list(given) if isinstance(given, tuple) else given


def _first(given: Any) -> float:
    if given is None:
        return float("nan")
    if isinstance(given, dict):
        return float(given["from"])
    return float(given[0] if isinstance(given, tuple | list) else given)
