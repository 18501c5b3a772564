"""`predict` and `validate`: every row of a table priced in batches, and scored against what was published."""

from __future__ import annotations

import csv
import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from coopt.cost import estimate
from coopt.cost.explain import plain
from coopt.fit import rows, runs, score
from coopt.ops import count
from coopt.problems import Problem, Refused
from coopt.spec import load
from coopt.spec.nouns import TYPES, Hardware, Tier
from coopt.store.files import writable
from coopt.tree import replace

COLUMNS = ("id", "predicted_step_time", "predicted_tokens_per_second_per_chip", "predicted_memory", "fidelity", "note")
EIGHT = TYPES.index("fp8")
# A described stack says what it fuses. Of others the number format tells their years: mixed precision in fp16 gave way
# to bf16 with the A100, and fused attention came in 2022 (Dao et al., arXiv:2205.14135), for chips that have bf16.
OLD = {"fused_attention": 0, "fused_loss": 0}
GENERIC = "generic"  # the stack of no particular name
COMPILED = "maxtext"  # what an undescribed stack on TPUs is taken for: all of them run steps that XLA compiled whole
SCALEOUT = 1e9 / 8  # Gb/s a chip in B/s


def hardware(
    row: Mapping[str, str], stack: str, path: Any = None, *, on: str | None = None
) -> tuple[Hardware, tuple[str, ...]]:
    """The named machine, else its chip's first system, with the row's own domain and network where it gives them."""
    machine = _machine(on or row["chip"].strip(), stack, path)
    domain, wire = rows.number(row, "scaleup_domain"), rows.number(row, "scaleout_gbps_per_chip")
    tiers: list[Tier] = list(machine.tiers)
    said = ()
    if tiers and not math.isnan(domain):
        tiers[0] = replace(tiers[0], size=domain)
        if domain == 72 and rows.number(row, "n_chips") in (64.0, 128.0, 256.0):
            tiers[0] = replace(tiers[0], size=64.0)
            said = ("64 of the 72 chips of a domain assumed",)
    if len(tiers) > 1 and not math.isnan(wire):
        tiers[-1] = replace(tiers[-1], bandwidth=wire * SCALEOUT)
    return replace(machine, chips=rows.number(row, "n_chips"), tiers=tuple(tiers)), said


@functools.lru_cache(maxsize=256)
def _machine(chip: str, stack: str, path: Any) -> Hardware:
    return load.resolve(chip, chips=2.0, stack=stack, path=path)


@functools.lru_cache(maxsize=64)
def practice(stack: str, path: Any = None) -> tuple[dict[str, Any], str]:
    """What a stack does by default, and the name it goes by: `generic` where no file describes it."""
    try:
        found = load.profile("stack", stack, path=path)
    except Refused:
        found = load.profile("stack", GENERIC, path=path)
    return {
        **found.data.get("practice", {}),
        "later": found.fields.later,
        "captured": found.fields.captured,
        "joint_since": found.fields.joint_since,
    }, found.name


def designs(table: Sequence[Mapping[str, str]], *, stack: str | None = None, path: Any = None, on: str | None = None):
    """The rows that can be priced, as designs with their positions, and why the others cannot: (designs, skipped).

    `on` names one system that all of them ran on; without it, each row's chip says.
    """
    found, skipped = [], {}
    for position, row in enumerate(table):
        reason = rows.unscorable(row)
        if not reason:
            try:
                name = stack or rows.stack(row) or GENERIC
                habits, called = practice(name, path)
                if habits.get("later") and _machine(row["chip"].strip(), called, path).peak[EIGHT]:
                    habits, called = practice(habits["later"], path)
                elif called == GENERIC and row["chip"].strip().startswith("tpu"):
                    habits, called = practice(COMPILED, path)
                machine, said = hardware(row, called, path, on=on)
                if called == GENERIC and row.get("precision") == "fp16":
                    habits = habits | OLD
                    said += ("attention and loss assumed not fused: fp16 is of the years before",)
                cut, notes = runs.layout(row, habits)
                if called != name:
                    notes = (f"stack {name} read as {called}", *notes)
                one = rows.Design(
                    row=row,
                    model=runs.model(row, habits),
                    layout=cut,
                    workload=runs.workload(row),
                    hardware=machine,
                    notes=(*notes, *said),
                )
                found.append((position, one))
                continue
            except Refused as refusal:
                reason = str(refusal.problems[0])
        skipped[position] = reason
    return found, skipped


def price(found: Sequence[tuple[int, rows.Design]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Step time (s), memory (B) and sigma of the log error of each design, in order."""
    times, memory, sigma = (np.full(len(found), math.nan) for _ in range(3))
    for at, (model, layout, workload, machine) in rows.batches(one for _, one in found):
        cost = estimate(count(model, layout, workload), machine)
        times[at], memory[at], sigma[at] = cost.step_time, cost.memory, machine.sigma
    return times, memory, sigma


def predict(file: str, *, out: str, stack: str | None = None, path: Any = None) -> dict[str, Any]:
    """One output row per row of the table; what cannot be priced has empty cells and a note that says why."""
    writable(out)
    table = rows.read(file)
    found, skipped = designs(table, stack=stack, path=path)
    times, memory, _ = price(found)
    told: list[dict[str, Any]] = [{} for _ in table]
    for (position, one), time, wanted in zip(found, times, memory, strict=True):
        tokens = one.workload.train.batch * one.workload.train.seq_len / one.hardware.chips
        told[position] = {
            "id": one.row.get("id") or str(position + 1),
            "predicted_step_time": plain(time),
            "predicted_tokens_per_second_per_chip": plain(tokens / time),
            "predicted_memory": plain(wanted),
            "fidelity": one.hardware.fidelity,
            "note": "; ".join(one.notes),
        }
    for position, reason in skipped.items():
        told[position] = {
            "id": table[position].get("id") or str(position + 1),
            "note": f"not priced: {reason}",
            **dict.fromkeys(COLUMNS[1:5]),
        }
    _write(out, told)
    return {"rows": told, "priced": len(found), "refused": len(skipped), "out": out}


def _write(out: str, told: Sequence[dict[str, Any]]) -> None:
    try:
        with open(out, "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(COLUMNS))
            writer.writeheader()
            writer.writerows(told)  # pyright: ignore[reportArgumentType]
    except OSError as error:
        raise Refused(Problem(file=out, field="out", expected="a file that can be written", got=str(error))) from None


def scored(kept: Sequence[Mapping[str, str]], predicted: np.ndarray, measured: np.ndarray) -> dict[str, Any]:
    """The whole score of predictions of some rows, as `coopt validate` prints it."""
    weight = score.weights(kept)
    overall = score.errors(predicted, measured, weight)
    means = score.macro(kept, predicted, measured)
    single = [i for i, row in enumerate(kept) if row.get("source", "").startswith(score.CAMPAIGN)]
    slices = {name: [i for i, row in enumerate(kept) if member(row)] for name, member in score.SLICES.items()}
    return {
        "scored": len(kept),
        **{key: value for key, value in overall.items() if key != "rows"},
        "macro_mape": means["mape"],
        "macro": means,
        "by_hardware": score.by(lambda row: row["chip"], kept, predicted, measured),
        "by_source": score.by(lambda row: row.get("source", ""), kept, predicted, measured),
        "by_cell": score.by(score.cell, kept, predicted, measured),
        "by_slice": {
            name: score.errors(predicted[at], measured[at], weight[at])
            | {"floor": score.floor([kept[i] for i in at], measured[at])}
            for name, at in slices.items()
        },
        "ranking": score.ranking(kept, predicted, measured),
        "vtrain": {
            **score.errors(predicted[single], measured[single], weight[single]),
            **score.ranking([kept[i] for i in single], predicted[single], measured[single]),
        },
        "ratios": score.ratios(kept, predicted, measured),
        "points": [
            {
                "id": row.get("id", ""),
                "hardware": row["chip"],
                "predicted_step_time": float(p),
                "measured_step_time": float(m),
            }
            for row, p, m in zip(kept, predicted, measured, strict=True)
        ],
    }
