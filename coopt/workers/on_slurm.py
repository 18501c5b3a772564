"""The Slurm executor: every job a job of the cluster's queue, by submitit; where there is no Slurm, a process.

A job and its outcome are two files of JSON in a folder that the cluster shares; what submitit itself pickles is the
name of a function of ours and of the first of these files, and its result is never read. Account and partition are
Slurm's own `SBATCH_ACCOUNT` and `SBATCH_PARTITION`.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from coopt.workers import remote
from coopt.workers.job import Job
from coopt.workers.outcome import Outcome
from coopt.workers.processes import process

POLL = 0.2  # s between two looks for an outcome
SHARED = 10.0  # s that a shared disk may take to show a file of a job that has ended


@contextlib.contextmanager
def slurm(
    preload: tuple[str, ...] = ("jax",), *, workers: int = 2, folder: Path | None = None
) -> Iterator[SlurmExecutor]:
    """An executor that has at most `workers` jobs in the queue; `folder` must be seen by every node.

    Raises Refused where submitit is not installed.
    """
    try:
        import submitit  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise remote.absent("slurm", "submitit") from None
    place = Path(tempfile.mkdtemp(prefix="slurm-", dir=folder))  # 0700: what submitit pickles is ours alone to write
    try:
        queue = submitit.AutoExecutor(folder=str(place / "submitit"))
        executor = SlurmExecutor(queue, place, preload, workers)
        yield executor
    finally:
        shutil.rmtree(place, ignore_errors=True)


class SlurmExecutor:
    """See `slurm`. Threads may share one executor."""

    def __init__(self, queue: Any, folder: Path, preload: tuple[str, ...], workers: int):
        self._queue = queue
        self._folder = folder
        self._preload = preload
        self._numbers = itertools.count()
        self._places = threading.BoundedSemaphore(workers)
        self._lock = threading.Lock()

    def run(self, job: Job) -> Outcome:
        """Submits one job and waits for its outcome, in the queue for as long as it takes; see `coopt.workers.run`."""
        text = remote.asked(job)
        question = self._folder / f"{next(self._numbers)}.job"
        question.write_text(text)
        limit = job.longest_s + remote.SLACK
        with self._places:
            with self._lock:
                self._queue.update_parameters(timeout_min=math.ceil(limit / 60.0) + 5)
                queued = self._queue.submit(serve, str(question), self._preload)
            try:
                return self._outcome(queued, answer_of(question))
            finally:
                self._end(queued)

    def _end(self, job: Any) -> None:
        """Sees a job off; a process of this machine has a moment to end, so that it is reaped."""
        until = time.monotonic() + SHARED
        while self._queue.cluster == "local" and job.state == "RUNNING" and time.monotonic() < until:
            time.sleep(POLL)
        job.cancel(check=False)

    def _outcome(self, job: Any, answer: Path) -> Outcome:
        until = math.inf
        while not answer.exists():
            if time.monotonic() > until:
                return remote.lost(f"job {job.job_id} ended as {job.state} without an answer")
            if job.done() and until == math.inf:
                until = time.monotonic() + SHARED
            time.sleep(POLL)
        return remote.heard(answer.read_text())


def serve(question: str, preload: tuple[str, ...]) -> None:
    """One job, on a node of the cluster: its outcome is written whole beside its question."""
    with process(preload=preload) as executor:
        said = remote.carried_out(executor, Path(question).read_text())
    answer = answer_of(Path(question))
    answer.with_suffix(".new").write_text(said)
    os.replace(answer.with_suffix(".new"), answer)


def answer_of(question: Path) -> Path:
    """Where the outcome of a job's file goes."""
    return question.with_suffix(".outcome")
