"""A `search` document: the best plan in three sentences, what was measured, how sure it is, and where it came from."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from coopt.report import explained, ranked, words
from coopt.report.grid import Column, Grid, bare, grid
from coopt.report.page import Fact, Page, Section, around, error, evidence, provenance, said
from coopt.report.ranked import loss

_RATES = {
    "matmul": lambda v: words.large(v, "FLOP/s"),
    "memory_bandwidth": lambda v: words.large(v, "B/s"),
    "bandwidth": lambda v: words.large(v, "B/s"),
    "stream": lambda v: words.large(v, "B/s"),
    "dispatch": words.seconds,
    "kernel": words.seconds,
    "memory": words.memory,
    "price": words.dollars,
    "power": lambda v: words.small(v, "W"),
    "watts": lambda v: words.small(v, "W"),
}


def best_sentence(document: Mapping[str, Any]) -> str:
    """The first sentence: the best of how many."""
    tried = f"{words.count(document.get('evaluated'))} candidates"
    held = words.entries(document, "plans")
    if not held:
        reasons = words.mapped(document.get("rejected"))
        most = max(reasons, key=lambda k: words.figure(reasons[k]) or 0.0, default="")
        why = f"; most were rejected for {words.plain(most)}" if most else ""
        return f"None of {tried} is feasible{why}."
    best = held[0]
    ends = around(best.get("step_time"), best.get("interval"))
    said_loss = f", loss {loss(best['loss'])}" if words.figure(best.get("loss")) is not None else ""
    return (
        f"The best of {tried} is {words.shape(best.get('model'))} on {ranked.place(best)}"
        f" with {words.layout(best.get('layout'), joint=', ')}: {words.seconds(best.get('step_time'))} a step"
        f"{f' ({ends})' if ends else ''}, {words.large(best.get('tokens_per_second_per_chip'))} tokens/s a chip,"
        f" {words.percent(best.get('mfu'))} MFU{said_loss}."
    )


def sure_sentence(document: Mapping[str, Any]) -> tuple[str, ...]:
    """How sure it is that the first plan is the best."""
    held = words.mapped(document.get("robust"))
    best = words.first(held, "plans")
    if words.figure(best.get("best")) is None:
        return ()
    return (
        f"With every constant drawn from its own interval it is the best of {words.count(held.get('pool'))} plans in"
        f" {words.percent(best.get('best'), places=0)} of the draws, and among the first"
        f" {words.count(held.get('first'))} in {words.percent(best.get('first'), places=0)}.",
    )


def measured_sentence(document: Mapping[str, Any]) -> str:
    """The second sentence: what a clock said."""
    timed = [m for m in words.entries(document, "measured") if words.figure(m.get("measured_time")) is not None]
    if not timed:
        fidelity = words.plain(document.get("fidelity"))
        return f"Nothing was measured: every number is a prediction (fidelity: {fidelity})."
    held = words.mapped(document.get("calibration"))
    before, after = (words.figure(words.mapped(held.get(when)).get("mape")) for when in ("before", "after"))
    many = f"{len(timed)} of {len(words.entries(document, 'measured'))} shortlisted blocks were compiled and timed"
    then = decision_sentence(document)
    if before is None or after is None:
        return f"{many}.{then}"
    return f"{many}; calibration brought the mean error from {words.percent(before)} to {words.percent(after)}.{then}"


def decision_sentence(document: Mapping[str, Any]) -> str:
    """Whether the timings decide which plan to take, and what taking it still risks; empty where nobody knows.

    >>> decision_sentence({"decision": {"regret": 0.002, "decided": True}})
    ' That decides the choice: the plan taken is expected to be within 0.2% of the best.'
    """
    found = words.mapped(document.get("decision"))
    if (risk := words.figure(found.get("regret"))) is None:
        return ""
    said = f"the choice: the plan taken is expected to be within {words.percent(risk)} of the best"
    if found.get("decided"):
        return f" That decides {said}."
    return f" That does not decide {said}; a larger --measure times more."


def again_sentence(document: Mapping[str, Any]) -> tuple[str, ...]:
    """What the best two blocks came to when they were timed in new processes; nothing where none was."""
    ratios = [words.figure(one.get("ratio")) for one in words.entries(document.get("afresh"), "plans")]
    told = [f"{ratio:.2f}" for ratio in ratios if ratio is not None]
    if not told:
        return ()
    which = "the best block" if len(told) == 1 else "the best two blocks"
    return (f"Timed again in new processes, {which} took {' and '.join(told)} times as long as before.",)


def page(document: Mapping[str, Any]) -> Page:
    """The report of a search."""
    best = words.mapped(document.get("explain"))
    third = explained.bound_sentence(best) if best else _near_sentence(document)
    return Page(
        kicker="coopt search",
        title=words.plain(document.get("name") or document.get("run") or "search"),
        about=words.plain(document["study"]) if isinstance(document.get("study"), str) else "",
        lead=(
            best_sentence(document),
            *sure_sentence(document),
            measured_sentence(document),
            *again_sentence(document),
            third,
        ),
        facts=facts(document),
        sections=(
            Section(name="plans", title="Best plans", grids=(bare(ranked.ranking(document)),)),
            *_sure(document),
            *_drawn(document),
            *(explained.sections(best) if best else ()),
            *_far(document),
            *_edges(document),
            evidence(document),
            Section(
                name="rejected",
                title="What was rejected",
                sentences=(_screened(document),),
                grids=(ranked.census(document),),
            ),
            *_host(document),
            provenance(document, "coopt", "search", f"{words.plain(document.get('run'))}/study.yaml"),
        ),
    )


def _sure(document: Mapping[str, Any]) -> tuple[Section, ...]:
    if not words.mapped(document.get("robust")):
        return ()
    return (Section(name="sure", title="How sure the order is", sentences=sure_sentence(document),
                    folded=(ranked.certain(document),)),)  # fmt: skip


def _near_sentence(document: Mapping[str, Any]) -> str:
    near = words.first(document, "nearest")
    if not near:
        return "No measurement is near the best plan."
    known = ranked.our_error(near) or "our error on it is not known"
    what = f" ({words.plain(near['what'])})" if near.get("what") else ""
    return f"The nearest measurement is {words.plain(near.get('id'))}{what}; {known}."


def facts(document: Mapping[str, Any]) -> tuple[Fact, ...]:
    """The numbers of the best plan."""
    best = words.first(document, "plans")
    time, clock = best.get("step_time"), best.get("measured_time")
    drift = error(time, clock)
    return (
        Fact("predicted step", words.seconds(time), around(time, best.get("interval"))),
        Fact(
            "measured step",
            "not measured" if clock is None else words.seconds(clock),
            f"prediction {drift}" if drift != words.NOT_KNOWN else "",
        ),
        Fact("MFU", words.percent(best.get("mfu"))),
        Fact("tokens/s a chip", words.large(best.get("tokens_per_second_per_chip"))),
        Fact("memory a chip", words.memory(best.get("memory"))),
        Fact("loss", loss(best.get("loss"))),
        Fact("USD a million tokens", ranked.price(best)),
        Fact("energy a token", words.small(best.get("joules_per_token"), "J")),
    )


def _drawn(document: Mapping[str, Any]) -> tuple[Section, ...]:
    shown = []
    if words.entries(document, "pareto"):
        table = bare(ranked.ranking(document, "pareto"))
        sentence = "No candidate is better in one respect without being worse in the other."
        shown.append(_pictured("pareto", "The Pareto front", table, sentences=(sentence,)))
    if words.entries(document, "measured"):
        scores = (ranked.calibration(document),) if words.mapped(document.get("calibration")) else ()
        table = bare(ranked.measurements(document))
        sentence = "Blocks compiled and timed on this machine, before and after the profile was calibrated."
        title = "Predicted against measured"
        shown.append(_pictured("measured", title, table, sentences=(sentence,), grids=scores))
    return tuple(dataclasses.replace(section, half=len(shown) > 1) for section in shown)


def _pictured(name: str, title: str, table: Grid, **more: Any) -> Section:
    return Section(name=name, title=title, figures=(name,), folded=(dataclasses.replace(table, strong=None),), **more)


def _far(document: Mapping[str, Any]) -> tuple[Section, ...]:
    table = ranked.elsewhere(document)
    if not table.rows:
        return ()
    sentence = "Priced by the same expression from published profiles; nothing here was run on these machines."
    return (Section(name="elsewhere", title="Machines you do not have", sentences=(sentence,), grids=(bare(table),)),)


def _edges(document: Mapping[str, Any]) -> tuple[Section, ...]:
    hits = tuple(words.sentence(hit) for hit in words.listed(document.get("boundary_hits")))
    sentence = "A best plan on the edge of a range is not a finding: the range is what stopped it."
    none = "The best plan lies inside every range of the space."
    return (Section(name="edges", title="On the edge", sentences=(sentence if hits else none,), items=hits),)


def _screened(document: Mapping[str, Any]) -> str:
    rate = words.large(document.get("candidates_per_second"))
    return (
        f"{words.count(document.get('feasible'))} of {words.count(document.get('evaluated'))} candidates are feasible;"
        f" screening took {words.seconds(document.get('seconds'))}, {rate} candidates/s."
    )


def _host(document: Mapping[str, Any]) -> tuple[Section, ...]:
    host = words.mapped(document.get("host"))
    if not host:
        return ()
    rows = [(words.plain(k).replace("_", " "), _RATES.get(k, said)(v)) for k, v in host.items()]
    table = grid("", (Column("", words=True), Column("")), rows)
    sentence = "Measured here; what a machine cannot measure about itself is not known, and not guessed."
    return (Section(name="host", title="This host", sentences=(sentence,), grids=(table,)),)


def grids(document: Mapping[str, Any]) -> tuple[Grid, ...]:
    """The tables of a terminal: the ranking, how sure it is, then machines the reader does not have."""
    far, sure = ranked.elsewhere(document), ranked.certain(document)
    return (ranked.ranking(document), *((sure,) if sure.rows else ()), *((far,) if far.rows else ()))
