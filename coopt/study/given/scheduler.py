"""Trials carried out by a crew, as the journal allows: each once, a lost worker's again, one that kills workers never.

The scheduler decides and the journal remembers: nothing here outlives the process, and any number of schedulers may
work on one run. It has no clock and starts no thread; a crew does both, real (`Crew`) or simulated (tests/faults).
"""

from __future__ import annotations

import collections
import contextlib
import queue
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

from coopt.store import Run, finite
from coopt.workers import Executor, Job, Outcome
from coopt.workers.remote import LOST

ENDS = ("phase", "signal", "wanted", "available", "suspected", "isolation")  # of an `Outcome`
PAUSE = 1.0  # s to wait for news before looking what other processes did


class Workers(Protocol):
    """So many hands: `start` gives one of them a trial, `next` is the next outcome, None where none has come."""

    width: int

    def start(self, trial: str, job: Job) -> None:
        """Begins a trial; called for at most `width` at a time."""
        ...

    def next(self) -> tuple[str, Outcome] | None:
        """Waits a little for an outcome."""
        ...


def carry_out(run: Run, jobs: Mapping[str, Job], crew: Workers, *, told: Callable[[int, int], None] | None = None):
    """Has every trial of `jobs` done, by this process or by others that share the run."""
    for done in steps(run, jobs, crew):
        if told is not None:
            told(done, len(jobs))


def steps(run: Run, jobs: Mapping[str, Job], crew: Workers) -> Iterator[int]:
    """`carry_out` one decision at a time, with the number of trials done so far.

    Between two steps nothing is held but the trials in flight: another scheduler, or a kill, may come there.
    """
    rest = list(jobs)
    waiting = collections.deque(run.queue(rest))
    flying: set[str] = set()
    while True:
        while waiting and len(flying) < crew.width:
            trial = waiting.popleft()
            if trial not in flying and run.claim(trial):
                flying.add(trial)
                crew.start(trial, jobs[trial])
                yield len(run.trials.done)
        news = crew.next() if flying or waiting or _left(run, rest) else None
        if news is not None:
            trial, outcome = news
            flying.discard(trial)
            if settle(run, trial, outcome):
                waiting.append(trial)
        elif not waiting:  # nothing new here: has another process done something, given it back, or died?
            run.refresh()
            rest = _left(run, rest)
            if not rest:
                return
            waiting.extend(trial for trial in run.queue(rest) if trial not in flying)
        yield len(run.trials.done)


def _left(run: Run, trials: list[str]) -> list[str]:
    return [trial for trial in trials if trial not in run.trials.done]


def settle(run: Run, trial: str, outcome: Outcome, **about: Any) -> bool:
    """Writes down what became of a trial; True when it is to be tried once more.

    A worker that died under its job is the job's doing until shown otherwise: twice, and the trial is out. A worker
    that was lost with its host is not, up to `coopt.store.trials.ORPHANED` times.
    """
    if outcome.status == "crashed":
        return run.crashed(trial, detail=last_words(outcome), lost=outcome.signal == LOST)
    said = finite(record(outcome))
    run.finish(trial, said.pop("status"), **said, **about)
    return False


def record(outcome: Outcome) -> dict[str, Any]:
    """An outcome as the journal keeps it."""
    return {
        "status": outcome.status,
        "result": outcome.result,
        "message": last_words(outcome) if outcome.status == "crashed" else outcome.message,
        "seconds": outcome.seconds,
        **ended(vars(outcome)),
    }


def ended(said: Mapping[str, Any]) -> dict[str, Any]:
    """How a job ended, as far as there is something to say: its phase, bytes wanted and available, its isolation.

    >>> ended({"phase": "compile", "wanted": 2e9, "available": float("nan"), "suspected": False})
    {'phase': 'compile', 'wanted': 2000000000.0}
    """
    return {name: value for name in ENDS if (value := said.get(name)) and value == value}


def last_words(outcome: Outcome) -> str:
    """What is known of a death: signal, phase, and the end of what the child wrote."""
    tail = " ".join(outcome.stderr.split())[-300:]
    return f"{outcome.signal} in {outcome.phase}: {outcome.message[:300]}" + (f"; it wrote: {tail}" if tail else "")


class Crew:
    """An executor with `width` threads before it; with one, jobs run in the thread that asks for outcomes."""

    def __init__(self, executor: Executor, width: int):
        self.width = width
        self._executor = executor
        self._waiting: collections.deque[tuple[str, Job]] = collections.deque()
        self._heard: queue.SimpleQueue[tuple[str, Outcome | BaseException]] = queue.SimpleQueue()
        self._threads = ThreadPoolExecutor(width, thread_name_prefix="crew") if width > 1 else None

    def start(self, trial: str, job: Job) -> None:
        """Begins a trial."""
        if self._threads is None:
            self._waiting.append((trial, job))
        else:
            self._threads.submit(lambda: self._heard.put((trial, self._tried(job))))

    def next(self) -> tuple[str, Outcome] | None:
        """The next outcome, or None after a pause; raises what a job refused."""
        if self._waiting:
            trial, job = self._waiting.popleft()
            return trial, self._executor.run(job)
        with contextlib.suppress(queue.Empty):
            trial, heard = self._heard.get(timeout=PAUSE)
            if isinstance(heard, BaseException):
                raise heard
            return trial, heard
        return None

    def close(self) -> None:
        """Lets no further job begin."""
        if self._threads is not None:
            self._threads.shutdown(wait=False, cancel_futures=True)

    def _tried(self, job: Job) -> Outcome | BaseException:
        try:
            return self._executor.run(job)
        except Exception as error:  # handed to the thread that asks
            return error
