"""How much of this machine others use while something is timed, and how much memory this process held."""

from __future__ import annotations

import contextlib
import math
import os
import resource
import sys
import time
from collections.abc import Callable, Iterator


@contextlib.contextmanager
def foreign_load() -> Iterator[Callable[[], float]]:
    """Yields a function: the share of this machine's processors that others have used since; NaN where nobody says.

    From the kernel's ticks of all processors and the processor seconds of this process; ticks are 10 ms, so it takes a
    tenth of a second or more to mean anything.
    """
    before, own, ended = _busy(), time.process_time(), None

    def share() -> float:
        busy, mine = ended or (_busy(), time.process_time())
        if math.isnan(busy[0]) or busy[1] <= before[1]:
            return math.nan
        return min(1.0, max(0.0, (busy[0] - before[0] - (mine - own)) / (busy[1] - before[1])))

    try:
        yield share
    finally:
        ended = _busy(), time.process_time()


def _busy() -> tuple[float, float]:
    """Seconds that all processors were at work since the machine started, and that there were in all."""
    try:
        with open("/proc/stat") as file:
            ticks = [float(word) for word in file.readline().split()[1:9]]
    except (OSError, ValueError):
        return math.nan, math.nan
    tick = 1.0 / os.sysconf("SC_CLK_TCK")
    return (sum(ticks) - ticks[3] - ticks[4]) * tick, sum(ticks) * tick  # less idle, and waiting for disks


def resident() -> float:
    """The most bytes of memory this process has held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1.0 if sys.platform == "darwin" else 1024.0)
