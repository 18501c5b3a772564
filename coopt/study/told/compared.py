"""`compare`: which of two or more designs is better, by how much, how sure, and why.

Two explanations, each of which adds to the whole: the log-ratio of step times split over rows, and split over what
differs between the machines, by integrating the elasticities of `estimate` along the straight path between them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from coopt.cost import estimate
from coopt.cost.explain import plain
from coopt.ops import count
from coopt.problems import Problem, Refused
from coopt.search.elasticity import called
from coopt.spec.nouns import VERDICTS, Cost, Hardware
from coopt.study.given.designs import Design
from coopt.study.scored.evidence import card, interval, sigma

SEGMENTS = 400  # of the path between two machines
STEP = 1e-5  # relative step of the central difference along the path
RANGE = (0.25, 4.0)  # factors within which a flip is looked for
# Part of the spread that two designs of one machine and stack share: it cancels in their ratio.
SHARED = 0.8


def compare(designs: Sequence[Design]) -> dict[str, Any]:
    """The first design against each of the others, as one document; the first comparison's keys at the top."""
    if len(designs) < 2:
        raise Refused(
            Problem(
                field="designs",
                expected="two designs or more",
                got=str(len(designs)),
                hint="write `coopt compare llama3-70b@dgx-h100:1024/tp=8 llama3-70b@dgx-b200:1024/tp=8`",
            )
        )
    pairs = [_pair(designs[0], other) for other in designs[1:]]
    return pairs[0] | ({"others": pairs[1:]} if len(pairs) > 1 else {})


def _pair(a: Design, b: Design) -> dict[str, Any]:
    """B over a: a ratio above 1 means that b takes longer, or makes more tokens a dollar or megawatt."""
    costs = [_cost(one, one.hardware) for one in (a, b)]
    wrong = [
        f"{one.name}: {VERDICTS[int(cost.verdict)]}"
        for one, cost in zip((a, b), costs, strict=True)
        if int(cost.verdict)
    ]
    said = [f"{text}: does not run as asked, priced all the same" for text in wrong]
    if _tokens(a) != _tokens(b):
        said.append("the designs do different work in a step: `time` is seconds a token")
    sigma = spread(a, b)
    ratio = _ratios(a, b, *costs)
    time = _per_token(b, costs[1]) / _per_token(a, costs[0])
    told = {
        "a": a.name,
        "b": b.name,
        "ratio": ratio,
        "interval": interval(time, sigma),
        "better": a.name if time > 1.0 else b.name,
        "sure": _normal(abs(math.log(time)) / sigma) if sigma > 0 else 1.0,
        "by_row": by_row(a, b, *costs),
        "by_rate": by_rate(a, b),
        "flips": flips(a, b),
        "step_time": {"a": plain(costs[0].step_time), "b": plain(costs[1].step_time)},
        "verdict": {"a": VERDICTS[int(costs[0].verdict)], "b": VERDICTS[int(costs[1].verdict)]},
    }
    cards = [card(one, float(cost.step_time)) for one, cost in zip((a, b), costs, strict=True)]
    return told | {
        "fidelity": cards[0]["fidelity"] if cards[0]["fidelity"] == cards[1]["fidelity"] else "transferred",
        "stack": a.hardware.stack,
        "assumed": [*said, *dict.fromkeys((*cards[0]["assumed"], *cards[1]["assumed"]))],
        "nearest": [row | {"of": name} for name, one in zip("ab", cards, strict=True) for row in one["nearest"][:2]],
    }


def _cost(one: Design, hardware: Hardware) -> Cost:
    return estimate(count(one.model, one.layout, one.workload), hardware)


def _tokens(one: Design) -> float:
    phase = one.workload.train
    return float(phase.batch * phase.seq_len)


def _per_token(one: Design, cost: Cost) -> float:
    return float(cost.step_time) / _tokens(one)


def _ratios(a: Design, b: Design, cost_a: Cost, cost_b: Cost) -> dict[str, float | None]:
    """Seconds a token, tokens a dollar and tokens a megawatt of IT power, b over a."""
    per_a, per_b = _per_token(a, cost_a), _per_token(b, cost_b)
    dollars = [_tokens(one) / float(cost.dollars) for one, cost in ((a, cost_a), (b, cost_b))]
    watts = [1.0 / per / float(one.hardware.chips * one.hardware.watts_all_in) for one, per in ((a, per_a), (b, per_b))]
    return {
        "time": per_b / per_a,
        "tokens_per_dollar": plain(dollars[1] / dollars[0]),
        "tokens_per_megawatt": plain(watts[1] / watts[0]),
    }


def spread(a: Design, b: Design) -> float:
    """Standard deviation of the log ratio of two step times: what both designs miss alike cancels."""
    spreads = [sigma(one.hardware) for one in (a, b)]
    alike = SHARED if (a.hardware.family, a.hardware.stack) == (b.hardware.family, b.hardware.stack) else 0.0
    return math.sqrt(max(spreads[0] ** 2 + spreads[1] ** 2 - 2 * alike * spreads[0] * spreads[1], 1e-8))


def _normal(z: float) -> float:
    return 0.5 * (1.0 + math.erf(z / math.sqrt(2.0)))


def by_row(a: Design, b: Design, cost_a: Cost, cost_b: Cost) -> list[dict[str, Any]]:
    """The log ratio of time a token split over rows in proportion to their differences; the parts add to it."""
    times: dict[str, list[float]] = {}
    for side, (one, cost) in enumerate(((a, cost_a), (b, cost_b))):
        for name, time in zip(cost.names, cost.time, strict=True):
            times.setdefault(name, [0.0, 0.0])[side] += float(time) / _tokens(one)
    whole = [sum(pair[side] for pair in times.values()) for side in (0, 1)]
    difference = whole[1] - whole[0]
    # logarithmic mean: the weight with which differences add to a log ratio
    scale = math.log(whole[1] / whole[0]) / difference if abs(difference) > 1e-15 * whole[0] else 1.0 / whole[0]
    rows = [{"name": name, "log_ratio": (pair[1] - pair[0]) * scale} for name, pair in times.items()]
    return sorted((row for row in rows if row["log_ratio"] != 0.0), key=lambda row: -abs(row["log_ratio"]))


def _numbers(a: Hardware, b: Hardware) -> dict[str, tuple[float, float]]:
    """Every number that a step time can depend on, by a's name of it: a's, known and finite, and b's."""
    leaves = zip(jax.tree_util.tree_leaves_with_path(a), jax.tree.leaves(b), strict=True)
    named = [(called(path, a), float(leaf), float(other)) for (path, leaf), other in leaves]
    return {name: (leaf, other) for name, leaf, other in named if np.isfinite(leaf) and not name.startswith(_IDLE)}


_IDLE = (
    "watts",
    "joules",
    "dollars",
    "date",
    "failure",
    "restart",
    "repair",
    "blast",
    "spares",
    "checkpoint",
    "sigma",
    "memory",
    "chips",
    "host_memory",
    "vector",
    "cache",
    "margin",
    "reserved",
)
_SIZES = (" size", "cores", "tile_m", "tile_n", "tile_k", " axes", "jitter", "overhead")  # not a rate one can turn


def _between(a: Hardware, b: Hardware, names: Sequence[str], at: np.ndarray) -> Hardware:
    """Machines on the straight path from a to b, geometric where both numbers are positive; leaves `(n,)`."""

    def mix(path, leaf, other):
        share = at[names.index(n)] if (n := called(path, a)) in names else None
        if share is None or leaf == other:
            return np.broadcast_to(np.asarray(leaf, float), at.shape[1:])
        if leaf > 0 and other > 0:
            return leaf * (other / leaf) ** share
        return leaf + (other - leaf) * share

    return jax.tree_util.tree_map_with_path(mix, a, b)


def by_rate(a: Design, b: Design) -> list[dict[str, Any]]:
    """The log ratio of step times split over what differs between the machines, then the rest of the design.

    Integrated gradients (Aumann-Shapley): sum over the path of d log T / d rate times d rate, rate by rate. What the
    finite path misses is a row of its own, so that the parts add to the whole.
    """
    if len(a.hardware.tiers) != len(b.hardware.tiers):
        return []
    on_a, on_b = (float(_cost(a, machine).step_time) for machine in (a.hardware, b.hardware))
    names = [name for name, (here, there) in _numbers(a.hardware, b.hardware).items() if here != there]
    parts = _integrated(a, b, names) if names else {}
    machine = math.log(on_b / on_a)
    rows = [{"name": name, "log_ratio": value} for name, value in parts.items() if value != 0.0]
    rows.sort(key=lambda row: -abs(row["log_ratio"]))
    rows.append({"name": "path residual", "log_ratio": machine - math.fsum(parts.values())})
    whole = math.log((float(_cost(b, b.hardware).step_time) / _tokens(b)) / (on_a / _tokens(a)))
    rows.append({"name": "model, layout and workload", "log_ratio": whole - machine})
    return rows


def _integrated(a: Design, b: Design, names: list[str]) -> dict[str, float]:
    """Midpoint rule along the path, central differences toward each rate, all segments and rates in one batch."""
    middles = (np.arange(SEGMENTS) + 0.5) / SEGMENTS
    ops = count(a.model, a.layout, a.workload)

    def log_time(shares: np.ndarray) -> np.ndarray:
        return np.log(np.asarray(estimate(ops, _between(a.hardware, b.hardware, names, shares)).step_time))

    told = {}
    for position, name in enumerate(names):
        shares = np.broadcast_to(middles, (len(names), SEGMENTS)).copy()
        up, down = shares.copy(), shares.copy()
        up[position] += STEP
        down[position] -= STEP
        told[name] = float(np.mean((log_time(up) - log_time(down)) / (2 * STEP)))
    return told


def flips(a: Design, b: Design) -> list[dict[str, Any]]:
    """The one rate of b's machine, changed within a factor of four, that would make the other design the faster."""
    on_a = float(_cost(a, a.hardware).step_time) / _tokens(a)
    ops = count(b.model, b.layout, b.workload)
    order = float(_cost(b, b.hardware).step_time) / _tokens(b) > on_a
    factors = np.geomspace(*RANGE, 81)
    told = []
    for path, leaf in jax.tree_util.tree_leaves_with_path(b.hardware):
        name = called(path, b.hardware)
        if not np.isfinite(leaf) or leaf <= 0 or name.startswith(_IDLE) or name.endswith(_SIZES):
            continue
        machine = jax.tree_util.tree_map_with_path(lambda p, v, path=path: v * factors if p == path else v, b.hardware)
        slower = np.broadcast_to(np.asarray(estimate(ops, machine).step_time) / _tokens(b) > on_a, factors.shape)
        changed = [float(f) for f, s in zip(factors, slower, strict=True) if bool(s) != order]
        if changed:
            factor = min(changed, key=lambda f: abs(math.log(f)))
            told.append({"parameter": name, "from": float(leaf), "to": float(leaf) * factor, "factor": factor})
    return sorted(told, key=lambda row: abs(math.log(row["factor"])))
