"""`table`: any document of the command line as text for a terminal, a hundred columns wide, without control characters.

>>> print(table({"models": [{"name": "llama3-70b", "layers": 80, "parameters": 70.554e9}]}))
Models
<BLANKLINE>
name        layers  parameters
──────────────────────────────
llama3-70b      80      70.6 G
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from coopt.report import (
    codesigned,
    compared,
    disagreed,
    explained,
    joined,
    listed,
    planned,
    scored,
    searched,
    suspected,
    traced,
    words,
)
from coopt.report.grid import WIDTH, Grid, csv_text, text
from coopt.report.page import Page, evidence

# The order matters: the first mark that a document carries says what it is.
_KINDS = (
    ("diagnose", ("spent", "suspects")),
    ("trace", ("trusted", "strays")),
    ("search", ("plans", "evaluated")),
    ("codesign", ("breakeven", "wishes")),
    ("joint", ("ways", "loss")),
    ("plan", ("deployments", "training_runs")),
    ("compare", ("ratio", "by_rate")),
    ("validate", ("scored", "mape")),
    ("explain", ("step_time", "memory", "verdict")),
)
ASSUMED = 12  # assumptions that a terminal shows one by one
_LISTS = {
    "search": "plans",
    "explain": "rows",
    "diagnose": "spent",
    "trace": "rows",
    "compare": "by_row",
    "plan": "deployments",
    "codesign": "chips",
    "joint": "ways",
    "validate": "points",
    "predict": "rows",
    "adversary": "disagreements",
    "hardware": "hardware",
    "models": "models",
    "runs": "runs",
}


def kind(document: Mapping[str, Any]) -> str:
    """Which command made a document: its own word for it, or the keys it carries.

    >>> kind({"plans": [], "evaluated": 0}), kind({"rows": [{"predicted_step_time": 1.0}]}), kind({"name": "b200"})
    ('search', 'predict', 'profile')
    """
    command = document.get("command")
    if isinstance(command, str) and command in _LISTS:
        return command
    for name, marks in _KINDS:
        if all(mark in document for mark in marks):
            return name
    for name in ("hardware", "models", "runs"):
        if isinstance(document.get(name), list | tuple):
            return name
    first = words.mapped(next(iter(words.listed(document.get("rows"))), None))
    return "predict" if "predicted_step_time" in first else "profile"


def page(document: Mapping[str, Any]) -> Page:
    """The page of any document."""
    made = {
        "search": searched.page,
        "explain": explained.page,
        "diagnose": suspected.page,
        "trace": traced.page,
        "compare": compared.page,
        "validate": scored.page,
        "plan": planned.page,
        "codesign": codesigned.page,
        "joint": joined.page,
    }
    name = kind(document)
    if name == "predict":
        table_of_rows = scored.predictions(document)
        return Page(kicker="coopt predict", title="Predictions", sections=(_only(table_of_rows),))
    return made.get(name, listed.page)(document)


def _only(table_of_rows: Grid) -> Any:
    from coopt.report.page import Section

    return Section(name="rows", title="", grids=(table_of_rows,))


def grids(document: Mapping[str, Any]) -> tuple[Grid, ...]:
    """The tables of any document, as a terminal shows them."""
    made = {
        "search": searched.grids,
        "explain": explained.grids,
        "diagnose": suspected.grids,
        "trace": traced.grids,
        "compare": compared.grids,
        "validate": scored.grids,
        "plan": planned.grids,
        "codesign": codesigned.grids,
        "joint": joined.grids,
        "predict": lambda d: (scored.predictions(d),),
        "adversary": disagreed.grids,
    }
    return made.get(kind(document), listed.grids)(document)


def table(document: Mapping[str, Any], *, width: int = WIDTH) -> str:
    """The document as text: the answer in sentences, tables, what was assumed. At most `width` columns."""
    paragraphs: list[str] = []
    name = kind(document)
    if name in ("search", "explain", "diagnose", "trace", "compare", "validate", "plan", "codesign", "joint"):
        paragraphs += [_fill(page(document).lead, width)]
    paragraphs += [text(g, width=width) for g in grids(document)]
    if name in ("search", "explain", "diagnose", "compare", "plan", "codesign", "joint"):
        paragraphs += _card(document, width)
    if name == "trace":
        paragraphs += [
            _fill([f"assumed: {words.sentence(one)}" for one in words.listed(document.get("assumed"))], width)
        ]
    if name == "search" and document.get("run") is not None:
        paragraphs += [f"run: {words.plain(document['run'])}"]
    return "\n\n".join(p for p in paragraphs if p)


def _fill(sentences: Sequence[str], width: int) -> str:
    import textwrap

    return "\n".join(textwrap.fill(words.plain(s), width, break_on_hyphens=False) for s in sentences)


def _card(document: Mapping[str, Any], width: int) -> list[str]:
    lines = [f"edge: {words.plain(hit)}" for hit in words.listed(document.get("boundary_hits"))]
    assumed = evidence(document).items
    lines += [f"assumed: {item}" for item in assumed[:ASSUMED]]
    more = len(assumed) - ASSUMED
    lines += [f"assumed: {more} further things, which --format=json and the report tell"] if more > 0 else []
    lines.append(f"fidelity: {words.plain(document.get('fidelity'))}, stack: {words.plain(document.get('stack'))}")
    return [_fill(lines, width)]


def csv_table(document: Mapping[str, Any]) -> str:
    """The main list of a document as CSV with full precision, spreadsheet formulas made words."""
    held = document.get(_LISTS.get(kind(document), "fields"))
    rows = held if isinstance(held, list | tuple) else words.listed(document.get("fields"))
    return csv_text([words.mapped(row) for row in rows])
