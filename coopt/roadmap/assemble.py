"""From a scenario, its machines and what search says can be trained: the instance that the programme solves."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence

import numpy as np

from coopt.problems import Problem, Refused
from coopt.roadmap import quarters
from coopt.roadmap.instance import Instance, Run
from coopt.roadmap.machines import Machine, Machines
from coopt.roadmap.options import Offer, Option, Task
from coopt.roadmap.scenario_schema import Filled, Scenario
from coopt.spec import schema
from coopt.spec.schema import Marks
from coopt.spec.schema_types import year


def annuity(rate: float, periods: float) -> float:
    """The constant payment, each of `periods` quarters, that pays one dollar at a yearly rate.

    a = q / (1 - (1 + q)^-n), q = (1 + rate)^(1/4) - 1; 1/n at a rate of zero.

    >>> round(annuity(0.10, 20), 5), annuity(0.0, 20)
    (0.06361, 0.05)
    """
    quarterly = (1.0 + rate) ** 0.25 - 1.0
    return 1.0 / periods if quarterly == 0.0 else quarterly / (1.0 - (1.0 + quarterly) ** -periods)


def systems(scenario: Scenario) -> tuple[str, ...]:
    """Every system of a scenario once: those that may be bought, then those of the fleet alone."""
    named = [chip.system for chip in scenario.chips] + [owned.system for owned in scenario.fleet]
    return tuple(dict.fromkeys(named))


def tasks(scenario: Scenario) -> tuple[Task, ...]:
    """The rungs of the ladder as tasks to be priced."""
    return tuple(
        Task(
            model=rung.model,
            width=rung.scale.width,
            layers=rung.scale.layers,
            tokens=rung.tokens,
            batch=rung.batch,
            seq_len=scenario.training.seq_len,
        )
        for rung in scenario.training.ladder
    )


def reference(scenario: Scenario) -> Task:
    """The reference model as a task: its loss is where worth begins, its speed on a chip what serving earns by."""
    given = scenario.training.worth.reference
    return Task(model=given.model, tokens=given.tokens, batch=given.batch, seq_len=scenario.training.seq_len)


def known(scenario: Scenario, machines: Machines, marks: Marks) -> tuple[Machine, ...]:
    """Each system's figures, from its profile or else from the scenario's `assumed`; Refused names what is missing."""
    filled: dict[str, tuple[tuple[str | int, ...], Filled]] = {}
    for field in ("fleet", "chips"):
        for i, entry in enumerate(getattr(scenario, field)):
            filled[entry.system] = ((field, i), entry.assumed)
    found, problems = [], []
    for system in systems(scenario):
        place, assumed = filled[system]
        try:
            machine = machines(system)
        except Refused as refusal:
            problems += refusal.problems
            continue
        given = {
            "watts": assumed.watts and assumed.watts.value,
            "dollars": assumed.price and assumed.price.value,
            "date": assumed.date and year(assumed.date.value),
        }
        figures = {name: getattr(machine, name) for name in given}
        machine = dataclasses.replace(machine, **{n: given[n] if v is None else v for n, v in figures.items()})
        bought = place[0] == "chips"
        for field, value in (("watts", machine.watts), ("price", machine.dollars), ("date", machine.date)):
            if value is None and (bought or field == "watts"):
                hint = f"the profile of {system} has none; fill it in with a rule under `assumed: {{{field}: ...}}`"
                problems.append(
                    schema.problem(marks, (*place, "assumed", field), f"{field} of {system}", "nothing", hint)
                )
        found.append(machine)
    if problems:
        raise Refused(*problems)
    return tuple(found)


def skeleton(scenario: Scenario, machines: Sequence[Machine], yardstick: Mapping[str, Option | None]) -> Instance:
    """The instance of a scenario before anything is to be trained.

    `yardstick` is the reference model priced on each system: what a chip earns is in proportion to its speed.
    """
    first = quarters.number(scenario.quarters.first)
    span = quarters.span(scenario.quarters.first, scenario.quarters.until or scenario.quarters.last)
    names = systems(scenario)
    places = list(scenario.sites)
    homes = tuple(dict.fromkeys(owned.site for owned in scenario.fleet))
    years = np.arange(len(span)) / 4.0
    watts = np.array([machine.watts for machine in machines])
    bought = {chip.system: chip for chip in scenario.chips}
    lifetime = np.array([bought[n].lifetime.value if n in bought else len(span) for n in names], dtype=int)
    commissioning = int(scenario.commissioning.value)
    dollars = np.array([machine.dollars or 0.0 for machine in machines])
    rate = scenario.rate.value
    return Instance(
        quarters=span,
        decided=quarters.number(scenario.quarters.last) - first + 1,
        sites=(*(site.site for site in places), *homes),
        chips=names,
        rungs=(),
        power=np.concatenate([_power(scenario, first, len(span)), np.zeros((len(homes), len(span)))]),
        supply=np.stack([_supply(bought.get(m.system), m, first, len(span)) for m in machines]),
        date=np.array([_first(machine, first, len(span)) for machine in machines]),
        watts=watts,
        dollars=dollars,
        lifetime=lifetime,
        commissioning=commissioning,
        fleet=_fleet(scenario, names, watts, first, len(span), len(places), homes),
        pool=_pools(scenario, homes),
        # Paid while a chip works, the interest of its commissioning included.
        annuity=dollars * np.array([annuity(rate, n) for n in lifetime]) * (1.0 + rate) ** (commissioning / 4.0),
        electricity=np.repeat(_electricity(scenario, watts)[:, None], len(span), axis=1),
        earning=_earning(scenario, names, watts, years, yardstick),
        reserved=scenario.serving.reserved.value,
        runs=(),
        worth=np.zeros((0, len(span))),
        due=np.zeros(0, dtype=int),
        discount=(1.0 + rate) ** -years,
        equity=scenario.capital.equity.value,
        capital=scenario.capital.initial.value,
        tranche=scenario.capital.tranche.value,
        tranche_power=scenario.capital.tranche_power.value,
        limit=scenario.capital.limit.value,
        milestones=tuple((quarters.number(m.by) - first, m.deployed) for m in scenario.milestones),
    )


def furnished(
    instance: Instance, scenario: Scenario, offered: Sequence[Offer], losses: Sequence[float | None], base: float | None
) -> Instance:
    """The instance with its runs: what each holds, what each rung is worth, what is due.

    worth = per_nat * max(0, base - drift * years - loss) / 4 a quarter; nothing for a loss that is not known.
    """
    first, count = quarters.number(scenario.quarters.first), len(instance.quarters)
    worth, ladder = scenario.training.worth, scenario.training.ladder
    bar = (math.nan if base is None else base) - worth.drift.value * np.arange(count) / 4.0
    below = [np.nan_to_num(np.maximum(bar - (math.nan if loss is None else loss), 0.0)) for loss in losses]
    spares = 1.0 + scenario.training.spares.value
    dues = [count + 1 if rung.due is None else quarters.number(rung.due) - first + 1 for rung in ladder]
    return dataclasses.replace(
        instance,
        rungs=tuple(rung.name for rung in ladder),
        runs=tuple(Run(rung=o.rung, chip=o.system, chips=o.chips * spares, quarters=o.quarters) for o in offered),
        worth=worth.per_nat.value / 4.0 * np.array(below),
        due=np.array([min(due, count + 1) for due in dues]),
    )


def _power(scenario: Scenario, first: int, count: int) -> np.ndarray:
    added = np.zeros((len(scenario.sites), count))
    for i, site in enumerate(scenario.sites):
        for quarter, watts in site.added.items():
            added[i, quarters.number(quarter) - first] += watts
    return np.cumsum(added, axis=1)


def _first(machine: Machine, first: int, count: int) -> int:
    return count if machine.date is None else max(quarters.at(machine.date) - first, 0)


def _supply(chip, machine: Machine, first: int, count: int) -> np.ndarray:
    """min(most, first * growth^quarters) from the quarter that holds the chip's date; nothing before it."""
    if chip is None:
        return np.zeros(count)
    since = np.arange(count) - _first(machine, first, count)
    rule = chip.supply
    grown = rule.first.value * rule.growth.value ** np.maximum(since, 0)
    return np.where(since >= 0, np.minimum(grown, rule.most.value), 0.0)


def _fleet(scenario: Scenario, names, watts, first: int, count: int, offset: int, homes) -> np.ndarray:
    fleet = np.zeros((offset + len(homes), len(names), count))
    for owned in scenario.fleet:
        system = names.index(owned.system)
        ends = quarters.number(owned.retires.value) - first
        fleet[offset + homes.index(owned.site), system, : max(ends, 0)] += owned.power.value / watts[system]
    return fleet


def _pools(scenario: Scenario, homes) -> np.ndarray:
    """Sites that may train one run together share a number."""
    span = scenario.training.span
    names = [site.site if span == "site" else site.region if span == "region" else "" for site in scenario.sites]
    names += [home if span != "fleet" else "" for home in homes]
    order = list(dict.fromkeys(names))
    return np.array([order.index(name) for name in names])


def _electricity(scenario: Scenario, watts: np.ndarray) -> np.ndarray:
    return watts * scenario.pue.value * scenario.electricity.value * quarters.SECONDS


def _earning(scenario: Scenario, names, watts, years, yardstick) -> np.ndarray:
    """(C, T) USD a quarter: revenue a reference watt, by the speed of the chip against the reference, falling."""
    serving = scenario.serving
    speeds = [0.0 if (o := yardstick.get(n)) is None else o.tokens_per_second_per_chip for n in names]
    at = names.index(serving.reference)
    if speeds[at] <= 0.0:
        got = f"no layout of {reference(scenario).model} that fits"
        raise Refused(Problem(field="serving.reference", expected="a system that can be priced", got=got))
    dollars = serving.revenue.value * watts[at] / 4.0 * np.array(speeds) / speeds[at]
    return dollars[:, None] * (1.0 - serving.decline.value) ** years[None, :]
