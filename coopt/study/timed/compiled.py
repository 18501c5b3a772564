"""`coopt calibrate --from=tpu:v6e`: constants of a chip fitted to its compiler's cycles of products, with no chip."""

from __future__ import annotations

import copy
import math
import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from scipy.optimize import least_squares

from coopt import workers
from coopt.fit import score
from coopt.problems import Problem, Refused
from coopt.spec import load
from coopt.store.files import write_whole
from coopt.store.identity import finite
from coopt.study.given import bench
from coopt.study.given.emit import as_yaml
from coopt.study.timed import cycles, targets

SLICE = {"v5e": "1x1", "v6e": "1x1"}  # the smallest; of the others 1x1x1
LONG, SHORT = (512, 2048, 8192), (1024, 4096, 16384)
# Squares and slabs; then thin ones, which memory bounds, and short reductions, which fill and drain.
SIZES = (
    *((m, n, k) for m in LONG for n in SHORT for k in LONG),
    *((128, 8192, 8192), (8192, 128, 8192), (8192, 8192, 128)),
    *((256, 4096, 4096), (4096, 4096, 256), (8192, 28672, 8192)),
)  # fmt: skip
ELEMENTWISE = tuple((name, 8192, 8192) for name in ("copy", "add", "gelu", "norm", "softmax"))
STREAMS = {"copy": 2, "add": 3, "gelu": 2, "norm": 2, "softmax": 2}  # arrays read and written
CONSTANTS = {"matmul": (0.02, 1.0), "stream": (0.05, 1.0)}  # within these
# The compiler's own, which no chip has: it charges the writing of results, and elementwise work, by a multiple of what
# their bytes take, and each operation some time. Left in, short reductions would be taken for a slow chip.
COMPILER = {"written": (1.0, 10.0), "each": (1e-9, 1e-4)}
FOLDS = 5
SOURCE = "cycles"


def calibrate(options: Any) -> dict[str, Any]:
    """The chip's profile with what products' cycles say of it, written to `--out`; the error held out.

    Elementwise work is estimated too, at multiples of what its bytes take (`elementwise` in the answer), and says
    nothing of the chip; attention kernels and collectives have no estimate: all of these stay as they were. Raises
    Refused for an unknown chip.
    """
    asked = str(getattr(options, "from"))
    found = re.fullmatch(r"tpu:(\w+)", asked)
    if not found or options.measured:
        hint = "measured blocks are a calibration of their own" if found else "write `--from=tpu:v6e`"
        raise Refused(Problem(field="from", expected="a TPU alone, such as tpu:v6e", got=asked[:60], hint=hint))
    target, known = targets.resolved(f"tpu:{found[1]}:{SLICE.get(found[1], '1x1x1')}")
    chip = load.profile("chip", options.hardware or known["profile"], path=options.profile_path).data
    answer = _swept(target, options.block_seconds or targets.DEADLINE)
    rates = cycles.rates(chip["name"], devices_a_chip=answer["devices_a_chip"], path=options.profile_path)
    sizes = np.array(SIZES, float)
    seen = np.array([math.nan if c is None else c / rates.clock for c in answer["cycles"]])
    usable = np.isfinite(seen)
    fitted = fit(rates, sizes[usable], seen[usable])
    said = f"{int(usable.sum())} products compiled by XLA (libtpu {answer['libtpu']}), cycles over the clock"
    data = profile(chip, fitted, said=said, date=time.strftime("%Y-%m-%d"))
    out = Path(options.out or f"{data['name']}-cycles.yaml")
    write_whole(out, as_yaml(data).encode())
    over = {
        name: found / rates.clock * rates.bandwidth / (2.0 * STREAMS[name] * m * n)
        for (name, m, n), found in zip(ELEMENTWISE, answer["elementwise"], strict=True)
        if found is not None
    }
    document = {"command": "calibrate", "profile": str(out), "name": data["name"], "from": asked, **fitted}
    return finite({**document, "elementwise": over, "no_estimate": "attention kernels, collectives"})


def _swept(target: str, deadline: float) -> Mapping[str, Any]:
    job: dict[str, Any] = {"kind": "products", "target": target, "sizes": [list(size) for size in SIZES]}
    job["elementwise"] = [list(one) for one in ELEMENTWISE]
    job["texts"] = str(Path(targets.TEXTS).expanduser())
    with workers.process(preload=bench.PRELOAD) as executor:
        outcome = executor.run(workers.Job(bench.JOB, job, deadline))
    if not outcome.ok or outcome.result is None:
        got = f"{outcome.status}: {outcome.message[:200]}"
        raise Refused(Problem(field="from", expected="cycles of products", got=got))
    return outcome.result


def fit(rates: cycles.Rates, sizes: np.ndarray, seen: np.ndarray) -> dict[str, Any]:
    """Share of the peak and of the bandwidth behind a compiler's estimates of products, robustly in logarithms.

        estimate = max(FLOPs / (matmul peak), bytes / (stream bandwidth), written bytes written / bandwidth) + each

    The windows that a compiler pipelines overlap wholly, hence the maximum; `written` and `each` are its own.

    Args:
      sizes: (products, 3), m, n and k, for one device.
      seen: seconds of each.

    Returns:
      `constants`, the `compiler`'s own, `standard_errors` (of logarithms), and errors `after` and `held_out` in folds.
    """
    m, n, k = sizes.T
    compute, every, result = 2.0 * m * n * k / rates.peak, 2.0 * (m * k + k * n + m * n) / rates.bandwidth, 2.0 * m * n
    within = CONSTANTS | COMPILER
    low, high = (np.log([bounds[side] for bounds in within.values()]) for side in (0, 1))

    def said(z: np.ndarray) -> np.ndarray:
        matmul, stream, written, each = np.exp(z)
        return np.maximum.reduce([compute / matmul, every / stream, written * result / rates.bandwidth]) + each

    def solve(keep: np.ndarray) -> Any:
        def miss(z: np.ndarray) -> np.ndarray:
            return (np.log(said(z)) - np.log(seen))[keep]

        starts = [np.log([0.8, 0.8, written, 1e-6]) for written in (1.0 + 1e-6, 3.0)]
        found = [least_squares(miss, start, bounds=(low, high), loss="soft_l1", f_scale=0.1) for start in starts]
        return min(found, key=lambda one: one.cost)

    found = solve(np.ones(len(seen), bool))
    held = np.empty(len(seen))
    for fold in range(FOLDS):
        out = np.arange(len(seen)) % FOLDS == fold
        held[out] = said(solve(~out).x)[out]
    spread = 2.0 * found.cost / max(1, len(seen) - len(within))
    errors = np.sqrt(np.diag(np.linalg.pinv(found.jac.T @ found.jac)) * spread)
    values, one = dict(zip(within, map(float, np.exp(found.x)), strict=True)), np.ones(len(seen))
    return {
        "constants": {name: values[name] for name in CONSTANTS},
        "compiler": {name: values[name] for name in COMPILER},
        "standard_errors": dict(zip(CONSTANTS, map(float, errors), strict=False)),
        "after": score.errors(said(found.x), seen, one),
        "held_out": score.errors(held, seen, one),
        "products": len(seen),
    }


def profile(chip: Mapping[str, Any], fitted: Mapping[str, Any], *, said: str, date: str) -> dict[str, Any]:
    """The chip's file with the fitted constants in it, each with its standard error."""
    data = copy.deepcopy(dict(chip))
    data["sources"] = {**data["sources"], SOURCE: {"title": f"coopt, {said}", "date": date}}
    words = {"matmul": "matmul_16", "stream": "stream"}
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
