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

from coopt import units
from coopt.fit import score
from coopt.measure.statistics import kendall_tau, noise_ceiling
from coopt.spec.nouns import Hardware
from coopt.study.timed import operations
from coopt.study.timed.afresh import repeat, together
from coopt.study.timed.blocks import PASSES, Timed, clock_of, counted, pace_of, settled
from coopt.study.timed.constants import FLOOR, SPREAD, before, fit

NOISE = 0.05  # log units a timing may be off beyond its own spread
LEAST = 3  # blocks below which nothing is fitted
SAME = ("batched", "backward_32", "backward_16", "passes", "passes_back")  # as a profile has them, names and all
SPOKEN = 0.5  # of its spread, below which the error of a type's share must be for blocks to have spoken of it
FOLDS = 10  # in which blocks are left out of the fit


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
    operations: int = 0
    clock: str = "wall"  # wall | paced: see `blocks.settled`
    repeat: float = math.nan  # log units by which a block differs from one process to the next; NaN: none was repeated
    tau: float = math.nan  # Kendall's, of blocks left out of the fit
    tau_ceiling: float = math.nan  # what a perfect model would reach, the timings being as noisy as they are


def calibrate(hardware: Hardware, timed: Sequence[Timed], swept: Sequence[Mapping[str, Any]] = ()) -> Calibrated | None:
    """Constants of `hardware` fitted to timed blocks; None where fewer than three blocks have usable times.

    `swept` are operations timed alone, rows of a `sweep` job, which enter the same fit; errors are those of blocks.

    Blocks and operations are compared at one pace of the host: see `blocks.settled`. A block that was timed in several
    processes is one row, their mean; how far such timings differ is what a timing may be off, and the least that
    `sigma` can be. A block alone in its number format is fitted and not held out: no other speaks of that format.
    """
    clock, pace = clock_of(timed), pace_of(timed)
    usable = together(settled(timed))
    if len(usable) < LEAST:
        return None
    seen = np.array([np.mean(np.log([one.times() for one in block]), axis=0) for block in usable])
    again = repeat(usable)
    weight = 1.0 / np.array([_noise(block, clock, again) for block in usable])
    groups = counted([block[0].job for block in usable])
    alone = operations.usable(swept)
    fused = bool(usable[0][0].job["layout"]["fused_attention"])
    every = [*groups, *operations.counted(alone, fused=fused, first=len(usable))]
    told = np.concatenate([seen, operations.seen(alone, pace)])
    trust = np.concatenate([weight, np.full((len(alone), 2), 1.0 / operations.NOISE)])
    found = fit(hardware, every, told, trust)
    left_out = np.empty_like(seen)
    for number in range(folds := min(FOLDS, len(usable))):
        out = np.arange(len(told)) % folds == number
        out[len(usable) :] = False
        without = fit(hardware, every, np.where(out[:, None], np.nan, told), trust, start=found.z)
        left_out[out[: len(usable)]] = without.said(every)[0, out]
    judged = _judged(usable)
    left, shown = left_out[judged], seen[judged]
    return Calibrated(
        constants=found.constants(),
        errors=found.errors(),
        sigma=max(FLOOR, float(np.sqrt(np.mean((left - shown)[:, 1] ** 2))), again),
        before=_errors(before(hardware).said(groups)[0], seen),
        after=_errors(found.said(groups)[0], seen),
        held_out=_errors(left, shown),
        blocks=len(usable),
        operations=len(alone),
        clock=clock,
        repeat=again,
        tau=kendall_tau(left[:, 1], shown[:, 1]),
        tau_ceiling=noise_ceiling(np.exp(shown[:, 1]), np.exp(shown[:, 1]) / weight[judged, 1]),
    )


def _judged(usable: Sequence[Sequence[Timed]]) -> np.ndarray:
    """Which blocks an error is held out from: those whose number format another has as well, or else all."""
    formats = [block[0].job["layout"]["precision"]["linear"] for block in usable]
    shared = np.array([formats.count(one) > 1 for one in formats])
    return shared if shared.any() else ~shared


def _noise(block: Sequence[Timed], clock: str, again: float) -> list[float]:
    """Log units by which the mean of a block's timings may be off, forward and with backward."""
    least = max(NOISE, again) / math.sqrt(len(block))  # NOISE first: NaN, where none was repeated, is not the larger
    if clock == "paced":  # the spread of a timing is that of the host as well, which its pace takes out
        return [least, least]
    phases = block[0].answer["phases"]
    return [math.hypot(least, float(phases[part].get("spread") or 0.0)) for part in PASSES]


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

    names = {"fp32": "matmul_32", "tf32": "matmul_32", "bf16": "matmul_16", "fp16": "matmul_16"}
    names = {kind: name for kind, name in names.items() if kind in data["peak"]}
    spoken = {kind: name for kind, name in names.items() if found.errors[name] < SPOKEN * SPREAD[name]} or names
    shares = {kind: found.constants[name] for kind, name in spoken.items()}
    # One share for all wide types stands in a profile; what a type reaches beyond it goes into that type's peak.
    best = max(shares, key=shares.__getitem__)
    share = min(1.0, shares[best])
    data["peak"] = {
        kind: _scaled(said, shares[kind] / share, fitted) if kind in shares else said
        for kind, said in data["peak"].items()
    }
    memory = dict(data.get("memory", {}))
    was = memory.get("bandwidth", {}).get("value")
    memory["bandwidth"] = fitted(
        units.show(found.constants["bandwidth"], "B/s", digits=6),
        basis=f"what blocks see, caches included; standard error {found.errors['bandwidth']:.2g} of its logarithm"
        + (f"; a stream was {was}" if was else ""),
    )
    data["memory"] = memory
    tile = int(found.constants["tile"])
    data["tile"] = {**data.get("tile", {}), "m": tile, "n": tile, "source": "calibrated", "kind": "fitted"}
    data["fitted"] = {
        **data.get("fitted", {}),
        "matmul_16": fitted(_rounded(share), names[best]),
        "depth": fitted(_rounded(found.constants["depth"]), "depth"),
        **{name: fitted(_rounded(found.constants[name]), name) for name in SAME},
        "stream": fitted(1, basis="the bandwidth above is what a stream reaches"),
        "attention": fitted(_rounded(found.constants["attention"]), "attention"),
        "kernel": fitted(units.show(found.constants["kernel"], "s", digits=6), "kernel"),
        "sigma": fitted(_rounded(found.sigma), basis="blocks left out of the fit, one at a time"),
    }
    return data


def _scaled(said: Mapping[str, Any], times: float, fitted: Any) -> Mapping[str, Any]:
    """A measured peak, moved to what blocks reached."""
    if abs(times - 1.0) < 1e-9:
        return said
    rate = units.parse(said["value"], "FLOP/s") * times
    return fitted(units.show(rate, "FLOP/s", digits=6), basis=f"blocks reached {times:.3g} of {said['value']}")


def document(found: Calibrated | None) -> dict[str, Any] | None:
    """Errors and constants for a document; null where nothing was fitted."""
    if found is None:
        return None
    return {
        "before": dict(found.before),
        "after": dict(found.after),
        "held_out": dict(found.held_out),
        "blocks": found.blocks,
        "operations": found.operations,
        "sigma": found.sigma,
        "clock": found.clock,
        "repeat": found.repeat,
        "tau": found.tau,
        "tau_ceiling": found.tau_ceiling,
        "constants": dict(found.constants),
        "standard_errors": dict(found.errors),
    }


def _rounded(value: float) -> float:
    return float(f"{value:.5g}")
