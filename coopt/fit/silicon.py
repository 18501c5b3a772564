"""Constants of a process that nobody publishes, from area, watts and parts of known chips; each left out in turn.

Constants are fitted in the logarithm around a prior, by the least squares of log(predicted / published). A figure is
published as a value, or as a range; what a file marks as assumed is compared with and never fitted to.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
from scipy.optimize import least_squares

from coopt.cost.silicon import silicon
from coopt.spec.find import Folders, names
from coopt.spec.process import design
from coopt.spec.profiles import profile
from coopt.spec.silicon import Design, Process
from coopt.tree import replace

# Constant: its prior (SI) and the standard deviation of the prior's logarithm.
PRIORS: Mapping[str, tuple[float, float]] = {
    "blocks.port": (6000e-12, 0.7),
    "blocks.lane": (12000e-12, 0.5),
    "blocks.exponential": (100000e-12, 0.5),
    "blocks.control": (0.3, 0.4),
    "blocks.multiply": (0.4e-12, 0.5),
    "blocks.feed": (6e-12, 0.7),
    "blocks.vector": (8e-12, 0.5),
    "package.price": (0.45e6, 0.3),
    "package.test": (400.0, 0.5),
}
FIGURES = {"area": "area", "tdp": "watts", "parts": "parts"}  # as published: as a field of `Silicon`
NEAR = 0.10  # a value published alone is met within this
SPREAD = 0.06  # standard deviation of the logarithm of a figure without a range


@dataclasses.dataclass(frozen=True)
class Known:
    """A chip that exists: its design, and its figures as (low, value, high, fitted to); `die` names its silicon."""

    name: str
    die: str
    design: Design
    figures: Mapping[str, tuple[float, float, float, bool]]

    def inside(self, figure: str, predicted: float) -> bool:
        """Whether a prediction lies in the published range, or within a tenth of the one published value."""
        low, value, high, _ = self.figures[figure]
        return low <= predicted <= high if low < high else abs(predicted / value - 1.0) <= NEAR


def known(process: Process, *, path: Folders = None) -> tuple[Known, ...]:
    """Every design file that has published figures."""
    found = []
    for name in names("design", path=path):
        file = profile("design", name, path=path)
        published = file.fields.published
        given = {figure: q for figure in FIGURES if (q := getattr(published, figure)) is not None}
        figures = {
            figure: (q.low or q.value, q.value, q.high or q.value, q.kind != "assumed") for figure, q in given.items()
        }
        if figures:
            found.append(Known(name, file.fields.extends or name, design(name, process, path=path), figures))
    return tuple(found)


def fit(process: Process, chips: Sequence[Known]) -> Process:
    """The process with the constants of PRIORS fitted to the figures of some chips."""
    priors = np.log([value for value, _ in PRIORS.values()])
    spreads = np.array([spread for _, spread in PRIORS.values()])
    targets = [
        (chip, figure, *_target(bounds)) for chip in chips for figure, bounds in chip.figures.items() if bounds[3]
    ]

    def misses(constants: np.ndarray) -> np.ndarray:
        given = with_constants(process, constants)
        made = {chip.name: silicon(chip.design, given) for chip in chips}
        off = [
            (np.log(getattr(made[chip.name], FIGURES[figure])) - middle) / spread
            for chip, figure, middle, spread in targets
        ]
        return np.concatenate([off, (constants - priors) / spreads])

    return with_constants(process, least_squares(misses, priors).x)


def with_constants(process: Process, logarithms: np.ndarray) -> Process:
    """The process with the constants of PRIORS set, from their logarithms."""
    for position, name in enumerate(PRIORS):
        section, field = name.split(".")
        changed = replace(getattr(process, section), **{field: float(np.exp(logarithms[position]))})
        process = replace(process, **{section: changed})
    return process


def left_out(process: Process, chips: Sequence[Known]) -> dict[str, dict[str, float]]:
    """Each chip's figures predicted by a fit to those of other dies: {chip: {figure: prediction}}."""
    told = {}
    for chip in chips:
        made = silicon(chip.design, fit(process, [other for other in chips if other.die != chip.die]))
        told[chip.name] = {figure: float(getattr(made, field)) for figure, field in FIGURES.items()}
    return told


def _target(bounds: tuple[float, float, float, bool]) -> tuple[float, float]:
    """Middle and spread of a figure's logarithm: a range counts as 90 % of a normal distribution."""
    low, value, high, _ = bounds
    middle = 0.5 * (np.log(low) + np.log(high)) if low < high else np.log(value)
    return middle, max(SPREAD, (np.log(high) - np.log(low)) / (2 * 1.6449))
