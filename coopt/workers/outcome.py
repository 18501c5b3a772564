"""What became of one job: a closed list, so that nothing that can happen to a child is left without a name."""

from __future__ import annotations

import dataclasses
import math
import re

STATUSES = ("ok", "infeasible-memory", "compile-error", "timeout", "crashed", "wrong-result", "noisy")
COMPILE_PHASES = ("build", "lower", "compile")

_UNITS = {"": 1.0, "B": 1.0, "K": 2.0**10, "M": 2.0**20, "G": 2.0**30, "T": 2.0**40, "P": 2.0**50}
_NUMBER = r"([0-9]+(?:\.[0-9]*)?)\s?([KMGTP]?)(?:iB|B|b)?"  # XLA prints GiB as `GiB`, `G` and `GB` alike
_OUT_OF_MEMORY = re.compile(
    r"RESOURCE_EXHAUSTED|out of memory|bad_alloc|MemoryError|Cannot allocate memory|Unable to allocate"
    r"|mmap error: 12\b|pthread_create\(\) failed",  # a thread without room for its stack
    re.IGNORECASE,
)
_USED_OF = re.compile(rf"Used {_NUMBER} of {_NUMBER} hbm", re.IGNORECASE)
_REQUIRED = re.compile(rf"required[^()]*\({_NUMBER}\) exceeds available[^()]*\({_NUMBER}\)", re.IGNORECASE)
_WANTED = (
    re.compile(rf"(?:out of memory|memory) (?:while )?(?:trying to allocate|allocating) {_NUMBER}", re.IGNORECASE),
    re.compile(rf"attempting to (?:allocate|reserve) {_NUMBER}", re.IGNORECASE),
    re.compile(rf"unable to allocate {_NUMBER}", re.IGNORECASE),
    re.compile(rf"failed to allocate (?:request for )?{_NUMBER}", re.IGNORECASE),
)
_FREE = re.compile(rf"There are {_NUMBER} free", re.IGNORECASE)


@dataclasses.dataclass(frozen=True)
class Outcome:
    """The end of one job; `result` is what the callable returned, absent unless it returned."""

    status: str = "ok"  # one of STATUSES
    phase: str = ""  # what the job was doing: build, lower, compile, warm, forward, ... or lease, start
    signal: str = ""  # crashed: `SIGSEGV`, `exit 3`, or the type of an exception
    wanted: float = math.nan  # B, infeasible-memory: as far as the message tells
    available: float = math.nan  # B
    suspected: bool = False  # infeasible-memory: killed from outside without a word, most likely by the kernel
    result: dict | None = None
    message: str = ""
    stderr: str = ""  # the last 4 KiB
    seconds: float = 0.0  # by the parent's monotonic clock
    isolation: str = "process"  # process | none

    @property
    def ok(self) -> bool:
        """Whether there is a result that can be used: `ok`, or `noisy`."""
        return self.status in ("ok", "noisy")


def _bytes(number: str, unit: str) -> float:
    return float(number) * _UNITS[unit.upper()]


def out_of_memory(text: str) -> tuple[float, float] | None:
    """Bytes wanted and available as an out-of-memory message gives them (NaN: not said); None for another message.

    >>> out_of_memory("RESOURCE_EXHAUSTED: Out of memory allocating 400000000000000 bytes.")
    (400000000000000.0, nan)
    >>> out_of_memory("Ran out of memory in memory space hbm. Used 20.00G of 16.00G hbm.")
    (21474836480.0, 17179869184.0)
    >>> out_of_memory("the total memory required for HLO temporaries (32.00G) exceeds available HBM (15.75G).")
    (34359738368.0, 16911433728.0)
    >>> out_of_memory("INVALID_ARGUMENT: shapes differ")
    """
    used = _USED_OF.search(text) or _REQUIRED.search(text)
    if used:
        return _bytes(used[1], used[2]), _bytes(used[3], used[4])
    wanted = next((m for pattern in _WANTED if (m := pattern.search(text))), None)
    if not wanted and not _OUT_OF_MEMORY.search(text):
        return None
    free = _FREE.search(text)
    return (
        _bytes(wanted[1], wanted[2]) if wanted else math.nan,
        _bytes(free[1], free[2]) if free else math.nan,
    )


def of_exception(kind: str, message: str, phase: str, available: float) -> Outcome:
    """The outcome of a job that raised: out of memory, a failure to compile, or a crash named by the exception."""
    memory = out_of_memory(f"{kind}: {message}")
    if memory:
        free = available if math.isnan(memory[1]) else memory[1]
        return Outcome(status="infeasible-memory", phase=phase, wanted=memory[0], available=free, message=message)
    if phase in COMPILE_PHASES:
        return Outcome(status="compile-error", phase=phase, message=f"{kind}: {message}")
    return Outcome(status="crashed", phase=phase, signal=kind, message=f"{kind}: {message}")


def of_death(name: str, stderr: str, phase: str, available: float) -> Outcome:
    """The outcome of a child that ended without an answer, from its signal's name (or `exit N`) and its last words."""
    memory = out_of_memory(stderr) if name in ("SIGABRT", "SIGKILL") or name.startswith("exit") else None
    if memory or name == "SIGKILL":
        return Outcome(
            status="infeasible-memory",
            phase=phase,
            signal=name,
            wanted=memory[0] if memory else math.nan,
            available=available,
            suspected=memory is None,
            message=f"ended by {name}"
            + ("" if memory else ", not by us: most likely the kernel's out-of-memory killer"),
        )
    return Outcome(status="crashed", phase=phase, signal=name, message=f"ended by {name} without an answer")


def of_result(result: dict) -> Outcome:
    """The outcome of a job that answered; an answer may itself say `outcome`, from the same closed list."""
    status = result.get("outcome", "ok")
    if status not in STATUSES:
        return Outcome(
            status="crashed", phase="answer", message=f"the job answered with an unknown outcome: {status!r}"
        )
    wanted, available = (
        float(value) if isinstance(value := result.get(name), int | float) else math.nan
        for name in ("wanted", "available")
    )
    message = str(result.get("message", ""))
    return Outcome(status=status, result=result, message=message, wanted=wanted, available=available)
