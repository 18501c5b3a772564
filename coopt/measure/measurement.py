"""What a clock or a compiler said of a program: the fields of a measurement, whatever the target. Plain JSON values."""

from __future__ import annotations

from typing import Any, TypedDict


class Phase(TypedDict, total=False):
    """One compiled program of a measurement, for one device; None is not known."""

    time: float | None  # s, median by a clock, or from the compiler's cycles
    low: float | None  # s, 95% interval of the median
    high: float | None
    spread: float | None  # relative median absolute deviation of the samples
    flops: float | None
    bytes: float | None  # of main memory, after fusion
    memory: dict[str, float]  # B: arguments, outputs, temporary, aliased, code, total
    collectives: list[dict[str, Any]]  # kind, size of a group, bytes
    rows: list[dict[str, Any]]  # of a TPU that is not attached: every fusion, with seconds and the rule they came by
    compile_s: float
    digest: str  # of the program's HLO


class Measurement(TypedDict, total=False):
    """A program compiled, and where it could be, timed."""

    name: str
    outcome: str  # one of coopt.workers.STATUSES
    message: str
    kind: str  # of the time: clock | compiler cycles | none
    time: float | None  # s, forward and backward together
    low: float | None
    high: float | None
    flops: float | None  # of one device, as the next two
    bytes: float | None
    memory: float | None  # B
    phases: dict[str, Phase]  # forward, forward_backward; step, of a whole one
    forward: Phase
    forward_backward: Phase
    device: str
    chips: int
    check: dict[str, Any] | None  # how far the results lie from a reference
    flags: list[str] | dict[str, str]  # what is doubtful of a timing; those of a compiler
    assumed: list[str]
    versions: dict[str, str]
    digest: str
    phase: str  # in which it ended, unless it was ok
    signal: str  # of what crashed: SIGSEGV, `exit 3`, an exception's name
    isolation: str  # process | none
    seconds: float  # in all
    wanted: float  # B, of what does not fit
    available: float
    suspected: bool  # nobody said so: killed from outside without a word
    job: dict[str, Any]  # what was asked
