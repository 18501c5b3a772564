"""`coopt fit` without a profile: the constants of every family and stack from a table of published steps."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from coopt.cost.quality import Z90
from coopt.fit import constants, rows, score
from coopt.fit.priors import starts
from coopt.fit.write import block, write
from coopt.problems import Problem, Refused
from coopt.spec import find
from coopt.study.scored import tables
from coopt.study.scored.evidence import measurements
from coopt.study.scored.heldout import digest

FOLDER = {"family": "families", "stack": "stacks"}


def fit(file: str | Path, *, out: str | Path | None, date: str, path: Any = None) -> dict[str, Any]:
    """Fits every constant that some row of the table uses, scores it with and without each fold, and writes profiles.

    The prior is measurements/priors.yaml; `out` is a folder as hw_profiles/ is laid out (None: nothing is written).
    Intervals come from the curvature of the fit; sigma of a family is the held-out 90% quantile of |log error| over
    1.645. Raises Refused for a table that cannot be read or has no row that can be scored.
    """
    found, skipped = tables.designs(rows.read(file), path=path)
    designs = [one for _, one in found if np.isfinite(rows.measured_step_time(one.row))]
    if not designs:
        raise Refused(Problem(str(file), 0, "rows", "a row that can be priced and scored", "none"))
    start = starts(designs, measurements().parent / "priors.yaml")
    task = constants.problem(designs, start)
    values, errors = constants.solve(task)
    table = [one.row for one in designs]
    held = constants.held_out(task, [constants.fold(row) for row in table])
    fitted = {name: (v, e, start[name]) for name, v, e in zip(task.names, values, errors, strict=True)}
    spread = sigmas(designs, task.measured, held)
    blocks, files = {}, []
    for kind, whose in sorted({name[:2] for name in task.names}):
        using = [one.hardware.chip for one in designs if getattr(one.hardware, kind) == whose]
        chips = sorted(set(using)) if kind == "family" else []
        blocks[f"{kind} {whose}, {len(using)} rows"] = text = block(
            kind, whose, fitted, spread.get(whose) if kind == "family" else None
        )
        if out is not None:
            base = find.find(kind, whose, path=path)
            files.append(str(place := _place(Path(out), FOLDER[kind], base.name)))
            over = f"{Path(file).name} (sha256 {digest(Path(file))[:16]})"
            write(place, text, rows=len(using), date=date, over=over, chips=chips, base=base)
    return {
        "command": "fit",
        "rows": str(file),
        "priced": len(designs),
        "skipped": len(skipped),
        "after": _scored(table, task.step_time(values), task.measured),
        "left_out": _scored(table, held, task.measured),
        "files": files,
        "blocks": blocks,
    }


def sigmas(designs: Sequence[rows.Design], measured: np.ndarray, held: np.ndarray) -> dict[str, float]:
    """Held-out spread of each family's log errors, duplicates counted once."""
    told = {}
    weight = score.weights([one.row for one in designs])
    for family in {one.hardware.family for one in designs}:
        at = [i for i, one in enumerate(designs) if one.hardware.family == family]
        miss = np.abs(np.log(held[at] / measured[at]))
        order = np.argsort(miss)
        reached = np.cumsum(weight[at][order]) / weight[at].sum()
        told[family] = float(miss[order][np.searchsorted(reached, 0.9)]) / Z90
    return told


def _scored(table: Sequence[Any], told: np.ndarray, measured: np.ndarray) -> dict[str, Any]:
    means = score.macro(table, told, measured)
    return score.errors(told, measured, score.weights(table)) | {f"macro_{key}": told for key, told in means.items()}


def _place(out: Path, folder: str, name: str) -> Path:
    """Where a profile is written: over itself, or as a copy in another folder."""
    try:
        (out / folder).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise Refused(Problem(str(out), 0, "out", "a folder that can be written", str(error))) from None
    return out / folder / name
