"""Seconds of a TPU program from its compiler's cycles, row by row, each row saying by which rule.

The compiler's estimates of fused products and of elementwise work are what it schedules by, and are not times: a plain
`a + b` in bfloat16, alone on a v5e, is estimated at 3.1 times what its bytes take. So three rules are kept apart:

    raw        every estimate as it stands
    alone      a fusion that holds products is what these products are estimated at, compiled alone
    streams    besides, no fusion is faster than its bytes stream, and elementwise work is no slower than that

No rule looks at a measured time. Kernels (of attention and experts), collectives and what only moves rows (gathers,
sorts) have no estimate, and are priced here.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

from coopt.measure.grouped import visited
from coopt.measure.splash import BLOCK
from coopt.problems import Problem, Refused
from coopt.spec import load

RULES = ("raw", "alone", "streams")
PRODUCTS = {"fwd": 2.0, "dq": 3.0, "dkv": 4.0}  # of a tile of scores, by kernel
KERNEL = 0.5  # of the peak: assumed of kernels, of which no estimate exists
STREAM = 0.8  # of the memory's bandwidth: assumed of elementwise work
LINKS = 2.0  # of a chip along an axis of a torus


@dataclasses.dataclass(frozen=True)
class Rates:
    """What turns cycles, FLOPs and bytes of one device into seconds; SI."""

    clock: float
    peak: float
    bandwidth: float
    link: float  # one link, one way


@dataclasses.dataclass(frozen=True)
class Priced:
    """The time of a program: in all, by kind of row, and row by row."""

    time: float
    parts: Mapping[str, float]  # s of matmul, attention, experts, other, collective (those in the open)
    hidden: float  # s of collectives under way beside computing
    flops: float  # of products and kernels, as executed
    replaced: int  # fusions whose estimate was not taken
    fusions: int  # that hold products
    rows: Sequence[Mapping[str, Any]]


def rates(chip: str, *, devices_a_chip: int = 1, precision: str = "bf16", path: Any = None) -> Rates:
    """The rates of one device of a TPU from its profile; Refused with every field that the profile does not have.

    >>> rates("tpu-v5p").clock
    1750000000.0
    """
    fields = load.profile("chip", chip, path=path).fields
    given = {
        "clock": fields.clock,
        f"peak.{precision}": getattr(fields.peak, precision, None),
        "memory.bandwidth": fields.memory.bandwidth,
        "links.each": fields.links.each,
    }
    if missing := [name for name, quantity in given.items() if quantity is None]:
        hint = "add it to the profile, with its source"
        raise Refused(*(Problem(field=f"{chip}.{m}", expected="a value", got="nothing", hint=hint) for m in missing))
    clock, peak, bandwidth, link = (quantity.value for quantity in given.values())
    return Rates(clock, peak / devices_a_chip, bandwidth / devices_a_chip, link / devices_a_chip)


def price(schedule: Mapping[str, Any], rates: Rates, *, rule: str = "streams") -> Priced:
    """The seconds of a schedule as `coopt.measure.cycles` describes one."""
    rows = [_row(row, rates, rule) for row in schedule["rows"]]
    parts: dict[str, float] = dict.fromkeys(("matmul", "attention", "experts", "other", "collective"), 0.0)
    for row in rows:
        parts[row["kind"]] += 0.0 if row.get("hidden") else row["seconds"]
    return Priced(
        time=math.fsum(parts.values()),
        parts=parts,
        hidden=math.fsum(row["seconds"] for row in rows if row.get("hidden")),
        flops=math.fsum(row["times"] * row.get("flops", 0.0) for row in rows),
        replaced=sum(row["rule"] in ("alone", "streams") for row in rows if row["kind"] in ("matmul", "other")),
        fusions=sum(row["kind"] == "matmul" for row in rows),
        rows=rows,
    )


def _row(row: Mapping[str, Any], rates: Rates, rule: str) -> dict[str, Any]:
    """The row with its seconds in all, and the rule they come by."""
    if row["kind"] == "collective":
        return {**row, "seconds": row["times"] * _collective(row, rates), "rule": "links"}
    streamed = row.get("traffic", 0.0) / (STREAM * rates.bandwidth)
    if row["kind"] in ("attention", "experts"):
        flops = attention(row["kernel"], row["shape"]) if row["kind"] == "attention" else visited(*row["shape"])
        own = flops / (KERNEL * rates.peak)
        once, by = (streamed, "streams") if rule == "streams" and streamed > own else (own, "kernel")
        return {**row, "flops": flops, "seconds": row["times"] * once, "rule": by}
    cycles = math.nan if row["cycles"] is None else row["cycles"]
    own = cycles / rates.clock
    alone = math.nan if row.get("alone") is None else row["alone"] / rates.clock
    if row["kind"] == "matmul" and rule != "raw" and not math.isnan(alone):
        by = "streams" if rule == "streams" and streamed > alone else "alone"
        once = streamed if by == "streams" else alone
    elif row["kind"] == "other" and math.isnan(own):
        once, by = streamed, "bytes"
    elif rule == "streams" and row["kind"] == "other" and streamed < own:
        once, by = streamed, "streams"
    else:
        once, by = own, "compiler"
    return {**row, "seconds": 0.0 if math.isnan(once) else row["times"] * once, "rule": by}


def attention(kernel: str, shape: Sequence[int]) -> float:
    """FLOPs of a kernel of causal attention on tiles of `BLOCK`: 2 b h s^2 d for each product, on the tiles it visits.

    >>> attention("fwd", (1, 1, 2048, 128)) / (4 * 2048**2 * 128)
    0.625
    """
    batch, heads, length, size = shape
    tiles = max(1.0, length / BLOCK)
    return PRODUCTS[kernel] * 2.0 * batch * heads * length**2 * size * (tiles + 1.0) / (2.0 * tiles)


def _collective(row: Mapping[str, Any], rates: Rates) -> float:
    """Seconds of one collective by the bytes on a chip's links; what crosses slices is left to `estimate`."""
    if row["collective"] == "p2p":
        return row["bytes"] / rates.link
    if row["size"] < 2 or row["axes"] < 1:
        return 0.0
    rounds = 2.0 if row["collective"] == "all_reduce" else 1.0
    moved = rounds * row["bytes"] * (row["size"] - 1) / row["size"]
    return moved / (LINKS * row["axes"] * rates.link)
