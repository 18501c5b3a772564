"""What an order is worth against a bought chip, from which volume, where the gain comes from, what to ask a vendor."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from coopt.cost import estimate
from coopt.cost.explain import plain
from coopt.cost.silicon import build, silicon
from coopt.ops import count
from coopt.search.space import Candidate
from coopt.spec.nouns import Ops
from coopt.spec.silicon import Design, Process
from coopt.study.chips.question import Bench
from coopt.study.chips.used import Used
from coopt.study.given.objectives import expression
from coopt.tree import replace

# Variables that a vendor could turn a little; codes are compared one against the other.
SMOOTH = ("units", "edge", "lanes", "exponentials", "sram", "clock", "spare", "stacks", "scale_up", "scale_out")
SWAPS = {"node": "nodes", "memory": "memories", "link": "links"}
STEP = 1e-3
LEAST = 0.005  # elasticity of price or area below which a variable is no source of either


def work(plan: Candidate) -> Ops:
    """The operations of a plan."""
    return count(plan.model, plan.layout, plan.workload)


def dollars(design: Design, ways: Sequence[Used | None], made_with: Process) -> np.ndarray:
    """USD a useful token of a design in each future, on given layouts."""
    machine, name = build(design, made_with), "useful_dollars_per_token"
    scores = [expression(replace(way.plan, hardware=machine), (name,)) if way else None for way in ways]
    return np.array([float(score.objectives[0]) if score else np.inf for score in scores])


def steps(bought: Design, same: Design, answer: Design, made_with: Process) -> list[tuple[str, Design]]:
    """Designs on the way from the bought silicon, ordered, to the answer: what did the answer get for nothing?

    What the order alone gains is a seller's margin and nobody's engineering; what node, memory and shape of the silicon
    gain is there for a vendor's next chip too, which the last design is: the answer, sold as the bought chip is. Each
    is priced on its own best layouts.
    """
    moved = replace(same, node=answer.node)
    later = replace(moved, memory=answer.memory, stacks=answer.stacks)
    linked = replace(
        later, link=answer.link, scale_up=answer.scale_up, domain=answer.domain, scale_out=answer.scale_out
    )
    return [
        (f"on {made_with.names['nodes'][int(answer.node)]}", moved),
        (f"with {answer.stacks:g} stacks of {made_with.names['memories'][int(answer.memory)]}", later),
        ("with its links and domain", linked),
        ("the answer, if the vendor sold it", replace(answer, own=0.0, margin=bought.margin)),
    ]


def breakeven(
    bench: Bench, answer: Design, ways_bought: Sequence[Used | None], ways: Sequence[Used | None]
) -> dict[str, Any]:
    """Chips at which the ordered part costs as much a token as the bought one; None where it never does.

    USD a token is A + B / volume, for development is spread over the volume and nothing else depends on it.
    """
    weights, made_with = np.array([one.weight for one in bench.works]), bench.order.process
    asked = float(dollars(bench.bought, ways_bought, made_with) @ weights)
    here, many = (float(dollars(replace(answer, volume=v), ways, made_with) @ weights) for v in (answer.volume, 1e12))
    fixed = (here - many) * answer.volume
    made = silicon(answer, made_with)
    return {
        "volume": plain(fixed / (asked - many)) if asked > many else None,
        "least": plain(made_with.money.least),
        "development": plain(made.development),
        "dollars_per_token_bought": plain(asked),
        "dollars_per_token_ordered": plain(here),
        "dollars_per_token_without_development": plain(many),
        "quarters": plain(4.0 * (made.date - answer.start)),
        "date": plain(made.date),
    }


def wishes(bought: Design, plan: Candidate, made_with: Process) -> dict[str, Any]:
    """What the vendor's chip would gain from a little more of each variable, on a plan: its best of the first future.

    `time`, `price`, `area`, `watts` and `dollars` are d log / d log of the variable; `per_price` is percent of step
    time saved for a percent of the chip's price spent on it, so that the best exchange at constant cost takes from the
    smallest and gives to the largest. Central differences in float64: the tests hold them against autodiff.
    """
    ops = work(plan)
    rows = []
    for name in SMOOTH:
        ends = [_figures(replace(bought, **{name: getattr(bought, name) * (1.0 + sign * STEP)}), ops, made_with)
                for sign in (1.0, -1.0)]  # fmt: skip
        slope = {key: float(np.log(ends[0][key] / ends[1][key]) / (2.0 * STEP)) for key in ends[0]}
        row = {"variable": name, **{key: plain(value) for key, value in slope.items()}}
        row["per_price"] = plain(-slope["time"] / slope["price"]) if slope["price"] > 1e-6 else None
        row["per_area"] = plain(-slope["time"] / slope["area"]) if slope["area"] > 1e-6 else None
        rows.append(row)
    here = _figures(bought, ops, made_with)
    swaps = []
    for field, kind in SWAPS.items():
        for code in range(len(made_with.names[kind])):
            if code != int(getattr(bought, field)):
                there = _figures(replace(bought, **{field: float(code)}), ops, made_with)
                swaps.append(
                    {"change": f"{field} to {made_with.names[kind][code]}",
                     **{key: plain(there[key] / here[key] - 1.0) for key in there}}
                )  # fmt: skip
    return {"future": "today", "elasticities": rows, "swaps": swaps, **_exchange(rows)}


def _figures(design: Design, ops: Ops, made_with: Process) -> dict[str, float]:
    made, machine = silicon(design, made_with), build(design, made_with)
    cost = estimate(ops, machine)
    return {
        "time": float(cost.step_time),
        "dollars": float(cost.dollars),
        "joules": float(cost.joules),
        "price": float(made.price),
        "area": float(made.area),
        "watts": float(made.watts),
    }


def _exchange(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The best trade of the chip's price, and of its area: percent of step time for a percent moved.

    What costs next to nothing is no source, and spare logic pays in yield what it takes in area.
    """
    told = {}
    for key, cost in (("per_price", "price"), ("per_area", "area")):
        known = [row for row in rows if row[key] is not None and row[cost] > LEAST and row["variable"] != "spare"]
        give, take = max(known, key=lambda row: row[key]), min(known, key=lambda row: row[key])
        told[key.replace("per_", "at_constant_")] = {
            "more": give["variable"], "less": take["variable"], "step_time": plain(-(give[key] - take[key])),
        }  # fmt: skip
    return told
