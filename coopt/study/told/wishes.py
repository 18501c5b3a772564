"""What a model team asks of a chip team: which of a machine's numbers count for a design, how much, and how far."""

from __future__ import annotations

import math
from typing import Any

import jax

from coopt.cost import estimate
from coopt.cost.explain import plain
from coopt.ops import count
from coopt.search.elasticity import called, changes, elasticities, enough
from coopt.spec.nouns import Hardware, Ops
from coopt.study.given.designs import Design

WITHIN = 0.05  # a rate is enough where the step is this near to that of an unlimited one
BY = 0.1  # of a number: the finite change beside its derivative
# A derivative is the slope of one tooth where the finite change of the step differs from it by more than this.
TOOTH = 0.002
OF = {"step_time": "step_time", "dollars_per_token": "dollars", "joules_per_token": "joules"}
UNITS = {"peak": "FLOP/s", "bandwidth": "B/s", "host_bandwidth": "B/s", "vector": "FLOP/s", "latency": "s",
         "kernel": "s", "dispatch": "s", "cache": "B", "saturation": "B"}  # fmt: skip
RATES = ("peak", "bandwidth", "host_bandwidth")
TIMES = ("kernel", "dispatch", "latency")


def gradients(design: Design) -> dict[str, Any]:
    """The part of `explain` about the machine: elasticities, what a tenth more does, and how much of each is enough.

    `euler` is the sum of the elasticities of all rates less those of all times: -1, whatever the design.
    """
    ops, machine = count(design.model, design.layout, design.workload), design.hardware
    slopes = {name: jax.tree.leaves(elasticities(ops, machine, objective=of)) for name, of in OF.items()}
    up, down = (jax.tree.leaves(changes(ops, machine, by=by)) for by in (BY, -BY))
    rows, euler = [], 0.0
    for position, (path, value) in enumerate(jax.tree_util.tree_leaves_with_path(machine)):
        field, found = _field(path), {name: several[position] for name, several in slopes.items()}
        euler += found["step_time"] * ((field in RATES) - (field in TIMES))
        if not any(found.values()):
            continue
        row = {"name": called(path, machine), "value": plain(value), "unit": UNITS.get(field, ""), **found}
        row |= {"up": up[position], "down": down[position], "tooth": False}
        row["tooth"] = any(_tooth(found["step_time"], by, row[way]) for way, by in (("up", BY), ("down", -BY)))
        rows.append(row)
    rows.sort(key=lambda row: -abs(row["step_time"]))
    memory = estimate(ops, machine).memory
    return {
        "elasticities": rows,
        "euler": euler,
        "by": BY,
        "within": WITHIN,
        "wishes": _wishes(ops, machine),
        "memory": {"fits_from": plain(memory), "available": plain(machine.memory)},
    }


def _wishes(ops: Ops, machine: Hardware) -> list[dict[str, Any]]:
    """Every rate that the step depends on: what there is, what is enough, and what an unlimited one would gain."""
    paths, said = [], []
    for path, value in jax.tree_util.tree_leaves_with_path(machine):
        if _field(path) in RATES and value > 0.0:
            paths.append(".".join(str(getattr(key, "name", getattr(key, "idx", ""))) for key in path))
            said.append({"name": called(path, machine), "unit": UNITS[_field(path)], "now": plain(value)})
    rows = [
        {**row, "enough": row["now"] * factor, "factor": factor, "gain": gain}
        for row, (factor, gain) in zip(said, enough(ops, machine, paths, within=WITHIN), strict=True)
        if gain > 0.0
    ]
    return sorted(rows, key=lambda row: -row["gain"])


def _field(path: Any) -> str:
    """The field that a leaf belongs to: `peak` of a type's peak, `bandwidth` of a tier's."""
    return next(key.name for key in reversed(path) if hasattr(key, "name"))


def _tooth(slope: float, by: float, change: float) -> bool:
    """True where a finite change does something else than the slope says, second order allowed for."""
    expected = math.expm1(slope * math.log1p(by))
    return abs(change - expected) > TOOTH + 0.25 * abs(expected)
