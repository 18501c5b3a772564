"""What can be trained on what, and how fast: every figure here comes from a pricer, none is typed in."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from coopt.roadmap.quarters import SECONDS

SUPERLINEAR = 1.25  # how much better than in proportion to chips a run may speed up: memory relieved by splitting


@dataclasses.dataclass(frozen=True, kw_only=True)
class Task:
    """A training run to be priced, wherever it may run."""

    model: str
    width: float = 1.0  # d_model, heads and feed-forward widths times this
    layers: float = 1.0  # layers times this
    tokens: float  # of the whole run
    batch: float  # tokens a step
    seq_len: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class Option:
    """A task on a number of chips of a system, in its best layout; None where nothing is known."""

    tokens_per_second_per_chip: float
    step_time: float | None = None  # s
    mfu: float | None = None
    layout: Mapping[str, Any] | None = None
    loss: float | None = None  # nats; None: the law has nothing to say about this model
    loss_in_range: bool = False
    goodput: float | None = None  # share of time that counts
    interval: tuple[float, float] | None = None  # tokens_per_second_per_chip, low and high
    fidelity: str | None = None
    stack: str | None = None
    nearest: tuple[Mapping[str, Any], ...] = ()
    assumed: tuple[str, ...] = ()


# (task, system, chips) -> the best way of doing it, or None where no layout fits.
Pricer = Callable[[Task, str, int], Option | None]


def remembered(pricer: Pricer) -> Pricer:
    """The same pricer, asked once for each question."""
    told: dict[tuple[Task, str, int], Option | None] = {}

    def price(task: Task, system: str, chips: int) -> Option | None:
        if (task, system, chips) not in told:
            told[task, system, chips] = pricer(task, system, chips)
        return told[task, system, chips]

    return price


def at_end(pricer: Pricer, end: int) -> Pricer:
    """The same pricer with every speed at the low (0) or the high (1) end of its interval, where it has one."""

    def price(task: Task, system: str, chips: int) -> Option | None:
        option = pricer(task, system, chips)
        if option is None or option.interval is None:
            return option
        return dataclasses.replace(option, tokens_per_second_per_chip=option.interval[end])

    return price


@dataclasses.dataclass(frozen=True, kw_only=True)
class Offer:
    """An option that ends in time: the chips that train, and the quarters they are held for."""

    rung: int
    system: int
    chips: int
    quarters: int
    option: Option


def duration(task: Task, option: Option, *, chips: int, goodput: float) -> float:
    """Quarters that a run takes: tokens / (tokens/s a chip * chips * goodput).

    A price's own goodput stands before the one given.

    >>> task = Task(model="m", tokens=15e12, batch=16e6, seq_len=8192)
    >>> round(duration(task, Option(tokens_per_second_per_chip=380.0), chips=16384, goodput=0.9), 3)
    0.339
    """
    share = goodput if option.goodput is None else option.goodput
    rate = option.tokens_per_second_per_chip * chips * share
    return task.tokens / rate / SECONDS if rate > 0 else math.inf


def offers(
    tasks: Sequence[Task],
    systems: Sequence[str],
    pricer: Pricer,
    *,
    sizes: Sequence[int],
    durations: Sequence[int],
    goodput: float,
    most: Sequence[float],
    progress: Callable[[str, int, int], None] | None = None,
) -> tuple[Offer, ...]:
    """For each task, system and duration, the fewest chips (of `sizes`, rising) with which the run ends in time.

    `most` is the largest number of training chips of each system that any plan could have. Sizes that would have to
    scale a quarter better than perfectly are not priced.
    """
    found: list[Offer] = []
    for rung, task in enumerate(tasks):
        for system, name in enumerate(systems):
            if progress is not None:
                progress(f"pricing {task.model} on {name}", rung * len(systems) + system, len(tasks) * len(systems))
            fitting = [size for size in sizes if size <= most[system]]
            found += _ending(task, name, pricer, sizes=fitting, durations=durations, goodput=goodput, at=(rung, system))
    return tuple(found)


def _ending(task, name, pricer, *, sizes, durations, goodput, at) -> list[Offer]:
    priced: dict[int, tuple[float, Option | None]] = {}

    def quarters(size: int) -> float:
        if size not in priced:
            option = pricer(task, name, size)
            time = math.inf if option is None else duration(task, option, chips=size, goodput=goodput)
            priced[size] = (time, option)
        return priced[size][0]

    def hopeless(size: int, longest: float) -> bool:
        known = [time * before / size for before, (time, _) in priced.items()]
        return min(known, default=0.0) > SUPERLINEAR * longest

    rung, system = at
    found: dict[int, Offer] = {}
    waiting = list(sizes)
    for longest in sorted(durations, reverse=True):
        while waiting and (hopeless(waiting[0], longest) or quarters(waiting[0]) > longest):
            waiting.pop(0)
        if not waiting:
            break
        time, option = priced[waiting[0]]
        if option is not None:
            whole = max(1, math.ceil(time - 1e-9))
            found[waiting[0]] = Offer(rung=rung, system=system, chips=waiting[0], quarters=whole, option=option)
    return list(found.values())
