"""One self-contained page for any document: no request, no script, nothing live in any name it shows.

The policy in the page's head allows one thing, the style sheet whose hash it carries. Every word goes through the
template's escaping; figures are SVG that `svg.py` has rebuilt from elements and attributes it knows.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from coopt.report.figures import draw
from coopt.report.grid import bare
from coopt.report.page import Page
from coopt.report.svg import Drawing
from coopt.report.tables import page
from coopt.store.files import write_whole

_TEMPLATES = Path(__file__).parent / "templates"


def html_page(document: Mapping[str, Any]) -> str:
    """The document as one HTML file; the same document gives the same bytes."""
    return render(page(document), draw(document))


def render(told: Page, drawings: Mapping[str, Drawing]) -> str:
    """A page and its figures as one HTML file; a section leaves out a figure that is not there."""
    style = (_TEMPLATES / "page.css").read_text(encoding="utf-8")
    made = _environment().get_template("page.html.j2")
    return made.render(page=told, drawings=drawings, style=style, policy=policy(style), bare=bare) + "\n"


def policy(style: str) -> str:
    """A content security policy under which nothing loads and only this style sheet applies."""
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    return f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"


@functools.cache
def _environment() -> Any:
    import jinja2
    from markupsafe import Markup

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=False,
        lstrip_blocks=False,
    )
    # The two texts that are not escaped: our own style sheet, and SVG that went through `svg.drawing`.
    environment.filters["ours"] = lambda style: Markup(style)
    environment.filters["svg"] = lambda svg: Markup(svg)
    return environment


def write_report(document: Mapping[str, Any], path: str | os.PathLike[str]) -> Path:
    """Writes `html_page(document)` to `path`, whole or not at all, and returns the path."""
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    write_whole(target, html_page(document).encode("utf-8"))
    return target
