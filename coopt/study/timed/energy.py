"""What blocks' joules say of a chip: idle power, joules a FLOP and a byte."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy.optimize import nnls

from coopt import units
from coopt.cost.roofline import traffic
from coopt.spec.nouns import Hardware
from coopt.study.timed.blocks import COMPUTE, PASSES, Timed, counted

BF16 = 2.0  # its code
LEAST = 4  # runs: three constants and one to tell how well they hold
ASKED = 10  # blocks of a calibration that run under the counter, two seconds each pass


def fitted(timed: Sequence[Timed], hardware: Hardware, *, idle: float = math.nan) -> dict[str, Any] | None:
    """Joules a FLOP and a byte of main memory, none negative, by runs of different intensity; idle watts if not known.

        joules = idle seconds + flop FLOPs + byte bytes,   least squares on relative errors

    FLOPs and bytes are those that pricing counts on `hardware`, of blocks in bfloat16: compilers count none for GPUs.
    `error` is the mean relative error, `clock` the median of the sustained clocks (Hz), `watts` that of the board. None
    for fewer than four runs, or where those do not tell the constants apart.

    Args:
      idle: W of the board with nothing running. Runs alone do not tell it where a board is at the limit of its power:
        all of them then take the same.
    """
    blocks = [block for block in timed if block.job["layout"]["precision"]["linear"] == BF16]
    runs = [
        (energy["joules"], energy["seconds"] / energy["repetitions"], *amounts, energy["clock"])
        for block, done in zip(blocks, work([block.job for block in blocks], hardware), strict=True)
        for part, amounts in zip(PASSES, done, strict=True)
        if (energy := (block.answer.get("phases", {}).get(part) or {}).get("energy")) and energy.get("joules")
    ]
    if len(runs) < LEAST:
        return None
    joules, clocks = np.array([run[0] for run in runs]), [run[4] for run in runs if run[4]]
    parts = np.array([run[1:4] for run in runs], float) / joules[:, None]
    known = math.isfinite(idle)
    free, left = (parts[:, 1:], 1.0 - idle * parts[:, 0]) if known else (parts, np.ones(len(runs)))
    scale = np.linalg.norm(free, axis=0)
    if np.linalg.cond(free / scale) > 1e3:
        return None
    found = nnls(free / scale, left)[0] / scale
    rest, flop, byte = map(float, (idle, *found) if known else found)
    miss = float(np.mean(np.abs(free @ found - left)))
    clock = float(np.median(clocks)) if clocks else math.nan
    watts = float(np.median(1.0 / parts[:, 0]))
    return {"idle": rest, "idle_known": known, "flop": flop, "byte": byte, "error": miss, "clock": clock,
            "watts": watts, "runs": len(runs)}  # fmt: skip


def work(jobs: Sequence[Mapping[str, Any]], hardware: Hardware) -> np.ndarray:
    """FLOPs of products and bytes of main memory `(blocks, 2, 2)`: of the forward pass, and of forward and backward."""
    done = np.zeros((len(jobs), 2, 2))
    for at, ops in counted(jobs):
        for row in ops.rows:
            if row.scope != "layer" or row.kind not in COMPUTE:
                continue
            flops = row.flops if row.kind in ("matmul", "attention") else 0.0
            amounts = np.stack(np.broadcast_arrays(row.count * flops, row.count * traffic(hardware, row)), axis=-1)
            done[at, 1 if row.phase != "forward" else 0] += amounts
    done[:, 1] += done[:, 0]
    return done


def profile(chip: Mapping[str, Any], found: Mapping[str, Any]) -> dict[str, Any]:
    """The chip's file with idle power and joules of an operation in it, where they came out above nothing."""

    def said(value: float, unit: str) -> dict[str, Any]:
        basis = f"{found['runs']} runs of a board at {found['watts']:.3g} W and {found['clock'] / 1e9:.3g} GHz"
        return {"value": units.show(value, unit, digits=4), "source": "calibrated", "kind": "fitted",
                "basis": f"{basis}, within {found['error']:.1%}"}  # fmt: skip

    data, spent = dict(chip), dict(chip.get("energy", {}))
    if found["idle"] > 0.0 and "idle" not in chip.get("power", {}):
        rest = said(found["idle"], "W")
        rest |= {"kind": "measured", "basis": "with nothing running"} if found["idle_known"] else {}
        data["power"] = {**chip.get("power", {}), "idle": rest}
        data["missing"] = {name: why for name, why in chip.get("missing", {}).items() if name != "power.idle"}
    if found["flop"] > 0.0:
        spent["flop"] = {**spent.get("flop", {}), "bf16": said(found["flop"], "J/FLOP")}
    if found["byte"] > 0.0:
        spent["byte"] = said(found["byte"], "J/B")
    return data | ({"energy": spent} if spent else {})
