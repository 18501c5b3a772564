"""How far off a chip is that was never measured: its rows, priced by constants fitted without any of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from coopt.cost.quality import Z90
from coopt.fit import constants, score
from coopt.fit.constants import Name, Problem
from coopt.fit.rows import Design


def left_out(
    task: Problem, designs: Sequence[Design], kind: str, *, unknown: Mapping[Name, float] | None = None
) -> np.ndarray:
    """Step times (s) of each row under constants fitted without its whole `chip` or `family`.

    Rows whose stack ran on nothing else are NaN: there, two things would be unknown at once. `unknown` are the
    constants that a family left out starts from, where what is known of its kernels is to count for nothing.
    """
    whose = np.array([getattr(one.hardware, kind) for one in designs])
    stack = np.array([one.hardware.stack for one in designs])
    told = np.full(len(designs), np.nan)
    for one in dict.fromkeys(whose.tolist()):
        known = whose != one
        out = ~known & np.isin(stack, stack[known])
        if out.any():
            start = [
                (unknown or {}).get(name, value) if name[:2] == ("family", one) else value
                for name, value in zip(task.names, task.start, strict=True)
            ]
            without = dataclasses.replace(task, start=np.array(start))
            values, _ = constants.solve(without, rows=known)
            told[out] = task.step_time(values)[out]
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
