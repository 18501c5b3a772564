"""A `predict` document: the step of every row of a table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from coopt.report import words
from coopt.report.grid import Column, Grid, grid
from coopt.report.page import Page, Section


def grids(document: Mapping[str, Any]) -> tuple[Grid, ...]:
    """One table: a row of the document a row."""
    body = []
    for row in words.entries(document, "rows"):
        cells = (words.plain(row.get("id")), words.seconds(row.get("predicted_step_time")))
        cells += (words.large(row.get("predicted_tokens_per_second_per_chip")),)
        cells += (words.memory(row.get("predicted_memory")), words.plain(row.get("fidelity")))
        body.append((*cells, words.plain(row.get("note") or "")))
    heads = (Column("row", words=True, width=24), Column("step time"), Column("tokens/s\na chip"), Column("memory"))
    heads += (Column("fidelity", words=True, width=13), Column("note", words=True, width=34))
    return (grid("Predictions", heads, body, empty="the table has no rows"),)


def page(document: Mapping[str, Any]) -> Page:
    """The table."""
    rows = Section(name="rows", title="", grids=grids(document))
    return Page(kicker="coopt predict", title="Predictions", sections=(rows,))
