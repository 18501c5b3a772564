"""A `validate` document: predictions against published measurements, per chip, per source, in slices."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from coopt.report import words
from coopt.report.grid import Column, Grid, bare, grid
from coopt.report.page import Fact, Page, Section, evidence, provenance

SHOWN = 20  # lines of a slice; the largest ones
_ERRORS = ("mape", "median_ape", "p90_ape", "bias")


def slices(document: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    """Every `by_...` of the document, chips first."""
    keys = [k for k, v in document.items() if isinstance(k, str) and k.startswith("by_") and words.mapped(v)]
    keys.sort(key=lambda k: (k != "by_hardware", k != "by_source", k))
    return [(k, document[k]) for k in keys]


def summary(document: Mapping[str, Any]) -> Grid:
    """The errors over all rows."""
    body = [
        ("rows", words.count(document.get("rows"))),
        ("scored", words.count(document.get("scored"))),
        ("mean absolute error", words.percent(document.get("mape"))),
        ("median", words.percent(document.get("median_ape"))),
        ("90th percentile", words.percent(document.get("p90_ape"))),
        ("worst", words.percent(document.get("max_ape"))),
        ("bias", words.signed(document.get("bias"))),
        ("mean over cells (source x chip x kind)", words.percent(document.get("macro_mape"))),
    ]
    return grid("Predicted against measured", (Column("", words=True), Column("")), body)


def by(key: str, held: Mapping[str, Any]) -> Grid:
    """One slice of the errors."""
    name = words.plain(key.removeprefix("by_")).replace("_", " ")
    body = []
    many = {label: words.figure(words.mapped(score).get("rows")) or 0.0 for label, score in held.items()}
    for label in sorted(held, key=lambda label: (-many[label], str(label)))[:SHOWN]:
        score = words.mapped(held[label])
        errors = tuple(words.percent(score.get(e)) for e in _ERRORS[:3])
        body.append((words.plain(label), words.count(score.get("rows")), *errors, words.signed(score.get("bias"))))
    heads = (Column(name, words=True, width=40), Column("rows"), Column("mean error"), Column("median"))
    notes = (f"{len(held) - SHOWN} smaller ones are left out",) if len(held) > SHOWN else ()
    return grid(f"By {name}", (*heads, Column("90th pct"), Column("bias")), body, notes=notes)


def ratios(document: Mapping[str, Any]) -> Grid:
    """Pairs of measurements that differ in one thing alone: how well their ratio is predicted."""
    body = []
    for name, held in words.mapped(document.get("ratios")).items():
        held = words.mapped(held)
        cells = (words.plain(name), words.count(held.get("pairs")), words.percent(held.get("median")))
        body.append((*cells, words.percent(held.get("order_right"))))
    heads = (Column("between", words=True), Column("pairs"), Column("median error"), Column("order right"))
    return grid("Ratios", heads, body, empty="no two rows differ in one thing alone")


def reach(document: Mapping[str, Any]) -> Grid:
    """Every figure beside its target: fitted on all rows, and held out, which is what the target is for."""
    body = []
    for line in words.entries(document, "reach"):
        columns = ("" if line.get(key) is None else words.percent(line[key]) for key in ("fitted", "held_out"))
        rows = "" if line.get("rows") is None else words.count(line["rows"])
        body.append((words.plain(line.get("figure")), rows, *columns, words.plain(line.get("target")),
                     words.plain(line.get("verdict"))))  # fmt: skip
    heads = (Column("figure", words=True, width=40), Column("rows"), Column("fitted"), Column("held out"))
    notes = ("held out: each row by constants fitted without its fold (source and model)",) if _held(document) else ()
    return grid("What is to be reached", (*heads, Column("target"), Column("", words=True)), body, notes=notes)


def _held(document: Mapping[str, Any]) -> Mapping[str, Any]:
    return words.mapped(document.get("held_out"))


LEFT_OUT = {"chip": "Chips left out", "family": "Families left out", "source": "Publications left out"}


def left_out(document: Mapping[str, Any]) -> tuple[Grid, ...]:
    """The errors of chips, of their families and of publications, by constants fitted without any of their rows."""
    held = words.mapped(document.get("left_out"))
    told = []
    for kind, name in LEFT_OUT.items():
        body = []
        for whose, score in (*words.mapped(held.get(f"by_{kind}")).items(), ("all of them", held.get(kind))):
            score = words.mapped(score)
            errors = (words.percent(score.get("mape")), words.percent(score.get("median_ape")))
            body.append((words.plain(whose), words.count(score.get("rows")), *errors, words.signed(score.get("bias"))))
        heads = (Column(kind, words=True), Column("rows"), Column("mean error"), Column("median"), Column("bias"))
        note = "priced by constants fitted without it, "
        note += "as `generic` where nobody else ran its stack" if kind == "source" else "where its stack ran on another"
        told.append(grid(name, heads, body, strong=len(body) - 1, notes=(note,)))
    return tuple(told) if held else ()


def ranking(document: Mapping[str, Any]) -> Grid:
    """Does the best predicted layout win when it is measured?"""
    held = words.mapped(document.get("ranking"))
    body = [
        ("groups", words.count(held.get("groups"))),
        ("best layout named", words.percent(held.get("top1_hit"))),
        ("mean regret", words.percent(held.get("mean_regret"))),
        ("worst regret", words.percent(held.get("max_regret"))),
    ]
    note = "regret: how much slower the layout predicted best is than the one measured best"
    return grid("Ranking", (Column("", words=True), Column("")), body, notes=(note,))


def skipped(document: Mapping[str, Any]) -> Grid:
    """Why rows were not scored."""
    held = words.mapped(document.get("skipped"))
    body = [(words.plain(k), words.count(v)) for k, v in sorted(held.items(), key=lambda i: -(words.figure(i[1]) or 0))]
    heads = (Column("not scored because", words=True, width=70), Column("rows"))
    return grid("Skipped", heads, body, empty="no row was skipped")


def page(document: Mapping[str, Any]) -> Page:
    """The report of a validation."""
    cut = tuple(by(key, held) for key, held in slices(document))
    held = words.mapped(document.get("ranking"))
    regret = words.percent(held.get("mean_regret"))
    return Page(
        kicker="coopt validate",
        title="Predicted against published measurements",
        lead=(
            f"Over {words.count(document.get('scored'))} of {words.count(document.get('rows'))} published rows the mean"
            f" absolute error of the step time is {words.percent(document.get('mape'))}"
            f" (median {words.percent(document.get('median_ape'))}).",
            f"Giving each source, chip and kind one vote it is {words.percent(document.get('macro_mape'))};"
            f" the bias is {words.signed(document.get('bias'))}.",
            f"Choosing the layout predicted best costs {regret} on average against the one measured best.",
        ),
        facts=(
            Fact("mean error", words.percent(document.get("mape"))),
            Fact("median error", words.percent(document.get("median_ape"))),
            Fact("90th percentile", words.percent(document.get("p90_ape"))),
            Fact("mean regret", regret),
        ),
        sections=(
            Section(name="scatter", title="Row by row", figures=("validation",)),
            *_reached(document),
            Section(name="slices", title="Where it errs", grids=cut),
            Section(name="ranking", title="Does the right layout win?", grids=(ranking(document), *_told(document))),
            Section(name="skipped", title="What was not scored", grids=(skipped(document),)),
            *((evidence(document),) if document.get("fidelity") is not None else ()),
            provenance(document, "coopt", "validate", "ROWS.csv"),
        ),
    )


def _reached(document: Mapping[str, Any]) -> tuple[Section, ...]:
    if not words.listed(document.get("reach")):
        return ()
    return (Section(name="reach", title="What is to be reached", grids=(bare(reach(document)), *left_out(document))),)


def _told(document: Mapping[str, Any]) -> tuple[Grid, ...]:
    return (ratios(document),) if words.mapped(document.get("ratios")) else ()


def grids(document: Mapping[str, Any]) -> tuple[Grid, ...]:
    """The tables of a terminal."""
    cut = tuple(by(key, held) for key, held in slices(document) if key != "by_cell")
    target = (reach(document),) if words.listed(document.get("reach")) else ()
    rest = (*left_out(document), ranking(document), *_told(document), skipped(document))
    return (summary(document), *target, *cut, *rest)
