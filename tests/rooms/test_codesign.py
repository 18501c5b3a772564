"""`coopt codesign`: the answer is what its numbers say, limits hold, gains have sources, mistakes are said."""

from __future__ import annotations

import itertools
import json
import math
import re
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from coopt.commands import say
from coopt.commands.chips import codesign as command
from coopt.commands.chips import mixed
from coopt.commands.parse import parse
from coopt.cost import estimate
from coopt.cost.silicon import build, silicon
from coopt.problems import Refused
from coopt.report.html import write_report
from coopt.report.tables import kind, table
from coopt.search import chips as space
from coopt.search.elasticity import elasticities
from coopt.search.space import flat, index, size
from coopt.spec import load, process
from coopt.spec.silicon import Design
from coopt.study.chips import used as engine
from coopt.study.chips.codesign import codesign, judged
from coopt.study.chips.feasible import SAMPLES, feasible
from coopt.study.chips.futures import futures, shapes, sparser
from coopt.study.chips.question import PACE, Question, prepare
from coopt.study.chips.used import uses
from coopt.study.chips.worth import SMOOTH, wishes, work
from coopt.study.given.objectives import expression
from coopt.tree import replace

ROOT = Path(__file__).resolve().parents[2]
SMALL = {"model": "llama3-8b", "chips": 32, "batch": 32.0, "precision": ("bf16", "nvfp4")}
BOTH = {"today": 2.0, "no-fp4": 1.0}


@pytest.fixture(scope="module", autouse=True)
def short():
    """A third of the usual search: enough for a small model."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine, "EFFORT", 80)
        yield


@pytest.fixture(scope="module")
def question() -> Question:
    return Question(**SMALL, mix={"today": 1.0})


@pytest.fixture(scope="module")
def bench(question):
    return prepare(question)


@pytest.fixture(scope="module")
def answered(question):
    return codesign(question)


@pytest.fixture(scope="module")
def bought(bench):
    """The bought chip's best use of today."""
    return judged(bench, bench.bought)[0].plan


def ordered(document) -> Design:
    """The answer as a design again."""
    made_with = process.process()
    told = dict(document["chips"][document["chosen"]]["design"])
    for field, names in (("node", "nodes"), ("memory", "memories"), ("link", "links")):
        told[field] = float(made_with.names[names].index(told[field]))
    return Design(**told)


# ---------------------------------------------------------------- the answer


def test_the_document_is_told_three_ways(answered, tmp_path):
    assert kind(answered) == "codesign"
    assert json.loads(say.as_json(answered))["breakeven"]["volume"] > 0
    text = table(answered)
    assert max(map(len, text.splitlines())) <= 100
    for word in ("times the work", "A million tokens", "if the vendor sold it", "at constant price", "assumed:"):
        assert word in text, word
    write_report(answered, tmp_path / "a.html")
    assert "A chip to order" in (tmp_path / "a.html").read_text()


def test_regret_is_against_the_best_of_each_future(answered):
    for i in range(len(answered["mix"])):
        costs = [chip["futures"][i]["value"] for chip in answered["chips"]]
        for chip, cost in zip(answered["chips"], costs, strict=True):
            assert chip["futures"][i]["regret"] == pytest.approx(cost / min(costs) - 1.0, abs=1e-9)
            assert chip["futures"][i]["regret"] >= 0.0
    means = [chip["mean_regret"] for chip in answered["chips"]]
    assert answered["chosen"] >= 2 and means[answered["chosen"]] == min(means[2:])
    assert means[answered["chosen"]] < means[1] < means[0]


def test_the_answer_prices_as_it_says(answered, bench):
    """The document's dollars are `estimate(count(...))` of the machine that `build` gives, on the layout named."""
    design, chip = ordered(answered), answered["chips"][answered["chosen"]]
    found = judged(bench, design)
    for way, told, future in zip(found, chip["futures"], bench.works, strict=True):
        assert way.value == pytest.approx(told["dollars_per_token"], rel=1e-9)
        machine, ops = build(design, bench.order.process), work(way.plan)
        cost = estimate(ops, machine)
        by_hand = float(cost.dollars / ops.tokens / cost.goodput)
        assert told["dollars_per_token"] == pytest.approx(by_hand, rel=1e-9)
        assert float(cost.verdict) == 0.0 and told["seconds_over_deadline"] <= 1.0
        assert told["chips"] == float(ops.chips)
        assert float(cost.step_time / ops.tokens / cost.goodput) <= future.limits[PACE]
        assert told["layout"]["precision"] != "nvfp4" or told["future"] != "no-fp4"


def test_the_answer_keeps_the_limits_of_physics(answered, bench):
    taken = space.loads(ordered(answered), bench.order.process, bench.question.limits)
    assert all(float(share) <= 1.0 for share in taken.values()), taken


def test_no_single_change_helps(answered, bench):
    """Every other choice of every variable, each chip on its best layout of all: none within the limits costs less."""
    order, design = bench.order, ordered(answered)
    (here,) = uses(order, bench.works, design)
    within = space.together(order.base, order.offered, ())
    at = np.array(space.nearest(design, order.offered))
    lines = []
    for axis, one in enumerate(within.axes):
        line = np.repeat(at[None], len(one), axis=0)
        line[:, axis] = np.arange(len(one))
        lines.append(line)
    chips = space.design_of(flat(within, np.concatenate(lines)))
    inside = space.worst(space.loads(chips, order.process, order.limits)) <= 1.0
    # a sample of them on everything that the work leaves open, the rest on the answer's own layout
    machine = build(chips, order.process)
    score = expression(replace(here.plan, hardware=machine), (order.objective, PACE))
    fits = inside & (score.verdict < 0.5) & (score.objectives[1] <= bench.works[0].limits[PACE])
    assert np.min(np.where(fits, score.objectives[0], np.inf)) >= here.value * (1.0 - 1e-9)
    for number in np.flatnonzero(inside)[:: max(int(inside.sum()) // 8, 1)]:
        one = jax.tree.map(lambda leaf, number=number: float(leaf[number]) if np.ndim(leaf) else leaf, chips)
        other = uses(order, bench.works, one)
        assert other is None or other[0].value >= here.value * (1.0 - 1e-9)


def test_the_search_says_how_far_to_trust_it(answered):
    """Seeds, how far apart they ended, rounds, and whether the last improved anything; P over draws of the process."""
    told = answered["search"]
    assert told["seed"] == 0 and told["seeds"] == 2 and told["settled"] and set(told["apart"]) == {"today"}
    assert 0.0 <= told["apart"]["today"] < 0.02
    assert 0.5 < answered["chance"] <= 1.0


def test_gains_are_told_by_source(answered):
    path = answered["steps"]
    assert path[0]["step"] == "bought" and path[-2]["step"] == "the answer"
    product = math.prod(step["ratio"] for step in path[:-1] if step["value"] is not None)
    assert product == pytest.approx(1.0 / answered["gain"], rel=1e-9)
    assert path[1]["ratio"] < 1.0, "a partner's margin is below a seller's"
    assert path[-1]["ratio"] > 1.0, "the vendor's margin on the answer costs more"


def test_breakeven_is_where_both_cost_the_same(answered, bench):
    even = answered["breakeven"]
    design = replace(ordered(answered), volume=even["volume"])
    weights = [one["weight"] for one in answered["mix"]]
    cost = sum(w * way.value for w, way in zip(weights, judged(bench, design), strict=True))
    assert cost == pytest.approx(even["dollars_per_token_bought"], rel=1e-6)
    assert even["dollars_per_token_without_development"] < even["dollars_per_token_ordered"]
    assert even["date"] == pytest.approx(2027.0 + even["quarters"] / 4.0)


@pytest.mark.slow
def test_a_mix_is_weighed_and_no_fp4_has_none():
    document = codesign(Question(**SMALL, mix=BOTH))
    assert [one["weight"] for one in document["mix"]] == pytest.approx([2 / 3, 1 / 3])
    assert len(document["chips"]) == 5
    for chip in document["chips"]:
        assert chip["mean_regret"] == pytest.approx(
            2 / 3 * chip["futures"][0]["regret"] + 1 / 3 * chip["futures"][1]["regret"]
        )
        assert chip["futures"][1]["layout"]["precision"] == "bf16"
    test_regret_is_against_the_best_of_each_future(document)
    for i, one in enumerate(document["mix"]):
        assert document["chips"][2 + i]["futures"][i]["regret"] == 0.0, (
            f"nothing beats what is best for {one['future']}"
        )


@pytest.mark.slow
def test_the_same_seed_gives_the_same_answer(question, answered):
    again = codesign(question)
    assert say.as_json(again) == say.as_json(answered)


# ---------------------------------------------------------------- what to ask a vendor for


def test_wishes_are_the_gradient(bench, bought):
    """Elasticities of time, price and dollars equal autodiff through build and estimate."""
    told = {row["variable"]: row for row in wishes(bench.bought, bought, bench.order.process)["elasticities"]}
    ops = work(bought)

    def logs(x, pick):
        design = replace(bench.bought, **{n: getattr(bench.bought, n) * jnp.exp(x[i]) for i, n in enumerate(SMOOTH)})
        made, cost = silicon(design, bench.order.process), estimate(ops, build(design, bench.order.process))
        return jnp.log({"time": cost.step_time, "price": made.price, "dollars": cost.dollars}[pick])

    with jax.enable_x64(True):
        slopes = jax.jacfwd(lambda x: jnp.stack([logs(x, k) for k in ("time", "price", "dollars")]))
        found = np.asarray(slopes(jnp.zeros(len(SMOOTH))))
    for i, name in enumerate(SMOOTH):
        for row, key in enumerate(("time", "price", "dollars")):
            assert told[name][key] == pytest.approx(found[row, i], rel=1e-3, abs=1e-5), (name, key)


def test_a_trade_at_constant_price_does_what_it_says(bench, bought):
    """Moving a little of the price from one variable to the other leaves the price and takes off that much time."""
    told = wishes(bench.bought, bought, bench.order.process)
    trade, rows = told["at_constant_price"], {row["variable"]: row for row in told["elasticities"]}
    more, less, ops = rows[trade["more"]], rows[trade["less"]], work(bought)
    small = 1e-4
    changed = replace(
        bench.bought,
        **{trade["more"]: getattr(bench.bought, trade["more"]) * math.exp(small / more["price"]),
           trade["less"]: getattr(bench.bought, trade["less"]) * math.exp(-small / less["price"])},
    )  # fmt: skip
    before, after = (silicon(one, bench.order.process).price for one in (bench.bought, changed))
    assert after / before == pytest.approx(1.0, abs=3e-6)
    old, new = (estimate(ops, build(one, bench.order.process)).step_time for one in (bench.bought, changed))
    assert math.log(new / old) == pytest.approx(trade["step_time"] * small, rel=0.05) and new < old


def test_wishes_of_the_vendor_are_those_of_the_machine(bench, bought):
    """`explain --gradients` on the built chip and the vendor's table agree, by the chain of design and machine."""
    made_with, ops = bench.order.process, work(bought)
    rows = {row["variable"]: row["time"] for row in wishes(bench.bought, bought, made_with)["elasticities"]}
    slopes = jax.tree.leaves(elasticities(ops, build(bench.bought, made_with)))
    for name in SMOOTH:
        moved = [replace(bench.bought, **{name: getattr(bench.bought, name) * math.exp(h)}) for h in (1e-5, -1e-5)]
        ends = [jax.tree.leaves(build(one, made_with)) for one in moved]
        chain = sum(slope * math.log(up / down) / 2e-5 for slope, up, down in zip(slopes, *ends, strict=True) if slope)
        assert rows[name] == pytest.approx(chain, abs=2e-4), name


# ---------------------------------------------------------------- limits


@pytest.mark.slow
def test_limits_bind_and_cost(question, answered):
    power = codesign(Question(**SMALL, mix={"today": 1.0}, limits={"power": 1200.0, "date": 2029.9}))
    told = power["chips"][power["chosen"]]
    assert told["silicon"]["watts"] <= 1200.0 and told["silicon"]["date"] <= 2029.9
    assert {row["limit"]: row["removed"] for row in power["limits"]}["power"] > 0
    free = answered["chips"][answered["chosen"]]["futures"][0]["dollars_per_token"]
    assert told["futures"][0]["dollars_per_token"] > free


@pytest.mark.slow
def test_joules_are_another_question(question, answered):
    fewest = codesign(Question(**SMALL, mix={"today": 1.0}, objective="joules_per_token"))
    here, there = (one["chips"][one["chosen"]]["futures"][0] for one in (fewest, answered))
    assert here["joules_per_token"] < there["joules_per_token"]
    assert here["dollars_per_token"] > there["dollars_per_token"]
    assert "the work a joule" in " ".join(table(fewest).split())


def test_impossible_limits_say_which_and_what_comes_nearest():
    """Each limit with the designs that it removes, and the nearest design with what it exceeds."""
    asked = Question(**SMALL, mix={"today": 1.0}, limits={"power": 20.0, "cost": 500.0})
    with pytest.raises(Refused) as refusal:
        codesign(asked)
    (problem,) = refusal.value.problems
    assert problem.field == "limits" and f"none of {SAMPLES:,} designs" in problem.got
    assert f"power {SAMPLES:,}" in problem.hint and f"cost {SAMPLES:,}" in problem.hint
    assert "the nearest design exceeds" in problem.hint and "W" in problem.hint


def test_tight_limits_are_walked_to(bench):
    """A sample without a single design in it is no refusal where a walk finds one."""
    tight = replace_limits(bench.order, area=60e-6)
    design, counted = feasible(tight)
    assert space.worst(space.loads(design, tight.process, tight.limits)) <= 1.0
    assert {row["limit"]: row["removed"] for row in counted}["area"] > 0.99 * SAMPLES


def replace_limits(order: engine.Order, **limits) -> engine.Order:
    return engine.Order(order.process, order.base, order.offered, limits, order.objective)


def test_supply_counts_stacks(bench):
    taken = space.loads(replace(bench.order.base, stacks=np.array([2.0, 4.0]), volume=1e5), bench.order.process,
                        {"supply": 2e5})  # fmt: skip
    assert taken["supply"].tolist() == [1.0, 2.0]


# ---------------------------------------------------------------- the search, and the futures


def test_the_search_finds_what_brute_force_finds(bench):
    """On a space small enough to price whole, chips times layouts, the search ends at the best there is."""
    few = {name: (options[len(options) // 2],) for name, options in bench.order.offered.items()}
    few |= {"multipliers": space.CHOICES["multipliers"][18:30:6], "clock": space.CHOICES["clock"][18:34:5],
            "edge": (128.0,), "stacks": (4.0, 8.0), "memory": (3.0, 5.0), "domain": (64.0,), "scale_up": (4.53e11,),
            "node": (2.0,), "exponentials": (2048.0,), "lanes": (16384.0,), "sram": (2.0**27,)}  # fmt: skip
    order = engine.Order(bench.order.process, bench.order.base, few, {}, bench.order.objective)
    future = bench.works[0]
    every = space.together(order.base, few, ())
    rows = np.array(list(itertools.product(*(range(len(one)) for one in every.axes))))
    chips = space.design_of(flat(every, rows))
    inside = space.worst(space.loads(chips, order.process, {})) <= 1.0
    values = []
    for number in np.flatnonzero(inside):
        one = jax.tree.map(lambda leaf, number=number: float(leaf[number]) if np.ndim(leaf) else leaf, chips)
        found = uses(order, [future], one)
        values.append(found[0].value if found else np.inf)
    assert len(values) > 10 and size(future.space) > 10_000
    made = engine.chip(order, [future], [1.0])
    assert made.value == pytest.approx(min(values), rel=1e-12) and made.settled


def test_no_search_ends_worse_than_it_began(bench):
    """A start on the grid, with its use, is in the answer: what comes of another seed is no worse."""
    order, works = bench.order, bench.works[:1]
    priced = space.Priced(order.process, order.limits, expression, (1.0,))
    few = {"seed": 5, "generations": 2, "gradients": False}
    start = space.seek(order.base, order.offered, works, priced, order.objective, **few)
    at = index(works[0].space, start.digits[len(order.offered) :])
    again = space.seek(order.base, order.offered, works, priced, order.objective, starts=[(start.design, [at])],
                       **few | {"seed": 6, "generations": 0})  # fmt: skip
    assert again.value <= start.value * (1 + 1e-12)
    assert space.nearest(start.design, order.offered) == start.digits[: len(order.offered)]


def test_shapes_have_one_size_and_one_range():
    model = load.model("llama3-70b")
    told = dict(shapes(model, aspect=(40.0, 109.0)))
    assert {"published", "wide heads", "narrow heads", "narrow layers"} <= set(told) and "wide layers" not in told
    assert told["wide heads"].kinds[0].head_dim == 256.0 and told["wide heads"].kinds[0].heads == 32.0
    thin = sparser(model).kinds[0]
    assert (thin.experts, thin.top_k, thin.d_expert * thin.top_k) == (16.0, 4.0, model.kinds[0].d_ff)


# ---------------------------------------------------------------- mistakes


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("--mix=decode:1", "decode is not priced yet"),
        ("--mix=today:-1", "a weight from 0"),
        ("--mix=today:0", "a future with a weight above 0"),
        ("--volume=100", "20,000 or more"),
        ("--vendor=b2000", "vendor|design: expected a known design"),
        ("--precision=fp3", "some of fp32"),
        ("--global_batch=7 --chips=64", "in eights for context-8x"),
        ("--chips=1 --model=llama3.1-405b", "enough of the bought chip"),
        ("--objective=step_time", "objective: expected one of dollars_per_token"),
        ("--out=answer.txt", "ends in .html or .json"),
        ("--out=nowhere/answer.json", "a folder that exists"),
    ],
)  # fmt: skip
def test_mistakes_are_said(typed, said):
    options = parse(["codesign", "--model=llama3-8b", *typed.split()])
    with pytest.raises(Refused, match=said):
        command(options)


def test_a_mix_as_typed():
    assert mixed("today:2, no-fp4") == {"today": 2.0, "no-fp4": 1.0}
    with pytest.raises(Refused, match="no-fp4, got tomorrow"):
        futures(load.model("llama3-8b"), seq_len=8192.0, batch=64.0, chips=(64,), precision=("bf16",),
                mix={"tomorrow": 1.0}, aspect=(40.0, 109.0))  # fmt: skip


@pytest.mark.slow
def test_the_worked_study_runs_small():
    """scripts/order_a_chip.py, small: caps, the chip, and the questions an answer has to stand."""
    done = subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "order_a_chip.py"), "--small"],
        capture_output=True,
        text=True,
        check=True,
    )
    for line in ("the cap with the most tokens a megawatt: from", "times the work a dollar", "What it got from what",
                 "share of the gain that is a seller's margin", "at the end of their choices"):  # fmt: skip
        assert line in done.stdout, line
    low, high = map(float, re.search(r"from (\d+) to (\d+) W", done.stdout).groups())
    assert low <= 960.0 <= high
