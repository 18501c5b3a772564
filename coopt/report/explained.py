"""An `explain` document: one design, row by row, with bounds, memory, verdict and limits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from coopt.report import wishes, words
from coopt.report.grid import Column, Grid, bare, grid
from coopt.report.page import Fact, Page, Section, around, evidence, said

VERDICTS = {
    "fits": "it fits",
    "memory": "it wants more memory than a chip has",
    "chips": "tp x cp x pp x dp is not the number of chips",
    "heads": "tp does not divide the heads",
    "batch": "dp x micro_batch does not divide the batch",
    "layers": "it has more pipeline chunks than layers",
    "experts": "ep does not divide the experts, or tp x cp x dp",
    "sequence": "cp or sp does not divide the sequence",
    "fsdp": "fsdp does not divide dp",
    "schedule": "interleaving needs micro-batches in multiples of pp, dualpipe an even pp, vpp=1 and 2 pp of them",
    "type": "the chip has no such number format",
    "offload": "the chip has no host link, or the host too little memory",
    "unpriced": "a field that pricing needs is not known",
}
PARTS = ("parameters", "gradients", "optimizer", "activations", "logits", "buffers")


def parts(memory: Any) -> list[tuple[str, float]]:
    """The parts of memory in their usual order, those that hold anything, then any other part by its name."""
    held = words.mapped(memory)
    names = (*PARTS, *(n for n in held if n not in (*PARTS, "total", "available", "host")))
    found = [(words.plain(n), size) for n in names if (size := words.figure(held.get(n)))]
    rest = (words.figure(held.get("total")) or 0.0) - sum(size for _, size in found)
    # What the total has beyond its parts: the allocator's margin and what the runtime keeps for itself.
    return [*found, ("margin and runtime", rest)] if found and rest > 0.002 * sum(size for _, size in found) else found


def by_bound(document: Mapping[str, Any]) -> dict[str, float]:
    """Exposed seconds by what bounds the row, largest first."""
    held: dict[str, float] = {}
    for row in words.entries(document, "rows"):
        name = words.plain(row.get("bound") or "none")
        held[name] = held.get(name, 0.0) + (words.figure(row.get("time")) or 0.0)
    return dict(sorted(held.items(), key=lambda item: -item[1]))


def table_of_rows(document: Mapping[str, Any]) -> Grid:
    """Every row of the step: exposed and busy time, share, FLOP, bytes, bound."""
    total = words.figure(document.get("step_time"))
    body = []
    for row in words.entries(document, "rows"):
        time = words.figure(row.get("time"))
        share = None if time is None or not total else time / total
        cells = (words.plain(row.get("name")), words.seconds(row.get("time")), words.percent(share))
        cells += (words.seconds(row.get("busy")), words.large(row.get("flops")), words.memory(row.get("bytes")))
        body.append((*cells, words.plain(row.get("bound"))))
    heads = (Column("row", words=True, width=34), Column("exposed"), Column("share"), Column("busy"))
    heads += (Column("FLOP"), Column("bytes"), Column("bound by", words=True))
    note = "exposed: what the step waits for, and adds to the step time; busy: the row's own time, hidden or not"
    notes = (f"step time {words.seconds(total)}; {note}",) if body else ()
    return grid("Row by row", heads, body, notes=notes, empty="a design that is not feasible has no rows")


def table_of_memory(document: Mapping[str, Any]) -> Grid:
    """Bytes on the fullest chip, by part."""
    held = words.mapped(document.get("memory"))
    total = words.figure(held.get("total"))
    body = [(n, words.memory(size), words.percent(size / total if total else None)) for n, size in parts(held)]
    body.append(("in all", words.memory(total), ""))
    if held.get("available") is not None:
        body.append(("a chip has", words.memory(held["available"]), ""))
    if words.figure(held.get("host")):
        body.append(("on the host", words.memory(held["host"]), ""))
    heads = (Column("part", words=True), Column("bytes"), Column("share"))
    return grid("Memory of the fullest chip", heads, body, strong=len(parts(held)))


def table_of_limits(document: Mapping[str, Any]) -> Grid:
    """What stands in the way, and the smallest change that would do."""
    body = []
    for limit in words.entries(document, "limits"):
        say = words.memory if limit.get("name") in ("memory", "offload", "host memory") else said
        change = limit.get("smallest_change")
        if isinstance(change, Mapping):
            change = ", ".join(f"{words.plain(k)}={said(v)}" for k, v in change.items())
        wanted, available = say(limit.get("wanted")), say(limit.get("available"))
        body.append((words.plain(limit.get("name")), wanted, available, words.plain(change)))
    heads = (Column("limit", words=True), Column("wanted"), Column("available"))
    return grid("Limits", (*heads, Column("smallest change", words=True, width=44)), body, empty="none is exceeded")


def verdict(document: Mapping[str, Any]) -> str:
    """The verdict as a sentence."""
    code = document.get("verdict")
    return VERDICTS.get(code, words.plain(code)) if isinstance(code, str) else words.plain(code)


def design(document: Mapping[str, Any]) -> str:
    """A model and its machine."""
    chips = words.count(document.get("chips"))
    return f"{words.shape(document.get('model'))} on {words.plain(document.get('hardware'))} x {chips}"


def lead(document: Mapping[str, Any]) -> tuple[str, ...]:
    """The answer in three sentences."""
    what = f"{design(document)} with {words.layout(document.get('layout'), joint=', ')}"
    if document.get("feasible") is False:
        changes = [limit.get("smallest_change") for limit in words.entries(document, "limits")]
        change = next((said(c) for c in changes if isinstance(c, str)), None)
        cure = f"The smallest change that helps: {change}." if change else "No single change of the layout helps."
        return (f"{what} is not feasible: {verdict(document)}.", cure)
    time, ends = words.seconds(document.get("step_time")), words.interval(document.get("interval"))
    return (
        f"{what} takes {time} a step ({ends}).",
        f"That is {words.large(document.get('tokens_per_second_per_chip'))} tokens/s a chip"
        f" at {words.percent(document.get('mfu'))} MFU.",
        bound_sentence(document),
    )


def bound_sentence(document: Mapping[str, Any]) -> str:
    """What the step waits for most."""
    shares = {name: time for name, time in by_bound(document).items() if name != "none"}
    total = words.figure(document.get("step_time"))
    if not shares or not total:
        return "What bounds the step is not known."
    name, time = next(iter(shares.items()))
    longest = max(words.entries(document, "rows"), key=lambda row: words.figure(row.get("time")) or 0.0)
    share = (words.figure(longest.get("time")) or 0.0) / total
    return (
        f"{words.percent(time / total, places=0)} of the step is bound by {name};"
        f" its longest row is {words.plain(longest.get('name'))} ({words.percent(share, places=0)})."
    )


def sections(document: Mapping[str, Any]) -> tuple[Section, ...]:
    """Breakdown and memory, as a search shows them for its best plan."""
    step = table_of_rows(document)
    part = Section(
        name="breakdown",
        title="Where the step goes",
        sentences=(bound_sentence(document),) if step.rows else (),
        figures=("breakdown",) if step.rows else (),
        folded=(step,) if step.rows else (),
        grids=() if step.rows else (step,),
    )
    split = table_of_memory(document)
    if not parts(document.get("memory")):
        return part, Section(name="memory", title="Memory", grids=(bare(split),))
    wanted, available = (words.memory(words.mapped(document.get("memory")).get(k)) for k in ("total", "available"))
    sentence = f"The fullest chip wants {wanted}; it has {available}."
    held = Section(name="memory", title="Memory", sentences=(sentence,), figures=("memory",), folded=(split,))
    return part, held


def facts(document: Mapping[str, Any]) -> tuple[Fact, ...]:
    """The few numbers at the top."""
    time = document.get("step_time")
    held = words.mapped(document.get("memory"))
    return (
        Fact("step time", words.seconds(time), around(time, document.get("interval"))),
        Fact("tokens/s a chip", words.large(document.get("tokens_per_second_per_chip"))),
        Fact("MFU", words.percent(document.get("mfu"))),
        Fact("memory", words.memory(held.get("total")), f"of {words.memory(held.get('available'))}"),
    )


def page(document: Mapping[str, Any]) -> Page:
    """One design."""
    breakdown, held = sections(document)
    limits = table_of_limits(document)
    work = words.mapped(document.get("workload"))
    about = ", ".join(f"{words.plain(k)} {said(v)}" for k, v in work.items())
    asked = words.mapped(document.get("gradients"))
    return Page(
        kicker="coopt explain",
        title=design(document),
        lead=lead(document),
        facts=facts(document),
        sections=(
            Section(
                name="verdict",
                title="Does it fit?",
                sentences=(f"Verdict: {verdict(document)}.", *((f"Workload: {about}.",) if about else ())),
                grids=(limits,) if limits.rows else (),
            ),
            breakdown,
            held,
            *((Section(name="slopes", title="What would make it faster", grids=wishes.grids(asked)),) if asked else ()),
            evidence(document),
        ),
    )


def grids(document: Mapping[str, Any]) -> tuple[Grid, ...]:
    """The tables of a terminal."""
    limits = table_of_limits(document)
    shown = (table_of_rows(document), table_of_memory(document))
    asked = words.mapped(document.get("gradients"))
    return (*shown, *((limits,) if limits.rows else ()), *(wishes.grids(asked) if asked else ()))
