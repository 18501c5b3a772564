"""What a sweep asks of a candidate: a verdict and a few objectives, each smaller-is-better, at its natural shape."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from coopt.cost import estimate, loss
from coopt.ops import count
from coopt.problems import Problem, Refused
from coopt.search.space import Candidate, Space, lattice
from coopt.spec.nouns import NAN, Cost, Leaf, Ops
from coopt.tree import struct


@struct
class Score:
    """`verdict` is a code into VERDICTS; `objectives` are in the order in which they were asked for."""

    verdict: Leaf = 0.0
    objectives: tuple[Leaf, ...] = ()


Expression = Callable[[Candidate, tuple[str, ...]], Score]


def quality(candidate: Candidate) -> Leaf:
    """The loss after the workload's tokens, the batch counted; NaN without a law, or outside its range."""
    if candidate.law is None:
        return NAN
    phase = candidate.workload.train
    return loss(candidate.law, candidate.model, candidate.workload.tokens, phase.batch * phase.seq_len).value


# Objectives by name: the unit, and what to take. `memory_share` is 1 - slack: positive, and small is good.
OBJECTIVES: dict[str, tuple[str, Callable[[Candidate, Ops, Cost], Leaf]]] = {
    "step_time": ("s", lambda candidate, ops, cost: cost.step_time),
    "time_per_token": ("s", lambda candidate, ops, cost: cost.step_time / ops.tokens),
    "chip_time_per_token": ("s", lambda candidate, ops, cost: cost.step_time * (ops.chips / ops.tokens)),
    "dollars_per_token": ("USD", lambda candidate, ops, cost: cost.dollars / ops.tokens),
    "joules_per_token": ("J", lambda candidate, ops, cost: cost.joules / ops.tokens),
    "run_time": ("s", lambda candidate, ops, cost: cost.step_time * (candidate.workload.tokens / ops.tokens)),
    "run_dollars": ("USD", lambda candidate, ops, cost: cost.dollars * (candidate.workload.tokens / ops.tokens)),
    "run_joules": ("J", lambda candidate, ops, cost: cost.joules * (candidate.workload.tokens / ops.tokens)),
    "memory": ("B", lambda candidate, ops, cost: cost.memory),
    "memory_share": ("1", lambda candidate, ops, cost: 1.0 - cost.slack),
    "loss": ("nat", lambda candidate, ops, cost: quality(candidate)),
}


def price(candidate: Candidate, objectives: tuple[str, ...]) -> Score:
    """The one cost expression, `estimate(count(model, layout, workload), hardware)`, asked for `objectives`."""
    if candidate.hardware is None:
        raise Refused(Problem(field="hardware", expected="a machine to price on", got="none"))
    ops = count(candidate.model, candidate.layout, candidate.workload)
    cost = estimate(ops, candidate.hardware)
    return Score(
        verdict=cost.verdict,
        objectives=tuple(OBJECTIVES[name][1](candidate, ops, cost) for name in objectives),
    )


def quickest(space: Space) -> int | None:
    """The index of the least step time in a small space around a machine; None where nothing runs. Compiles nothing."""
    with np.errstate(all="ignore"):
        score = price(lattice(space), ("step_time",))
        fits = np.asarray(score.verdict) < 0.5
        times = np.where(fits & np.isfinite(score.objectives[0]), score.objectives[0], np.inf)
    times = np.broadcast_to(times, [len(axis) for axis in space.axes])
    at = int(np.argmin(times))
    return at if np.isfinite(times.flat[at]) else None
