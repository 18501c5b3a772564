"""Lists and details of profiles as text: chips, systems and what else there is, each with the columns that tell it."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Mapping
from typing import Any

from coopt.report import tables, words
from coopt.report.grid import Column, Grid, grid, text


def shown(document: Mapping[str, Any]) -> str:
    """A listing of hardware as a table of chips, one of systems and two lists; any other document as it is.

    >>> print(shown({"hardware": [{"kind": "stack", "name": "generic"}, {"kind": "stack", "name": "jax"}]}))
    stacks: generic, jax
    """
    if "hardware" not in document:
        return tables.table(document)
    rows = [words.mapped(row) for row in words.listed(document["hardware"])]
    kinds = {kind: [row for row in rows if row["kind"] == kind] for kind in ("chip", "system", "family", "stack")}
    blocks = [text(_chips(kinds["chip"]))] if kinds["chip"] else []
    blocks += [text(_systems(kinds["system"]))] if kinds["system"] else []
    names = {"families": kinds["family"], "stacks": kinds["stack"]}
    lists = [f"{word}: {', '.join(str(row['name']) for row in held)}" for word, held in names.items() if held]
    return "\n\n".join([*blocks, *map(_filled, lists)])


def _chips(rows: list[Mapping[str, Any]]) -> Grid:
    heads = (Column("chip", words=True, width=24), Column("16-bit peak"), Column("memory"), Column("bandwidth"))
    heads += (Column("power"), Column("$/h"), Column("from", words=True), Column("status", words=True, width=16))
    body = [
        (
            str(row["name"]),
            words.large(row["peak"], "FLOP/s"),
            words.memory(row["memory"]),
            words.large(row["bandwidth"], "B/s"),
            words.small(row["watts"], "W"),
            words.dollars(row["dollars_hour"]),
            str(row["date"] or words.NOT_KNOWN),
            re.split("[,;(]", str(row["status"]))[0].strip(),
        )
        for row in rows
    ]
    return grid("Chips", heads, body)


def _systems(rows: list[Mapping[str, Any]]) -> Grid:
    heads = (Column("system", words=True, width=28), Column("chip", words=True, width=20))
    heads += (Column("title", words=True, width=36), Column("IT power a chip"))
    body = [(str(r["name"]), str(r["chip"]), str(r["title"]), words.small(r["watts"], "W")) for r in rows]
    return grid("Systems", heads, body)


def _filled(line: str) -> str:
    return textwrap.fill(line, 100, subsequent_indent="  ")
