"""Why a run is slower or faster than predicted: each single change that would explain it, the least odd first."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from coopt.cost import estimate
from coopt.fit.constants import SPREAD, SPREAD_ATTENTION
from coopt.ops import count
from coopt.spec.nouns import RECOMPUTE, Hardware, Layout, Leaf
from coopt.study.given.designs import Design
from coopt.tree import replace

SHOWN = 6
SPREADS = 4.0  # a constant that would have to move by more than so many of its spreads is no suspect
# An assumption about the layout that turns out wrong is taken to be as odd as a constant off by one spread.
WRONG = 1.0


def _shares(values: tuple[Leaf, ...], factor: Leaf) -> tuple[Leaf, ...]:
    return tuple(np.minimum(value * factor, 1.0) for value in values)


def _hidden(machine: Hardware, f: Leaf) -> Hardware:
    return replace(
        machine,
        hide_tensor=np.minimum(machine.hide_tensor * f, 1.0),
        hide_data=np.minimum(machine.hide_data * f, 1.0),
    )


# What could differ on the user's machine: its spread (log units, as the fit has it), how it is turned, and what to
# look at where less of it would explain the run, and where more would.
Turn = tuple[float, Callable[[Hardware, Leaf], Hardware], str, str]
TURNS: dict[str, Turn] = {
    "matmul rate": (
        SPREAD["matmul_16"],
        lambda m, f: replace(m, matmul=_shares(m.matmul, f)),
        "clocks under the power limit, a library's kernel choice, shapes that are no multiple of the tile",
        "clocks above the usual, tuned kernels, zeros or constants as data",
    ),
    "attention rate": (
        SPREAD_ATTENTION["stack"],
        lambda m, f: replace(m, attention=m.attention * f, attention_backward=m.attention_backward * f),
        "an attention kernel of an older generation, head size or mask without a fast path",
        "a newer attention kernel, packed documents that attend less",
    ),
    "memory bandwidth": (
        SPREAD["stream"],
        lambda m, f: replace(m, stream=np.minimum(m.stream * f, 1.0)),
        "memory clocks, error correction, other work on the chip",
        "pointwise work that stays in the cache",
    ),
    "pointwise fusion": (
        SPREAD["passes"],
        lambda m, f: replace(m, passes=m.passes / f),
        "norms, activations, casts or dropout not fused: look for elementwise kernels in a profile",
        "fused norms, activations and losses",
    ),
    "launch rate of the host": (
        SPREAD["dispatch"],
        lambda m, f: replace(m, dispatch=m.dispatch / f),
        "no CUDA graphs or compilation, a slow or shared host, data loading, logging or checks every step",
        "CUDA graphs or whole-step compilation",
    ),
    "overlap of communication": (
        SPREAD["hide"],
        _hidden,
        "overlap switched off, one stream, buckets too large or too small",
        "better overlap than this stack usually has",
    ),
}


def turns(machine: Hardware) -> Iterator[tuple[str, Turn]]:
    """What can be turned on a machine: `TURNS`, and the bandwidth of each of its networks."""
    yield from TURNS.items()
    for at, tier in enumerate(machine.tiers):

        def turned(m: Hardware, f: Leaf, at: int = at) -> Hardware:
            tiers = list(m.tiers)
            tiers[at] = replace(tiers[at], bandwidth=tiers[at].bandwidth * f)
            return replace(m, tiers=tuple(tiers))

        odd = SPREAD["scale_up" if at == 0 else "scale_out"]
        slow = f"a link down, a wrong interface or protocol, neighbours on {tier.name}: run a collective alone"
        yield f"{tier.name} bandwidth", (odd, turned, slow, f"more {tier.name} links than its profile says")


def suspects(one: Design, measured: float, *, sigma: float, given: frozenset[str]) -> list[dict[str, Any]]:
    """Single changes that would bring the prediction to the measured step, by how odd they are, least first.

    `oddness` of a constant is how many spreads of the fit it would have to move; of an assumed field of the layout
    sqrt(1 + r^2), with r what is left unexplained in units of the machine's sigma.
    """
    told = [*_constants(one, measured), *_assumptions(one, measured, sigma, given)]
    return sorted(told, key=lambda suspect: suspect["oddness"])[:SHOWN]


def _constants(one: Design, measured: float) -> Iterator[dict[str, Any]]:
    ops = count(one.model, one.layout, one.workload)
    steps = np.linspace(-SPREADS, SPREADS, 161)
    for name, (odd, turn, slow, fast) in turns(one.hardware):
        factors = np.exp(odd * steps)
        time = np.broadcast_to(np.asarray(estimate(ops, turn(one.hardware, factors)).step_time), steps.shape)
        crossed = np.flatnonzero(np.diff(np.sign(np.log(time / measured))) != 0)
        if len(crossed):
            at = min(crossed, key=lambda i: abs(steps[i]))
            span = math.log(time[at + 1] / time[at])
            step = steps[at] + (steps[at + 1] - steps[at]) * (math.log(measured / time[at]) / span if span else 0.0)
            yield {
                "what": f"{name} {math.exp(odd * step):.2f} times what is expected",
                "oddness": abs(float(step)),
                "step_time": measured,
                "look": slow if step < 0 else fast,
            }


def _assumptions(one: Design, measured: float, sigma: float, given: frozenset[str]) -> Iterator[dict[str, Any]]:
    base = float(estimate(count(one.model, one.layout, one.workload), one.hardware).step_time)
    for field, word, layout in _alternatives(one.layout, given):
        cost = estimate(count(one.model, layout, one.workload), one.hardware)
        time = float(cost.step_time)
        miss = abs(math.log(measured / time)) / sigma
        if int(cost.verdict) == 0 and abs(math.log(measured / time)) < 0.8 * abs(math.log(measured / base)):
            yield {
                "what": f"{field}={word}",
                "oddness": math.hypot(WRONG, miss),
                "step_time": time,
                "look": f"{field} was not given: say what ran, `--layout=...,{field}={word}`",
            }


def _alternatives(layout: Layout, given: frozenset[str]) -> Iterator[tuple[str, str, Layout]]:
    """Each other value of each field that the user left to the stack's practice."""
    values = {
        "recompute": (0.0, 1.0, 2.0),
        "zero": (0.0, 1.0, 2.0, 3.0),
        "sp": (0.0, 1.0),
        "fused_attention": (0.0, 1.0),
        "vpp": (1.0, 2.0, 4.0),
        "micro_batch": (1.0, 2.0, 4.0, 8.0),
    }
    for field, offered in values.items():
        for value in offered if field not in given else ():
            if value == float(getattr(layout, field)) or (field == "sp" and layout.tp < 1.5):
                continue
            shards = layout.dp if field == "zero" and value > 0 else layout.fsdp
            word = RECOMPUTE[int(value)] if field == "recompute" else f"{value:g}"
            yield field, word, replace(layout, **{field: value, "fsdp": shards})
