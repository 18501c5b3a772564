"""What is told of a chip that could be ordered: its variables by name, what it is, what it does in each future."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from coopt.cost.explain import layout_document, plain
from coopt.cost.silicon import build, silicon
from coopt.search import chips as space
from coopt.search.chips import Work
from coopt.search.space import Candidate, settings, size
from coopt.spec.silicon import Design, Process
from coopt.study.chips.question import BEGIN, FLEETS, PACE, Bench
from coopt.study.chips.used import Used
from coopt.study.given.objectives import expression


def in_words(design: Design, made_with: Process) -> str:
    """A design in a line."""
    made = silicon(design, made_with)
    names = made_with.names
    return (
        f"{names['nodes'][int(design.node)]}, {design.dies:g} x {made.die * 1e6:.0f} mm2, "
        f"{design.stacks:g} x {names['memories'][int(design.memory)]}, {made.watts:.0f} W, {made.price:,.0f} USD, "
        f"{made.date:.1f}"
    )


def short(design: Design, made_with: Process) -> str:
    """A design in a few words: `n3 4x705 12xhbm4`, its node, its dies in mm2 and its memory."""
    made, names = silicon(design, made_with), made_with.names
    die = float(made.die) * 1e6
    memory = names["memories"][int(design.memory)]
    return f"{names['nodes'][int(design.node)]} {design.dies:g}x{die:.0f} {design.stacks:g}x{memory}"


def variables(design: Design, made_with: Process) -> dict[str, Any]:
    """A design's variables with names for its codes."""
    told = {field.name: getattr(design, field.name) for field in dataclasses.fields(design) if field.name != "name"}
    for field, kind in space.CODES.items():
        told[field] = made_with.names[kind][int(told[field])]
    return {name: value if isinstance(value, str) else float(value) for name, value in told.items()}


def entry(
    bench: Bench, label: str, design: Design, ways: Sequence[Used | None], regret: np.ndarray, mean: float, *,
    searched: bool,
) -> dict[str, Any]:  # fmt: skip
    """One chip of the document, with its best use in each future."""
    made, machine = silicon(design, bench.order.process), build(design, bench.order.process)
    return {
        "label": label,
        "design": variables(design, bench.order.process),
        "silicon": {f.name: float(getattr(made, f.name)) for f in dataclasses.fields(made)},
        "peak_16": float(machine.peak[2]),
        "bandwidth": float(machine.bandwidth),
        "memory": float(machine.memory),
        "watts_all_in": float(machine.watts_all_in),
        "dollars_hour": float(machine.dollars_hour),
        "futures": [
            {"future": work.name, "regret": plain(loss), **(_way(work, way) if way else {"value": None})}
            for work, way, loss in zip(bench.works, ways, regret, strict=True)
        ],
        "mean_regret": plain(mean),
        "worst_regret": plain(regret.max()),
        "at_ends": _at_ends(bench, design, ways) if searched else [],
    }


def _way(work: Work, way: Used) -> dict[str, Any]:
    """How a chip is used in a future, and what a useful token takes."""
    told = settings(work.space, way.index)
    names = ("useful_dollars_per_token", "useful_joules_per_token", PACE)
    dollars, joules, seconds = expression(way.plan, names).objectives
    return {
        "value": plain(way.value),
        "dollars_per_token": plain(dollars),
        "joules_per_token": plain(joules),
        "seconds_over_deadline": plain(seconds / work.limits[PACE]),
        "shape": told.get("shape", "published"),
        "chips": chips_of(way.plan),
        "layout": {**layout_document(way.plan.layout), "precision": told.get("precision", "")},
    }


def chips_of(plan: Candidate) -> int:
    """How many chips a plan is cut over."""
    cut = plan.layout
    return round(float(cut.tp * cut.cp * cut.pp * cut.dp))


def _at_ends(bench: Bench, design: Design, ways: Sequence[Used | None]) -> list[str]:
    """Variables at an end of their choices, the number of chips among them."""
    ends = {int(bench.question.chips * times) for times in (FLEETS[0], FLEETS[-1])}
    most = any(way and chips_of(way.plan) in ends for way in ways)
    return [*space.at_ends(design, bench.order.offered), *(["chips"] if most else [])]


def asked(bench: Bench) -> dict[str, Any]:
    """The question, and the mix with its shapes, its deadline (s a token) and how many layouts it has."""
    question = bench.question
    return {
        "question": {
            "model": question.model,
            "vendor": question.vendor,
            "chips": question.chips,
            "volume": question.volume,
            "objective": question.objective,
            "seq_len": question.seq_len,
            "global_batch": question.batch,
            "precision": list(question.precision),
            "limits": {name: plain(bound) for name, bound in question.limits.items()},
            "seed": question.seed,
        },
        "mix": [
            {"future": work.name, "weight": work.weight, "deadline": work.limits[PACE], "layouts": size(work.space),
             "shapes": next((list(one.labels) for one in work.space.axes if one.name == "shape"), ["published"])}
            for work in bench.works
        ],
    }  # fmt: skip


def assumed(bench: Bench) -> list[str]:
    """What an answer takes for granted."""
    volume, margin = bench.question.volume, bench.order.base.margin
    return [
        "the search is one of evolution, gradients and walks: what it ends at is the best it saw, not proved the best",
        "all number formats and shapes offered are taken to reach the same loss",
        f"a part that is ordered begins to be developed in {BEGIN:.0f}, at a partner's margin of {margin:.0%}, "
        f"its development spread over {volume:,.0f} chips; software for it costs nothing more",
        "what software reaches on a chip not built yet is taken from families that were fitted",
        "decode is not priced: no future has a share of it",
        f"every design keeps the pace of {bench.question.chips:,} {bench.bought.name}, on an eighth to twice as many "
        "chips",
    ]
