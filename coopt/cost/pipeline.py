"""Micro-batches through stages: how long the slowest stage takes, what the others wait, which rows show."""

from __future__ import annotations

from coopt.cost.overlap import Busy, Hidden, Layer, launches, linked, shows, total, waiting
from coopt.spec.nouns import Hardware, Leaf, Ops
from coopt.tree import struct
from coopt.xp import always, at_least, floor, logical_or, maximum, minimum, where

# Share of the 1F1B bubble that is left when weight gradients fill it: Qi et al. 2023, arXiv 2401.10241 (ZB-H1). Of a
# bidirectional one (pp / 2 - 1) (F&B + B - 3 W) is: as much, but for a forward pass (DeepSeek-V3, arXiv 2412.19437).
ZERO_BUBBLE = 1.0 / 3.0


@struct
class Pipeline:
    """Seconds of all micro-batches, and how often a row of each scope shows in them."""

    steady: Leaf = 0.0  # micro-batches x the slowest stage
    bubble: Leaf = 0.0
    layers: Leaf = 0.0  # micro-batches x layers of the slowest stage
    first: Leaf = 0.0  # micro-batches whose embedding shows
    last: Leaf = 0.0  # micro-batches whose head shows
    stage: Leaf = 0.0  # micro-batches whose message to the next stage shows
    waiting: Leaf = 0.0  # s the device waits for the host
    send: Leaf = 0.0  # share of the message to the next stage that shows
    stuck: Leaf = 0.0  # s of that a micro-batch


def _shared(ops: Ops, first: Leaf, last: Leaf) -> tuple[Leaf, Leaf]:
    """What the first and the last chip have: one end each, or half of the micro-batches of either (dualpipe)."""
    if always(ops.dualpipe, 0.0):
        return first, last
    far = 0.5 * ops.dualpipe
    return (1.0 - far) * first + far * last, (1.0 - far) * last + far * first


def pipeline(ops: Ops, hardware: Hardware, busy: tuple[Busy, ...], layer: Layer) -> Pipeline:
    """M max t_s + (sum t_s - max t_s) / v, with t_s the time of stage s for one micro-batch and v chunks a stage.

    That is 1F1B with unequal stages exactly when one stage is the slowest; interleaving divides the rest by v, and
    a zero-bubble schedule leaves a third of it. While it fills and drains no micro-batch meets another.
    """
    rows = ops.rows
    single = ops.stages < 1.5
    waits, ends = {}, {}
    for scope in ("first", "last"):
        device = total(rows, busy, scope, groups=None) + total(
            rows, busy, scope, groups=("tensor", "context", "expert")
        )
        waits[scope] = waiting(hardware, ops.eager * launches(rows, scope), device)
        ends[scope] = device + waits[scope]
    sent = total(rows, busy, "stage", groups=("pipeline",))
    # it hides behind the other chunks of the stage, or behind another micro-batch, where there are any
    under = maximum(where(ops.chunks > 1.5, floor(ops.overlap), 0.0), ops.paired)
    fewest = minimum(ops.layers_first, minimum(ops.layers_middle, ops.layers_last))
    message = Hidden(time=sent, share=under, links=linked(rows, busy, "stage", groups=("pipeline",)))
    send, (send_shows,) = shows(fewest * layer.time, message, under=tuple(fewest * link for link in layer.links))
    # Every stage sends as much, so that it can be left out of what is compared.
    send = where(single, 0.0, send)
    at, to = _shared(ops, ends["first"], ends["last"])
    on_first, on_last = _shared(ops, ops.layers_first, ops.layers_last)
    first = on_first * layer.time + (at + where(single, to, 0.0))
    last = on_last * layer.time + (to + where(single, at, 0.0))
    middle = where(ops.stages > 2.5, ops.layers_middle, 0.0) * layer.time
    slowest = maximum(first, maximum(middle, last))
    whole = ops.layers * layer.time + (ends["first"] + ends["last"])
    # The slowest stage is no quicker than the mean one: no news of one layout, a tight bound on a box of many.
    pace = maximum(slowest, whole / ops.stages)
    others = at_least(ops.stages - 1.0, 0.0)  # never below zero, however a bound on it is rounded
    idle = where(single, 0.0, where(logical_or(ops.schedule > 1.5, ops.dualpipe > 0.5), ZERO_BUBBLE, 1.0) / ops.chunks)
    # Which stage is the slowest decides whose rows show.
    at_first = logical_or(single, first >= slowest)
    at_last = logical_or(single, where(at_first, False, last >= slowest))
    layers = where(at_first, on_first, where(at_last, on_last, ops.layers_middle))
    m = ops.micro_batches
    on_first, on_last = _shared(ops, m * where(at_first, 1.0, 0.0), m * where(at_last, 1.0, 0.0))
    unmet = at_least(ops.layers - layers, 0.0) * layer.unmet
    return Pipeline(
        steady=m * pace + m * send,
        bubble=(maximum(whole - slowest, 0.0) + unmet + others * send) * idle,
        layers=m * layers,
        first=on_first,
        last=on_last,
        stage=where(single, 0.0, m),
        send=send_shows,
        stuck=send,
        waiting=m * layers * layer.dispatch + on_first * waits["first"] + on_last * waits["last"],
    )
