"""`estimate`: operations on a machine become seconds, bytes, joules and dollars."""

from __future__ import annotations

from coopt.cost import machine
from coopt.cost.collectives import collective_time
from coopt.cost.roofline import compute_share, compute_time, memory_time, peak, supported
from coopt.spec.nouns import BOUNDS, VERDICTS, Cost, Hardware, Leaf, Ops, Row
from coopt.tree import struct
from coopt.xp import at_least, log, logical_or, maximum, minimum, sqrt, where

COMPUTE = ("matmul", "attention", "elementwise", "gather")
EXTRA_ROWS = ("dispatch", "bubble", "overhead", "stragglers")
# Share of the 1F1B bubble that is left when weight gradients fill it: Qi et al. 2023, arXiv 2401.10241 (ZB-H1).
ZERO_BUBBLE = 1.0 / 3.0


@struct
class Layer:
    """Sums over the rows of one layer and one micro-batch, in seconds, and what of them shows."""

    compute: Leaf = 0.0
    dispatch: Leaf = 0.0  # host time of the launches beyond all of that: the device waits for work
    tensor: Leaf = 0.0  # share of tensor, context and expert collectives that shows
    data: Leaf = 0.0  # share of per-layer weight collectives that shows
    host: Leaf = 0.0  # share of host transfers that shows
    time: Leaf = 0.0


def busy_time(hardware: Hardware, row: Row) -> Leaf:
    """Seconds of one occurrence of a row, alone."""
    if row.kind in ("collective", "p2p"):
        return collective_time(hardware, row)
    if row.kind == "host":
        return row.payload / at_least(hardware.host_bandwidth, 1.0)
    return compute_time(hardware, row)


def _sum(rows: tuple[Row, ...], busy: tuple[Leaf, ...], scope: str, *, groups: tuple[str, ...] | None) -> Leaf:
    """Seconds of count * busy over a scope's compute rows (`groups` None) or the collectives of some groups."""
    total: Leaf = 0.0
    for row, time in zip(rows, busy, strict=True):
        wanted = row.kind in COMPUTE if groups is None else row.group in groups
        if row.scope == scope and wanted:
            total = total + row.count * time
    return total


def _launches(rows: tuple[Row, ...], scope: str) -> Leaf:
    """Kernels of a scope's compute rows."""
    return sum((row.count * row.launches for row in rows if row.scope == scope and row.kind in COMPUTE), 0.0)


def _waiting(hardware: Hardware, rows: tuple[Row, ...], scope: str, busy: Leaf) -> Leaf:
    """Seconds the device waits because the host launches kernels more slowly than they run."""
    return maximum(_launches(rows, scope) * hardware.dispatch - busy, 0.0)


def _shows(time: Leaf, share: Leaf, window: Leaf) -> Leaf:
    """Seconds of communication that compute cannot hide: at most a share of it, and no more than the window."""
    return time - minimum(share * time, window)


def _ratio(part: Leaf, whole: Leaf) -> Leaf:
    """part / whole, 0 where there is nothing."""
    return part / at_least(whole, 1e-30)


def layer_time(hardware: Hardware, rows: tuple[Row, ...], busy: tuple[Leaf, ...]) -> Layer:
    """One layer and micro-batch: compute, what shows of each kind of communication, and waiting for the host.

    Tensor, context and expert collectives hide behind the layer's compute first, weight gathering behind what is
    left of it, host transfers behind the rest. The host launches ahead: it shows only where it is slower than all.
    """
    compute = _sum(rows, busy, "layer", groups=None)
    tensor = _sum(rows, busy, "layer", groups=("tensor", "context", "expert"))
    data = _sum(rows, busy, "layer", groups=("data",))
    host = _sum(rows, busy, "layer", groups=("host",))
    shown_tensor = _shows(tensor, hardware.hide_tensor, compute)
    window = compute - (tensor - shown_tensor)
    shown_data = _shows(data, hardware.hide_data, window)
    window = window - (data - shown_data)
    shown_host = _shows(host, hardware.hide_data, window)
    device = compute + shown_tensor + shown_data + shown_host
    dispatch = _waiting(hardware, rows, "layer", device)
    return Layer(
        compute=compute, dispatch=dispatch, tensor=_ratio(shown_tensor, tensor), data=_ratio(shown_data, data),
        host=_ratio(shown_host, host), time=device + dispatch,
    )  # fmt: skip


def estimate(ops: Ops, hardware: Hardware) -> Cost:
    """Time, memory, energy and money of one step, row by row; the rows' exposed times add to the step time.

    With m micro-batches, stages of time t_s and v chunks a stage:

        step = (m max t_s + (sum t_s - max t_s) / v + exposed data collectives + optimizer) (1 + overhead + jitter)

    Elementwise in every leaf, NumPy or JAX, differentiable toward `hardware`. A layout that does not fit has a
    `verdict` other than 0 and is priced all the same; a price or power that is not known gives NaN.
    """
    rows = ops.rows
    busy = tuple(busy_time(hardware, row) for row in rows)
    layer = layer_time(hardware, rows, busy)
    single = ops.stages < 1.5
    # The ends of the pipeline, and the message to the next stage.
    ends = {}
    for scope in ("first", "last"):
        device = _sum(rows, busy, scope, groups=None) + _sum(rows, busy, scope, groups=("tensor",))
        waiting = _waiting(hardware, rows, scope, device)
        ends[scope] = waiting, device + waiting
    first, last = ends["first"][1], ends["last"][1]
    send = _sum(rows, busy, "stage", groups=("pipeline",)) * (1.0 - hardware.hide_tensor)

    stage_first = ops.layers_first * layer.time + first + where(single, last, send)
    stage_last = ops.layers_last * layer.time + last + where(single, first, send)
    stage_middle = where(ops.stages > 2.5, ops.layers_middle * layer.time + send, 0.0)
    slowest = maximum(stage_first, maximum(stage_middle, stage_last))
    total = ops.layers * layer.time + first + last + ops.stages * send
    keep = where(ops.schedule > 1.5, ZERO_BUBBLE, 1.0)
    # Stages differ where the layers do not divide; the sum is never less than the slowest.
    bubble = where(single, 0.0, maximum(total - slowest, 0.0)) * keep / ops.chunks

    # Weight and gradient collectives of the step, behind the backward pass of the last micro-batch.
    data = _sum(rows, busy, "step", groups=("data",))
    most = maximum(ops.layers_first, maximum(ops.layers_middle, ops.layers_last))
    shown_data = _shows(data, hardware.hide_data, most * layer.compute * (2.0 / 3.0))
    optimizer = _sum(rows, busy, "step", groups=None)
    optimizer_waits = _waiting(hardware, rows, "step", optimizer)

    work = ops.micro_batches * slowest + bubble + shown_data + optimizer + optimizer_waits
    jitter = hardware.jitter * sqrt(2.0 * log(at_least(ops.chips, 1.0)))
    overhead, stragglers = hardware.overhead * work, jitter * work
    step_time = work + overhead + stragglers

    # Which stage is the slowest decides whose rows show.
    at_first = logical_or(single, stage_first >= slowest)
    at_last = where(single, True, where(at_first, False, stage_last >= slowest))
    on_layers = ops.micro_batches * where(at_first, ops.layers_first,
                                          where(at_last, ops.layers_last, ops.layers_middle))  # fmt: skip
    on_first = ops.micro_batches * where(at_first, 1.0, 0.0)
    on_last = ops.micro_batches * where(at_last, 1.0, 0.0)
    on_stage = where(single, 0.0, ops.micro_batches)
    times = {"layer": on_layers, "first": on_first, "last": on_last, "stage": on_stage, "step": 1.0}
    shows = {"data": layer.data, "host": layer.host, "pipeline": 1.0 - hardware.hide_tensor}

    def exposed(row: Row, time: Leaf) -> Leaf:
        often = times[row.scope] * row.count * time
        if row.kind in COMPUTE:
            return often
        if row.scope == "step":
            return often * _ratio(shown_data, data)
        if row.scope in ("first", "last"):
            return often
        return often * shows.get(row.group, layer.tensor)

    dispatch = on_layers * layer.dispatch + on_first * ends["first"][0] + on_last * ends["last"][0] + optimizer_waits
    extra = (dispatch, bubble, overhead, stragglers)
    time = tuple(exposed(row, t) for row, t in zip(rows, busy, strict=True)) + extra
    computing = sum((t for row, t in zip(rows, time, strict=False) if row.kind in COMPUTE), 0.0)
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
        time=time,
        busy=tuple(_all(row, t, times[row.scope]) for row, t in zip(rows, busy, strict=True)) + extra,
        once=busy + extra,
        bound=tuple(bound(hardware, row, t) for row, t in zip(rows, busy, strict=True))
        + tuple(float(BOUNDS.index("overhead")) for _ in extra),
        parts=ops.memory,
    )


def _all(row: Row, time: Leaf, often: Leaf) -> Leaf:
    """Seconds of all occurrences of a row in one step, hidden ones included."""
    return often * row.count * time


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


