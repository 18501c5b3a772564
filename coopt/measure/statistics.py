"""What may be concluded from repeated timings. Pure functions of numbers: no clock, no device."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

Numbers = Sequence[float] | np.ndarray

UNSTABLE = 0.05  # relative spread from which a timing is marked (nanobench's limit)


def median_interval(samples: Numbers, *, level: float = 0.95) -> tuple[float, float, float]:
    """The distribution-free confidence interval of the median, from order statistics.

    For X(d) <= median <= X(n-d+1) the coverage is 1 - 2 P(Binomial(n, 1/2) < d). Coverage moves in steps, so the two
    nearest pairs are interpolated (Hettmansperger and Sheather, Statistics & Probability Letters 4, 1986).

    Returns:
      low, high, and the coverage reached: below `level` when there are fewer than six samples, which allow no more
      than the whole range.

    >>> median_interval([1.0, 2.0, 3.0])
    (1.0, 3.0, 0.75)
    """
    x = np.sort(np.asarray(samples, dtype=float))
    n = len(x)
    if n == 0:
        return math.nan, math.nan, 0.0
    below = np.cumsum([math.comb(n, i) for i in range(n + 1)], dtype=float) / 2.0**n  # P(Binomial <= i)
    coverage = [1.0 - 2.0 * float(below[d - 1]) for d in range(1, n // 2 + 1)]
    if not coverage or coverage[0] < level:
        return float(x[0]), float(x[-1]), coverage[0] if coverage else 0.0
    d = max(i for i, c in enumerate(coverage, start=1) if c >= level)
    if d == len(coverage):
        return float(x[d - 1]), float(x[n - d]), coverage[d - 1]
    share = (coverage[d - 1] - level) / (coverage[d - 1] - coverage[d])
    weight = (n - d) * share / (d + (n - 2 * d) * share)
    low = (1.0 - weight) * x[d - 1] + weight * x[d]
    high = (1.0 - weight) * x[n - d] + weight * x[n - d - 1]
    return float(low), float(high), level


def spread(samples: Numbers) -> float:
    """Median absolute deviation from the median, relative to it ("err%").

    >>> spread([9.0, 10.0, 11.0])
    0.1
    """
    x = np.asarray(samples, dtype=float)
    if len(x) == 0:
        return math.nan
    middle = float(np.median(x))
    return float(np.median(np.abs(x - middle)) / middle) if middle > 0 else math.nan


def drift(samples: Numbers) -> float:
    """Median of the last third of the samples over that of the first, less one: throttling and warming show here.

    >>> drift([1.0, 1.0, 1.0, 1.1, 1.2, 1.2])
    0.2
    """
    x = np.asarray(samples, dtype=float)
    third = max(1, len(x) // 3)
    first, last = float(np.median(x[:third])), float(np.median(x[-third:]))
    return round(last / first - 1.0, 12) if first > 0 else math.nan


def slopes(short: Numbers, long: Numbers, *, repetitions: tuple[int, int]) -> np.ndarray:
    """Seconds a repetition from pairs of timings of `repetitions = (k1, k2)`: a fixed cost a timing cancels.

    >>> slopes([1.5], [2.5], repetitions=(1, 2))
    array([1.])
    """
    k1, k2 = repetitions
    return (np.asarray(long, dtype=float) - np.asarray(short, dtype=float)) / (k2 - k1)


def scaling(short: Numbers, long: Numbers, *, repetitions: tuple[int, int]) -> float:
    """How time grew between two repetition counts, over how the counts grew; 1 is work that is really repeated.

    About 0.5 for a doubled count says that a loop was hoisted, or that what was timed is dispatch.

    >>> scaling([1.0], [2.0], repetitions=(1, 2))
    1.0
    """
    k1, k2 = repetitions
    return float(np.median(long) / np.median(short)) / (k2 / k1)


def kendall_tau(x: Numbers, y: Numbers) -> float:
    """Kendall's rank correlation tau-b, ties counted; NaN when one side is constant.

    >>> kendall_tau([1, 2, 3, 4], [1, 3, 2, 4])
    0.6666666666666666
    """
    a, b = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
    upper = np.triu_indices(len(a), k=1)
    da = np.sign(a[:, None] - a[None, :])[upper]
    db = np.sign(b[:, None] - b[None, :])[upper]
    weight = math.sqrt(float(np.sum(da != 0)) * float(np.sum(db != 0)))
    return float(np.sum(da * db)) / weight if weight else math.nan


def noise_ceiling(times: Numbers, errors: Numbers, *, draws: int = 500, seed: int = 0) -> float:
    """The Kendall tau that a perfect model would reach against these times, measured with these standard errors.

    The mean over `draws` of tau(times, times + errors * normal). A tau without its ceiling says nothing: candidates
    closer together than the noise have no order that could be found.

    >>> noise_ceiling([1.0, 2.0, 3.0], [0.0, 0.0, 0.0], draws=5)
    1.0
    """
    truth, error = np.asarray(times, dtype=float), np.asarray(errors, dtype=float)
    noise = np.random.default_rng(seed).standard_normal((draws, len(truth)))
    return float(np.mean([kendall_tau(truth, truth + error * row) for row in noise]))


def different(a: Numbers, b: Numbers, *, alpha: float = 0.05) -> bool:
    """Whether two interleaved series of timings have different medians, by the Mann-Whitney test with ties.

    A "no" is a tie, never a winner. Normal approximation: eight samples a side or more.
    """
    x, y = np.asarray(a, dtype=float), np.asarray(b, dtype=float)
    n, m = len(x), len(y)
    both = np.concatenate([x, y])
    _, where, counts = np.unique(both, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2.0)[where]
    u = float(np.sum(ranks[:n])) - n * (n + 1) / 2.0
    total = n + m
    ties = float(np.sum(counts**3 - counts)) / (total * (total - 1.0))
    sigma = math.sqrt(n * m / 12.0 * (total + 1.0 - ties))
    if sigma == 0.0:
        return False
    z = max(0.0, abs(u - n * m / 2.0) - 0.5) / sigma
    return math.erfc(z / math.sqrt(2.0)) < alpha
