"""A scenario in numbers: what the programme reads, and nothing else."""

from __future__ import annotations

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
    """One way of training one rung of the ladder: on which chip, holding how many, for how many quarters."""

    rung: int
    chip: int
    chips: float  # held, spares included
    quarters: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Instance:
    """A scenario in numbers: T quarters, S sites, C chips, M rungs; SI units, USD."""

    quarters: tuple[str, ...]
    decided: int  # decisions are made in the first so many quarters; the others only count what they bring
    sites: tuple[str, ...]
    chips: tuple[str, ...]
    rungs: tuple[str, ...]
    power: np.ndarray  # (S, T) IT W there for new chips
    supply: np.ndarray  # (C, T) chips that can be had in a quarter; 0 before the chip's date
    date: np.ndarray  # (C,) first quarter a chip exists in; T or more: never
    watts: np.ndarray  # (C,) IT W a chip, all in
    dollars: np.ndarray  # (C,) USD a chip
    lifetime: np.ndarray  # (C,) quarters of work
    commissioning: int  # quarters from deployment to work
    fleet: np.ndarray  # (S, C, T) chips of the initial fleet at work, on power of their own
    pool: np.ndarray  # (S,) sites of one number can train one run together
    annuity: np.ndarray  # (C,) USD a quarter for each chip at work
    electricity: np.ndarray  # (C, T) USD a quarter for each chip at work
    earning: np.ndarray  # (C, T) USD a quarter for each chip at work that does not train
    reserved: float  # share of the chips at work that may never train
    runs: tuple[Run, ...]
    worth: np.ndarray  # (M, T) USD a quarter while the rung is the best model in hand
    due: np.ndarray  # (M,) quarter by whose start the rung must be trained; more than T: no need
    discount: np.ndarray  # (T,)
    equity: float  # share of a chip's price paid from the released capital
    capital: float  # USD there at the start
    tranche: float  # USD released each time
    tranche_power: float  # W deployed that release a tranche
    limit: float  # USD in all
    milestones: tuple[tuple[int, float], ...] = ()  # (quarter, W deployed by its end)


def working(instance: Instance, chip: int, deployed: int) -> range:
    """The quarters in which a chip deployed in a quarter works: after commissioning, for its lifetime."""
    first = deployed + instance.commissioning
    return range(min(first, len(instance.quarters)), min(first + int(instance.lifetime[chip]), len(instance.quarters)))


def owned(instance: Instance, chip: int, deployed: int) -> range:
    """The quarters in which a chip deployed in a quarter takes power: from then on, to the end of its life."""
    last = deployed + instance.commissioning + int(instance.lifetime[chip])
    return range(deployed, min(last, len(instance.quarters)))


def reach(instance: Instance) -> np.ndarray:
    """(P, C, T) chips at work that a pool could have at most, whatever is decided: bounded by power and supply."""
    pools, chips, quarters = int(instance.pool.max()) + 1, len(instance.chips), len(instance.quarters)
    most = np.zeros((pools, chips, quarters))
    came = np.cumsum(instance.supply, axis=1)
    for site, pool in enumerate(instance.pool):
        for quarter in range(quarters):
            before = quarter - instance.commissioning
            if before >= 0:
                most[pool, :, quarter] += np.where(
                    came[:, before] > 0, instance.power[site, before] / instance.watts, 0
                )
            most[pool, :, quarter] += instance.fleet[site, :, quarter]
    lag = instance.commissioning
    bought = np.concatenate([np.zeros((chips, lag)), came], axis=1)[:, :quarters]
    fleet = np.stack([instance.fleet[instance.pool == p].sum(axis=0) for p in range(pools)])
    return np.minimum(most, bought + fleet)


def example() -> Instance:
    """A small instance for doctests: one site of a megawatt, one chip of 1 kW and 10,000 USD, nothing to train."""
    count = 3
    return Instance(
        quarters=("2026Q3", "2026Q4", "2027Q1"),
        decided=count,
        sites=("here",),
        chips=("chip",),
        rungs=(),
        power=np.full((1, count), 1e6),
        supply=np.full((1, count), 600.0),
        date=np.array([0]),
        watts=np.array([1e3]),
        dollars=np.array([1e4]),
        lifetime=np.array([20]),
        commissioning=1,
        fleet=np.zeros((1, 1, count)),
        pool=np.array([0]),
        annuity=np.array([500.0]),
        electricity=np.full((1, count), 100.0),
        earning=np.full((1, count), 1000.0),
        reserved=0.5,
        runs=(),
        worth=np.zeros((0, count)),
        due=np.zeros(0, dtype=int),
        discount=np.ones(count),
        equity=1.0,
        capital=1e8,
        tranche=0.0,
        tranche_power=1e9,
        limit=1e8,
    )
