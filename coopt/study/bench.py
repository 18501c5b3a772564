"""The bench: jobs of `coopt.measure` in child processes, each one a trial of the run where there is a run."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import platform
import threading
from collections.abc import Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from coopt import __version__, workers
from coopt import measure as measure_room
from coopt.store import Run, finite, identity
from coopt.workers import Executor, Outcome

JOB = "coopt.measure.job:run_job"
PRELOAD = ("coopt.measure.job",)
REUSE = 64  # jobs of one child: its imports and its threads are then in place
DEVICE = "local-device"  # the lease: one process at a time times on this host
FLAGS = ("XLA_FLAGS", "LIBTPU_INIT_ARGS", "CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS")
DEADLINE = 180.0  # s for one block, compiling included


@contextlib.contextmanager
def opened(wanted: bool) -> Iterator[Executor | None]:
    """An executor for jobs on this host, its fork server already on its way; None where none is wanted."""
    if not wanted:
        yield None
        return
    with workers.process(preload=PRELOAD, reuse=REUSE) as executor:
        # The server's imports take seconds on one core; there is something else to do meanwhile.
        threading.Thread(target=_wake, args=(executor,), daemon=True, name="bench").start()
        yield executor


def _wake(executor: Executor) -> None:
    with contextlib.suppress(OSError, RuntimeError):  # closed before it was up: whoever closed it knows
        executor.run("coopt.study.bench:awake", {}, deadline_s=DEADLINE)


def awake(payload: dict) -> dict:
    """The first job of a bench: its answer says that the server is up."""
    return {"outcome": "ok"}


def toolchain() -> dict[str, str]:
    """What a timing depends on besides its job and the machine; a new version of any measures anew."""
    found = {"python": platform.python_version(), "coopt": __version__}
    for name in ("jax", "jaxlib", "flax", "numpy", "libtpu"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:  # not installed, or installed without metadata
            found[name] = "unknown"
    return found


def place() -> dict[str, Any]:
    """The machine a timing was made on, as far as the kernel says: another one measures anew."""
    from coopt.measure.host import cores, processor

    return {"processor": processor(), "cores": cores(), "system": platform.system()}


def flags() -> dict[str, str]:
    """The environment that changes what is compiled."""
    return {name: os.environ[name] for name in sorted(os.environ) if name in FLAGS or name.startswith("JAX_")}


@functools.cache
def code() -> str:
    """SHA-256 of the sources that build, compile and time: another version of any of them measures anew."""
    digest = hashlib.sha256()
    for file in sorted(Path(measure_room.__file__).parent.glob("*.py")):
        digest.update(file.read_bytes())
    return digest.hexdigest()


def trial_of(job: Mapping[str, Any]) -> str:
    """The name of a trial: its job, the toolchain, its flags, our code and the machine, hashed."""
    return identity(finite(dict(job)), toolchain(), flags(), code(), place())


def do(run: Run | None, executor: Executor | None, job: Mapping[str, Any], *, deadline_s: float, **about: Any) -> dict:
    """What a job came to: `{status, result, message, seconds}`; asked of the journal first, and kept there.

    A trial that is done is never done again; one whose child died is tried a second time and then given up.
    """
    if executor is None:
        raise ValueError("a job needs an executor: open the bench")
    if run is None:
        return _record(executor.run(JOB, dict(job), deadline_s=deadline_s, lease=DEVICE))
    trial = trial_of(job)
    while trial not in run.trials.done and run.claim(trial, **about):
        outcome = executor.run(JOB, dict(job), deadline_s=deadline_s, lease=DEVICE)
        if outcome.status == "crashed":
            run.crashed(trial, detail=_last_words(outcome))
        else:
            record = finite(_record(outcome))
            run.finish(trial, record.pop("status"), **record, job=finite(dict(job)), **about)
    done = run.trials.done.get(trial)
    if done is None:
        return {"status": "crashed", "result": None, "message": "another process is at work on it", "seconds": None}
    return {"status": done["status"], "result": done.get("result"), "seconds": done.get("seconds"),
            "message": done.get("message") or done.get("detail") or ""}  # fmt: skip


def _last_words(outcome: Outcome) -> str:
    """What is known of a death: signal, phase, and the end of what the child wrote."""
    tail = " ".join(outcome.stderr.split())[-300:]
    return f"{outcome.signal} in {outcome.phase}: {outcome.message[:300]}" + (f"; it wrote: {tail}" if tail else "")


def _record(outcome: Outcome) -> dict[str, Any]:
    return {
        "status": outcome.status,
        "result": outcome.result,
        "message": _last_words(outcome) if outcome.status == "crashed" else outcome.message,
        "seconds": outcome.seconds,
        "phase": outcome.phase,
        "isolation": outcome.isolation,
    }
