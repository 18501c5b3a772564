"""A `joint` document: what choosing shape, layout and machine together found, beside the ways that take turns."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from coopt.report import words
from coopt.report.grid import Column, Grid, bare, grid
from coopt.report.page import Page, Section, evidence, provenance, said


def choices(document: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any], Mapping[str, Any]]]:
    """Each way with its plan (empty where it found nothing) and what it gives up; choosing together is the first."""
    yield "together", words.mapped(document.get("best")), {}
    for one in words.entries(document, "ways"):
        yield words.plain(one.get("way")), words.mapped(one.get("plan")), one


def ways(document: Mapping[str, Any]) -> Grid:
    """What every way ends at, what choosing together saves over it, and how sure that is."""
    body, objective, unit = [], words.plain(document.get("objective")), words.plain(document.get("unit"))
    for way, plan, against in choices(document):
        if not plan:
            body.append((way, "nothing that fits reaches it", *[""] * 7))
            continue
        sizes = [words.figure(plan.get(name)) or 0.0 for name in ("layers", "d_model")]
        shape = f"{sizes[0]:g} x {sizes[1]:g}, {words.large(plan.get('parameters'))}"
        where = f"{words.plain(plan.get('hardware'))} x {words.count(plan.get('chips'))}"
        gain = words.percent(against.get("gain")) if against else ""
        value = words.large(plan.get(objective), unit)
        work = words.large(plan.get("tokens")), said(plan.get("global_batch"))
        body.append((way, shape, *work, where, value, gain, *_sure(against)))
    heads = (Column("way", words=True, width=14), Column("shape", words=True, width=17), Column("tokens"))
    heads += (Column("batch"), Column("machine", words=True, width=16), Column(objective), Column("gain"))
    heads += (Column("P"), Column("90%", words=True, width=14))
    note = "gain: what choosing together saves over this way; P(gain > 0) and 90% of joint draws of the constants"
    return grid("Together and by turns", heads, body, notes=(note,), strong=0)


def chips(document: Mapping[str, Any]) -> Grid:
    """What the machines are, beside what of the work they have to suit."""
    body = []
    for way, plan, _ in choices(document):
        chip = words.mapped(plan.get("chip"))
        if not chip:
            continue
        units = f"{said(_round(chip.get('units')))} x {said(chip.get('edge'))}^2"
        memory = f"{said(chip.get('stacks'))} {words.plain(chip.get('memory'))}"
        four = "yes" if words.figure(chip.get("four")) else "no"
        body.append(
            (way, units, said(plan.get("head_dim")), words.large(chip.get("sram"), "B"), said(plan.get("d_ff")), memory,
             f"{said((words.figure(chip.get('clock')) or 0.0) / 1e9)} GHz", four, words.plain(plan.get("precision")),
             words.small(chip.get("watts"), "W"), words.dollars(chip.get("price")))
        )  # fmt: skip
    heads = (Column("way", words=True, width=14), Column("units", words=True), Column("head"), Column("SRAM"))
    heads += (Column("d_ff"), Column("memory", words=True, width=10), Column("clock"), Column("fp4", words=True))
    heads += (Column("format", words=True), Column("power"), Column("price"))
    return grid("Chips, and the work they suit", heads, body)


def lead(document: Mapping[str, Any]) -> tuple[str, ...]:
    """The answer in sentences."""
    gains = {way: words.figure(against.get("gain")) for way, plan, against in choices(document) if against and plan}
    known = {way: gain for way, gain in gains.items() if gain is not None}
    told = ", ".join(f"{words.percent(gain)} over {way}" for way, gain in known.items())
    return (
        f"{words.plain(document.get('title'))}.",
        f"Every choice reaches a loss of {said(document.get('loss'))}. Chosen together it takes less: {told}; "
        f"{words.count(document.get('evaluated'))} candidates were priced.",
    )


def grids(document: Mapping[str, Any]) -> tuple[Grid, ...]:
    """The tables of a terminal; that of chips where the machines are designs."""
    told = any(plan.get("chip") for _, plan, _ in choices(document))
    return (ways(document), chips(document)) if told else (ways(document),)


def page(document: Mapping[str, Any]) -> Page:
    """The document as a page."""
    sections = [Section(name=f"part{i}", title=one.title, grids=(bare(one),)) for i, one in enumerate(grids(document))]
    sections += [evidence(document), provenance(document, "coopt", "joint")]
    return Page(kicker="coopt joint", title="Together or by turns", lead=lead(document), sections=tuple(sections))


def _sure(against: Mapping[str, Any]) -> tuple[str, str]:
    """How often there is a gain in the draws, and in what range nine tenths of them lie."""
    if not against:
        return "", ""
    low, high = (words.figure(end) for end in words.listed(against.get("interval")))
    if low == high == 0.0:
        return "", "the same"
    return words.percent(against.get("p_gain"), places=0), f"{words.percent(low)} to {words.percent(high)}"


def _round(value: Any) -> float | None:
    number = words.figure(value)
    return None if number is None else float(round(number))
