"""Bound and prune: the best candidate of a space too large to price, with proof, or with the gap that is left.

A box is a range of choices on each axis. Interval arithmetic on the one expression gives what no candidate in it can
beat, or shows that none of them can run; the boxes with the most promising bounds are split first, each along the axis
that raises the bounds of its halves most, and what cannot beat the best candidate found is closed. The boxes that were
closed without being split are the proof (`certificate.py`).
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Sequence

import numpy as np

from coopt.search.intervals import Bounding, bounding, bounds
from coopt.search.ranges import Ranges
from coopt.search.recorded import Recorded, Task, record, run
from coopt.search.scaled import Powers, exponents, scaled
from coopt.search.shared import Shared, share
from coopt.search.shared import price as priced
from coopt.spec.nouns import VERDICTS

TOLERANCE = 1e-9  # relative: what is better by less is not looked for
ROUND = 1024  # boxes split at a time, at least;
PART = 4  # or this part of those that are open
LEAF = 8  # candidates of a box that are priced one by one
CHUNK = 2**14  # boxes bounded, or candidates priced, at a time
TRIES = 2  # choices of an axis, the first and the last, that are tried alone before a box is split
BETTER = 0.5  # what their mean counts beside the least of them
OPEN, SPLIT, CLOSED, PRICED = range(4)  # what became of a box


@dataclasses.dataclass(frozen=True, eq=False)
class Boxed:
    """A space made ready: its program in both forms, its rules, and the ranges of its axes."""

    task: Task
    program: Recorded  # results: verdict, objective, limits
    flat: Shared
    powers: tuple[Powers, ...]
    made: Bounding  # of both forms: one result more, the objective again
    ranges: tuple[Ranges, ...]


@dataclasses.dataclass(eq=False)
class Tree:
    """Boxes in the order in which they came to be; arrays grow, the first `many` rows are in use."""

    nodes: np.ndarray  # (boxes, axes): the range on each axis
    state: np.ndarray
    least: np.ndarray  # what no candidate in it is below; infinite where none can run
    reason: np.ndarray  # why none can: a code into `reasons`, 0 where there are several
    axis: np.ndarray  # of its split
    left: np.ndarray  # the box with the lower half; the other follows it
    many: int = 0


@dataclasses.dataclass(frozen=True, eq=False)
class Bounded:
    """What was found: the `digits` of the best candidate and its value, and what no candidate can be below."""

    boxed: Boxed
    tree: Tree
    digits: tuple[int, ...] | None  # None: nothing that runs was found
    value: float
    least: float
    bounded: int  # boxes looked at
    priced: int  # candidates priced
    seconds: float

    @property
    def gap(self) -> float:
        """The share of its value by which a candidate not seen could be better; 0: proved, to TOLERANCE."""
        if self.digits is None:
            return 0.0 if self.least == math.inf else math.inf
        gap = (self.value - self.least) / abs(self.value)
        return gap if gap > 1.01 * TOLERANCE else 0.0


def reasons(task: Task) -> tuple[str, ...]:
    """What `Tree.reason` counts: as verdicts do, and 0 where there are several."""
    return ("several", *task.reasons[1:])


def closed(found: Bounded) -> int:
    """How many candidates are proved not to run, or not to keep to the limits: a Python integer of any length."""
    return sum(removed(found).values())


def removed(found: Bounded) -> dict[str, int]:
    """How many candidates each reason is proved to rule out, most first; `several` where a box has more than one."""
    tree, ranges, why = found.tree, found.boxed.ranges, reasons(found.boxed.task)
    counts: dict[str, int] = {}
    for box in np.flatnonzero(tree.state[: tree.many] == CLOSED):
        many = math.prod(int(one.high[node] - one.low[node]) for one, node in zip(ranges, tree.nodes[box], strict=True))
        reason = why[int(tree.reason[box])]
        counts[reason] = counts.get(reason, 0) + many
    return dict(sorted(counts.items(), key=lambda pair: -pair[1]))


def boxed(task: Task, digits: Sequence[int]) -> Boxed:
    """A space made ready for bounds; `digits` is a good candidate, at which the second form is tightest."""
    space = task.space
    program = record(task).merged()
    columns = [one.values for one in space.axes]
    place = [columns[axis][digits[axis], field] for axis, field in program.inputs]
    positive = [bool((columns[axis][:, field] > 0).all()) for axis, field in program.inputs]
    powers = exponents(program, run(program, place, keep=True), positive)
    both, products = scaled(program, powers, [one.values.shape[1] for one in space.axes])
    for axis, product in products:
        column = math.prod(space.axes[axis].values[:, field] ** exponent for field, exponent in product)
        columns[axis] = np.column_stack([columns[axis], column])
    ranges = tuple(Ranges(column, columns=one.values.shape[1]) for column, one in zip(columns, space.axes, strict=True))
    root = {(axis, field): (ranges[axis].least[0, field], ranges[axis].most[0, field]) for axis, field in both.inputs}
    return Boxed(task=task, program=program, flat=share(program), powers=powers, made=bounding(both, root),
                 ranges=ranges)  # fmt: skip


def least(boxed: Boxed, nodes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What no candidate of each box is below, and why none of them can run where that is infinite."""
    found, why = np.empty(len(nodes)), np.zeros(len(nodes), dtype=np.int16)

    def ends(axis: int, field: int, ranges: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return boxed.ranges[axis].least[ranges, field], boxed.ranges[axis].most[ranges, field]

    for low in range(0, len(nodes), CHUNK):
        place = slice(low, low + CHUNK)
        (no, yes), objective, *limits, again = bounds(boxed.made, nodes[place], ends)
        why[place] = np.where(no == yes, no, 0.0)
        bound = np.where(np.asarray(no) > 0.5, np.inf, np.fmax(objective[0], again[0]))
        for number, (position, most) in enumerate(boxed.task.limits):
            value = (objective, *limits)[position][0]
            closed = ~(value <= most) & (bound < np.inf)  # NaN: not known for any candidate
            why[place] = np.where(closed, len(VERDICTS) + 2 * number + (value == value), why[place])
            bound = np.where(closed, np.inf, bound)
        found[place] = np.where(np.isnan(bound), np.inf, bound)
    return found, why


def price(boxed: Boxed, digits: np.ndarray) -> np.ndarray:
    """The objective of candidates by their digits `(n, axes)`; infinite where they cannot run."""
    found = np.empty(len(digits))
    for low in range(0, len(digits), CHUNK):
        verdict, *values = priced(boxed.flat, boxed.task.space, digits[low : low + CHUNK])
        fits = (verdict < 0.5) & np.isfinite(values[0])
        for position, most in boxed.task.limits:
            fits = fits & (values[position] <= most)
        found[low : low + CHUNK] = np.where(fits, values[0], np.inf)
    return found


def search(
    task: Task,
    start: np.ndarray,
    *,
    seconds: float = math.inf,
    boxes: int = 1_000_000,
    seed: int = 0,
    progress: Callable[[float, float], None] | None = None,
) -> Bounded:
    """The best candidate of a space, or the best found when `seconds` or `boxes` are spent, and the gap that is left.

    `start` `(n, axes)` are digits of candidates to begin with, the best first. The same seed, space and start give the
    same boxes, unless it is time that stops them.
    """
    began, rng = time.perf_counter(), np.random.default_rng(seed)
    made = boxed(task, start[0])
    front = _Front(made, np.asarray(start))
    while front.open(seconds - (time.perf_counter() - began), boxes):
        front.split(rng)
        if progress is not None:
            progress(front.value, front.least())
    return Bounded(
        boxed=made, tree=front.tree, digits=front.best or None, value=front.value, least=front.least(),
        bounded=front.bounded, priced=front.priced, seconds=time.perf_counter() - began,
    )  # fmt: skip


class _Front:
    """The search while it runs: the tree, the boxes still open, the best candidate."""

    def __init__(self, boxed: Boxed, start: np.ndarray):
        self.boxed, axes = boxed, len(boxed.ranges)
        self.tree = Tree(
            nodes=np.zeros((1024, axes), dtype=np.int32), state=np.zeros(1024, dtype=np.int8), least=np.zeros(1024),
            reason=np.zeros(1024, dtype=np.int16), axis=np.zeros(1024, dtype=np.int16),
            left=np.zeros(1024, dtype=np.int64),
        )  # fmt: skip
        self.value, self.best, self.bounded, self.priced = math.inf, (), 1, 0
        self.price(start)
        root = np.zeros((1, axes), dtype=np.int32)
        self.waiting = self.add(root, *least(boxed, root))

    @property
    def goal(self) -> float:
        """A box whose bound is not below this is closed."""
        return self.value - TOLERANCE * abs(self.value) if self.value < math.inf else math.inf

    def open(self, seconds: float, boxes: int) -> bool:
        """True while there is something to split, and the means to."""
        self.waiting = self.waiting[self.tree.least[self.waiting] < self.goal]
        return len(self.waiting) > 0 and seconds > 0 and self.tree.many < boxes

    def least(self) -> float:
        """What no candidate of the space is below."""
        return float(self.tree.least[self.waiting].min(initial=self.goal))

    def split(self, rng: np.random.Generator) -> None:
        """The most promising boxes: small ones are priced, the others split."""
        ids = self._first(max(ROUND, len(self.waiting) // PART))
        low, long = self._extents(self.tree.nodes[ids])
        self.price(self._digits(low + (rng.random(low.shape) * long).astype(np.int64)))
        small = long.prod(axis=1, dtype=np.float64) <= LEAF
        self._price_all(ids[small], low[small], long[small])
        if not small.all():
            self._halve(ids[~small], low[~small], long[~small])

    def add(self, nodes: np.ndarray, least: np.ndarray, reason: np.ndarray) -> np.ndarray:
        """New boxes, by number."""
        tree, many = self.tree, self.tree.many
        while many + len(nodes) > len(tree.state):
            for name in ("nodes", "state", "least", "reason", "axis", "left"):
                old = getattr(tree, name)
                setattr(tree, name, np.concatenate((old, np.zeros_like(old))))
        tree.many = many + len(nodes)
        place = slice(many, tree.many)
        tree.nodes[place], tree.least[place], tree.reason[place] = nodes, least, reason
        tree.state[place] = np.where(least < math.inf, OPEN, CLOSED)
        return np.arange(many, tree.many)

    def price(self, digits: np.ndarray) -> np.ndarray:
        """Objectives of some candidates; the best of them may be the best of all."""
        values = price(self.boxed, digits)
        self.priced += len(digits)
        if len(values) and values.min() < self.value:
            self.value, self.best = float(values.min()), tuple(map(int, digits[values.argmin()]))
        return values

    def _first(self, many: int) -> np.ndarray:
        """The open boxes with the smallest bounds, by bound and number; they wait no longer."""
        bounds = self.tree.least[self.waiting]
        if len(bounds) > many:
            edge = np.partition(bounds, many - 1)[many - 1]
            candidates = np.flatnonzero(bounds <= edge)
            chosen = candidates[np.argsort(bounds[candidates], kind="stable")[:many]]
        else:
            chosen = np.arange(len(bounds))
        ids = self.waiting[chosen]
        self.waiting = np.delete(self.waiting, chosen)
        return ids

    def _extents(self, nodes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The first place and the number of choices on each axis."""
        ranges = self.boxed.ranges
        low = np.stack([one.low[nodes[:, axis]] for axis, one in enumerate(ranges)], axis=1)
        high = np.stack([one.high[nodes[:, axis]] for axis, one in enumerate(ranges)], axis=1)
        return low, high - low

    def _digits(self, places: np.ndarray) -> np.ndarray:
        """Places on the ranges' axes as digits of the space."""
        return np.stack([one.order[places[:, axis]] for axis, one in enumerate(self.boxed.ranges)], axis=1)

    def _price_all(self, ids: np.ndarray, low: np.ndarray, long: np.ndarray) -> None:
        """Every candidate of small boxes."""
        if not len(ids):
            return
        sizes = long.prod(axis=1)
        rest = np.arange(sizes.sum()) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        places = np.repeat(low, sizes, axis=0)
        for axis in range(long.shape[1] - 1, -1, -1):
            rest, digit = np.divmod(rest, np.repeat(long[:, axis], sizes))
            places[:, axis] += digit
        self.price(self._digits(places))
        self.tree.state[ids] = PRICED

    def _halve(self, ids: np.ndarray, low: np.ndarray, long: np.ndarray) -> None:
        """Every box is split along the axis that promises most."""
        tree, ranges = self.tree, self.boxed.ranges
        axis = self._telling(tree.nodes[ids], tree.least[ids], low, long)
        halves = np.repeat(tree.nodes[ids], 2, axis=0)
        for number, one in enumerate(ranges):
            here = np.flatnonzero(axis == number)
            lower = one.halves(halves[2 * here, number])
            halves[2 * here, number], halves[2 * here + 1, number] = lower, lower + 1
        found, why = least(self.boxed, halves)
        self.bounded += len(halves)
        children = self.add(halves, np.maximum(found, np.repeat(tree.least[ids], 2)), why)
        tree.state[ids], tree.axis[ids], tree.left[ids] = SPLIT, axis, children[::2]
        self.waiting = np.concatenate((self.waiting, children[tree.least[children] < self.goal]))

    def _telling(self, nodes: np.ndarray, bounds: np.ndarray, low: np.ndarray, long: np.ndarray) -> np.ndarray:
        """For each box the axis whose choices, one at a time, raise its bound most, a halving.

        One split shows little where an axis couples many fields; its first and last choice alone show what
        all of its splits will come to.
        """
        box, axis = np.nonzero(long > 1)
        tries = np.repeat(nodes[box], TRIES, axis=0).reshape(len(box), TRIES, -1)
        for number, one in enumerate(self.boxed.ranges):
            here = axis == number
            steps = (long[box[here], number, None] - 1) * np.arange(TRIES) // (TRIES - 1)
            tries[here, :, number] = one.single(one.order[low[box[here], number, None] + steps])
        found, _ = least(self.boxed, tries.reshape(-1, tries.shape[-1]))
        self.bounded += len(found)
        known = np.minimum(found, self.goal if self.goal < math.inf else found[np.isfinite(found)].max(initial=1.0))
        known, before = known.reshape(len(box), TRIES), bounds[box, None]
        with np.errstate(invalid="ignore"):  # a bound of minus infinity that stays one
            gain = np.where(known > before, known - before, 0.0)
        worth = (gain.min(axis=1) + BETTER * gain.mean(axis=1)) / np.log2(long[box, axis])
        order = np.lexsort((-worth, box))
        return axis[order[np.concatenate(([True], np.diff(box[order]) != 0))]]
