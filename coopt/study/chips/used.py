"""A piece of work on a machine at its best, and the chip that does some work best: what all studies of chips share.

A machine is judged by an exact sweep of everything that the work leaves open; a chip that is still free is sought
together with it (`coopt.search.chips`), and then judged like any other machine.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from coopt.cost.silicon import build
from coopt.search.chips import Priced, Work, seek
from coopt.search.refine import GENERATIONS
from coopt.search.space import Candidate, candidate
from coopt.search.sweep import Result, sweep
from coopt.spec.nouns import Hardware
from coopt.spec.silicon import Design, Process
from coopt.study.given.objectives import expression
from coopt.study.screened import robust
from coopt.tree import replace

ROUNDS = 4  # times that a chip is sought again from where its exact best uses lead
SAME = 1e-9  # relative: less than this is no improvement
EFFORT = GENERATIONS  # three seeds end at one point in each of four futures of llama3-70b
AGAIN = GENERATIONS // 2  # of a search that begins at a good end


@dataclasses.dataclass(frozen=True, eq=False)
class Used:
    """The best candidate of a work on a machine; `design` is that of a built one."""

    value: float
    plan: Candidate
    index: int
    work: Work
    result: Result
    design: Design | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class Order:
    """How chips are made and ordered, what they may be at most, and what their work is judged by."""

    process: Process
    base: Design  # what is not varied
    offered: Mapping[str, Sequence[float]]
    limits: Mapping[str, float]
    objective: str


@dataclasses.dataclass(frozen=True, eq=False)
class Chosen:
    """A chip that was sought, with its best use in each work; `settled` when a last round found nothing better."""

    value: float
    design: Design
    uses: tuple[Used, ...]
    evaluated: int
    settled: bool


def used(work: Work, machine: Hardware, objective: str, *, design: Design | None = None) -> Used | None:
    """The best of everything that a work leaves open on a machine; None where nothing keeps to its limits."""
    result = sweep(work.space, machine, objectives=(objective,), limits=work.limits, keep=1, pareto=False,
                   expression=expression)  # fmt: skip
    if not len(result.top.indices):
        return None
    index = int(result.top.indices[0])
    plan = replace(candidate(work.space, index), hardware=machine)
    return Used(float(result.top.values[0, 0]), plan, index, work, result, design)


def uses(order: Order, works: Sequence[Work], design: Design) -> tuple[Used, ...] | None:
    """The best use of a design in each work; None where one of them has none."""
    machine, found = build(design, order.process), []
    for work in works:
        one = used(work, machine, order.objective, design=design)
        if one is None:
            return None
        found.append(one)
    return tuple(found)


def chip(
    order: Order,
    works: Sequence[Work],
    weights: Sequence[float],
    *,
    starts: Sequence[Design] = (),
    seed: int = 0,
    generations: int | None = None,
) -> Chosen | None:
    """The best chip for some works that is found, no worse than any of `starts` that keeps to the limits.

    It is sought together with its uses; the exact best of those may ask for another chip, from which it is sought
    again, until neither changes. None where nothing within the limits was found.
    """
    priced = Priced(order.process, order.limits, expression, tuple(weights))
    known = [(design, found) for design in starts if (found := uses(order, works, design))]
    best, evaluated, settled = None, 0, False
    effort = generations or EFFORT
    for turn in range(ROUNDS):
        sought = seek(order.base, order.offered, works, priced, order.objective, seed=seed + turn,
                      starts=[(design, [one.index for one in found]) for design, found in known],
                      generations=effort if turn == 0 else AGAIN, gradients=turn == 0)  # fmt: skip
        if sought is None:
            break
        found = uses(order, works, sought.design)
        assert found is not None, "what was found in a space is in it"
        value = sum(weight * one.value for weight, one in zip(weights, found, strict=True))
        evaluated += sought.evaluated + sum(one.result.evaluated for one in found)
        settled = best is not None and not value < best.value * (1.0 - SAME)
        if settled:
            break
        best = Chosen(value, sought.design, found, evaluated, False)
        known = [(sought.design, found)]
    return best and dataclasses.replace(best, evaluated=evaluated, settled=settled)


def draws(one: Used, objective: str, made_with: Process | None, *, seed: int, path: Any = None) -> np.ndarray:
    """The objective of a use under joint draws of what its machine stands on, `(samples,)`; infinite where it fails.

    That of a profile are the fitted constants of its family and stack; that of a built chip the constants of a process
    with an interval: what nodes, memories and links are and cost, and what software reaches.
    """
    machine = None
    if one.design is not None and made_with is not None:
        machine = build(one.design, robust.processes(made_with, samples=robust.SAMPLES, seed=seed, path=path))
    return robust.priced([one.plan], objective, seed=seed, path=path, under=machine)[0]
