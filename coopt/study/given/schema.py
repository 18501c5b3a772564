"""The schema of a study: what is searched, on which machines, for what, within which limits."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import pydantic

from coopt.spec.schema_types import (
    Bandwidth,
    Count,
    Name,
    Natural,
    Notes,
    Scalar,
    Strict,
    Text,
    Time,
    failure,
)

HOST = "host"  # the word for this very machine, measured
OBJECTIVES = (
    "device_time",  # s of one device to the end of the run: time x devices
    "run_time",
    "step_time",
    "time_per_token",
    "chip_time_per_token",
    "dollars_per_token",
    "joules_per_token",
    "run_dollars",
    "run_joules",
    "loss",
)
LIMITS = (*OBJECTIVES, "memory", "memory_share")


def _is_number(given: Any) -> bool:
    return isinstance(given, int | float) and not isinstance(given, bool) and 0 < given <= 1e18


def _several(given: Any) -> float | tuple[float, ...] | dict[str, float] | None:
    if isinstance(given, list):
        return tuple(float(one) for one in given) if given and all(map(_is_number, given)) else None
    if isinstance(given, dict):
        shaped = {"from", "to"} <= set(given) <= {"from", "to", "step", "factor"} and len(given) == 3
        good = shaped and all(map(_is_number, given.values())) and given.get("factor", 2.0) > 1
        return {key: float(value) for key, value in given.items()} if good else None
    return float(given) if _is_number(given) else None


def _plain(given: Any) -> dict[str, Any] | None:
    return dict(given) if isinstance(given, dict) and all(isinstance(key, str) for key in given) else None


def _named(given: Any) -> str | dict[str, Any] | None:
    return given if isinstance(given, str) and given.strip() else _plain(given)


def _bounds(given: Any) -> dict[str, float] | None:
    if not isinstance(given, dict) or not set(given) <= set(LIMITS):
        return None
    good = all(isinstance(v, int | float) and not isinstance(v, bool) and v > 0 for v in given.values())
    return {key: float(value) for key, value in given.items()} if good else None


Several = Annotated[
    float | tuple[float, ...] | dict[str, float],
    Scalar(
        "a number above 0, a list of them, or a range",
        "write `512`, `[8, 16, 32]` or `{from: 1e9, to: 2e10, factor: 1.2}`",
        _several,
    ),
]
Plain = Annotated[dict[str, Any], Scalar("a mapping of fields", "write `field: value` below it", _plain)]
Space = Annotated[
    str | dict[str, Any],
    Scalar("a space's name, or its fields", "write `gpt-small`, or `shape:` and `model:` below it", _named),
]
Bounds = Annotated[
    dict[str, float],
    Scalar("upper bounds on " + ", ".join(LIMITS), "write `loss: 3.4` below it", _bounds),
]


class Machine(Strict):
    """A machine to search on: a profile's name, or `host`, this machine, alone or several joined by a stated link."""

    hardware: Text
    chips: Count | None = None
    link: Bandwidth | None = None  # one way, a device: of several hosts joined
    latency: Time | None = None
    set: Plain = {}  # noqa: RUF012  fields of its files, changed

    @pydantic.model_validator(mode="after")
    def _joined(self) -> Machine:
        several = self.hardware == HOST and self.chips is not None and self.chips > 1
        if several and (self.link is None or self.latency is None):
            said = "a link and a latency between several hosts"
            raise failure(said, "none", "add `link: 12.5 GB/s` and `latency: 10 us`")
        if self.link is not None and not several:
            raise failure("a link between several hosts alone", "another machine", "its own files say its links")
        return self


class Work(Strict):
    """What is trained: tokens a sequence, sequences a step, tokens of the run; several values are searched."""

    seq_len: Count
    global_batch: Several | None = None
    tokens: Several | None = None


class Asked(Strict):
    """One machine of `elsewhere`; `like` is a machine before it, whose IT megawatts it gets in whole domains."""

    hardware: Text
    chips: Count | None = None
    like: Text | None = None

    @pydantic.model_validator(mode="after")
    def _sized(self) -> Asked:
        if (self.chips is None) == (self.like is None):
            raise failure("either `chips:` or `like:`", "both or neither", "")
        return self


class Trained(Strict):
    """One model of `elsewhere` and its step."""

    model: Text
    seq_len: Count
    global_batch: Count


class Elsewhere(Strict):
    """Known models on machines the reader does not have, priced from published profiles."""

    models: tuple[Trained, ...] = pydantic.Field(min_length=1)
    machines: tuple[Asked, ...] = pydantic.Field(min_length=1)
    stack: Text = "generic"
    layout: Plain = {}  # noqa: RUF012


class Study(Strict):
    """kind: study."""

    kind: Literal["study"]
    name: Name
    title: Text
    notes: Notes | None = None
    model: Text | None = None  # one model, or
    space: Space | None = None  # a family of shapes
    machines: tuple[Machine, ...] = pydantic.Field(min_length=1)
    workload: Work
    layout: Plain = {}  # noqa: RUF012  choices by field; a field left out takes every legal value
    stack: Text = "generic"
    law: Text | None = None
    batch_penalty: Literal["law", "none"] = "law"
    objective: Literal[OBJECTIVES] = "time_per_token"  # type: ignore[valid-type]
    limits: Bounds = {}  # noqa: RUF012
    measure: Natural = 0.0  # blocks to compile and time on this host
    block: str = ""  # package.module:factory of a layer of one's own, timed in place of ours
    top: Count = 12.0
    seed: Natural = 0.0
    set: Plain = {}  # noqa: RUF012  fields of the model, changed
    elsewhere: Elsewhere | None = None

    @pydantic.model_validator(mode="before")
    @classmethod
    def _sizes(cls, given: Any) -> Any:
        """Several cluster sizes of one machine, `chips: [256, 512]`, are several machines."""
        machines = given.get("machines") if isinstance(given, dict) else None
        if not isinstance(machines, list):
            return given
        several = [
            one if chips is None else {**one, "chips": chips}
            for one in machines
            for chips in (one["chips"] if isinstance(one, dict) and isinstance(one.get("chips"), list) else [None])
        ]
        return {**given, "machines": several}

    @pydantic.model_validator(mode="after")
    def _complete(self) -> Study:
        if (self.model is None) == (self.space is None):
            raise failure("either `model:` or `space:`", "both or neither", "name a model, or describe a family")
        if self.workload.global_batch is None:
            raise failure("workload.global_batch", "nothing", "write `global_batch: 1024` or a list")
        if self.measure and not any(machine.hardware == HOST for machine in self.machines):
            hint = "blocks are timed on this machine: add `hardware: host`, or write `measure: 0`"
            raise failure("a host among the machines where blocks are measured", "none", hint)
        if self.law is None and ("loss" in self.limits or self.objective == "loss"):
            raise failure("a law where the loss counts", "none", "add `law: chinchilla-besiroglu`")
        if self.workload.tokens is None and (self.law or self.objective in _OF_RUNS or _OF_RUNS & set(self.limits)):
            raise failure("workload.tokens where a run is priced", "nothing", "add `tokens: 2e9`")
        return self


_OF_RUNS = {"device_time", "run_time", "run_dollars", "run_joules", "loss"}
