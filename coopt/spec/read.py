"""YAML 1.2 files as plain data, with the line of every field, from bytes that nobody has to trust.

Cheap checks come first, on the bytes: size, encoding, nesting, number of entries. Then the events of ruamel's pure
parser are turned into dicts, lists, texts, numbers, booleans and None by the few lines here, so that nothing is ever
constructed, expanded or silently changed: aliases, anchors, tags, merge keys and duplicate keys are refused, and so
are numbers that other readers would take for something else (`010`, `.inf`, `1e400`).
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from ruamel.yaml import YAML, events
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from coopt import units
from coopt.problems import Problem, Refused

Place = tuple[str | int, ...]  # the way to a field: ("tiers", 0, "bandwidth")
Positions = Mapping[Place, tuple[int, int]]  # place -> (line, column), from 1

BYTES = 1_000_000
DEPTH = 50
NODES = 100_000
_WORDS = MappingProxyType(
    {"": None, "~": None, "null": None, "Null": None, "NULL": None}
    | {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
)
_NUMBERLIKE = re.compile(
    r"[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?|[+-]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)"
)


def read(path: str | Path) -> tuple[Any, Positions]:
    """The plain data of a YAML file and the position of every field; raises Refused with file and line."""
    path, file = Path(path), str(path)
    try:
        if not path.is_file():
            raise Refused(Problem(file=file, line=1, field="file", expected="a YAML file", got="none of that name"))
        with path.open("rb") as stream:
            data = stream.read(BYTES + 1)
    except (OSError, ValueError) as error:  # ValueError: a name with a NUL in it
        raise Refused(Problem(file=file, line=1, field="file", expected="a readable file", got=str(error))) from None
    return read_text(_decoded(data, file), file=file)


def read_text(text: str, *, file: str = "(text)") -> tuple[Any, Positions]:
    """As `read`, for YAML already in memory.

    >>> data, positions = read_text("memory: {capacity: 80 GiB}")
    >>> data, positions["memory", "capacity"]
    ({'memory': {'capacity': '80 GiB'}}, (1, 10))
    """
    _check_bulk(text, file)
    reading = _Reading(file=file, events=YAML(typ="safe", pure=True).parse(text))
    data = _guarded(reading, _document)
    if reading.problems:
        raise Refused(*reading.problems)
    return data, MappingProxyType(reading.positions)


def head(path: Path, keys: tuple[str, ...]) -> dict[str, Any]:
    """The values of some top-level keys, reading no further than the last of them; {} from a file that is no YAML.

    For listings: a broken file is still listed, and says what is wrong with it when it is loaded.
    """
    found: dict[str, Any] = {}
    try:
        with path.open("rb") as stream:
            text = _decoded(stream.read(BYTES + 1), str(path))
        _check_bulk(text, str(path))
        # What is nowhere before a colon need not be looked for to the end.
        keys = tuple(key for key in keys if re.search(rf"{key}['\"]?\s*:", text))
        reading = _Reading(file=str(path), events=YAML(typ="safe", pure=True).parse(text))
        while not isinstance(event := next(reading.events), events.MappingStartEvent):
            if isinstance(event, events.NodeEvent):
                return found
        while len(found) < len(keys) and isinstance(event := next(reading.events), events.ScalarEvent):
            value = _node(reading, next(reading.events), (event.value,))
            if event.value in keys:
                found[event.value] = value
    except (Refused, YAMLError, ValueError, OverflowError, OSError, StopIteration):
        return found
    return found


def plain(text: str) -> Any:
    """What an unquoted YAML 1.2 scalar stands for: None, a boolean, a number, or the text itself.

    >>> plain("1e12"), plain("true"), plain("no"), plain("1:30"), plain("80 GiB")
    (1000000000000.0, True, 'no', '1:30', '80 GiB')
    """
    if text in _WORDS:
        return _WORDS[text]
    if not _NUMBERLIKE.fullmatch(text):
        return text
    value = units.number(text)
    if value is None or len(text) > 80:
        hint = "write a finite decimal number without leading zeros, or put the text in quotes"
        raise Refused(Problem(expected="a number that means one thing", got=text[:60], hint=hint))
    return int(text) if re.fullmatch("[+-]?[0-9]+", text) else value


@dataclasses.dataclass
class _Reading:
    file: str
    events: Iterator[Any]
    problems: list[Problem] = dataclasses.field(default_factory=list)
    positions: dict[Place, tuple[int, int]] = dataclasses.field(default_factory=dict)
    nodes: int = 0
    place: Place = ()
    line: int = 1


def _decoded(data: bytes, file: str) -> str:
    def refused(expected, got, hint="", at=0):
        line = data.count(b"\n", 0, at) + 1
        return Refused(Problem(file=file, line=line, field="file", expected=expected, got=got, hint=hint))

    if len(data) > BYTES:
        raise refused("at most 1 MB", "more", "split it")
    if data.startswith((b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff")):
        raise refused("UTF-8 text", "a byte order mark", "save it as UTF-8 without one")
    if b"\0" in data:
        raise refused("text", "a NUL byte", at=data.index(b"\0"))
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise refused("UTF-8 text", f"the byte 0x{data[error.start]:02x}", "save it as UTF-8", error.start) from None


def _check_bulk(text: str, file: str) -> None:
    """Refuses what would keep the parser busy: it takes a second for 30,000 entries, and nesting costs squares."""

    def refused(line, expected, got):
        return Refused(Problem(file=file, line=line, field="file", expected=expected, got=got, hint="split it"))

    if len(text) > BYTES:
        raise refused(1, "at most 1 MB", "more")
    if text.count("\n") + text.count(",") > NODES // 4:
        raise refused(1, f"at most {NODES // 4} entries", "more")
    if long := re.search(r"[^\n]{20001}", text):
        raise refused(text.count("\n", 0, long.start()) + 1, "lines of at most 20,000 characters", "more")
    depth = 0
    for match in re.finditer(r"[\[\]{}]", text):
        depth = depth + 1 if match.group() in "[{" else max(depth - 1, 0)
        if depth > DEPTH:
            raise refused(text.count("\n", 0, match.start()) + 1, f"at most {DEPTH} open brackets", "more")


def _guarded(reading: _Reading, step) -> Any:
    """One step of reading, with the parser's own complaints said as problems."""
    try:
        return step(reading)
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else reading.line
        said = " ".join(part.strip() for part in (error.context, error.problem) if part)
    except (YAMLError, ValueError, OverflowError) as error:  # unprintable characters; escapes beyond Unicode
        line, said = reading.line, str(error).splitlines()[0]
    raise Refused(*reading.problems, _problem(reading, line, reading.place, "YAML", said[:200])) from None


def _problem(reading: _Reading, line: int, place: Place, expected: str, got: str, hint: str = "") -> Problem:
    field = ".".join(str(part) for part in place) or "file"
    return Problem(file=reading.file, line=line, field=field[:120], expected=expected, got=got, hint=hint)


def _document(reading: _Reading) -> Any:
    data, seen = None, False
    for event in reading.events:
        reading.line = event.start_mark.line + 1
        if isinstance(event, events.DocumentStartEvent) and (event.version or event.tags or seen):
            raise Refused(_problem(reading, reading.line, (), "one document without directives", "more"))
        if isinstance(event, events.NodeEvent):
            data, seen = _node(reading, event, ()), True
    if not seen or data is None:
        raise Refused(*reading.problems, _problem(reading, 1, (), "fields", "an empty file"))
    return data


def _node(reading: _Reading, event: Any, place: Place) -> Any:
    line, column = event.start_mark.line + 1, event.start_mark.column + 1
    reading.place, reading.line, reading.nodes = place, line, reading.nodes + 1
    reading.positions.setdefault(place, (line, column))
    if len(place) > DEPTH or reading.nodes > NODES:
        limit = f"at most {DEPTH} levels and {NODES} values"
        raise Refused(*reading.problems, _problem(reading, line, place[:3], limit, "more"))
    if isinstance(event, events.AliasEvent) or event.anchor:
        hint = "write the value out"
        reading.problems.append(_problem(reading, line, place, "no anchors and aliases", str(event.anchor)[:60], hint))
    tag = getattr(event, "tag", None)
    if tag:
        reading.problems.append(_problem(reading, line, place, "no tags", str(tag)[:60], "leave it out"))
    if isinstance(event, events.MappingStartEvent):
        return _mapping(reading, place)
    if isinstance(event, events.SequenceStartEvent):
        return _sequence(reading, place)
    if isinstance(event, events.AliasEvent) or event.style:
        return getattr(event, "value", None)
    try:
        return plain(event.value)
    except Refused as refusal:
        (said,) = refusal.problems
        reading.problems.append(_problem(reading, line, place, said.expected, said.got, said.hint))
        return None


def _sequence(reading: _Reading, place: Place) -> list[Any]:
    items: list[Any] = []
    while not isinstance(event := next(reading.events), events.SequenceEndEvent):
        items.append(_node(reading, event, (*place, len(items))))
    return items


def _mapping(reading: _Reading, place: Place) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    while not isinstance(event := next(reading.events), events.MappingEndEvent):
        line, column = event.start_mark.line + 1, event.start_mark.column + 1
        if not isinstance(event, events.ScalarEvent) or event.anchor or event.tag or event.value == "<<":
            raise Refused(*reading.problems, _problem(reading, line, place, "plain field names", "another kind of key"))
        inside = (*place, event.value[:200])
        if event.value in fields:
            before = reading.positions[inside][0]
            hint = f"it stands on line {before} already"
            reading.problems.append(_problem(reading, line, inside, "each field once", "a second one", hint))
        else:
            reading.positions[inside] = (line, column)
        value = _node(reading, next(reading.events), inside)
        fields.setdefault(event.value, value)
    return fields
