"""A JSON job to nouns and back: what a process needs to know to measure, in plain numbers and words."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from coopt.problems import Problem, Refused
from coopt.spec.nouns import ORDERS, PRECISIONS, RECOMPUTE, SCHEDULES, LayerKind, Layout, Model, Precision

_CODES = {"recompute": RECOMPUTE, "schedule": SCHEDULES, "order": ORDERS}


def block_job(
    model: Model,
    layout: Layout,
    *,
    seq_len: int,
    part: str = "layer",
    layer: int = 0,
    target: str = "local",
    budget_s: float = 1.0,
    **more: Any,
) -> dict:
    """The job that measures one part of a model; `more` are further fields of a block job (see `coopt.measure.job`).

    >>> block_job(Model(kinds=(LayerKind(d_ff=8.0),)), Layout(), seq_len=16)["model"]["kinds"][0]["d_ff"]
    8.0
    """
    return {
        "kind": "block",
        "model": _plain(model),
        "layout": _plain(layout),
        "seq_len": int(seq_len),
        "part": part,
        "layer": layer,
        "target": target,
        "budget_s": budget_s,
        **more,
    }


def step_job(model: Model, layout: Layout, *, seq_len: int, target: str, **more: Any) -> dict:
    """The job that compiles a whole training step; `more` are further fields of a step job.

    >>> step_job(Model(kinds=(LayerKind(d_ff=8.0),)), Layout(), seq_len=16, target="tpu:v5e:2x2")["target"]
    'tpu:v5e:2x2'
    """
    return {
        "kind": "step",
        "model": _plain(model),
        "layout": _plain(layout),
        "seq_len": int(seq_len),
        "target": target,
        **more,
    }


def model_of(fields: Any) -> Model:
    """A `Model` from its fields, `kinds` a list of the fields of `LayerKind`; refuses fields that do not exist."""
    _fields("model", fields)
    kinds = fields.get("kinds")
    if not isinstance(kinds, list) or not kinds:
        raise Refused(Problem(field="model.kinds", expected="a list with a layer kind", got=repr(kinds)[:40]))
    built = tuple(_build(LayerKind, kind, f"model.kinds[{i}]") for i, kind in enumerate(kinds))
    rest = {name: value for name, value in fields.items() if name != "kinds"}
    return dataclasses.replace(_build(Model, rest, "model"), kinds=built)


def layout_of(fields: Any) -> Layout:
    """A `Layout` from its fields; `precision` is a recipe's name or its fields, coded fields may be words.

    >>> layout_of({"tp": 2, "recompute": "full", "precision": "fp32"}).recompute
    2.0
    """
    _fields("layout", fields)
    fields = dict(fields)
    recipe = fields.pop("precision", "bf16")
    if isinstance(recipe, dict):
        precision = _build(Precision, recipe, "layout.precision")
    elif recipe in PRECISIONS:
        precision = PRECISIONS[recipe]
    else:
        raise Refused(
            Problem(field="layout.precision", expected=f"one of {', '.join(PRECISIONS)}", got=repr(recipe)[:40])
        )
    for name, words in _CODES.items():
        if isinstance(fields.get(name), str):
            if fields[name] not in words:
                raise Refused(Problem(field=f"layout.{name}", expected=f"one of {', '.join(words)}", got=fields[name]))
            fields[name] = float(words.index(fields[name]))
    return dataclasses.replace(_build(Layout, fields, "layout"), precision=precision)


def whole(job: dict, name: str, default: int | None = None) -> int:
    """A field of a job that counts something."""
    value = job.get(name, default)
    number = not isinstance(value, bool) and isinstance(value, int | float)
    if not number or not 0 <= value < 2**31 or value != int(value):  # XLA counts with 32 bits
        raise Refused(Problem(field=name, expected="a whole number below 2^31", got=repr(value)[:40]))
    return int(value)


def real(job: dict, name: str, default: float) -> float:
    """A field of a job that is a number, infinity and NaN excluded."""
    value = job.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise Refused(Problem(field=name, expected="a number", got=repr(value)[:40]))
    return float(value)


def _fields(where: str, value: Any) -> None:
    if not isinstance(value, dict):
        raise Refused(Problem(field=where, expected="an object of fields", got=type(value).__name__))


def _build(cls: type, fields: Any, where: str) -> Any:
    _fields(where, fields)
    known = {f.name: f for f in dataclasses.fields(cls)}
    problems, values = [], {}
    for name, value in fields.items():
        words = known[name].metadata.get("role") if name in known else None
        if name not in known:
            hint = f"known: {', '.join(known)}"
            problems.append(Problem(field=f"{where}.{name}", expected="a known field", got=name, hint=hint))
        elif words and isinstance(known[name].default, str):
            values[name] = str(value)
        elif isinstance(value, bool | int | float) and math.isfinite(value):
            values[name] = int(value) if words else float(value)
        else:
            problems.append(Problem(field=f"{where}.{name}", expected="a finite number", got=repr(value)[:40]))
    if problems:
        raise Refused(*problems)
    return cls(**values)


def _plain(noun: Any) -> dict:
    """The fields of a noun that holds one candidate, as JSON; labels and NaN left out."""
    fields = {}
    for field in dataclasses.fields(noun):
        value = getattr(noun, field.name)
        role = field.metadata.get("role")
        if role == "static":
            fields[field.name] = value
        elif dataclasses.is_dataclass(value):
            fields[field.name] = _plain(value)
        elif isinstance(value, tuple):
            fields[field.name] = [_plain(v) for v in value]
        elif role is None and math.isfinite(float(value)):
            fields[field.name] = float(value)
    return fields
