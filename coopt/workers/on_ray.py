"""The Ray executor: one actor a worker, on this machine or on a cluster, each with a process executor of its own.

Ray carries texts alone. It restarts nothing and retries nothing: whether a job is done again is for the run's journal
to say. An actor that dies is replaced, on whichever host has room.
"""

from __future__ import annotations

import contextlib
import os
import queue
import socket
from collections.abc import Iterator
from typing import Any

from coopt.problems import Problem, Refused
from coopt.workers import remote
from coopt.workers.job import Job
from coopt.workers.outcome import Outcome
from coopt.workers.processes import START_LIMIT, ProcessExecutor

KNOCK = 10.0  # s for the head of a cluster to accept a connection


@contextlib.contextmanager
def ray(
    preload: tuple[str, ...] = ("jax",), *, reuse: int = 1, workers: int = 2, address: str | None = None
) -> Iterator[RayExecutor]:
    """An executor of `workers` actors: on a Ray of its own on this machine, or on the cluster at `address`.

    Raises Refused where Ray is not installed, or where nobody answers at the address.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is sent anywhere
    # What Ray itself will do from its next major version on; set, it says nothing about it.
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        import ray as library  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise remote.absent("ray", "ray") from None
    here: dict[str, Any] = {"num_cpus": workers} if address is None else {}
    try:
        _knock(address or "")
        library.init(address=address or "local", include_dashboard=False, log_to_driver=False,
                     logging_level="error", **here)  # fmt: skip
    except (OSError, ValueError, RuntimeError) as error:
        raise Refused(
            Problem(field="ray_address", expected="a Ray cluster that answers", got=str(error)[:200])
        ) from None
    try:
        yield RayExecutor(library, preload, reuse, workers)
    finally:
        library.shutdown()


def _knock(address: str) -> None:
    """Raises OSError where nobody listens at `host:port`, which Ray itself would wait minutes for."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host, int(port)), timeout=KNOCK).close()


class RayExecutor:
    """See `ray`. Threads may share one executor; each job takes a free actor and waits for one."""

    def __init__(self, library: Any, preload: tuple[str, ...], reuse: int, workers: int):
        self._ray = library
        self._made = (preload, reuse)
        self._free: queue.SimpleQueue[Any] = queue.SimpleQueue()
        for _ in range(workers):
            self._free.put(None)  # a place whose actor is yet to be made

    def run(self, job: Job) -> Outcome:
        """Runs one job on a free worker; see `coopt.workers.run`."""
        text = remote.asked(job)
        limit = START_LIMIT + job.longest_s + remote.SLACK
        actor = self._free.get()
        try:
            actor = actor or self._ray.remote(num_cpus=1, max_restarts=0, max_task_retries=0)(_Seat).remote(*self._made)
            return remote.heard(self._ray.get(actor.run.remote(text), timeout=limit))
        except self._ray.exceptions.RayError as error:  # the actor died, its node did, or it is silent
            with contextlib.suppress(self._ray.exceptions.RayError, AttributeError):
                self._ray.kill(actor)
            actor = None
            return remote.lost(type(error).__name__)
        finally:
            self._free.put(actor)


class _Seat:
    """One worker, in a process of Ray's."""

    def __init__(self, preload: tuple[str, ...], reuse: int):
        self._executor = ProcessExecutor(preload, reuse)

    def run(self, text: str) -> str:
        """Carries out one job."""
        return remote.carried_out(self._executor, text)
