"""Ranges of choices on one axis, halved and halved again: each has its fields' least and most, made when asked for."""

from __future__ import annotations

import numpy as np


class Ranges:
    """The tree of ranges of an axis's choices, node 0 all of them; nodes come to be as they are split.

    `values[choice, column]` are the choices in an order of their own, `order[place]` says which choice stands where: a
    range is sorted by the column in which its choices differ by the largest factor before it is cut there, near the
    middle, so that the columns of a half differ as little as can be.
    """

    def __init__(self, values: np.ndarray, *, columns: int):
        self.values, self.columns = values.copy(), columns  # the first `columns` say where to cut
        self.order = np.arange(len(values))
        self.alone = np.zeros(len(values), dtype=np.int64)
        self.many = 0
        self.low, self.high, self.left = (np.zeros(16, dtype=np.int64) for _ in range(3))
        self.least, self.most = (np.zeros((16, values.shape[1])) for _ in range(2))
        self._add(0, len(values))

    def halves(self, nodes: np.ndarray) -> np.ndarray:
        """The lower half of each node, whose upper half is the next node; -1 where a node is a single choice."""
        single = self.high[nodes] - self.low[nodes] == 1
        for node in np.unique(nodes[(self.left[nodes] == 0) & ~single]):
            low, high = int(self.low[node]), int(self.high[node])
            cut = self._cut(node, low, high)
            self.left[node] = self.many
            self._add(low, cut)
            self._add(cut, high)
        return np.where(single, -1, self.left[nodes])

    def single(self, choices: np.ndarray) -> np.ndarray:
        """A node of each choice alone, for trying things: it is in no tree."""
        for choice in np.unique(choices[self.alone[choices] == 0]):
            self.alone[choice] = self.many
            place = int(np.flatnonzero(self.order == choice)[0])
            self._add(place, place + 1)
        return self.alone[choices]

    def _cut(self, node: int, low: int, high: int) -> int:
        least, most = self.least[node, : self.columns], self.most[node, : self.columns]
        spread = np.where(most > least, most / np.maximum(least, 1e-9), -np.inf)  # switches first
        column = int(np.argmax(spread))
        order = np.argsort(self.values[low:high, column], kind="stable")
        self.values[low:high], self.order[low:high] = self.values[low:high][order], self.order[low:high][order]
        rows = self.values[low:high, column]
        places = np.flatnonzero(rows[1:] != rows[:-1]) + 1
        if not len(places):
            places = np.array([(high - low) // 2])
        return low + int(places[np.argmin(abs(places - (high - low) / 2))])

    def _add(self, low: int, high: int) -> None:
        node = self.many
        if node == len(self.low):
            self.low, self.high, self.left = (np.resize(one, 2 * node) for one in (self.low, self.high, self.left))
            self.left[node:] = 0
            self.least, self.most = (np.resize(one, (2 * node, one.shape[1])) for one in (self.least, self.most))
        self.low[node], self.high[node] = low, high
        rows = self.values[low:high]
        self.least[node], self.most[node] = rows.min(axis=0), rows.max(axis=0)
        self.many += 1
