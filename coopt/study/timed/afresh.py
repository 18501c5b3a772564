"""Blocks timed once more, in a process of their own: what a clock says when it is asked again.

The spread of a timing is that within one process. Where memory lies, who else is at work and which threads meet on a
core differ from one process to the next: a block may come out half as long again while its spread says 2%. And the
winner of a search was chosen for being fast, so that its first timing flatters it (the winner's curse).
"""

from __future__ import annotations

import math
from collections.abc import Container, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from coopt.cost.quality import Z90
from coopt.search.space import Candidate
from coopt.study.timed import blocks
from coopt.study.timed.blocks import Timed

BEST = 2  # plans of a search whose blocks are timed again: the winner and the runner-up
TELLING = 3  # blocks of a calibration that are
LEAST_NOISE = 0.02  # log units: of two timings that happen to agree


def job(work: Mapping[str, Any]) -> dict[str, Any]:
    """The same block with other values in it: `blocks.key` is the same, and the timing is one of its own."""
    return {**work, "seed": 1, "check": 0}


def best(
    plans: Iterable[Candidate], own: str = "", *, known: Container[str] = ()
) -> list[tuple[Candidate, dict[str, Any]]]:
    """The best plans of two different blocks that a clock can see, each with the job that times it afresh.

    Args:
      known: keys of blocks that were timed before, and checked against float64 then; others are now.
    """
    found: dict[str, tuple[Candidate, dict[str, Any]]] = {}
    for plan in plans:
        work = blocks.of_plan(plan, own)
        if blocks.alone(plan):
            key = blocks.key(work)
            found.setdefault(key, (plan, job(work) | {"check": int(key not in known)}))
        if len(found) == BEST:
            break
    return list(found.values())


def together(timed: Sequence[Timed]) -> list[list[Timed]]:
    """The usable timings of each block, in the order of the blocks' first ones."""
    groups: dict[str, list[Timed]] = {}
    for block in timed:
        if block.usable:
            groups.setdefault(blocks.key(block.job), []).append(block)
    return list(groups.values())


def repeat(groups: Sequence[Sequence[Timed]]) -> float:
    """Standard deviation of log seconds from one process to the next, of blocks timed more than once; NaN for none.

    Pooled: sqrt(sum of squares around each block's mean / (timings - blocks)), over both passes.
    """
    logs = [np.log([block.times() for block in group]) for group in groups if len(group) > 1]
    free = sum(2 * (len(each) - 1) for each in logs)
    squares = sum(float(np.sum((each - each.mean(axis=0)) ** 2)) for each in logs)
    return math.sqrt(squares / free) if free else math.nan


def document(asked: Sequence[tuple[Candidate, Timed]], timed: Sequence[Timed]) -> dict[str, Any] | None:
    """What the clock said the second time, and how far it repeats; the interval of a step is 90% by that.

    Both timings of a block are at the pace that all are compared at, as `blocks.settled` has it.
    """
    if not asked:
        return None
    every = blocks.settled([*timed, *(block for _, block in asked)])
    noise = repeat(together(every))
    width = Z90 * max(LEAST_NOISE, noise)  # the floor first: NaN, where nothing was timed twice, is not the larger
    rows = []
    for (plan, _), block in zip(asked, every[len(timed) :], strict=True):
        same = (b for b in every[: len(timed)] if b.usable and blocks.key(b.job) == blocks.key(block.job))
        first, time = next((b.times()[1] for b in same), math.nan), block.times()[1]
        step = blocks.step_time(plan, time) if block.usable else math.nan
        rows.append(
            {
                "model": plan.model.name,
                "block": blocks.name(block.job),
                "outcome": block.status,
                "first": first,
                "fresh": time,
                "ratio": time / first,
                "step_time": step,
                "interval": [step * math.exp(-width), step * math.exp(width)],
            }
        )
    return {"plans": rows, "repeat": noise}
