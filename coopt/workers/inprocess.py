"""Runs jobs in this very process: for notebooks whose kernel already holds the device, and for debugging.

Nothing is contained: a crash takes the process along and memory is not capped. The deadline is a watchdog that
interrupts Python code, on whichever thread the job runs. Native code is interrupted when it returns and not before:
after the deadline the watchdog says so, once, and what to do, if native code leaves it the interpreter's lock.
"""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import signal
import sys
import threading
import time
from collections.abc import Iterator

from coopt.problems import Refused
from coopt.workers import child, kernel
from coopt.workers.job import Job
from coopt.workers.lease import LeaseTimeout, leased
from coopt.workers.outcome import Outcome, of_exception, of_result

GRACE = 2.0  # s after a deadline in which Python code is expected to have been interrupted


class _Late(BaseException):
    """The watchdog's; not an Exception, so that a job's own handlers let it pass."""


@contextlib.contextmanager
def serial() -> Iterator[SerialExecutor]:
    """An executor that runs each job in this process, one after another; every outcome says `isolation: none`."""
    yield SerialExecutor()


class SerialExecutor:
    """See `serial`."""

    def run(self, job: Job) -> Outcome:
        """Runs one job here; `memory_cap` cannot be kept and is refused by ValueError."""
        if job.memory_cap is not None:
            raise ValueError("memory_cap needs a child process: use the process executor")
        started = time.monotonic()
        phases = ["start"]
        try:
            with leased(job), _watchdog(job.deadline_s):
                outcome = of_result(child.call(job.path, job.payload, phases.append))
        except Refused:
            raise
        except LeaseTimeout as late:
            outcome = late.outcome()
        except _Late:
            outcome = Outcome(status="timeout", phase=phases[-1], message=f"interrupted after {job.deadline_s:g} s")
        except Exception as error:  # the boundary: whatever a job raises is an outcome, told in full
            outcome = of_exception(type(error).__name__, str(error), phases[-1], kernel.available_memory())
        return dataclasses.replace(outcome, isolation="none", seconds=time.monotonic() - started)


@contextlib.contextmanager
def _watchdog(deadline_s: float) -> Iterator[None]:
    """Raises `_Late` here after the deadline, by a signal on the main thread and by the interpreter on any other."""
    job, ended = threading.get_ident(), threading.Event()
    main = threading.current_thread() is threading.main_thread()

    def late(*_):
        raise _Late

    def watch() -> None:
        if ended.wait(deadline_s):
            return
        if not main:
            ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(job), ctypes.py_object(_Late))
        if not ended.wait(GRACE):
            said = f"coopt: a job is in native code {GRACE:g} s after its deadline of {deadline_s:g} s; nothing in"
            print(said, "this process can interrupt it: restart it to have the device back", file=sys.stderr)

    watching = threading.Thread(target=watch, daemon=True, name="watchdog")
    before = signal.signal(signal.SIGALRM, late) if main else None
    watching.start()
    if main:
        signal.setitimer(signal.ITIMER_REAL, deadline_s)
    try:
        yield
    finally:
        ended.set()
        if main:
            signal.setitimer(signal.ITIMER_REAL, 0.0)
            signal.signal(signal.SIGALRM, before)
        else:
            watching.join()  # what it raises, it raises before the job's thread leaves this block
