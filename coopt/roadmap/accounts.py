"""What a plan amounts to, quarter by quarter: recomputed from its decisions alone, without the programme."""

from __future__ import annotations

import dataclasses

import numpy as np

from coopt.roadmap.instance import Instance, owned, working


@dataclasses.dataclass(frozen=True, kw_only=True)
class Accounts:
    """A plan by quarter; USD, W, chips. Money is not discounted."""

    installed: np.ndarray  # (S, T) IT W owned at each site
    deployed: np.ndarray  # (T,) IT W deployed by the end of the quarter, all sites
    working: np.ndarray  # (P, C, T) chips at work by pool, the initial fleet included
    held: np.ndarray  # (P, C, T) chips that training runs hold
    bought: np.ndarray  # (C, T) chips
    capex: np.ndarray  # (T,) price of the chips deployed
    equity: np.ndarray  # (T,) part of it paid from the released capital
    released: np.ndarray  # (T,) capital there during the quarter
    annuity: np.ndarray  # (T,)
    electricity: np.ndarray  # (T,)
    earning: np.ndarray  # (T,)
    worth: np.ndarray  # (T,)
    best: tuple[int | None, ...]  # (T,) rung in hand


def accounts(instance: Instance, deployed: np.ndarray, starts: tuple[tuple[int, int, int], ...]) -> Accounts:
    """The accounts of `deployed` (T, S, C) chips and `starts` of (run, pool, quarter).

    >>> from coopt.roadmap.instance import example
    >>> plain = example()
    >>> kept = accounts(plain, np.full((3, 1, 1), 100.0), ())
    >>> kept.working[0, 0].tolist(), kept.capex.tolist()
    ([0.0, 100.0, 200.0], [1000000.0, 1000000.0, 1000000.0])
    """
    pools, chips, count = int(instance.pool.max()) + 1, len(instance.chips), len(instance.quarters)
    at_work, installed, owns = (
        np.zeros((pools, chips, count)),
        np.zeros((len(instance.sites), count)),
        np.zeros((chips, count)),
    )
    for t, s, c in zip(*np.nonzero(deployed), strict=True):
        number = deployed[t, s, c]
        at_work[instance.pool[s], c, list(working(instance, c, t))] += number
        installed[s, list(owned(instance, c, t))] += number * instance.watts[c]
        owns[c, list(working(instance, c, t))] += number
    for s, pool in enumerate(instance.pool):
        at_work[pool] += instance.fleet[s]
    held = np.zeros_like(at_work)
    for r, p, t in starts:
        run = instance.runs[r]
        held[p, run.chip, t : t + run.quarters] += run.chips
    best, worth = _best(instance, starts)
    bought = deployed.sum(axis=1).T
    watts = np.cumsum(instance.watts @ bought)
    capex = instance.dollars @ bought
    return Accounts(
        installed=installed,
        deployed=watts,
        working=at_work,
        held=held,
        bought=bought,
        capex=capex,
        equity=instance.equity * capex,
        released=_released(instance, watts),
        annuity=instance.annuity @ owns,
        electricity=(instance.electricity * at_work.sum(axis=0)).sum(axis=0),
        earning=(instance.earning * (at_work - held).sum(axis=0)).sum(axis=0),
        worth=worth,
        best=best,
    )


def objective(instance: Instance, kept: Accounts) -> dict[str, float]:
    """The discounted parts of the objective, USD, and their `total`."""
    parts = {
        "models": kept.worth,
        "serving": kept.earning,
        "chips": -kept.annuity,
        "electricity": -kept.electricity,
    }
    said = {name: float(instance.discount @ part) for name, part in parts.items()}
    return {**said, "total": sum(said.values())}


def _released(instance: Instance, watts: np.ndarray) -> np.ndarray:
    """Capital there in each quarter: the start, and a tranche for each whole tranche of power deployed before it.

    What rounding to whole chips may take away does not hold a tranche back.
    """
    before = np.concatenate([[0.0], watts[:-1]])
    slack = len(watts) * len(instance.sites) * float(instance.watts.max())
    if instance.tranche <= 0:
        return np.full(len(watts), instance.capital)
    most = np.floor((instance.limit - instance.capital) / instance.tranche + 1e-9)
    whole = np.minimum(np.floor((before + slack) / instance.tranche_power), most)
    return instance.capital + instance.tranche * whole


def _best(instance: Instance, starts) -> tuple[tuple[int | None, ...], np.ndarray]:
    count = len(instance.quarters)
    best: list[int | None] = [None] * count
    worth = np.zeros(count)
    for r, _, t in starts:
        run = instance.runs[r]
        for later in range(t + run.quarters, count):
            if instance.worth[run.rung, later] > worth[later]:
                best[later], worth[later] = run.rung, instance.worth[run.rung, later]
    return tuple(best), worth
