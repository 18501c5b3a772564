"""The one interface of the room: an executor runs a job and says what became of it. Ray and Slurm fit behind it."""

from __future__ import annotations

from typing import Any, Protocol

from coopt.workers.job import Job
from coopt.workers.outcome import Outcome
from coopt.workers.processes import process


class Executor(Protocol):
    """Runs jobs, one outcome each; safe to call from several threads."""

    def run(self, job: Job) -> Outcome:
        """Runs one job to an outcome; only a `Refused` payload and Ctrl-C raise."""
        ...


def run(path: str, payload: dict, *, deadline_s: float, executor: Executor | None = None, **limits: Any) -> Outcome:
    """Runs `package.module:function` on a JSON payload in a child process and returns what became of it.

    Args:
      deadline_s: seconds from the start of the job.
      executor: an open executor; without one a fork server is started for this job alone, which costs its imports.
      limits: the further fields of a `Job`: lease, lease_wait_s, memory_cap.

    Raises:
      Refused: the job refused its payload, or the function does not exist.

    >>> run("coopt.workers.outcome:out_of_memory", {}, deadline_s=20.0).status
    'crashed'
    """
    job = Job(path, payload, deadline_s, **limits)
    if executor is not None:
        return executor.run(job)
    with process(preload=()) as alone:
        return alone.run(job)
