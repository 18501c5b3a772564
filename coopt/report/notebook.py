"""Documents in a notebook: an object whose HTML is a fragment of the report, without script and without style."""

from __future__ import annotations

import dataclasses
import html
from collections.abc import Mapping
from typing import Any

from coopt.report.figures import draw
from coopt.report.grid import Grid
from coopt.report.tables import grids, page, table


@dataclasses.dataclass(frozen=True)
class Shown:
    """A document that a notebook displays as figures and tables, and a terminal as text."""

    document: Mapping[str, Any]

    def __repr__(self) -> str:
        return table(self.document)

    def _repr_html_(self) -> str:
        said = "".join(f"<p>{html.escape(sentence)}</p>" for sentence in page(self.document).lead)
        drawn = "".join(_figure(d.svg, d.caption) for d in draw(self.document).values())
        return said + drawn + "".join(_table(each) for each in grids(self.document))


def show(document: Mapping[str, Any]) -> Shown:
    """The document as something a notebook can display.

    >>> show({"models": [{"name": "<b>", "layers": 2}]})._repr_html_().count("&lt;b&gt;")
    1
    """
    return Shown(document)


def _figure(svg: str, caption: str) -> str:
    # On a light card, whatever the notebook's own colours: a fragment brings no style sheet to turn its ink over.
    sized = svg.replace("<svg ", '<svg font-family="sans-serif" style="background: #fefefe" ', 1)
    return f"<figure>{sized}<figcaption>{html.escape(caption)}</figcaption></figure>"


def _table(grid: Grid) -> str:
    heads = "".join(f"<th>{_cell(column.title)}</th>" for column in grid.columns)
    body = "".join("<tr>" + "".join(f"<td>{_cell(cell)}</td>" for cell in row) + "</tr>" for row in grid.rows)
    notes = "".join(f"<p>{html.escape(note)}</p>" for note in grid.notes)
    title = f"<h4>{html.escape(grid.title)}</h4>" if grid.title else ""
    return f"{title}<table><thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table>{notes}"


def _cell(text: str) -> str:
    return html.escape(text).replace("\n", "<br>")
