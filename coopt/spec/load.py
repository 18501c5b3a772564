"""The ground floor's front door: names to nouns, in SI, with everything a user can get wrong refused at once."""

from __future__ import annotations

import copy
import inspect
import math
from collections.abc import Mapping
from typing import Any

from coopt.problems import Problem, Refused, near
from coopt.spec import nouns, read
from coopt.spec.find import Folders, find, kind_of, names, spellings
from coopt.spec.layouts import layout, padded, practised
from coopt.spec.profiles import Profile, checked, facts, hardware_table, profile
from coopt.spec.resolve import resolve
from coopt.spec.schema import Mark
from coopt.spec.schema_models import Layers

__all__ = [
    "facts",
    "find",
    "hardware_table",
    "law",
    "layout",
    "load",
    "model",
    "names",
    "padded",
    "practised",
    "profile",
    "resolve",
]


def load(name: str, *, path: Folders = None, **settings: Any) -> nouns.Model | nouns.Law | nouns.Hardware:
    """The model, the law or the machine of that name, alias or file.

    `settings` are fields of a model to change, or `chips`, `stack` and `overrides` of a machine.

    >>> load("llama3-70b").d_model, load("dgx-h100", chips=1024).chips
    (8192.0, 1024.0)
    """
    kind = _kind(name, path)
    if kind == "model":
        return model(name, path=path, **settings)
    known = [] if kind == "law" else list(inspect.signature(resolve).parameters)[1:]
    wrong = [one for one in settings if one not in known]
    if wrong:
        expected = f"one of {', '.join(known)}: {name} is a machine" if known else f"no settings: {name} is a law"
        raise Refused(*(Problem(field=one, expected=expected, got=str(settings[one])[:80]) for one in wrong))
    return law(name, path=path) if kind == "law" else resolve(name, path=path, **settings)


def _kind(name: str, path: Folders) -> str:
    if name.endswith((".yaml", ".yml")):
        return str(read.head(find("model", name, path=path), ("kind",)).get("kind"))
    if kind := kind_of(name, _LOADED, path=path):
        return kind
    hint = near(name, spellings(_LOADED, path=path))
    raise Refused(Problem(field="name", expected="a model, a law or a machine", got=name[:80], hint=hint))


_LOADED = ("model", "law", "system", "chip")


def model(name: str, *, path: Folders = None, **overrides: Any) -> nouns.Model:
    """The model of that name, alias or file, with some fields changed.

    Fields of a layer kind are written `layers.0.count`, or `count` alone where there is one kind. Raises Refused.

    >>> model("llama3-70b", count=40).kinds[0].count
    40.0
    """
    given = profile("model", name, path=path)
    if overrides:
        given = _changed(given, overrides)
    fields = given.fields
    scale = {"rms": 1.0, "layer": 2.0}[fields.norm]
    return nouns.Model(
        name=fields.name,
        source=str(given.data["sources"][fields.source]["title"]),
        d_model=fields.d_model,
        vocab=fields.vocab,
        tied=float(fields.tied),
        positions=fields.positions,
        norms=scale * fields.final_norm,
        context=fields.context or 0.0,
        kinds=tuple(_layer(layer, scale) for layer in fields.layers),
    )


def _layer(layer: Layers, scale: float) -> nouns.LayerKind:
    numbers = {
        key: getattr(layer, key) for key in type(layer).model_fields if key not in ("mixer", "feedforward", "notes")
    }
    numbers["kv_heads"] = layer.kv_heads or layer.heads
    numbers["norms"] = 2.0 * scale if layer.norms is None else layer.norms
    given = {key: float(value) for key, value in numbers.items() if value is not None}
    return nouns.LayerKind(mixer=layer.mixer, feedforward=layer.feedforward, **given)


def _changed(given: Profile, overrides: Mapping[str, Any]) -> Profile:
    """The profile of a model with some fields set; what is wrong is said of the field, for it stands on no line."""
    data = copy.deepcopy(given.data)
    top = [key for key in type(given.fields).model_fields if key not in ("kind", "sources", "layers", "missing")]
    problems = []
    for field, value in overrides.items():
        value = read.plain(value) if isinstance(value, str) else value
        words = field.split(".")
        at = words[1] if len(words) == 3 and words[0] == "layers" else "0" if len(data["layers"]) == 1 else ""
        if field in top:
            data[field] = value
        elif (
            words[-1] in Layers.model_fields and at.isdigit() and int(at) < len(data["layers"]) and len(words) in (1, 3)
        ):
            data["layers"][int(at)][words[-1]] = value
        else:
            known = [*top, *(f"layers.{i}.{key}" for i in range(len(data["layers"])) for key in Layers.model_fields)]
            known += list(Layers.model_fields) if len(data["layers"]) == 1 else []
            hint = near(field, known)
            problems.append(Problem(field=field[:80], expected="a field of the model", got="none", hint=hint))
    if problems:
        raise Refused(*problems)
    return checked("model", data, {(): Mark("", 0)}, given.path)


def law(name: str, *, path: Folders = None) -> nouns.Law:
    """The quality law of that name, alias or file; a range's open end is 0 or infinity. Raises Refused.

    >>> law("chinchilla").form
    'dense'
    """
    given = profile("law", name, path=path)
    fields = given.fields
    constants = {key: getattr(fields.constants, key) for key in ("E", "A", "alpha", "B", "beta")}
    batch = fields.critical_batch
    return nouns.Law(
        name=fields.name,
        source=str(given.data["sources"][fields.source]["title"]),
        form=fields.form,
        **{key: constant.value for key, constant in constants.items()},
        errors=tuple(0.0 if constant.error is None else constant.error for constant in constants.values()),
        sparsity=tuple(constant.value for constant in fields.sparsity.values()),
        **{key: _range(getattr(fields.range, key)) for key in _RANGES},
        critical=(batch.coefficient, batch.exponent) if batch else (0.0, 0.0),
    )


_RANGES = ("parameters", "tokens", "aspect", "vocabulary", "experts")


def _range(given: tuple[float | None, float | None] | None) -> tuple[float, float]:
    low, high = given or (None, None)
    return (0.0 if low is None else low, math.inf if high is None else high)
