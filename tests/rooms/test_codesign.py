"""`coopt codesign`: the answer is what its numbers say, limits hold, gains have sources, mistakes are said."""

from __future__ import annotations

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
from coopt.commands.parse import parse
from coopt.cost import estimate
from coopt.cost.silicon import build, silicon
from coopt.problems import Refused
from coopt.report.html import write_report
from coopt.report.tables import kind, table
from coopt.search import chips as space
from coopt.spec import load, process
from coopt.spec.silicon import Design
from coopt.study.codesign import codesign, main, mixed
from coopt.study.feasible import feasible
from coopt.study.futures import futures, shapes, sparser
from coopt.study.question import Question, prepare
from coopt.study.screens import best, priced, values
from coopt.study.worth import SMOOTH, wishes, work
from coopt.tree import replace

ROOT = Path(__file__).resolve().parents[2]
SMALL = {"model": "llama3-8b", "chips": 32, "batch": 32.0, "samples": 16, "precision": ("bf16", "nvfp4")}
BOTH = {"today": 2.0, "no-fp4": 1.0}


@pytest.fixture(scope="module")
def question() -> Question:
    return Question(**SMALL, mix={"today": 1.0})


@pytest.fixture(scope="module")
def bench(question):
    return prepare(question)


@pytest.fixture(scope="module")
def answered(question):
    return codesign(question)


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
    ordered_ones = answered["chips"][1:]
    for i in range(len(answered["mix"])):
        costs = [chip["futures"][i]["dollars_per_token"] for chip in ordered_ones]
        for chip, cost in zip(ordered_ones, costs, strict=True):
            assert chip["futures"][i]["regret"] == pytest.approx(cost / min(costs) - 1.0, abs=1e-9)
    means = [chip["mean_regret"] for chip in answered["chips"]]
    assert answered["chosen"] >= 2 and means[answered["chosen"]] == min(means[2:])
    assert means[answered["chosen"]] < means[1] < means[0]


def test_the_answer_prices_as_it_says(answered, bench):
    """The document's dollars are `estimate(count(...))` of the machine that `build` gives, on the layout named."""
    design, chip = ordered(answered), answered["chips"][answered["chosen"]]
    found = [best(screened, [design], bench.process)[0] for screened in bench.screens]
    for way, told, screened in zip(found, chip["futures"], bench.screens, strict=True):
        assert way.value == pytest.approx(told["dollars_per_token"], rel=1e-9)
        machine, ops = build(design, bench.process), work(way)
        cost = estimate(ops, machine)
        by_hand = float(cost.dollars / ops.tokens / cost.goodput)
        assert told["dollars_per_token"] == pytest.approx(by_hand, rel=1e-9)
        assert float(cost.verdict) == 0.0 and told["seconds_over_deadline"] <= 1.0002
        assert told["chips"] == float(ops.chips) and way.seconds <= screened.deadline * 1.0002
        assert told["layout"]["precision"] != "nvfp4" or told["future"] != "no-fp4"


def test_the_answer_keeps_the_limits_of_physics(answered, bench):
    taken = space.loads(ordered(answered), bench.process, bench.question.limits)
    assert all(float(share) <= 1.0 for share in taken.values()), taken


def test_no_single_change_helps(answered, bench):
    """The end of a walk: every neighbour within the limits costs as much or more, on the layouts that were screened."""
    point = space.nearest_point(ordered(answered), bench.offered)
    around = np.concatenate([point[None, :], space.neighbours(point, bench.offered)])
    chips = space.designs(around, bench.offered, bench.base)
    inside = space.worst(space.loads(chips, bench.process, bench.question.limits)) <= 1.0
    here = sum(one.future.weight * values(one, chips, bench.process) for one in bench.screens)
    # screens grew on the way, and each design has layouts of its own: a little better is left, not much
    assert np.min(here[inside]) > 0.9 * here[0]


def test_gains_are_told_by_source(answered):
    path = answered["steps"]
    assert path[0]["step"] == "bought" and path[-2]["step"] == "the answer"
    product = math.prod(step["ratio"] for step in path[:-1])
    assert product == pytest.approx(1.0 / answered["gain"], rel=1e-9)
    assert path[1]["ratio"] < 1.0, "a partner's margin is below a seller's"
    assert path[-1]["ratio"] > 1.0, "the vendor's margin on the answer costs more"
    assert 0.5 < answered["chance"] <= 1.0


def test_breakeven_is_where_both_cost_the_same(answered, bench):
    even = answered["breakeven"]
    design = replace(ordered(answered), volume=even["volume"])
    ways = [best(screened, [design], bench.process)[0] for screened in bench.screens]
    weights = [one["weight"] for one in answered["mix"]]
    cost = sum(w * way.value for w, way in zip(weights, ways, strict=True))
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


@pytest.mark.slow
def test_the_same_seed_gives_the_same_answer(question, answered):
    again = codesign(question)
    assert say.as_json(again) == say.as_json(answered)


# ---------------------------------------------------------------- what to ask a vendor for


def test_wishes_are_the_gradient(bench):
    """Elasticities of time, price and dollars equal autodiff through build and estimate."""
    way = best(bench.screens[0], [bench.bought], bench.process)[0]
    told = {row["variable"]: row for row in wishes(bench.bought, way, bench.process, bench.offered)["elasticities"]}
    ops = work(way)

    def logs(x, pick):
        design = replace(bench.bought, **{n: getattr(bench.bought, n) * jnp.exp(x[i]) for i, n in enumerate(SMOOTH)})
        made, cost = silicon(design, bench.process), estimate(ops, build(design, bench.process))
        return jnp.log({"time": cost.step_time, "price": made.price, "dollars": cost.dollars}[pick])

    with jax.enable_x64(True):
        slopes = jax.jacfwd(lambda x: jnp.stack([logs(x, k) for k in ("time", "price", "dollars")]))
        found = np.asarray(slopes(jnp.zeros(len(SMOOTH))))
    for i, name in enumerate(SMOOTH):
        for row, key in enumerate(("time", "price", "dollars")):
            assert told[name][key] == pytest.approx(found[row, i], rel=1e-3, abs=1e-5), (name, key)


def test_a_trade_at_constant_price_does_what_it_says(bench):
    """Moving a little of the price from one variable to the other leaves the price and takes off that much time."""
    way = best(bench.screens[0], [bench.bought], bench.process)[0]
    told = wishes(bench.bought, way, bench.process, bench.offered)
    trade, rows = told["at_constant_price"], {row["variable"]: row for row in told["elasticities"]}
    more, less, ops = rows[trade["more"]], rows[trade["less"]], work(way)
    small = 1e-4
    changed = replace(
        bench.bought,
        **{trade["more"]: getattr(bench.bought, trade["more"]) * math.exp(small / more["price"]),
           trade["less"]: getattr(bench.bought, trade["less"]) * math.exp(-small / less["price"])},
    )  # fmt: skip
    before, after = (silicon(one, bench.process).price for one in (bench.bought, changed))
    assert after / before == pytest.approx(1.0, abs=3e-6)
    old, new = (estimate(ops, build(one, bench.process)).step_time for one in (bench.bought, changed))
    assert math.log(new / old) == pytest.approx(trade["step_time"] * small, rel=0.05) and new < old


# ---------------------------------------------------------------- limits


@pytest.mark.slow
def test_limits_bind_and_cost(question, answered):
    power = codesign(Question(**SMALL, mix={"today": 1.0}, limits=space.Limits(power=1200.0, date=2029.9)))
    told = power["chips"][power["chosen"]]
    assert told["silicon"]["watts"] <= 1200.0 and told["silicon"]["date"] <= 2029.9
    assert {row["limit"]: row["removed"] for row in power["limits"]}["power"] > 0
    free = answered["chips"][answered["chosen"]]["futures"][0]["dollars_per_token"]
    assert told["futures"][0]["dollars_per_token"] > free


def test_impossible_limits_say_which_and_what_comes_nearest():
    """Each limit with the designs that it removes, and the nearest design with what it exceeds."""
    asked = Question(**SMALL, mix={"today": 1.0}, limits=space.Limits(power=40.0, cost=900.0))
    with pytest.raises(Refused) as refusal:
        codesign(asked)
    (problem,) = refusal.value.problems
    assert problem.field == "limits" and "none of 17 designs" in problem.got
    assert "power 17" in problem.hint and "cost 17" in problem.hint
    assert "the nearest design exceeds" in problem.hint and "W" in problem.hint


def test_tight_limits_are_walked_to(bench):
    """A sample without a single design in it is no refusal where a walk finds one."""
    tight = prepare(Question(**SMALL, mix={"today": 1.0}, limits=space.Limits(area=150e-6)))
    points, counted = feasible(tight)
    taken = space.loads(space.designs(points, tight.offered, tight.base), tight.process, tight.question.limits)
    assert np.all(space.worst(taken) <= 1.0)
    assert {row["limit"]: row["removed"] for row in counted}["area"] == 17


def test_supply_counts_stacks(bench):
    short = space.Limits(supply=2e5)
    taken = space.loads(replace(bench.base, stacks=np.array([2.0, 4.0]), volume=1e5), bench.process, short)
    assert taken["supply"].tolist() == [1.0, 2.0]


# ---------------------------------------------------------------- the walk, and the futures


def test_walks_find_what_brute_force_finds(bench):
    """On a space small enough to price whole, the best end of four walks is the best there is."""
    few = {name: bench.offered[name] for name in bench.offered}
    few = {name: (options[len(options) // 2],) for name, options in few.items()}
    few |= {"multipliers": bench.offered["multipliers"][4:9], "clock": bench.offered["clock"][4:12:2],
            "stacks": (4.0, 6.0, 8.0), "sram": bench.offered["sram"][2:6], "memory": (3.0, 5.0), "domain": (64.0,),
            "node": (1.0, 2.0)}  # fmt: skip
    screened = bench.screens[0]

    def price(points):
        chips = space.designs(points, few, bench.base)
        inside = space.worst(space.loads(chips, bench.process, space.Limits())) <= 1.0
        return np.where(inside, values(screened, chips, bench.process), np.inf)

    every = np.stack(np.meshgrid(*[range(len(v)) for v in few.values()], indexing="ij"), -1).reshape(-1, len(few))
    least = price(every)
    starts = space.sample(few, 12, seed=3)
    order = np.argsort(price(starts))[:4]
    ends = [space.walk(starts[i], few, price) for i in order]
    assert min(float(price(end[None, :])[0]) for end in ends) == pytest.approx(float(least.min()), rel=1e-12)


def test_shapes_have_one_size_and_one_range():
    model = load.model("llama3-70b")
    told = dict(shapes(model, aspect=(40.0, 109.0)))
    assert {"published", "wide heads", "narrow heads", "narrow layers"} <= set(told) and "wide layers" not in told
    assert told["wide heads"].kinds[0].head_dim == 256.0 and told["wide heads"].kinds[0].heads == 32.0
    thin = sparser(model).kinds[0]
    assert (thin.experts, thin.top_k, thin.d_expert * thin.top_k) == (16.0, 4.0, model.kinds[0].d_ff)


def test_a_screen_is_a_selection_of_the_space(bench):
    """What is screened is priced as the full space prices it."""
    screened = bench.screens[0]
    two = replace(bench.bought, clock=np.array([1.0, 1.1]) * bench.bought.clock)
    told = values(screened, two, bench.process)
    for i in range(2):
        one = replace(bench.bought, clock=float(two.clock[i]))
        assert told[i] >= best(screened, [one], bench.process)[0].value * (1 - 1e-12)
        dollars, seconds = priced(screened.ops, build(one, bench.process))
        assert told[i] == pytest.approx(dollars[seconds <= screened.deadline * 1.0001].min(), rel=1e-12)


# ---------------------------------------------------------------- mistakes


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("--mix=decode:1", "decode is not priced yet"),
        ("--mix=today:-1", "a weight from 0"),
        ("--mix=today:0", "a future with a weight above 0"),
        ("--volume=100", "20,000 or more"),
        ("--volume=0", "volume: expected a number above 0"),
        ("--power=0", "power: expected a number above 0"),
        ("--vendor=b2000", "vendor|design: expected a known design"),
        ("--precision=fp3", "some of fp32"),
        ("--global_batch=7 --chips=64", "in eights for context-8x"),
        ("--chips=1 --model=llama3.1-405b", "enough of the bought chip"),
    ],
)  # fmt: skip
def test_mistakes_are_said(typed, said):
    options = parse(["codesign", "--model=llama3-8b", *typed.split()])
    with pytest.raises(Refused, match=said):
        main(options)


def test_a_mix_as_typed():
    assert mixed(None) == dict.fromkeys(("today", "context-8x", "sparsity-4x", "no-fp4"), 1.0)
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
