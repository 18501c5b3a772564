"""A page as data: sections of sentences, figures by name and tables; `html` and `tables` tell it.

Every kind of document has one module that turns it into a `Page`; nothing in a page is computed beyond shares and
differences of what the document says.
"""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Mapping
from typing import Any

from coopt.report import words
from coopt.report.grid import Column, Grid, grid


@dataclasses.dataclass(frozen=True)
class Fact:
    """One number worth reading from across the room."""

    label: str
    value: str
    note: str = ""


@dataclasses.dataclass(frozen=True)
class Section:
    """A heading and what stands under it."""

    name: str  # the anchor; ours, never from a document
    title: str
    sentences: tuple[str, ...] = ()
    figures: tuple[str, ...] = ()  # names of `figures.draw`
    grids: tuple[Grid, ...] = ()
    folded: tuple[Grid, ...] = ()  # tables shown when asked for
    items: tuple[str, ...] = ()
    command: str = ""
    half: bool = False  # stands beside its neighbour where the page is wide enough


@dataclasses.dataclass(frozen=True)
class Page:
    """What a document says, in reading order."""

    kicker: str
    title: str
    about: str = ""
    lead: tuple[str, ...] = ()
    facts: tuple[Fact, ...] = ()
    sections: tuple[Section, ...] = ()


def evidence(document: Mapping[str, Any], *, say: Any = words.seconds) -> Section:
    """The evidence card: how sure, from what, assuming what, and what was measured nearby."""
    rows = [
        ("interval", words.interval(document.get("interval"), say)),
        ("fidelity", words.plain(document.get("fidelity"))),
        ("software stack", words.plain(document.get("stack"))),
    ]
    moved = words.mapped(document.get("transfer"))
    if moved:
        said_of = f"{words.percent(moved.get('mape'))} (mean of {words.count(moved.get('rows'))} rows"
        rows.append(
            (f"error of {words.plain(moved.get('of'))} left out", f"{said_of}, {words.plain(moved.get('date'))})")
        )
    if document.get("mfu_convention") is not None:
        rows.append(("FLOP convention", words.plain(document["mfu_convention"])))
    near = [_near(n if isinstance(n, Mapping) else {"id": n}) for n in words.listed(document.get("nearest"))]
    columns = (Column("measurement", words=True), Column("distance"), Column("measured"), Column("predicted"))
    assumed = tuple(words.sentence(a) for a in words.listed(document.get("assumed")))
    return Section(
        name="evidence",
        title="Assumptions and evidence",
        sentences=() if assumed else ("Nothing beyond the profiles and the study was assumed.",),
        items=assumed,
        grids=(
            grid("How sure", (Column("", words=True), Column("", words=True)), rows),
            grid(
                "Nearest measurements", (*columns, Column("our error")), near, empty="no measurement is near this one"
            ),
        ),
    )


def _near(row: Mapping[str, Any]) -> tuple[str, ...]:
    what = f"\n{words.plain(row['what'])}" if row.get("what") else ""
    return (
        words.plain(row.get("id")) + what,
        said(row.get("distance")),
        words.seconds(row.get("measured")),
        words.seconds(row.get("predicted")),
        error(row.get("predicted"), row.get("measured")),
    )


def said(value: Any) -> str:
    """A number whose unit the reader knows from its column, or `not known`."""
    number = words.figure(value)
    return words.digits(number) if number is not None else words.plain(value)


def error(predicted: Any, measured: Any) -> str:
    """Predicted over measured less one, as a signed percentage.

    >>> error(1.1, 1.0), error(None, 1.0)
    ('+10.0%', 'not known')
    """
    p, m = words.figure(predicted), words.figure(measured)
    return words.NOT_KNOWN if p is None or not m else words.signed(p / m - 1)


def around(value: Any, interval: Any) -> str:
    """How far an interval reaches below and above a value.

    >>> around(10.0, [9.0, 12.0])
    '-10/+20%'
    """
    number, ends = words.figure(value), words.span(interval)
    if not number or ends is None:
        return ""
    low, high = (words.signed(end / number - 1, places=0) for end in ends)
    return f"{low.removesuffix('%')}/{high}"


def provenance(document: Mapping[str, Any], *command: Any) -> Section:
    """When, from which run, with which versions, and how to do it again: `command` is quoted for a shell."""
    rows = [(name, words.plain(document[name])) for name in ("started", "run") if name in document]
    rows += [(words.plain(k), words.plain(v)) for k, v in sorted(words.mapped(document.get("versions")).items())]
    own = words.listed(document.get("argv"))  # what the reader typed, where the document remembers it
    return Section(
        name="provenance",
        title="Where this comes from",
        sentences=("To do it again:",),
        command=shlex.join(words.plain(word) for word in own or command),
        grids=(grid("", (Column("", words=True), Column("", words=True)), rows),),
    )


def pairs(title: str, mapping: Any, *, say: Any = said, heads: tuple[str, str] = ("", "")) -> Grid:
    """A mapping as a table of two columns."""
    rows = [(words.plain(k), say(v)) for k, v in words.mapped(mapping).items()]
    return grid(title, (Column(heads[0], words=True), Column(heads[1])), rows)
