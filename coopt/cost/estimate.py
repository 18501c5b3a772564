"""`estimate`: operations on a machine become seconds, bytes, joules and dollars."""

from __future__ import annotations

from collections.abc import Mapping

from coopt.cost import machine
from coopt.cost.collectives import crossed, joined, links
from coopt.cost.overlap import COMPUTE, Busy, Hidden, Layer, launches, layer_time, linked, shows, total, waiting
from coopt.cost.pipeline import Pipeline, pipeline
from coopt.cost.roofline import compute_share, compute_time, memory_time, peak, supported
from coopt.spec.nouns import BOUNDS, VERDICTS, Cost, Hardware, Leaf, Ops, Row
from coopt.xp import at_least, log, logical_or, maximum, sqrt, where

EXTRA_ROWS = ("dispatch", "bubble", "overhead", "stragglers")
# Gradients of the last micro-batch are two thirds of its work: that is the compute their reduction hides behind.
BACKWARD_SHARE = 2.0 / 3.0


def alone(hardware: Hardware, row: Row) -> Busy:
    """What one occurrence of a row takes where nothing else runs."""
    if row.kind in ("collective", "p2p"):
        tiers = crossed(hardware, row)
        time = joined(row, tiers)
        if row.scope == "layer" and row.group == "data":  # copies of the parts, where it gathers into a list
            time = time + maximum(row.launches - 1.0, 0.0) * hardware.kernel
        return Busy(time=time, links=links(row, tiers))
    if row.kind == "host":
        return Busy(time=row.payload / at_least(hardware.host_bandwidth, 1.0))
    return Busy(time=compute_time(hardware, row))


def estimate(ops: Ops, hardware: Hardware) -> Cost:
    """Time, memory, energy and money of one step, row by row; the rows' exposed times add to the step time.

        step = (pipeline + exposed data collectives + optimizer) (1 + overhead + jitter sqrt(2 ln chips))

    Elementwise in every leaf, NumPy or JAX, differentiable toward `hardware`. A layout that does not fit has a
    `verdict` other than 0 and is priced all the same; a price or power that is not known gives NaN.
    """
    rows = ops.rows
    busy = tuple(alone(hardware, row) for row in rows)
    layer = layer_time(ops, hardware, busy)
    flow = pipeline(ops, hardware, busy, layer)
    shown, shares = at_the_end(ops, hardware, busy, layer, flow)
    optimizer = total(rows, busy, "step", groups=None)
    waits = waiting(hardware, ops.eager * launches(rows, "step"), optimizer)
    work = flow.steady + shown + (optimizer + waits) + flow.bubble
    # The slowest of n chips is sqrt(2 ln n) standard deviations behind the mean one.
    behind = hardware.jitter * sqrt(2.0 * log(at_least(ops.chips, 1.0)))
    step_time = work * (1.0 + hardware.overhead + behind)

    extra = (flow.waiting + waits, flow.bubble, hardware.overhead * work, behind * work)
    alike = tuple(one.time for one in busy)
    time = tuple(exposed(row, t, flow, layer, step=shares) for row, t in zip(rows, alike, strict=True))
    # sums of the few scopes, not of the many rows: a sweep needs this number and not the rows
    shown_of = {"layer": flow.layers, "first": flow.first, "last": flow.last, "step": 1.0}
    computing = sum(shown_of[scope] * total(rows, busy, scope, groups=None) for scope in shown_of)
    wanted = machine.wanted(ops.memory, hardware)
    return Cost(
        step_time=step_time,
        tokens_per_second_per_chip=ops.tokens / (step_time * ops.chips),
        mfu=ops.model_flops / (step_time * ops.chips * at_least(peak(hardware, ops.type), 1.0)),
        memory=wanted,
        slack=(hardware.memory - wanted) / at_least(hardware.memory, 1.0),
        verdict=verdict(ops, hardware, wanted),
        joules=machine.joules(hardware, chips=ops.chips, step_time=step_time, computing=computing),
        dollars=machine.dollars(hardware, chips=ops.chips, step_time=step_time),
        goodput=machine.goodput(hardware, ops.chips),
        names=tuple(row.name for row in rows) + EXTRA_ROWS,
        time=time + extra,
        busy=tuple(often(row, flow) * t for row, t in zip(rows, alike, strict=True)) + extra,
        once=alike + extra,
        bound=tuple(bound(hardware, row, t) for row, t in zip(rows, alike, strict=True))
        + (float(BOUNDS.index("overhead")),) * len(extra),
        parts=ops.memory,
    )


def at_the_end(
    ops: Ops, hardware: Hardware, busy: tuple[Busy, ...], layer: Layer, flow: Pipeline
) -> tuple[Leaf, Mapping[str, Leaf]]:
    """Seconds of the step's own collectives that show, and the share of each group.

    Weights and gradients go behind the backward pass of the last micro-batch, on links that its layers use as well.
    Sums between copies hide as far as the stack starts them before that pass is done.
    """
    most = maximum(ops.layers_first, maximum(ops.layers_middle, ops.layers_last)) * BACKWARD_SHARE
    window = most * layer.time + BACKWARD_SHARE * flow.stuck
    may = hardware.hide_data * (1.0 - ops.late)
    kinds = tuple(
        Hidden(
            time=total(ops.rows, busy, "step", groups=(group,)),
            share=share,
            links=linked(ops.rows, busy, "step", groups=(group,)),
            cores=hardware.stolen,
        )
        for group, share in (("data", may), ("copies", may * (1.0 - ops.scan)))
    )
    shown, (data, copies) = shows(window, *kinds, under=tuple(most * link for link in layer.links))
    return shown, {"data": data, "copies": copies}


def often(row: Row, flow: Pipeline) -> Leaf:
    """Times that a row occurs in a step on the slowest stage."""
    times = {"layer": flow.layers, "first": flow.first, "last": flow.last, "stage": flow.stage, "step": 1.0}
    return times[row.scope] * row.count


def exposed(row: Row, time: Leaf, flow: Pipeline, layer: Layer, *, step: Mapping[str, Leaf]) -> Leaf:
    """Seconds of a step that a row adds: all of its compute, and what shows of its communication."""
    all_of_it = often(row, flow) * time
    if row.kind in COMPUTE or row.scope in ("first", "last"):
        return all_of_it
    if row.scope == "step":
        return all_of_it * step[row.group]
    share = {"data": layer.data, "host": layer.host, "pipeline": flow.send}
    return all_of_it * share.get(row.group, layer.tensor)


def bound(hardware: Hardware, row: Row, time: Leaf) -> Leaf:
    """What limits a row, as a code into BOUNDS: the largest of its parts; `none` where it does not occur."""
    code = {name: float(position) for position, name in enumerate(BOUNDS)}
    absent = row.count * time <= 0.0
    if row.kind in ("collective", "p2p", "host"):
        return where(absent, code["none"], code["network"])
    launch = row.launches * hardware.kernel
    compute, memory = compute_share(hardware, row), memory_time(hardware, row)
    limit = where(compute >= memory, code["compute"], code["memory"])
    limit = where(launch > 0.5 * time, code["latency"], limit)
    return where(absent, code["none"], limit)


def verdict(ops: Ops, hardware: Hardware, wanted: Leaf) -> Leaf:
    """The first reason a layout cannot run, as a code into VERDICTS: arithmetic, type, offload, memory."""
    code: Leaf = where(wanted > hardware.memory, float(VERDICTS.index("memory")), 0.0)
    homeless = logical_or(
        where(ops.memory.host > 0.0, hardware.host_bandwidth <= 0.0, False), ops.memory.host > hardware.host_memory
    )
    code = where(homeless, float(VERDICTS.index("offload")), code)
    code = where(supported(hardware, ops.type), code, float(VERDICTS.index("type")))
    return where(ops.verdict > 0.5, ops.verdict, code)
