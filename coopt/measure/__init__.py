"""Builds transformer blocks from `Model` and `Layout`, compiles them for a target, and times them.

The room never sees what its figures are compared with. Its door is `coopt.measure.job:run_job`: a JSON job in, a
JSON measurement out, also as `python -m coopt.measure`. From Python the room is its own verb: `coopt.measure(model,
layout, seq_len=512)` writes the job, runs it and returns the measurement.
"""

from __future__ import annotations

import sys
import types
from typing import Any, cast

import jax

from coopt import workers
from coopt.measure.host import heap
from coopt.measure.jobs import block_job
from coopt.measure.measurement import Measurement
from coopt.problems import Problem, Refused
from coopt.spec.nouns import Layout, Model
from coopt.store.identity import finite

JOB = "coopt.measure.job"
DEVICE = "local-device"  # the lease: one process at a time times on this host
ISOLATION = ("process", "none")
__all__ = ["Measurement", "holds_accelerator", "measure"]


def measure(
    model: Model,
    layout: Layout,
    *,
    seq_len: int,
    deadline_s: float = 300.0,
    isolation: str | None = None,
    **more: Any,
) -> Measurement:
    """One block of a model as a layout cuts it, compiled and timed here by JAX: forward, and forward with backward.

    The measurement is plain JSON: `outcome` (ok, noisy, infeasible-memory, compile-error, timeout, crashed,
    wrong-result), `time` with its 95 % interval `low` and `high` (s, medians, forward and backward together), the same
    for each pass under `forward` and `forward_backward`, `flops`, `bytes` and `memory` (B) of the compiled program,
    `device`, `versions`, `digest`, `flags`, and the `job` it answers. What fails is an outcome with a `message`,
    never an exception.

    Args:
      seq_len: tokens a sequence; the batch is `layout.micro_batch` sequences.
      deadline_s: s for the whole job, compilation included.
      isolation: process, a child that is killed at the deadline; none, this very process, under a watchdog. Left out,
        it is a child unless this process already holds an accelerator, which a child would find taken.
      more: further fields of the job: part (layer, embedding, head), layer (which kind), budget_s (of timing alone),
        target (local, or one to compile for, such as cpu:8 or tpu:v5e:2x4; of a TPU `schedule` has the cycles, which
        `coopt measure --on` turns into seconds).

    Raises:
      Refused: a job that cannot be done as it is written, with every reason.
    """
    isolation = isolation or ("none" if holds_accelerator() else "process")
    if isolation not in ISOLATION:
        raise Refused(Problem(field="isolation", expected="one of " + ", ".join(ISOLATION), got=repr(isolation)[:40]))
    job = block_job(model, layout, seq_len=seq_len, **more)
    with workers.serial() if isolation == "none" else workers.process(preload=(JOB,), environment=heap()) as executor:
        outcome = executor.run(workers.Job(f"{JOB}:run_job", job, deadline_s, lease=DEVICE))
    answer = outcome.result or {}
    phases = answer.get("phases", {})
    ended = {name: getattr(outcome, name) for name in ("message", "phase", "signal", "isolation", "seconds")}
    if outcome.status == "infeasible-memory":
        ended |= finite({name: getattr(outcome, name) for name in ("wanted", "available", "suspected")})
    both = {name: phases.get(name, {}) for name in ("forward", "forward_backward")}
    return cast(Measurement, {**answer, "outcome": outcome.status, **ended, **both, "job": job})


def holds_accelerator() -> bool:
    """True where this process has a JAX backend other than the CPU's; asking starts none."""
    bridge = sys.modules.get("jax._src.xla_bridge")
    return bridge is not None and bridge.backends_are_initialized() and jax.default_backend() != "cpu"


class _Room(types.ModuleType):
    """A module that can be called: `coopt.measure` is a room and a verb."""

    __call__ = staticmethod(measure)


sys.modules[__name__].__class__ = _Room
