"""Solving an instance, reading the columns back, shadow prices, and what stands in the way of an impossible one."""

from __future__ import annotations

import dataclasses

import numpy as np
from scipy import sparse

from coopt.roadmap.instance import Instance
from coopt.roadmap.linear import INFINITY, Linear, relaxed, solve
from coopt.roadmap.programme import GIGA, KILO, MEGA, Programme, build

# USD of objective per one more unit of what the row limits, in the units of the programme's rows
_UNITS = {"power": GIGA / MEGA, "supply": GIGA / KILO, "capital": 1.0, "limit": 1.0}
_GIVEN = {"power": MEGA, "supply": KILO, "capital": GIGA, "limit": GIGA, "capacity": KILO}
_GIVEN_UNIT = {"power": "W", "supply": "chips", "capital": "USD", "limit": "USD", "capacity": "chips"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Shortfall:
    """How much more of something an impossible instance needs: the smallest such change that was found."""

    constraint: str  # power | supply | date | capital | limit | capacity
    quarter: int | None
    where: int | None  # site, chip or pool
    short: float
    unit: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Solution:
    """A solved instance; arrays and USD."""

    status: str
    solver: str
    objective: float | None = None  # USD, discounted
    bound: float | None = None
    deployed: np.ndarray | None = None  # (T, S, C) chips
    starts: tuple[tuple[int, int, int], ...] = ()  # (run, pool, quarter)
    prices: dict[str, dict[tuple[int, ...], float]] = dataclasses.field(default_factory=dict)
    shortfalls: tuple[Shortfall, ...] = ()


def optimise(instance: Instance, *, time_limit: float, tolerance: float = 1e-4) -> Solution:
    """The best plan found within `time_limit` seconds, with its proved bound and its shadow prices.

    Shadow prices are those of the linear programme that remains when training runs and tranches are fixed as
    planned. `status` is optimal, feasible (stopped at the time limit), infeasible (with shortfalls) or unknown.
    """
    programme = build(instance)
    answer = solve(programme.linear, time_limit=time_limit, tolerance=tolerance)
    if answer.x is None:
        short = shortfalls(instance, time_limit=max(time_limit / 2, 5.0)) if answer.status == "infeasible" else ()
        return Solution(status=answer.status, solver=answer.solver, shortfalls=short)
    fixed = solve(relaxed(programme.linear, answer.x), time_limit=time_limit)
    # Fixing whole numbers that were whole only to a tolerance can, at worst, lose the vertex: then the first x stands.
    x = answer.x if fixed.x is None else fixed.x
    return Solution(
        status=answer.status,
        solver=answer.solver,
        objective=-GIGA * float(programme.linear.cost @ x + programme.linear.offset),
        bound=None if answer.bound is None else -GIGA * answer.bound,
        deployed=_deployed(instance, programme, x),
        starts=tuple(sorted((k for k, column in programme.columns.start.items() if x[column] > 0.5), key=_by_time)),
        prices={} if fixed.duals is None else shadow_prices(programme, fixed.duals),
    )


def _by_time(start: tuple[int, int, int]) -> tuple[int, int, int]:
    return start[2], start[0], start[1]


def _deployed(instance: Instance, programme: Programme, x: np.ndarray) -> np.ndarray:
    """Whole chips, rounded down: what was allowed stays allowed."""
    deployed = np.zeros((len(instance.quarters), len(instance.sites), len(instance.chips)))
    for key, column in programme.columns.deploy.items():
        deployed[key] = np.floor(KILO * x[column] + 1e-6)
    return deployed


def shadow_prices(programme: Programme, duals: np.ndarray) -> dict[str, dict[tuple[int, ...], float]]:
    """What one more unit is worth (USD a W, a chip, a USD), by family and row key: minus the dual of the row.

    A watt or a dollar that comes in a quarter is there in every later one, so those two are summed over time.
    """
    prices: dict[str, dict[tuple[int, ...], float]] = {}
    first = 0
    for family in programme.families:
        rows = duals[first : first + len(family.keys)]
        first += len(family.keys)
        if family.kind in _UNITS:
            said = {key: -float(dual) * _UNITS[family.kind] + 0.0 for key, dual in zip(family.keys, rows, strict=True)}
            prices[family.kind] = _from_then_on(said) if family.kind in ("power", "capital") else said
    return prices


def _from_then_on(prices: dict[tuple[int, ...], float]) -> dict[tuple[int, ...], float]:
    return {
        (quarter, *where): sum(p for (t, *w), p in prices.items() if t >= quarter and w == list(where))
        for quarter, *where in prices
    }


def shortfalls(instance: Instance, *, time_limit: float) -> tuple[Shortfall, ...]:
    """The least that must be added for an impossible instance to become possible.

    Every limit may be passed at a price, its own size counting as one (and the least total is sought); milestones
    and due dates stay. Chips wanted before they exist are named `date`, not `supply`.
    """
    programme = build(instance, everything=True)
    soft = [(i, family.kind) for family in programme.families for i in range(len(family.keys))]
    kinds = np.array([kind for _, kind in soft])
    rows = np.flatnonzero(np.isin(kinds, list(_GIVEN)))
    answer = solve(_elastic(programme.linear, rows), time_limit=time_limit, tolerance=1e-3)
    if answer.x is None:
        return ()
    keys = [key for family in programme.families for key in family.keys]
    said = []
    for slack, row in zip(answer.x[programme.columns.count :], rows, strict=True):
        kind, key = str(kinds[row]), keys[row]
        amount = float(slack) * _GIVEN[kind]
        if slack > 1e-6:
            early = kind == "supply" and key[0] < instance.date[key[1]]
            said.append(
                Shortfall(
                    constraint="date" if early else kind,
                    quarter=key[0] if key else None,
                    where=key[1] if len(key) > 1 else None,
                    short=amount,
                    unit=_GIVEN_UNIT[kind],
                )
            )
    return _first(said)


def _first(said: list[Shortfall]) -> tuple[Shortfall, ...]:
    """Power and capital that come once are there in every later quarter: the first and the largest are kept as one."""
    kept: dict[tuple, Shortfall] = {}
    for short in sorted(said, key=lambda s: -1 if s.quarter is None else s.quarter):
        lasting = short.constraint in ("power", "capital")
        key = (short.constraint, short.where, None if lasting else short.quarter)
        before = kept.get(key)
        kept[key] = short if before is None else dataclasses.replace(before, short=max(before.short, short.short))
    return tuple(kept.values())


def _elastic(linear: Linear, rows: np.ndarray) -> Linear:
    """The programme with a slack on each of `rows`, and the sum of slacks (relative to the row) as its objective."""
    count, columns = len(rows), len(linear.cost)
    slack = sparse.csr_array((-np.ones(count), (rows, np.arange(count))), shape=(len(linear.upper), count))
    scale = 1.0 / np.maximum(np.abs(linear.upper[rows]), 1.0)
    return Linear(
        cost=np.concatenate([np.zeros(columns), scale]),
        offset=0.0,
        matrix=sparse.csr_array(sparse.hstack([linear.matrix, slack])),
        upper=linear.upper,
        least=np.concatenate([linear.least, np.zeros(count)]),
        most=np.concatenate([linear.most, np.full(count, INFINITY)]),
        integer=np.concatenate([linear.integer, np.zeros(count, dtype=bool)]),
    )
