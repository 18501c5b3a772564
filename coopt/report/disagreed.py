"""An `adversary` document: the candidates on which the model and its witnesses disagree most."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from coopt.report import words
from coopt.report.grid import Column, Grid, bare, grid
from coopt.report.page import Page, Section

_NOTES = (
    "floor: no machine is faster. A factor below 1 is a flaw of the model; one far above 1 is a place to look.",
    "replay: the pipeline event by event, with the model's own times of layers.",
)


def grids(document: Mapping[str, Any]) -> tuple[Grid, ...]:
    """One table: model over witness, both times, and the candidate."""
    rows = [
        (words.plain(one.get("witness")), f"{words.figure(one.get('factor')) or 0.0:.3f}",
         words.seconds(one.get("predicted_time")), words.seconds(one.get("witness_time")),
         f"{words.plain(one.get('hardware'))} x {words.count(one.get('chips'))}", words.plain(one.get("model")),
         words.plain(one.get("layout")))
        for one in words.entries(document, "disagreements")
    ]  # fmt: skip
    columns = (Column("witness", words=True), Column("factor"), Column("model says"), Column("witness says"),
               Column("machine", words=True), Column("shape", words=True), Column("layout", words=True))  # fmt: skip
    return (grid("Where the model and a witness disagree most", columns, rows, notes=_NOTES),)


def page(document: Mapping[str, Any]) -> Page:
    """The table, under its title."""
    (table,) = grids(document)
    rows = Section(name="rows", title="", grids=(bare(table),))
    return Page(kicker="coopt search --adversary", title=table.title, sections=(rows,))
