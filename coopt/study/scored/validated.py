"""`validate`: a table priced and scored, what of it was held out of the fit, and every figure beside its target."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from coopt.cost.quality import Z90
from coopt.fit import rows, score, transfer
from coopt.study.scored import heldout, memory, tables
from coopt.study.scored.reach import reach


def validate(file: str, *, stack: str | None = None, path: Any = None) -> dict[str, Any]:
    """The predictions of a table scored against its measurements; see `coopt.fit.score` for each figure.

    For the table that ships, `held_out` scores the same rows by constants fitted without their fold, and `left_out`
    by constants fitted without their chip, its whole family, or their publication: see `coopt.study.scored.heldout`.
    `reach` lists every figure of the project's table with its target.
    """
    table = rows.read(file)
    found, skipped = tables.designs(table, stack=stack, path=path)
    times, wanted, sigma = tables.price(found)
    measured = np.array([rows.measured_step_time(one.row) for _, one in found])
    known = np.isfinite(measured) & (measured > 0) & np.isfinite(times)
    reasons: dict[str, int] = {}
    for reason in (*skipped.values(), *("no measurement" for ok in known if not ok)):
        reasons[reason] = reasons.get(reason, 0) + 1
    kept = [one.row for (_, one), ok in zip(found, known, strict=True) if ok]
    times, measured, sigma = times[known], measured[known], sigma[known]
    scorable = [row for row in table if (row.get("scorable") or "yes").strip() == "yes"]
    told = tables.scored(kept, times, measured) | {
        "rows": len(table),
        "skipped": dict(sorted(reasons.items(), key=lambda pair: -pair[1])),
        "scorable": len(scorable),
        "refused_share": 1.0 - len(kept) / len(scorable) if scorable else None,
        "memory": _memory(Path(file), [one.row for _, one in found], wanted),
        "file": file,
    }
    held = heldout.columns(file, kept, times) if path is None and stack is None else {}
    if held:
        said = tables.scored(kept, held["fold"], measured)
        told["held_out"] = {key: value for key, value in said.items() if key != "points"}
        told["left_out"] = {
            "date": str(heldout.known()["date"]),
            "sibling": heldout.known()["sibling"],
            **{kind: transfer.summary(kept, held[kind], measured) for kind in ("chip", "family")},
            **{key: heldout.known()[key] for key in ("source", "holds", "by_chip", "by_family", "by_source")},
        }
    told["coverage"] = _coverage(kept, held.get("fold", times), measured, sigma)
    return told | {"reach": reach(told)}


def _coverage(
    kept: Sequence[Mapping[str, str]], predicted: np.ndarray, measured: np.ndarray, sigma: np.ndarray
) -> dict[str, Any]:
    """The share of rows inside the stated 90% interval, of those that have one; duplicates share a vote."""
    has = np.isfinite(sigma)
    if not has.any():
        return {"share": None, "rows": 0}
    inside = np.abs(np.log(predicted / measured))[has] <= Z90 * sigma[has]
    weight = score.weights([row for row, ok in zip(kept, has, strict=True) if ok])
    return {"share": float(np.average(inside, weights=weight)), "rows": int(has.sum())}


def _memory(file: Path, table: Sequence[Mapping[str, str]], wanted: np.ndarray) -> dict[str, Any]:
    """Errors of counted memory: the parts of a `memory.csv` beside the table, and the peaks of its own rows."""
    beside = file.with_name("memory.csv")
    parts = memory.parts(beside) if beside.is_file() else []
    told = {name: [one for one in parts if one["part"] == name] for name in ("parameters+optimizer", "activations")}
    told["peaks"] = memory.peaks(table, wanted.tolist())
    return {name: memory.errors(some) | {"told": some} for name, some in told.items()}
