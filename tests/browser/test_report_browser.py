"""The report in a real browser without a network: it renders, asks for nothing and breaks no rule of its own policy."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from coopt.report import write_report

pytestmark = pytest.mark.browser
DOCUMENTS = Path(__file__).parent.parent / "data" / "documents"
KINDS = ("search", "explain", "compare", "validate", "plan", "hardware_detail")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """The system's Chromium, driven by playwright; a missing one is a failure with a sentence, never a silent skip."""
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
    found = next(filter(None, map(shutil.which, names)), None)
    if found is None:
        pytest.fail(f"no browser found (looked for {', '.join(names)}): install one, with `apt-get install chromium`")
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        pytest.fail("playwright drives the browser: install it, with `pip install -e '.[test]'`")
    with sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=found, args=["--no-sandbox", "--disable-gpu"])
        yield opened
        opened.close()


def opened(browser: Any, path: Path, **more: Any) -> tuple[Any, list[str], list[str]]:
    """A tab with the page, every address it asked for and every complaint of the console."""
    context = browser.new_context(offline=True, viewport={"width": 1280, "height": 900}, **more)
    tab = context.new_page()
    asked: list[str] = []
    complaints: list[str] = []
    tab.on("request", lambda request: asked.append(request.url))
    tab.on("console", lambda message: complaints.append(message.text))
    tab.on("pageerror", lambda error: complaints.append(str(error)))
    tab.goto(path.as_uri())
    tab.wait_for_load_state("networkidle")
    return tab, asked, complaints


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("reports")
    documents = {name: json.loads((DOCUMENTS / f"{name}.json").read_text(encoding="utf-8")) for name in KINDS}
    return {name: write_report(document, folder / f"{name}.html") for name, document in documents.items()}


@pytest.mark.parametrize("name", KINDS)
def test_it_renders_offline_and_asks_for_nothing(browser: Any, reports: dict[str, Path], name: str) -> None:
    tab, asked, complaints = opened(browser, reports[name])
    assert asked == [reports[name].as_uri()]  # the page itself and nothing else
    assert complaints == []  # the browser logs every breach of the policy
    picture = tab.screenshot(full_page=True)
    assert len(picture) > 20_000
    assert tab.locator("h1").inner_text()
    # The style sheet got through its own policy, and nothing is wider than the window.
    assert tab.evaluate("getComputedStyle(document.querySelector('h1')).letterSpacing") != "normal"
    assert tab.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    tab.context.close()


def test_the_witness_sees_a_breach(browser: Any, reports: dict[str, Path], tmp_path: Path) -> None:
    """What these tests listen to does speak: a page that asks for a picture and runs a script is noticed."""
    broken = tmp_path / "broken.html"
    live = '<img src="http://x.example/a.png"><script>document.title = "live"</script><p style="color: red">'
    broken.write_text(reports["plan"].read_text(encoding="utf-8").replace("<main>", f"<main>{live}"), encoding="utf-8")
    tab, _, complaints = opened(browser, broken)
    assert sum("Content Security Policy" in complaint for complaint in complaints) >= 3
    assert tab.title() != "live"
    tab.context.close()


def test_the_figures_are_there(browser: Any, reports: dict[str, Path]) -> None:
    tab, _, _ = opened(browser, reports["search"])
    titles = tab.locator("figure svg title").all_text_contents()
    assert titles == ["Pareto front", "Predicted against measured step time", "Breakdown of the step", "Memory by part"]
    for place in range(len(titles)):
        box = tab.locator("figure svg").nth(place).bounding_box()
        assert box and box["width"] > 400 and box["height"] > 80
    words = tab.locator("figure svg text").all_text_contents()
    assert "predicted step time" in words and "feed-forward backward" in words
    tab.context.close()


@pytest.mark.parametrize("width", [390, 820, 1680])
def test_it_fits_every_window(browser: Any, reports: dict[str, Path], width: int) -> None:
    tab, _, _ = opened(browser, reports["search"])
    tab.set_viewport_size({"width": width, "height": 800})
    for details in tab.locator("details").all():
        details.evaluate("element => element.open = true")
    assert tab.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    tab.context.close()


def test_words_are_readable_on_a_dark_screen(browser: Any, reports: dict[str, Path]) -> None:
    tab, _, _ = opened(browser, reports["search"], color_scheme="dark")
    paper = tab.evaluate("getComputedStyle(document.body).backgroundColor")
    ink = tab.evaluate("getComputedStyle(document.querySelector('svg text')).fill")
    light, dark = (sum(map(int, c[4:-1].split(","))) for c in (ink, paper))
    assert light > 600 and dark < 120
    tab.context.close()


def test_it_prints(browser: Any, reports: dict[str, Path]) -> None:
    tab, _, _ = opened(browser, reports["search"])
    pages = tab.pdf(format="A4")
    assert pages.startswith(b"%PDF") and len(pages) > 50_000
    tab.context.close()
