"""Exact answers from lower bounds: which blocks of candidates can still matter, and their candidates in float64.

A sweep hands over, for every block, the smallest value of each objective. A block is priced candidate by candidate
only while those lower bounds leave room for a winner; so the answer is that of brute force, for a small part of the
work. All pricing here is the plain expression in NumPy float64: nothing to compile, and the numbers that are reported.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np

from coopt.search.pareto import STRONG, dominated, front, graded, strong_first
from coopt.search.recorded import Recorded, columns, evaluated
from coopt.search.space import Space, all_digits, block_leaves, flat_leaves

ROUNDING = 1e-12  # relative: how far a compiled float64 objective may lie from NumPy's
CLEARLY = 2.0**-28  # relative: farther apart than this, grading does not make two objectives equal
BATCH = 4096  # blocks priced at once, at most;
FEW = 128  # at first: a few good points close most of the others


@dataclasses.dataclass(frozen=True, eq=False)
class Task:
    """What the exact stage needs to price: a space, the expression over it, and how it falls into blocks."""

    space: Space
    recorded: Recorded
    block: int  # candidates in a block
    lead: int  # axes outside a block

    @property
    def objectives(self) -> int:
        """How many of the results rank: all but the verdict."""
        return len(self.recorded.results) - 1


def evaluate(task: Task, leaves: Mapping[str, np.ndarray], shape: tuple[int, ...]) -> np.ndarray:
    """Objectives of candidates, `(n, objectives)` in order of `shape`; infinite where infeasible or unknown."""
    inputs = columns(task.space, task.recorded, leaves)
    return evaluated(task.recorded, inputs, shape, objectives=task.objectives).reshape(task.objectives, -1).T


def evaluate_flat(task: Task, indices: np.ndarray) -> np.ndarray:
    """Objectives of candidates named by index, `(n, objectives)`."""
    return evaluate(task, flat_leaves(task.space, all_digits(task.space, indices)), (len(indices),))


def open_blocks(task: Task, starts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Indices and objectives of every candidate in the blocks that begin at `starts`."""
    if not len(starts):
        return np.empty(0, dtype=np.int64), np.empty((0, task.objectives))
    digits = all_digits(task.space, starts)[:, : task.lead]
    inner = tuple(len(one) for one in task.space.axes[task.lead :])
    values = [
        evaluate(task, block_leaves(task.space, some), (len(some), *inner))
        for some in (digits[low : low + BATCH] for low in range(0, len(digits), BATCH))
    ]
    indices = starts[:, None] + np.arange(task.block)
    return indices.reshape(-1), np.concatenate(values)


@dataclasses.dataclass(frozen=True)
class Leaders:
    """Blocks that may hold one of the `count` best of the first objective, by lower bound."""

    count: int
    starts: np.ndarray  # (b,) index of a block's first candidate
    minima: np.ndarray  # (b,)


def leaders(count: int) -> Leaders:
    """No block yet."""
    return Leaders(count=count, starts=np.empty(0, dtype=np.int64), minima=np.empty(0))


def lead(state: Leaders, starts: np.ndarray, minima: np.ndarray) -> Leaders:
    """The leaders after some more blocks.

    Of all blocks the `count` with the smallest (value, start) hold at least that many candidates, none beyond the last
    one's key; a block whose lower bound lies beyond that key cannot change the answer. Both sides allow for rounding.
    """
    starts, minima = np.concatenate((state.starts, starts)), np.concatenate((state.minima, minima))
    known = np.isfinite(minima)
    starts, minima = starts[known], minima[known]
    if not state.count or len(starts) <= state.count:
        return dataclasses.replace(state, starts=starts[: state.count], minima=minima[: state.count])
    low, high = _around(minima)
    cut = np.partition(high, state.count - 1)[state.count - 1]
    missing = state.count - np.count_nonzero(high < cut)
    last = np.sort(starts[high == cut])[missing - 1]
    kept = (low < cut) | ((low == cut) & (starts <= last))
    return dataclasses.replace(state, starts=starts[kept], minima=minima[kept])


def best(task: Task, state: Leaders) -> np.ndarray:
    """Indices of the `count` best candidates of the first objective, ties by index."""
    indices, values = open_blocks(task, state.starts)
    keys = graded(values[:, 0])
    order = np.lexsort((indices, keys))
    return indices[order[np.isfinite(keys[order])][: state.count]]


@dataclasses.dataclass(frozen=True)
class Frontier:
    """A front in the making: achieved points, and blocks whose lower bounds no achieved point beats yet.

    `live` says which objectives have been known for any feasible candidate so far; a candidate for which a live one
    is unknown is on no front, and an objective that is never known is left out.
    """

    live: np.ndarray  # (objectives,) bool
    indices: np.ndarray  # (p,) achieved points
    points: np.ndarray  # (p, objectives), graded
    starts: np.ndarray  # (b,) open blocks
    ideals: np.ndarray  # (b, objectives), graded downwards


def frontier(objectives: int) -> Frontier:
    """Nothing achieved, nothing open."""
    none, rows = np.empty(0, dtype=np.int64), np.empty((0, objectives))
    return Frontier(live=np.zeros(objectives, bool), indices=none, points=rows, starts=none, ideals=rows)


def sift(state: Frontier, starts: np.ndarray, minima: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of new blocks, those that the achieved points leave open, with their graded lower bounds.

    `minima` are `(objectives, blocks)`. What is clearly beaten goes first, before anything is graded.
    """
    finite = np.isfinite(minima)
    known = finite[state.live].all(axis=0) if state.live.any() else finite.any(axis=0)
    starts, minima = starts[known], np.compress(known, minima, axis=1)
    points = state.points[:, state.live]
    strong = points[strong_first(points)[:STRONG]]
    left = ~dominated(minima[state.live].T, strong + CLEARLY * np.abs(strong))
    ideals, _ = _around(minima[:, left].T)
    return _open(state, starts[left], ideals, strongest=STRONG)


def widen(state: Frontier, starts: np.ndarray, ideals: np.ndarray) -> Frontier:
    """The frontier with more open blocks; an objective seen for the first time voids what does not know it."""
    live = state.live | np.isfinite(ideals).any(axis=0)
    starts, ideals = np.concatenate((state.starts, starts)), np.concatenate((state.ideals, ideals))
    known = np.isfinite(ideals[:, live]).all(axis=1)
    achieved = np.isfinite(state.points[:, live]).all(axis=1)
    return Frontier(live=live, indices=state.indices[achieved], points=state.points[achieved], starts=starts[known],
                    ideals=ideals[known])  # fmt: skip


def close(task: Task, state: Frontier, *, down_to: int) -> Frontier:
    """Prices the most promising open blocks until at most `down_to` are open; with 0 the front is exact."""
    starts, ideals = _open(state, state.starts, state.ideals)
    batch = FEW
    while len(starts) > down_to:
        first = strong_first(ideals[:, state.live])[:batch]
        batch = min(2 * batch, BATCH)
        state = _achieve(state, *open_blocks(task, starts[first]))
        rest = np.ones(len(starts), dtype=bool)
        rest[first] = False
        starts, ideals = _open(state, starts[rest], ideals[rest])
    return dataclasses.replace(state, starts=starts, ideals=ideals)


def _achieve(state: Frontier, indices: np.ndarray, values: np.ndarray) -> Frontier:
    """The front of the points so far and some more candidates."""
    points = graded(values)
    best = state.points[strong_first(state.points[:, state.live])[:STRONG]]
    kept = ~dominated(points[:, state.live], best[:, state.live])
    indices = np.concatenate((state.indices, indices[kept]))
    points = np.concatenate((state.points, points[kept]))
    order = np.argsort(indices, kind="stable")  # of equals, the first
    indices, points = indices[order], points[order]
    kept = front(points[:, state.live])
    return dataclasses.replace(state, indices=indices[kept], points=points[kept])


def _around(minima: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    slack = ROUNDING * np.abs(np.where(np.isfinite(minima), minima, 0.0))
    return graded(minima - slack), graded(minima + slack)


def _open(
    state: Frontier, starts: np.ndarray, ideals: np.ndarray, *, strongest: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Blocks that no achieved point beats; one that equals a bound beats it only if it comes before the block."""
    points = state.points[:, state.live]
    chosen = strong_first(points)[:strongest]
    left = ~dominated(ideals[:, state.live], points[chosen])
    starts, ideals = starts[left], ideals[left]
    tied = _first_equal(ideals[:, state.live], points, state.indices)
    return starts[starts <= tied], ideals[starts <= tied]


def _first_equal(rows: np.ndarray, points: np.ndarray, indices: np.ndarray) -> np.ndarray:
    """For each row, the index of the point that equals it in all objectives; past every index where none does."""
    found = np.full(len(rows), np.iinfo(np.int64).max)
    if not len(points) or not len(rows):
        return found
    known = {point.tobytes(): index for point, index in zip(points, indices, strict=True)}
    near = np.isin(rows[:, 0], points[:, 0])
    for position in np.flatnonzero(near):
        found[position] = known.get(rows[position].tobytes(), found[position])
    return found
