"""Refinement: good candidates, and a front, of a space too large to enumerate, by evolution and by gradients.

Candidates are rows of digits priced flat, thousands at a time, through the recorded expression: nothing to compile, so
the first are known at once. Evolution crosses and mutates; gradients pull fields that are numbers toward where the
objective falls, by reading the expression backwards, and are snapped to choices; at the end every axis is walked from
end to end at the best candidates until nothing improves. Nothing is proved here: `bound.py` does that.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from coopt.search.pareto import front, graded
from coopt.search.price import Expression, price
from coopt.search.recorded import Recorded, Task, record, run, task_of
from coopt.search.shared import price as priced
from coopt.search.shared import share
from coopt.search.slopes import backwards
from coopt.search.space import Space, index, size
from coopt.search.sweep import FRONT, Ranked, Result
from coopt.spec.nouns import VERDICTS, Hardware, Law

POPULATION = 2048
GENERATIONS = 80
STARTS = 16  # candidates that gradients, and the walk along axes, begin at
STEPS = 40  # of a gradient descent
WALK = 4096  # choices of an axis that are looked at in a walk; of longer axes the nearest
NEAR = 256  # the same, beside the best candidate
ARCHIVE = 4096  # points of the front that are kept while it grows


def refine(
    space: Space,
    hardware: Hardware | None = None,
    *,
    law: Law | None = None,
    objectives: Sequence[str] = FRONT,
    limits: Mapping[str, float] | None = None,
    keep: int = 32,
    starts: Sequence[Sequence[int]] = (),
    seed: int = 0,
    generations: int = GENERATIONS,
    seconds: float = math.inf,
    gradients: bool = True,
    progress: Callable[[int, int], None] | None = None,
    expression: Expression = price,
) -> Result:
    """The best candidates that evolution and gradients find, and the front of all that were priced on the way.

    As `sweep`, for a space of any size: `evaluated` counts what was priced, `rejected` why some of that was not
    feasible. The same seed gives the same answer, unless `seconds` cut it short. Indices are Python integers.
    `starts` are digits of candidates to begin with, beside those at random: the answer is no worse than their best.
    """
    began = time.perf_counter()
    task = task_of(space, hardware, law=law, objectives=objectives, limits=limits, expression=expression)
    herd = Herd(task, seed)
    herd.meet(np.asarray(starts, dtype=np.int64).reshape(len(starts), len(space.axes)))
    whole = size(space) <= POPULATION  # everything has been priced
    for number in range(0 if whole else generations):
        herd.breed()
        if progress is not None:
            progress(number + 1, generations)
        if time.perf_counter() - began > seconds:
            break
    if gradients and not whole and time.perf_counter() - began < seconds:
        herd.meet(descend(task, herd.program, herd.digits[:STARTS]))
    herd.walk()
    return herd.result(keep, began)


class Herd:
    """Candidates of one search, the best first, and what is remembered of all that were priced."""

    def __init__(self, task: Task, seed: int):
        self.task, self.rng = task, np.random.default_rng(seed)
        self.program = record(task).merged()
        self.shared = share(self.program)
        self.sizes = np.array([len(one) for one in task.space.axes])
        self.census: Counter[str] = Counter()
        self.digits, self.values = np.empty((0, len(self.sizes)), dtype=np.int64), np.empty((0, len(task.names)))
        self.worse = np.empty(0)
        self.points, self.achieved = self.digits, np.empty((0, task.objectives))
        self.priced = 0
        if size(task.space) <= POPULATION:
            every = np.stack(np.unravel_index(np.arange(size(task.space)), self.sizes), axis=1)
            self.meet(every)
        else:
            self.meet((self.rng.random((POPULATION, len(self.sizes))) * self.sizes).astype(np.int64))

    def breed(self) -> None:
        """One generation: parents of better rank, uniform crossover, steps along axes with heavy tails."""
        many, axes = POPULATION, len(self.sizes)
        one, other, third = (self.rng.integers(0, len(self.digits), many) for _ in range(3))
        mother, father = self.digits[np.minimum(one, other)], self.digits[third]  # they stand in order of rank
        children = np.where(self.rng.random((many, axes)) < 0.3, father, mother)
        near = children + np.rint(self.rng.standard_cauchy((many, axes)) * np.maximum(0.02 * self.sizes, 1.0)).clip(
            -1e9, 1e9
        ).astype(np.int64)
        far = (self.rng.random((many, axes)) * self.sizes).astype(np.int64)
        moved = np.where(self.rng.random((many, axes)) < 0.5, near.clip(0, self.sizes - 1), far)
        self.meet(np.where(self.rng.random((many, axes)) < 1.5 / axes, moved, children))

    def meet(self, digits: np.ndarray) -> None:
        """Prices newcomers; the best of them and of those before stay."""
        if not len(digits):
            return
        values, worse = self._priced(digits)
        digits, values = np.concatenate((self.digits, digits)), np.concatenate((self.values, values))
        worse = np.concatenate((self.worse, worse))
        _, first = np.unique(digits, axis=0, return_index=True)
        first.sort()
        key = np.where(worse[first] > 0, np.inf, values[first, 0])
        order = first[np.lexsort((first, key, worse[first]))][:POPULATION]
        self.digits, self.values, self.worse = digits[order], values[order], worse[order]

    def walk(self) -> None:
        """Every choice of every axis at the best candidates, again and again until nothing improves.

        Where nothing does, the same at what lies one step on one axis beside the best: two axes that only help
        together are found so.
        """
        while True:
            before = self.digits[0].copy()
            self._along(self.digits[:STARTS], WALK)
            if (self.digits[0] == before).all():
                step = np.eye(len(before), dtype=np.int64)
                beside = before + np.concatenate((step, -step))
                self._along(beside[((beside >= 0) & (beside < self.sizes)).all(axis=1)], NEAR)
            if (self.digits[0] == before).all():
                return

    def _along(self, places: np.ndarray, most: int) -> None:
        """Prices every choice of every axis at some candidates; of an axis longer than `most`, the nearest."""
        lines = []
        for place in places:
            for axis, length in enumerate(self.sizes):
                low = int(np.clip(place[axis] - most // 2, 0, max(length - most, 0)))
                line = np.repeat(place[None], min(length, most), axis=0)
                line[:, axis] = np.arange(low, low + len(line))
                lines.append(line)
        many = sum(map(len, lines))
        for line in np.array_split(np.concatenate(lines), -(-many // (4 * POPULATION))) if many else ():
            self.meet(line)

    def result(self, keep: int, began: float) -> Result:
        """What was found, as a sweep has it."""
        task, fits = self.task, self.worse == 0
        best, space = self.digits[fits][:keep], task.space
        live = [bool(np.isfinite(column).any()) for column in self.achieved.T]
        unknown = tuple(name for number, name in enumerate(task.names[: task.objectives]) if not live[number])
        return Result(
            objectives=task.names[: task.objectives], evaluated=self.priced,
            feasible=self.priced - sum(self.census.values()), rejected=dict(self.census.most_common()), unknown=unknown,
            top=Ranked(indices=_indices(space, best), values=self.values[fits][:keep, : task.objectives]),
            pareto=Ranked(indices=_indices(space, self.points), values=self.achieved),
            seconds=time.perf_counter() - began,
        )  # fmt: skip

    def _priced(self, digits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Values `(n, names)` and by how much each candidate is out of bounds, 0 where it is feasible."""
        task = self.task
        verdict, *found = priced(self.shared, task.space, digits)
        values = np.stack(found, axis=1).astype(np.float64)
        worse = np.where(verdict > 0.5, 1.0 + len(task.limits), 0.0)
        codes, counts = np.unique(verdict[np.asarray(verdict > 0.5)], return_counts=True)
        self.census.update({VERDICTS[int(code)]: int(count) for code, count in zip(codes, counts, strict=True)})
        for position, most in task.limits:
            over, fits = values[:, position], worse == 0
            with np.errstate(all="ignore"):
                excess = np.where(np.isnan(over), 1.0, np.clip((over - most) / abs(most), 0.0, 1.0))
            for why, where in (("unknown", np.isnan(over)), ("above limit", excess > 0)):
                self.census[f"{task.names[position]} {why}"] += int(
                    (where & fits & ~(np.isnan(over) & (why[0] == "a"))).sum()
                )
            worse = worse + excess
        lost = (worse == 0) & ~np.isfinite(values[:, 0])
        self.census[f"{task.names[0]} unknown"] += int(lost.sum())
        worse = np.where(lost, np.inf, worse)
        self.census += Counter()  # drops reasons that were never met
        self.priced += len(digits)
        self._achieve(digits[worse == 0], values[worse == 0, : task.objectives])
        return values, worse

    def _achieve(self, digits: np.ndarray, values: np.ndarray) -> None:
        """The front of all feasible candidates so far; an objective that is never known is left out."""
        values = np.where(np.isfinite(values), values, np.inf)
        digits, values = np.concatenate((self.points, digits)), np.concatenate((self.achieved, values))
        live = np.isfinite(values).any(axis=0)
        kept = front(graded(values[:, live])) if len(values) else np.empty(0, dtype=np.int64)
        if len(kept) > ARCHIVE:
            kept = kept[np.argsort(values[kept, 0], kind="stable")[np.linspace(0, len(kept) - 1, ARCHIVE).astype(int)]]
        self.points, self.achieved = digits[kept], values[kept]


def descend(task: Task, program: Recorded, digits: np.ndarray) -> np.ndarray:
    """Candidates that gradients lead to from some others: digits on both sides of where each field wants to be.

    Fields of axes with one field and three choices or more move as logarithms (zero and below: as they are) within
    their ends, by normalised steps that shrink; a limit that is passed pulls back. Verdicts have no slope and are left
    to the pricing of what comes out.
    """
    axes = task.space.axes
    moving = [one for one in program.inputs if axes[one[0]].values.shape[1] == 1 and len(axes[one[0]]) > 2]
    if not moving:
        return digits[:0]
    columns = {one: axes[one[0]].values[:, 0] for one in moving}
    ends = np.array([(column.min(), column.max()) for column in columns.values()])
    fixed = {one: axes[one[0]].values[digits[:, one[0]], one[1]] for one in program.inputs if one not in columns}
    at = np.stack([columns[one][digits[:, one[0]]] for one in moving], axis=1)
    scale = ends[:, 1] - ends[:, 0]
    for step in range(STEPS):
        leaves = {**fixed, **{one: at[:, number] for number, one in enumerate(moving)}}
        pull = np.nan_to_num(_slopes(task, program, leaves, moving), posinf=0.0, neginf=0.0) * scale
        length = np.linalg.norm(pull, axis=1, keepdims=True)
        at = np.clip(at - 0.2 * 0.9**step * scale * pull / np.maximum(length, 1e-30), ends[:, 0], ends[:, 1])
    found = []
    for side in (-1, 0, 1):
        snapped = digits.copy()
        for number, one in enumerate(moving):
            order = np.argsort(columns[one], kind="stable")
            place = np.abs(columns[one][order] - at[:, number, None]).argmin(axis=1) + side
            snapped[:, one[0]] = order[np.clip(place, 0, len(order) - 1)]
        found.append(snapped)
    return np.concatenate(found)


def _slopes(task: Task, program: Recorded, leaves: Mapping, moving: Sequence[tuple[int, int]]) -> np.ndarray:
    """Slopes `(n, moving)` of the objective's logarithm, and of a hundred times what passes a limit."""
    values = run(program, [leaves[one] for one in program.inputs], keep=True)
    results = program.results[1:]
    weights = {results[0]: 1.0 / np.maximum(values[results[0]], 1e-300)}
    for position, most in task.limits:
        over = np.where(values[results[position]] > most, 100.0 / most, 0.0)
        weights[results[position]] = weights.get(results[position], 0.0) + over
    nodes = [(program.first + number, *node) for number, node in enumerate(program.nodes)]
    weights = backwards(nodes, values.__getitem__, weights)
    at = {one: place for place, one in enumerate(program.inputs)}
    many = len(leaves[moving[0]])
    return np.stack([np.broadcast_to(weights.get(at[one], 0.0), many) for one in moving], axis=1)


def _indices(space: Space, digits: np.ndarray) -> np.ndarray:
    """Indices of candidates, Python integers of any length."""
    found = np.empty(len(digits), dtype=object)
    found[:] = [index(space, one) for one in digits]
    return found
