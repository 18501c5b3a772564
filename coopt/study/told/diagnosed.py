"""`diagnose`: a run of one's own beside our prediction: where its time goes, what is suspect, what would be faster.

The time of a run is split by what physics asks for (arithmetic at the chips' peak) and what it does not (everything
else), row by row of the one cost expression; what the expression does not explain is a row of its own, and all rows
add to the measured time. What a profiler saw of a run can stand beside the same rows: they are named in `SPENT`.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from coopt import units
from coopt.cost import estimate
from coopt.cost.explain import layout_document, limits, memory_document, plain, rows_document
from coopt.cost.roofline import peak
from coopt.ops import count
from coopt.problems import Problem, Refused
from coopt.search.layouts import layout_space
from coopt.search.space import candidate
from coopt.search.sweep import sweep
from coopt.spec.nouns import BOUNDS, ORDERS, VERDICTS, Cost, Hardware, Layout, Ops, Row
from coopt.study.given.designs import Design
from coopt.study.scored.evidence import card, interval, sigma
from coopt.study.told.compared import spread
from coopt.study.told.suspects import suspects
from coopt.tree import replace

# What the time of a step can go to, in the order in which it is told; the first is what physics asks for.
SPENT = {
    "arithmetic": "model FLOPs at the chips' dense peak",
    "matmuls below the peak": "shapes, tiles and waves that do not fill the chip, and what a library reaches of it",
    "attention below the peak": "the same of fused attention kernels",
    "recompute": "forward work done again in the backward pass, to save memory",
    "memory-bound kernels": "norms, activations, casts, softmax, gathers: bytes, not FLOPs",
    "optimizer": "reading and writing weights, gradients and states",
    "exposed tensor communication": "tensor and sequence parallelism that compute does not hide",
    "exposed context communication": "context parallelism that compute does not hide",
    "exposed expert communication": "tokens sent to experts and back",
    "exposed data communication": "gradients reduced and weights gathered that compute does not hide",
    "exposed copies communication": "gradients summed between copies of the weights (HSDP, slices)",
    "exposed pipeline communication": "activations between stages",
    "exposed host communication": "offload to host memory",
    "bubble": "stages that wait for one another",
    "dispatch": "the device waiting for the host to launch kernels",
    "overhead": "work outside the model",
    "stragglers": "waiting for the slowest chip",
    "unexplained": "measured less predicted: what this model does not know of, or knows wrong",
}
KEPT = 200  # of the search: enough to hold several cuts of the chips, each with its best settings
BETTER = 3
WORTH = 0.99  # of the step time: a smaller gain is not one


def diagnose(one: Design, measured: float, *, given: frozenset[str] = frozenset()) -> dict[str, Any]:
    """One design that ran in `measured` seconds a step, as a document.

    `given` names the layout fields that the user wrote: the others were assumed, and an assumption can be what is
    wrong. Raises Refused for a layout that cannot have run: it does not divide, or has a format the chip has not.
    """
    ops = count(one.model, one.layout, one.workload)
    cost = estimate(ops, one.hardware)
    said = _refused(one, ops, cost)
    evidence = card(one, float(cost.step_time))
    low, high = evidence["interval"]
    odd = sigma(one.hardware)
    phase = one.workload.train
    return {
        "command": "diagnose",
        "model": one.model.name,
        "hardware": one.hardware.name,
        "chips": int(ops.chips),
        "layout": layout_document(one.layout),
        "workload": {"kind": "train", "seq_len": int(phase.seq_len), "global_batch": int(phase.batch)},
        "measured": measured,
        "step_time": plain(cost.step_time),
        "ratio": measured / float(cost.step_time),
        "spreads": math.log(measured / float(cost.step_time)) / odd,
        "inside": bool(low <= measured <= high),
        "mfu": plain(float(cost.mfu) * float(cost.step_time) / measured),
        "tokens_per_second_per_chip": plain(ops.tokens / ops.chips / measured),
        "verdict": VERDICTS[int(cost.verdict)],
        "memory": memory_document(cost, one.hardware),
        "spent": spent(ops, cost, one.hardware, measured),
        "suspects": suspects(one, measured, sigma=odd, given=given),
        "better": better(one, cost, measured),
        "rows": rows_document(ops, cost),
        **evidence,
        "assumed": [*said, *evidence["assumed"]],
    }


def seconds(text: str) -> float:
    """The step time that a user wrote, in s: a unit is required, for nobody can know which was meant.

    >>> seconds("8.9 s"), seconds("412 ms")
    (8.9, 0.412)
    """
    try:
        value = units.parse(text, "s")
        if value > 0:
            return value
        raise Refused(Problem(expected="a time above zero", got=text, hint="write it like `8.9 s` or `412 ms`"))
    except Refused as refusal:
        (problem,) = refusal.problems
        raise Refused(Problem(field="step_time", expected=problem.expected, got=problem.got,
                              hint="write it like `8.9 s` or `412 ms`")) from None  # fmt: skip


def _refused(one: Design, ops: Ops, cost: Cost) -> tuple[str, ...]:
    """What is said of a design that we would not have thought to fit; Refused where it cannot have run at all."""
    verdict = VERDICTS[int(cost.verdict)]
    if verdict == "fits" and abs(float(ops.chips) - float(one.hardware.chips)) > 0.5:
        verdict = "chips"
    if verdict in ("memory", "offload", "schedule"):
        return (f"by our count this layout does not run ({verdict}); it did: the layout may not be the one that ran",)
    if verdict != "fits":
        told = replace(cost, verdict=float(VERDICTS.index(verdict)))
        (limit,) = limits(one.model, one.layout, one.workload, one.hardware, ops, told)
        raise Refused(
            Problem(
                field="layout",
                expected=f"a layout that can run on {float(one.hardware.chips):g} chips",
                got=f"a verdict of `{verdict}` (wanted {limit['wanted']:g}, there is {limit['available']:g})",
                hint=f"the nearest that can: {change}" if (change := limit["smallest_change"]) else "",
            )
        )
    return ()


def spent(ops: Ops, cost: Cost, hardware: Hardware, measured: float) -> list[dict[str, Any]]:
    """Seconds of the measured step by `SPENT`, those that occur; they add to `measured`, the last by construction."""
    times = dict.fromkeys(SPENT, 0.0)
    for at, name in enumerate(cost.names):
        time = float(cost.time[at])
        row = ops.rows[at] if at < len(ops.rows) else None
        often = float(cost.busy[at]) / float(cost.once[at]) if float(cost.once[at]) > 0 else 0.0
        asked = 0.0
        if row is not None and row.kind in ("matmul", "attention") and row.phase != "recompute":
            asked = min(float(row.flops) * often / max(float(peak(hardware, row.type)), 1.0), time)
        times["arithmetic"] += asked
        times[_reason(row, name, float(cost.bound[at]))] += time - asked
    times["unexplained"] = measured - float(cost.step_time)
    return [
        {"name": name, "time": time, "share": time / measured, "what": SPENT[name]}
        for name, time in times.items()
        if abs(time) > 1e-9 * measured
    ]


def _reason(row: Row | None, name: str, bound: float) -> str:
    """Which of `SPENT` the time of a row goes to, beyond its arithmetic."""
    if row is None:
        return name
    if row.kind in ("collective", "p2p", "host"):
        return f"exposed {row.group} communication"
    if row.phase == "recompute":
        return "recompute"
    if row.phase in ("optimizer", "step"):
        return "optimizer"
    if row.kind in ("matmul", "attention") and BOUNDS[int(bound)] != "memory":
        return {"matmul": "matmuls below the peak", "attention": "attention below the peak"}[row.kind]
    return "memory-bound kernels"


def better(one: Design, cost: Cost, measured: float) -> list[dict[str, Any]]:
    """Faster layouts of the same model, batch and recipe on the same chips, each by another cut of them.

    Their time is the measured one times the ratio of predictions: what we miss of this run, we expect to miss alike.
    """
    layout, chips = one.layout, int(one.hardware.chips)
    choices = {
        "precision": (layout.precision.name,),
        "fused_attention": (float(layout.fused_attention),),
        "offload": (0.0,),
        "order": (ORDERS[int(layout.order)],),
    }
    try:
        space = layout_space(one.model, one.workload, chips=chips, choices=choices)
    except Refused:
        return []  # nothing that is searched divides; what ran is not among it
    # Around the run's own layout: what no axis sets (the recipe, what else the stack does by itself) stays as it is.
    axes = tuple(axis for axis in space.axes if axis.name != "precision")
    space = dataclasses.replace(space, base=replace(space.base, layout=layout), axes=axes)
    found = sweep(space, one.hardware, objectives=("step_time",), pareto=False, keep=KEPT)
    told: dict[tuple[float, ...], dict[str, Any]] = {}
    for index in found.top.indices:
        other = candidate(space, int(index)).layout
        time = float(estimate(count(one.model, other, one.workload), one.hardware).step_time)
        ratio = time / float(cost.step_time)
        if ratio < WORTH and len(told) < BETTER:
            told.setdefault((other.tp, other.cp, other.pp, other.ep), _gain(one, other, ratio, measured))
    return list(told.values())


def _gain(one: Design, other: Layout, ratio: float, measured: float) -> dict[str, Any]:
    beside = Design(name="", model=one.model, layout=other, workload=one.workload, hardware=one.hardware)
    mine, theirs = layout_document(one.layout), layout_document(other)
    return {
        "layout": theirs,
        "step_time": measured * ratio,
        "interval": interval(measured * ratio, spread(one, beside)),
        "gain": 1.0 - ratio,
        "changes": {key: value for key, value in theirs.items() if mine[key] != value and key not in ("dp", "fsdp")},
    }
