"""Beyond exhaustive: a space of any size refined, then bounded, so that an answer comes with proof or with its gap."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from coopt.problems import Problem, Refused
from coopt.search import bound
from coopt.search.price import Expression, price
from coopt.search.recorded import Task, flat_objectives, record, task_of
from coopt.search.refine import GENERATIONS, STARTS, refine
from coopt.search.space import Space, digits, index, size
from coopt.search.sweep import FRONT, Ranked, Result
from coopt.spec.nouns import Hardware, Law

EXHAUSTIVE = 10**9  # candidates up to which a sweep prices all of them


def beyond(
    space: Space,
    hardware: Hardware | None = None,
    *,
    law: Law | None = None,
    objectives: Sequence[str] = FRONT,
    limits: Mapping[str, float] | None = None,
    keep: int = 32,
    seed: int = 0,
    seconds: float = 60.0,
    boxes: int = 1_000_000,
    generations: int = GENERATIONS,
    gradients: bool = True,
    expression: Expression = price,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[Result, bound.Bounded]:
    """The best candidates and the front by refinement, and what bound and prune proves of the first objective.

    The first of `top` is the best that either found; `gap` of the second answer says by what share of its value an
    unseen candidate could be better, 0 where there is none. `seconds` and `boxes` limit the proof.

    Raises:
      Refused: no candidate that runs was found: what ruled them out, as far as was looked, and for how many it is
        proved. An objective that is not known for any candidate.
    """
    began = time.perf_counter()
    told = {"law": law, "limits": limits, "expression": expression}
    found = refine(space, hardware, objectives=objectives, keep=keep, seed=seed, generations=generations,
                   gradients=gradients, progress=progress, **told)  # fmt: skip
    task = task_of(space, hardware, objectives=objectives[:1], **told)
    start = [digits(space, int(one)) for one in found.top.indices[:STARTS]] or [(0,) * len(space.axes)]
    proof = bound.search(task, np.asarray(start), seconds=seconds, boxes=boxes, seed=seed)
    if proof.digits is None:
        raise Refused(_nothing(found, proof, size(space)))
    best = index(space, proof.digits)
    top = found.top
    if not len(top.indices) or proof.value < top.values[0, 0]:
        whole = task_of(space, hardware, objectives=objectives, **told)
        first = np.array([best], dtype=object)
        top = Ranked(indices=np.concatenate((first, top.indices))[:keep],
                     values=np.concatenate((_values(whole, proof.digits), top.values))[:keep])  # fmt: skip
    return dataclasses.replace(found, top=top, seconds=time.perf_counter() - began), proof


def _values(task: Task, place: tuple[int, ...]) -> np.ndarray:
    """All objectives of one candidate, `(1, objectives)`."""
    return flat_objectives(task, record(task), np.array([place]))


def _nothing(found: Result, proof: bound.Bounded, total: int) -> Problem:
    """Why nothing runs: the reasons of what was priced, and how much of the space is proved to hold nothing."""
    reasons = ", ".join(f"{why} removed {many:,}" for why, many in found.rejected.items()) or "nothing was known"
    closed = f"all {total:,}" if proof.least == np.inf else f"{bound.closed(proof):,} of {total:,}"
    return Problem(
        field="space", expected="a candidate that runs and keeps to the limits", got="none",
        hint=f"of {found.evaluated:,} that were looked at {reasons}; {closed} candidates are proved not to; "
             "loosen what removed most",
    )  # fmt: skip
