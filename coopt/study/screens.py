"""Dollars of work for many chips at once: each by its cheapest layout that is no slower than the fleet it replaces."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import jax
import numpy as np

from coopt.cost import estimate
from coopt.cost.silicon import build
from coopt.ops import count
from coopt.problems import Problem, Refused
from coopt.search.price import OBJECTIVES
from coopt.search.space import Candidate, Space, all_digits, candidate, flat, lattice
from coopt.spec.nouns import VERDICTS, Hardware, Layout, Model, Ops, Workload
from coopt.spec.silicon import Design, Process
from coopt.study.futures import Future, gathered

BANDS = (2.0, 1.0, 0.5, 0.25)  # of the reference's memory: layouts that small and large memories want
EACH = 2  # layouts kept in each band
CHUNK = 512  # designs priced at once
MEMORY = VERDICTS.index("memory")


@dataclasses.dataclass(frozen=True)
class Screen:
    """A future with the few layouts that chips are screened on, and the seconds a token that none may exceed."""

    future: Future
    ops: Ops  # of the layouts, leaves (1, L)
    tags: tuple[tuple[int, int], ...]  # of each layout: its space, its index
    deadline: float


@dataclasses.dataclass(frozen=True)
class Best:
    """A design in a future: USD a token, and how it is used."""

    value: float
    tag: tuple[int, int] = (0, 0)  # its space of the future, its index in it
    shape: str = ""
    chips: int = 0
    seconds: float = float("inf")  # a token, interruptions counted
    joules: float = float("nan")  # a token
    model: Model = Model()
    layout: Layout = Layout()
    workload: Workload = Workload()
    precision: str = ""


def priced(ops: Ops, hardware: Hardware) -> tuple[np.ndarray, np.ndarray]:
    """USD and seconds a useful token; infinite where a layout does not run. Interruptions cost their share of both."""
    with np.errstate(all="ignore"):
        cost = estimate(ops, hardware)
        useful = ops.tokens * cost.goodput
        seconds, dollars = cost.step_time / useful, cost.dollars / useful
        bad = (np.asarray(cost.verdict) > 0.5) | ~np.isfinite(seconds) | ~np.isfinite(dollars)
        return np.where(bad, np.inf, dollars), np.where(bad, np.inf, seconds)


def screen(future: Future, reference: Hardware, *, chips: int) -> Screen:
    """The layouts worth trying in a future, and its deadline: what `chips` of the reference take at their best."""
    kept, deadline = [], np.inf
    for position, (_, number, space) in enumerate(future.spaces):
        times, wanted = _times(space, reference)
        if number == chips:
            fits = np.where(wanted <= reference.memory, times, np.inf)
            ops = _ops(space, np.array([int(np.argmin(fits))]))
            deadline = min(deadline, float(priced(ops, reference)[1].min()))
        for band in BANDS:
            order = np.argsort(np.where(wanted <= band * reference.memory, times, np.inf), kind="stable")[:EACH]
            kept += [(position, int(i)) for i in order if np.isfinite(times[i])]
    if not np.isfinite(deadline):
        raise Refused(
            Problem(field="chips", expected=f"enough of the bought chip for the model ({future.name})", got=f"{chips}",
                    hint="give more --chips")
        )  # fmt: skip
    return screened(future, kept, deadline)


def screened(future: Future, tags: Sequence[tuple[int, int]], deadline: float) -> Screen:
    """A screen of some layouts, each given by its space of the future and its index."""
    tags = tuple(dict.fromkeys(tags))
    parts = [flat(space, all_digits(space, [i])) for p, i in tags for space in (future.spaces[p][2],)]
    every = gathered([Candidate(model=p.model, layout=p.layout, workload=p.workload) for p in parts])
    row = jax.tree.map(lambda leaf: leaf[None, :], every)
    return Screen(future, count(row.model, row.layout, row.workload), tags, deadline)


def values(screened: Screen, design: Design, process: Process) -> np.ndarray:
    """USD a useful token of designs `(n,)`, each by its cheapest layout of the screen within the deadline."""
    n = max(np.size(leaf) for leaf in jax.tree.leaves(design))
    found = np.full(n, np.inf)
    for low in range(0, n, CHUNK):
        part = jax.tree.map(
            lambda leaf, low=low: np.reshape(leaf[low : low + CHUNK], (-1, 1)) if np.size(leaf) > 1 else leaf, design
        )
        dollars, seconds = priced(screened.ops, build(part, process))
        found[low : low + CHUNK] = np.where(seconds <= screened.deadline * 1.0001, dollars, np.inf).min(axis=1)
    return found


def best(screened: Screen, chips: Sequence[Design], process: Process) -> list[Best]:
    """Each design by the cheapest of *all* layouts of the future within the deadline, not of the screen alone."""
    found = [Best(np.inf) for _ in chips]
    for which, (shape, number, space) in enumerate(screened.future.spaces):
        rank = len(space.axes)
        leaves = [jax.tree.leaves(one) for one in chips]
        stacked = [np.reshape(np.array(column, float), (-1,) + (1,) * rank) for column in zip(*leaves, strict=True)]
        many = jax.tree.unflatten(jax.tree.structure(chips[0]), stacked)
        one = lattice(space)
        ops = count(one.model, one.layout, one.workload)
        extent = (len(chips), *(len(axis) for axis in space.axes))
        dollars, seconds = (
            np.broadcast_to(v, extent).reshape(len(chips), -1) for v in priced(ops, build(many, process))
        )
        allowed = np.where(seconds <= screened.deadline * 1.0001, dollars, np.inf)
        for position, row in enumerate(allowed):
            at = int(np.argmin(row))
            if row[at] < found[position].value:
                named = _best(space, at, build(chips[position], process))
                found[position] = dataclasses.replace(named, tag=(which, at), shape=shape, chips=number)
    return found


def _best(space: Space, at: int, hardware: Hardware) -> Best:
    one = candidate(space, at)
    ops = count(one.model, one.layout, one.workload)
    dollars, seconds = priced(ops, hardware)
    labels = next((axis for axis in space.axes if axis.name == "precision"), None)
    digits = all_digits(space, [at])[0]
    recipe = labels.labels[digits[space.axes.index(labels)]] if labels else ""
    joules = float(OBJECTIVES["joules_per_token"][1](one, ops, estimate(ops, hardware)))
    return Best(
        value=float(dollars), seconds=float(seconds), joules=joules, model=one.model, layout=one.layout,
        workload=one.workload, precision=recipe,
    )  # fmt: skip


def _times(space: Space, hardware: Hardware) -> tuple[np.ndarray, np.ndarray]:
    """Step time and wanted memory of a whole space `(n,)`; too little memory is forgiven, nothing else."""
    extent = tuple(len(axis) for axis in space.axes)
    one = lattice(space)
    with np.errstate(all="ignore"):
        cost = estimate(count(one.model, one.layout, one.workload), hardware)
        verdict = np.asarray(cost.verdict)
        times = np.where((verdict < 0.5) | (np.abs(verdict - MEMORY) < 0.5), cost.step_time, np.inf)
    times = np.where(np.isfinite(times), times, np.inf)
    return np.broadcast_to(times, extent).reshape(-1), np.broadcast_to(cost.memory, extent).reshape(-1)


def _ops(space: Space, indices: np.ndarray) -> Ops:
    one = flat(space, all_digits(space, indices))
    return count(one.model, one.layout, one.workload)
