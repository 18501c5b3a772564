"""How far predictions are from measurements: levels, bias, cells, rankings, ratios. Fractions, never percent."""

from __future__ import annotations

import collections
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from coopt.fit.rows import number

RANKING_KEYS = ("chip", "n_chips", "model", "layers", "seq_len", "global_batch", "precision", "stack")
CAMPAIGN = "vTrain"  # the source of the ranking test: many layouts and batches of a model on few chips
CELL_ROWS = 5  # rows that make a cell (source x chip x dense or MoE)
SLICES: dict[str, Callable[[Mapping[str, str]], bool]] = {
    "MoE": lambda row: number(row, "experts", 0.0) > 0,
    "EP > 8": lambda row: number(row, "ep", 1.0) > 8,
    "fp8 and mxfp8": lambda row: row.get("precision") in ("fp8", "mxfp8"),
    "CP > 1": lambda row: number(row, "cp", 1.0) > 1,
    "seq >= 32k": lambda row: number(row, "seq_len", 0.0) >= 32768,
    ">= 1,024 chips": lambda row: number(row, "n_chips") >= 1024,
    "PP across nodes": lambda row: (
        number(row, "pp", 1.0) > 1
        and number(row, "tp", 1.0) * number(row, "pp", 1.0) > number(row, "chips_per_node", 8.0)
    ),
    "TPU": lambda row: row.get("chip", "").startswith("tpu"),
}


def weights(rows: Sequence[Mapping[str, str]]) -> np.ndarray:
    """1 / size within a `dup_group`, so that a configuration measured eight times has one vote."""
    groups = collections.Counter(_group(row) for row in rows)
    return np.array([1.0 / groups[_group(row)] for row in rows])


def _group(row: Mapping[str, str]) -> str:
    return row.get("dup_group") or row.get("id") or str(id(row))


def publication(row: Mapping[str, str]) -> str:
    """What a source is a table or a release of: its name up to the first comma or colon.

    >>> publication({"source": "NVIDIA NeMo performance benchmarks, container 24.07, pretraining"})
    'NVIDIA NeMo performance benchmarks'
    """
    return re.split("[,:]", row.get("source", ""))[0].strip()


def errors(predicted: np.ndarray, measured: np.ndarray, weight: np.ndarray) -> dict[str, Any]:
    """rows, mape, median_ape, p90_ape, max_ape and bias of predicted / measured - 1, weighted.

    >>> told = errors(np.array([1.1, 1.8]), np.array([1.0, 2.0]), np.ones(2))
    >>> told["rows"], round(told["mape"], 3), round(told["bias"], 3)
    (2, 0.1, 0.0)
    """
    if len(predicted) == 0:
        return {"rows": 0, "mape": None, "median_ape": None, "p90_ape": None, "max_ape": None, "bias": None}
    error = predicted / measured - 1.0
    ape = np.abs(error)
    return {
        "rows": len(error),
        "mape": float(np.average(ape, weights=weight)),
        "median_ape": quantile(ape, weight, 0.5),
        "p90_ape": quantile(ape, weight, 0.9),
        "max_ape": float(ape.max()),
        "bias": float(np.average(error, weights=weight)),
    }


def quantile(values: np.ndarray, weight: np.ndarray, share: float) -> float:
    """The weighted quantile: the smallest value with that share of the weight at or below it."""
    order = np.argsort(values)
    reached = np.cumsum(weight[order]) / weight.sum()
    return float(values[order][min(int(np.searchsorted(reached, share - 1e-12)), len(values) - 1)])


def by(
    key: Callable[[Mapping[str, str]], Any],
    rows: Sequence[Mapping[str, str]],
    predicted: np.ndarray,
    measured: np.ndarray,
) -> dict[str, dict[str, Any]]:
    """The errors of each group of rows, in order of first appearance."""
    weight = weights(rows)
    groups: dict[str, list[int]] = {}
    for position, row in enumerate(rows):
        groups.setdefault(str(key(row)), []).append(position)
    return {name: errors(predicted[at], measured[at], weight[at]) for name, at in groups.items()}


def cell(row: Mapping[str, str]) -> str:
    """Source, chip, and dense or MoE: one vote each in the macro average."""
    mixture = "MoE" if number(row, "experts", 0.0) > 0 else "dense"
    return f"{row.get('source', '')} | {row.get('chip', '')} | {mixture}"


def macro(rows: Sequence[Mapping[str, str]], predicted: np.ndarray, measured: np.ndarray) -> dict[str, Any]:
    """Mean over cells of five rows or more: MAPE, bias, and the worst cell by name."""
    cells = {name: told for name, told in by(cell, rows, predicted, measured).items() if told["rows"] >= CELL_ROWS}
    if not cells:
        return {"cells": 0, "mape": None, "bias": None, "worst": None, "worst_mape": None}
    worst = max(cells, key=lambda name: cells[name]["mape"])
    return {
        "cells": len(cells),
        "mape": float(np.mean([told["mape"] for told in cells.values()])),
        "bias": float(np.mean([told["bias"] for told in cells.values()])),
        "worst": worst,
        "worst_mape": cells[worst]["mape"],
    }


def ranking(rows: Sequence[Mapping[str, str]], predicted: np.ndarray, measured: np.ndarray) -> dict[str, Any]:
    """Does the predicted best layout win? Groups share all but the layout; regret = measured(chosen) / best - 1."""
    groups: dict[tuple, list[int]] = {}
    for position, row in enumerate(rows):
        groups.setdefault(tuple(row.get(key, "") for key in RANKING_KEYS), []).append(position)
    regrets = []
    for at in groups.values():
        if len(at) >= 3:
            chosen = measured[at][int(np.argmin(predicted[at]))]
            regrets.append(chosen / measured[at].min() - 1.0)
    if not regrets:
        return {"groups": 0, "top1_hit": None, "mean_regret": None, "max_regret": None}
    return {
        "groups": len(regrets),
        "top1_hit": float(np.mean([regret <= 1e-12 for regret in regrets])),
        "mean_regret": float(np.mean(regrets)),
        "max_regret": float(np.max(regrets)),
    }


class Kind(NamedTuple):
    """Rows that agree in some columns and differ in one, from so many values of it up."""

    same: tuple[str, ...]
    differs: str
    least: int = 2
    campaign: bool = True  # with the rows of the ranking test, which vary everything at once


_SERIES = ("chip", "model", "seq_len", "precision", "stack", "recompute_kind")
KINDS = {
    "chips": Kind(("model", "seq_len", "stack"), "chip"),
    "precisions": Kind(
        ("chip", "n_chips", "model", "seq_len", "global_batch", "stack", "tp", "pp", "cp", "ep"), "precision"
    ),
    # The 34 series of three sizes and more that differ in size alone: one publisher's table, one layout.
    "sizes": Kind((*_SERIES, "source", "tp", "pp", "cp", "ep", "micro_batch", "zero"), "n_chips", 3, False),
    "sizes, mixed": Kind(_SERIES, "n_chips"),
}


def ratios(rows: Sequence[Mapping[str, str]], predicted: np.ndarray, measured: np.ndarray) -> dict[str, Any]:
    """Ratios between measured pairs that differ in chip, precision or size alone; buyers use ratios.

    The error of a pair is |predicted ratio / measured ratio - 1| of tokens/s a chip; `order_right` counts pairs whose
    measured ratio differs from 1 by more than 5%, and `gaps` says how many those are.
    """
    rate = np.array([number(r, "global_batch") * number(r, "seq_len") / number(r, "n_chips") for r in rows])
    told = {}
    for name, kind in KINDS.items():
        groups: dict[tuple, dict[str, list[int]]] = {}
        for position, row in enumerate(rows):
            if row.get("model") and (kind.campaign or not row.get("source", "").startswith(CAMPAIGN)):
                group = groups.setdefault(tuple(row.get(key, "") for key in kind.same), {})
                group.setdefault(row.get(kind.differs, ""), []).append(position)
        wrong, right = [], []
        for group in groups.values():
            # the geometric mean stands for rows that differ in something else
            sides = [
                (np.exp(np.mean(np.log(rate[at] / predicted[at]))), np.exp(np.mean(np.log(rate[at] / measured[at]))))
                for at in group.values()
            ]
            for first, second in zip(sides, sides[1:], strict=False) if len(sides) >= kind.least else ():
                said, seen = second[0] / first[0], second[1] / first[1]
                wrong.append(abs(said / seen - 1.0))
                if abs(math.log(seen)) > math.log(1.05):
                    right.append((said > 1.0) == (seen > 1.0))
        told[name] = {
            "pairs": len(wrong),
            "median": float(np.median(wrong)) if wrong else None,
            "gaps": len(right),
            "order_right": float(np.mean(right)) if right else None,
        }
    return told


def floor(rows: Sequence[Mapping[str, str]], measured: np.ndarray) -> float | None:
    """The least MAPE that one number a configuration can have: what its own publisher's releases differ by.

    Of each `dup_group` the prediction is the measurement that is nearest to all of them; duplicates share a vote.

    >>> row = {"dup_group": "a"}
    >>> round(floor([row, row, {"id": "b"}], np.array([1.0, 2.0, 5.0])), 3)
    0.125
    """
    groups: dict[str, list[float]] = {}
    for row, seen in zip(rows, measured, strict=True):
        groups.setdefault(_group(row), []).append(float(seen))
    least = [min(np.mean(np.abs(one / np.array(group) - 1.0)) for one in group) for group in groups.values()]
    return float(np.mean(least)) if least else None
