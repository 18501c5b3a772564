"""The one interface of the room: an executor runs a job and says what became of it. Ray and Slurm fit behind it."""

from __future__ import annotations

from typing import Protocol

from coopt.workers.outcome import Outcome
from coopt.workers.processes import process


class Executor(Protocol):
    """Runs named functions on JSON payloads, one outcome each; safe to call from several threads."""

    def run(
        self,
        path: str,
        payload: dict,
        *,
        deadline_s: float,
        lease: str | None = None,
        lease_wait_s: float = 600.0,
        memory_cap: int | None = None,
    ) -> Outcome:
        """Runs one job to an outcome; only a `Refused` payload and Ctrl-C raise."""
        ...


def run(
    path: str,
    payload: dict,
    *,
    deadline_s: float,
    lease: str | None = None,
    lease_wait_s: float = 600.0,
    memory_cap: int | None = None,
    executor: Executor | None = None,
) -> Outcome:
    """Runs `package.module:function` on a JSON payload in a child process and returns what became of it.

    Args:
      path: the function; it takes the payload, and `report` if it wants to name its phases; it returns a dict.
      deadline_s: seconds from the start of the job; kept by this process, so nothing in the child can stop it.
      lease: name of a device; no two jobs on this host hold the same one at once.
      lease_wait_s: seconds to wait for that lease; then the outcome is `timeout` in phase `lease`.
      memory_cap: bytes of private memory the child may have.
      executor: an open executor; without one a fork server is started for this job alone, which costs its imports.

    Raises:
      Refused: the job refused its payload, or the function does not exist.

    >>> run("coopt.workers.outcome:out_of_memory", {}, deadline_s=20.0).status
    'crashed'
    """
    arguments = {
        "deadline_s": deadline_s,
        "lease": lease,
        "lease_wait_s": lease_wait_s,
        "memory_cap": memory_cap,
    }
    if executor is not None:
        return executor.run(path, payload, **arguments)
    with process(preload=()) as alone:
        return alone.run(path, payload, **arguments)
