"""Blocks: what of a plan is compiled and timed, what pricing says of it, and what its time says of the plan."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from coopt.cost import estimate
from coopt.fit.rows import stack_trees
from coopt.measure.jobs import block_job, layout_of, model_of
from coopt.ops import count
from coopt.search.space import Candidate
from coopt.spec.nouns import Cost, Hardware, Layout, Model, Ops, training
from coopt.store import finite, identity
from coopt.study.given.objectives import machine_of
from coopt.study.given.scheduler import ended
from coopt.tree import replace

BUDGET = 0.4  # s of timing a block asks for; it takes no fewer than three samples whatever that costs
LATER = ("overhead", "stragglers")  # rows in proportion to all others
PASSES = ("forward", "forward_backward")
SLACK = 4.0  # times as fast as its own clock found it that a host may be
COMPUTE = ("matmul", "attention", "elementwise", "gather")


def job(
    model: Model, layout: Layout, *, seq_len: float, budget_s: float = BUDGET, layer: int = 0, own: str = ""
) -> dict[str, Any]:
    """The job that times one layer of a model as one device of a layout runs it; `own`, a module in place of ours.

    What a layer does not depend on, the number of layers and how devices are arranged beyond this one, is left out,
    so that equal blocks are one job.
    """
    kinds = tuple(replace(kind, count=1.0) for kind in model.kinds)
    alone = replace(layout, dp=1.0, pp=1.0, fsdp=1.0, vpp=1.0, schedule=0.0, order=0.0, zero=0.0, offload=0.0)
    shape = replace(model, name="", source="", context=0.0, kinds=kinds)
    more = {"block": own} if own else {}
    return block_job(shape, alone, seq_len=int(seq_len), layer=layer, budget_s=budget_s, **more)


def of_plan(plan: Candidate, own: str = "") -> dict[str, Any]:
    """The block of a plan: a layer of its first kind at its micro-batch; `own`, a module in place of ours."""
    return job(plan.model, plan.layout, seq_len=plan.workload.train.seq_len, own=own)


def key(work: Mapping[str, Any]) -> str:
    """The name of a block: equal jobs have equal keys, whoever's module, whatever values, whatever is measured."""
    beside = ("block", "seed", "energy", "check")
    return identity(finite({name: value for name, value in work.items() if name not in beside}))


def alone(plan: Candidate) -> bool:
    """True where the plan's block is a whole layer, which one device can time."""
    layout = plan.layout
    return float(layout.tp * layout.cp * layout.ep) < 1.5


def name(work: Mapping[str, Any]) -> str:
    """A block in a few words."""
    model, layout = work["model"], work["layout"]
    kind = model["kinds"][int(work.get("layer", 0))]
    precision = {0.0: "fp32", 2.0: "bf16", 3.0: "fp16"}.get(layout["precision"]["linear"], "")
    kept = {0.0: "", 1.0: " selective", 2.0: " full"}[layout["recompute"]]
    said = f"d{model['d_model']:g} h{kind['heads']:g} s{work['seq_len']} micro_batch={layout['micro_batch']:g}"
    own = f"{work['block']} " if work.get("block") else ""
    return f"{own}{said} {precision}" + (f" recompute{kept}" if kept else "")


def predicted(work: Mapping[str, Any], hardware: Hardware) -> tuple[float, float]:
    """Seconds of a block's forward pass, and of forward and backward (with what is recomputed), by pricing."""
    ((_, ops),) = counted([work])
    forward, both = passes(ops, hardware)
    return float(forward[0]), float(both[0])


def counted(works: Sequence[Mapping[str, Any]]) -> list[tuple[np.ndarray, Ops]]:
    """What blocks must do, those of one structure together: their positions, and operations with leaves `(blocks,)`."""
    groups: dict[Any, list[int]] = {}
    trees = []
    for position, work in enumerate(works):
        model, layout = model_of(work["model"]), layout_of(work["layout"])
        trees.append((model, layout, training(float(work["seq_len"]), float(layout.micro_batch))))
        groups.setdefault(jax.tree.structure(trees[-1]), []).append(position)
    return [(np.array(at), count(*stack_trees([trees[i] for i in at]))) for at in groups.values()]


def passes(ops: Ops, hardware: Hardware) -> tuple[Any, Any]:
    """Seconds of one layer forward, and forward and backward; elementwise in the leaves of both."""
    cost = estimate(ops, hardware)
    forward = layer_time(ops, cost, ("forward",))
    return forward, forward + layer_time(ops, cost, ("recompute", "backward"))


def layer_time(ops: Ops, cost: Cost, phases: tuple[str, ...]) -> Any:
    """Seconds one layer of one micro-batch computes in some phases."""
    total: Any = 0.0
    for row, once in zip(ops.rows, cost.once, strict=False):
        if row.scope == "layer" and row.kind in COMPUTE and row.phase in phases:
            total = total + row.count * once
    return total


def step_time(plan: Candidate, measured: float) -> float:
    """Seconds of a plan's step with its layers' computing in proportion to a measured layer.

    T' = T + (measured / predicted - 1) x exposed computing of the layers x (1 + overhead); embedding, head and
    optimizer stay as predicted.
    """
    ops = count(plan.model, plan.layout, plan.workload)
    cost = estimate(ops, machine_of(plan))
    one = layer_time(ops, cost, ("forward", "recompute", "backward"))
    exposed = sum(
        float(time)
        for row, time in zip(ops.rows, cost.time, strict=False)
        if row.scope == "layer" and row.kind in COMPUTE
    )
    total = float(cost.step_time)
    later = sum(float(time) for said, time in zip(cost.names, cost.time, strict=True) if said in LATER)
    return total + (measured / float(one) - 1.0) * exposed * total / (total - later)


@dataclasses.dataclass(frozen=True)
class Timed:
    """One block that was sent to a clock: its job, and what came back."""

    job: Mapping[str, Any]
    status: str
    answer: Mapping[str, Any]  # empty where there is none
    seconds: float = float("nan")
    message: str = ""
    ended: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # see `scheduler.ended`

    @property
    def usable(self) -> bool:
        """True where both passes have a time that can be believed."""
        return self.status in ("ok", "noisy") and all(np.isfinite(time) for time in self.times())

    def times(self) -> tuple[float, float]:
        """Seconds of the forward pass, and of forward and backward."""
        return self.figure(PASSES[0], "time"), self.figure(PASSES[1], "time")

    @property
    def foreign(self) -> float:
        """Share of the processors that others used while this was timed; NaN where nobody said."""
        return max(self.figure(part, "foreign") for part in PASSES)

    def figure(self, part: str, name: str) -> float:
        """A number of a pass: s, B, FLOPs; NaN where nobody said."""
        value = self.answer.get("phases", {}).get(part, {}).get(name)
        return float("nan") if value is None else float(value)

    def document(self) -> dict[str, Any]:
        """The block as `coopt measure --out` writes it and `coopt calibrate` reads it."""
        phases = self.answer.get("phases", {})
        keys = ("time", "low", "high", "spread", "samples", "estimator", "foreign", "pace", "clock", "compile_s")
        keys += ("flops", "bytes", "memory", "collectives", "energy")
        return {
            "name": name(self.job),
            "outcome": self.status,
            "message": self.message,
            **self.ended,
            "kind": self.answer.get("kind"),
            "device": self.answer.get("device"),
            **{part: {key: phases.get(part, {}).get(key) for key in keys} for part in PASSES},
            "flags": self.answer.get("flags", []),
            "check": self.answer.get("check"),
            "digest": self.answer.get("digest"),
            "seconds": self.seconds,
            "job": dict(self.job),
        }


def peak_of(work: Mapping[str, Any], hardware: Hardware) -> float:
    """FLOP/s of the products of a block's weights that a machine can do at most, as far as its profile says."""
    return float(hardware.peak[int(work["layout"]["precision"]["linear"])])


def believed(block: Timed, peak: float) -> Timed:
    """The block, or a `wrong-result` where it did its FLOPs faster than light: beyond SLACK times the peak (FLOP/s).

    >>> phases = {part: {"time": 1e-3, "flops": 1e9} for part in PASSES}
    >>> fast = Timed({}, "ok", {"phases": phases})
    >>> believed(fast, 1e12).status, believed(fast, 1e11).status
    ('ok', 'wrong-result')
    """
    if not block.usable or not peak > 0.0:
        return block
    over = max(block.figure(part, "flops") / (peak * block.figure(part, "time")) for part in PASSES)
    if not over > SLACK:
        return block
    message = f"a timing that cannot be true: {over:.3g} times the peak of {peak:.3g} FLOP/s"
    return dataclasses.replace(block, status="wrong-result", message=message)


def clock_of(timed: Sequence[Timed]) -> str:
    """Which clock a set of blocks is compared by: `paced` where each was timed beside a small program, else `wall`."""
    paces = [block.figure(part, "pace") for block in timed if block.usable for part in PASSES]
    return "paced" if paces and all(pace > 0.0 for pace in paces) else "wall"


def pace_of(timed: Sequence[Timed]) -> float:
    """Median seconds of the small program beside a set of blocks; NaN where they are compared by the wall's clock."""
    if clock_of(timed) == "wall":
        return math.nan
    return float(np.median([block.figure(part, "pace") for block in timed if block.usable for part in PASSES]))


def settled(timed: Sequence[Timed]) -> list[Timed]:
    """The blocks with the seconds that they are compared by: as they would have been at the pace that was usual.

    A host that others share slows down and recovers from minute to minute, and whatever runs on it alike: see
    `coopt.measure.pace`. time' = time x (median pace of the set) / (pace beside this one). Where one of them was timed
    without, all stay as they are: the two are never mixed.
    """
    usual = pace_of(timed)
    if math.isnan(usual):
        return list(timed)

    def at_usual(block: Timed) -> Timed:
        phases = dict(block.answer["phases"])
        for part in PASSES:
            said = phases[part]
            times = {name: said[name] for name in ("time", "low", "high", "pace") if said.get(name) is not None}
            phases[part] = {**said, **{name: value * usual / said["pace"] for name, value in times.items()}}
        return dataclasses.replace(block, answer={**block.answer, "phases": phases})

    return [at_usual(block) if block.usable else block for block in timed]


def of_record(job: Mapping[str, Any], record: Mapping[str, Any]) -> Timed:
    """A block from what `bench.do` said of its job."""
    seconds = float("nan") if record["seconds"] is None else record["seconds"]
    return Timed(job, record["status"], record["result"] or {}, seconds, record["message"], ended(record))


def of_document(said: Mapping[str, Any]) -> Timed:
    """The inverse of `Timed.document`."""
    parts = {part: said.get(part) or {} for part in PASSES}
    answer = {"phases": parts, **{key: said.get(key) for key in ("kind", "device", "flags", "check", "digest")}}
    seconds, message = float(said.get("seconds") or "nan"), str(said.get("message") or "")
    return Timed(said["job"], str(said.get("outcome")), answer, seconds, message, ended(said))
