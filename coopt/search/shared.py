"""A recording run over many candidates, or boxes of them: each operation once for every choice that it depends on.

Most operations depend on two or three axes of a space. Of thousands of candidates, or boxes, only some hundreds differ
there: what differs is found for every set of axes, operations run on that alone, and are taken to the larger sets that
read them. Values are whatever the rules handle, arrays or pairs of arrays.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from coopt.search.recorded import Recorded, freed
from coopt.search.space import Space

COMMON = 12  # operations that are worth finding out what differs on their axes
EVERY = frozenset((-1,))  # all axes: all rows
DENSE = 4  # a table of all combinations is used up to so many times the rows


@dataclasses.dataclass(frozen=True, eq=False)
class Shared:
    """The steps of a recording in order: `(slot, (node or None, from, to), operands, dead)`; slots begin with places.

    A step without a node takes its operand from the rows of the axes `from` to those of `to`.
    """

    recorded: Recorded
    axes: tuple[frozenset[int], ...]  # on whose rows each place is
    steps: tuple[tuple, ...]
    slots: int


def share(recorded: Recorded) -> Shared:
    """A recording made ready. What few operations depend on is not looked for: they run on the rows of more axes."""
    often = Counter(recorded.axes)
    common = sorted((one for one, many in often.items() if many >= COMMON), key=len)
    axes, taken, steps = list(recorded.axes[: recorded.first]), {}, []
    slots = recorded.first + len(recorded.nodes)
    for node, (_, operands) in enumerate(recorded.nodes):
        needed, given = frozenset().union(*(axes[one] for one in operands)), []
        to = next((one for one in common if one >= needed), EVERY) if needed else needed
        axes.append(to)
        for one in operands:
            if axes[one] and axes[one] != to:
                if (one, to) not in taken:
                    taken[one, to] = slots + len(taken)
                    steps.append((taken[one, to], (None, axes[one], to), (one,)))
                one = taken[one, to]
            given.append(one)
        steps.append((recorded.first + node, (node, to, to), tuple(given)))
    steps = freed(steps, keep=(*recorded.results, *range(recorded.first)))
    return Shared(recorded=recorded, axes=tuple(axes), steps=steps, slots=slots + len(taken))


def run(shared: Shared, rows: np.ndarray, inputs: Callable[[int, int, np.ndarray], Any], numbers: Sequence[Any],
        rules: Sequence[Callable], *, take: Callable[[Any, np.ndarray], Any]) -> list[Any]:  # fmt: skip
    """The results for `rows` `(n, axes)`: which choice of each axis, or which range of choices.

    `inputs(axis, field, choices)` are a field's values at some choices, `rules` those of the nodes, and `take` reads
    values at some places.
    """
    distinct, recorded = Distinct(rows), shared.recorded
    values: list[Any] = [None] * shared.slots
    for place, (axis, field) in enumerate(recorded.inputs):
        first, _ = distinct(frozenset((axis,)))
        values[place] = inputs(axis, field, rows[first, axis])
    values[len(recorded.inputs) : recorded.first] = numbers
    with np.errstate(all="ignore"):
        for slot, (node, source, to), operands, dead in shared.steps:
            if node is None:
                where = distinct.between(source, to)
                value = values[operands[0]]
                values[slot] = value if where is None else take(value, where)
            else:
                values[slot] = rules[node](*[values[one] for one in operands])
            for one in dead:
                values[one] = None
    found = []
    for place in recorded.results:
        where = distinct.between(shared.axes[place], EVERY) if shared.axes[place] else None
        found.append(values[place] if where is None else take(values[place], where))
    return found


class Distinct:
    """Which of some rows differ on a set of axes."""

    def __init__(self, rows: np.ndarray):
        self.rows, self.moves = rows, {}
        self.known: dict[frozenset[int], Any] = {EVERY: (slice(None), None)}

    def __call__(self, axes: frozenset[int]) -> tuple[Any, np.ndarray | None]:
        """The first row of each kind, and of every row its kind: all rows and None where nearly all differ."""
        if axes not in self.known:
            self.known[axes] = self._find(axes)
        return self.known[axes]

    def between(self, source: frozenset[int], to: frozenset[int]) -> np.ndarray | None:
        """Where the kinds on more axes are among those on fewer; None where they are the same."""
        if (source, to) not in self.moves:
            _, kind = self(source)
            first, _ = self(to)
            self.moves[source, to] = kind if kind is None else kind[first]
        return self.moves[source, to]

    def _find(self, axes: frozenset[int]) -> tuple[Any, np.ndarray | None]:
        many = len(self.rows)
        key, radix = np.zeros(many, dtype=np.int64), 1
        for axis in sorted(axes):
            choices = self.rows[:, axis].astype(np.int64)
            if len(axes) > 1:
                first, kind = self(frozenset((axis,)))
                choices, width = (choices, int(choices.max()) + 1) if kind is None else (kind, len(self.rows[first]))
            else:
                width = int(choices.max()) + 1
            if radix * width > 2**62:
                key = np.unique(key, return_inverse=True)[1]
                radix = many
            key, radix = key * width + choices, radix * width
        if radix <= max(DENSE * many, 4096):
            first = np.full(radix, -1)
            first[key] = np.arange(many)
            used = np.flatnonzero(first >= 0)
            order = np.empty(radix, dtype=np.int64)
            order[used] = np.arange(len(used))
            first, kind = first[used], order[key]
        else:
            _, first, kind = np.unique(key, return_index=True, return_inverse=True)
        return (slice(None), None) if 2 * len(first) > many else (first, kind)


def price(shared: Shared, space: Space, digits: np.ndarray) -> list[np.ndarray]:
    """The results for candidates by their digits `(n, axes)`, each `(n,)`: bit for bit those of the expression."""
    rules = [getattr(np, name) for name, _ in shared.recorded.nodes]
    found = run(shared, digits, lambda axis, field, choices: space.axes[axis].values[choices, field],
                shared.recorded.numbers, rules, take=np.take)  # fmt: skip
    return [np.broadcast_to(one, len(digits)) for one in found]
