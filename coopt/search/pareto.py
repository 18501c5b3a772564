"""Exact fronts: what no other candidate beats in every objective at once. Smaller is better throughout."""

from __future__ import annotations

import numpy as np

GRID = 30  # binary digits of the mantissa that count, about nine decimal ones
HEAD = 64  # rows compared in all pairs
SAMPLE = 256  # rows by which points are put in order
STRONG = 128  # points that are tried on everything before the rest


def graded(values: np.ndarray) -> np.ndarray:
    """Values rounded to 2^-30 relative: what objectives are compared at.

    Two ways of adding the same numbers differ in the last bits; without a grid such noise would make the front.
    Rounding is monotone, so an order is never turned round. NaN becomes infinity: unknown never wins.

    >>> graded(np.array([1.0, 1.0 + 1e-12, np.nan])).tolist()
    [1.0, 1.0, inf]
    """
    mantissa, exponent = np.frexp(np.where(np.isnan(values), np.inf, values))
    return np.ldexp(np.rint(np.ldexp(mantissa, GRID)), exponent - GRID)


def dominated(values: np.ndarray, by: np.ndarray) -> np.ndarray:
    """Which rows of `values` `(n, m)` some row of `by` beats: nowhere larger and somewhere smaller.

    Points are tried one after another on the rows still standing, those first that take most of a sample: a few take
    nearly all rows, so the work is near n. Columns are kept apart, since that is how NumPy compares fastest.

    >>> dominated(np.array([[1.0, 3.0], [2.0, 3.0], [1.0, 1.0]]), np.array([[1.0, 3.0]])).tolist()
    [False, True, False]
    """
    beaten = np.zeros(len(values), dtype=bool)
    standing, columns = np.arange(len(values)), np.ascontiguousarray(np.asarray(values).T)
    for point in by[_telling(columns, by)]:
        gone = _nowhere_below(columns, point)
        equal = gone & (columns[0] == point[0])
        if equal.any():
            gone &= ~(equal & (columns[1:] == point[1:, None]).all(axis=0))
        if gone.any():
            beaten[standing[gone]] = True
            standing, columns = standing[~gone], np.compress(~gone, columns, axis=1)
    return beaten


def _telling(columns: np.ndarray, by: np.ndarray) -> np.ndarray:
    """An order of points in which each of the first takes most of what those before it leave of a sample of rows."""
    rest = np.arange(len(by))
    if columns.shape[1] < 8 * SAMPLE or len(by) > SAMPLE:
        return rest
    sample, first = columns[:, :: columns.shape[1] // SAMPLE], []
    takes = np.all(sample >= by[:, :, None], axis=1)
    left = takes.copy()
    while left.any():
        first.append(int(left.sum(axis=1).argmax()))
        left &= ~takes[first[-1]]
    return np.concatenate((np.array(first, dtype=int), np.setdiff1d(rest, first)))


def front(values: np.ndarray) -> np.ndarray:
    """Positions of the rows of `values` `(n, m)` that no other row dominates, in order of position.

    Of equal rows the first stands for all. Rows with NaN or infinity never enter.

    >>> front(np.array([[1.0, 3.0], [2.0, 2.0], [1.0, 3.0], [2.0, 4.0], [np.nan, 0.0]])).tolist()
    [0, 1]
    """
    values = np.asarray(values, dtype=np.float64)
    alive = np.flatnonzero(np.isfinite(values).all(axis=1))
    if not values.shape[1]:
        return alive[:1]
    alive = alive[~dominated(values[alive], values[alive][strong_first(values[alive])[:STRONG]])]
    # In lexicographic order, position last, a row can only be dominated by one before it.
    order = alive[np.lexsort((alive, *values[alive].T[::-1]))]
    columns, kept = np.ascontiguousarray(values[order].T), []
    while len(order):
        # the next rows among themselves, all pairs; then what is left of them against all behind them
        head = columns[:, :HEAD]
        beaten = np.triu((head[:, :, None] <= head[:, None, :]).all(axis=0), 1).any(axis=0)
        kept.append(order[:HEAD][~beaten])
        order, columns = order[HEAD:], columns[:, HEAD:]
        gone = np.zeros(len(order), dtype=bool)
        for point in head[:, ~beaten].T:
            gone |= _nowhere_below(columns, point)
        order, columns = order[~gone], columns[:, ~gone]
    return np.sort(np.concatenate([alive[:0], *kept]))


def _nowhere_below(columns: np.ndarray, point: np.ndarray) -> np.ndarray:
    above = columns[0] >= point[0]
    for column, value in zip(columns[1:], point[1:], strict=True):
        above &= column >= value
    return above


def strong_first(values: np.ndarray) -> np.ndarray:
    """An order of points in which those that beat most come early: by the sum of their ranks in each objective."""
    ranks = np.empty(values.shape, dtype=np.int64)
    for column, value in zip(ranks.T, values.T, strict=True):
        column[np.argsort(value)] = np.arange(len(value))
    return np.argsort(ranks.sum(axis=1), kind="stable")
