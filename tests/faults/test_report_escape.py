"""D6: nothing that a name, a sentence or a key of a document says is live in a page, a spreadsheet or a terminal."""

from __future__ import annotations

import csv
import io
import json
import re
import shlex
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from coopt.report import csv_table, draw, html_page, show, table
from coopt.report.html import render
from coopt.report.tables import page

DOCUMENTS = Path(__file__).parent.parent / "data" / "documents"
NAMES = sorted(path.stem for path in DOCUMENTS.glob("*.json"))

MARKUP = (
    "<script>alert(1)</script>",
    "</script><script>alert(1)</script>",
    "<ScRiPt src=//x.example/a.js></sCrIpT>",
    '"><img src=x onerror=alert(1)>',
    "'><img src=x onerror=alert(1)>",
    "<img src=x onerror=alert(1)//",
    "<svg onload=alert(1)>",
    "<svg><animate onbegin=alert(1) attributeName=x>",
    "<svg><script>alert(1)</script></svg>",
    "</text></svg><script>alert(1)</script>",
    "</title><script>alert(1)</script>",
    "</desc></svg><img src=x onerror=alert(1)>",
    "</style><script>alert(1)</script>",
    "<style>*{background:url(//x.example)}</style>",
    "<link rel=stylesheet href=//x.example/a.css>",
    "<iframe src=javascript:alert(1)>",
    "<object data=javascript:alert(1)>",
    "<embed src=//x.example>",
    "<base href=//x.example/>",
    "<meta http-equiv=refresh content='0;url=//x.example'>",
    "<form action=//x.example><input autofocus onfocus=alert(1)>",
    "<a href=javascript:alert(1)>go</a>",
    "javascript:alert(1)",
    "JaVaScRiPt:alert(1)",
    "data:text/html,<script>alert(1)</script>",
    "vbscript:msgbox(1)",
    "<details open ontoggle=alert(1)>",
    "<video><source onerror=alert(1)>",
    "<math><mtext></mtext><mglyph><style><img src=x onerror=alert(1)>",
    "<!-- --><script>alert(1)</script>",
    "--><script>alert(1)</script><!--",
    "<![CDATA[<script>alert(1)</script>]]>",
    "<?xml version='1.0'?><script>alert(1)</script>",
    "{{ 7 * 7 }}{% for x in y %}",
    "{{ ''.__class__.__mro__ }}",
    "${7*7} #{7*7} <%= 7*7 %>",
    "&lt;script&gt;alert(1)&lt;/script&gt;",
    "&#x3c;script&#x3e;alert(1)",
    '" onmouseover="alert(1)',
    "' onfocus='alert(1)' autofocus='",
    "` onclick=alert(1) `",
    "x\x00<script>alert(1)</script>",
    "\ud800<b>lone</b>",
    "\ufffe\uffff<i>not characters</i>",
    "<\x0bscript>alert(1)</script>",
    "<a\tonclick=alert(1)>",
    "<b\nonclick=alert(1)>",
)
CONTROL = (
    "\x1b[31mred\x1b[0m",
    "\x1b]0;title\x07",
    "\x1b]8;;http://x.example\x1b\\link\x1b]8;;\x1b\\",
    "\x1b[2J\x1b[H",
    "\x9b31m",
    "over\rwritten\x08\x08",
    "\x07\x0c\x0b\x7f",
    "\u202egnp.exe",
    "\u2066\u2069\u200b\ufeff",
    "line\u2028and\u2029paragraph",
)
FORMULAS = (
    "=cmd|' /C calc'!A0",
    "+1+cmd|' /C calc'!A0",
    "-1+1",
    "@SUM(1)",
    "\t=1+1",
    "\r=1+1",
    '  =HYPERLINK("http://x.example")',
    "\uff1d1+1",
    "|calc",
    "%0A=1",
)
PAYLOADS = MARKUP + CONTROL + FORMULAS

ELEMENTS = {
    *("html head meta title style body header nav main section footer p h1 h2 h3 ol ul li a pre code".split()),
    *("dl dt dd div span small br table thead tbody tr th td details summary figure figcaption".split()),
    *("svg desc g path defs use clippath rect text tspan".split()),
}
DATA_KEYS = ("rejected", "versions", "by_hardware", "by_source", "by_kind", "skipped", "memory", "shadow_prices",
             "capex_by_quarter", "workload", "host")  # fmt: skip


def load(name: str) -> dict[str, Any]:
    """A document with the first two entries of every list: every field once, in little time."""

    def thin(tree: Any) -> Any:
        if isinstance(tree, dict):
            return {key: thin(value) for key, value in tree.items()}
        return [thin(value) for value in tree[:2]] if isinstance(tree, list) else tree

    return thin(json.loads((DOCUMENTS / f"{name}.json").read_text(encoding="utf-8")))


def poisoned(tree: Any, payload: str, under: str = "") -> Any:
    """The document with the payload in place of every text, and as a key wherever keys are data."""
    if isinstance(tree, dict):
        changed = {key: poisoned(value, payload, key) for key, value in tree.items()}
        return changed | {payload: next(iter(changed.values()), 1.0)} if under in DATA_KEYS else changed
    if isinstance(tree, list):
        return [poisoned(value, payload, under) for value in tree]
    return payload if isinstance(tree, str) and under != "command" else tree


class Alive(HTMLParser):
    """Everything in a page that could act."""

    def __init__(self, text: str):
        super().__init__(convert_charrefs=True)
        self.found: list[str] = []
        self.said: list[str] = []
        self.within = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.within = tag
        if tag not in ELEMENTS:
            self.found.append(f"<{tag}>")
        for name, value in attrs:
            address = name in ("href", "xlink:href") and not (value or "").startswith("#")
            if address or name.startswith("on") or name in ("src", "style", "srcset", "action", "formaction", "data"):
                self.found.append(f"<{tag} {name}={value}>")
            if tag == "meta" and name == "http-equiv" and value != "Content-Security-Policy":
                self.found.append(f"<meta {value}>")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)

    def handle_comment(self, data: str) -> None:
        self.found.append(f"<!--{data}-->")

    def handle_pi(self, data: str) -> None:
        self.found.append(f"<?{data}>")

    def unknown_decl(self, data: str) -> None:
        self.found.append(f"<![{data}]>")

    def handle_data(self, data: str) -> None:
        if self.within != "style":
            self.said.append(data)


def test_the_witness_sees_what_is_live() -> None:
    """The parser of these tests finds the markup payloads when they are not escaped."""
    blind = [p for p in MARKUP if re.search(r"<[a-zA-Z]", p) and not Alive(f"<p>{p}</p>").found]
    assert set(blind) <= {
        "\ud800<b>lone</b>",  # harmless elements that we would not write ourselves would still be found
        "<style>*{background:url(//x.example)}</style>",
    } - {"\ud800<b>lone</b>"}
    assert len(PAYLOADS) >= 60


@pytest.mark.parametrize("name", NAMES)
def test_no_payload_in_any_field_is_live_in_the_page(name: str) -> None:
    """D6: sixty payloads x every text field and every key that is data, in a parsed DOM."""
    document = load(name)
    for payload in PAYLOADS:
        text = render(page(poisoned(document, payload)), {})
        text.encode("utf-8")
        alive = Alive(text)
        assert alive.found == [], payload
        assert text.count("<style>") == 1, payload
        assert "{{" not in payload or payload.split("}}")[0] in "".join(alive.said), payload  # said, not computed


@pytest.mark.parametrize("name", ["search", "explain", "compare", "validate", "plan"])
@pytest.mark.parametrize("payload", [MARKUP[9], MARKUP[3], MARKUP[31], MARKUP[42], CONTROL[0], r"$\frac{a}{"])
def test_no_payload_is_live_in_a_figure(name: str, payload: str) -> None:
    """D6: figures too, whose words matplotlib writes."""
    for drawing in draw(poisoned(load(name), payload)).values():
        ElementTree.fromstring(drawing.svg)
        assert Alive(drawing.svg).found == []


@pytest.mark.slow
@pytest.mark.parametrize("name", ["search", "explain", "compare", "validate", "plan"])
def test_no_payload_is_live_in_a_whole_page(name: str) -> None:
    for payload in PAYLOADS:
        assert Alive(html_page(poisoned(load(name), payload))).found == [], payload


@pytest.mark.parametrize("name", NAMES)
def test_no_payload_reaches_the_terminal_as_a_command(name: str) -> None:
    """D6: ANSI codes and direction marks are neutralised, square brackets are not markup, lines stay short."""
    document = load(name)
    for payload in (*CONTROL, *MARKUP[-8:], "[bold red]x[/bold red]", "[/]", ":smile:"):
        text = table(poisoned(document, payload))
        assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2066-\u2069\ufeff]", text), (
            payload
        )
        text.encode("utf-8")
        assert max(map(len, text.split("\n"))) <= 100
        if payload.startswith("[bold"):
            assert "red]" in text


@pytest.mark.parametrize("name", NAMES)
def test_no_cell_is_a_formula(name: str) -> None:
    """D6: a cell that a spreadsheet would run begins with an apostrophe, or is a number."""
    document = load(name)
    for payload in PAYLOADS:
        for row in csv.reader(io.StringIO(csv_table(poisoned(document, payload)))):
            for cell in row:
                risky = cell.lstrip().startswith(tuple("=+-@|%\t\r\uff1d"))
                assert not risky or re.fullmatch(r"-?[\d.]+(e[+-]?\d+)?", cell), (payload, cell)


def test_a_notebook_fragment_is_escaped_too() -> None:
    for payload in MARKUP:
        alive = Alive(show(poisoned(load("models"), payload))._repr_html_())
        assert set(alive.found) <= {"<h4>"}, payload


def test_the_command_to_run_again_is_quoted() -> None:
    """A name with a semicolon is a word of the command, not a second command."""
    document = load("search") | {"run": "runs/x; rm -rf ~"}
    (section,) = (s for s in page(document).sections if s.name == "provenance")
    assert shlex.split(section.command) == ["coopt", "search", "runs/x; rm -rf ~/study.yaml"]
