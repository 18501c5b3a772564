"""The roadmap as a mixed-integer linear programme: what to deploy when, to train what.

Decisions: chips deployed by quarter, site and chip; which training runs start when, where and on what; how many
whole tranches of capital have been released. Maximised: discounted worth of the best model in hand, plus what the
chips that do not train earn, less the annuity of every chip and the electricity of every chip that works.

Each family of constraints is one function, and its docstring is the inequality.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from scipy import sparse

from coopt.roadmap.instance import Instance, owned, reach, working
from coopt.roadmap.linear import INFINITY, Linear

KILO, MEGA, GIGA = 1e3, 1e6, 1e9  # the programme counts thousands of chips, megawatts and billions of dollars


@dataclasses.dataclass(frozen=True, kw_only=True)
class Family:
    """Rows of one kind, with the (kind, quarter, where...) of each."""

    kind: str
    keys: tuple[tuple[int, ...], ...]
    matrix: sparse.csr_array
    upper: np.ndarray


@dataclasses.dataclass(frozen=True, kw_only=True)
class Columns:
    """Where each decision stands among the columns."""

    deploy: dict[tuple[int, int, int], int]  # (quarter, site, chip), thousands of chips
    tranches: dict[int, int]  # quarter -> whole tranches released by its end
    start: dict[tuple[int, int, int], int]  # (run, pool, quarter), 0 or 1
    best: dict[tuple[int, int], int]  # (rung, quarter), share of the quarter it is the best in hand

    @property
    def count(self) -> int:
        """How many columns there are."""
        return len(self.deploy) + len(self.tranches) + len(self.start) + len(self.best)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Programme:
    """A linear programme with the meaning of its rows and columns."""

    columns: Columns
    families: tuple[Family, ...]
    linear: Linear


def build(instance: Instance, *, everything: bool = False) -> Programme:
    """The programme of an instance; with `everything`, chips may be written down before their date (and are
    forbidden by the supply rows alone), which is how an impossible scenario is diagnosed.
    """
    columns = _columns(instance, everything=everything)
    families = tuple(
        family(instance, columns)
        for family in (power, supply, release, tranches, limit, capacity, best, having, once, due, milestones)
    )
    upper = np.concatenate([family.upper for family in families])
    cost, offset = _objective(instance, columns)
    count = columns.count
    most, integer = np.full(count, INFINITY), np.zeros(count, dtype=bool)
    for column in columns.start.values():
        most[column], integer[column] = 1.0, True
    for column in columns.tranches.values():
        most[column], integer[column] = np.floor((instance.limit - instance.capital) / instance.tranche + 1e-9), True
    linear = Linear(
        cost=cost,
        offset=offset,
        matrix=sparse.csr_array(sparse.vstack([family.matrix for family in families])),
        upper=upper,
        least=np.zeros(count),
        most=most,
        integer=integer,
    )
    return Programme(columns=columns, families=families, linear=linear)


def _columns(instance: Instance, *, everything: bool) -> Columns:
    quarters = range(len(instance.quarters))
    room = (1.0 - instance.reserved) * reach(instance)
    position = iter(range(10**9))
    deploy = {
        (t, s, c): next(position)
        for t in quarters[: instance.decided]
        for s in range(len(instance.sites))
        for c in range(len(instance.chips))
        if (instance.supply[c, t] > 0 or everything) and instance.power[s, t] > 0
    }
    tranches = {t: next(position) for t in quarters[:-1]} if instance.tranche > 0 else {}
    start = {
        (r, p, t): next(position)
        for r, run in enumerate(instance.runs)
        for p in range(room.shape[0])
        for t in quarters[: instance.decided]
        if t + run.quarters <= len(quarters)
        and (everything or room[p, run.chip, t : t + run.quarters].min() >= run.chips)
        and (
            t + run.quarters <= instance.due[run.rung] <= len(quarters)
            or (not everything and instance.worth[run.rung, t + run.quarters :].sum() > 0)
        )
    }
    rungs = sorted({instance.runs[r].rung for r, _, _ in start})
    best = {(m, t): next(position) for m in rungs for t in quarters if instance.worth[m, t] > 0}
    return Columns(deploy=deploy, tranches=tranches, start=start, best=best)


def _objective(instance: Instance, columns: Columns) -> tuple[np.ndarray, float]:
    """Minus the discounted worth, in billions of dollars, and its constant part: the initial fleet, were it to earn."""
    cost, gain = np.zeros(columns.count), instance.earning - instance.electricity
    for (t, _, c), column in columns.deploy.items():
        at_work = list(working(instance, c, t))
        dollars = (instance.discount[at_work] * (instance.annuity[c] - gain[c, at_work])).sum()
        cost[column] = dollars * KILO / GIGA
    for (r, _, t), column in columns.start.items():
        run = instance.runs[r]
        held = slice(t, t + run.quarters)
        cost[column] = run.chips * (instance.discount[held] * instance.earning[run.chip, held]).sum() / GIGA
    for (m, t), column in columns.best.items():
        cost[column] = -instance.discount[t] * instance.worth[m, t] / GIGA
    offset = -(instance.fleet.sum(axis=0) * gain * instance.discount).sum() / GIGA
    return cost, float(offset)


def _family(kind: str, columns: Columns, rows) -> Family:
    """A family from (key, [(column, coefficient), ...], upper) triples; empty rows that cannot bind are left out."""
    kept = [row for row in rows if row[1] or row[2] < 0]
    entries = [(i, column, value) for i, (_, terms, _) in enumerate(kept) for column, value in terms]
    where = np.array([(i, column) for i, column, _ in entries], dtype=int).reshape(-1, 2)
    values = np.array([value for _, _, value in entries], dtype=float)
    matrix = sparse.csr_array((values, (where[:, 0], where[:, 1])), shape=(len(kept), columns.count))
    return Family(
        kind=kind,
        keys=tuple(key for key, _, _ in kept),
        matrix=matrix,
        upper=np.array([upper for _, _, upper in kept], dtype=float),
    )


def power(instance: Instance, columns: Columns) -> Family:
    """Watts of the chips owned at a site <= its power, each quarter."""
    rows = {(t, s): [] for s in range(len(instance.sites)) for t in range(len(instance.quarters))}
    for (t, s, c), column in columns.deploy.items():
        for later in owned(instance, c, t):
            rows[later, s].append((column, instance.watts[c] * KILO / MEGA))
    return _family("power", columns, [((t, s), row, instance.power[s, t] / MEGA) for (t, s), row in rows.items()])


def supply(instance: Instance, columns: Columns) -> Family:
    """Chips deployed in a quarter, over all sites <= what is supplied then; nothing before the chip's date."""
    rows = {(t, c): [] for c in range(len(instance.chips)) for t in range(len(instance.quarters))}
    for (t, _, c), column in columns.deploy.items():
        rows[t, c].append((column, 1.0))
    return _family("supply", columns, [((t, c), row, instance.supply[c, t] / KILO) for (t, c), row in rows.items()])


def release(instance: Instance, columns: Columns) -> Family:
    """Equity paid so far <= capital at the start + tranches released by the end of the quarter before."""
    rows = []
    for t in range(len(instance.quarters)):
        terms = _paid(instance, columns, t)
        if t - 1 in columns.tranches:
            terms.append((columns.tranches[t - 1], -instance.tranche / GIGA))
        rows.append(((t,), terms, instance.capital / GIGA))
    return _family("capital", columns, rows)


def tranches(instance: Instance, columns: Columns) -> Family:
    """Whole tranches released by the end of a quarter <= power deployed by then / power of a tranche."""
    rows = []
    for t, column in columns.tranches.items():
        deployed = _deployed(instance, columns, t)
        rows.append(((t,), [(column, instance.tranche_power / MEGA)] + [(x, -watts) for x, watts in deployed], 0.0))
    return _family("tranches", columns, rows)


def limit(instance: Instance, columns: Columns) -> Family:
    """Equity paid in all <= the limit."""
    terms = _paid(instance, columns, len(instance.quarters) - 1)
    return _family("limit", columns, [((), terms, instance.limit / GIGA)])


def capacity(instance: Instance, columns: Columns) -> Family:
    """Chips held by runs in a pool <= (1 - reserved) * chips at work there, each quarter and chip."""
    share = 1.0 - instance.reserved
    rows: dict[tuple[int, int, int], list] = {}
    for (r, p, t), column in columns.start.items():
        run = instance.runs[r]
        for later in range(t, t + run.quarters):
            rows.setdefault((later, p, run.chip), []).append((column, run.chips / KILO))
    for (t, s, c), column in columns.deploy.items():
        for later in working(instance, c, t):
            if (later, instance.pool[s], c) in rows:
                rows[later, instance.pool[s], c].append((column, -share))
    fleet = [(key, row, share * _fleet(instance, *key) / KILO) for key, row in rows.items()]
    return _family("capacity", columns, fleet)


def best(instance: Instance, columns: Columns) -> Family:
    """Shares of a quarter in which a rung is the best in hand add up to at most 1."""
    rows: dict[int, list] = {}
    for (_, t), column in columns.best.items():
        rows.setdefault(t, []).append((column, 1.0))
    return _family("best", columns, [((t,), row, 1.0) for t, row in rows.items()])


def having(instance: Instance, columns: Columns) -> Family:
    """A rung can be the best in hand only after a run of it has ended."""
    ended = _ended(instance, columns)
    rows = []
    for (m, t), column in columns.best.items():
        rows.append(((t, m), [(column, 1.0)] + [(y, -1.0) for end, y in ended.get(m, ()) if end <= t], 0.0))
    return _family("having", columns, rows)


def once(instance: Instance, columns: Columns) -> Family:
    """A rung is trained at most once."""
    rungs = _ended(instance, columns)
    return _family("once", columns, [((m,), [(y, 1.0) for _, y in runs], 1.0) for m, runs in rungs.items()])


def due(instance: Instance, columns: Columns) -> Family:
    """A rung that is due has a run that ends in time."""
    ended = _ended(instance, columns)
    rows = []
    for m, quarter in enumerate(instance.due):
        if quarter <= len(instance.quarters):
            rows.append(((int(quarter), m), [(y, -1.0) for end, y in ended.get(m, ()) if end <= quarter], -1.0))
    return _family("due", columns, rows)


def milestones(instance: Instance, columns: Columns) -> Family:
    """Power deployed by the end of a milestone's quarter >= what it asks for."""
    rows = []
    for t, watts in instance.milestones:
        rows.append(((t,), [(x, -value) for x, value in _deployed(instance, columns, t)], -watts / MEGA))
    return _family("milestone", columns, rows)


def _paid(instance: Instance, columns: Columns, until: int) -> list[tuple[int, float]]:
    dollars = instance.equity * instance.dollars * KILO / GIGA
    return [(column, dollars[c]) for (t, _, c), column in columns.deploy.items() if t <= until]


def _deployed(instance: Instance, columns: Columns, until: int) -> list[tuple[int, float]]:
    megawatts = instance.watts * KILO / MEGA
    return [(column, megawatts[c]) for (t, _, c), column in columns.deploy.items() if t <= until]


def _fleet(instance: Instance, quarter: int, pool: int, chip: int) -> float:
    return float(instance.fleet[instance.pool == pool, chip, quarter].sum())


def _ended(instance: Instance, columns: Columns) -> dict[int, list[tuple[int, int]]]:
    """For each rung, (quarter from which it is in hand, column) of every start."""
    ended: dict[int, list[tuple[int, int]]] = {}
    for (r, _, t), column in columns.start.items():
        run = instance.runs[r]
        ended.setdefault(run.rung, []).append((t + run.quarters, column))
    return ended
