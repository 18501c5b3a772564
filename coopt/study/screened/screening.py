"""Screening: every candidate of a study on one machine priced, the best kept, and the best of each shape or layout."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import Any

import numpy as np

from coopt.cost import estimate
from coopt.ops import count
from coopt.search.beyond import EXHAUSTIVE, beyond
from coopt.search.bound import Bounded
from coopt.search.nearest import nearest
from coopt.search.space import Candidate, Space, size
from coopt.search.sweep import Result, sweep
from coopt.spec.nouns import Hardware, Law
from coopt.study.given.objectives import expression, machine_of
from coopt.study.given.schema import Study
from coopt.study.given.spaces import Family, chosen, space

KEEP = 2048  # best candidates that a sweep returns first; more are asked for where they are too much alike
MOST = 65536
PLAIN = functools.partial(sweep, expression=expression)  # in this process, at one go
BOXES = 400_000  # of a proof, a minute: a number and no time, so that a run that goes on finds the same


@dataclasses.dataclass(frozen=True)
class Screened:
    """One machine's sweep, with what is needed to name any of its candidates."""

    space: Space
    result: Result
    family: Family
    hardware: Hardware
    law: Law | None
    proof: Bounded | None = None  # of a space too large to price all of

    def plan(self, index: int) -> Candidate:
        """A candidate by its index, on the machine it was priced on."""
        return chosen(self.space, int(index), self.family, self.hardware, self.law)


def objectives(study: Study, family: Family) -> tuple[str, ...]:
    """What ranks, then what else spans the front: the loss where shapes differ, the memory where layouts do."""
    searched = study.law is not None and (family.model is None or not isinstance(study.workload.tokens, float))
    second = "loss" if searched and study.objective != "loss" else "memory_share"
    return study.objective, second


def screen(
    study: Study,
    family: Family,
    hardware: Hardware,
    law: Law | None,
    *,
    distinct: int,
    key: Callable[[Candidate], Hashable],
    pareto: bool = True,
    progress: Callable[[int, int], None] | None = None,
    sweeper: Callable[..., Result] | None = None,
    path: Any = None,
) -> Screened:
    """Prices every candidate; keeps enough of the best that `distinct` of them differ by `key`.

    A space of more than EXHAUSTIVE candidates is refined and bounded instead, and the answer says what is proved;
    with a `sweeper` (over several processes or machines) all of them are priced.
    """
    found = space(study, family, chips=float(hardware.chips), path=path)
    names = objectives(study, family)
    if size(found) > EXHAUSTIVE and sweeper is None:
        result, proof = beyond(found, hardware, law=law, objectives=names, limits=study.limits, keep=KEEP,
                               seed=int(study.seed), seconds=math.inf, boxes=BOXES, expression=expression,
                               progress=progress)  # fmt: skip
        return Screened(space=found, result=result, family=family, hardware=hardware, law=law, proof=proof)
    keep = KEEP
    while True:
        result = (sweeper or PLAIN)(found, hardware, law=law, objectives=names, limits=study.limits, keep=keep,
                                    pareto=pareto, progress=progress)  # fmt: skip
        told = Screened(space=found, result=result, family=family, hardware=hardware, law=law)
        many = sum(1 for _ in best(told, key=key, most=distinct))
        if many >= distinct or len(result.top.indices) < keep or keep >= MOST:
            return told
        keep *= 8


def of_each_recipe(
    study: Study, screened: Screened, *, distinct: int, key: Callable[[Candidate], Hashable], path: Any = None
) -> Iterator[Screened]:
    """A study's sweep again for each recipe that it may choose, since the best of all may be of one recipe alone."""
    offered = next((one.labels for one in screened.space.axes if one.name == "precision"), ())
    if len(offered) < 2:
        yield screened
        return
    for name in offered:
        alone = study.model_copy(update={"layout": {**study.layout, "precision": [name]}})
        yield screen(alone, screened.family, screened.hardware, screened.law, distinct=distinct, key=key,
                     pareto=False, path=path)  # fmt: skip


def best(
    screened: Screened, *, key: Callable[[Candidate], Hashable], most: int | None = None
) -> Iterator[tuple[Candidate, float]]:
    """The best candidate of each kind that `key` tells apart, with its objective, best first."""
    seen: set[Hashable] = set()
    for index, value in zip(screened.result.top.indices, screened.result.top.values[:, 0], strict=True):
        one = screened.plan(int(index))
        which = key(one)
        if which not in seen:
            seen.add(which)
            yield one, float(value)
            if most is not None and len(seen) >= most:
                return


def kind_of(family: Family) -> Callable[[Candidate], Hashable]:
    """What tells plans apart in a list: shapes of a family, layouts of one model."""
    return shape if family.model is None else cut


def shape(plan: Candidate) -> Hashable:
    """What makes two plans of a family different: the shape of the model."""
    kinds = tuple(
        (k.mixer, k.feedforward, k.count, k.heads, k.kv_heads, k.head_dim, k.d_ff, k.gated, k.experts, k.top_k,
         k.d_expert)
        for k in plan.model.kinds
    )  # fmt: skip
    return plan.model.d_model, plan.model.vocab, kinds


def cut(plan: Candidate) -> Hashable:
    """What makes two plans of one model different: time and memory, for many spellings of a layout are one layout."""
    ops = count(plan.model, plan.layout, plan.workload)
    cost = estimate(ops, machine_of(plan))
    return f"{float(cost.step_time):.6e}", f"{float(cost.memory):.6e}"


def front(screened: Screened, *, most: int) -> list[Candidate]:
    """The Pareto front of a sweep, in order of the first objective; at most `most` points, spread along it."""
    values = screened.result.pareto.values
    order = np.argsort(values[:, 0], kind="stable") if len(values) else np.zeros(0, int)
    kept = np.unique(np.round(np.linspace(0, len(order) - 1, min(most, len(order)))).astype(int)) if len(order) else []
    return [screened.plan(int(screened.result.pareto.indices[order[position]])) for position in kept]


def census(several: Sequence[Screened]) -> dict[str, int]:
    """Why candidates were rejected, over all sweeps, most frequent first."""
    total: dict[str, int] = {}
    for one in several:
        for reason, many in one.result.rejected.items():
            total[reason] = total.get(reason, 0) + many
    return dict(sorted(total.items(), key=lambda pair: -pair[1]))


def closest(screened: Screened, limits: dict[str, float]) -> str:
    """When nothing of a sweep is left: the candidate that misses by least, in a sentence; empty where none divides.

    What a limit ruled out most is told by the best there is in that respect, limits aside; else it is memory.
    """
    rejected, machine = screened.result.rejected, screened.hardware
    above = {name: rejected.get(f"{name} above limit", 0) for name in limits}
    where = f"{machine.name} x {float(machine.chips):g}"
    if any(above.values()):
        name = max(above, key=above.__getitem__)
        found = sweep(screened.space, machine, law=screened.law, objectives=(name,), keep=1, pareto=False,
                      expression=expression).top  # fmt: skip
        said = f"the smallest {name} of all that run on {where} is {{:.6g}}, the limit {limits[name]:.6g}"
    else:
        found = nearest(screened.space, machine)
        said = f"the candidate nearest to running on {where} wants {{:.4g}} times the memory there is"
    if not len(found.indices):
        return ""
    plan = screened.plan(int(found.indices[0]))
    return f"{said.format(float(found.values[0, 0]))}: {plan.model.name} with {layout_text(plan)}"


def layout_text(plan: Candidate) -> str:
    """The fields of a layout that say how a model is cut, as a user writes them."""
    names = ("tp", "cp", "pp", "dp", "ep", "vpp", "micro_batch", "zero")
    said = {name: float(getattr(plan.layout, name)) for name in names}
    return ", ".join(
        f"{name}={value:g}" for name, value in said.items() if value != 1.0 or name in ("dp", "micro_batch")
    )


def proved(screened: Screened) -> str:
    """What is known of a space too large to price all of, in a sentence; empty for one that was priced whole."""
    proof = screened.proof
    if proof is None:
        return ""
    machine, result = screened.hardware, screened.result
    said = (
        f"{size(screened.space):,} candidates on {machine.name} x {float(machine.chips):g} are too many to "
        f"price one by one: {result.evaluated:,} were priced by refinement, {proof.bounded:,} boxes bounded; "
    )
    if proof.gap == 0.0:
        return said + f"no candidate has a {result.objectives[0]} below the best one's"
    return said + (f"no candidate has a {result.objectives[0]} below {proof.least:.6g}: one not seen could be "
                   f"{100 * proof.gap:.3g}% better than the best one found")  # fmt: skip
