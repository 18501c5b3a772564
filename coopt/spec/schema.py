"""Checking a file against its schema: every problem at once, each with its line and how to put it right.

A field's type carries what is expected of it in words (`schema_types`), so that one walk over the types words every
refusal, suggests the nearest known name for a wrong one, and tells a quantity from a plain field.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping
from typing import Any, Literal

import pydantic

from coopt.problems import Problem, ascii_safe, near, shown
from coopt.spec.read import Place
from coopt.spec.schema_types import Quantity, Scalar
from coopt.units import flag


@dataclasses.dataclass(frozen=True)
class Mark:
    """Where a field stands; lines and columns count from 1."""

    file: str
    line: int
    column: int = 1


Marks = Mapping[Place, Mark]


def inner(annotation: Any) -> Any:
    """An annotation without `| None`, keeping what `Annotated` says of how a value is read."""
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return next((a for a in typing.get_args(annotation) if a is not type(None)), annotation)
    said = getattr(annotation, "__metadata__", ())
    return typing.get_args(annotation)[0] if said and not any(isinstance(one, Scalar) for one in said) else annotation


def at(schema: Any, place: Place) -> Any:
    """The annotation of a field, or None where the schema has no such field."""
    for key in place:
        schema = inner(schema)
        origin, arguments = typing.get_origin(schema), typing.get_args(schema)
        if origin is tuple and isinstance(key, int):
            schema = arguments[0]
        elif origin is dict and isinstance(key, str):
            schema = arguments[1]
        elif isinstance(schema, type) and issubclass(schema, pydantic.BaseModel) and key in schema.model_fields:
            schema = schema.model_fields[key].rebuild_annotation()
        else:
            return None
    return inner(schema)


def is_quantity(annotation: Any) -> bool:
    """Whether a field is a value with a source."""
    return isinstance(annotation, type) and issubclass(annotation, Quantity)


def wanted(annotation: Any) -> tuple[str, str]:
    """What a field expects, and how to write it."""
    annotation = inner(annotation)
    for extra in getattr(annotation, "__metadata__", ()):
        if isinstance(extra, Scalar):
            return extra.expected, extra.hint
    if typing.get_origin(annotation) is Literal:
        return "one of " + ", ".join(map(str, typing.get_args(annotation))), ""
    if is_quantity(annotation):
        words, hint = wanted(at(annotation, ("value",)))
        example = hint.split("`")[1] if "`" in hint else "VALUE"
        return f"{words} with its source", f"write {{value: {example}, source: KEY, kind: published}}"
    if isinstance(annotation, type) and issubclass(annotation, pydantic.BaseModel):
        return "a mapping of " + ", ".join(list(annotation.model_fields)[:6]), ""
    return ("a list", "") if typing.get_origin(annotation) is tuple else ("a mapping", "")


def validate(schema: type[pydantic.BaseModel], data: Any, marks: Marks) -> tuple[Any, list[Problem]]:
    """The parsed file, or None, and every problem: fields, units, sources that are cited, fields said to be missing."""
    parsed, problems = None, []
    try:
        parsed = schema.model_validate(data)
    except pydantic.ValidationError as error:
        found = error.errors(include_url=False)
        inside = {place for e in found for n in range(len(e["loc"])) if (place := tuple(e["loc"][:n]))}
        # a list whose every element is wrong is not too short as well
        told = [e for e in found if not (e["type"] == "too_short" and tuple(e["loc"]) in inside)]
        problems = [_said(e, schema, data, marks) for e in told]
    if isinstance(data, dict):
        problems += _citations(data, marks) + _absences(schema, data, marks)
    ordered = sorted(dict.fromkeys(problems), key=lambda p: (p.file, p.line, p.field))
    return (None if ordered else parsed), ordered


def problem(marks: Marks, place: Place, expected: str, got: str, hint: str = "") -> Problem:
    """A problem at a place, on the line of the nearest field that the file does have."""
    known = place
    while known and known not in marks:
        known = known[:-1]
    mark = marks.get(known, Mark("", 1))
    said = ".".join(map(str, place[:-1] if len(place) > 1 and place[-1] == "value" else place))
    return Problem(
        file=mark.file, line=mark.line, field=ascii_safe(said)[:120] or "file", expected=expected, got=got, hint=hint
    )


def _said(error: Any, schema: Any, data: Any, marks: Marks) -> Problem:
    """One pydantic error as a problem."""
    place, kind, given = tuple(error["loc"]), error["type"], error["input"]
    hidden, got = _confidential(data, place), shown(given)
    expected, hint = wanted(at(schema, place))
    if kind == "coopt":
        expected, got, hint = (error["ctx"][key] for key in ("expected", "got", "hint"))
    elif kind == "extra_forbidden":
        parent = inner(at(schema, place[:-1]))
        known = getattr(parent, "model_fields", {})
        expected, got, hint = "a known field", shown(str(place[-1])), near(str(place[-1]), known)
    elif kind == "missing":
        got = "nothing"
    elif kind == "literal_error":
        hint = near(str(given), typing.get_args(at(schema, place)))
    return problem(marks, place, expected, "(confidential)" if hidden else got, hint)


def _confidential(data: Any, place: Place) -> bool:
    """Whether a place lies in something marked `confidential`: what was given there is not repeated."""
    for key in (*place, None):
        if isinstance(data, dict) and flag(data.get("confidential")):
            return True
        if isinstance(data, dict):
            data = data.get(key)
        elif isinstance(data, list) and isinstance(key, int) and key < len(data):
            data = data[key]
        else:
            return False
    return False


def _citations(data: dict[str, Any], marks: Marks) -> list[Problem]:
    """Every `source:` must be a key of `sources:`."""
    sources = data.get("sources")
    known = [str(key) for key in sources] if isinstance(sources, dict) else []
    found: list[Problem] = []

    def walk(value: Any, place: Place) -> None:
        if isinstance(value, dict):
            cited = value.get("source")
            if isinstance(cited, str) and cited not in known:
                found.append(problem(marks, (*place, "source"), "a key of `sources`", shown(cited), near(cited, known)))
            for key, part in value.items():
                if (*place, key) != ("sources",):
                    walk(part, (*place, key))
        elif isinstance(value, list):
            for index, part in enumerate(value):
                walk(part, (*place, index))

    walk(data, ())
    return found


def _absences(schema: Any, data: dict[str, Any], marks: Marks) -> list[Problem]:
    """What `missing:` names must be a field of the schema that is indeed not given."""
    missing = data.get("missing")
    found = []
    for field in missing if isinstance(missing, dict) else ():
        place = tuple(str(field).split("."))
        if at(schema, place) is None:
            candidates = getattr(at(schema, place[:-1]), "model_fields", {}) or getattr(schema, "model_fields", {})
            hint = near(place[-1], candidates)
            found.append(problem(marks, ("missing", field), "a field that could be given", shown(field), hint))
            continue
        value: Any = data
        for key in place:
            value = value.get(key) if isinstance(value, dict) else None
        if value is not None:
            found.append(problem(marks, ("missing", field), "a field that is not given", "a value for it", "keep one"))
    return found
