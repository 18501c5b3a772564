"""Every candidate of a space, priced: chunks of a lattice through one compiled program, reduced where they are made.

Each thread has one of jax's devices, in turn. A device returns, for each block of neighbouring candidates, the smallest
value of each objective, and a census of verdicts at their natural shape; the host finishes exactly (`exact.py`).
Results do not depend on the size of a chunk, on the number of workers or devices or on whether jax's float64 is on.
"""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import numpy as np

from coopt.problems import Problem, Refused
from coopt.search import exact
from coopt.search.chunks import Chunk, Plan, chunks, plan, reduce
from coopt.search.price import Expression, price
from coopt.search.recorded import record, task_of
from coopt.search.space import INT64, Space, size
from coopt.spec.nouns import Hardware, Law

CHUNK = 2**20  # candidates a call
BLOCK = 16  # candidates a lower bound covers
OPEN = 16384  # open blocks at which the front is brought up to date
FRONT = ("step_time", "dollars_per_token", "joules_per_token", "memory_share", "loss")


@dataclasses.dataclass(frozen=True, eq=False)
class Ranked:
    """Candidates by index, with their objectives in float64, `(n, objectives)`."""

    indices: np.ndarray
    values: np.ndarray


@dataclasses.dataclass(frozen=True, eq=False)
class Result:
    """What a sweep found. `unknown` names objectives that no feasible candidate has a value for: no front uses them."""

    objectives: tuple[str, ...]
    evaluated: int
    feasible: int
    rejected: dict[str, int]
    unknown: tuple[str, ...]
    top: Ranked  # best of the first objective, ties by index
    pareto: Ranked  # nobody better in all known objectives, by index
    seconds: float

    @property
    def candidates_per_second(self) -> float:
        """The rate of the whole search, what it prepares included."""
        return self.evaluated / self.seconds


def sweep(
    space: Space,
    hardware: Hardware | None = None,
    *,
    law: Law | None = None,
    objectives: Sequence[str] = FRONT,
    limits: Mapping[str, float] | None = None,
    keep: int = 32,
    pareto: bool = True,
    workers: int = 2,
    chunk: int = CHUNK,
    progress: Callable[[int, int], None] | None = None,
    expression: Expression = price,
) -> Result:
    """Prices every candidate of a space and returns the exact best, the exact front and why the rest was rejected.

    The first objective ranks; all of them span the front. All are smaller-is-better and are compared at 2^-30
    relative (`pareto.graded`); of equals the lowest index stands for all. `limits` are upper bounds on objectives:
    above or unknown, a candidate is rejected under that name.

    Raises:
      Refused: a space of more than 2^63 candidates (`refine` and `beyond` take those).
    """
    began = time.perf_counter()
    total = size(space)
    if total > INT64:
        raise Refused(
            Problem(field="space", expected="at most 2^63 candidates for a full sweep", got=f"{total:,}",
                    hint="fix some axes, or search it with coopt.search.refine or beyond")
        )  # fmt: skip
    asked = task_of(space, hardware, law=law, objectives=objectives, limits=limits, expression=expression)
    task = exact.Task(space=asked.space, recorded=record(asked, coded=True), **_block(space))
    job = _Job(plan=plan(task, target=chunk), reasons=asked.reasons, front=pareto)
    tally = _run(job, workers=workers, keep=keep, progress=progress)
    return _result(job, tally, tuple(objectives), began)


@dataclasses.dataclass(frozen=True, eq=False)
class _Job:
    plan: Plan
    reasons: tuple[str, ...]
    front: bool


@dataclasses.dataclass(frozen=True, eq=False)
class _Tally:
    census: tuple[int, ...]
    leaders: exact.Leaders
    frontier: exact.Frontier
    done: int = 0


def _run(job: _Job, *, workers: int, keep: int, progress) -> _Tally:
    """Chunks through the compiled programs from several threads, a device or more of them each in turn.

    The answer does not depend on their order.
    """
    task = job.plan.task
    waiting, total = chunks(job.plan), size(task.space)
    state = _Tally(census=(0,) * len(job.reasons), leaders=exact.leaders(keep),
                   frontier=exact.frontier(task.objectives))  # fmt: skip
    turn, lock, stop = threading.Lock(), threading.Lock(), threading.Event()

    def take(chunk: Chunk) -> None:
        nonlocal state
        counts, starts, minima = reduce(job.plan, chunk, reasons=len(job.reasons))
        sifted = _sifted(job, state, starts, minima)
        with lock:
            state = _merge(job, state, counts, sifted)
            if progress is not None:
                progress(state.done, total)

    def work(device: Any) -> None:
        with jax.enable_x64(True), jax.default_device(device):
            while not stop.is_set():
                with turn:
                    chunk = next(waiting, None)
                if chunk is None:
                    return
                take(chunk)

    devices = jax.local_devices()
    with jax.enable_x64(True), jax.default_device(devices[0]):
        take(next(waiting))  # compiles, once, before there are threads
    workers = max(workers, len(devices))
    with ThreadPoolExecutor(workers, thread_name_prefix="sweep") as pool:
        running = [pool.submit(work, devices[number % len(devices)]) for number in range(1, workers)]
        try:
            work(devices[0])  # this thread too: every thread more holds memory of its own
            for one in running:
                one.result()
        finally:
            stop.set()
    return state


def _block(space: Space) -> dict[str, int]:
    """The axes outside a block: as many inner axes as make up a block of BLOCK candidates at most."""
    inner, lead = 1, len(space.axes)
    while lead > 1 and inner * len(space.axes[lead - 1]) <= BLOCK:
        lead -= 1
        inner *= len(space.axes[lead])
    return {"lead": lead, "block": inner}


def _sifted(job: _Job, seen: _Tally, starts: np.ndarray, minima: np.ndarray):
    """What of a chunk can still matter, given what was seen when it began: leaders, and open blocks of the front."""
    near = np.isfinite(minima[0])
    if len(seen.leaders.minima) >= seen.leaders.count > 0:
        worst = seen.leaders.minima.max()
        near = minima[0] <= worst + 1e-6 * abs(worst)
    leaders = exact.lead(exact.leaders(seen.leaders.count), starts[near], minima[0, near])
    opened = exact.sift(seen.frontier, starts, minima) if job.front else None
    return leaders, opened


def _merge(job: _Job, state: _Tally, counts: np.ndarray, sifted) -> _Tally:
    leaders, opened = sifted
    frontier = state.frontier
    if opened is not None and len(opened[0]):
        frontier = exact.widen(frontier, *opened)
        if len(frontier.starts) > OPEN:
            frontier = exact.close(job.plan.task, frontier, down_to=OPEN // 4)
    return _Tally(
        census=tuple(a + int(b) for a, b in zip(state.census, counts, strict=True)),
        leaders=exact.lead(state.leaders, leaders.starts, leaders.minima),
        frontier=frontier,
        done=state.done + int(counts.sum()),
    )


def _result(job: _Job, tally: _Tally, objectives: tuple[str, ...], began: float) -> Result:
    task = job.plan.task
    found = exact.close(task, tally.frontier, down_to=0)
    top, front = (
        Ranked(indices=indices, values=exact.evaluate_flat(task, indices))
        for indices in (exact.best(task, tally.leaders), found.indices)
    )
    unknown = [name for name, live in zip(objectives, found.live, strict=True) if not live]
    return Result(
        objectives=objectives, evaluated=sum(tally.census), feasible=tally.census[0],
        rejected={reason: n for reason, n in zip(job.reasons[1:], tally.census[1:], strict=True) if n},
        unknown=tuple(unknown) if job.front else (), top=top, pareto=front,
        seconds=time.perf_counter() - began,
    )  # fmt: skip
