"""What a faster part of the machine would be worth: derivatives of an objective toward every hardware number.

And the way round: the rate of each part beyond which more of it is worth next to nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from coopt.cost import estimate
from coopt.search.slopes import gradient
from coopt.search.space import get, put
from coopt.search.terms import Tape
from coopt.spec.nouns import TYPES, Cost, Hardware, Leaf, Ops

# Objectives of a fixed set of operations: only the hardware changes, so a step stands for a token.
OBJECTIVES = ("step_time", "joules", "dollars", "memory", "mfu", "tokens_per_second_per_chip")
WIDTH = 1e4  # factors up to which `enough` looks for a rate, either way
POINTS = 65  # of a grid that it refines,
ROUNDS = 4  # so often


def elasticities(ops: Ops, hardware: Hardware, *, objective: str = "step_time") -> Hardware:
    """Elasticities: d log(objective) / d log(x) for every leaf x of `hardware`, as a `Hardware`.

    -0.4 at `bandwidth`: one percent more memory bandwidth takes 0.4 percent off. For `step_time` the elasticities of
    all rates less those of all times and latencies add to -1 (Euler's identity). Leaves that are 0 or not known, and
    such as the objective does not depend on, have 0. Exact by reverse differentiation of the recorded expression, at
    this point only: where tiles or waves round up it is the slope of one tooth, so read it beside `changes`.
    """
    tape = Tape()
    leaves, structure = jax.tree.flatten(hardware)
    cost = estimate(ops, jax.tree.unflatten(structure, [tape.term(np.float64(leaf)) for leaf in leaves]))
    value, slopes = gradient(tape, _value(cost, objective))
    shares = [
        float(leaf) * slope / value if math.isfinite(leaf) and math.isfinite(slope) else 0.0
        for leaf, slope in zip(leaves, slopes, strict=True)
    ]
    return jax.tree.unflatten(structure, shares)


def changes(ops: Ops, hardware: Hardware, *, objective: str = "step_time", by: float = 0.1) -> Hardware:
    """The relative change of the objective when each leaf of `hardware` alone grows by `by`; no derivative involved."""
    leaves, structure = jax.tree.flatten(hardware)
    known = [math.isfinite(leaf) and leaf != 0.0 for leaf in leaves]
    factors = np.where(np.eye(len(leaves) + 1, len(leaves)) > 0, 1.0 + by, 1.0)
    values = _at(ops, hardware, factors, objective)
    return jax.tree.unflatten(
        structure, [float(value / values[-1] - 1.0) if ok else 0.0 for value, ok in zip(values, known, strict=False)]
    )


def enough(ops: Ops, hardware: Hardware, paths: Sequence[str], *, within: float = 0.05) -> list[tuple[float, float]]:
    """Of each rate at a dotted path: the factor on it that is enough, and what an unlimited one would gain.

    A factor f solves T(f x) = (1 + within) T(unlimited x), all else as it is; the gain is 1 - T(unlimited) / T(x).
    2.0 at a tier's bandwidth: from twice its rate on, what crosses it hides; 0.5: half of it would do. Within 1e-6;
    0 where the step does not depend on the rate. `paths` must be rates: a step is no longer when one grows.
    """
    rows = np.arange(len(paths))

    def times(factors: np.ndarray) -> np.ndarray:
        """Step times for factors `(rates, n)`, each on one rate alone."""
        moved = {}
        for row, path in enumerate(paths):
            several = np.ones(factors.shape)
            several[row] = factors[row]
            moved[path] = get(hardware, path) * several.reshape(-1)
        with np.errstate(all="ignore"):
            return np.broadcast_to(estimate(ops, put(hardware, moved)).step_time, factors.size).reshape(factors.shape)

    low, high = (np.full(len(paths), end) for end in (-math.log(WIDTH), math.log(WIDTH)))
    now, best = times(np.exp(np.stack((0.0 * high, 2.0 * high), axis=1))).T
    for _ in range(ROUNDS):
        grid = low[:, None] + (high - low)[:, None] * np.linspace(0.0, 1.0, POINTS)
        slow = times(np.exp(grid)) > ((1.0 + within) * best)[:, None]
        last = np.minimum(slow.sum(axis=1), POINTS - 1)  # of the grid, the first that is quick enough
        low, high = grid[rows, np.maximum(last - 1, 0)], grid[rows, last]
    factors = np.where(slow.any(axis=1), np.exp(high), 0.0)
    return list(zip(factors.tolist(), (1.0 - best / now).tolist(), strict=True))


def called(path: Sequence[Any], hardware: Hardware) -> str:
    """What people call the number at a path of jax's: `bandwidth`, `peak bf16`, `nvlink latency`."""
    head, _, rest = jax.tree_util.keystr(tuple(path)).lstrip(".").partition("[")
    position, _, field = rest.partition("]")
    if not rest:
        return head
    return f"{hardware.tiers[int(position)].name} {field[1:]}" if head == "tiers" else f"{head} {TYPES[int(position)]}"


def _at(ops: Ops, hardware: Hardware, factors: np.ndarray, objective: str) -> np.ndarray:
    """The objective with every leaf times its factor, `(n, leaves)`, in one call."""
    leaves, structure = jax.tree.flatten(hardware)
    moved = [
        leaf * factors[:, i] if math.isfinite(leaf) and leaf != 0.0 else float(leaf) for i, leaf in enumerate(leaves)
    ]
    with np.errstate(all="ignore"):
        return np.broadcast_to(_value(estimate(ops, jax.tree.unflatten(structure, moved)), objective), len(factors))


def _value(cost: Cost, objective: str) -> Leaf:
    return getattr(cost, objective)
