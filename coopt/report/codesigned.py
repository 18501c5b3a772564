"""A `codesign` document: which chip to order, against the bought one and in other futures, and what to ask a vendor."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from coopt.report import words
from coopt.report.grid import Column, Grid, bare, grid
from coopt.report.page import Page, Section, evidence, provenance

SHOWN = 10  # swaps that are told
EACH = {"joules_per_token": "a joule", "chip_time_per_token": "a chip and second"}
UNITS = {"joules_per_token": "J", "chip_time_per_token": "s"}  # of objectives that are not USD


def chosen(document: Mapping[str, Any]) -> Mapping[str, Any]:
    """The chip that is the answer."""
    chips, at = words.entries(document, "chips"), words.figure(document.get("chosen"))
    return chips[int(at)] if at is not None and 0 <= at < len(chips) else {}


def a_million(value: Any, unit: str = "USD") -> str:
    """USD a token as USD a million tokens; of other objectives in their unit."""
    number = words.figure(value)
    if number is None:
        return words.NOT_KNOWN
    return f"{number * 1e6:.4f} USD" if unit == "USD" else words.large(number * 1e6, unit)


def chips(document: Mapping[str, Any]) -> Grid:
    """Every chip that was judged: what it is, and what its work costs on average and at worst against the best."""
    body = []
    for one in words.entries(document, "chips"):
        design, made = words.mapped(one.get("design")), words.mapped(one.get("silicon"))
        die = words.figure(made.get("die"))
        size = words.NOT_KNOWN if die is None else f"{die * 1e6:.0f}"
        what = f"{words.plain(design.get('node'))}, {_n(design.get('dies'))} x {size} mm2"
        memory = f"{_n(design.get('stacks'))} x {words.plain(design.get('memory'))}"
        body.append(
            (
                words.plain(one.get("label")), what, memory, words.large(one.get("peak_16"), "FLOP/s"),
                words.small(made.get("watts"), "W"), words.dollars(made.get("price")), _year(made.get("date")),
                *(_regret(one.get(name)) for name in ("mean_regret", "worst_regret")),
            )
        )  # fmt: skip
    heads = (Column("chip", words=True, width=16), Column("dies", words=True, width=14), Column("memory", words=True))
    heads += (Column("16-bit"), Column("power"), Column("price"), Column("date"), Column("regret"), Column("worst"))
    note = "regret: what a token takes over what it takes on the best chip, mean of the mix and worst future"
    at = words.figure(document.get("chosen"))
    return grid("Chips", heads, body, notes=(note,), strong=None if at is None else int(at))


def variables(document: Mapping[str, Any]) -> Grid:
    """The answer's variables beside the bought chip's."""
    here, there = words.mapped(chosen(document).get("design")), words.mapped(_bought(document).get("design"))
    ends = [words.plain(name) for name in words.listed(chosen(document).get("at_ends"))]
    body = [
        (words.plain(name), _n(there.get(name)), _n(value) + (" (end)" if name in ends else ""))
        for name, value in here.items()
    ]
    heads = (Column("variable", words=True), Column("bought"), Column("answer"))
    notes = (f"(end): the largest or smallest choice there was, so that more or less may be better: {', '.join(ends)}",)
    return grid("The answer's variables", heads, body, notes=notes if ends else ())


def mix(document: Mapping[str, Any]) -> Grid:
    """What a million tokens cost in each future, bought and ordered, and how the answer would be used."""
    body = []
    before = {words.plain(f.get("future")): f for f in words.entries(_bought(document), "futures")}
    for way in words.entries(chosen(document), "futures"):
        name = words.plain(way.get("future"))
        layout = words.mapped(way.get("layout"))
        cut = " ".join(
            f"{key}={_n(layout[key])}" for key in ("tp", "cp", "pp", "ep", "zero", "precision") if key in layout
        )
        body.append(
            (
                name, a_million(before.get(name, {}).get("dollars_per_token")), a_million(way.get("dollars_per_token")),
                words.percent(way.get("regret")), words.count(way.get("chips")), words.plain(way.get("shape")), cut,
            )
        )  # fmt: skip
    heads = (Column("future", words=True), Column("bought"), Column("answer"), Column("regret"), Column("chips"))
    heads += (Column("shape", words=True, width=12), Column("layout", words=True, width=26))
    return grid("A million tokens", heads, body)


def gains(document: Mapping[str, Any]) -> Grid:
    """Where the gain comes from."""
    body, unit = [], UNITS.get(words.plain(words.mapped(document.get("question")).get("objective")), "USD")
    for step in words.entries(document, "steps"):
        ratio, value = words.figure(step.get("ratio")), words.figure(step.get("value"))
        change = "" if ratio is None else words.signed(ratio - 1.0)
        said = "cannot keep the pace" if value is None else a_million(value, unit)
        body.append((words.plain(step.get("step")), said, change))
    heads = (Column("step", words=True, width=48), Column("a million tokens"), Column("change"))
    return grid("What it got from what", heads, body)


def limits(document: Mapping[str, Any]) -> Grid:
    """What limits removed of the sample."""
    rows = [row for row in words.entries(document, "limits") if words.figure(row.get("removed"))]
    body = [(words.plain(r.get("limit")), words.count(r.get("removed")), words.count(r.get("alone"))) for r in rows]
    heads = (Column("limit", words=True), Column("removed"), Column("that no other did"))
    return grid("Limits", heads, body, empty="no limit removed a design")


def asks(document: Mapping[str, Any]) -> tuple[Grid, Grid]:
    """What the vendor's chip would gain from one percent more of each variable, and from another node or memory."""
    told = words.mapped(document.get("wishes"))
    keys = ("time", "price", "area", "watts", "dollars", "per_price")
    body = [
        (words.plain(row.get("variable")), *(_slope(row.get(key)) for key in keys))
        for row in words.entries(told, "elasticities")
    ]
    heads = (Column("variable", words=True), Column("step time"), Column("price"), Column("area"), Column("power"))
    heads += (Column("USD a token"), Column("time for 1% of price"))
    swaps = [
        (words.plain(row.get("change")), *(words.signed(row.get(key)) for key in ("time", "price", "watts", "dollars")))
        for row in words.entries(told, "swaps")[:SHOWN]
    ]
    titles = (
        Column("change", words=True),
        Column("step time"),
        Column("price"),
        Column("power"),
        Column("USD a token"),
    )
    notes = tuple(
        _trade(told, key, what) for key, what in (("at_constant_price", "price"), ("at_constant_area", "area"))
    )
    return (
        grid("The vendor's next chip: percent for one percent more", (*heads,), body, notes=tuple(filter(None, notes))),
        grid("The vendor's chip with one thing changed", titles, swaps),
    )


def _trade(told: Mapping[str, Any], key: str, what: str) -> str:
    trade = words.mapped(told.get(key))
    change = words.figure(trade.get("step_time"))
    if change is None:
        return ""
    return (
        f"at constant {what}: a thousandth of it from {words.plain(trade.get('less'))} to "
        f"{words.plain(trade.get('more'))} changes the step by {0.1 * change:+.2f}%"
    )


def lead(document: Mapping[str, Any]) -> tuple[str, ...]:
    """The answer in sentences."""
    asked, even = words.mapped(document.get("question")), words.mapped(document.get("breakeven"))
    answer = words.mapped(chosen(document).get("silicon"))
    volume, least = words.figure(even.get("volume")), words.figure(even.get("least")) or 0.0
    gain = words.figure(document.get("gain"))
    told, share = (words.NOT_KNOWN,) * 2 if not gain else (f"{gain:.2f}", words.percent(1.0 / gain, places=0))
    each = EACH.get(words.plain(asked.get("objective")), "a dollar")
    first = (
        f"Ordered in {words.count(asked.get('volume'))}, the best chip found does {told} times the work {each} of "
        f"{words.plain(asked.get('vendor'))} as it is sold, over the mix of futures; at {share} of the speed that is "
        "priced it would do as much."
    )
    if volume is None:
        second = "There is no volume at which it costs less than the bought chip."
    else:
        below = ", fewer than anybody begins with" if volume < least else ""
        second = f"It costs less than the bought chip from {words.count(volume)} chips on{below}."
    third = (
        f"It needs {words.dollars(even.get('development'))} of development and {words.count(even.get('quarters'))} "
        f"quarters: volume in {_year(answer.get('date'))}."
    )
    search = words.mapped(document.get("search"))
    ends = [words.figure(one) or 0.0 for one in words.mapped(search.get("apart")).values()]
    last = "nothing improved" if search.get("settled") else "something still improved"
    fourth = (
        f"In {words.percent(document.get('chance'), places=0)} of draws of what is known of a process it does more "
        "than the bought chip."
    )
    fifth = (
        f"Searched from {words.count(search.get('seeds'))} seeds, whose ends lie within "
        f"{words.percent(max(ends, default=0.0))} of each other; then {words.count(search.get('rounds'))} rounds from "
        f"where all futures and the mix ended, until {last}."
    )
    return first, second, third, fourth, fifth


def grids(document: Mapping[str, Any]) -> tuple[Grid, ...]:
    """The tables of a terminal."""
    return (chips(document), variables(document), mix(document), gains(document), limits(document), *asks(document))


def page(document: Mapping[str, Any]) -> Page:
    """The document as a page."""
    wishes, swaps = asks(document)
    sections = [
        Section(name="chips", title="Chips", grids=(bare(chips(document)),), folded=(variables(document),)),
        Section(name="mix", title="A million tokens", grids=(bare(mix(document)),)),
        Section(name="gain", title="What it got from what", grids=(bare(gains(document)),)),
        Section(name="limits", title="Limits", grids=(bare(limits(document)),), half=True),
        Section(name="wishes", title="The vendor's next chip", grids=(wishes, swaps)),
        evidence(document),
        provenance(document, "coopt", "codesign"),
    ]
    return Page(kicker="coopt codesign", title="A chip to order", lead=lead(document), sections=tuple(sections))


def _bought(document: Mapping[str, Any]) -> Mapping[str, Any]:
    return words.first(document, "chips")


def _regret(value: Any) -> str:
    return "too slow" if value is None else words.percent(value)


def _n(value: Any) -> str:
    number = words.figure(value)
    return words.plain(value) if number is None else words.large(number) if abs(number) >= 1e5 else words.digits(number)


def _year(value: Any) -> str:
    return words.fixed(value, ".1f")


def _slope(value: Any) -> str:
    number = words.figure(value)
    return "none" if number is None else f"{number:+.2f}"
