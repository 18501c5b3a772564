"""`table`: any document of the command line as text for a terminal, a hundred columns wide, without control characters.

>>> print(table({"models": [{"name": "llama3-70b", "layers": 80, "parameters": 70.554e9}]}))
Models
<BLANKLINE>
name        layers  parameters
──────────────────────────────
llama3-70b      80      70.6 G
"""

from __future__ import annotations

import textwrap
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
    predicted,
    scored,
    searched,
    suspected,
    traced,
    words,
)
from coopt.report.grid import WIDTH, Grid, csv_text, text
from coopt.report.page import Page, evidence

# Of each kind: the module that tells it, its main list, and the keys by which a document without its command's word is
# known. The order matters: the first kind whose keys are all there it is.
_KINDS: dict[str, tuple[Any, str, tuple[str, ...]]] = {
    "diagnose": (suspected, "spent", ("spent", "suspects")),
    "trace": (traced, "rows", ("trusted", "strays")),
    "search": (searched, "plans", ("plans", "evaluated")),
    "codesign": (codesigned, "chips", ("breakeven", "wishes")),
    "joint": (joined, "ways", ("ways", "loss")),
    "plan": (planned, "deployments", ("deployments", "training_runs")),
    "compare": (compared, "by_row", ("ratio", "by_rate")),
    "validate": (scored, "points", ("scored", "mape")),
    "explain": (explained, "rows", ("step_time", "memory", "verdict")),
    "predict": (predicted, "rows", ()),
    "adversary": (disagreed, "disagreements", ()),
    "hardware": (listed, "hardware", ()),
    "models": (listed, "models", ()),
    "runs": (listed, "runs", ()),
    "profile": (listed, "fields", ()),
}
CARDS = ("search", "explain", "diagnose", "compare", "plan", "codesign", "joint")  # kinds that end in an evidence card
ASSUMED = 12  # assumptions that a terminal shows one by one


def kind(document: Mapping[str, Any]) -> str:
    """Which command made a document: its own word for it, or the keys it carries.

    >>> kind({"plans": [], "evaluated": 0}), kind({"rows": [{"predicted_step_time": 1.0}]}), kind({"name": "b200"})
    ('search', 'predict', 'profile')
    """
    command = document.get("command")
    if isinstance(command, str) and command in _KINDS:
        return command
    for name, (_, _, marks) in _KINDS.items():
        if marks and all(mark in document for mark in marks):
            return name
    for name in ("hardware", "models", "runs"):
        if isinstance(document.get(name), list | tuple):
            return name
    return "predict" if "predicted_step_time" in words.first(document, "rows") else "profile"


def page(document: Mapping[str, Any]) -> Page:
    """The page of any document."""
    return _KINDS[kind(document)][0].page(document)


def grids(document: Mapping[str, Any]) -> tuple[Grid, ...]:
    """The tables of any document, as a terminal shows them."""
    return _KINDS[kind(document)][0].grids(document)


def table(document: Mapping[str, Any], *, width: int = WIDTH) -> str:
    """The document as text: the answer in sentences, tables, what was assumed. At most `width` columns."""
    name = kind(document)
    paragraphs = [_fill(page(document).lead, width), *(text(g, width=width) for g in grids(document))]
    if name in CARDS:
        paragraphs += _card(document, width)
    if name == "trace":
        assumed = words.listed(document.get("assumed"))
        paragraphs.append(_fill([f"assumed: {words.sentence(one)}" for one in assumed], width))
    if name == "search" and document.get("run") is not None:
        paragraphs.append(f"run: {words.plain(document['run'])}")
    return "\n\n".join(p for p in paragraphs if p)


def _fill(sentences: Sequence[str], width: int) -> str:
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
    held = document.get(_KINDS[kind(document)][1])
    rows = held if isinstance(held, list | tuple) else words.listed(document.get("fields"))
    return csv_text([words.mapped(row) for row in rows])
