"""The tables of a `search` document: the ranking, the measurements, machines the reader does not have, rejections."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from coopt.report import explained, words
from coopt.report.grid import Column, Grid, grid
from coopt.report.page import around, error

SHOWN = 20  # plans in the table; the CSV holds all


def price(plan: Mapping[str, Any]) -> str:
    """Dollars for a million tokens.

    >>> price({"dollars_per_token": 2.5e-6}), price({})
    ('2.50', 'not known')
    """
    each = words.figure(plan.get("dollars_per_token"))
    return words.NOT_KNOWN if each is None else words.digits(1e6 * each)


def loss(value: Any) -> str:
    """A loss with three places, or `not known`."""
    return words.fixed(value, ".3f")


def ranking(document: Mapping[str, Any], key: str = "plans") -> Grid:
    """The final table of a search; settings and machines that all plans share stand below it."""
    held = words.entries(document, key)
    shared = _shared(held)
    machines = {place(plan) for plan in held}
    body = [_plan(plan, shared, named=len(machines) > 1) for plan in held[:SHOWN]]
    notes = [f"all on {machine}" for machine in machines if len(machines) == 1]
    notes += ["all with " + " ".join(f"{name}={part}" for name, part in shared.items())] if shared else []
    notes += [f"{len(held) - SHOWN} further plans are in the run's files"] if len(held) > SHOWN else []
    heads = (Column("#"), Column("shape", words=True, width=18), Column("layout", words=True, width=14))
    heads += (Column("predicted\nstep"), Column("measured\nstep"), Column("MFU"), Column("tokens/s\na chip", width=8))
    heads += (Column("memory"), Column("USD a M\ntokens", width=7), Column("J a\ntoken", width=5))
    heads += (Column("loss", width=5),)
    return grid("Best plans", heads, body, notes=notes, strong=0, empty="no candidate is feasible")


def place(plan: Mapping[str, Any]) -> str:
    """A machine and how many of its chips."""
    chips = words.figure(plan.get("chips"))
    return words.plain(plan.get("hardware")) + (f" x {chips:,.0f}" if chips is not None and chips != 1 else "")


def _shared(held: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    # What every plan has in common is said once, below; degrees of parallelism are always said.
    each = [words.settings(plan.get("layout")) for plan in held if isinstance(plan.get("layout"), Mapping)]
    if len(each) < max(len(held), 2):
        return {}
    return {n: v for n, v in each[0].items() if n not in words.DEGREES and all(e.get(n) == v for e in each)}


def _plan(plan: Mapping[str, Any], shared: Mapping[str, str], *, named: bool) -> tuple[str, ...]:
    time, clock, cut = plan.get("step_time"), plan.get("measured_time"), plan.get("layout")
    if isinstance(cut, Mapping):
        cut = " ".join(f"{name}={part}" for name, part in words.settings(cut).items() if name not in shared)
    return (
        words.count(plan.get("rank")),
        words.shape(plan.get("model")) + (f"\n@{place(plan)}" if named else ""),
        words.layout(cut, joint=" "),
        f"{words.seconds(time)}\n{around(time, plan.get('interval'))}".strip(),
        "not measured" if clock is None else f"{words.seconds(clock)}\n{_kind(plan)}".strip(),
        words.percent(plan.get("mfu")),
        words.large(plan.get("tokens_per_second_per_chip")),
        words.memory(plan.get("memory")),
        price(plan),
        words.small(plan.get("joules_per_token")),
        loss(plan.get("loss")),
    )


def _kind(plan: Mapping[str, Any]) -> str:
    kind = plan.get("measured_kind")
    return "" if kind in (None, "none", "clock") else words.plain(kind)


def certain(document: Mapping[str, Any]) -> Grid:
    """How sure the order is: shares of the draws of all constants in which a plan is best, and among the first."""
    held = words.mapped(document.get("robust"))
    named = {words.count(plan.get("rank")): plan for plan in words.entries(document, "plans")}
    body = []
    for row in words.entries(held, "plans"):
        plan = words.mapped(named.get(words.count(row.get("rank"))))
        chances = (words.percent(row.get(part), places=0) for part in ("best", "first"))
        ends = (_amount(row.get(side), words.plain(held.get("unit"))) for side in ("low", "high"))
        body.append((words.count(row.get("rank")), words.shape(plan.get("model")), place(plan), *chances, *ends))
    many, among = words.count(held.get("samples")), words.count(held.get("pool"))
    first = words.count(held.get("first"))
    objective = words.plain(document.get("objective")).replace("_", " ")
    notes = [f"of {many} draws of every constant from its fitted interval, among {among} plans; "
             f"5% and 95% of the {objective}"]  # fmt: skip
    if any(row.get("high") is None for row in words.entries(held, "plans")):
        notes.append("high not known: in more than 5% of the draws the plan does not run, or misses a limit")
    loose = [words.plain(one) for one in words.listed(held.get("without_interval"))]
    if loose:
        notes.append(f"no interval, taken as {words.percent(held.get('unknown_sigma'), places=0)}: {', '.join(loose)}")
    heads = (Column("#"), Column("shape", words=True, width=18), Column("machine", words=True, width=24))
    heads += (Column("best"), Column(f"first {first}"), Column("low"), Column("high"))
    return grid("How sure the order is", heads, body[:SHOWN], notes=notes, empty="no plan was priced again")


def _amount(value: Any, unit: str) -> str:
    """An objective with its unit."""
    said = {"s": words.seconds, "USD": words.dollars, "B": words.memory, "J": lambda v: words.small(v, "J")}.get(unit)
    number = words.figure(value)
    return words.NOT_KNOWN if number is None else said(number) if said else words.digits(number)


def measurements(document: Mapping[str, Any]) -> Grid:
    """What was timed, beside what was predicted before and after calibration."""
    body = []
    for m in words.entries(document, "measured"):
        time = m.get("measured_time")
        body.append(
            (
                words.count(m.get("rank")),
                words.plain(m.get("name")),
                words.seconds(m.get("predicted_before")),
                words.seconds(m.get("predicted_time")),
                words.seconds(time),
                around(time, (m.get("low"), m.get("high"))) or words.NOT_KNOWN,
                error(m.get("predicted_time"), time),
                words.plain(m.get("kind") if m.get("outcome") in (None, "ok") else m.get("outcome")),
            )
        )
    off = [words.figure(words.mapped(m.get("check")).get("worst")) for m in words.entries(document, "measured")]
    known = [one for one in off if one is not None]
    said = (
        f"{len(known)} of {len(off)} blocks were held against float64, once: at most {max(known, default=0.0):.1g} off"
    )
    heads = (Column("#"), Column("block", words=True, width=28), Column("predicted\nbefore"))
    heads += (Column("predicted\nafter"), Column("measured"), Column("interval"), Column("error"))
    notes = (said,) if known else ()
    return grid(
        "Predicted and measured", (*heads, Column("by", words=True)), body, notes=notes, empty="nothing was measured"
    )


def calibration(document: Mapping[str, Any]) -> Grid:
    """The errors before and after calibration."""
    held = words.mapped(document.get("calibration"))
    names = ("mape", "median_ape", "p90_ape", "bias")
    body = [
        (when, words.count(words.mapped(held[when]).get("rows")))
        + tuple(words.percent(words.mapped(held[when]).get(n)) for n in names)
        for when in ("before", "after")
        if words.mapped(held.get(when))
    ]
    heads = (Column("calibration", words=True), Column("rows"), Column("mean error"), Column("median"))
    return grid("", (*heads, Column("90th percentile"), Column("bias")), body, empty="no calibration was made")


def elsewhere(document: Mapping[str, Any]) -> Grid:
    """Machines the reader does not have."""
    heads = (Column("model", words=True, width=14), Column("machine", words=True, width=18))
    heads += (Column("layout", words=True, width=14), Column("tokens/s"), Column("a chip", width=7))
    heads += (Column("tokens\na USD", width=7), Column("tokens/s\na MW", width=8))
    nearest = Column("nearest\npublished", words=True, width=18)
    body = [_far(entry) for entry in words.entries(document, "elsewhere")]
    return grid("Machines you do not have", (*heads, nearest), body, empty="none was asked for")


def _far(entry: Mapping[str, Any]) -> tuple[str, ...]:
    power, rate = words.figure(entry.get("megawatts")), entry.get("tokens_per_second")
    watts = "MW not known" if power is None else f"{words.digits(power)} MW"
    reach = around(rate, entry.get("interval"))
    near = words.first(entry, "nearest")
    recipe = (
        f" {words.plain(entry['precision'])}"
        if entry.get("precision") is not None and "precision" not in words.mapped(entry.get("layout"))
        else ""
    )
    return (
        words.plain(entry.get("model")),
        f"{place(entry)}\n{watts}",
        words.layout(entry.get("layout"), joint=" ") + recipe,
        f"{words.large(rate)}\n{reach}".strip(),
        words.large(entry.get("tokens_per_second_per_chip")),
        words.large(entry.get("tokens_per_dollar")),
        words.large(entry.get("tokens_per_megawatt")),
        f"{words.plain(near['id'])}\n{our_error(near)}".strip() if near.get("id") is not None else words.NOT_KNOWN,
    )


def our_error(near: Mapping[str, Any]) -> str:
    """Our error on a measured row nearby."""
    if words.figure(near.get("measured")) is None:
        return ""
    return f"our error {error(near.get('predicted'), near.get('measured'))}"


def census(document: Mapping[str, Any]) -> Grid:
    """Why candidates were rejected."""
    rejected = words.mapped(document.get("rejected"))
    counts = sorted(((words.figure(n) or 0.0, words.plain(k)) for k, n in rejected.items()), reverse=True)
    every = words.figure(document.get("evaluated"))
    body = [
        (name.replace("_", " "), words.count(n), words.percent(n / every if every else None),
         explained.VERDICTS.get(name, ""))
        for n, name in counts
    ]  # fmt: skip
    heads = (Column("reason", words=True), Column("candidates"), Column("of all"), Column("meaning", words=True))
    return grid("", heads, body, empty="no candidate was rejected")
