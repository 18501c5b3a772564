"""The bench: jobs of `coopt.measure` in child processes, each one a trial of the run where there is a run."""

from __future__ import annotations

import atexit
import contextlib
import dataclasses
import functools
import hashlib
import os
import platform
import tempfile
import threading
from collections.abc import Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from coopt import __version__, workers
from coopt import measure as measure_room
from coopt.problems import Problem, Refused
from coopt.store import Run, finite, identity
from coopt.study.given import scheduler
from coopt.workers import Executor, Job, Outcome

JOB = "coopt.measure.job:run_job"
PRELOAD = ("coopt.measure.job",)
PROBE = "coopt.measure.host:probe"
PROBED = 60.0  # s for it, the start of a device's runtime included
REUSE = 64  # jobs of one child: its imports and its threads are then in place
DEVICE = "local-device"  # the lease: one process at a time times on this host
FLAGS = ("XLA_FLAGS", "LIBTPU_INIT_ARGS", "CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS")
DEADLINE = 180.0  # s for one block, compiling included


@dataclasses.dataclass(frozen=True)
class How:
    """Where jobs run: the kind of executor, how many at once, and the address of a Ray cluster."""

    executor: str | None = None  # None: children of this process, and sweeps in this process itself
    workers: int = 2
    ray_address: str | None = None
    folder: Path | None = None  # seen by every worker: of Slurm's jobs


@contextlib.contextmanager
def opened(awake: bool, how: How | None = None, *, reuse: int = REUSE, again: bool = False) -> Iterator[Executor]:
    """An executor for jobs; `awake`: there will be some, so that a fork server may as well be on its way.

    Args:
      reuse: jobs that a child of this process serves; 1: each has timed nothing before.
      again: what one child has compiled another will run, so that it is kept until this process ends.
    """
    how = how or How()
    if how.executor == "serial":
        with workers.serial() as serial:
            yield serial
    elif how.executor == "ray":
        from coopt.workers.on_ray import ray

        with ray(PRELOAD, reuse=REUSE, workers=how.workers, address=how.ray_address) as cluster:
            yield cluster
    elif how.executor == "slurm":
        from coopt.workers.on_slurm import slurm

        with slurm(PRELOAD, workers=how.workers, folder=how.folder) as queue:
            yield queue
    else:
        from coopt.measure.host import heap

        environment = heap() | (_programs() if again else {})
        with workers.process(preload=PRELOAD, reuse=reuse, environment=environment) as executor:
            if awake:  # the server's imports take seconds on one core; there is something else to do meanwhile
                threading.Thread(target=_wake, args=(executor,), daemon=True, name="bench").start()
            yield executor


@functools.cache
def _programs() -> dict[str, str]:
    """Where children leave compiled programs to each other: blocks that are timed once more, in children that have
    timed nothing before, need not be compiled once more (2 s each on two cores). Under a megabyte, which a process that
    is killed outright leaves among the temporary files.
    """
    folder = tempfile.TemporaryDirectory(prefix="coopt-programs-")
    atexit.register(folder.cleanup)
    least = {"MIN_COMPILE_TIME_SECS": "0", "MIN_ENTRY_SIZE_BYTES": "-1"}
    named = {f"JAX_PERSISTENT_CACHE_{name}": value for name, value in least.items()}
    return {"JAX_COMPILATION_CACHE_DIR": folder.name, **named}


def _wake(executor: Executor) -> None:
    with contextlib.suppress(OSError, RuntimeError):  # closed before it was up: whoever closed it knows
        executor.run(Job("coopt.study.given.bench:awake", {}, DEADLINE))


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
    for name in ("jax-cuda13-plugin", "nvidia-cudnn-cu13"):
        with contextlib.suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def place() -> dict[str, Any]:
    """The machine a timing was made on, as far as the kernel says: another one measures anew."""
    from coopt.measure.host import accelerators, cores, processor

    here = {"processor": processor(), "cores": cores(), "system": platform.system()}
    return here | ({"accelerators": found} if (found := accelerators()) else {})


def flags() -> dict[str, str]:
    """The environment that changes what is compiled, and how a child's memory is kept."""
    from coopt.measure.host import heap

    found = {name: os.environ[name] for name in sorted(os.environ) if name in FLAGS or name.startswith("JAX_")}
    return found | {name: os.environ.get(name, value) for name, value in heap().items()}


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


def still_there(executor: Executor, outcome: Outcome) -> None:
    """Refuses to go on with a device that, after a job on it was killed or died, twice answers no tiny program.

    Else every further candidate would be called slow or broken for the fault of the one before.
    """
    if outcome.status not in ("timeout", "crashed") or outcome.phase == "lease":
        return
    for _ in range(2):
        answer = executor.run(Job(PROBE, {}, PROBED, lease=DEVICE))
        if answer.ok:
            return
    got = (
        f"{answer.status} twice, after a job that ended as {outcome.status} in {outcome.phase}: {answer.message[:160]}"
    )
    hint = "what was finished is kept; look what holds the device (nvidia-smi), or restart it, and run this again"
    raise Refused(Problem(field="device", expected="a device that answers", got=got, hint=hint))


def do(run: Run | None, executor: Executor, job: Mapping[str, Any], *, deadline_s: float, **about: Any) -> dict:
    """What a job came to: `{status, result, message, seconds}` and how it ended; asked of the journal, and kept there.

    A trial that is done is never done again; one whose child died is tried a second time and then given up.
    """
    if run is None:
        outcome = executor.run(Job(JOB, dict(job), deadline_s, lease=DEVICE))
        still_there(executor, outcome)
        return scheduler.record(outcome)
    trial = trial_of(job)
    while trial not in run.trials.done and run.claim(trial, **about):
        outcome = executor.run(Job(JOB, dict(job), deadline_s, lease=DEVICE))
        scheduler.settle(run, trial, outcome, job=finite(dict(job)), **about)
        still_there(executor, outcome)
    done = run.trials.done.get(trial)
    if done is None:
        return {"status": "crashed", "result": None, "message": "another process is at work on it", "seconds": None}
    return {"status": done["status"], "result": done.get("result"), "seconds": done.get("seconds"),
            "message": done.get("message") or done.get("detail") or "", **scheduler.ended(done)}  # fmt: skip
