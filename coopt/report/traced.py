"""A `diagnose --trace` document as text: which row is slow, and how far the attribution can be trusted."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from coopt.report import words
from coopt.report.grid import Column, Grid, grid
from coopt.report.page import Page, Section

ROWS = 20  # that a terminal shows; the document has all
STRAYS = 8


def lead(document: Mapping[str, Any]) -> tuple[str, ...]:
    """What was traced, which row is slow by how much, and whether to believe it."""
    found = words.entries(document, "rows")
    span, said = words.figure(document.get("step_time")), words.figure(document.get("predicted_step_time"))
    counts = ((words.figure(document.get(name)) or 1.0, name) for name in ("runs", "devices"))
    runs, devices = (f"{words.count(n)} {name if n != 1 else name[:-1]}" for n, name in counts)
    first = f"{runs} on {devices}"
    took = f"{words.seconds(document.get('busy'))} of operations"
    first += f": {words.seconds(span)} each, {took}" if span else f": {took}"
    first += f", where pricing says {words.seconds(said)}." if said else "."
    slow = words.mapped(document.get("slowest"))
    row = next((r for r in found if (r.get("row"), r.get("phase")) == (slow.get("row"), slow.get("phase"))), {})
    sentences = [first]
    if row:
        name = " ".join(filter(None, (words.plain(row.get("row")), words.plain(row.get("phase")))))
        excess = words.figure(row.get("excess"))
        if excess is None:
            sentences.append(f"The longest row is {name}: {words.seconds(row.get('measured'))}.")
        elif excess > 0:
            beyond = f"{words.seconds(excess)} beyond the pace of the other rows"
            sentences.append(f"Look at {name} first: {words.seconds(row.get('measured'))}, {beyond}.")
        else:
            sentences.append("No row is slower than the others.")
    lost = words.percent(document.get("unmatched"))
    if not document.get("trusted"):
        sentences.append(f"{lost} of the time has no row: the attribution is not to be trusted.")
    elif words.figure(document.get("unmatched")):
        sentences.append(f"{lost} of the time has no row.")
    return tuple(sentences)


def rows(document: Mapping[str, Any]) -> Grid:
    """Rows, most beyond their pace first."""
    held = words.entries(document, "rows")
    shown = [row for row in held[:ROWS]] + [row for row in held[ROWS:] if row.get("row") == "unmatched"]
    body = [
        (
            words.plain(row.get("row")),
            words.plain(row.get("phase")),
            words.seconds(row.get("measured")) if words.figure(row.get("measured")) else "not seen",
            words.percent(row.get("share")),
            words.seconds(row.get("predicted")) if words.figure(row.get("predicted")) else "none",
            "" if words.figure(row.get("ratio")) is None else f"{row['ratio']:.2f}",
            "" if words.figure(row.get("excess")) is None else words.seconds(row["excess"]),
        )
        for row in shown
    ]
    columns = (Column("row", words=True), Column("phase", words=True), Column("measured"), Column("share"))
    columns += (Column("predicted"), Column("ratio"), Column("beyond pace"))
    if words.figure(document.get("predicted_step_time")) is None:  # the trace alone
        columns, body = columns[:4], [cells[:4] for cells in body]
    hidden = len(held) - len(shown)
    notes = (f"and {hidden} more rows: --format=json has all",) if hidden else ()
    return grid("Row by row", columns, body, notes=notes, empty="no operation in the trace")


def strays(document: Mapping[str, Any]) -> Grid:
    """The longest operations that belong to no row."""
    found = words.entries(document, "strays")[:STRAYS]
    body = [(words.plain(one.get("name"))[:70], words.seconds(one.get("time"))) for one in found]
    return grid("Without a row", (Column("scope or operation", words=True), Column("time")), body)


def grids(document: Mapping[str, Any]) -> tuple[Grid, ...]:
    """The tables of a terminal."""
    return (rows(document), strays(document)) if words.listed(document.get("strays")) else (rows(document),)


def section(document: Mapping[str, Any]) -> Section:
    """The trace as a part of a page about the run."""
    return Section(name="trace", title="What the profiler saw", sentences=lead(document), grids=grids(document))


def page(document: Mapping[str, Any]) -> Page:
    """A trace by itself."""
    items = tuple(words.sentence(one) for one in words.listed(document.get("assumed")))
    assumed = (Section(name="assumed", title="Assumptions", items=items),) if items else ()
    title = words.plain(document.get("design") or document.get("trace"))
    seen = Section(name="trace", title="What the profiler saw", grids=grids(document))
    return Page(kicker="coopt diagnose", title=title, lead=lead(document), sections=(seen, *assumed))
