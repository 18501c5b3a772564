"""Tells: any document of the command line as text, as one HTML page, as figures, as CSV. Computes nothing.

`table(document)` is text for a terminal, `html_page(document)` a page, `write_report(document, path)` the page in a
file, `draw(document)` the figures as SVG, `csv_table(document)` the main list for a spreadsheet, `show(document)` an
object that a notebook displays. A document is what `--format=json` prints: a mapping in which null is `not known`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from coopt.report.figures import draw
    from coopt.report.html import html_page, write_report
    from coopt.report.notebook import show
    from coopt.report.tables import csv_table, table

__all__ = ["csv_table", "draw", "html_page", "show", "table", "write_report"]

# Imported when first used: the command line prints tables without loading matplotlib.
_ROOMS = {
    "csv_table": "tables",
    "draw": "figures",
    "html_page": "html",
    "show": "notebook",
    "table": "tables",
    "write_report": "html",
}


def __getattr__(name: str) -> Any:
    if name not in _ROOMS:
        raise AttributeError(f"module 'coopt.report' has no attribute {name!r}")
    return getattr(import_module(f"coopt.report.{_ROOMS[name]}"), name)
