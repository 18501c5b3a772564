"""Fits the constants of chip families and software stacks to the published steps in measurements/training.csv.

    python scripts/fit_published.py            # about 3 minutes on two cores; rewrites hw_profiles/{families,stacks}
    python scripts/fit_published.py --dry      # prints and writes nothing

Prints the score of the fit on all rows, and of five folds held out by source and model. The intervals of the files
come from the curvature of the fit; sigma of a family is the held-out 90% quantile of |log error| over 1.645.
"""

import math
from pathlib import Path

import jax
import numpy as np
from absl import app, flags

from coopt.fit import constants, rows, score
from coopt.fit.priors import starts
from coopt.fit.write import block, write
from coopt.spec import find
from coopt.study import tables
from coopt.study.evidence import measurements

DRY = flags.DEFINE_bool("dry", False, "print, and write nothing")
DATE = flags.DEFINE_string("date", "2026-11-23", "the date that the files give for the fit")
Z90 = 1.645


def sigmas(designs, task, held) -> dict[str, float]:
    """Held-out spread of each family's log errors, duplicates counted once."""
    told = {}
    weight = score.weights([one.row for one in designs])
    for family in {one.hardware.family for one in designs}:
        at = [i for i, one in enumerate(designs) if one.hardware.family == family]
        miss = np.abs(np.log(held[at] / task.measured[at]))
        order = np.argsort(miss)
        reached = np.cumsum(weight[at][order]) / weight[at].sum()
        told[family] = float(miss[order][np.searchsorted(reached, 0.9)]) / Z90
    return told


def main(_):
    jax.config.update("jax_enable_x64", True)
    found, _ = tables.designs(rows.read(measurements()))
    designs = [one for _, one in found]
    start = starts(designs, measurements().parent / "priors.yaml")
    task = constants.problem(designs, start)
    values, errors = constants.solve(task)
    table = [one.row for one in designs]
    held = constants.held_out(task, [constants.fold(row) for row in table])
    for name, told in (("all rows", task.step_time(values)), ("five folds", held)):
        overall = score.errors(told, task.measured, score.weights(table))
        means = score.macro(table, told, task.measured)
        print(
            f"{name}: MAPE {overall['mape']:.3f} median {overall['median_ape']:.3f} bias {overall['bias']:+.3f}; "
            f"macro {means['mape']:.3f} bias {means['bias']:+.3f} worst {means['worst_mape']:.3f} {means['worst']}"
        )
    fitted = {name: (v, e, start[name]) for name, v, e in zip(task.names, values, errors, strict=True)}
    spread = sigmas(designs, task, held)
    for kind, whose in sorted({name[:2] for name in task.names}):
        used = sum(getattr(one.hardware, kind) == whose for one in designs)
        text = block(kind, whose, fitted, spread.get(whose) if kind == "family" else None)
        print(f"# {kind} {whose}, {used} rows\n{text}")
        if not DRY.value:
            write(Path(find.find(kind, whose)), text, rows=used, date=DATE.value)
    assert all(math.isfinite(value) for value in values)


if __name__ == "__main__":
    app.run(main)
