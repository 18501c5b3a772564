"""Single operations that were timed: what pricing says of them, beside blocks, in one fit.

A product alone speaks of the share of the peak, of depth and tile with nothing else in it; a block speaks of how a
stack strings operations together. Both are `Ops` that `estimate` prices: a row of a sweep is a step of one operation.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy.optimize import least_squares

from coopt.cost.collectives import collective_time
from coopt.fit.rows import stack_trees
from coopt.ops.attention import attention
from coopt.ops.cut import cut
from coopt.spec.nouns import PRECISIONS, Hardware, LayerKind, Layout, Model, Ops, Row, Tier, training

CORE = ("flash", "scores", "values", "softmax")  # rows of a mixer that are attention itself
NOISE = 0.15  # log units: an operation alone finds caches and neighbours that one in a block does not

Swept = Mapping[str, Any]  # a row of a `sweep` job


def usable(swept: Sequence[Swept]) -> list[Swept]:
    """The rows whose time can be believed, collectives aside: `links` are fitted to those."""
    kinds = ("matmul", "attention", "elementwise", "memory")
    doubtful = {"not-repeated", "dispatch-bound", "work-removed", "beyond-peak", "brief"}
    return [
        row for row in swept
        if row["kind"] in kinds and math.isfinite(row["time"] or math.nan) and row["time"] > 0.0
        and not doubtful & set(row.get("flags", ()))
    ]  # fmt: skip


def counted(swept: Sequence[Swept], *, fused: bool, first: int = 0) -> list[tuple[np.ndarray, Ops]]:
    """What operations must do, those of one kind together: their positions from `first` on, and `Ops` of one row each.

    Args:
      fused: the device has kernels of attention; else scores are written, as XLA does on CPUs.
    """
    groups: dict[tuple[str, bool], list[int]] = {}
    for position, row in enumerate(swept):
        groups.setdefault((row["kind"], _back(row)), []).append(position)
    return [
        (first + np.array(at), stack_trees([_ops(swept[i], fused=fused) for i in at])) for at in groups.values()
    ]  # fmt: skip


def seen(swept: Sequence[Swept], pace: float = math.nan) -> np.ndarray:
    """Log seconds `(operations, 2)` as blocks have them: forward, or forward with backward; the other is NaN.

    Args:
      pace: of the blocks beside them, that all are compared at; NaN: by the wall's clock. See `blocks.settled`.
    """
    told = np.full((len(swept), 2), np.nan)
    for number, row in enumerate(swept):
        told[number, int(_back(row))] = math.log(row["time"] * (1.0 if math.isnan(pace) else pace / row["pace"]))
    return told


def _back(row: Swept) -> bool:
    return row["name"].endswith("_backward")


def _ops(row: Swept, *, fused: bool) -> Ops:
    if row["kind"] == "attention":
        return _once(_attention(row, fused=fused))
    m, n, k = (float(row[size]) for size in ("m", "n", "k"))
    byte = PRECISIONS[row["type"]].weight
    if row["kind"] == "matmul":
        one = Row(
            kind="matmul", count=1.0, m=m, n=n, k=k, type=PRECISIONS[row["type"]].linear, flops=2.0 * m * n * k,
            read=byte * (m * k + k * n), written=byte * m * n,
        )  # fmt: skip
    else:  # a kernel alone moves what it must: `passes` is of what compilers do in a block
        one = Row(kind="gather", count=1.0, read=float(row["bytes"]) - byte * m * n, written=byte * m * n)
    return _once((one,))


def _once(rows: tuple[Row, ...]) -> Ops:
    """A step of one layer that is these rows."""
    return Ops(rows=rows, tokens=1.0, layers=1.0, layers_first=1.0, layers_middle=1.0, layers_last=1.0)


def _attention(row: Swept, *, fused: bool) -> tuple[Row, ...]:
    """Rows of attention alone on `batch` sequences times heads."""
    kind = LayerKind(heads=float(row["batch"]), kv_heads=float(row["batch"]), head_dim=float(row["k"]))
    layout = Layout(precision=PRECISIONS[row["type"]], fused_attention=float(fused))
    model = Model(d_model=float(row["k"]), kinds=(kind,))
    sizes = cut(model, layout, training(float(row["m"]), 1.0).train)
    return tuple(one for one in attention("", model, kind, layout, sizes) if one.name.partition(".")[0] in CORE)


def links(swept: Sequence[Swept]) -> dict[str, float] | None:
    """What collectives say of the links between attached devices, as one tier of `collective_time`; None for none.

    Robust least squares on log(predicted / measured) over bandwidth (B/s one way a device) and latency (s a step);
    `error` is the median relative error.
    """
    rows = [row for row in swept if row["kind"] == "collective" and row["time"] and "not-repeated" not in row["flags"]]
    if len(rows) < 3:
        return None
    times = np.array([row["time"] for row in rows])
    wires = [
        Row(kind="collective", collective=row["name"], payload=float(row["bytes"]), size=float(row["n"]))
        for row in rows
    ]  # fmt: skip

    def said(z: np.ndarray) -> np.ndarray:
        bandwidth, latency = np.exp(z)
        machine = Hardware(tiers=(Tier(size=float(rows[0]["n"]), bandwidth=bandwidth, latency=latency),))
        return np.array([float(collective_time(machine, wire)) for wire in wires])

    start = np.log([max(row["bytes"] / row["time"] for row in rows), float(times.min()) / 5.0])
    found = least_squares(lambda z: np.log(said(z) / times), start, loss="soft_l1", f_scale=0.2)
    bandwidth, latency = map(float, np.exp(found.x))
    error = float(np.median(np.abs(said(found.x) / times - 1.0)))
    return {"devices": float(rows[0]["n"]), "bandwidth": bandwidth, "latency": latency, "error": error,
            "collectives": float(len(rows))}  # fmt: skip
