"""A `compare` document: which is better, by how much, how sure, why, and what would flip it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from coopt.report import words
from coopt.report.grid import Column, Grid, bare, grid
from coopt.report.page import Fact, Page, Section, evidence, said

SHOWN = 16  # parts of a split that are told one by one

_RATIOS = {
    "time": "step time",
    "tokens_per_dollar": "tokens a dollar",
    "tokens_per_megawatt": "tokens a second a megawatt",
}


def names(document: Mapping[str, Any]) -> tuple[str, str]:
    """What is compared: `a`, `b`, or the first two `designs`."""
    both = [document.get("a"), document.get("b")]
    if None in both:
        both = [*words.listed(document.get("designs")), None, None][:2]
    first, second = (words.mapped(d).get("name", d) for d in both)
    return (words.plain(first) if first else "the first", words.plain(second) if second else "the second")


def parts(document: Mapping[str, Any], key: str) -> list[tuple[str, float | None]]:
    """Contributions to the log-ratio, largest first."""
    held = words.entries(document, key)
    named = [(words.plain(part.get("name")), words.figure(part.get("log_ratio"))) for part in held]
    return sorted(named, key=lambda part: -abs(part[1] or 0.0))


def _ratio(value: Any) -> str:
    return words.fixed(value, ".3f")


def ratios(document: Mapping[str, Any]) -> Grid:
    """B over A."""
    held = words.mapped(document.get("ratio"))
    body = [(title, _ratio(held.get(key))) for key, title in _RATIOS.items()]
    body += [(words.plain(key), _ratio(value)) for key, value in held.items() if key not in _RATIOS]
    return grid("Ratios, second over first", (Column("of", words=True), Column("ratio")), body)


def split(document: Mapping[str, Any], key: str) -> Grid:
    """The log-ratio of step times, split over rows or rates: the largest parts, the rest together, the whole."""
    held = [(name, part or 0.0) for name, part in parts(document, key)]
    if len(held) > SHOWN:
        held = [*held[: SHOWN - 1], (f"{len(held) - SHOWN + 1} further parts", sum(p for _, p in held[SHOWN - 1 :]))]
    body = [(name, f"{part:+.4f}") for name, part in held]
    body.append(("in all", f"{sum(part for _, part in held):+.4f}"))
    of = "row" if key == "by_row" else "hardware rate"
    heads = (Column(of, words=True, width=60), Column("log-ratio of step time"))
    return grid(f"Why, by {of}", heads, body, strong=len(body) - 1)


def flips(document: Mapping[str, Any]) -> Grid:
    """What would turn the answer round."""
    held = words.entries(document, "flips")
    body = [(words.plain(flip.get("parameter")), said(flip.get("from")), said(flip.get("to"))) for flip in held]
    heads = (Column("parameter", words=True, width=60), Column("from"), Column("to"))
    return grid("What would flip it", heads, body, empty="no single parameter would")


def lead(document: Mapping[str, Any]) -> tuple[str, ...]:
    """Which is faster, how sure, and why."""
    first, second = names(document)
    time = words.figure(words.mapped(document.get("ratio")).get("time"))
    ends = words.span(document.get("interval"))
    if not time or time < 0 or words.figure(1 / time) is None:
        return (f"{first} and {second} cannot be compared: a step time is not known.",)
    winner, loser, gain = (second, first, 1 / time) if time < 1 else (first, second, time)
    sure = "The interval is not known."
    if ends is not None:
        decided = ends[1] < 1 or ends[0] > 1
        verdict = "the order is settled" if decided else "the order is not settled"
        odds = words.figure(document.get("sure"))
        chance = "" if odds is None else f" (right with a chance of {words.percent(odds, places=0)})"
        sure = f"The ratio of step times lies between {_ratio(ends[0])} and {_ratio(ends[1])}: {verdict}{chance}."
    why = next(iter(parts(document, "by_rate")), None)
    because = f"What matters most is {why[0]}." if why else ""
    return tuple(s for s in (f"{winner} is {gain:.2f} times as fast as {loser}.", sure, because) if s)


def page(document: Mapping[str, Any]) -> Page:
    """Two designs side by side."""
    held = words.mapped(document.get("ratio"))
    drawn = ("reasons",) if document.get("by_row") or document.get("by_rate") else ()
    return Page(
        kicker="coopt compare",
        title=" against ".join(names(document)),
        lead=lead(document),
        facts=tuple(Fact(title, _ratio(held.get(key)), "second / first") for key, title in _RATIOS.items()),
        sections=(
            Section(
                name="reasons",
                title="Why",
                sentences=(
                    "The log-ratio of the step times, split so that the parts add to the whole; left of zero,"
                    " the second is faster.",
                ),
                figures=drawn,
                folded=(split(document, "by_row"), split(document, "by_rate")),
            ),
            Section(name="flips", title="What would flip it", grids=(bare(flips(document)),)),
            evidence(document, say=_ratio),
        ),
    )


def grids(document: Mapping[str, Any]) -> tuple[Grid, ...]:
    """The tables of a terminal."""
    return (ratios(document), split(document, "by_row"), split(document, "by_rate"), flips(document))
