"""A table as data, told three ways: text for a terminal, CSV for a spreadsheet; `page.html.j2` tells it as HTML."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from coopt.report.words import figure, plain

WIDTH = 100  # columns of a terminal that every table fits in
_FORMULA = tuple("=+-@\t\r\n|%") + ("\uff1d", "\uff0b", "\uff0d", "\uff20")  # full-width forms count too


@dataclasses.dataclass(frozen=True)
class Column:
    """A column's heading; numbers are set flush right, words flush left."""

    title: str
    words: bool = False
    width: int | None = None  # characters in a terminal; None: as wide as it must be


@dataclasses.dataclass(frozen=True)
class Grid:
    """A table of finished words."""

    title: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...] = ()
    strong: int | None = None  # the row that is the answer
    empty: str = "nothing to show"


def grid(title: str, columns: Iterable[Column], rows: Iterable[Sequence[str]], **more: Any) -> Grid:
    r"""A `Grid` whose every cell has been made harmless.

    >>> grid("t", [Column("a", words=True)], [["x\x07"]]).rows
    (('x�',),)
    """
    cells = tuple(tuple(_lines(cell) for cell in row) for row in rows)
    more["notes"] = tuple(plain(note) for note in more.get("notes", ()))
    return Grid(title=plain(title), columns=tuple(columns), rows=cells, **more)


def bare(table: Grid) -> Grid:
    """The table without its title, for a place that has one."""
    return dataclasses.replace(table, title="")


def _lines(cell: str) -> str:
    # A newline that we put into a cell ourselves stays; `plain` has taken away any that came with a name.
    return "\n".join(plain(line) for line in cell.split("\n"))


def text(table: Grid, *, width: int = WIDTH) -> str:
    """The table as lines of at most `width` characters, without colour or control characters.

    >>> print(text(grid("Rates", [Column("name", words=True), Column("value")], [["matmul", "1.5"]])))
    Rates
    <BLANKLINE>
    name    value
    ─────────────
    matmul    1.5
    """
    from rich import box
    from rich.table import Table
    from rich.text import Text

    lines = [*_wrapped(table.title, width), ""] if table.title else []
    if table.rows:
        gap = 1 if len(table.columns) < 8 else 0  # beside the one space that divides columns
        drawn = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, gap, 0, 0), expand=False)
        for column in table.columns:
            side = "left" if column.words else "right"
            drawn.add_column(Text(column.title), justify=side, overflow="fold", max_width=column.width)
        for row in table.rows:
            drawn.add_row(*(Text(cell) for cell in row))  # Text, not str: square brackets are not markup
        lines += _printed(drawn, width)
    else:
        lines += [f"({table.empty})"]
    for note in table.notes:
        lines += _wrapped(note, width)
    return "\n".join(lines)


def _printed(drawn: Any, width: int) -> list[str]:
    from rich.console import Console

    paper = io.StringIO()
    console = Console(
        file=paper, width=width, color_system=None, force_terminal=False, force_jupyter=False, legacy_windows=False
    )
    console.print(drawn)
    return [line.rstrip() for line in paper.getvalue().rstrip("\n").split("\n")]


def _wrapped(words: str, width: int) -> list[str]:
    from rich.text import Text

    return _printed(Text(plain(words), overflow="fold"), width) if words else []


def csv_text(records: Sequence[Mapping[str, Any]]) -> str:
    """Records as CSV with full precision; a cell that a spreadsheet would run is made words by an apostrophe.

    >>> print(csv_text([{"name": "=cmd()", "time": -0.5, "layout": {"tp": 8}, "loss": None}]), end="")
    name,time,layout.tp,loss
    '=cmd(),-0.5,8,
    """
    flat = [dict(_flat(record)) for record in records]
    names = list(dict.fromkeys(name for record in flat for name in record))
    paper = io.StringIO()
    writer = csv.writer(paper, lineterminator="\n")
    writer.writerow([_cell(name) for name in names])
    writer.writerows([[_cell(record.get(name)) for name in names] for record in flat])
    return paper.getvalue()


def _flat(record: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    secret = record.get("confidential") is True  # used, never printed: its name alone
    for name, value in record.items():
        if secret and name not in ("name", "field"):
            yield f"{prefix}{name}", "confidential"
        elif isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _cell(value: Any) -> str:
    if value is None or (isinstance(value, float) and figure(value) is None):
        return ""
    if isinstance(value, bool) or figure(value) is not None:
        return repr(value)
    said = plain(value if isinstance(value, str) else json.dumps(value, sort_keys=True, default=str))
    return f"'{said}" if said.lstrip().startswith(_FORMULA) else said
