"""The report tells every document, says `not known` for null, and writes the same bytes twice."""

from __future__ import annotations

import copy
import csv
import errno
import io
import json
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from coopt.problems import Refused
from coopt.report import csv_table, draw, html_page, show, table, write_report
from coopt.report.grid import WIDTH
from coopt.report.html import policy
from coopt.report.tables import kind, page

DOCUMENTS = Path(__file__).parent.parent / "data" / "documents"
NAMES = sorted(path.stem for path in DOCUMENTS.glob("*.json"))


def load(name: str) -> dict[str, Any]:
    return json.loads((DOCUMENTS / f"{name}.json").read_text(encoding="utf-8"))


class Words(HTMLParser):
    """What a reader sees, and every attribute."""

    def __init__(self, text: str):
        super().__init__()
        self.seen: list[str] = []
        self.attributes: list[tuple[str, str, str | None]] = []
        self.feed(text)

    def handle_data(self, data: str) -> None:
        self.seen.append(data)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [(tag, name, value) for name, value in attrs]

    handle_startendtag = handle_starttag

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.seen).split())


@pytest.mark.parametrize("name", NAMES)
def test_every_document_is_a_table_of_a_hundred_columns(name: str) -> None:
    text = table(load(name))
    assert text.strip()
    assert max(len(line) for line in text.split("\n")) <= WIDTH
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]", text)
    assert "nan" not in text.lower().split() and "None" not in text


@pytest.mark.parametrize("name", NAMES)
def test_every_document_is_a_page_that_needs_nothing(name: str) -> None:
    """No address is fetched: not one `src`, no `href` but a place in the page, no `url(` but a clip path."""
    text = html_page(load(name))
    words = Words(text)
    for tag, attribute, value in words.attributes:
        assert attribute not in ("src", "srcset", "action", "style", "data", "poster", "xlink:href"), (tag, attribute)
        assert attribute != "href" or (value or "").startswith("#"), (tag, value)
        assert not attribute.startswith("on"), (tag, attribute)
    assert not {tag for tag, _, _ in words.attributes} & {"script", "link", "iframe", "img", "object", "embed", "form"}
    assert set(re.findall(r"url\((.)", text)) <= {"#"}
    assert "@import" not in text and "://" not in text
    assert len(text.encode()) < 1_000_000
    assert "None" not in words.text.split() and "nan" not in words.text.split()


@pytest.mark.parametrize("name", NAMES)
def test_the_policy_allows_the_style_sheet_alone(name: str) -> None:
    """D6: a content security policy without inline script, whose hash is that of the style sheet in the page."""
    text = html_page(load(name))
    (style,) = re.findall(r"<style>(.*?)</style>", text, re.DOTALL)
    contents = [v for t, a, v in Words(text).attributes if (t, a) == ("meta", "content")]
    assert contents[0] == policy(style)
    assert contents[0].startswith("default-src 'none'; style-src 'sha256-")
    assert "unsafe" not in contents[0] and "script-src" not in contents[0]
    assert text.index("Content-Security-Policy") < text.index("<style>") < text.index("<body>")


@pytest.mark.parametrize("name", ["search", "plan", "validate"])
def test_the_same_document_gives_the_same_bytes(name: str, tmp_path: Path) -> None:
    """A17: no date, no address, no order of a set in a report."""
    first, second = write_report(load(name), tmp_path / "a.html"), write_report(load(name), tmp_path / "b" / "b.html")
    assert first.read_bytes() == second.read_bytes()
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["a.html", "b", "b.html"]  # nothing is left behind


def test_a_report_that_cannot_be_made_leaves_the_old_one(tmp_path: Path) -> None:
    target = tmp_path / "report.html"
    target.write_text("old")
    with pytest.raises(AttributeError):
        write_report(None, target)  # type: ignore[arg-type]
    assert target.read_text() == "old" and len(list(tmp_path.iterdir())) == 1


def test_a_full_disk_is_a_sentence_and_the_old_page_stays(tmp_path, monkeypatch):
    """A5: the page of a run is the old one or the new one."""
    page = write_report(load(NAMES[0]), tmp_path / "a.html")
    before = page.read_bytes()

    def full(fd, data):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("coopt.store.files.write_all", full)
    with pytest.raises(Refused, match=r"a.html: expected room for \d+ bytes"):
        write_report(load(NAMES[1]), page)
    assert page.read_bytes() == before and [file.name for file in tmp_path.iterdir()] == ["a.html"]


def test_a_search_page_shows_what_was_asked_for() -> None:
    document = load("search")
    text = Words(html_page(document)).text
    best = document["plans"][0]
    assert best["model"] in text and "1,310,720" in text and "918,244" in text
    for title in ("Best plans", "The Pareto front", "Predicted against measured", "Where the step goes", "Memory",
                  "Machines you do not have", "On the edge", "Assumptions and evidence", "What was rejected",
                  "Where this comes from"):  # fmt: skip
        assert title in text, title
    for entry in document["elsewhere"]:
        assert entry["nearest"][0]["id"] in text and entry["hardware"] in text
    for fact in (
        *document["versions"].values(),
        *document["rejected"],
        "coopt search runs/default-20260901/study.yaml",
    ):
        assert fact.replace("_", " ") in text.replace("_", " "), fact
    assert set(draw(document)) == {"pareto", "measured", "breakdown", "memory"}
    assert text.count("not known") >= 4  # price and power of the host, dollars and joules a token


def test_the_table_of_a_search_has_every_column() -> None:
    text = table(load("search"))
    for word in ("predicted", "measured", "MFU", "tokens/s", "memory", "USD", "loss", "Machines you do not have",
                 "gpt-l16-d640", "llama3-70b", "our error", "run: runs/default-20260901"):  # fmt: skip
        assert word in text, word


def test_no_feasible_plan_names_the_constraint() -> None:
    """D7: an empty result says which constraint removed how many."""
    document = load("search") | {"plans": [], "pareto": [], "measured": [], "explain": None, "feasible": 0}
    text = table(document)
    assert "None of 1,310,720 candidates is feasible; most were rejected for memory." in text.replace("\n", " ")
    assert "211,904" in Words(html_page(document)).text


def test_an_infeasible_design_says_what_would_help() -> None:
    text = " ".join(table(load("explain_infeasible")).split())
    assert "is not feasible: it wants more memory than a chip has." in text
    assert "The smallest change that helps: fsdp=32,zero=3." in text


def test_shares_add_to_the_step() -> None:
    """E10: the exposed times that are printed add to the step."""
    document = load("explain")
    shares = [float(s) for s in re.findall(r" (\d+\.\d)%  ", table(document).split("Memory of")[0])]
    assert len(shares) == len(document["rows"])
    assert abs(sum(shares) - 100) < 0.05 * len(shares)


def test_figures_are_described_and_carry_no_style() -> None:
    """Every figure has a title and a description, keeps its words as text and holds what we know to be harmless."""
    allowed = {"svg", "title", "desc", "g", "path", "defs", "use", "clipPath", "rect", "text", "tspan"}
    for name in ("search", "plan", "validate", "compare", "explain_infeasible"):
        for drawing in draw(load(name)).values():
            root = ElementTree.fromstring(drawing.svg)
            held = {element.attrib.get("id"): element for element in root.iter()}
            named, described = root.attrib["aria-labelledby"].split()
            assert held[named].text == drawing.title and held[described].text == drawing.caption
            assert {element.tag for element in root.iter()} <= allowed
            assert not any("style" in element.attrib for element in root.iter())
            assert any(element.tag == "text" for element in root.iter())
            assert len(drawing.svg) < 150_000


def test_ids_do_not_clash_between_figures() -> None:
    ids = re.findall(r' id="([^"]*)"', html_page(load("search")))
    assert len(ids) == len(set(ids))
    pointed = set(re.findall(r'(?:href="#|url\(#)([^")]*)', html_page(load("search"))))
    assert pointed <= set(ids)


def test_a_front_that_is_no_staircase_is_drawn_without_one() -> None:
    """A front over more than two quantities has points that two of them cannot order."""
    document = load("search")
    stairs = draw(document)["pareto"].svg.count("<path")
    front = document["pareto"]
    front[3]["loss"], front[4]["loss"] = front[4]["loss"], front[3]["loss"]
    assert draw(document)["pareto"].svg.count("<path") == stairs - 1


def test_names_in_figures_are_not_mathematics() -> None:
    document = load("explain")
    document["rows"][11]["name"] = r"$\frac{1}{2}$ _x_ ^y^"
    assert r"$\frac{1}{2}$ _x_ ^y^" in draw(document)["breakdown"].svg


def test_csv_holds_full_precision() -> None:
    document = load("search")
    rows = list(csv.DictReader(io.StringIO(csv_table(document))))
    assert len(rows) == len(document["plans"])
    assert float(rows[0]["step_time"]) == document["plans"][0]["step_time"]
    assert rows[0]["layout.tp"] == "1" and rows[0]["dollars_per_token"] == ""
    for name in NAMES:
        assert csv_table(load(name)).count("\n") > 1 or name == "explain_infeasible", name


def test_a_notebook_shows_tables_and_figures_without_script() -> None:
    text = show(load("explain"))._repr_html_()
    assert "<svg" in text and "<table" in text and "script" not in text
    assert repr(show(load("models"))).startswith("Models")


@pytest.mark.parametrize("name", NAMES)
def test_the_kind_is_known_without_the_commands_word(name: str) -> None:
    document = load(name)
    command = document.pop("command")
    assert kind(document) in (command, "profile")


def leaves(tree: Any, path: tuple = ()) -> Iterator[tuple]:
    """Paths to every leaf and every branch, the first entry standing for every list."""
    if path:
        yield path
    if isinstance(tree, dict):
        for key, value in tree.items():
            yield from leaves(value, (*path, key))
    elif isinstance(tree, list):
        for place, value in enumerate(tree[:1]):
            yield from leaves(value, (*path, place))


def put(tree: Any, path: tuple, value: Any) -> Any:
    changed = copy.deepcopy(tree)
    branch = changed
    for key in path[:-1]:
        branch = branch[key]
    branch[path[-1]] = value
    return changed


ODD = (None, float("nan"), float("inf"), -1.0, 0, "", "x", True, [], {}, [None], 1e308, 5e-324, 10**400)


def thin(tree: Any) -> Any:
    """The document with two entries of every list."""
    if isinstance(tree, dict):
        return {key: thin(value) for key, value in tree.items()}
    return [thin(value) for value in tree[:2]] if isinstance(tree, list) else tree


@pytest.mark.parametrize("name", NAMES)
def test_no_value_stops_a_table(name: str) -> None:
    """D8: any field may be null or odd; it is said, or said to be not known."""
    document = thin(load(name))
    for path in leaves(document):
        for odd in (None, float("nan"), -1.0, "x", [], {}, 1e308, 5e-324):
            told = page(put(document, path, odd))
            assert not re.search(r"\b(nan|inf)\b", " ".join(told.lead)), (path, odd)
        assert table(put(document, path, None)), path


@pytest.mark.parametrize("odd", ODD, ids=[repr(odd)[:12] for odd in ODD])
def test_no_value_stops_a_page(odd: Any) -> None:
    """D8: the same for whole pages, figures included, with every number odd at once."""

    def numbers(tree: Any) -> Any:
        if isinstance(tree, dict):
            return {key: numbers(value) for key, value in tree.items()}
        if isinstance(tree, list):
            return [numbers(value) for value in tree]
        return odd if isinstance(tree, int | float) else tree

    for name in ("search", "explain", "compare", "validate", "plan"):
        document = numbers(load(name))
        assert "</html>" in html_page(document) and table(document) and csv_table(document)


DRAWN = {"plans", "pareto", "measured", "step_time", "memory", "rows", "by_row", "by_rate", "points", "by_hardware",
         "deployments", "training_runs", "capex_by_quarter"}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", ["search", "explain", "compare", "validate", "plan"])
def test_no_single_value_stops_a_figure(name: str) -> None:
    document = thin(load(name))
    for path in leaves(document):
        if path[0] in DRAWN and "layout" not in path:
            for odd in (None, -1.0, 1e308):
                draw(put(document, path, odd))


def test_a_confidential_field_is_not_printed() -> None:
    document = load("hardware_detail")
    document["fields"][0] |= {"confidential": True, "value": "1234.5 TFLOP/s", "source": "a letter"}
    for text in (table(document), html_page(document), csv_table(document), show(document)._repr_html_()):
        assert "1234.5" not in text and "a letter" not in text
