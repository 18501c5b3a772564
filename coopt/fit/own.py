"""A private fit: three to fifty rows of one's own move the constants that ship, as far as the rows can tell."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence

import numpy as np
from scipy.stats import t as student

from coopt.cost.quality import Z90
from coopt.fit import constants, score
from coopt.fit.constants import Name, Problem
from coopt.fit.rows import Design

LEAST = 3
# A constant that the rows move by less than this share of its prior's spread stays where it was.
STILL = 0.1
# Spread of log step time of one configuration measured again by its own publisher: no prediction is surer than that
# (median 2.5% over the `dup_group`s of measurements/training.csv; a normal's median is 0.674 of its spread).
REPEAT = 0.025 / 0.674


@dataclasses.dataclass(frozen=True, eq=False)
class Pooled:
    """Constants between what ships and what the rows say; arrays are in the order of `names`, or of the rows."""

    names: tuple[Name, ...]
    start: np.ndarray
    value: np.ndarray
    error: np.ndarray  # log units
    moved: np.ndarray  # False: the rows leave it as it was
    after: np.ndarray  # s, each row under constants fitted to all
    left_out: np.ndarray  # s, each row under constants fitted to the others
    sigma: float  # of log(measured / predicted) for the next run


def pool(designs: Sequence[Design], start: Mapping[Name, float]) -> Pooled:
    """Robust least squares on log step times with a prior around `start`, and what each row is worth left out.

    The residuals are log(predicted / measured) / 0.08 under a soft-L1 loss, one vote a configuration, beside
    0.7 log(constant / start) / spread: with few rows the constants stay where they ship, with many they follow the
    rows. Constants that hardly moved are put back to `start`, and the others are fitted again beside them.

    Args:
      designs: the rows, `LEAST` or more.
      start: where each constant of their family and stacks starts; constants that are no model's keep apart.

    Returns:
      Constants with errors, predictions with every row and without each, and the spread that the next run may show.
    """
    task = constants.problem(designs, start)
    rows = [one.row for one in designs]
    low, high = (np.array([constants.BOUNDS[name[2]][side] for name in task.names]) for side in (0, 1))
    task = dataclasses.replace(task, start=np.clip(task.start, low, high), weight=np.sqrt(score.weights(rows)))
    value, error, moved = _solved(task, np.ones(len(rows), bool))
    left_out = np.empty(len(rows))
    group = np.array([row.get("dup_group") or str(at) for at, row in enumerate(rows)])
    for one in dict.fromkeys(group.tolist()):
        out = group == one
        left_out[out] = task.step_time(_solved(task, ~out)[0])[out]
    return Pooled(
        names=task.names,
        start=np.array(list(start.values())),
        value=np.where(moved, value, list(start.values())),
        error=error,
        moved=moved,
        after=task.step_time(value),
        left_out=left_out,
        sigma=spread(left_out, task.measured, score.weights(rows)),
    )


def _solved(task: Problem, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Constants, their errors (log units) and which of them the rows moved, from some of the rows."""
    prior = np.array([constants.spread(name) for name in task.names])
    found, error = constants.solve(task, rows=rows)
    moved = np.abs(np.log(found / task.start)) > STILL * prior
    if not moved.any():
        return task.start.copy(), prior, moved
    value, error = constants.solve(task, rows=rows, free=moved)
    return value, np.where(moved, error, prior), moved


def spread(predicted: np.ndarray, measured: np.ndarray, weight: np.ndarray) -> float:
    """Standard deviation that makes a 90% interval of a normal as wide as Student's of so few rows.

        sigma = max(t_95(n) / 1.645 sqrt(mean log^2), what a run repeats to)

    >>> round(spread(np.array([1.1, 1.0, 0.9]), np.ones(3), np.ones(3)), 3)
    0.117
    """
    miss = np.log(measured / predicted)
    told = math.sqrt(float(np.average(miss**2, weights=weight)))
    return max(float(student.ppf(0.95, weight.sum())) / Z90 * told, REPEAT)
