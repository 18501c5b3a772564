"""What the schedule of a TPU program says of its time: plain rows, with each product's cycles when it is alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from coopt.measure.alone import alone
from coopt.measure.schedule import Layers, Product, Row, schedule


def described(
    text: str,
    devices: Sequence[Any],
    *,
    layers: Layers = (),
    folder: str | None = None,
    report: Callable[[str], None] = lambda phase: None,
) -> dict[str, Any]:
    """The rows of a module's text as plain values, in the order they run.

    A row has `name`, `kind` (matmul, attention, experts, collective, other), `times` a step, `cycles` of one execution
    as the compiler estimates it and `traffic` (B of main memory); a matmul has `flops` and `alone`, the cycles of its
    products compiled by themselves; attention and experts their `kernel` and `shape`; a collective its `collective`,
    `bytes` of the full buffer, `size` of a group, the `axes` of the torus and the `slices` it goes over, and `hidden`.

    Args:
      devices: of the mesh, in its order: collectives number them so.
      layers: see `schedule`.
      folder: where products compiled alone are kept.
    """
    found = schedule(text, layers=layers)
    single = alone((p for row in found.rows for p in row.products), devices[0], folder=folder, report=report)
    cores = 1 + max((getattr(d, "core_on_chip", 0) for d in devices), default=0)
    return {
        "rows": [_plain(row, single, devices) for row in found.rows],
        "unread": list(found.unread),
        "devices_a_chip": cores,
    }


def _plain(row: Row, single: dict[Product, float], devices: Sequence[Any]) -> dict[str, Any]:
    said: dict[str, Any] = {"name": row.name, "kind": row.kind, "times": row.times, "label": row.label}
    if row.kind in ("matmul", "other"):
        said |= {"cycles": row.cycles}
    if row.kind in ("matmul", "other", "experts"):
        said |= {"traffic": row.traffic}
    if row.kind == "matmul":
        said["flops"] = sum(2.0 * p.m * p.n * p.k for p in row.products)
        said["alone"] = math.fsum(single[p] for p in row.products) if row.products else math.nan
        said["products"] = [[p.m, p.n, p.k] for p in row.products]
    if row.kind in ("attention", "experts"):
        said |= {"kernel": row.kernel, "shape": list(row.shape)}
    if row.kind == "collective":
        said |= {"collective": row.collective, "bytes": row.bytes, "size": len(row.group), "hidden": row.hidden}
        said |= _reach(row.group, devices)
    return said


def _reach(group: tuple[int, ...], devices: Sequence[Any]) -> dict[str, int]:
    """Over how many axes of the torus, and how many slices, a group goes."""
    members = [devices[i] for i in group if i < len(devices)]
    places = [tuple(getattr(d, "coords", None) or ()) for d in members]
    axes = sum(len(set(along)) > 1 for along in zip(*places, strict=True))
    return {"axes": axes, "slices": len({getattr(d, "slice_index", 0) or 0 for d in members})}
