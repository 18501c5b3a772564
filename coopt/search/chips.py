"""A chip as axes of a space, beside the shapes and layouts of whatever work it is to do.

A candidate is a design and one piece of work for each future that it may meet; the expression builds the chip and
prices each piece on it. So a search of chips is a search of a space like any other: what evolution, gradients and walks
along axes do in `refine.py`, they do to chips and layouts together.
"""

from __future__ import annotations

import dataclasses
import functools
import operator
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from coopt.cost.silicon import build, silicon
from coopt.cost.silicon import choices as chosen
from coopt.search.price import Expression, Score
from coopt.search.refine import GENERATIONS, refine
from coopt.search.space import Axis, Candidate, Space, axis, candidate, digits, product
from coopt.spec.silicon import Design, Process
from coopt.tree import replace, struct
from coopt.xp import maximum

MI = 2.0**20
CODES = {"node": "nodes", "memory": "memories", "link": "links"}  # all that a process has; no order, so no end
LIMITS = ("area", "power", "cost", "supply", "date")  # what a chip may be at most, beside the limits of physics


def ladder(low: float, high: float, each: int) -> tuple[float, ...]:
    """Whole numbers from `low` to `high`, `each` of them to a doubling.

    >>> ladder(8.0, 32.0, 2)
    (8.0, 11.0, 16.0, 23.0, 32.0)
    """
    steps = round(each * float(np.log2(high / low)))
    return tuple(float(round(low * 2.0 ** (step / each))) for step in range(steps + 1))


# What a designer can set, smallest first. `multipliers` are those of all matrix units together.
CHOICES: Mapping[str, tuple[float, ...]] = {
    "multipliers": ladder(2.0**14, 2.0**24, 4),
    "edge": ladder(8.0, 512.0, 1),
    "lanes": ladder(1024.0, 2.0**17, 2),
    "exponentials": ladder(256.0, 2.0**15, 2),
    "sram": tuple(MI * size for size in ladder(4.0, 4096.0, 2)),
    "clock": tuple(5e7 * step for step in range(12, 65)),
    "four": (0.0, 4.0),
    "spare": tuple(0.02 * step for step in range(31)),
    "dies": (1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0),
    "stacks": tuple(float(number) for number in range(1, 25)),
    "scale_up": tuple(1e9 * rate for rate in ladder(25.0, 25600.0, 2)),
    "domain": (4.0, 8.0, 16.0, 32.0, 64.0, 72.0, 128.0, 144.0, 256.0, 512.0, 1024.0, 2048.0, 4096.0),
    "scale_out": tuple(1e9 * rate for rate in (3.125, 6.25, 12.5, 25.0, 50.0, 100.0, 200.0, 400.0)),
}


@struct
class Ordered:
    """A chip that is still free, and its work in each future."""

    design: Design = Design()
    multipliers: Any = 0.0  # of all matrix units; how many units that are depends on their edge
    works: tuple[Candidate, ...] = ()


@dataclasses.dataclass(frozen=True, eq=False)
class Work:
    """One piece of work: the shapes, layouts and numbers of chips that may do it, its weight, and its own limits."""

    name: str
    space: Space
    weight: float = 1.0
    limits: Mapping[str, float] = dataclasses.field(default_factory=dict)


def choices(process: Process) -> dict[str, tuple[float, ...]]:
    """The choices with every node, memory and link of a process.

    >>> from coopt.spec.process import process
    >>> choices(process())["node"]
    (0.0, 1.0, 2.0, 3.0)
    """
    codes = {field: tuple(float(i) for i in range(len(getattr(process, kind)))) for field, kind in CODES.items()}
    return {**CHOICES, **codes}


def together(base: Design, offered: Mapping[str, Sequence[float]], works: Sequence[Work]) -> Space:
    """The space of designs around a base, times that of each work; of no work, that of designs alone."""
    axes = [axis(name, "multipliers" if name == "multipliers" else f"design.{name}", some)
            for name, some in offered.items()]  # fmt: skip
    for position, work in enumerate(works):
        axes += [_below(one, position) for one in work.space.axes]
    whole: Any = Ordered(design=base, works=tuple(work.space.base for work in works))
    return product(axes, whole, name="chips")


def _below(one: Axis, position: int) -> Axis:
    paths = tuple(f"works.{position}.{path}" for path in one.paths)
    return dataclasses.replace(one, name=f"{position}.{one.name}", paths=paths)


def design_of(candidate: Any) -> Design:
    """The design of an `Ordered`, its matrix units counted."""
    edge = candidate.design.edge
    return replace(candidate.design, units=candidate.multipliers / (edge * edge))


def loads(design: Design, process: Process, limits: Mapping[str, float]) -> dict[str, Any]:
    """How much of each limit a design takes, 1 at the limit: die over reticle, edge over shore, W over W, ...

    Those of physics hold always; `limits` are of area (m2), power (W), cost (USD a chip to whoever orders), supply
    (stacks of HBM in all) and date (year; a year late is 2).
    """
    made, package = silicon(design, process), process.package
    node, _, link = chosen(design, process)
    taken = {
        "reticle": made.die / package.reticle,
        "edge": made.edge / made.shore,
        "interposer": made.interposer / package.interposer,
        "heat": made.density / package.heat,
        "voltage": made.voltage / (package.overdrive * node.voltage),
        "reach": design.domain / link.reach,
    }
    asked = {"area": made.area, "power": made.watts, "cost": made.price, "supply": design.stacks * design.volume}
    taken |= {name: asked[name] / limits[name] for name in asked if name in limits}
    return taken | ({"date": 1.0 + made.date - limits["date"]} if "date" in limits else {})


def worst(taken: Mapping[str, Any]) -> Any:
    """The limit that a design exceeds most, as its load."""
    return functools.reduce(maximum, taken.values())


def census(taken: Mapping[str, np.ndarray]) -> dict[str, dict[str, int]]:
    """Of each limit: how many designs it removes, and how many that no other one does.

    >>> census({"area": np.array([2.0, 1.0]), "power": np.array([3.0, 0.5])})["area"]
    {'removed': 1, 'alone': 0}
    """
    over = {name: np.asarray(share) > 1.0 + 1e-9 for name, share in taken.items()}
    often = sum(one.astype(int) for one in over.values())
    return {name: {"removed": int(one.sum()), "alone": int((one & (often == 1)).sum())} for name, one in over.items()}


@dataclasses.dataclass(frozen=True)
class Priced:
    """An expression over `Ordered`: an objective is the weighed sum over the works, `0.NAME` is of the first one alone.

    Loads of chips have their own names, `worst` is the largest of them.
    """

    process: Process
    limits: Mapping[str, float]  # of chips, as `loads` has them
    expression: Expression  # of one work on a machine
    weights: tuple[float, ...] = ()

    def __call__(self, candidate: Any, objectives: tuple[str, ...]) -> Score:
        """The score of an `Ordered`."""
        design = design_of(candidate)
        taken = loads(design, self.process, self.limits)
        asked = tuple(dict.fromkeys(name.rpartition(".")[2] for name in objectives if name not in {*taken, "worst"}))
        machine = build(design, self.process)
        scores = [self.expression(replace(work, hardware=machine), asked) for work in candidate.works]

        def value(name: str) -> Any:
            if name == "worst":
                return worst(taken)
            if name in taken:
                return taken[name]
            position, _, own = name.rpartition(".")
            several = [score.objectives[asked.index(own)] for score in scores]
            return several[int(position)] if position else sum(map(operator.mul, self.weights, several))

        verdict = functools.reduce(maximum, [score.verdict for score in scores], 0.0)
        return Score(verdict=verdict, objectives=tuple(value(name) for name in objectives))


@dataclasses.dataclass(frozen=True, eq=False)
class Sought:
    """What a search of chips ends at: the value, the digits in its space, the design, how many were priced."""

    value: float
    digits: tuple[int, ...]
    design: Design
    evaluated: int


def seek(
    base: Design,
    offered: Mapping[str, Sequence[float]],
    works: Sequence[Work],
    priced: Priced,
    objective: str,
    *,
    starts: Sequence[tuple[Design, Sequence[int]]] = (),
    seed: int = 0,
    generations: int = GENERATIONS,
    gradients: bool = True,
) -> Sought | None:
    """The best design for some works and the best use of it in each, as far as evolution, gradients and walks find it.

    `starts` are designs with the index of a candidate of each work; the answer is no worse than the nearest points to
    them. None where nothing within the limits was found.
    """
    space = together(base, offered, works)
    limits = dict.fromkeys(loads(base, priced.process, priced.limits), 1.0) if works else {}
    limits |= {f"{i}.{name}": bound for i, work in enumerate(works) for name, bound in work.limits.items()}
    placed = [
        (
            *nearest(design, offered),
            *(d for work, at in zip(works, indices, strict=True) for d in digits(work.space, at)),
        )
        for design, indices in starts
    ]
    found = refine(space, objectives=(objective,), limits=limits, expression=priced, starts=placed, seed=seed,
                   generations=generations, gradients=gradients, keep=1)  # fmt: skip
    if not len(found.top.indices):
        return None
    at = int(found.top.indices[0])
    design = replace(design_of(candidate(space, at)), name=base.name)
    return Sought(float(found.top.values[0, 0]), digits(space, at), design, found.evaluated)


def nearest(design: Design, offered: Mapping[str, Sequence[float]]) -> tuple[int, ...]:
    """The point closest to a design, each variable by its ratio."""
    values = {name: float(getattr(design, name)) for name in offered if name != "multipliers"}
    values["multipliers"] = float(design.units * design.edge * design.edge)
    ratios = {name: np.log((np.asarray(some) + 1e-9) / (values[name] + 1e-9)) for name, some in offered.items()}
    return tuple(int(np.argmin(np.abs(ratio))) for ratio in ratios.values())


def at_ends(design: Design, offered: Mapping[str, Sequence[float]]) -> tuple[str, ...]:
    """Variables that stand at the first or last of more than two ordered choices: a wider choice may be better."""
    here = nearest(design, offered)
    return tuple(
        name
        for at, (name, some) in zip(here, offered.items(), strict=True)
        if name not in CODES and len(some) > 2 and at in (0, len(some) - 1)
    )
