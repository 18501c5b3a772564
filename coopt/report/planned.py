"""A `plan` document: what to deploy when, to train what, for how much."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from coopt.report import words
from coopt.report.grid import Column, Grid, bare, grid
from coopt.report.page import Fact, Page, Section, evidence, provenance, said

SHOWN = 12  # shadow prices in a terminal; the page folds the others away


def capex(document: Mapping[str, Any]) -> dict[str, float]:
    """Dollars by quarter."""
    held = words.mapped(document.get("capex_by_quarter"))
    return {words.plain(quarter): number for quarter, v in held.items() if (number := words.figure(v)) is not None}


def quarters(document: Mapping[str, Any]) -> list[str]:
    """Every quarter that is named, in order, without gaps."""
    named = [words.plain(d.get("quarter")) for d in words.entries(document, "deployments")] + list(capex(document))
    placed = [place for q in named if (place := ordinal(q)) is not None]
    for run in words.entries(document, "training_runs"):
        start = ordinal(run.get("start"))
        if start is not None:
            placed += [start, start + max(int(words.figure(run.get("quarters")) or 1) - 1, 0)]
    if not placed or max(placed) - min(placed) > 400:  # a hundred years: a mistyped quarter, not a plan
        return []
    return [f"{place // 4}Q{place % 4 + 1}" for place in range(min(placed), max(placed) + 1)]


def ordinal(quarter: Any) -> int | None:
    """Quarters since year 0, or None for what is not a quarter.

    >>> ordinal("2026Q3"), ordinal("soon")
    (8106, None)
    """
    text = quarter if isinstance(quarter, str) else ""
    year, mark, part = text.partition("Q")
    if mark and len(year) == 4 and year.isascii() and year.isdigit() and part in ("1", "2", "3", "4"):
        return 4 * int(year) + int(part) - 1
    return None


def deployments(document: Mapping[str, Any]) -> Grid:
    """What is deployed, quarter by quarter."""
    body = []
    for entry in words.entries(document, "deployments"):
        cells = (words.plain(entry.get("quarter")), words.plain(entry.get("site")), words.plain(entry.get("chip")))
        body.append((*cells, words.fixed(entry.get("megawatts"), ",.0f"), words.count(entry.get("chips"))))
    basis = words.plain(document.get("basis") or "IT megawatts")
    heads = (Column("quarter", words=True), Column("site", words=True, width=28), Column("chip", words=True, width=24))
    note = (f"power: {basis}",) if body else ()
    return grid("Deployments", (*heads, Column("MW"), Column("chips")), body, notes=note, empty="nothing is deployed")


def runs(document: Mapping[str, Any]) -> Grid:
    """The training runs."""
    body = []
    for run in words.entries(document, "training_runs"):
        cells = (words.plain(run.get("start")), words.count(run.get("quarters")), words.plain(run.get("model")))
        cells += (words.plain(run.get("chip")), words.count(run.get("chips")), words.large(run.get("tokens")))
        body.append((*cells, words.fixed(run.get("loss"), ".3f")))
    heads = (Column("start", words=True), Column("quarters"), Column("model", words=True, width=26))
    heads += (Column("chip", words=True, width=20), Column("chips"), Column("tokens"), Column("loss"))
    return grid("Training runs", heads, body, empty="nothing is trained")


def by_quarter(document: Mapping[str, Any]) -> Grid:
    """Megawatts added, megawatts in all and capital, a row a quarter."""
    spent, power = capex(document), dict.fromkeys(quarters(document), 0.0)
    for entry in words.entries(document, "deployments"):
        quarter = words.plain(entry.get("quarter"))
        if quarter in power:
            power[quarter] += words.figure(entry.get("megawatts")) or 0.0
    body, held = [], 0.0
    for quarter, added in power.items():
        held += added
        body.append((quarter, words.count(added), words.count(held), words.dollars(spent.get(quarter, 0.0))))
    heads = (Column("quarter", words=True), Column("MW added"), Column("MW in all"), Column("capital"))
    return grid("Quarter by quarter", heads, body, empty="the plan has no quarters")


def shadow(document: Mapping[str, Any]) -> Grid:
    """What one more unit of each limit would be worth, the largest first."""
    each = [(words.plain(name), value) for name, value in words.mapped(document.get("shadow_prices")).items()]
    each.sort(key=lambda pair: -abs(words.figure(pair[1]) or 0.0))
    heads = (Column("limit", words=True, width=68), Column("worth of one more unit"))
    body = [(name, said(value)) for name, value in each]
    return grid("Shadow prices", heads, body, empty="no limit is worth anything more")


def largest(table: Grid) -> Grid:
    """The first lines of a long table, and how many are left out."""
    left = len(table.rows) - SHOWN
    note = (f"{left} smaller ones are left out",) if left > 0 else ()
    return dataclasses.replace(table, rows=table.rows[:SHOWN], notes=(*table.notes, *note))


def lead(document: Mapping[str, Any]) -> tuple[str, ...]:
    """The plan in three sentences."""
    placed = words.entries(document, "deployments")
    power = sum(words.figure(e.get("megawatts")) or 0.0 for e in placed)
    ends, capital = quarters(document), words.dollars(sum(capex(document).values()))
    when = f" from {ends[0]} to {ends[-1]}" if ends else ""
    trained = words.entries(document, "training_runs")
    last = max(trained, key=lambda run: ordinal(run.get("start")) or 0, default={})
    proof = words.percent(document.get("gap"), places=2)
    trains = f"It trains {len(trained)} models" if len(trained) != 1 else "It trains one model"
    if not placed and missing(document):
        return (f"There is no plan ({words.plain(document.get('status'))}).", *missing(document)[:2])
    return (
        f"The plan deploys {words.count(power)} MW of IT power{when} for {capital}.",
        f"{trains}, the last {words.shape(last.get('model'))} on {words.count(last.get('chips'))}"
        f" {words.plain(last.get('chip'))}."
        if trained
        else "It trains nothing.",
        f"The solver calls it {words.plain(document.get('status'))}, within {proof} of the best possible.",
    )


def _objective(document: Mapping[str, Any]) -> str:
    # The document says in words what its objective is; only money has a unit of ours.
    money = "USD" in words.plain(document.get("objective_name"))
    return words.dollars(document.get("objective")) if money else said(document.get("objective"))


def missing(document: Mapping[str, Any]) -> tuple[str, ...]:
    """What an infeasible plan lacks, a sentence each."""
    each = words.entries(document, "infeasible")
    return tuple(words.sentence(e.get("sentence") or e.get("constraint")) for e in each)


def page(document: Mapping[str, Any]) -> Page:
    """The roadmap."""
    power = sum(words.figure(e.get("megawatts")) or 0.0 for e in words.entries(document, "deployments"))
    drawn = ("roadmap",) if quarters(document) else ()
    return Page(
        kicker="coopt plan",
        title=words.plain(document.get("title") or document.get("name") or "roadmap"),
        lead=lead(document),
        facts=(
            Fact("deployed", f"{words.count(power)} MW", words.plain(document.get("basis") or "IT megawatts")),
            Fact("capital", words.dollars(sum(capex(document).values()))),
            Fact("objective", _objective(document), words.plain(document.get("objective_name") or "")),
            Fact("gap", words.percent(document.get("gap"), places=2), words.plain(document.get("status"))),
        ),
        sections=(
            *(
                (Section(name="missing", title="What is missing", items=missing(document)),)
                if missing(document)
                else ()
            ),
            Section(
                name="roadmap", title="The years", figures=drawn, folded=(by_quarter(document), deployments(document))
            ),
            Section(name="training", title="What is trained", grids=(bare(runs(document)),)),
            Section(
                name="shadow",
                title="What more would be worth",
                grids=(bare(largest(shadow(document))),),
                folded=_rest(shadow(document)),
            ),
            evidence(document),
            provenance(document, "coopt", "plan", words.plain(document.get("name") or "SCENARIO")),
        ),
    )


def _rest(table: Grid) -> tuple[Grid, ...]:
    return (dataclasses.replace(table, title="All shadow prices"),) if len(table.rows) > SHOWN else ()


def grids(document: Mapping[str, Any]) -> tuple[Grid, ...]:
    """The tables of a terminal."""
    return (by_quarter(document), deployments(document), runs(document), largest(shadow(document)))
