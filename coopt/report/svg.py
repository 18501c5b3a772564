"""From a matplotlib figure to an SVG that can stand inside a page with a strict policy: no style, no script, no link.

Matplotlib writes `style="..."` and ids that repeat between figures. Here styles become attributes, colours get a class
(so that a page can turn them over for a dark screen), ids that nothing points at go and the others get the figure's
name in front, numbers are cut to a hundredth of a point, and a title and a description go in for those who listen.
"""

from __future__ import annotations

import dataclasses
import io
import re
import warnings
from typing import Any
from xml.etree import ElementTree

from coopt.report.words import plain

_SVG = "{http://www.w3.org/2000/svg}"
_LINK = "{http://www.w3.org/1999/xlink}href"
_NUMBER = re.compile(r"-?\d+\.\d+")
_POINTS = {"d", "points", "transform", "x", "y", "width", "height", "cx", "cy", "r", "font-size", "stroke-width"}
_KEPT = {"svg", "g", "path", "defs", "use", "clipPath", "rect", "text", "tspan", "circle", "line", "polygon", "pattern"}

# Okabe and Ito's palette, which people of every colour vision tell apart; a page can restyle each by its name.
COLOURS = {
    "blue": "#0072b2",
    "orange": "#e69f00",
    "green": "#009e73",
    "pink": "#cc79a7",
    "red": "#d55e00",
    "sky": "#56b4e9",
    "grey": "#8a8f98",
    "ink": "#1b1f24",
    "faint": "#d6d9de",
    "paper": "#fefefe",
}
_NAMES = {value: name for name, value in COLOURS.items()}


@dataclasses.dataclass(frozen=True)
class Drawing:
    """A figure as SVG text, what it is called and what it shows."""

    name: str
    title: str
    caption: str
    svg: str


def drawing(figure: Any, *, name: str, title: str, caption: str) -> Drawing:
    """A matplotlib `Figure` as a `Drawing`; the same figure gives the same bytes."""
    import matplotlib

    paper = io.BytesIO()
    # Text stays text; ids come from a fixed salt and dates stay out, so that a report made twice is the same file.
    settled: Any = {"svg.fonttype": "none", "svg.hashsalt": "coopt", "path.simplify": False}
    with matplotlib.rc_context(settled), warnings.catch_warnings():
        # A letter that matplotlib's font lacks is drawn by the reader's own font: nothing is missing.
        warnings.filterwarnings("ignore", message="Glyph .* missing from", category=UserWarning)
        figure.savefig(paper, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    title, caption = plain(title), plain(caption)
    return Drawing(name, title, caption, _clean(paper.getvalue(), name, title, caption))


def _clean(source: bytes, name: str, title: str, caption: str) -> str:
    root = ElementTree.fromstring(source)
    _strip(root)
    pointed = {_target(value) for element in root.iter() for value in element.attrib.values()} - {None}
    for element in root.iter():
        element.tag = element.tag.removeprefix(_SVG)
        element.attrib = _attributes(element.attrib, name, pointed)
    _unwrap(root)
    box = root.attrib["viewBox"]
    width = f"{float(box.split()[2]) * 4 / 3:.0f}"  # points to pixels; a page may shrink it, and the height follows
    root.attrib = {"viewBox": box, "width": width, "role": "img", "aria-labelledby": f"{name}-title {name}-desc"}
    for place, (tag, words) in enumerate((("title", title), ("desc", caption))):
        child = ElementTree.Element(tag, {"id": f"{name}-{tag}"})
        child.text, child.tail = words, "\n"
        root.insert(place, child)
    return ElementTree.tostring(root, encoding="unicode")


def _strip(parent: ElementTree.Element) -> None:
    for child in list(parent):
        tag = child.tag.removeprefix(_SVG) if isinstance(child.tag, str) else ""
        if tag not in _KEPT:  # metadata, style, comments, and anything else we do not know to be harmless
            parent.remove(child)
        else:
            child.tail = "\n" if parent.tag != f"{_SVG}text" else child.tail
            _strip(child)
    if not (parent.text or "").strip():
        parent.text = None


def _unwrap(parent: ElementTree.Element) -> None:
    # A group that says nothing is replaced by what is in it; an empty one goes.
    for child in list(parent):
        _unwrap(child)
        if child.tag == "g" and not child.attrib:
            place = list(parent).index(child)
            parent.remove(child)
            for offset, grandchild in enumerate(child):
                parent.insert(place + offset, grandchild)
        elif child.tag in ("g", "defs") and not len(child):
            parent.remove(child)


def _target(value: str) -> str | None:
    if value.startswith("#"):
        return value[1:]
    found = re.search(r"url\(#([^)]*)\)", value)
    return found.group(1) if found else None


def _attributes(given: dict[str, str], name: str, pointed: set[str | None]) -> dict[str, str]:
    kept = {"href" if key == _LINK else key: value for key, value in given.items() if key != "style"}
    for part in given.get("style", "").split(";"):
        key, _, value = part.partition(":")
        if key.strip() and value.strip():
            kept |= _declared(key.strip(), value.strip())
    if kept.pop("id", None) in pointed:
        kept["id"] = f"{name}-{given['id']}"
    if "href" in kept:
        kept["href"] = f"#{name}-{kept['href'].removeprefix('#')}"
    classes = [f"{mark}-{_NAMES[c]}" for mark in ("fill", "stroke") if (c := kept.get(mark, "").lower()) in _NAMES]
    if classes:
        kept["class"] = " ".join(classes)
    kept = {k: v.replace("url(#", f"url(#{name}-") for k, v in kept.items()}
    return {k: _NUMBER.sub(_short, v) if k in _POINTS else v for k, v in kept.items()}


def _declared(key: str, value: str) -> dict[str, str]:
    if key == "font":  # "700 11px 'DejaVu Sans', ..."; the family is the page's
        size = re.search(r"([\d.]+)px", value)
        bold = {"font-weight": "600"} if re.match(r"(bold|[6-9]00)\b", value) else {}
        return bold | ({"font-size": size.group(1)} if size else {})
    if key in ("font-family", "font-stretch", "font-variant") or (key, value) == ("font-style", "normal"):
        return {}
    if key == "font-size":
        return {key: value.removesuffix("px")}
    return {key: value}


def _short(number: re.Match[str]) -> str:
    text = f"{float(number.group()):.2f}".rstrip("0").rstrip(".")
    return "0" if text in ("-0", "") else text
