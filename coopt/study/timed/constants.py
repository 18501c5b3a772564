"""The constants of a machine that timed blocks can speak of, and their fit: a value with its uncertainty.

Robust least squares on log(predicted / measured), with a prior around what was known before, so that a constant that
no block speaks of stays where it was.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy.optimize import least_squares

from coopt.spec.constants import BACKWARD
from coopt.spec.nouns import Hardware, Ops
from coopt.study.timed.blocks import passes
from coopt.tree import replace

# Standard deviation, in log units, by which blocks may move each constant from where it stood: see `moved`.
SPREAD = {
    "matmul_32": 0.7,  # share of the peak, products in 32 bits
    "matmul_16": 0.7,
    "depth": 1.0,
    "tile": 1.0,
    "batched": 1.0,
    "backward_32": 0.2,  # rate of products in a backward pass over that forward: 1 unless blocks insist
    "backward_16": 0.2,
    "bandwidth": 0.8,  # B/s
    "passes": 0.7,
    "passes_back": 0.7,
    "attention": 0.8,  # fused kernels
    "kernel": 1.0,  # s
}
LIMITS = {
    "matmul_32": (0.02, 8.0),
    "matmul_16": (0.02, 8.0),
    "depth": (1.0, 4096.0),
    "tile": (1.0, 512.0),
    "batched": (0.01, 4.0),
    "backward_32": (0.01, 4.0),
    "backward_16": (0.01, 4.0),
    "bandwidth": (1e8, 1e14),
    "passes": (0.1, 30.0),
    "passes_back": (0.2, 20.0),
    "attention": (0.01, 1.0),
    "kernel": (1e-8, 1e-3),
}
# Times the bandwidth of an accelerator's memory that blocks may see of it: caches hold little of a block. A judgement,
# with 50 blocks of an H200 in view: without it they fit 43 TB/s of 4.8, bytes for nothing, at 4.1% instead of 4.3.
CAUGHT = 1.2
FLOOR = 0.03  # least sigma of a calibrated machine: blocks are not whole steps
STEP = 1e-4  # of a constant in units of its spread, for slopes
FAR = 10.0  # of z, beyond which every constant is at its limit


def constants_of(hardware: Hardware) -> dict[str, float]:
    """The constants of a machine that blocks can speak of."""
    return {
        "matmul_32": float(hardware.matmul[0]),
        "matmul_16": float(hardware.matmul[2]),
        "depth": float(hardware.depth),
        "tile": math.sqrt(float(hardware.tile_m * hardware.tile_n)),
        "batched": float(hardware.batched),
        "backward_32": float(hardware.backward[0]),
        "backward_16": float(hardware.backward[2]),
        "bandwidth": float(hardware.bandwidth),
        "passes": float(hardware.passes),
        "passes_back": float(hardware.passes_back),
        "attention": float(hardware.attention),
        "kernel": float(hardware.kernel),
    }


def with_constants(hardware: Hardware, constants: Mapping[str, Any]) -> Hardware:
    """The machine with those constants; leaves may be arrays."""
    own = ("depth", "batched", "bandwidth", "passes", "passes_back", "attention", "kernel")
    same = {name: constants[name] for name in own}

    def by_type(name: str, known: tuple[Any, ...]) -> tuple[Any, ...]:
        wide, half = constants[f"{name}_32"], constants[f"{name}_16"]
        return (wide, wide, half, half, *known[4:])

    return replace(
        hardware,
        matmul=by_type("matmul", hardware.matmul),
        backward=by_type("backward", hardware.backward),
        tile_m=constants["tile"],
        tile_n=constants["tile"],
        attention_backward=BACKWARD * constants["attention"],
        **same,
    )


def moved(z: np.ndarray) -> np.ndarray:
    """Log units by which constants are moved: spread x sinh(z), for z ~ N(0, 1).

    Near 0 that is a normal prior of that spread; its tails let go, so that a constant which hardly ever moves (a narrow
    spread) moves far where blocks insist, and no other takes its place.

    >>> [round(float(moved(np.full(len(SPREAD), z))[0]), 2) for z in (0.1, 1.0, 3.0)]
    [0.07, 0.82, 7.01]
    """
    return np.array(list(SPREAD.values())) * np.sinh(np.clip(z, -FAR, FAR))


def limits(hardware: Hardware) -> tuple[np.ndarray, np.ndarray]:
    """Least and largest values of the constants of a machine, in the order of SPREAD."""
    low, high = (np.array([LIMITS[name][side] for name in SPREAD]) for side in (0, 1))
    if hardware.family != "cpu":
        high[list(SPREAD).index("bandwidth")] = CAUGHT * float(hardware.bandwidth)
    return low, high


@dataclasses.dataclass(frozen=True)
class Fit:
    """Constants with their uncertainty, by blocks or before any: `z` as `moved` has them."""

    hardware: Hardware  # where they stood
    z: np.ndarray
    covariance: np.ndarray  # of z
    residual: float  # standard deviation of log(predicted / measured) beyond what noise explains

    def said(self, groups: Sequence[tuple[np.ndarray, Ops]], z: np.ndarray | None = None) -> np.ndarray:
        """Log seconds `(points, blocks, 2)` of blocks, forward and with backward; `z` is `(points, constants)`."""
        points = np.atleast_2d(self.z if z is None else z)
        low, high = np.log(limits(self.hardware))
        middle = np.log(list(constants_of(self.hardware).values()))
        values = np.exp(np.clip(middle + moved(points), low, high))
        leaves = {name: values[:, [position]] for position, name in enumerate(SPREAD)}
        told = np.empty((len(points), sum(len(at) for at, _ in groups), 2))
        for at, ops in groups:
            told[:, at] = np.stack(np.broadcast_arrays(*passes(ops, with_constants(self.hardware, leaves))), axis=-1)
        return np.log(told)

    def slopes(self, groups: Sequence[tuple[np.ndarray, Ops]]) -> np.ndarray:
        """Slopes of `said` with respect to z, `(constants, blocks, 2)`."""
        around = np.concatenate([self.z + STEP * np.eye(len(self.z)), self.z - STEP * np.eye(len(self.z))])
        points = self.said(groups, around)
        return (points[: len(self.z)] - points[len(self.z) :]) / (2 * STEP)

    def errors(self) -> dict[str, float]:
        """Standard errors of their logarithms, by the names of SPREAD."""
        slope = np.array(list(SPREAD.values())) * np.cosh(np.clip(self.z, -FAR, FAR))
        return dict(zip(SPREAD, map(float, slope * np.sqrt(np.diag(self.covariance))), strict=True))

    def constants(self) -> dict[str, float]:
        """SI, by the names of SPREAD."""
        start = np.array(list(constants_of(self.hardware).values()))
        values = np.clip(start * np.exp(moved(self.z)), *limits(self.hardware))
        found = dict(zip(SPREAD, map(float, values), strict=True))
        return found | {"tile": float(round(found["tile"]))}  # whole elements, as a profile has them


def before(hardware: Hardware) -> Fit:
    """What is known without any block."""
    many = len(SPREAD)
    return Fit(hardware, np.zeros(many), np.eye(many), 0.1)


def fit(
    hardware: Hardware, groups: Sequence[tuple[np.ndarray, Ops]], seen: np.ndarray, weight: np.ndarray,
    start: np.ndarray | None = None,
) -> Fit:  # fmt: skip
    """Constants by robust least squares on log(predicted / seen), each held to where it stood by its spread.

    Args:
      seen: log seconds, `(blocks, 2)`; NaN: left out of the fit.
      weight: 1 / log units by which each may be off.
    """
    known = before(hardware)
    kept = np.isfinite(seen)
    aims, trust = seen[kept], weight[kept]

    def residuals(z: np.ndarray) -> np.ndarray:
        miss = (known.said(groups, np.atleast_2d(z))[:, kept] - aims) * trust
        return np.concatenate([miss, np.atleast_2d(z)], axis=1)

    def slopes(z: np.ndarray) -> np.ndarray:
        points = residuals(np.concatenate([z + STEP * np.eye(len(z)), z - STEP * np.eye(len(z))]))
        return ((points[: len(z)] - points[len(z) :]) / (2 * STEP)).T

    found = least_squares(
        lambda z: residuals(z)[0],
        known.z if start is None else start,
        jac=slopes,  # pyright: ignore[reportArgumentType]
        loss="soft_l1",
        max_nfev=60,
    )
    miss = known.said(groups, found.x)[0, kept] - aims
    spread = 1.4826 * float(np.median(np.abs(miss))) if miss.size else known.residual
    return Fit(hardware, found.x, np.linalg.pinv(found.jac.T @ found.jac), max(spread, FLOOR))
