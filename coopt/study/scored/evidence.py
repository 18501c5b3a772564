"""The evidence card: how sure a number is, what it assumed, and the published runs nearest to it with our error."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from coopt.cost.explain import plain
from coopt.cost.quality import Z90
from coopt.fit import rows
from coopt.ops.shapes import active_parameters
from coopt.spec.find import shipped
from coopt.spec.nouns import Hardware
from coopt.study.given.designs import Design
from coopt.study.scored import heldout
from coopt.study.scored.tables import designs, price

NEAREST = 3


def measurements() -> Path:
    """The published training measurements that ship with coopt."""
    return shipped() / "measurements" / "training.csv"


def card(design: Design, step_time: float | None) -> dict[str, Any]:
    """Interval (90%, s), fidelity, stack, assumptions, and the nearest published rows with what we say of them."""
    machine = design.hardware
    moved = transfer(machine)
    said = design.assumed
    if moved:
        said += (f"never compared with a run; {moved['of']} left out of the fit are off by {moved['mape']:.0%} (mean"
                 f" of {moved['rows']:,} rows, {moved['date']}), and the interval is as wide as that",)  # fmt: skip
    return {
        "transfer": moved,
        "interval": None if step_time is None else interval(step_time, sigma(machine)),
        "fidelity": machine.fidelity,
        "stack": machine.stack,
        "assumed": list(said),
        "nearest": nearest(design),
    }


def transfer(machine: Hardware) -> dict[str, Any] | None:
    """What machines like one that was never compared are missed by when left out of the fit; None for one that was.

    Of a measured family, those are chips left out whose family kept another; else whole families left out.

    From measurements/held_out.yaml: rows, mape, bias and sigma of the log error, with the date they were made.
    """
    unknown = math.isnan(float(machine.sigma))
    if machine.fidelity != "transferred" and not unknown:
        return None
    kind, of = ("family", "families") if unknown else ("sibling", "chips of measured families")
    held = heldout.known()
    return {"of": of, "date": str(held["date"]), **held[kind]}


def sigma(machine: Hardware) -> float:
    """Standard deviation of log(measured / predicted): the machine's own, and no less than `transfer` says."""
    moved, own = transfer(machine), float(machine.sigma)
    return own if moved is None else max(moved["sigma"], 0.0 if math.isnan(own) else own)


def interval(value: float, sigma: float) -> list[float]:
    """The central 90% of what is `value`, give or take a standard deviation `sigma` of its logarithm.

    >>> [round(end, 3) for end in interval(10.0, 0.1)]
    [8.483, 11.788]
    """
    return [value * math.exp(-Z90 * sigma), value * math.exp(Z90 * sigma)]


@functools.lru_cache(maxsize=1)
def _published() -> tuple[list, np.ndarray, np.ndarray]:
    """The measured rows as designs, their predicted and their measured step times."""
    path = measurements()
    if not path.exists():
        return [], np.zeros(0), np.zeros(0)
    found, _ = designs(rows.read(path))
    predicted, _, _ = price(found)
    return found, predicted, np.array([rows.measured_step_time(one.row) for _, one in found])


def nearest(design: Design) -> list[dict[str, Any]]:
    """The published rows nearest in chip, scale, size, sequence and precision; distance 0 is the same run.

    The distance adds |log2| of the ratios of chips, active parameters and sequence length, 1 for another precision
    and stack, 2 for another chip of the family and 6 for another family.
    """
    found, predicted, measured = _published()
    if not found:
        return []
    machine, phase = design.hardware, design.workload.train
    size = float(active_parameters(design.model))
    told = []
    for (_, one), said, seen in zip(found, predicted, measured, strict=True):
        row = one.row
        chip = 0.0 if row["chip"] == machine.chip else 2.0 if one.hardware.family == machine.family else 6.0
        distance = chip + float(row.get("precision", "") != design.layout.precision.name)
        distance += float(row.get("stack", "") != machine.stack)
        distance += abs(math.log2(float(one.hardware.chips) / float(machine.chips)))
        distance += abs(math.log2(_active(one, size) / size))
        distance += abs(math.log2(rows.number(row, "seq_len") / float(phase.seq_len)))
        told.append((distance, row, seen, said))
    told.sort(key=lambda entry: (entry[0], entry[1].get("id", "")))
    return [
        {
            "id": row.get("id", ""),
            "distance": round(distance, 3),
            "measured": plain(seen),
            "predicted": plain(said),
            "what": _words(row),
        }
        for distance, row, seen, said in told[:NEAREST]
    ]


def _active(one: rows.Design, otherwise: float) -> float:
    value = float(active_parameters(one.model))
    return value if math.isfinite(value) and value > 0 else otherwise


def _words(row: Mapping[str, str]) -> str:
    """A measured row in a few words: model, chips, precision, source."""
    where = f"{row['n_chips']} x {row['chip']}, {row.get('precision', '?')}"
    return f"{row.get('model', '?')} on {where} ({row.get('source', '')[:48]})"
