"""Chips as a space of choices: what a designer can set, what limits remove, and the walk from a design to a better one.

A point is one whole number a variable: the position of its choice. Points of the space are far too many to price;
a sample is priced, and the best of it walk, one variable at a time, until no single change helps. That is a local
optimum of a search that proves nothing, and is said so where it is told.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from coopt.cost.silicon import choices as chosen
from coopt.cost.silicon import silicon
from coopt.spec.silicon import Design, Process
from coopt.tree import replace

MI = 2.0**20
# Each variable's choices, smallest first. `multipliers` are those of all matrix units together.
CHOICES: Mapping[str, tuple[float, ...]] = {
    "multipliers": tuple(float(round(2 ** (16 + step / 2))) for step in range(13)),
    "edge": (16.0, 32.0, 64.0, 128.0, 256.0),
    "lanes": (2048.0, 4096.0, 8192.0, 16384.0, 32768.0),
    "exponentials": (512.0, 1024.0, 2048.0, 4096.0, 8192.0),
    "sram": (8 * MI, 16 * MI, 32 * MI, 64 * MI, 128 * MI, 256 * MI, 512 * MI),
    "clock": tuple(1e8 * step for step in range(8, 25)),
    "four": (0.0, 4.0),
    "spare": (0.0, 0.03, 0.06, 0.1, 0.15),
    "dies": (1.0, 2.0, 4.0),
    "node": (),  # all that the process has
    "stacks": (2.0, 4.0, 6.0, 8.0, 12.0, 16.0),
    "memory": (),
    "scale_up": (1.5e11, 3e11, 4.5e11, 6e11, 9e11, 1.2e12, 1.8e12),
    "link": (),
    "domain": (8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0),
    "scale_out": (2.5e10, 5e10, 1e11),
}
TRADED = ("multipliers", "edge", "lanes", "sram", "clock", "dies", "stacks", "scale_up", "domain")  # two at a time
CODES = {"node": "nodes", "memory": "memories", "link": "links"}  # no order: never at an edge
NO_LIMIT = float("inf")

Price = Callable[[np.ndarray], np.ndarray]  # points (n, variables) -> values (n,), smaller is better


@dataclasses.dataclass(frozen=True)
class Limits:
    """What a chip may be at most; those of physics (reticle, edge, interposer, heat, voltage, reach) always hold."""

    area: float = NO_LIMIT  # m2 of silicon
    power: float = NO_LIMIT  # W
    cost: float = NO_LIMIT  # USD a chip to whoever orders
    supply: float = NO_LIMIT  # stacks of HBM in all
    date: float = NO_LIMIT  # year


def choices(process: Process) -> dict[str, tuple[float, ...]]:
    """The choices with every node, memory and link of a process.

    >>> from coopt.spec.process import process
    >>> choices(process())["node"]
    (0.0, 1.0, 2.0, 3.0)
    """
    codes = {field: tuple(float(i) for i in range(len(getattr(process, kind)))) for field, kind in CODES.items()}
    return {**CHOICES, **codes}


def designs(points: np.ndarray, offered: Mapping[str, Sequence[float]], base: Design) -> Design:
    """The designs at some points, leaves of shape `(n,)`, around a base for what is not varied."""
    values = {name: np.asarray(offered[name])[points[:, i]] for i, name in enumerate(offered)}
    units = values.pop("multipliers") / (values["edge"] * values["edge"])
    return replace(base, units=units, **values)


def loads(design: Design, process: Process, limits: Limits) -> dict[str, np.ndarray]:
    """How much of each limit a design takes, 1 at the limit: die over reticle, edge over shore, W over W, ..."""
    made, package = silicon(design, process), process.package
    node, _, link = chosen(design, process)
    return {
        "reticle": made.die / package.reticle,
        "edge": made.edge / made.shore,
        "interposer": made.interposer / package.interposer,
        "heat": made.density / package.heat,
        "voltage": made.voltage / (package.overdrive * node.voltage),
        "reach": design.domain / link.reach,
        "area": made.area / limits.area,
        "power": made.watts / limits.power,
        "cost": made.price / limits.cost,
        "supply": design.stacks * design.volume / limits.supply,
        "date": 1.0 + (made.date - limits.date) if limits.date < NO_LIMIT else 0.0 * made.date,
    }


def census(taken: Mapping[str, np.ndarray]) -> dict[str, dict[str, int]]:
    """Of each limit: how many designs it removes, and how many that no other one does.

    >>> census({"area": np.array([2.0, 1.0]), "power": np.array([3.0, 0.5])})["area"]
    {'removed': 1, 'alone': 0}
    """
    over = {name: np.asarray(share) > 1.0 + 1e-9 for name, share in taken.items()}
    often = sum(one.astype(int) for one in over.values())
    return {name: {"removed": int(one.sum()), "alone": int((one & (often == 1)).sum())} for name, one in over.items()}


def worst(taken: Mapping[str, np.ndarray]) -> np.ndarray:
    """The limit that a design exceeds most, as its load."""
    return np.max(np.stack(np.broadcast_arrays(*taken.values())), axis=0)


def sample(offered: Mapping[str, Sequence[float]], n: int, *, seed: int) -> np.ndarray:
    """Points at random, `(n, variables)`; the same for the same seed."""
    rng = np.random.default_rng(seed)
    return np.stack([rng.integers(0, len(offered[name]), n) for name in offered], axis=1)


def nearest_point(design: Design, offered: Mapping[str, Sequence[float]]) -> np.ndarray:
    """The point closest to a design, each variable by its ratio."""
    values = {name: float(getattr(design, name)) for name in offered if name != "multipliers"}
    values["multipliers"] = float(design.units * design.edge * design.edge)
    return np.array(
        [
            int(np.argmin([abs(np.log((option + 1e-9) / (values[name] + 1e-9))) for option in offered[name]]))
            for name in offered
        ]
    )


def neighbours(point: np.ndarray, offered: Mapping[str, Sequence[float]]) -> np.ndarray:
    """Every point that differs in one variable, and those with one step more of one and one less of another."""
    found = []
    sizes = [len(options) for options in offered.values()]
    for i, size in enumerate(sizes):
        for other in range(size):
            if other != point[i]:
                found.append(_moved(point, {i: other}))
    traded = [i for i, name in enumerate(offered) if name in TRADED]
    for i in traded:
        for j in traded:
            up, down = point[i] + 1, point[j] - 1
            if i != j and up < sizes[i] and down >= 0:
                found.append(_moved(point, {i: up, j: down}))
    return np.array(found)


def _moved(point: np.ndarray, changes: Mapping[int, int]) -> np.ndarray:
    moved = point.copy()
    for position, value in changes.items():
        moved[position] = value
    return moved


def walk(start: np.ndarray, offered: Mapping[str, Sequence[float]], price: Price, *, steps: int = 40) -> np.ndarray:
    """From a point to the best of its neighbours, until none is better: the point that is reached."""
    here, value = start, float(price(start[None, :])[0])
    for _ in range(steps):
        around = neighbours(here, offered)
        values = price(around)
        best = int(np.argmin(values))
        if not values[best] < value:
            break
        here, value = around[best], float(values[best])
    return here


def at_ends(point: np.ndarray, offered: Mapping[str, Sequence[float]]) -> tuple[str, ...]:
    """Variables that stand at the first or last of more than two ordered choices: a wider choice may be better."""
    return tuple(
        name
        for i, name in enumerate(offered)
        if name not in CODES and len(offered[name]) > 2 and point[i] in (0, len(offered[name]) - 1)
    )
