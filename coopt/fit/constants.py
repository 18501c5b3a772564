"""`coopt fit`: constants of chip families and software stacks from measured steps, with intervals.

Robust least squares on log residuals, every cell (source x chip x dense or MoE) with about one vote, and a prior
around the constants that kernel measurements gave: a step time moves them only as far as it must.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from scipy.optimize import least_squares

from coopt.cost import estimate
from coopt.fit import rows as tables
from coopt.fit import score
from coopt.ops import count
from coopt.spec.constants import FAMILY, STACK, applied

# Spread of the prior in log units: how far a step time may move what kernels said.
SPREAD = {
    "matmul_16": 0.10,
    "matmul_8": 0.10,
    "matmul_4": 0.12,
    "depth": 0.15,
    "attention_depth": 0.15,
    "stream": 0.05,
    "kernel": 0.10,
    "scale_up": 0.08,
    "scale_out": 0.25,
    "dispatch": 1.0,
    "hide": 0.5,
    "passes": 0.5,
}
SPREAD_ATTENTION = {"family": 0.08, "stack": 0.4}
# What a constant can be: shares at most one, and nothing below a physical floor.
BOUNDS = {
    "matmul_16": (0.05, 1.0),
    "matmul_8": (0.05, 1.0),
    "matmul_4": (0.05, 1.0),
    "depth": (1e-3, 5e3),
    "attention": (0.05, 1.5),
    "attention_depth": (1.0, 5e3),
    "stream": (0.05, 1.0),
    "kernel": (1e-8, 2e-5),
    "scale_up": (0.05, 1.0),
    "scale_out": (0.3, 1.0),
    "dispatch": (5e-8, 1e-3),
    "hide": (1e-3, 0.98),
    "passes": (0.8, 6.0),
}
NOISE = 0.08  # log units: what a row is expected to miss by; sets data against prior
PULL = 0.7  # weight of the prior's residuals
STEP = 1e-4  # log units of a constant, for slopes
Name = tuple[str, str, str]  # kind (family | stack), whose, which


@dataclasses.dataclass(frozen=True, eq=False)
class Problem:
    """Rows ready to be priced under any constants: one compiled function from constants to step times."""

    names: tuple[Name, ...]
    start: np.ndarray  # the prior's centre
    uses: np.ndarray  # (rows, constants of a row): which of `names` price it
    measured: np.ndarray
    weight: np.ndarray
    step_time: Callable[[np.ndarray], np.ndarray]


def problem(designs: Sequence[tables.Design], start: Mapping[Name, float]) -> Problem:
    """The fitting problem of some designs; `start` holds the prior's centre for each constant."""
    names = tuple(start)
    index = {name: position for position, name in enumerate(names)}
    groups = [(np.array(at), stacked, count(*stacked[:3])) for at, stacked in tables.batches(designs)]
    uses = np.array(
        [
            [index["family", one.hardware.family, which] for which in FAMILY]
            + [index["stack", one.hardware.stack, which] for which in STACK]
            for one in designs
        ]
    )

    @jax.jit
    def step_time(values):
        told = jnp.zeros(len(designs))
        for at, stacked, ops in groups:
            own = dict(enumerate(values[uses[at]].T))
            family = {which: own[position] for position, which in enumerate(FAMILY)}
            stack = {which: own[len(FAMILY) + position] for position, which in enumerate(STACK)}
            told = told.at[at].set(estimate(ops, applied(stacked[3], family, stack)).step_time)
        return told

    return Problem(
        names=names,
        start=np.array([start[name] for name in names]),
        uses=uses,
        measured=np.array([tables.measured_step_time(one.row) for one in designs]),
        weight=_votes([one.row for one in designs]),
        step_time=lambda values: np.asarray(step_time(jnp.asarray(values))),
    )


def _votes(rows: Sequence[Mapping[str, str]]) -> np.ndarray:
    """Weights of the residuals: cells count alike from five rows up, duplicates share one vote."""
    cells: dict[str, int] = {}
    for row in rows:
        cells[score.cell(row)] = cells.get(score.cell(row), 0) + 1
    size = np.array([max(cells[score.cell(row)], score.CELL_ROWS) for row in rows])
    return 3.0 * np.sqrt(score.weights(rows) / size)


def spread(name: Name) -> float:
    """The prior's standard deviation of one constant, in log units."""
    kind, _, which = name
    return SPREAD_ATTENTION[kind] if which == "attention" else SPREAD[which]


def slopes(task: Problem, values: np.ndarray) -> np.ndarray:
    """Slopes of log(step time) in the logarithm of each constant, `(rows, names)`.

    A row is priced by few of the constants, so that one evaluation tells the slopes of many rows at once.
    """
    base = np.log(task.step_time(values))
    told = np.zeros((len(base), len(task.names)))
    every = np.arange(len(base))
    for at in task.uses.T:
        moved = values.copy()
        moved[np.unique(at)] *= np.exp(STEP)
        told[every, at] = (np.log(task.step_time(moved)) - base) / STEP
    return told


def solve(
    task: Problem,
    *,
    rows: np.ndarray | None = None,
    free: np.ndarray | None = None,
    near: np.ndarray | None = None,
    iterations: int = 60,
) -> tuple[np.ndarray, np.ndarray]:
    """Constants and their standard errors in log units, from all rows or those selected.

    Raises nothing: constants that no row moves stay at their prior, with its spread as their error. `free` are those
    that may move at all; without it, all. `near` is where to begin instead of at the prior.
    """
    chosen = np.ones(len(task.measured), bool) if rows is None else rows
    scale = np.array([spread(name) for name in task.names]) * (1.0 if free is None else free)
    low, high = (np.array([BOUNDS[name[2]][side] for name in task.names]) for side in (0, 1))
    weight = (task.weight / NOISE)[chosen]

    def constants(z):
        return np.clip(task.start * np.exp(z * scale), low, high)

    def residuals(z):
        miss = np.log(task.step_time(constants(z)) / task.measured)
        return np.concatenate([weight * miss[chosen], PULL * z])

    def jacobian(z):
        loose = task.start * np.exp(z * scale)
        told = slopes(task, constants(z))[chosen] * (scale * (loose > low) * (loose < high))
        return np.concatenate([weight[:, None] * told, PULL * np.eye(len(z))])

    begin = np.zeros(len(scale)) if near is None else np.log(near / task.start) / scale
    found = least_squares(
        residuals,
        begin,
        jacobian,  # pyright: ignore[reportArgumentType]
        loss="soft_l1",
        ftol=1e-6,
        xtol=1e-6,
        max_nfev=iterations,
    )
    error = scale * np.sqrt(np.clip(np.diag(np.linalg.pinv(found.jac.T @ found.jac)), 0.0, 1.0 / PULL**2))
    return constants(found.x), error


def fold(row: Mapping[str, str], folds: int = 5) -> int:
    """The fold of a row: sha1 of source and model, so that near copies are held out together."""
    key = f"{row.get('source', '')}{row.get('model', '')}"
    return int(hashlib.sha1(key.encode()).hexdigest(), 16) % folds


def held_out(task: Problem, groups: Sequence[object]) -> np.ndarray:
    """Step times of each row under constants fitted without its group."""
    keys = np.asarray(groups)
    told = np.empty(len(keys))
    near, _ = solve(task)
    for group in dict.fromkeys(keys.tolist()):
        out = keys == group
        values, _ = solve(task, rows=~out, near=near)
        told[out] = task.step_time(values)[out]
    return told
