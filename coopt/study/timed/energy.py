"""What blocks' joules say of a chip: idle power, joules a FLOP and a byte."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy.optimize import nnls

from coopt import units
from coopt.study.timed.blocks import PASSES, Timed

BF16 = 2.0  # its code
LEAST = 4  # runs: three constants and one to tell how well they hold


def fitted(timed: Sequence[Timed]) -> dict[str, Any] | None:
    """Idle watts, joules a FLOP and joules a byte of main memory, none negative, by runs of different intensity.

        joules = idle seconds + flop FLOPs + byte bytes,   least squares on relative errors

    FLOPs and bytes are the compiler's, of blocks in bfloat16. `error` is the mean relative error, `clock` the
    median of the sustained clocks (Hz). None for fewer than four runs, or where those do not tell the three apart.
    """
    runs = [
        (energy["joules"], energy["seconds"] / energy["repetitions"], phase["flops"], phase["bytes"], energy["clock"])
        for block in timed
        if block.job["layout"]["precision"]["linear"] == BF16
        for phase in (block.answer.get("phases", {}).get(part) or {} for part in PASSES)
        if (energy := phase.get("energy")) and energy.get("joules") and phase.get("flops") and phase.get("bytes")
    ]
    if len(runs) < LEAST:
        return None
    joules, clocks = np.array([run[0] for run in runs]), [run[4] for run in runs if run[4]]
    parts = np.array([run[1:4] for run in runs], float) / joules[:, None]
    scale = np.linalg.norm(parts, axis=0)
    if np.linalg.cond(parts / scale) > 1e3:
        return None
    found, _ = nnls(parts / scale, np.ones(len(joules)))
    idle, flop, byte = (float(value) for value in found / scale)
    miss = float(np.mean(np.abs(parts @ (found / scale) - 1.0)))
    clock = float(np.median(clocks)) if clocks else math.nan
    return {"idle": idle, "flop": flop, "byte": byte, "error": miss, "clock": clock, "runs": len(runs)}


def profile(chip: Mapping[str, Any], found: Mapping[str, Any]) -> dict[str, Any]:
    """The chip's file with idle power and joules of an operation in it, where they came out above nothing."""

    def said(value: float, unit: str) -> dict[str, Any]:
        basis = f"{found['runs']} runs of a board, at {found['clock'] / 1e9:.3g} GHz, within {found['error']:.1%}"
        return {"value": units.show(value, unit, digits=4), "source": "calibrated", "kind": "fitted", "basis": basis}

    data, spent = dict(chip), dict(chip.get("energy", {}))
    if found["idle"] > 0.0:
        data["power"] = {**chip.get("power", {}), "idle": said(found["idle"], "W")}
        data["missing"] = {name: why for name, why in chip.get("missing", {}).items() if name != "power.idle"}
    if found["flop"] > 0.0:
        spent["flop"] = {**spent.get("flop", {}), "bf16": said(found["flop"], "J/FLOP")}
    if found["byte"] > 0.0:
        spent["byte"] = said(found["byte"], "J/B")
    return data | ({"energy": spent} if spent else {})
