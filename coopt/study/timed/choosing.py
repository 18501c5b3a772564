"""Which block to time next: the one that is expected to spare the decision most, and when to stop.

The decision is which plan to take. What is known is a Gaussian over log seconds of blocks: constants with their
covariance, and a residual of each block's own. Timing a block moves what is expected of every plan; its worth is how
much sooner, on average, the plan then taken would be than the plan taken now (expected value of sample information;
Raiffa and Schlaifer, Applied Statistical Decision Theory, 1961; the knowledge gradient of Frazier, Powell and Dayanik,
INFORMS Journal on Computing 21, 2009).
"""

from __future__ import annotations

import dataclasses

import numpy as np

DRAWS = 512
DECIDED = 0.005  # of the best plan's objective: an expected regret below which nothing that could be timed matters


@dataclasses.dataclass(frozen=True)
class Choice:
    """What timing each block would be worth, and what is at stake now; both over the best plan's objective."""

    worth: np.ndarray  # (blocks,)
    regret: float  # expected excess of the plan that would be taken now over the best

    @property
    def decided(self) -> bool:
        """Whether the ranking's first is settled as far as timing can settle it."""
        return self.regret < DECIDED

    @property
    def next(self) -> int:
        """The block that is worth most."""
        return int(np.argmax(self.worth))


def choose(
    objective: np.ndarray,
    *,
    slopes: np.ndarray,
    covariance: np.ndarray,
    residual: np.ndarray,
    noise: np.ndarray | float,
    seed: int = 0,
) -> Choice:
    """The worth of timing each of the blocks, whose plans have these objectives.

    With z ~ N(0, covariance) and residuals d ~ N(0, residual^2), the log objective of plan p is
    log(objective) + slopes z + d. Timing block i shows it with `noise`; the conditional mean of every plan follows.

    Args:
      objective: of each block's best plan, as expected now; smaller is better.
      slopes: of the log objective with respect to the constants, `(blocks, constants)`.
      residual: log units of each block's own, about 0 where it was timed.
      noise: log units of the objective by which a timing may be off, of each block or of all.

    >>> sure = {"slopes": np.zeros((2, 1)), "covariance": np.eye(1), "noise": 0.01}
    >>> choose(np.array([1.0, 2.0]), residual=np.array([0.01, 0.01]), **sure).decided
    True
    >>> choose(np.array([1.0, 1.01]), residual=np.array([0.0, 0.3]), **sure).next
    1
    """
    rng = np.random.default_rng(seed)
    joint = slopes @ covariance @ slopes.T + np.diag(residual**2)
    root = np.linalg.cholesky(joint + 1e-12 * np.eye(len(joint)))
    moved = rng.standard_normal((DRAWS, len(objective))) @ root.T  # (draws, blocks)
    truth = np.log(objective) + moved
    now = int(np.argmin(objective))
    best = np.exp(truth - truth.min(axis=1, keepdims=True))  # each plan over the best of its draw
    regret = float(np.mean(best[:, now]) - 1.0)
    seen = moved + noise * rng.standard_normal(moved.shape)
    shown = np.diag(joint) + np.square(noise)
    gains = joint / np.where(shown > 0.0, shown, 1.0)  # column i: how plans move with what block i shows
    worth = np.empty(len(objective))
    for i in range(len(objective)):
        taken = np.argmin(np.log(objective) + seen[:, [i]] * gains[:, i], axis=1)
        worth[i] = np.mean(best[:, now]) - np.mean(best[np.arange(DRAWS), taken])
    return Choice(worth=worth, regret=regret)


def informative(slopes: np.ndarray, *, covariance: np.ndarray, noise: float, untried: list[int]) -> tuple[int, float]:
    """The block whose timing makes all predictions surest, and how unsure they are now: root mean square, log units.

    Timing block i, with slopes A of its log times, takes K (A C A' + noise^2)^-1 K' from the variances of all blocks,
    where K are their covariances with it (A-optimal design for prediction).

    Args:
      slopes: of log times with respect to the constants, `(constants, blocks, 2)`: forward, and with backward.

    >>> slopes = np.array([[[1.0, 1.0], [0.1, 0.1]]])
    >>> informative(slopes, covariance=np.eye(1), noise=0.1, untried=[0, 1])[0]
    0
    """
    each = slopes.transpose(1, 2, 0)  # (blocks, 2, constants)
    every = each.reshape(-1, each.shape[-1])
    total = float(np.sum((every @ covariance) * every))
    gains = []
    for i in untried:
        shown = each[i] @ covariance @ each[i].T + noise**2 * np.eye(2)
        moved = every @ covariance @ each[i].T
        gains.append(float(np.sum((moved @ np.linalg.inv(shown)) * moved)))
    best = int(np.argmax(gains))
    return untried[best], (total / len(every)) ** 0.5
