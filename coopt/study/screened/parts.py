"""A sweep too large for one sitting, in parts that any worker can carry out and the journal remembers.

A part is a run of consecutive candidates: some choices of an outer axis, all of those inside. Parts depend on the space
alone, and their fronts, leaders and counts are joined exactly, so the answer is that of one sweep, whoever did which
part, however often it was interrupted.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from coopt.problems import Problem, Refused
from coopt.search.certificate import described, rebuilt, space_of
from coopt.search.pareto import front, graded
from coopt.search.space import Slab, Space, size, walk
from coopt.search.sweep import Ranked, Result, sweep
from coopt.spec.nouns import VERDICTS, Hardware, Law
from coopt.store import Run, finite, identity
from coopt.study.given import bench, inputs
from coopt.study.given.objectives import expression
from coopt.study.given.scheduler import Crew, carry_out
from coopt.workers import Job

PART = 2**31  # candidates in a part, at most: half a minute of one core
DEADLINE = 3600.0  # s for one part
PRICING = (
    "cost/",
    "ops/",
    "search/",
    "spec/nouns.py",
    "study/given/objectives.py",
    "study/screened/parts.py",
    "tree.py",
    "xp.py",
)


def sweep_in_parts(
    space: Space,
    hardware: Hardware,
    *,
    run: Run,
    crew: Crew,
    law: Law | None,
    objectives: Sequence[str],
    limits: Mapping[str, float],
    keep: int,
    pareto: bool,
    part: int = PART,
    progress: Callable[[int, int], None] | None = None,
) -> Result:
    """`coopt.search.sweep` of a study's objectives, part by part over a crew; a part that is done is not done again."""
    began = time.perf_counter()
    asked = {"objectives": list(objectives), "limits": dict(limits), "keep": keep, "pareto": pareto}
    whole = {"space": told_of(space), "hardware": described(hardware), "law": law and described(law), **asked}
    code = {name: digest for name, digest in inputs.code().items() if name.startswith(PRICING)}
    question = identity(finite(whole), bench.toolchain(), code)
    slabs = slabs_of(space, part)
    jobs = {}
    for slab in slabs:
        payload = {**whole, "space": told_of(cut(space, slab)), "start": slab.start}
        jobs[identity(question, slab.start, slab.size)] = Job("coopt.study.screened.parts:swept", payload, DEADLINE)
    sizes = {trial: slab.size for trial, slab in zip(jobs, slabs, strict=True)}

    def told(*_: int) -> None:
        if progress is not None:
            progress(sum(many for trial, many in sizes.items() if trial in run.trials.done), size(space))

    carry_out(run, jobs, crew, told=told)
    records = [run.trials.done[trial] for trial in jobs]
    if failed := [record for record in records if record["status"] != "ok"]:
        raise Refused(
            Problem(field="sweep", expected=f"{len(records)} parts swept", got=f"{len(failed)} that could not be: "
                    f"{failed[0]['status']}: {failed[0].get('message') or failed[0].get('detail')}"[:300])
        )  # fmt: skip
    found = joined([_read(record["result"], tuple(objectives)) for record in records], keep=keep, pareto=pareto)
    return dataclasses.replace(found, seconds=time.perf_counter() - began)


def slabs_of(space: Space, part: int) -> list[Slab]:
    """The parts of a space, each of at most `part` candidates where an axis can be cut so finely.

    >>> from coopt.search.space import Candidate, axis
    >>> three = Space(axes=tuple(axis(name, f"layout.{name}", range(1, 5)) for name in ("tp", "pp", "cp")),
    ...               base=Candidate())
    >>> [(slab.start, slab.size) for slab in slabs_of(three, 30)]
    [(0, 16), (16, 16), (32, 16), (48, 16)]
    """
    inner = [math.prod(len(one) for one in space.axes[position + 1 :]) for position in range(len(space.axes))]
    at = next((position for position, many in enumerate(inner) if many <= part), len(inner) - 1)
    return list(walk(space, at, max(part // inner[at], 1)))


def cut(space: Space, slab: Slab) -> Space:
    """The space of one part: its axes before the slab's have one choice, the slab's has some."""
    ranges = [(digit, digit + 1) for digit in slab.digits] + [(slab.low, slab.high)]
    axes = [
        dataclasses.replace(one, values=one.values[low:high], labels=one.labels[low:high])
        for one, (low, high) in zip(space.axes, ranges, strict=False)
    ]
    return dataclasses.replace(space, axes=(*axes, *space.axes[slab.axis + 1 :]))


def told_of(space: Space) -> dict[str, Any]:
    """A space as plain data, every number exact; `space_of` is the inverse, but for names."""
    axes = [{"name": one.name, "paths": list(one.paths), "values": one.values.tolist()} for one in space.axes]
    return {"axes": axes, "base": described(space.base)}


def swept(payload: dict[str, Any]) -> dict[str, Any]:
    """The job of one part, in whatever process: what its sweep found, by index of the whole space."""
    import jax

    jax.config.update("jax_platforms", "cpu")  # an accelerator is left to who leases it
    law = payload["law"] and rebuilt(Law, payload["law"])
    found = sweep(space_of(payload["space"]), rebuilt(Hardware, payload["hardware"]), law=law,
                  objectives=payload["objectives"], limits=payload["limits"], keep=payload["keep"],
                  pareto=payload["pareto"], workers=1, expression=expression)  # fmt: skip
    ranked = {name: {"indices": (one.indices + payload["start"]).tolist(), "values": one.values.tolist()}
              for name, one in (("top", found.top), ("front", found.pareto))}  # fmt: skip
    return {"evaluated": found.evaluated, "feasible": found.feasible, "rejected": found.rejected,
            "unknown": list(found.unknown), "seconds": found.seconds, **ranked}  # fmt: skip


def joined(parts: Sequence[Result], *, keep: int, pareto: bool) -> Result:
    """One result out of those of all parts, in their order; exact, as `coopt.search.sweep` would have it.

    A candidate that leads the whole leads its part, so nothing is missing. An objective that some part knows counts
    everywhere: the front of a part that knows it of nobody is void.
    """
    objectives = parts[0].objectives
    known = [[name not in one.unknown for name in objectives] for one in parts if one.feasible]
    live = np.logical_or.reduce(known) if pareto and known else np.zeros(len(objectives), bool)
    reasons = sorted({reason for one in parts for reason in one.rejected}, key=_turn)
    top, points = _stacked([one.top for one in parts]), _stacked([one.pareto for one in parts])
    order = np.lexsort((top.indices, graded(top.values[:, 0])))[:keep]
    kept = front(graded(points.values)[:, live]) if live.any() else np.empty(0, int)
    return Result(
        objectives=objectives,
        evaluated=sum(one.evaluated for one in parts),
        feasible=sum(one.feasible for one in parts),
        rejected={reason: sum(one.rejected.get(reason, 0) for one in parts) for reason in reasons},
        unknown=tuple(np.array(objectives)[~live].tolist()) if pareto else (),
        top=Ranked(top.indices[order], top.values[order]),
        pareto=Ranked(points.indices[kept], points.values[kept]),
        seconds=sum(one.seconds for one in parts),
    )


def _turn(reason: str) -> tuple[int, str]:
    """Verdicts in their own order, then limits."""
    return (VERDICTS.index(reason), "") if reason in VERDICTS else (len(VERDICTS), reason)


def _stacked(several: Sequence[Ranked]) -> Ranked:
    return Ranked(np.concatenate([one.indices for one in several]), np.concatenate([one.values for one in several]))


def _read(said: Mapping[str, Any], objectives: tuple[str, ...]) -> Result:
    """A part's result out of its record; what is null there is not known, hence infinite."""
    ranked = [
        Ranked(np.array(said[name]["indices"], dtype=np.int64),
               np.array([[np.inf if v is None else float(v) for v in row] for row in said[name]["values"]],
                        dtype=np.float64).reshape(-1, len(objectives)))
        for name in ("top", "front")
    ]  # fmt: skip
    return Result(objectives=objectives, evaluated=said["evaluated"], feasible=said["feasible"],
                  rejected=dict(said["rejected"]), unknown=tuple(said["unknown"]), top=ranked[0], pareto=ranked[1],
                  seconds=said["seconds"])  # fmt: skip
