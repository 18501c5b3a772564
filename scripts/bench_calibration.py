"""How well a calibrated machine predicts blocks that it has not seen, and how few timings that takes.

    python scripts/bench_calibration.py --blocks=60
    python scripts/bench_calibration.py --measured=held-out.json --profile=this-host.yaml
    python scripts/bench_calibration.py --grid=600

Times random blocks on this machine (about 5 s each on two quiet cores), splits them, and prints for the held-out half:
the median and 90th-percentile error of forward and of forward with backward; Kendall's tau, the ceiling that the noise
of the timings sets, and their ratio; then the same error against the number of timings, chosen one by one for what they
tell, beside that of all timings of the other half. `--out` keeps the timings, `--measured` takes them from a file, and
`--profile` scores a profile that `coopt calibrate` wrote instead of fitting one. `--grid` times single operations
instead, products, attention, pointwise kernels and copies: of those a grid of hundreds can be timed (0.3 s each), so
that the error by a few timings, the most telling first, stands beside that by all of the grid. It also says what others
used of the machine meanwhile, and by which clock blocks are compared: at one pace of the host, or the wall's.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Mapping
from pathlib import Path

import jax
import numpy as np
from absl import app, flags

jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_enable_x64", True)

from coopt.measure.statistics import kendall_tau, noise_ceiling  # noqa: E402
from coopt.spec import load  # noqa: E402
from coopt.store import finite  # noqa: E402
from coopt.study.given import bench, machines  # noqa: E402
from coopt.study.given.emit import as_yaml  # noqa: E402
from coopt.study.timed import blocks, constants, energy, operations, survey  # noqa: E402
from coopt.study.timed.calibration import NOISE  # noqa: E402
from coopt.study.timed.choosing import informative  # noqa: E402

BLOCKS = flags.DEFINE_integer("blocks", 60, "blocks to time, half of them held out")
MEASURED = flags.DEFINE_string("measured", "", "timings of an earlier run, instead of new ones")
GRID = flags.DEFINE_integer("grid", 0, "operations to time instead of blocks, half of them held out")
HARDWARE = flags.DEFINE_string("hardware", "", "the chip that a fit begins from, instead of this host as measured")
FIT = flags.DEFINE_bool("fit", True, "whether to fit and score, and not only to time and keep")
PROFILE = flags.DEFINE_string("profile", "", "a calibrated profile to score on all of the blocks")
OUT = flags.DEFINE_string("out", "", "where to keep the timings")
SEED = flags.DEFINE_integer("seed", 1, "of the shapes and of the split")
BUDGET = flags.DEFINE_float("budget_s", blocks.BUDGET, "seconds of timing a block")
SECONDS = flags.DEFINE_float("seconds", math.inf, "after which no further block is begun")


def measured() -> dict:
    """Random blocks timed on this machine, each in a child, and the machine's profile as first measured."""
    date, ends = time.strftime("%Y-%m-%d"), time.monotonic() + SECONDS.value
    with bench.opened(True) as executor:
        here = machines.measure_host(None, executor, date=date)
        hardware = prior(here.chip)
        timed = []
        for number, job in enumerate(survey.pool(hardware, count=BLOCKS.value, seed=SEED.value)):
            if time.monotonic() > ends:
                break
            asked = {**job, "check": 0, "budget_s": BUDGET.value}
            asked |= {"energy": 1} if hardware.family != "cpu" and number < energy.ASKED else {}
            record = bench.do(None, executor, asked, deadline_s=bench.DEADLINE)
            timed.append(blocks.of_record(job, record))
            print(f"\r{len(timed)} of {BLOCKS.value} blocks, load {os.getloadavg()[0]:.1f}", end="", flush=True)
            if OUT.value:  # written as it grows: a run of an hour may be stopped
                Path(OUT.value).write_text(json.dumps(document(timed, here), indent=1))
    print()
    return document(timed, here)


def document(timed: list, here) -> dict:
    """What was timed, and the machine's profile, as `--measured` reads it."""
    how = {"versions": bench.toolchain(), "flags": bench.flags(), "profile": dict(here.chip)}
    return finite({"blocks": [block.document() for block in timed], **how})


def swept() -> dict:
    """A grid of operations timed on this machine, in one child for each type, and the machine's profile."""
    date, rows = time.strftime("%Y-%m-%d"), []
    with bench.opened(True) as executor:
        here = machines.measure_host(None, executor, date=date)
        kinds = survey.types(resolved(here.chip))
        for kind in kinds:
            job = {"kind": "sweep", "points": GRID.value // len(kinds), "precision": kind, "seed": SEED.value}
            job["budget_s"] = 0.6 * GRID.value / len(kinds)
            record = bench.do(None, executor, job, deadline_s=3600.0)
            rows += (record["result"] or {}).get("rows", [])
            print(f"{len(rows)} operations, load {os.getloadavg()[0]:.1f}", flush=True)
    return finite({"blocks": [], "operations": rows, "profile": dict(here.chip)})


def prior(chip: Mapping):
    """The machine that a fit begins from: the one that `--hardware` names, or this host as it was measured."""
    return load.resolve(HARDWARE.value, chips=1, stack="jax") if HARDWARE.value else resolved(chip)


def resolved(chip: Mapping):
    """The machine of a chip's file."""
    file = Path(f".{chip['name']}.yaml")
    file.write_text(as_yaml(dict(chip)), encoding="utf-8")
    try:
        return load.resolve(str(file), chips=1, stack="jax")
    finally:
        file.unlink()


def errors(miss: np.ndarray) -> str:
    """Median and 90th percentile of relative errors, from log(predicted / measured)."""
    off = np.abs(np.expm1(miss))
    return f"median {np.median(off):.1%}, 90% within {np.quantile(off, 0.9):.1%}"


def tell(what: str, miss: np.ndarray, seen: np.ndarray, noise: np.ndarray) -> None:
    """Errors and ranks of held-out blocks, `(blocks, 2)`."""
    both = np.exp(seen[:, 1])
    tau, ceiling = kendall_tau(seen[:, 1] + miss[:, 1], seen[:, 1]), noise_ceiling(both, both * noise)
    print(f"{what} ({len(seen)} blocks)")
    print(f"  forward                 {errors(miss[:, 0])}")
    print(f"  forward and backward    {errors(miss[:, 1])}")
    print(f"  Kendall's tau           {tau:.3f}; ceiling by noise {ceiling:.3f}; over the ceiling {tau / ceiling:.3f}")


def growing(hardware, groups, seen: np.ndarray, train: list[int], test: list[int]) -> None:
    """The held-out error as timings are added, the most telling first."""
    weight = np.full(seen.shape, 1.0 / NOISE)
    known, taken = constants.before(hardware), []

    def fitted(rows, start=None):
        return constants.fit(hardware, groups, np.where(_is(rows, len(seen)), seen, np.nan), weight, start=start)

    def error(fit) -> float:
        return float(np.nanmedian(np.abs(np.expm1(fit.said(groups)[0, test] - seen[test]))))

    whole = error(fitted(train))
    print(f"held-out median error by all {len(train)} timings: {whole:.1%}; by the most telling of them:")
    reached = None
    for count in range(1, min(len(train), 60) + 1):
        left = [i for i in train if i not in taken]
        noise = float(np.hypot(known.residual, NOISE))
        number, _ = informative(known.slopes(groups), covariance=known.covariance, noise=noise, untried=left)
        taken.append(number)
        known = fitted(taken, start=known.z)
        if reached is None and count > len(constants.SPREAD) - 1 and error(known) <= 1.05 * whole:
            reached = count
        if count in (3, 6, 9, 12, 16, 20, 24, 32, 40, 50, 60):
            print(f"  {count:3} timings  {error(known):.1%}")
    print(f"within 5% of that error after {reached or 'more than ' + str(len(taken))} timings")


def _is(rows: list[int], count: int) -> np.ndarray:
    found = np.zeros((count, 1), bool)
    found[rows] = True
    return found


def grid(data: dict) -> None:
    """The held-out error of operations by a few timings and by all of the other half."""
    hardware = prior(data["profile"])
    busy = float(np.median([row["foreign"] for row in data["operations"]]))
    rows = operations.usable(data["operations"])
    pace = np.median([row["pace"] for row in rows]) if all(row.get("pace") for row in rows) else math.nan
    seen = operations.seen(rows, float(pace))
    groups = operations.counted(rows, fused=hardware.family != "cpu")
    print(f"{len(rows)} usable operations of {len(data['operations'])};", end=" ")
    print(f"others used {busy:.0%} of the processors; pace {1e3 * pace:.1f} ms")
    order = [int(i) for i in np.random.default_rng(SEED.value).permutation(len(rows))]
    growing(hardware, groups, seen, order[: len(rows) // 2], order[len(rows) // 2 :])


def main(_: list[str]) -> None:
    """Measures or reads, splits, fits, prints."""
    data = json.loads(Path(MEASURED.value).read_text()) if MEASURED.value else swept() if GRID.value else measured()
    if OUT.value:
        Path(OUT.value).write_text(json.dumps(data, indent=1))
    if not FIT.value:
        return
    if GRID.value:
        grid(data)
        return
    timed = [block for said in data["blocks"] if (block := blocks.of_document(said)).usable]
    hardware, clock = prior(data["profile"]), blocks.clock_of(timed)
    paces = [1e3 * block.figure("forward_backward", "pace") for block in timed]
    timed = blocks.settled(timed)
    seen = np.log([block.times() for block in timed])
    noise = np.full(len(timed), NOISE)
    if clock == "wall":
        noise = np.array([block.answer["phases"]["forward_backward"].get("spread") or NOISE for block in timed])
    foreign = np.median([block.foreign for block in timed])
    print(f"{len(timed)} usable blocks of {len(data['blocks'])}; others used {foreign:.0%} of the processors;", end=" ")
    print(f"clock: {clock}, pace {np.min(paces):.1f} to {np.max(paces):.1f} ms")
    groups = blocks.counted([block.job for block in timed])
    if PROFILE.value:
        machine = load.resolve(PROFILE.value, chips=1, stack="jax")
        tell(PROFILE.value, constants.before(machine).said(groups)[0] - seen, seen, noise)
        return
    order = np.random.default_rng(SEED.value).permutation(len(timed))
    train, test = [int(i) for i in order[: len(order) // 2]], [int(i) for i in order[len(order) // 2 :]]
    tell("before calibration", (constants.before(hardware).said(groups)[0] - seen)[test], seen[test], noise[test])
    weight = np.full(seen.shape, 1.0 / NOISE)
    fit = constants.fit(hardware, groups, np.where(_is(train, len(seen)), seen, np.nan), weight)
    tell("held out, after calibration", (fit.said(groups)[0] - seen)[test], seen[test], noise[test])
    growing(hardware, groups, seen, train, test)


if __name__ == "__main__":
    app.run(main)
