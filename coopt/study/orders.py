"""What is told of a chip that could be ordered: its variables by name, what it is, what it does in each future."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from coopt.cost.explain import layout_document, plain
from coopt.cost.silicon import build, silicon
from coopt.search import chips as space
from coopt.spec.silicon import Design, Process
from coopt.study.futures import Future
from coopt.study.question import BEGIN, FLEETS, Bench
from coopt.study.screens import Best


def one_of(chips: Design, position: int) -> Design:
    """One of many designs, with plain floats."""
    return jax.tree.map(lambda leaf: float(leaf[position]) if np.ndim(leaf) else float(leaf), chips)


def in_words(design: Design, made_with: Process) -> str:
    """A design in a line."""
    made = silicon(design, made_with)
    names = made_with.names
    return (
        f"{names['nodes'][int(design.node)]}, {design.dies:g} x {made.die * 1e6:.0f} mm2, "
        f"{design.stacks:g} x {names['memories'][int(design.memory)]}, {made.watts:.0f} W, {made.price:,.0f} USD, "
        f"{made.date:.1f}"
    )


def variables(design: Design, made_with: Process) -> dict[str, Any]:
    """A design's variables with names for its codes."""
    told = {field.name: getattr(design, field.name) for field in dataclasses.fields(design) if field.name != "name"}
    for field, kind in space.CODES.items():
        told[field] = made_with.names[kind][int(told[field])]
    return {name: value if isinstance(value, str) else float(value) for name, value in told.items()}


def entry(
    bench: Bench, label: str, design: Design, ways: Sequence[Best], regret: np.ndarray, mean: float, point: Any
) -> dict[str, Any]:
    """One chip of the document; `point` is None of those that were not searched for."""
    made = silicon(design, bench.process)
    machine = build(design, bench.process)
    return {
        "label": label,
        "design": variables(design, bench.process),
        "silicon": {f.name: float(getattr(made, f.name)) for f in dataclasses.fields(made)},
        "peak_16": float(machine.peak[2]),
        "bandwidth": float(machine.bandwidth),
        "memory": float(machine.memory),
        "watts_all_in": float(machine.watts_all_in),
        "dollars_hour": float(machine.dollars_hour),
        "futures": [
            {
                "future": one.future.name,
                "dollars_per_token": plain(way.value),
                "joules_per_token": plain(way.joules),
                "seconds_over_deadline": plain(way.seconds / one.deadline),
                "regret": plain(loss),
                "shape": way.shape,
                "chips": way.chips,
                "layout": {**layout_document(way.layout), "precision": way.precision} if way.chips else {},
            }
            for one, way, loss in zip(bench.screens, ways, regret, strict=True)
        ],
        "mean_regret": plain(mean),
        "worst_regret": plain(regret.max()),
        "at_ends": _at_ends(bench, point, ways) if point is not None else [],
    }


def _at_ends(bench: Bench, point: np.ndarray, ways: Sequence[Best]) -> list[str]:
    """Variables at an end of their choices, the number of chips among them."""
    ends = {int(bench.question.chips * times) for times in (FLEETS[0], FLEETS[-1])}
    return [*space.at_ends(point, bench.offered), *(["chips"] if any(way.chips in ends for way in ways) else [])]


def asked(bench: Bench) -> dict[str, Any]:
    """The question, and the mix with its shapes, its deadline (s a token) and how many layouts it has."""
    question = bench.question
    return {
        "question": {
            "model": question.model,
            "vendor": question.vendor,
            "chips": question.chips,
            "volume": question.volume,
            "seq_len": question.seq_len,
            "global_batch": question.batch,
            "precision": list(question.precision),
            "limits": {k: plain(v) for k, v in dataclasses.asdict(question.limits).items() if v != space.NO_LIMIT},
            "seed": question.seed,
        },
        "mix": [
            {"future": s.future.name, "weight": s.future.weight, "shapes": list(s.future.shapes),
             "deadline": s.deadline, "layouts": _layouts(s.future)}
            for s in bench.screens
        ],
    }  # fmt: skip


def _layouts(future: Future) -> int:
    return sum(math.prod(len(axis) for axis in one.axes) for _, _, one in future.spaces)


def assumed(bench: Bench) -> list[str]:
    """What an answer takes for granted."""
    volume, margin = bench.question.volume, bench.base.margin
    return [
        "the search samples and walks: what it ends at is the best it saw, not proved the best there is",
        "all number formats and shapes offered are taken to reach the same loss",
        f"a part that is ordered begins to be developed in {BEGIN:.0f}, at a partner's margin of {margin:.0%}, "
        f"its development spread over {volume:,.0f} chips; software for it costs nothing more",
        "what software reaches on a chip not built yet is taken from families that were fitted",
        "decode is not priced: no future has a share of it",
        f"every design keeps the pace of {bench.question.chips:,} {bench.bought.name},"
        " on a quarter to twice as many chips",
    ]
