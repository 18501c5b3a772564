"""Joules of a GPU board by its own counter, over runs of two seconds and more. Settings of a device are never changed.

NVML counts the millijoules of a whole board since its driver was loaded (nvmlDeviceGetTotalEnergyConsumption, Volta and
later); the counter moves every 20 to 100 ms, hence the two seconds.
"""

from __future__ import annotations

import dataclasses
import importlib
import math
import os
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np

LEAST = 2.0  # s a run must last
EVERY = 0.1  # s between two looks at the clock
MISSING = "energy is not measured: NVML is not there (a GPU's driver, and `pip install 'coopt[energy]'`)"


@dataclasses.dataclass(frozen=True)
class Board:
    """A GPU board: its counter in J and the clock its cores run at now in Hz."""

    joules: Callable[[], float]
    clock: Callable[[], float]


def board() -> Board | None:
    """The board that JAX's first GPU is on; None where there is no NVML.

    >>> board() is None or board().joules() > 0.0
    True
    """
    try:
        nvml = importlib.import_module("pynvml")
        nvml.nvmlInit()
        named = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")[0].strip()
        if named.startswith(("GPU-", "MIG-")):
            handle = nvml.nvmlDeviceGetHandleByUUID(named)
        else:
            handle = nvml.nvmlDeviceGetHandleByIndex(int(named or 0))
        nvml.nvmlDeviceGetTotalEnergyConsumption(handle)
    except Exception:  # the boundary: no package, no driver, no such board, no counter; NVML has an error for each
        return None
    return Board(
        joules=lambda: nvml.nvmlDeviceGetTotalEnergyConsumption(handle) / 1e3,
        clock=lambda: nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_SM) * 1e6,
    )


def resting(on: Board | None) -> float:
    """Watts of a board on which nothing runs, over two seconds; NaN where there is no counter."""
    if on is None:
        return math.nan
    before, started = on.joules(), time.perf_counter()
    time.sleep(LEAST)
    return (on.joules() - before) / (time.perf_counter() - started)


def spent(timer: Callable[[int], float], once: float, on: Board | None) -> dict[str, Any]:
    """Joules a repetition (`joules`), watts, the sustained clock (Hz, median) and what it was taken over.

    Args:
      timer: runs k repetitions and waits for them, as `clock.repeat` makes it.
      once: seconds of one.
    """
    if on is None:
        return {"message": MISSING}
    repetitions = max(1, math.ceil(LEAST / once))
    clocks, ended = [], threading.Event()

    def watch() -> None:
        while not ended.wait(EVERY):
            clocks.append(on.clock())

    watching = threading.Thread(target=watch, daemon=True, name="clock")
    watching.start()
    try:
        before, started = on.joules(), time.perf_counter()
        timer(repetitions)
        seconds, joules = time.perf_counter() - started, on.joules() - before
    finally:
        ended.set()
        watching.join()
    return {
        "joules": joules / repetitions,
        "watts": joules / seconds,
        "clock": float(np.median(clocks)) if clocks else None,
        "seconds": seconds,
        "repetitions": repetitions,
    }
