"""The roadmap room: the programme against enumeration, its limits, its prices; the scenario file; the answer."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from scipy import optimize

from coopt.cost import estimate
from coopt.ops import count as operations
from coopt.problems import Refused
from coopt.roadmap import Option, Task, plan, quarters
from coopt.roadmap.accounts import accounts, objective
from coopt.roadmap.instance import Instance, Run, example
from coopt.roadmap.linear import relaxed, solve
from coopt.roadmap.machines import Machine
from coopt.roadmap.options import duration, offers
from coopt.roadmap.pricing import CHOICES, grown, searched
from coopt.roadmap.programme import build
from coopt.roadmap.scenario import assumptions, scenario
from coopt.roadmap.solution import optimise
from coopt.search.layouts import layout_space
from coopt.search.space import candidate, size
from coopt.spec.load import model, resolve
from coopt.spec.nouns import training

SHIPPED = Path(__file__).resolve().parents[2] / "hw_profiles" / "fleets" / "vera-rubin-10gw.yaml"


# --- instances ---------------------------------------------------------------------------------------------------


def drawn(rng, *, count=3, sites=2, chips=2, runs=2) -> Instance:
    """A random small instance in which power, supply, capital and dates all have a chance to bind."""
    names = quarters.span("2026Q3", quarters.name(quarters.number("2026Q3") + count - 1))
    date = rng.integers(0, 2, chips)
    supply = rng.integers(300, 1500, (chips, count)).astype(float)
    supply[np.arange(count)[None, :] < date[:, None]] = 0.0
    fleet = np.zeros((sites, chips, count))
    fleet[0, 0] = rng.integers(0, 500)
    trained = tuple(
        Run(
            rung=int(rng.integers(2)),
            chip=int(rng.integers(chips)),
            chips=float(rng.integers(100, 700)),
            quarters=int(rng.integers(1, 3)),
        )
        for _ in range(runs)
    )
    return Instance(
        quarters=names,
        decided=count - int(rng.integers(0, 2)),
        sites=tuple(f"site{s}" for s in range(sites)),
        chips=tuple(f"chip{c}" for c in range(chips)),
        rungs=("small", "large"),
        power=np.cumsum(rng.integers(0, 3, (sites, count)) * 3e5, axis=1) + 1e5,
        supply=supply,
        date=date,
        watts=rng.integers(800, 1600, chips).astype(float),
        dollars=rng.integers(2e4, 6e4, chips).astype(float),
        lifetime=rng.integers(1, 4, chips),
        commissioning=int(rng.integers(0, 2)),
        fleet=fleet,
        pool=np.arange(sites) if rng.random() < 0.5 else np.zeros(sites, dtype=int),
        annuity=rng.integers(1000, 3000, chips).astype(float),
        electricity=np.full((chips, count), 200.0),
        earning=rng.integers(2000, 9000, (chips, count)).astype(float),
        reserved=0.25,
        runs=trained,
        worth=np.array([3e6, 8e6])[:, None] * np.ones((1, count)),
        due=np.array([count + 1, count + 1]),
        discount=0.97 ** np.arange(count),
        equity=0.5,
        capital=1e7,
        tranche=1e7,
        tranche_power=4e5,
        limit=2.5e7,
    )


def simulated(instance: Instance, x, starts, tranches) -> tuple[np.ndarray, float]:
    """Slack of every rule, and the objective, by plain loops over deployed chips `x` (T, S, C)."""
    count, sites, chips = x.shape
    slack, worth = [], 0.0
    life, lag = instance.lifetime, instance.commissioning
    for t in range(count):
        for s in range(sites):
            drawn_power = sum(
                x[d, s, c] * instance.watts[c] for d in range(t + 1) for c in range(chips) if t < d + lag + life[c]
            )
            slack.append((instance.power[s, t] - drawn_power) / 1e6)
        for c in range(chips):
            slack.append((instance.supply[c, t] - x[t, :, c].sum()) / 1e3)
        paid = instance.equity * sum(x[d, :, c].sum() * instance.dollars[c] for d in range(t + 1) for c in range(chips))
        given = instance.capital + instance.tranche * (tranches[t - 1] if t else 0)
        slack += [(given - paid) / 1e6, (instance.limit - paid) / 1e6]
        if t < count - 1:
            deployed = sum(x[d, :, c].sum() * instance.watts[c] for d in range(t + 1) for c in range(chips))
            slack.append((deployed - tranches[t] * instance.tranche_power) / 1e6)
        for p in set(instance.pool.tolist()):
            for c in range(chips):
                at_work = sum(
                    instance.fleet[s, c, t] + sum(x[d, s, c] for d in range(t + 1) if d + lag <= t < d + lag + life[c])
                    for s in range(sites)
                    if instance.pool[s] == p
                )
                held = sum(
                    instance.runs[r].chips
                    for r, q, first in starts
                    if q == p and instance.runs[r].chip == c and first <= t < first + instance.runs[r].quarters
                )
                slack.append(((1 - instance.reserved) * at_work - held) / 1e3)
                worth += instance.discount[t] * (
                    instance.earning[c, t] * (at_work - held) - instance.electricity[c, t] * at_work
                )
        for c in range(chips):
            paid_for = sum(x[d, :, c].sum() for d in range(t + 1) if d + lag <= t < d + lag + life[c])
            worth -= instance.discount[t] * instance.annuity[c] * paid_for
        done = {instance.runs[r].rung for r, _, first in starts if first + instance.runs[r].quarters <= t}
        worth += instance.discount[t] * max((instance.worth[m, t] for m in done), default=0.0)
    return np.array(slack), worth


def enumerated(instance: Instance) -> float:
    """The best objective over every set of starts and tranches; what is left is linear and solved from simulations."""
    count, sites, chips = len(instance.quarters), len(instance.sites), len(instance.chips)
    pools = sorted(set(instance.pool.tolist()))
    last = [min(instance.decided, count - run.quarters + 1) for run in instance.runs]
    choices = [[None, *itertools.product([r], pools, range(last[r]))] for r in range(len(instance.runs))]
    most = int((instance.limit - instance.capital) // instance.tranche)
    units = np.eye(count * sites * chips).reshape(-1, count, sites, chips) * 1e3
    units = units[: instance.decided * sites * chips]
    found = -math.inf
    for picked in itertools.product(*choices):
        starts = tuple(p for p in picked if p is not None)
        rungs = [instance.runs[r].rung for r, _, _ in starts]
        if len(set(rungs)) < len(rungs):
            continue
        for tranches in itertools.product(range(most + 1), repeat=count - 1):
            base, worth = simulated(instance, np.zeros((count, sites, chips)), starts, (*tranches, 0))
            sides = [simulated(instance, unit, starts, (*tranches, 0)) for unit in units]
            matrix = -np.stack([slack - base for slack, _ in sides], axis=1)
            answer = optimize.linprog([worth - value for _, value in sides], A_ub=matrix, b_ub=base)
            if answer.status == 0:
                found = max(found, worth - answer.fun)
    return found


def solved(instance: Instance):
    return optimise(instance, time_limit=20.0, tolerance=1e-9)


# --- the programme -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", range(6))
def test_optimum_is_the_best_of_all(rng, case):
    """The programme finds what enumerating every start and every tranche finds."""
    instance = drawn(np.random.default_rng([case, int(rng.integers(2**31))]), count=3, runs=2)
    if case % 2:
        instance = dataclasses.replace(instance, runs=instance.runs[:1])
    best, found = enumerated(instance), solved(instance)
    assert found.status == "optimal"
    assert found.bound == pytest.approx(best, rel=1e-6, abs=1.0)
    # whole chips lose less than one chip's worth a deployment
    assert found.bound - 1e5 * 12 <= found.objective <= found.bound * (1 + 1e-9) + 1.0


@pytest.mark.parametrize("case", range(12))
def test_no_limit_is_passed(rng, case):
    """Dates, supply, power, capital and capacity hold in the plan as it is told, whole chips and all."""
    instance = drawn(np.random.default_rng([case, int(rng.integers(2**31))]), count=6, runs=4)
    found = solved(instance)
    kept = accounts(instance, found.deployed, found.starts)
    assert (found.deployed == np.floor(found.deployed)).all()
    for t, _, c in zip(*np.nonzero(found.deployed), strict=True):
        assert t >= instance.date[c]
    assert (kept.bought <= instance.supply + 1e-6).all()
    assert (kept.installed <= instance.power + 1e-3).all()
    assert (np.cumsum(kept.equity) <= kept.released + 1e-3).all()
    assert kept.equity.sum() <= instance.limit + 1e-3
    # rounding down may take one chip a deployment from a pool
    assert (kept.held <= (1 - instance.reserved) * kept.working + 6 * 2 + 1e-6).all()
    trained = [instance.runs[r].rung for r, _, _ in found.starts]
    assert len(trained) == len(set(trained))


def test_accounts_agree_with_the_programme(rng):
    """Two ways of adding up one plan: the programme's objective and the accounts of its decisions."""
    for case in range(6):
        instance = drawn(np.random.default_rng([case, int(rng.integers(2**31))]), count=5, runs=3)
        found = solved(instance)
        total = objective(instance, accounts(instance, found.deployed, found.starts))["total"]
        assert total <= found.bound * (1 + 1e-9) + 1.0
        assert total == pytest.approx(found.objective, abs=2e5)


@pytest.mark.parametrize("field", ["power", "supply", "capital", "limit"])
def test_more_is_never_worse(rng, field):
    """More power, supply or capital never lowers the optimum."""
    for case in range(4):
        instance = drawn(np.random.default_rng([case, int(rng.integers(2**31))]), count=5, runs=3)
        more = dataclasses.replace(instance, **{field: getattr(instance, field) * 1.5})
        assert solved(more).bound >= solved(instance).bound - 1.0


UNITS = {"power": 1e6, "supply": 1e3, "capital": 1e9, "limit": 1e9}  # of a row's right side: W, chips, USD, USD
LASTING = ("power", "capital")  # what comes in a quarter is there in every later one


@pytest.mark.parametrize("kind", list(UNITS))
def test_shadow_price_is_a_finite_difference(rng, kind):
    """A price is what one more unit brings, training runs and tranches being kept as planned."""
    valued = 0
    for case in range(8):
        instance = drawn(np.random.default_rng([case, int(rng.integers(2**31))]), count=4, runs=2)
        if kind == "limit":  # where all of it is there at once
            instance = dataclasses.replace(instance, capital=5e7, limit=1.5e7, tranche=0.0)
        programme = build(instance)
        whole = solve(programme.linear, time_limit=20.0, tolerance=1e-9).x
        fixed = relaxed(programme.linear, whole)
        base, prices = -1e9 * solve(fixed, time_limit=20.0).objective, solved(instance).prices[kind]
        assert prices
        for key, price in prices.items():
            step = 1e-3
            left, right = (
                (_worth(programme, fixed, kind, key, change) - base) / (change * UNITS[kind])
                for change in (-step, step)
            )
            # at a corner the price lies between the slopes on its two sides; less may be impossible: slope infinite
            slack = 1e-5 * abs(price) + 1e-3 * UNITS["power"] / UNITS[kind] * 1e-3
            assert right - slack <= price <= left + slack
            valued += price > 0 and left - right < 1e-4 * abs(price)
    assert valued


def _worth(programme, fixed, kind, key, change):
    """The optimum with the row of `key` (and those of later quarters, where it lasts) wider by `change`."""
    upper, row = fixed.upper.copy(), 0
    for family in programme.families:
        for other in family.keys:
            if family.kind == kind:
                later = kind in LASTING and other[1:] == key[1:] and other[0] >= key[0]
                upper[row] += change if later or other == key else 0.0
            row += 1
    answer = solve(dataclasses.replace(fixed, upper=upper), time_limit=20.0)
    return -math.inf if answer.objective is None else -1e9 * answer.objective


def test_release_comes_in_whole_tranches():
    """Capital is released by whole tranches of power deployed the quarter before, and not beyond the limit."""
    instance = dataclasses.replace(
        example(),
        power=np.full((1, 3), 1e9),
        supply=np.full((1, 3), 1e6),
        earning=np.full((1, 3), 1e5),
        capital=1e6,
        tranche=1.5e6,
        tranche_power=1e5,
        limit=3e6,
    )
    found = solved(instance)
    # 100 chips of 1 kW for the first 1e6 USD release one tranche; 150 more would release a second, beyond the limit
    assert found.deployed[:, 0, 0].tolist() == [100.0, 150.0, 0.0]
    kept = accounts(instance, found.deployed, found.starts)
    assert kept.released.tolist() == [1e6, 2.5e6, 2.5e6]


def test_retired_chips_make_room():
    """Chips at the end of their life give their power back, and can be replaced."""
    instance = dataclasses.replace(example(), lifetime=np.array([1]), commissioning=0, supply=np.full((1, 3), 1e4))
    assert solved(instance).deployed[:, 0, 0].tolist() == [1000.0, 1000.0, 1000.0]


def test_scipy_answers_alike(rng, monkeypatch):
    """Without highspy the same programme is solved by SciPy, and the answer names it."""
    instances = [drawn(np.random.default_rng([case, int(rng.integers(2**31))]), count=4, runs=3) for case in range(3)]
    usual = [solved(instance) for instance in instances]
    monkeypatch.setitem(sys.modules, "highspy", None)
    for instance, first in zip(instances, usual, strict=True):
        second = solved(instance)
        assert (first.solver, second.solver) == ("highspy", "scipy")
        assert second.objective == pytest.approx(first.objective, rel=1e-6, abs=1e5)
        assert second.bound == pytest.approx(second.objective, rel=1e-6, abs=1e5)


def test_a_rung_that_is_due_is_trained():
    """A due rung is trained in time although it is worth nothing."""
    instance = dataclasses.replace(
        example(), rungs=("must",), runs=(Run(rung=0, chip=0, chips=200.0, quarters=1),), worth=np.zeros((1, 3)),
        due=np.array([3]),
    )  # fmt: skip
    assert [start[2] for start in solved(instance).starts] in ([1], [2])
    assert [start[2] for start in solved(dataclasses.replace(instance, due=np.array([2]))).starts] == [1]
    assert solved(dataclasses.replace(instance, due=np.array([4]))).starts == ()


IMPOSSIBLE = {
    "power": ({"milestones": ((0, 2e6),), "supply": np.full((1, 3), 1e5)}, "power"),
    "supply": ({"milestones": ((0, 9e5),)}, "supply"),
    "date": ({"milestones": ((0, 5e5),), "date": np.array([1]), "supply": np.array([[0.0, 600.0, 600.0]])}, "date"),
    "capital": ({"milestones": ((0, 5e5),), "capital": 1e6}, "capital"),
    "capacity": (
        {"rungs": ("must",), "runs": (Run(rung=0, chip=0, chips=400.0, quarters=1),), "worth": np.zeros((1, 3)),
         "due": np.array([2])},
        "capacity",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", list(IMPOSSIBLE))
def test_what_stands_in_the_way_is_named(case):
    """An impossible instance says which limit, where, when and by how much; with that much more it is possible."""
    changes, constraint = IMPOSSIBLE[case]
    instance = dataclasses.replace(example(), **changes)
    found = solved(instance)
    assert found.status == "infeasible" and found.objective is None and found.deployed is None
    assert constraint in [short.constraint for short in found.shortfalls]
    assert all(short.short > 0 and short.quarter in (0, 1, None) for short in found.shortfalls)
    if case == "power":
        (short,) = found.shortfalls
        assert short.short == pytest.approx(1e6) and (short.quarter, short.where) == (0, 0)
        assert solved(dataclasses.replace(instance, power=instance.power + short.short)).status == "optimal"


# --- options -----------------------------------------------------------------------------------------------------

# FLOP/s that a chip delivers, memory (B), IT W, USD, date: for the tests; nothing here was measured
CHIPS = {
    "dgx-h100": (4e14, 80e9, 1380.0, 47e3, 2022.9),
    "gb200-nvl72": (9e14, 186e9, 2090.0, 82e3, 2025.1),
    "gb300-nvl72": (9.5e14, 288e9, 2090.0, 90e3, 2025.6),
    "vr-nvl72": (2.4e15, 288e9, 2830.0, 161e3, 2026.75),
}


def analytic(task: Task, system: str, chips: int) -> Option | None:
    """6 N tokens at a rate that falls with the number of chips; None where 18 bytes a parameter do not fit."""
    rate, memory = CHIPS[system][:2]
    parameters = 4.05e11 * task.width**2 * task.layers
    if chips * memory < 18 * parameters:
        return None
    speed = rate / (6 * parameters) / (1 + chips / 4e5)
    loss = 1.8172 + 482.01 * parameters**-0.3478 + 2085.43 * task.tokens**-0.3658
    return Option(
        tokens_per_second_per_chip=speed, mfu=0.4, loss=loss, interval=(0.7 * speed, 1.3 * speed), fidelity="assumed",
        stack="none", layout={"tp": 8}, nearest=({"id": "none", "distance": None},),
    )  # fmt: skip


def described(system: str) -> Machine:
    """The machines that `analytic` prices."""
    return Machine(system=system, watts=CHIPS[system][2], dollars=CHIPS[system][3], date=CHIPS[system][4])


def test_offers_are_the_fewest_chips_that_end_in_time():
    """Each offer ends within its quarters, the next smaller size does not, and pricing is asked sparingly."""
    tasks = [Task(model="m", width=w, tokens=t, batch=2**24, seq_len=8192) for w in (1.0, 2.0) for t in (2e13, 1e14)]
    sizes, asked = [2**n for n in range(13, 20)], []

    def price(task, system, chips):
        asked.append((task, system, chips))
        return analytic(task, system, chips)

    found = offers(tasks, list(CHIPS), price, sizes=sizes, durations=[1, 2, 4], goodput=0.9, most=[1e6, 1e6, 1e6, 2e5])
    assert len(asked) == len(set(asked)) < len(tasks) * len(CHIPS) * len(sizes)
    every = {}
    for m, task in enumerate(tasks):
        for c, system in enumerate(CHIPS):
            for longest in (1, 2, 4):
                for chips in sizes:
                    option = analytic(task, system, chips)
                    if option and chips <= [1e6, 1e6, 1e6, 2e5][c]:
                        took = duration(task, option, chips=chips, goodput=0.9)
                        if took <= longest:
                            every[m, c, chips] = math.ceil(took)
                            break
    assert {(o.rung, o.system, o.chips): o.quarters for o in found} == every
    assert len(every) > 12


# --- the scenario file -------------------------------------------------------------------------------------------


def test_shipped_scenario_is_read_with_its_assumptions():
    """Ten gigawatts by the end of 2030, and every assumed number is repeated."""
    given, _ = scenario(SHIPPED)
    assert given.basis == "IT"
    assert sum(watts for site in given.sites for watts in site.added.values()) == 1e10
    assert given.capital.limit.value == 1e11 and given.capital.tranche.value == 1e10
    said = assumptions(given)
    text = SHIPPED.read_text()
    assert len(said) == text.count("kind: assumed")
    assert any(sentence.startswith("capital.equity = ") for sentence in said)


def test_overrides_are_said():
    """A field set for one question is used, and is one more assumption."""
    given, _ = scenario(SHIPPED, overrides={"capital.limit": "50 GUSD", "training.span": "fleet"})
    assert given.capital.limit.value == 5e10 and given.training.span == "fleet"
    assert any("capital.limit = 50 GUSD" in s or "capital.limit = 5e+10" in s for s in assumptions(given))
    with pytest.raises(Refused) as refusal:
        scenario(SHIPPED, overrides={"capital.limitt": "50 GUSD"})
    assert "limit" in str(refusal.value)


BROKEN = [  # text, what stands there instead, the field that is named
    ("limit: {value: 100 GUSD", "limit: {value: 100", "capital.limit"),
    ("limit: {value: 100 GUSD", "limit: {value: 100 GW", "capital.limit"),
    ("tranche_power: {value: 1 GW", "tranche_power: {value: -1 GW", "capital.tranche_power"),
    ("first: 2026Q3", "first: 2026-07", "quarters.first"),
    ("last: 2030Q4", "last: 2020Q4", "quarters.last"),
    ("until: 2031Q4", "until: 2029Q4", "quarters.until"),
    ("2026Q3: 100 MW", "2026Q3: 100 GB", "sites.0.added.2026Q3"),
    ("2026Q3: 100 MW", "2025Q3: 100 MW", "sites.0.added.2025Q3"),
    ("site: Milam TX", "site: Shackelford TX", "sites"),
    ("basis: IT", "basis: facility", "basis"),
    ("kind: scenario", "kind: scenery", "kind"),
    ("  equity:", "  equities:", "capital.equit"),
    ("reference: gb200-nvl72", "reference: gb100", "serving.reference"),
    ("durations: [1", "durations: [9", "training.durations"),
    ('source: letter, kind: published, notes: "at most"', "source: leter, kind: published", "capital.limit"),
    ("seq_len: 8192", "seq_len: many", "training.seq_len"),
    ("rate: {value: 10 %", "rate: {value: 110 %", "rate"),
]


@pytest.mark.parametrize("old, new, field", BROKEN)
def test_broken_scenarios_name_file_line_and_field(tmp_path, old, new, field):
    """A mistake in a scenario is a sentence with its file, line and field (plan D1)."""
    text = SHIPPED.read_text()
    assert old in text
    path = tmp_path / "broken.yaml"
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(Refused) as refusal:
        scenario(path)
    line = text[: text.index(old)].count("\n") + 1
    named = [p for p in refusal.value.problems if p.field.startswith(field)]
    assert named, [str(p) for p in refusal.value.problems]
    assert all(p.file == str(path) and p.line and p.expected and p.got for p in named)
    assert any(abs(p.line - line) <= 6 for p in named)


def test_all_problems_come_at_once(tmp_path):
    """Three mistakes, three problems."""
    text = SHIPPED.read_text().replace("basis: IT", "basis: DC", 1).replace("2026Q4: 200 MW", "2026Q4: 200", 1)
    path = tmp_path / "broken.yaml"
    path.write_text(text.replace("value: 1.2", "value: 0.2", 1))
    with pytest.raises(Refused) as refusal:
        scenario(path)
    assert {p.field.split(".")[0] for p in refusal.value.problems} == {"basis", "sites", "pue"}


def test_a_figure_that_no_file_gives_is_asked_for(tmp_path):
    """A system without a price is refused with the place to fill it in, and priced once it is."""
    bare = lambda system: dataclasses.replace(described(system), dollars=None)  # noqa: E731
    with pytest.raises(Refused) as refusal:
        plan(SHIPPED, pricer=analytic, machines=bare)
    assert {p.field for p in refusal.value.problems} == {"chips.0.assumed.price", "chips.1.assumed.price"}
    assert all(p.line for p in refusal.value.problems)
    filled = {
        f"chips.{i}.assumed": {"price": {"value": "90000 USD", "source": "judgement", "kind": "assumed"}}
        for i in (0, 1)
    }
    assert plan(SHIPPED, pricer=analytic, machines=bare, overrides=filled)["status"] == "optimal"


# --- the answer --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def answer():
    """The shipped scenario with the analytic pricer."""
    return plan(SHIPPED, pricer=analytic, machines=described, time_limit=30.0)


def test_shipped_scenario_is_answered(answer):
    """Feasible, within a gap, and every key of the command is there; one JSON document without NaN."""
    assert answer["status"] in ("optimal", "feasible") and answer["gap"] < 0.02
    keys = {"status", "gap", "objective", "deployments", "training_runs", "capex_by_quarter", "shadow_prices", "basis"}
    keys |= {"assumed", "nearest", "interval", "fidelity", "stack", "figure"}
    assert keys <= set(answer)
    assert json.loads(json.dumps(answer, allow_nan=False)) == json.loads(json.dumps(answer))
    assert answer["deployments"] and answer["training_runs"]
    assert set(answer["deployments"][0]) == {"quarter", "site", "chip", "megawatts", "chips"}
    assert {"start", "quarters", "chip", "chips", "model", "tokens", "loss"} <= set(answer["training_runs"][0])
    assert list(answer["capex_by_quarter"]) == list(quarters.span("2026Q3", "2030Q4"))


def test_answer_keeps_the_scenario(answer):
    """Power by site and quarter, dates, capital and the sum of capital, read off the document alone."""
    given, _ = scenario(SHIPPED)
    placed = {site.site: site.added for site in given.sites}
    have = dict.fromkeys(placed, 0.0)
    for quarter in answer["capex_by_quarter"]:
        for entry in answer["deployments"]:
            if entry["quarter"] == quarter:
                have[entry["site"]] += entry["megawatts"] * 1e6
                assert quarters.number(quarter) >= quarters.at(CHIPS[entry["chip"]][4])
                assert entry["megawatts"] * 1e6 == pytest.approx(entry["chips"] * CHIPS[entry["chip"]][2])
        for site, watts in have.items():
            there = sum(w for q, w in placed[site].items() if quarters.number(q) <= quarters.number(quarter))
            assert watts <= there + 1.0
    spent = sum(entry["chips"] * CHIPS[entry["chip"]][3] for entry in answer["deployments"])
    assert sum(answer["capex_by_quarter"].values()) == pytest.approx(spent)
    assert spent * given.capital.equity.value <= given.capital.limit.value
    assert all(e <= r + 1.0 for e, r in zip(answer["figure"]["equity"], answer["figure"]["released"], strict=True))
    assert answer["objective"] == pytest.approx(sum(v for k, v in answer["objective_parts"].items() if k != "total"))


def test_a_plan_that_cannot_be(tmp_path):
    """An impossible milestone is an answer: infeasible, with the limits that stand in the way."""
    path = tmp_path / "hasty.yaml"
    path.write_text(SHIPPED.read_text() + "\nmilestones: [{by: 2026Q4, deployed: 2 GW}]\n")
    answer = plan(path, pricer=analytic, machines=described)
    assert answer["status"] == "infeasible"
    assert answer["gap"] is None and answer["objective"] is None and answer["deployments"] == []
    assert {"power", "supply"} <= {short["constraint"] for short in answer["infeasible"]}
    assert all(short["sentence"] for short in answer["infeasible"])
    json.dumps(answer, allow_nan=False)


@pytest.mark.slow
def test_the_shipped_scenario_is_priced_by_the_search():
    """`plan` with nothing given: real profiles, real models, layouts searched; gigawatts in under a minute."""
    began = time.process_time()  # not of the wall: other work on the machine is not ours
    answer = plan("vera-rubin-10gw")
    assert time.process_time() - began < 60.0
    assert answer["status"] in ("optimal", "feasible") and answer["gap"] < 0.02
    placed = sum(entry["megawatts"] for entry in answer["deployments"])
    assert 1000.0 < placed <= 10_000.0
    assert min(entry["quarter"] for entry in answer["deployments"] if entry["chip"] == "vr-nvl72") >= "2026Q4"
    best = [run for run in answer["training_runs"] if run["loss"] is not None]
    assert best and all(not run["loss_in_range"] for run in best)
    assert any("far beyond its fit" in sentence for sentence in answer["assumed"])
    assert answer["interval"]["low"] <= answer["objective"] <= answer["interval"]["high"]


def test_priced_options_are_the_best_of_their_layouts():
    """The pricer's choice is as fast as any layout of its own space, priced one by one."""
    price = searched(law="chinchilla-besiroglu", extrapolate=True, precision=("bf16",))
    task = Task(model="llama3-8b", tokens=1e11, batch=2**22, seq_len=8192)
    option = price(task, "dgx-h100", 64)
    space = layout_space(model("llama3-8b"), training(8192, 512), chips=64, choices={**CHOICES, "precision": ("bf16",)})
    hardware = resolve("dgx-h100", chips=64.0)
    best = math.inf
    for index in np.random.default_rng(0).integers(0, size(space), 300):
        one = candidate(space, int(index))
        cost = estimate(operations(one.model, one.layout, one.workload), hardware)
        best = min(best, float(cost.step_time)) if float(cost.verdict) < 0.5 else best
    assert option.step_time <= best < math.inf
    assert 0.1 < option.mfu < 0.8 and option.interval[0] < option.tokens_per_second_per_chip < option.interval[1]
    assert price(dataclasses.replace(task, model="llama3.1-405b"), "dgx-h100", 8) is None
    assert not option.loss_in_range and 1.8 < option.loss < 3.0
    kept = searched(law="chinchilla-besiroglu", extrapolate=False, precision=("bf16",))
    assert kept(task, "dgx-h100", 64).loss is None


def test_grown_models_keep_whole_heads():
    """A grown shape multiplies what it says; fractions of a head are refused."""
    given = model("llama3.1-405b")
    big = grown(given, width=1.5, layers=1.1)
    assert (big.d_model, big.kinds[0].heads, big.kinds[0].kv_heads, big.kinds[0].d_ff) == (24576, 192, 12, 79872)
    assert big.kinds[0].count == 139 and big.kinds[0].head_dim == given.kinds[0].head_dim
    with pytest.raises(Refused, match=r"scale.width"):
        grown(given, width=1.01, layers=1.0)
