"""`coopt calibrate --from=tpu:v6e`: constants of a chip fitted to its compiler's cycles of products, with no chip."""

from __future__ import annotations

import copy
import math
import re
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from scipy.optimize import least_squares

from coopt import workers
from coopt.cost.roofline import matmul_time
from coopt.fit import score
from coopt.problems import Problem, Refused
from coopt.spec import load
from coopt.spec.nouns import Hardware, Row
from coopt.store.files import write_whole
from coopt.store.identity import finite
from coopt.study import bench, cycles, targets
from coopt.study.emit import as_yaml
from coopt.tree import replace

SLICE = {"v5e": "1x1", "v6e": "1x1"}  # the smallest; of the others 1x1x1
LONG, SHORT = (512, 2048, 8192), (1024, 4096, 16384)
# Squares and slabs; then thin ones, which memory bounds, and short reductions, which fill and drain.
SIZES = (
    *((m, n, k) for m in LONG for n in SHORT for k in LONG),
    *((128, 8192, 8192), (8192, 128, 8192), (8192, 8192, 128)),
    *((256, 4096, 4096), (4096, 4096, 256), (8192, 28672, 8192)),
)  # fmt: skip
CONSTANTS = {"matmul": (0.02, 1.0), "depth": (1.0, 4096.0), "stream": (0.05, 1.0)}  # within these
FOLDS = 5
SOURCE = "cycles"


def calibrate(options: Any, *, hardware: Callable[[Mapping[str, Any], Any], Hardware]) -> dict[str, Any]:
    """The chip's profile with its products' constants fitted to cycles, written to `--out`; the error held out.

    Attention, network and whatever else has no estimate stay as they were. Raises Refused for an unknown chip.
    """
    asked = str(getattr(options, "from"))
    found = re.fullmatch(r"tpu:(\w+)", asked)
    if not found or options.measured:
        hint = "measured blocks are a calibration of their own" if found else "write `--from=tpu:v6e`"
        raise Refused(Problem(field="from", expected="a TPU alone, such as tpu:v6e", got=asked[:60], hint=hint))
    target, known = targets.resolved(f"tpu:{found[1]}:{SLICE.get(found[1], '1x1x1')}")
    chip = load.profile("chip", options.hardware or known["profile"], path=options.profile_path).data
    answer = _swept(target, options.block_seconds or targets.DEADLINE)
    cores = answer["devices_a_chip"]
    rates = cycles.rates(chip["name"], path=options.profile_path)
    # Where a device is a core, half of a product is what it gets of one.
    sizes = np.array([(m * cores, n, k) for m, n, k in SIZES], float)
    seen = np.array([math.nan if c is None else c / rates.clock for c in answer["cycles"]])
    usable = np.isfinite(seen)
    fitted = fit(hardware(chip, options.profile_path), sizes[usable], seen[usable])
    said = f"{int(usable.sum())} products compiled by XLA (libtpu {answer['libtpu']}), cycles over the clock"
    data = profile(chip, fitted, said=said, date=time.strftime("%Y-%m-%d"))
    out = Path(options.out or f"{data['name']}-cycles.yaml")
    write_whole(out, as_yaml(data).encode())
    return finite({"command": "calibrate", "profile": str(out), "name": data["name"], "from": asked, **fitted})


def _swept(target: str, deadline: float) -> Mapping[str, Any]:
    job = {"kind": "products", "target": target, "sizes": [list(size) for size in SIZES]}
    job["texts"] = str(Path(targets.TEXTS).expanduser())
    with workers.process(preload=bench.PRELOAD) as executor:
        outcome = executor.run(workers.Job(bench.JOB, job, deadline))
    if not outcome.ok or outcome.result is None:
        got = f"{outcome.status}: {outcome.message[:200]}"
        raise Refused(Problem(field="from", expected="cycles of products", got=got))
    return outcome.result


def fit(hardware: Hardware, sizes: np.ndarray, seen: np.ndarray) -> dict[str, Any]:
    """Share of the peak, reduction lost and share of the bandwidth by `matmul_time`, robustly in logarithms.

    Args:
      sizes: (products, 3), m, n and k.
      seen: seconds of each, for the whole chip.

    Returns:
      `constants`, `standard_errors` (of logarithms), and errors `before`, `after` and `held_out` in five folds.
    """
    m, n, k = sizes.T
    rows = Row(kind="matmul", m=m, n=n, k=k, type=2.0, read=2.0 * (m * k + k * n), written=2.0 * m * n)
    names = tuple(CONSTANTS)
    low, high = (np.log([CONSTANTS[name][side] for name in names]) for side in (0, 1))
    start = np.clip(
        np.log([float(hardware.matmul[2]), float(hardware.depth), float(hardware.stream)]), low + 1e-6, high - 1e-6
    )

    def said(z: np.ndarray) -> np.ndarray:
        matmul, depth, stream = np.exp(z)
        shares = tuple(matmul for _ in hardware.matmul)
        return np.asarray(matmul_time(replace(hardware, matmul=shares, depth=depth, stream=stream), rows))

    def solve(keep: np.ndarray) -> Any:
        return least_squares(
            lambda z: (np.log(said(z)) - np.log(seen))[keep], start, bounds=(low, high), loss="soft_l1", f_scale=0.1
        )

    everything = np.ones(len(seen), bool)
    found = solve(everything)
    held = np.empty(len(seen))
    for fold in range(FOLDS):
        out = np.arange(len(seen)) % FOLDS == fold
        held[out] = said(solve(~out).x)[out]
    spread = 2.0 * found.cost / max(1, len(seen) - len(names))
    errors = np.sqrt(np.diag(np.linalg.pinv(found.jac.T @ found.jac)) * spread)
    one = np.ones(len(seen))
    return {
        "constants": dict(zip(names, map(float, np.exp(found.x)), strict=True)),
        "standard_errors": dict(zip(names, map(float, errors), strict=True)),
        "before": score.errors(said(start), seen, one),
        "after": score.errors(said(found.x), seen, one),
        "held_out": score.errors(held, seen, one),
        "products": len(seen),
    }


def profile(chip: Mapping[str, Any], fitted: Mapping[str, Any], *, said: str, date: str) -> dict[str, Any]:
    """The chip's file with the fitted constants in it, each with its standard error."""
    data = copy.deepcopy(dict(chip))
    data["sources"] = {**data["sources"], SOURCE: {"title": f"coopt, {said}", "date": date}}
    words = {"matmul": "matmul_16", "depth": "depth", "stream": "stream"}
    data["fitted"] = {
        **data.get("fitted", {}),
        **{
            words[name]: {
                "value": float(f"{value:.5g}"),
                "source": SOURCE,
                "kind": "fitted",
                "basis": f"standard error {fitted['standard_errors'][name]:.2g} of its logarithm",
            }
            for name, value in fitted["constants"].items()
        },
    }
    return data
