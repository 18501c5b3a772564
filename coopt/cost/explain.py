"""`explain`: one design's operations beside their cost, as a plain document; the same rows, so nothing is retold."""

from __future__ import annotations

import math
from typing import Any

import jax
import numpy as np

from coopt.cost.estimate import estimate
from coopt.ops import count
from coopt.ops.shapes import layers
from coopt.spec.nouns import (
    BOUNDS,
    OPTIMIZERS,
    ORDERS,
    RECOMPUTE,
    SCHEDULES,
    TRANSPORTS,
    VERDICTS,
    Cost,
    Hardware,
    Layout,
    Model,
    Ops,
    Workload,
)
from coopt.tree import replace

MFU_CONVENTION = "(6W + 1.5A) tokens / (step time x chips x dense peak of the recipe); recompute not counted"
CODES = {
    "recompute": RECOMPUTE,
    "schedule": SCHEDULES,
    "order": ORDERS,
    "transport": TRANSPORTS,
    "optimizer": OPTIMIZERS,
}


def explain(model: Model, layout: Layout, workload: Workload, hardware: Hardware) -> dict[str, Any]:
    """One design priced row by row: times s, bytes B, FLOP; times of the rows add to the step time.

    A design that cannot run has `feasible: false`, a verdict, and in `limits` what is wanted, what there is and the
    smallest change of one layout field that would fit; its step time is null.

    >>> from coopt.spec.load import layout, model, resolve
    >>> llama, machine = model("llama3-70b"), resolve("dgx-h100", chips=1024)
    >>> from coopt.spec.nouns import training
    >>> told = explain(llama, layout("tp=8,pp=4", chips=1024)[0], training(8192.0, 1024.0), machine)
    >>> told["verdict"], abs(sum(row["time"] for row in told["rows"]) / told["step_time"] - 1) < 1e-9
    ('fits', True)
    """
    ops = count(model, layout, workload)
    cost = estimate(ops, hardware)
    if int(cost.verdict) == 0 and abs(ops.chips - hardware.chips) > 0.5:
        cost = replace(cost, verdict=float(VERDICTS.index("chips")))
    verdict = VERDICTS[int(cost.verdict)]
    feasible = verdict == "fits"
    return {
        "model": model.name,
        "hardware": hardware.name,
        "chips": int(ops.chips),
        "layout": layout_document(layout),
        "step_time": plain(cost.step_time) if feasible else None,
        "tokens_per_second_per_chip": plain(cost.tokens_per_second_per_chip) if feasible else None,
        "mfu": plain(cost.mfu) if feasible else None,
        "mfu_convention": MFU_CONVENTION,
        "feasible": feasible,
        "verdict": verdict,
        "limits": limits(model, layout, workload, hardware, ops, cost),
        "memory": memory_document(cost, hardware),
        "dollars_per_token": plain(cost.dollars / ops.tokens) if feasible else None,
        "joules_per_token": plain(cost.joules / ops.tokens) if feasible else None,
        "goodput": plain(cost.goodput),
        "rows": rows_document(ops, cost) if feasible else [],
    }


def plain(value: Any) -> float | None:
    """A number for JSON: a float, or null where it is not known or not finite."""
    number = float(value)
    return number if math.isfinite(number) else None


def layout_document(layout: Layout) -> dict[str, Any]:
    """A layout with names for its codes and whole numbers where they are whole."""
    told: dict[str, Any] = {}
    for name in (
        "tp",
        "cp",
        "pp",
        "dp",
        "fsdp",
        "ep",
        "vpp",
        "micro_batch",
        "sp",
        "zero",
        "fused_attention",
        "fused_loss",
        "traced",
        "offload",
        "overlap",
        "paired",
        "dualpipe",
        "recompute_norm",
        "recompute_act",
        "recompute_up",
        "recompute_mlp",
        "pieces",
        "graphs",
        "capacity",
        "imbalance",
    ):
        value = float(getattr(layout, name))
        told[name] = int(value) if value == int(value) else value
    for name, names in CODES.items():
        told[name] = names[int(getattr(layout, name))]
    told["precision"] = layout.precision.name
    return told


def memory_document(cost: Cost, hardware: Hardware) -> dict[str, Any]:
    """Bytes on the fullest chip by part; `total` has the allocator's margin and what the runtime keeps."""
    parts = ("parameters", "gradients", "optimizer", "activations", "logits", "buffers", "host")
    told = {name: plain(getattr(cost.parts, name)) for name in parts}
    return {"total": plain(cost.memory), "available": plain(hardware.memory), **told}


def rows_document(ops: Ops, cost: Cost) -> list[dict[str, Any]]:
    """The rows that occur: exposed and own seconds of a step, FLOPs and bytes of one chip a step, what limits them."""
    told = []
    extra = len(cost.names) - len(ops.rows)
    for position, name in enumerate(cost.names):
        busy = float(cost.busy[position])
        if busy == 0.0 and position < len(ops.rows):
            continue
        row = ops.rows[position] if position < len(cost.names) - extra else None
        often = busy / one if row is not None and (one := _once(cost, position)) > 0 else 0.0
        told.append(
            {
                "name": name,
                "kind": row.kind if row else name,
                "phase": row.phase if row else "step",
                "time": float(cost.time[position]),
                "busy": busy,
                "flops": float(row.flops) * often if row else 0.0,
                "bytes": float(row.read + row.written + row.payload) * often if row else 0.0,
                "bound": BOUNDS[int(cost.bound[position])],
            }
        )
    return told


def _once(cost: Cost, position: int) -> float:
    """Seconds of one occurrence of a row."""
    return float(cost.once[position])


def limits(model: Model, layout: Layout, workload: Workload, hardware: Hardware, ops: Ops, cost: Cost) -> list[dict]:
    """Every limit a design breaks: wanted, available, and the smallest change of one field that would fit."""
    verdict = VERDICTS[int(cost.verdict)]
    if verdict == "fits":
        return []
    phase = workload.train
    figures = {
        "memory": (cost.memory, hardware.memory),
        "offload": (ops.memory.host, hardware.host_memory),
        "chips": (ops.chips, hardware.chips),
        "heads": (layout.tp, max(float(kind.heads) for kind in model.kinds)),
        "batch": (layout.dp * layout.micro_batch, phase.batch),
        "layers": (layout.pp * layout.vpp, layers(model)),
        "experts": (layout.ep, max(float(kind.experts) for kind in model.kinds)),
        "sequence": (layout.cp * (layout.tp if layout.sp > 0.5 else 1.0), phase.seq_len),
        "fsdp": (layout.fsdp, layout.dp),
        "schedule": (ops.micro_batches, layout.pp),
        "type": (1.0, 0.0),
    }
    wanted, available = figures.get(verdict, (math.nan, math.nan))
    return [
        {
            "name": verdict,
            "wanted": plain(wanted),
            "available": plain(available),
            "smallest_change": smallest_change(model, layout, workload, hardware),
        }
    ]


def neighbours(layout: Layout, chips: float) -> list[tuple[str, Layout]]:
    """Layouts one step away, cheapest change first: memory savers, then other cuts of the same chips."""
    found = []
    for name, values in (
        ("zero", (1, 2, 3)),
        ("recompute", (1, 2)),
        ("micro_batch", (1,)),
        ("vpp", (1,)),
        ("sp", (1,)),
    ):
        for value in values:
            fsdp = layout.dp if name == "zero" else layout.fsdp
            if getattr(layout, name) != value and not (name in ("zero", "recompute") and value < getattr(layout, name)):
                word = RECOMPUTE[value] if name == "recompute" else value
                found.append((f"{name}={word}", replace(layout, **{name: float(value)}, fsdp=fsdp)))
    for name in ("tp", "pp", "cp"):
        for value in (1.0, 2.0, 4.0, 8.0, 16.0, 32.0):
            changed = replace(layout, **{name: value})
            dp = chips / (changed.tp * changed.cp * changed.pp)
            if dp >= 1.0 and dp == int(dp) and value != getattr(layout, name):
                shards = dp if layout.fsdp > 1 else layout.fsdp
                found.append((f"{name}={value:g}", replace(changed, dp=dp, fsdp=shards)))
    return found


def smallest_change(model: Model, layout: Layout, workload: Workload, hardware: Hardware) -> str | None:
    """One or two changed fields that fit, fewest and fastest first; null where there are none."""
    chips = float(hardware.chips)
    single = neighbours(layout, chips)
    double = [(f"{a},{b}", second) for a, first in single for b, second in neighbours(first, chips)]
    for candidates in (single, double):
        many = jax.tree.map(lambda *leaves: np.asarray(leaves, float), *(candidate for _, candidate in candidates))
        cost = estimate(count(model, many, workload), hardware)
        whole = np.abs(many.tp * many.cp * many.pp * many.dp - chips) < 0.5
        fits = np.broadcast_to(whole & (np.asarray(cost.verdict) < 0.5), whole.shape)
        if fits.any():
            time = np.where(fits, cost.step_time, math.inf)
            return candidates[int(np.argmin(time))][0]
    return None
