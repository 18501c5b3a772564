"""Counted memory against published memory by part (memory.csv), the peaks that training rows carry, compiled steps."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from coopt.fit import rows
from coopt.ops import count
from coopt.spec.nouns import PRECISIONS, RECOMPUTE, LayerKind, Layout, Memory, Model, training
from coopt.tree import replace

GIB = 2.0**30
SIZES = "d_model heads kv_heads head_dim d_ff gated vocab layers micro_batch tp dp zero offload".split()
ON_CHIP = ("parameters", "gradients", "optimizer", "activations", "logits", "buffers")


def parts(table: Path) -> list[dict[str, Any]]:
    """Each measured part of a table of memory by part: published and counted GiB, `whole` with embedding and head."""
    with open(table, newline="", encoding="utf-8") as file:
        found = [row for row in csv.DictReader(file) if row["measured_gib"]]
    return [_part(row) for row in found]


def _part(row: Mapping[str, str]) -> dict[str, Any]:
    d, heads, pp = (rows.number(row, key) for key in ("d_model", "heads", "pp"))
    micro_batch = rows.number(row, "micro_batch")
    kind = LayerKind(
        count=rows.number(row, "layers"), heads=heads, kv_heads=heads, head_dim=d / heads, d_ff=4 * d, gated=0.0,
        bias=1.0, norms=4.0, dropout=1.0,
    )  # fmt: skip
    layout = Layout(
        tp=rows.number(row, "tp"), pp=pp, vpp=rows.number(row, "vpp", 1.0), sp=float(row["sp"] == "yes"), zero=0.0,
        fused_attention=0.0, recompute=float(RECOMPUTE.index(row["recompute"] or "none")), precision=PRECISIONS["fp16"],
        micro_batch=micro_batch,
    )  # fmt: skip
    model = Model(d_model=d, vocab=rows.number(row, "vocab"), tied=1.0, kinds=(kind,))
    work = training(rows.number(row, "seq_len"), 8 * pp * micro_batch)
    weighed = row["part"] == "parameters+optimizer"
    # the published weights are those of the layers alone; the fullest stage holds embedding or head besides
    whole, alone = (_bytes(count(one, layout, work).memory, weighed) / GIB
                    for one in (model, replace(model, vocab=0.0, norms=0.0)))  # fmt: skip
    told = _told(row, alone if weighed else whole, rows.number(row, "measured_gib"))
    return told | {"part": row["part"], "recompute": row["recompute"], "whole": whole}


def _bytes(held: Memory, weighed: bool) -> float:
    return float(held.parameters + held.gradients + held.optimizer if weighed else held.activations)


def step_of(row: Mapping[str, str]) -> tuple[Model, Layout, int]:
    """The step of a row of xla_memory.csv: model, layout, and tokens a sequence."""
    given = {key: rows.number(row, key) for key in SIZES}
    layer_norms = row["norm"] == "layer"  # models with them have biases
    kind = LayerKind(
        count=given["layers"], heads=given["heads"], kv_heads=given["kv_heads"], head_dim=given["head_dim"],
        d_ff=given["d_ff"], gated=given["gated"], bias=float(layer_norms), norms=4.0 if layer_norms else 2.0,
    )  # fmt: skip
    model = Model(d_model=given["d_model"], vocab=given["vocab"], kinds=(kind,), norms=kind.norms / 2.0)
    layout = Layout(
        micro_batch=given["micro_batch"], tp=given["tp"], dp=given["dp"], zero=given["zero"], offload=given["offload"],
        fsdp=given["dp"] if given["zero"] else 1.0, sp=float(given["tp"] > 1.0), traced=1.0,
        recompute=float(RECOMPUTE.index(row["recompute"])), precision=PRECISIONS[row["precision"]],
    )  # fmt: skip
    return model, layout, int(row["seq_len"])


def compiled(table: Sequence[Mapping[str, str]]) -> list[dict[str, Any]]:
    """Each compiled step, its bytes a device by the compiler as `published`, beside those counted; GiB."""
    told = []
    for row in table:
        model, layout, seq_len = step_of(row)
        held = count(model, layout, training(float(seq_len), layout.micro_batch * layout.dp)).memory
        said = sum(float(getattr(held, part)) for part in ON_CHIP)
        told.append(_told(row, said / GIB, float(row["total"]) / GIB))
    return told


def peaks(table: Sequence[Mapping[str, str]], wanted: Sequence[float]) -> list[dict[str, Any]]:
    """The rows with a measured peak, beside the bytes that the fullest chip is said to want."""
    pairs = [(row, need, rows.number(row, "measured_memory_gib")) for row, need in zip(table, wanted, strict=True)]
    return [_told(row, float(need) / GIB, seen) for row, need, seen in pairs if not math.isnan(seen)]


def _told(row: Mapping[str, str], said: float, seen: float) -> dict[str, Any]:
    return {"id": row.get("id", ""), "model": row.get("model", ""), "published": seen, "counted": said,
            "error": said / seen - 1.0}  # fmt: skip


def errors(told: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """rows, mean absolute error and the worst underestimate of some of the above.

    >>> errors([{"error": 0.04}, {"error": -0.02}])
    {'rows': 2, 'mape': 0.03, 'least': -0.02}
    """
    if not told:
        return {"rows": 0, "mape": None, "least": None}
    misses = [one["error"] for one in told]
    return {"rows": len(misses), "mape": sum(map(abs, misses)) / len(misses), "least": min(0.0, *misses)}
