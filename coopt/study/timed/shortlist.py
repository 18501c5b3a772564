"""Times the blocks of a shortlist: always the one whose timing the decision needs most, until the decision is made."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from coopt.search.space import Candidate
from coopt.study.given.objectives import machine_of
from coopt.study.timed import blocks, constants
from coopt.study.timed.blocks import Timed
from coopt.study.timed.calibration import LEAST, NOISE
from coopt.study.timed.choosing import Choice, choose

MORE = 2  # times as many blocks as asked for are tried, where some have no usable time
CALIBRATING = 6  # blocks timed at least where times matter: fewer fit themselves and tell nothing of the others
TIMELESS = ("loss", "memory_share")  # objectives that no timing moves


@dataclasses.dataclass(frozen=True)
class Shortlist:
    """Distinct blocks, each with the best plan that is made of it; `objective` is that plan's, by pricing."""

    plans: tuple[Candidate, ...]
    jobs: tuple[dict[str, Any], ...]
    objective: np.ndarray
    hardware: Any
    elasticity: np.ndarray  # of each plan's objective to its block's time


@dataclasses.dataclass(frozen=True)
class Timings:
    """Blocks that were timed, and what the choice among plans still risks: `regret` over the best objective."""

    timed: tuple[Timed, ...] = ()
    regret: float = math.nan
    decided: bool = False


def shortlist(plans: list[tuple[Candidate, float]], *, hardware: Any, objective: str, own: str = "") -> Shortlist:
    """Blocks of plans, best plan first; `own`, a module in place of ours."""
    moves = [0.0 if objective in TIMELESS else _elasticity(plan) for plan, _ in plans]
    return Shortlist(
        plans=tuple(plan for plan, _ in plans),
        jobs=tuple(blocks.of_plan(plan, own) for plan, _ in plans),
        objective=np.array([value for _, value in plans]),
        hardware=hardware,
        elasticity=np.array(moves),
    )


def _elasticity(plan: Candidate) -> float:
    """Share of a step that goes with the time of its layers."""
    one = blocks.predicted(blocks.of_plan(plan), machine_of(plan))[1]
    return (blocks.step_time(plan, 1.01 * one) / blocks.step_time(plan, one) - 1.0) / 0.01


def time_blocks(listed: Shortlist, clock: Callable[[dict[str, Any]], Timed], *, wanted: int) -> Timings:
    """Times blocks one after another; stops when as many as wanted have usable times, or the decision is made.

    The best plan's block is first, and that of the best plan in each other recipe, since what is wrong of all blocks in
    one shows in nothing else; then always the block that is worth most to the decision. A few are timed in any case,
    since fewer calibrate nothing. `clock` may remember: the same answers lead to the same order.
    """
    timed: dict[int, Timed] = {}
    if not listed.jobs:
        return Timings()
    groups = blocks.counted(listed.jobs)
    names = [plan.layout.precision.name for plan in listed.plans]
    opening = [names.index(name) for name in dict.fromkeys(names)]
    least = CALIBRATING if listed.elasticity.any() else LEAST
    choice, known = Choice(worth=np.zeros(len(names)), regret=math.nan), constants.before(listed.hardware)
    for turn in range(min(len(listed.jobs), wanted * MORE)):
        worth, untried = choice.worth, [i for i in range(len(names)) if i not in timed]
        number = opening[turn] if turn < len(opening) else max(untried, key=lambda i: (worth[i], -i))
        work = listed.jobs[number]
        timed[number] = blocks.believed(clock(work), blocks.peak_of(work, listed.hardware))
        choice, known = _choice(listed, groups, timed, known)
        usable = sum(block.usable for block in timed.values())
        if usable >= wanted or usable >= least and choice.decided:
            break
    return Timings(tuple(timed.values()), choice.regret, choice.decided)


def _choice(
    listed: Shortlist, groups: Any, timed: dict[int, Timed], known: constants.Fit
) -> tuple[Choice, constants.Fit]:
    """What timing each block would be worth, by all that has been timed, and the constants that says it by."""
    usable = [i for i, block in timed.items() if block.usable]
    start = constants.before(listed.hardware).said(groups)[0, :, 1]
    seen = np.full((len(listed.jobs), 2), np.nan)
    if usable:
        seen[usable] = np.log([block.times() for block in blocks.settled([timed[i] for i in usable])])
        known = constants.fit(listed.hardware, groups, seen, np.full(seen.shape, 1.0 / NOISE), start=known.z)
    both = np.where(np.isnan(seen[:, 1]), known.said(groups)[0, :, 1], seen[:, 1])
    residual = np.where(np.isnan(seen[:, 1]), known.residual, 0.3 * NOISE)
    objective = listed.objective * (1.0 + listed.elasticity * (np.exp(both - start) - 1.0))
    slopes = np.where(np.isnan(seen[:, 1]), known.slopes(groups)[:, :, 1], 0.0)
    choice = choose(
        objective,
        slopes=(slopes * listed.elasticity).T,
        covariance=known.covariance,
        residual=residual * listed.elasticity,
        noise=NOISE * listed.elasticity,
    )
    return choice, known
