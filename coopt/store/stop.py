"""Being told to stop: SIGTERM ends a run resumable (75), Ctrl-C ends it (130), a second signal ends it at once.

Nothing needs saving when a signal comes, since the journal acknowledges only what is on disk. So the signal becomes an
exception where the main thread stands; and should that thread be deep in native code (a compilation) or swallow the
exception, a second thread ends the process when the grace is over.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import select
import signal
import sys
import threading
from collections.abc import Iterator
from typing import Any, NoReturn

RESUMABLE, INTERRUPTED = 75, 130


class Stopped(BaseException):
    """SIGTERM (or a hang-up) came: end now, by `leave(stop.code)`; what is finished is kept, the run can be resumed."""

    code = RESUMABLE


@dataclasses.dataclass
class Stop:
    """Whether a signal has come; loops that cannot be interrupted ask it."""

    signal: int = 0

    @property
    def requested(self) -> bool:
        """True once a signal has come."""
        return self.signal != 0


@contextlib.contextmanager
def stopping(*, grace: float = 4.0) -> Iterator[Stop]:
    """While it lasts, SIGTERM and SIGHUP raise `Stopped` and SIGINT raises `KeyboardInterrupt` in the main thread.

    The process ends with the code of the signal if the `with` block has not been left `grace` seconds after it, and at
    once on a second signal. Outside the main thread nothing is installed and the `Stop` stays silent. A SIGINT or
    SIGHUP that was ignored from outside (`nohup`, a background job) stays ignored.
    """
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def come(number: int, _: Any) -> None:
        if stop.requested:
            os._exit(_code(number))
        stop.signal = number
        raise KeyboardInterrupt if number == signal.SIGINT else Stopped

    heard, wakeup = os.pipe()
    os.set_blocking(wakeup, False)
    # The pipe is written by the signal itself, whatever the main thread is doing.
    earlier_wakeup = signal.set_wakeup_fd(wakeup, warn_on_full_buffer=False)
    earlier = {number: signal.signal(number, come) for number in _taken()}
    guard = threading.Thread(target=_guard, args=(heard, grace, tuple(earlier)), daemon=True, name="stop")
    guard.start()
    try:
        yield stop
    finally:
        for number, handler in earlier.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(earlier_wakeup)
        os.close(wakeup)  # the guard sees the end of the pipe
        guard.join()
        os.close(heard)


def leave(code: int) -> NoReturn:
    """Ends the process with what was printed and without taking the interpreter down.

    An exception leaves XLA's threads in the middle of a compilation; they crash the process (SIGSEGV instead of the
    code) when the libraries under them are torn down. Child processes are the caller's to end first.
    """
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):  # a closed pipe is no reason for another code
            stream.flush()
    os._exit(code)


def _taken() -> list[signal.Signals]:
    """SIGTERM, and those of the other two that nobody chose to ignore; a handler not set from Python is left alone."""
    others = [number for number in (signal.SIGINT, signal.SIGHUP) if signal.getsignal(number) is not signal.SIG_IGN]
    return [number for number in (signal.SIGTERM, *others) if signal.getsignal(number) is not None]


def _guard(heard: int, grace: float, ours: tuple[int, ...]) -> None:
    """Ends the process `grace` seconds after the first of our signals, or on the second; returns at the pipe's end."""
    first, news = 0, select.poll()  # and not select.select, which knows the first 1,024 descriptors alone
    news.register(heard, select.POLLIN)
    while True:
        if not news.poll(1000.0 * grace if first else None):
            break
        numbers = os.read(heard, 64)
        if not numbers:
            return
        for number in numbers:
            if number in ours and first:
                os._exit(_code(number))
            first = number if number in ours else first
    sys.stderr.write("stopped; everything finished is kept, and `coopt resume` goes on from there\n")
    sys.stderr.flush()
    os._exit(_code(first))


def _code(number: int) -> int:
    return INTERRUPTED if number == signal.SIGINT else RESUMABLE
