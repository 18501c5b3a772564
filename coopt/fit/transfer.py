"""How far off a chip or a publication is that was never seen: its rows by constants fitted without any of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from coopt.cost.quality import Z90
from coopt.fit import constants, score
from coopt.fit.constants import Name, Problem
from coopt.fit.rows import Design

OWNER: Mapping[str, Callable[[Design], str]] = {
    "chip": lambda one: one.hardware.chip,
    "family": lambda one: one.hardware.family,
    "source": lambda one: score.publication(one.row),
}


def left_out(
    task: Problem,
    designs: Sequence[Design],
    kind: str,
    *,
    unknown: Mapping[Name, float] | None = None,
    generic: Problem | None = None,
) -> np.ndarray:
    """Step times (s) of each row under constants fitted without its whole `chip`, `family` or `source`.

    Rows whose stack ran on nothing else are priced as `generic` has them: the same rows under the stack of no
    particular name. Without it they are NaN: two things would be unknown at once. `unknown` are the constants that a
    family left out starts from, where what is known of its kernels is to count for nothing.
    """
    whose = np.array([OWNER[kind](one) for one in designs])
    stack = np.array([one.hardware.stack for one in designs])
    told = np.full(len(designs), np.nan)
    for one in dict.fromkeys(whose.tolist()):
        known = whose != one
        seen = ~known & np.isin(stack, stack[known])
        lone = ~known & ~seen
        if not seen.any() and generic is None:
            continue
        start = [
            (unknown or {}).get(name, value) if name[:2] == ("family", one) else value
            for name, value in zip(task.names, task.start, strict=True)
        ]
        without = dataclasses.replace(task, start=np.array(start))
        values, _ = constants.solve(without, rows=known)
        told[seen] = task.step_time(values)[seen]
        if generic is not None and lone.any():
            told[lone] = generic.step_time(values)[lone]
    return told


def summary(rows: Sequence[Mapping[str, str]], predicted: np.ndarray, measured: np.ndarray) -> dict[str, float]:
    """rows, mape, median_ape and bias of the rows that were left out, and sigma: the 90% quantile of |log| over 1.645.

    >>> row = {"id": "a", "chip": "x", "source": "s"}
    >>> summary([row, row | {"id": "b"}], np.array([1.1, np.nan]), np.ones(2))["rows"]
    1
    """
    known = np.isfinite(predicted)
    kept = [row for row, ok in zip(rows, known, strict=True) if ok]
    told = score.errors(predicted[known], measured[known], score.weights(kept))
    means = score.macro(kept, predicted[known], measured[known])
    miss = np.abs(np.log(predicted[known] / measured[known]))
    told |= {"macro_mape": means["mape"], "sigma": score.quantile(miss, score.weights(kept), 0.9) / Z90}
    return {key: told[key] for key in ("rows", "mape", "median_ape", "bias", "macro_mape", "sigma")}


def holds(rows: Sequence[Mapping[str, str]], miss: np.ndarray, whose: Sequence[str]) -> float:
    """The share of rows inside the 90% interval that the others left out give: one vote an owner, none its own judge.

    Of each owner, |log(predicted / measured)| is held against the 90% quantile of all other owners' rows.

    >>> rows = [{"id": str(i)} for i in range(4)]
    >>> holds(rows, np.array([0.1, 0.1, 0.1, 0.3]), ["a", "a", "b", "b"])
    0.75
    """
    weight, owner = score.weights(rows), np.asarray(whose)
    told = []
    for one in dict.fromkeys(owner.tolist()):
        own = owner == one
        told.append(np.average(miss[own] <= score.quantile(miss[~own], weight[~own], 0.9), weights=weight[own]))
    return float(np.mean(told))
