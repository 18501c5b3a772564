"""A `diagnose` document: a run beside our prediction, where its time goes, what is suspect, what would be faster."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from coopt.report import explained, traced, words
from coopt.report.grid import Column, Grid, bare, grid
from coopt.report.page import Fact, Page, Section, around, evidence, said


def lead(document: Mapping[str, Any]) -> tuple[str, ...]:
    """The answer in a few sentences: how far off, where the time goes, what to look at, what to change."""
    what = f"{explained.design(document)} with {words.layout(document.get('layout'), joint=', ')}"
    took, ours = words.seconds(document.get("measured")), words.seconds(document.get("step_time"))
    return (
        f"{what} took {took} a step; we say {ours} ({words.interval(document.get('interval'))}).",
        _verdict(document),
        _where(document),
        *(traced.lead(words.mapped(document["trace"])) if document.get("trace") else ()),
        *_suspect(document),
        *_change(document),
    )


def _verdict(document: Mapping[str, Any]) -> str:
    ratio = words.figure(document.get("ratio"))
    if ratio is None:
        return "How far that is from the prediction is not known."
    side = "slower" if ratio > 1 else "faster"
    far = f"{words.percent(abs(ratio - 1), places=0)} {side} than predicted"
    if document.get("inside"):
        return f"That is {far}, within our 90% interval: nothing need be wrong with it."
    return f"That is {far}, outside our 90% interval."


def _spent(document: Mapping[str, Any]) -> list[tuple[str, float, float]]:
    held = words.entries(document, "spent")
    return [
        (words.plain(part.get("name")), words.figure(part.get("time")) or 0.0, words.figure(part.get("share")) or 0.0)
        for part in held
    ]


def _where(document: Mapping[str, Any]) -> str:
    parts = _spent(document)
    asked = sum(share for name, _, share in parts if name == "arithmetic")
    rest = sorted((part for part in parts if part[0] != "arithmetic"), key=lambda part: -part[1])[:3]
    told = ", ".join(f"{name} {words.percent(share, places=0)}" for name, _, share in rest)
    return f"{words.percent(asked, places=0)} of it is arithmetic at the chips' peak; the largest of the rest: {told}."


def _suspect(document: Mapping[str, Any]) -> tuple[str, ...]:
    first = words.first(document, "suspects")
    if not first or document.get("inside"):
        return ()
    return (f"The likeliest single cause: {words.plain(first.get('what'))} ({words.plain(first.get('look'))}).",)


def _change(document: Mapping[str, Any]) -> tuple[str, ...]:
    first = words.first(document, "better")
    if not first:
        return ("No layout that we know of is 1% faster on these chips.",)
    ends = words.interval(first.get("interval"))
    gain = words.percent(first.get("gain"), places=0)
    return (f"{_changes(first)} should take {words.seconds(first.get('step_time'))} ({ends}): {gain} less.",)


def _changes(better: Mapping[str, Any]) -> str:
    return ", ".join(f"{words.plain(k)}={said(v)}" for k, v in words.mapped(better.get("changes")).items())


def table_of_time(document: Mapping[str, Any]) -> Grid:
    """The measured step, split; the rows add to it."""
    body = [
        (words.plain(part.get("name")), words.seconds(part.get("time")), words.percent(part.get("share")),
         words.plain(part.get("what")))
        for part in words.entries(document, "spent")
    ]  # fmt: skip
    body.append(("measured", words.seconds(document.get("measured")), words.percent(1.0), ""))
    heads = (Column("a step goes to", words=True), Column("time"), Column("share"), Column("", words=True, width=46))
    return grid("Where the time goes", heads, body, strong=len(body) - 1)


def table_of_suspects(document: Mapping[str, Any]) -> Grid:
    """Single changes that would explain the run, least odd first."""
    body = []
    for suspect in words.entries(document, "suspects"):
        cells = (words.plain(suspect.get("what")), said(suspect.get("oddness")))
        body.append((*cells, words.seconds(suspect.get("step_time")), words.plain(suspect.get("look"))))
    heads = (Column("if alone", words=True, width=34), Column("oddness"), Column("step"))
    note = "oddness: by how many spreads a constant would have to be off; 1 and more for an assumption about the layout"
    return grid("What would explain it", (*heads, Column("look at", words=True, width=40)), body,
                notes=(note,) if body else (), empty="no single change would")  # fmt: skip


def table_of_better(document: Mapping[str, Any]) -> Grid:
    """Faster layouts of the same work on the same chips."""
    body = []
    for better in words.entries(document, "better"):
        cells = (_changes(better), words.seconds(better.get("step_time")), words.interval(better.get("interval")))
        body.append((*cells, words.percent(better.get("gain"))))
    heads = (Column("change", words=True, width=48), Column("expected step"), Column("90% interval"), Column("gain"))
    note = "expected: the measured time times the ratio of predictions; what is missed of one layout is missed of both"
    notes = (note,) if body else ()
    return grid("Better layouts on the same chips", heads, body, notes=notes, empty="none is 1% faster")


def page(document: Mapping[str, Any]) -> Page:
    """One run."""
    ratio = words.figure(document.get("ratio"))
    took, ours = words.seconds(document.get("measured")), document.get("step_time")
    off = words.signed(None if ratio is None else ratio - 1)
    return Page(
        kicker="coopt diagnose",
        title=explained.design(document),
        lead=lead(document),
        facts=(
            Fact("measured", took, f"{off} against predicted"),
            Fact("predicted", words.seconds(ours), around(ours, document.get("interval"))),
            Fact("MFU of the run", words.percent(document.get("mfu"))),
            Fact("tokens/s a chip", words.large(document.get("tokens_per_second_per_chip"))),
        ),
        sections=(
            Section(name="time", title="Where the time goes", grids=(bare(table_of_time(document)),)),
            Section(name="suspects", title="What would explain it", grids=(bare(table_of_suspects(document)),)),
            Section(name="better", title="What would be faster", grids=(bare(table_of_better(document)),)),
            *((traced.section(words.mapped(document["trace"])),) if document.get("trace") else ()),
            explained.sections(document)[0],
            evidence(document),
        ),
    )  # fmt: skip


def grids(document: Mapping[str, Any]) -> tuple[Grid, ...]:
    """The tables of a terminal."""
    seen = traced.grids(words.mapped(document["trace"])) if document.get("trace") else ()
    return table_of_time(document), *seen, table_of_suspects(document), table_of_better(document)
