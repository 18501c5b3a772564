"""Planted optima: whatever searches, the winner is the one that was put there, and brute force agrees."""

from __future__ import annotations

import re

import jax
import numpy as np
import pytest

from coopt.search import bound
from coopt.search.layouts import layout_space
from coopt.search.price import Score, price
from coopt.search.recorded import task_of
from coopt.search.refine import refine
from coopt.search.space import Axis, Candidate, Space, all_digits, axis, digits, flat, index, product, size
from coopt.search.sweep import sweep
from coopt.spec import load
from coopt.spec.nouns import Hardware, LayerKind, Model, training
from coopt.tree import replace
from coopt.xp import ceil, log, logical_and, maximum, sqrt, where

SIZES = (13, 11, 9, 8)  # 10,296 candidates: more than are priced at random to begin with
FIELDS = ("tp", "pp", "micro_batch", "vpp")


def landscape(candidate: Candidate, names: tuple[str, ...]) -> Score:
    """A bowl with ripples, a wall and a limit, around the place that the machine's fields name.

    Off the place every choice adds; a decoy with a smaller bowl lies behind the wall, where nothing runs.
    """
    layout, at = candidate.layout, candidate.hardware
    assert at is not None
    place = (layout.tp, layout.pp, layout.micro_batch, layout.vpp)
    to = (at.cache, at.cores, at.depth, at.kernel)
    weights = (at.margin, at.stream, at.bandwidth, at.vector)
    bowl = 1.0
    for x, y, weight in zip(place, to, weights, strict=True):
        off = abs(x - y)
        bowl = bowl + weight * off * off + where(off > 0.5, 0.5 + sqrt(off) + 0.3 * log(1.0 + off), 0.0)
    decoy = logical_and(abs(layout.tp - at.memory) < 0.5, abs(layout.pp - at.reserved) < 0.5)
    value = where(decoy, 0.01 * bowl, bowl) * (1.0 + 0.1 * (ceil(layout.vpp / 3.0) - ceil(at.kernel / 3.0)) ** 2)
    return Score(verdict=where(decoy, 1.0, 0.0), objectives=(value, maximum(layout.tp * layout.pp, 1.0)))


def planted(seed: int) -> tuple[Space, Hardware, tuple[int, ...], float]:
    """A space, a machine that names the place, the digits of the optimum, and a limit that it just keeps to."""
    rng = np.random.default_rng(seed)
    best = rng.integers(0, SIZES)
    decoy = (best[:2] + rng.integers(1, 6, 2)) % SIZES[:2]
    weights = 10.0 ** rng.uniform(-2, 1, 4)
    machine = Hardware(cache=best[0] + 1.0, cores=best[1] + 1.0, depth=best[2] + 1.0, kernel=best[3] + 1.0,
                       memory=decoy[0] + 1.0, reserved=decoy[1] + 1.0, margin=weights[0], stream=weights[1],
                       bandwidth=weights[2], vector=weights[3])  # fmt: skip
    axes = [axis(f, f"layout.{f}", np.arange(1, n + 1)) for f, n in zip(FIELDS, SIZES, strict=True)]
    order = rng.permutation(4)  # and every axis in an order of its own
    axes = [Axis(a.name, a.paths, a.values[rng.permutation(len(a))]) for a in (axes[i] for i in order)]
    found = tuple(int(np.flatnonzero(a.values[:, 0] == best[i] + 1)[0]) for a, i in zip(axes, order, strict=True))
    return product(axes, Candidate()), machine, found, float((best[0] + 1) * (best[1] + 1))


@pytest.mark.parametrize("seed", [*range(4), *(pytest.param(n, marks=pytest.mark.slow) for n in range(4, 100))])
def test_all_searches_find_the_planted_optimum(seed):
    """Brute force, the sweep, bound and prune, evolution, gradients: one winner, 100 of 100."""
    space, machine, best, least = planted(seed)
    limits = {"product": least}
    told = {"objectives": ("value", "product"), "limits": limits, "expression": landscape}
    task = task_of(space, machine, law=None, **told)
    score = landscape(flat(task.space, all_digits(space, np.arange(size(space)))), ("value", "product"))
    value = np.where((score.verdict < 0.5) & (score.objectives[1] <= least), score.objectives[0], np.inf)
    assert digits(space, int(value.argmin())) == best and (value == value.min()).sum() == 1
    assert value.min() == pytest.approx(1.0)
    swept = sweep(space, machine, keep=1, pareto=False, **told)
    evolved = refine(space, machine, gradients=False, seed=seed, **told)
    pulled = refine(space, machine, generations=0, seed=seed, **told)
    proof = bound.search(task, np.zeros((1, 4), dtype=int))
    assert [int(one.top.indices[0]) for one in (swept, evolved, pulled)] == [index(space, best)] * 3
    assert proof.digits == best and proof.gap == 0.0
    assert proof.value == swept.top.values[0, 0] == evolved.top.values[0, 0]
    assert proof.bounded + proof.priced < size(space)


def mixture() -> tuple[Space, dict]:
    """Layouts of a mixture of experts with its experts spread, on 16 chips in nodes of 8."""
    kind = LayerKind(count=8.0, heads=8.0, kv_heads=4.0, head_dim=64.0, feedforward="moe", experts=8.0, top_k=2.0,
                     d_expert=1024.0, shared=1.0, d_shared=512.0)  # fmt: skip
    few = {"vpp": (1, 2), "micro_batch": (1, 2), "cp": (1,), "order": (0,), "offload": (0.0,), "recompute": (0, 2)}
    model = Model(name="moe", d_model=512.0, vocab=32000.0, kinds=(kind,))
    space = layout_space(model, training(1024.0, 64.0), chips=16, choices=few)
    machine = load.resolve("dgx-h100", chips=16)
    return Space(axes=space.axes, base=replace(space.base, hardware=machine)), {"objectives": ("step_time",)}


def machines() -> tuple[Space, dict]:
    """Shapes and layouts on two published machines at once, by dollars a token, under a limit on memory."""
    kind = LayerKind(count=12.0, heads=8.0, kv_heads=8.0, head_dim=64.0, d_ff=2048.0)
    few = {"vpp": (1,), "micro_batch": (1, 4), "order": (0,), "offload": (0.0,), "cp": (1,), "zero": (0, 1, 3)}
    model = Model(name="m", d_model=512.0, vocab=32000.0, kinds=(kind,))
    space = layout_space(model, training(1024.0, 64.0), chips=16, choices=few)
    several = [load.resolve(name, chips=16) for name in ("dgx-a100", "dgx-h100")]
    paths = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(several[0])]
    rows = list(zip(*(jax.tree.leaves(one) for one in several), strict=True))
    differ = [
        (path, row) for path, row in zip(paths, rows, strict=True) if row[0] != row[1] and not np.isnan(row).any()
    ]
    fields = ["hardware" + re.sub(r"\[(\d+)\]", r".\1", path) for path, _ in differ]
    machine = axis("machine", fields, list(zip(*(row for _, row in differ), strict=True)))
    widths = axis("d_ff", "model.kinds.0.d_ff", [1536, 2048, 3072])
    base = replace(space.base, hardware=several[0])
    told = {"objectives": ("dollars_per_token",), "limits": {"memory_share": 0.01}}
    return product((machine, widths, *space.axes), base), told


@pytest.mark.parametrize("which", [mixture, machines], ids=lambda one: one.__name__)
def test_all_searches_agree_on_the_cost_model(which):
    """Brute force, sweep, bound and prune, evolution and gradients on real spaces: experts, two tiers, machines."""
    space, told = which()
    (name,) = told["objectives"]
    limits = told.get("limits", {})
    with np.errstate(all="ignore"):
        score = price(flat(space, all_digits(space, np.arange(size(space)))), (name, *limits))
    value, *bounded = (np.broadcast_to(one, size(space)) for one in score.objectives)
    fits = np.broadcast_to(score.verdict, size(space)) < 0.5
    for one, most in zip(bounded, limits.values(), strict=True):
        fits = fits & (one <= most)
    value = np.where(fits & np.isfinite(value), value, np.inf)
    assert 100 < np.isfinite(value).sum() <= size(space) <= 200_000 and (not limits or np.isinf(value).any())
    swept = sweep(space, keep=1, pareto=False, **told)
    evolved = refine(space, generations=20, gradients=False, seed=1, **told)
    pulled = refine(space, generations=2, seed=1, **told)
    proof = bound.search(task_of(space, expression=price, **told), np.zeros((1, len(space.axes)), dtype=int))
    winners = [int(one.top.indices[0]) for one in (swept, evolved, pulled)] + [index(space, proof.digits)]
    np.testing.assert_allclose(value[winners], value.min(), rtol=1e-12)
    assert winners[0] == np.flatnonzero(value <= value.min() * (1 + 1e-12))[0] and proof.gap == 0.0


def poisoned(candidate: Candidate, names: tuple[str, ...]) -> Score:
    """Both infinities, NaN, overflow, the smallest number there is and the largest, beside one honest winner."""
    code, other = candidate.layout.tp, candidate.layout.pp
    value = 2.0 + code + 0.001 * other
    for at, bad in ((2.0, np.nan), (3.0, np.inf), (4.0, -np.inf)):
        value = where(abs(code - at) < 0.5, bad, value)
    value = where(abs(code - 5.0) < 0.5, value / (other - other), value)  # a division by zero
    value = where(abs(code - 6.0) < 0.5, 1e308 * value, value)
    known = {"value": value, "other": where(abs(code - 8.0) < 0.5, np.nan, code)}
    return Score(verdict=where(code < 1.5, 1.0, 0.0), objectives=tuple(known[name] for name in names))


def test_what_is_not_finite_never_wins_a_search_beyond():
    """D8: unknown, infinite and overflowing objectives are never best, never on a front, never below a bound."""
    axes = [axis("tp", "layout.tp", np.arange(1, 15)), axis("pp", "layout.pp", np.arange(1, 301))]
    space, told = product(axes, Candidate()), {"objectives": ("value", "other"), "expression": poisoned}
    found = refine(space, Hardware(), generations=20, **told)
    proof = bound.search(task_of(space, Hardware(), law=None, limits=None, objectives=("value",), expression=poisoned),
                         np.zeros((1, 2), dtype=int))  # fmt: skip
    assert np.isfinite(found.pareto.values).all() and np.isfinite(found.top.values[:, 0]).all()
    assert digits(space, int(found.top.indices[0])) == proof.digits == (6, 0)
    assert proof.gap == 0.0 and proof.value == found.top.values[0, 0] == 9.001
    assert digits(space, int(found.pareto.indices[0])) == (6, 0) and len(found.pareto.indices) == 1
    assert found.rejected["value unknown"] > 0 and found.rejected["memory"] > 0
