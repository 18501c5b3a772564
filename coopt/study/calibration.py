"""Calibration: a handful of a machine's constants fitted to blocks that were timed on it, and how well that holds.

Robust least squares on log(predicted / measured), with a prior around what was known before, so that a constant that
no block speaks of stays where it was. The error that counts is that of blocks left out of the fit.
"""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy.optimize import least_squares

from coopt import units
from coopt.fit import score
from coopt.spec.constants import BACKWARD
from coopt.spec.nouns import Hardware
from coopt.study.blocks import Timed, counted, passes
from coopt.tree import replace

# Standard deviation, in log units, by which blocks may move each constant from where it stood.
SPREAD = {"matmul": 0.5, "bandwidth": 0.8, "attention": 0.8, "kernel": 1.0}
LIMITS = {"matmul": (0.02, 4.0), "bandwidth": (1e8, 1e14), "attention": (0.01, 1.0), "kernel": (1e-8, 1e-3)}
NOISE = 0.05  # log units a timing may be off beyond its own spread
FLOOR = 0.03  # least sigma of a calibrated machine: blocks are not whole steps
STEP = 1e-4  # of a constant in units of its spread, for slopes
LEAST = 3  # blocks below which nothing is fitted


@dataclasses.dataclass(frozen=True)
class Calibrated:
    """What the blocks said: constants, errors before and after, and of each block when it was left out."""

    constants: Mapping[str, float]  # SI, by the names of SPREAD
    errors: Mapping[str, float]  # standard errors in log units
    sigma: float
    before: Mapping[str, Any]
    after: Mapping[str, Any]
    held_out: Mapping[str, Any]
    blocks: int


def constants_of(hardware: Hardware) -> dict[str, float]:
    """The constants of a machine that blocks can speak of."""
    return {
        "matmul": float(hardware.matmul[0]),
        "bandwidth": float(hardware.bandwidth),
        "attention": float(hardware.attention),
        "kernel": float(hardware.kernel),
    }


def with_constants(hardware: Hardware, constants: Mapping[str, Any]) -> Hardware:
    """The machine with those constants; leaves may be arrays."""
    same = {name: constants[name] for name in ("bandwidth", "attention", "kernel")}
    shares = (*(constants["matmul"] for _ in range(4)), *hardware.matmul[4:])
    return replace(hardware, matmul=shares, attention_backward=BACKWARD * constants["attention"], **same)


def calibrate(hardware: Hardware, timed: Sequence[Timed]) -> Calibrated | None:
    """Constants of `hardware` fitted to timed blocks; None where fewer than three blocks have usable times."""
    usable = [block for block in timed if block.usable]
    if len(usable) < LEAST:
        return None
    names, start = tuple(SPREAD), constants_of(hardware)
    low, high = (np.log([LIMITS[name][side] for name in names]) for side in (0, 1))
    middle = np.clip(np.log([start[name] for name in names]), low, high)
    spread = np.array(list(SPREAD.values()))
    seen = np.log([block.times() for block in usable])  # (blocks, 2)
    weight = 1.0 / np.array([_noise(block) for block in usable])

    groups = counted([block.job for block in usable])

    def said(z: np.ndarray) -> np.ndarray:
        """Log predictions `(points, blocks, 2)` under constants `middle + z spread`, z of `(points, constants)`."""
        values = np.exp(np.clip(middle + z * spread, low, high))
        leaves = {name: values[:, [position]] for position, name in enumerate(names)}
        told = np.empty((len(z), *seen.shape))
        for at, ops in groups:
            told[:, at] = np.stack(passes(ops, with_constants(hardware, leaves)), axis=-1)
        return np.log(told)

    def fit(rows: np.ndarray) -> Any:
        def residuals(z: np.ndarray) -> np.ndarray:
            miss = (said(np.atleast_2d(z)) - seen) * weight
            return np.concatenate([miss[:, rows].reshape(len(miss), -1), np.atleast_2d(z)], axis=1)

        def slopes(z: np.ndarray) -> np.ndarray:
            points = residuals(np.concatenate([z + STEP * np.eye(len(z)), z - STEP * np.eye(len(z))]))
            return ((points[: len(z)] - points[len(z) :]) / (2 * STEP)).T

        return least_squares(
            lambda z: residuals(z)[0],
            np.zeros(len(names)),
            jac=slopes,  # pyright: ignore[reportArgumentType]
            loss="soft_l1",
            max_nfev=60,
        )

    everything = np.ones(len(usable), bool)
    found = fit(everything)
    others = [np.arange(len(usable)) != i for i in range(len(usable))]
    left_out = np.array([said(fit(rows).x[None])[0, i] for i, rows in enumerate(others)])
    residual = (left_out - seen)[:, 1]
    values = np.exp(np.clip(middle + found.x * spread, low, high))
    covariance = np.linalg.pinv(found.jac.T @ found.jac)
    return Calibrated(
        constants=dict(zip(names, map(float, values), strict=True)),
        errors=dict(zip(names, map(float, spread * np.sqrt(np.diag(covariance))), strict=True)),
        sigma=max(float(np.sqrt(np.mean(residual**2))), FLOOR),
        before=_errors(said(np.zeros((1, len(names))))[0], seen),
        after=_errors(said(found.x[None])[0], seen),
        held_out=_errors(left_out, seen),
        blocks=len(usable),
    )


def _noise(block: Timed) -> list[float]:
    """Log units by which the two times of a block may be off."""
    phases = block.answer["phases"]
    spreads = [float(phases[part].get("spread") or 0.0) for part in ("forward", "forward_backward")]
    return [math.hypot(NOISE, spread) for spread in spreads]


def _errors(said: np.ndarray, seen: np.ndarray) -> dict[str, Any]:
    """Errors of forward and forward-with-backward times together, and of the latter alone."""
    every = score.errors(np.exp(said).ravel(), np.exp(seen).ravel(), np.ones(seen.size))
    both = score.errors(np.exp(said[:, 1]), np.exp(seen[:, 1]), np.ones(len(seen)))
    return every | {"forward_backward_mape": both["mape"]}


def profile(chip: Mapping[str, Any], found: Calibrated, *, date: str, blocks: str) -> dict[str, Any]:
    """The chip's file with the fitted constants in it; `blocks` says what they were fitted to."""
    data = copy.deepcopy(dict(chip))
    data["sources"] = {**data["sources"], "calibrated": {"title": f"coopt, fitted to {blocks}", "date": date}}
    data["title"] = f"{data['title']}, calibrated" if "calibrated" not in data["title"] else data["title"]

    def fitted(value: Any, name: str = "", basis: str = "") -> dict[str, Any]:
        said = {"value": value, "source": "calibrated", "kind": "fitted"}
        error = found.errors.get(name)
        basis = basis or ("" if error is None else f"standard error {error:.2g} of its logarithm")
        return said | ({"basis": basis} if basis else {})

    share = found.constants["matmul"]
    if share > 1.0:  # blocks were faster than every product measured alone: the peak was too low, no share is above it
        data["peak"] = {kind: _raised(said, share, fitted) for kind, said in data["peak"].items()}
    memory = dict(data.get("memory", {}))
    was = memory.get("bandwidth", {}).get("value")
    memory["bandwidth"] = fitted(
        units.show(found.constants["bandwidth"], "B/s", digits=6),
        basis=f"what blocks see, caches included; standard error {found.errors['bandwidth']:.2g} of its logarithm"
        + (f"; a stream was {was}" if was else ""),
    )
    data["memory"] = memory
    data["fitted"] = {
        **data.get("fitted", {}),
        "matmul_16": fitted(_rounded(min(share, 1.0)), "matmul"),
        "stream": fitted(1, basis="the bandwidth above is what a stream reaches"),
        "attention": fitted(_rounded(found.constants["attention"]), "attention"),
        "kernel": fitted(units.show(found.constants["kernel"], "s", digits=6), "kernel"),
        "sigma": fitted(_rounded(found.sigma), basis="blocks left out of the fit, one at a time"),
    }
    return data


def _raised(said: Mapping[str, Any], share: float, fitted: Any) -> dict[str, Any]:
    """A measured peak, raised to what blocks reached."""
    rate = units.parse(said["value"], "FLOP/s") * share
    return fitted(units.show(rate, "FLOP/s", digits=6), basis=f"blocks reached {share:.3g} of {said['value']}")


def document(found: Calibrated | None) -> dict[str, Any] | None:
    """Errors and constants for a document; null where nothing was fitted."""
    if found is None:
        return None
    return {
        "before": dict(found.before),
        "after": dict(found.after),
        "held_out": dict(found.held_out),
        "blocks": found.blocks,
        "sigma": found.sigma,
        "constants": dict(found.constants),
        "standard_errors": dict(found.errors),
    }


def _rounded(value: float) -> float:
    return float(f"{value:.5g}")
