"""Reading a scenario: every problem at once, each with its line; and the assumptions a plan has to repeat."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from coopt import units
from coopt.problems import Problem, Refused
from coopt.roadmap import quarters
from coopt.roadmap.scenario_schema import Scenario, Site
from coopt.spec import read, schema
from coopt.spec.find import Folders
from coopt.spec.profiles import profile
from coopt.spec.schema import Marks
from coopt.spec.schema_types import Quantity, Strict


def scenario(
    name: str | Path, *, path: Folders = None, overrides: Mapping[str, Any] | None = None
) -> tuple[Scenario, Marks]:
    """The scenario of that name or file, and the line of each of its fields; Refused with every problem there is.

    `path` are folders to look in first; `overrides` sets fields by dotted path: `{"capital.limit": "50 GUSD"}`.
    """
    given = profile("scenario", str(name), path=path, schema=Scenario)
    parsed, problems = given.fields, []
    if overrides:
        data = copy.deepcopy(given.data)
        for field, value in overrides.items():
            _override(data, field.split("."), value, field)
        parsed, problems = schema.validate(Scenario, data, given.marks)
    problems = problems or list(_inconsistencies(parsed, given.marks))
    if problems:
        raise Refused(*problems)
    return parsed, given.marks


def assumptions(parsed: Strict, *, at: str = "") -> tuple[str, ...]:
    """A sentence for each quantity that is assumed, with the rule it follows."""
    found = []
    for field in type(parsed).model_fields:
        value, place = getattr(parsed, field), f"{at}.{field}" if at else field
        for index, part in enumerate(value if isinstance(value, tuple) else (value,)):
            where = f"{place}.{_called(part, index)}" if isinstance(value, tuple) else place
            if isinstance(part, Quantity):
                found += [_sentence(part, type(parsed), field, where)] if part.kind == "assumed" else []
            elif isinstance(part, Site):
                found += [f"{where}: power assumed; {said(part.notes)}"] if part.kind == "assumed" else []
            elif isinstance(part, Strict):
                found += assumptions(part, at=where)
    return tuple(found)


def _called(part: Any, index: int) -> str:
    return str(getattr(part, "site", None) or getattr(part, "system", None) or getattr(part, "name", None) or index)


def _sentence(quantity: Quantity, owner: Any, field: str, where: str) -> str:
    expected = {extra.expected for extra in schema.at(owner, (field, "value")).__metadata__}
    dimension = next((_DIMENSIONS[words] for words in expected if words in _DIMENSIONS), "")
    return f"{where} = {_written(quantity.value, dimension)}" + (f": {said(quantity.notes)}" if quantity.notes else "")


def said(notes: str | tuple[str, ...] | None) -> str:
    """Notes as one sentence.

    >>> said(("one", "two")), said(None)
    ('one; two', '')
    """
    return notes if isinstance(notes, str) else "; ".join(notes or ())


def _written(value: Any, dimension: str) -> str:
    if isinstance(value, str):
        return value
    if dimension.startswith("USD") and value >= 1e9:
        return f"{value / 1e9:g} G{dimension}"
    return units.show(value, dimension) if dimension else f"{value:g}"


_DIMENSIONS = {units.describe(d)[0]: d for d in ("W", "USD", "USD/yr", "USD/W/yr", "USD/J")}


def _override(data: Any, path: list[str], value: Any, field: str) -> None:
    for key in path[:-1]:
        data = (
            data[int(key)]
            if isinstance(data, list) and key.isdigit() and int(key) < len(data)
            else (data.get(key) if isinstance(data, dict) else None)
        )
    given = read.plain(value) if isinstance(value, str) else value
    if isinstance(data, dict):
        old = data.get(path[-1])
        if isinstance(old, dict) and "value" in old and not isinstance(given, dict):
            # A quantity keeps its place and loses its source: the number is now the asker's own.
            given = {**old, "value": given, "kind": "assumed", "notes": "set for this plan"}
        data[path[-1]] = given
    elif isinstance(data, list) and path[-1].isdigit() and int(path[-1]) < len(data):
        data[int(path[-1])] = given
    else:
        raise Refused(Problem(field=f"scenario.{field}", expected="a field of the scenario", got="no such place"))


def _inconsistencies(parsed: Scenario, marks: Marks) -> Iterator[Problem]:
    """What single fields cannot show."""
    first, last = quarters.number(parsed.quarters.first), quarters.number(parsed.quarters.last)
    if not first < last < first + 80:
        expected = f"a later quarter than {parsed.quarters.first}, at most 20 years on"
        yield schema.problem(marks, ("quarters", "last"), expected, parsed.quarters.last)
    until = parsed.quarters.until or parsed.quarters.last
    if not last <= quarters.number(until) < first + 80:
        yield schema.problem(marks, ("quarters", "until"), f"{parsed.quarters.last} or later", until)
    for i, site in enumerate(parsed.sites):
        for quarter in site.added:
            if not first <= quarters.number(quarter) <= last:
                yield schema.problem(marks, ("sites", i, "added", quarter), "a quarter of the horizon", quarter)
    for i, milestone in enumerate(parsed.milestones):
        if not first <= quarters.number(milestone.by) <= last:
            yield schema.problem(marks, ("milestones", i, "by"), "a quarter of the horizon", milestone.by)
    for field, names in (
        ("sites", [site.site for site in parsed.sites]),
        ("chips", [chip.system for chip in parsed.chips]),
        ("training.ladder", [rung.name for rung in parsed.training.ladder]),
    ):
        for i, name in enumerate(names):
            if name in names[:i]:
                yield schema.problem(marks, (*field.split("."), i), "a name not used before", name)
        if not names:
            yield schema.problem(marks, tuple(field.split(".")), "at least one", "none")
    for field in ("chips", "durations"):
        given = getattr(parsed.training, field)
        if not given or list(given) != sorted(set(given)):
            yield schema.problem(marks, ("training", field), "rising numbers", str(list(given)), "write `[1, 2, 4]`")
    reference, known = parsed.serving.reference, {part.system for part in (*parsed.chips, *parsed.fleet)}
    if reference not in known:
        yield schema.problem(
            marks, ("serving", "reference"), "a system of the scenario", reference, schema.near(reference, known)
        )
    if parsed.capital.initial.value > parsed.capital.limit.value:
        got = units.show(parsed.capital.initial.value, "USD")
        yield schema.problem(marks, ("capital", "initial"), "at most `capital.limit`", got)
