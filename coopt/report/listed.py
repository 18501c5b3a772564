"""Lists and details of profiles and runs: `hardware`, `models`, `runs`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from coopt.report import words
from coopt.report.grid import Column, Grid, bare, grid
from coopt.report.page import Page, Section, said

_SAY = {
    "peak": lambda v: words.large(v, "FLOP/s"),
    "bandwidth": lambda v: words.large(v, "B/s"),
    "memory": words.memory,
    "watts": lambda v: words.small(v, "W"),
    "price": words.dollars,
    "dollars": words.dollars,
    "parameters": words.large,
    "active": words.large,
    "date": lambda v: str(v) if isinstance(v, int | float) else words.plain(v),
    "year": lambda v: str(v),
}
_FIRST = ("name", "title", "kind")
_WIDE = {"name": 24, "title": 24, "source": 18, "missing": 22, "path": 40, "conclusion": 34}
_CUT = 34  # characters of a source in a listing; the detail has all of it


def cell(key: str, value: Any) -> str:
    """One value of a listing."""
    if key == "source" and isinstance(value, str) and len(value) > _CUT:
        return words.plain(value[: _CUT - 1]) + "…"
    if isinstance(value, list | tuple):
        return ", ".join(said(v) for v in value)
    if isinstance(value, Mapping):
        return said(value.get("value")) if "value" in value else ", ".join(f"{k} {said(v)}" for k, v in value.items())
    return _SAY.get(key, said)(value)


def listing(document: Mapping[str, Any], key: str) -> Grid:
    """One line for each entry of a list; the columns are what the entries carry."""
    rows = words.entries(document, key)
    names = list(dict.fromkeys(name for row in rows for name in row))
    names.sort(key=lambda name: _FIRST.index(name) if name in _FIRST else len(_FIRST))
    numbers = {n for n in names if any(words.figure(row.get(n)) is not None for row in rows)}
    heads = [Column(words.plain(n).replace("_", " "), words=n not in numbers, width=_WIDE.get(n, 16)) for n in names]
    body = [tuple(cell(name, row.get(name)) for name in names) for row in rows]
    return grid(key.replace("_", " ").capitalize(), heads, body, empty=f"no {key}")


def detail(document: Mapping[str, Any]) -> Grid:
    """Every field of one profile with its source, date and kind."""
    body = []
    for field, held in _fields(document):
        value = words.mapped(held)
        if value.get("confidential") is True:
            body.append((field, "confidential", "", "", ""))
            continue
        others = words.entries(value, "disagree")
        spoken = [said(value.get("value")), *(f"or {said(d.get('value'))} ({said(d.get('source'))})" for d in others)]
        marks = (words.plain(value.get(k) or "") for k in ("source", "date", "kind"))
        body.append((field, "\n".join(spoken), *marks))
    heads = (Column("field", words=True, width=26), Column("value", words=True, width=28))
    heads += (Column("source", words=True, width=24), Column("date", words=True), Column("kind", words=True))
    lacks = words.entries(document, "missing")
    notes = [f"not known: {words.plain(m.get('field'))}: {words.plain(m.get('reason'))}" for m in lacks if m]
    title = " - ".join(words.plain(document[k]) for k in ("name", "title") if document.get(k))
    return grid(title, heads, body, notes=notes)


def _fields(document: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    # Either a list of fields, or the profile itself: a tree whose ends are values or {value, source, ...}.
    given = document.get("fields")
    if given is not None and not isinstance(given, Mapping):
        yield from ((words.plain(words.mapped(f).get("field")), f) for f in words.listed(given))
        return
    skip = {"name", "title", "missing", "command", "fields"}
    yield from _ends(given if given is not None else {k: v for k, v in document.items() if k not in skip})


def _ends(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        name = f"{prefix}{words.plain(key)}"
        if isinstance(value, Mapping) and "value" not in value:
            yield from _ends(value, f"{name}.")
        elif isinstance(value, Mapping):
            yield name, value
        else:
            yield name, {"value": cell("", value)}


def grids(document: Mapping[str, Any]) -> tuple[Grid, ...]:
    """The tables of a terminal: a list where there is one, else one profile in detail."""
    for key in ("hardware", "models", "runs"):
        if isinstance(document.get(key), list | tuple):
            return (listing(document, key),)
    return (detail(document),)


def page(document: Mapping[str, Any]) -> Page:
    """A listing, or one profile."""
    tables = grids(document)
    return Page(
        kicker="coopt",
        title=tables[0].title or "profile",
        sections=(Section(name="list", title="", grids=tuple(map(bare, tables))),),
    )
