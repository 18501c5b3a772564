"""Profiles as validated data with provenance: one file, or a file over the one it extends. Needs no jax."""

from __future__ import annotations

import copy
import dataclasses
import functools
import math
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pydantic

from coopt.problems import Problem, Refused, near, shown
from coopt.spec import read, schema_fitted, schema_hardware, schema_models, schema_process, schema_spaces
from coopt.spec.find import Folders, entries, find, fold
from coopt.spec.read import Place
from coopt.spec.schema import Mark, problem, validate
from coopt.units import flag

SCHEMAS: Mapping[str, type[pydantic.BaseModel]] = MappingProxyType(
    {
        "chip": schema_hardware.Chip,
        "system": schema_hardware.System,
        "family": schema_fitted.Family,
        "stack": schema_fitted.Stack,
        "model": schema_models.Model,
        "law": schema_models.Law,
        "space": schema_spaces.Space,
        "process": schema_process.Process,
        "design": schema_process.Design,
    }
)
REFERENCES = {"system": {"chip": "chip"}, "chip": {"family": "family", "system": "system"}, "design": {"chip": "chip"}}
_OWN = ("kind", "name", "title", "aliases", "extends")  # what a file never takes from the one it extends


@dataclasses.dataclass(frozen=True)
class Profile:
    """A file that was read, merged and found right: as written (`data`), and in SI (`fields`)."""

    kind: str
    name: str
    title: str
    path: Path
    data: dict[str, Any]
    fields: Any
    marks: Mapping[Place, Mark]


@dataclasses.dataclass(frozen=True)
class Fact:
    """One field with where it comes from; a confidential one has no value here."""

    field: str
    value: str
    kind: str = ""
    source: str = ""
    date: str = ""
    notes: str = ""


@dataclasses.dataclass(frozen=True)
class HardwareRow:
    """A chip or a system in a listing; NaN is not known, or confidential."""

    kind: str
    name: str
    title: str
    chip: str = ""
    status: str = ""
    peak: float = math.nan  # FLOP/s, dense, 16 bit
    memory: float = math.nan  # B
    bandwidth: float = math.nan  # B/s
    watts: float = math.nan
    dollars_hour: float = math.nan
    date: str = ""
    missing: tuple[str, ...] = ()
    problems: tuple[Problem, ...] = ()


def profile(kind: str, name: str, *, path: Folders = None, schema: type[pydantic.BaseModel] | None = None) -> Profile:
    """The profile of a kind with that name, alias or path; Refused with every problem of its file.

    >>> profile("chip", "H100").fields.memory.bandwidth.value
    3350000000000.0
    """
    file = find(kind, name, path=path)
    data, marks = _merged(kind, file, path, ())
    return checked(kind, data, marks, file, schema=schema)


def chain(kind: str, name: str, *, path: Folders = None) -> tuple[Path, ...]:
    """The file of a kind with that name, then the one it extends, and so on: all that its fields may come from.

    >>> [file.name for file in chain("chip", "H100")]
    ['h100-sxm.yaml']
    """
    files = [find(kind, name, path=path)]
    while True:
        data, _ = _read(files[-1])
        parent = data.get("extends") if isinstance(data, dict) else None
        above = find(kind, parent, path=path, but=files[-1]) if isinstance(parent, str) else files[-1]
        if above in files:
            return tuple(files)
        files.append(above)


def checked(
    kind: str,
    data: dict[str, Any],
    marks: Mapping[Place, Mark],
    file: Path,
    *,
    schema: type[pydantic.BaseModel] | None = None,
) -> Profile:
    """Data validated against the schema of its kind; of another kind, that alone is said."""
    given = data.get("kind") if isinstance(data, dict) else None
    if isinstance(given, str) and given != kind:
        raise Refused(problem(marks, ("kind",), f"a file of kind: {kind}", shown(given)))
    fields, problems = validate(schema or SCHEMAS[kind], data, marks)
    if problems:
        raise Refused(*problems)
    return Profile(kind, fields.name, fields.title, file, data, fields, marks)


def check(
    files: Iterable[str | Path], *, path: Folders = None, schemas: Mapping[str, type[pydantic.BaseModel]] | None = None
) -> tuple[Problem, ...]:
    """Every problem of some files, by the schema of the kind each one names; `schemas` adds kinds of other rooms.

    What a file refers to is a name among these files, or one that can be found.
    """
    known = {**SCHEMAS, **(schemas or {})}
    problems: list[Problem] = []
    found: list[Profile] = []
    for file in map(Path, files):
        try:
            kind = _kind(file, known)
            data, marks = _merged(kind, file, path, ())
            found.append(checked(kind, data, marks, file, schema=known[kind]))
        except Refused as refusal:
            problems += refusal.problems
    here = {(one.kind, fold(one.name)) for one in found}
    return (*problems, *(wrong for one in found for wrong in _nowhere(one, here, path)))


def _nowhere(profile: Profile, here: Collection[tuple[str, str]], path: Folders) -> Iterator[Problem]:
    """The references of a file that lead to no file."""
    for field, kind in REFERENCES.get(profile.kind, {}).items():
        name = getattr(profile.fields, field)
        if name and (kind, fold(name)) not in here:
            try:
                find(kind, name, path=path)
            except Refused as refusal:
                first = refusal.problems[0]
                yield problem(profile.marks, (field,), first.expected, first.got, first.hint)


def _kind(file: Path, known: Mapping[str, Any]) -> str:
    data, positions = _read(file)
    kind = data.get("kind") if isinstance(data, dict) else None
    if isinstance(kind, str) and kind in known:
        return kind
    line = positions.get(("kind",), (1, 1))[0]
    hint = near(str(kind), known)
    got = "nothing" if kind is None else str(kind)[:60]
    raise Refused(Problem(file=str(file), line=line, field="kind", expected="a known kind of file", got=got, hint=hint))


def facts(profile: Profile) -> tuple[Fact, ...]:
    """Every field of a profile with its value as written, kind, source and date; confidential values are left out."""
    sources = profile.data.get("sources", {})
    found: list[Fact] = []

    def walk(value: Any, place: Place) -> None:
        field = ".".join(map(str, place))
        if isinstance(value, dict) and "source" in value and place:
            found.append(_fact(field, value, sources[value["source"]]))
        elif isinstance(value, dict):
            for key, part in value.items():
                walk(part, (*place, key))
        elif isinstance(value, list) and any(isinstance(part, dict) for part in value):
            for index, part in enumerate(value):
                walk(part, (*place, part.get("name", index) if isinstance(part, dict) else index))
        elif value is not None:
            found.append(Fact(field, ", ".join(map(str, value)) if isinstance(value, list) else str(value)))

    walk({key: part for key, part in profile.data.items() if key not in ("sources", "missing")}, ())
    missing = profile.data.get("missing") or {}
    return (*found, *(Fact(field, "not known", notes=str(reason)) for field, reason in missing.items()))


def _fact(field: str, given: dict[str, Any], source: dict[str, Any]) -> Fact:
    plain = {k: v for k, v in given.items() if k not in ("source", "kind", "disagree", "confidential", "notes")}
    value = str(plain.pop("value")) if "value" in plain else ", ".join(f"{k} {v}" for k, v in plain.items())
    said = [str(given[key]) for key in ("basis", "notes") if given.get(key)]
    if "low" in given or "high" in given:
        said.append(f"from {given.get('low', value)} to {given.get('high', value)}")
    said += [f"{other['source']} says {other['value']}" for other in given.get("disagree", ())]
    if flag(given.get("confidential")):
        value, said = "(confidential)", []
    when = str(given.get("date") or source["date"])
    return Fact(field, value, str(given.get("kind", "")), str(source["title"]), when, "; ".join(said))


def hardware_table(*, path: Folders = None) -> tuple[HardwareRow, ...]:
    """Every chip and every system, one row each; a file with problems has a row that holds them."""
    rows = []
    for kind in ("chip", "system"):
        for entry in entries(kind, path=path):
            try:
                rows.append(_row(profile(kind, str(entry.path), path=path)))
            except Refused as refusal:
                rows.append(HardwareRow(kind, entry.name, entry.title, problems=refusal.problems))
    return tuple(rows)


def _row(profile: Profile) -> HardwareRow:
    fields, chip = profile.fields, profile.kind == "chip"

    def value(quantity: Any) -> Any:
        return math.nan if quantity is None or quantity.confidential else quantity.value

    return HardwareRow(
        kind=profile.kind,
        name=profile.name,
        title=profile.title,
        chip="" if chip else fields.chip,
        status=fields.status or "",
        peak=value(fields.peak.bf16 or fields.peak.fp16) if chip else math.nan,
        memory=value(fields.memory.capacity) if chip else math.nan,
        bandwidth=value(fields.memory.bandwidth) if chip else math.nan,
        watts=value(fields.power.tdp if chip else fields.power.it_per_chip),
        dollars_hour=value(fields.price.hour),
        date=str(fields.available.value) if fields.available and not fields.available.confidential else "",
        missing=tuple(fields.missing),
    )


def _read(file: Path) -> tuple[Any, read.Positions]:
    try:
        status = file.stat()
    except (OSError, ValueError):
        return read.read(file)  # says what is wrong
    return _read_once(file, status.st_mtime_ns, status.st_size)


@functools.lru_cache(maxsize=500)  # a pure function of the file at that time; what it returns is never changed
def _read_once(file: Path, changed: int, size: int) -> tuple[Any, read.Positions]:
    return read.read(file)


def _merged(kind: str, file: Path, path: Folders, below: tuple[Path, ...]) -> tuple[Any, dict[Place, Mark]]:
    """A file's data over that of the file it extends, with the mark of each field in the file it stands in."""
    data, positions = _read(file)
    marks = {place: Mark(str(file), *position) for place, position in positions.items()}
    if not isinstance(data, dict):
        return data, marks
    if data.get("kind") != kind and below:
        raise Refused(_at_extends(marks, f"a {kind}", str(data.get("kind"))))
    name = data.get("extends")
    if not isinstance(name, str):
        return copy.deepcopy(data), marks
    if file.resolve() in below:
        raise Refused(_at_extends(marks, "a file that does not extend itself", " > ".join(p.stem for p in below)))
    try:
        parent = find(kind, name, path=path, but=file)
    except Refused as refusal:
        raise Refused(_at_extends(marks, f"a known {kind}", name[:80], refusal.problems[0].hint)) from None
    inherited, inherited_marks = _merged(kind, parent, path, (*below, file.resolve()))
    if not isinstance(inherited, dict):
        return inherited, inherited_marks
    return _over(data, marks, inherited, inherited_marks)


def _at_extends(marks: Mapping[Place, Mark], expected: str, got: str, hint: str = "") -> Problem:
    mark = marks.get(("extends",)) or marks.get(("kind",)) or Mark(next(iter(marks.values())).file, 1)
    return Problem(file=mark.file, line=mark.line, field="extends", expected=expected, got=got, hint=hint)


def _over(
    data: dict[str, Any], marks: dict[Place, Mark], inherited: dict[str, Any], inherited_marks: dict[Place, Mark]
) -> tuple[dict[str, Any], dict[Place, Mark]]:
    """One file over another: mappings join, quantities and lists are replaced, `missing` takes fields away."""
    inherited = copy.deepcopy({key: value for key, value in inherited.items() if key not in _OWN})
    _keep_sources_apart(data, inherited)
    for field in data["missing"] if isinstance(data.get("missing"), dict) else ():
        _take_away(inherited, str(field).split("."))
    merged_marks = {place: mark for place, mark in inherited_marks.items() if place and place[0] not in _OWN}

    def join(new: Any, old: Any, place: Place) -> Any:
        joins = isinstance(new, dict) and isinstance(old, dict) and "value" not in new and "value" not in old
        if joins:
            return {**old, **{key: join(v, old[key], (*place, key)) if key in old else v for key, v in new.items()}}
        for known in [known for known in merged_marks if known[: len(place)] == place]:
            del merged_marks[known]
        return new

    merged = join(copy.deepcopy(data), inherited, ())
    for field in list(merged["missing"]) if isinstance(merged.get("missing"), dict) else ():
        own = isinstance(data.get("missing"), dict) and field in data["missing"]
        if not own and _given(merged, field.split(".")):
            del merged["missing"][field]
    return merged, {**merged_marks, **marks}


def _keep_sources_apart(data: dict[str, Any], inherited: dict[str, Any]) -> None:
    """Renames an inherited source whose key now means another one, so that no number changes its source."""
    new, old = data.get("sources"), inherited.get("sources")
    if not isinstance(new, dict) or not isinstance(old, dict):
        return
    for key in [key for key in old if key in new and new[key] != old[key]]:
        renamed = f"{key} (extended)"
        while renamed in old or renamed in new:
            renamed += "'"
        old[renamed] = old.pop(key)
        _cite(inherited, key, renamed)


def _cite(value: Any, old: str, new: str) -> None:
    if isinstance(value, dict):
        if value.get("source") == old:
            value["source"] = new
        for part in value.values():
            _cite(part, old, new)
    elif isinstance(value, list):
        for part in value:
            _cite(part, old, new)


def _take_away(data: Any, keys: list[str]) -> None:
    for key in keys[:-1]:
        data = data.get(key) if isinstance(data, dict) else None
    if isinstance(data, dict):
        data.pop(keys[-1], None)


def _given(data: Any, keys: list[str]) -> bool:
    for key in keys:
        data = data.get(key) if isinstance(data, dict) else None
    return data is not None
