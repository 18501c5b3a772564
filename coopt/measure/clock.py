"""Times a compiled program so that neither dispatch nor noise can pass for work.

The device's own record of a run, where its profiler keeps one, holds no dispatch and is asked first; what it says must
agree with the host's clock. The estimator takes its timings through a function: its tests feed it clocks that lie.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from coopt.measure import energy, pace, trace
from coopt.measure.load import foreign_load
from coopt.measure.statistics import UNSTABLE, drift, median_interval, scaling, slopes, spread

DIRECT = 50.0  # dispatch floors a repetition must last to be timed singly; shorter ones are timed by slope
DISPATCH_BOUND = 10.0  # dispatch floors below which a timing says nothing about the device
MOST = 200  # samples
LEAST = 6  # samples: the fewest whose range covers the median with 95%
DOUBLES = 2  # doubled timings, as a check on single ones; one where the first fills the budget
SCALING = (0.75, 1.3)  # repeated work doubles; hoisted work or bare dispatch stays near 0.5
DRIFT = 0.1
TRACED = 0.3  # share of the budget in which the device's own record is taken
MOST_TRACED = 64  # runs
MISSING = 0.6  # share of the host's time below which a device's record must be missing operations
BEYOND = 1.5  # times the host's time above which it is another program's
THROTTLED = 0.9  # of the device's clock at the start, below which a sample is thrown away
# s that a GPU works before it is timed: it begins at a clock that its power does not let it hold. After half a second
# an H200 still ran forward passes 2 to 14% faster than in the two seconds that followed.
STEADY = 2.0
FOREIGN = 0.1  # share of the processors that others may use while something is timed


@dataclasses.dataclass(frozen=True)
class Timing:
    """Seconds a repetition, with all that is needed to believe it or not."""

    time: float = math.nan  # s, median
    low: float = math.nan  # s, interval of the median
    high: float = math.nan
    coverage: float = 0.0  # what the interval covers
    spread: float = math.nan  # relative median absolute deviation
    drift: float = math.nan
    scaling: float = math.nan  # growth of time over growth of repetitions
    samples: int = 0
    repetitions: int = 1  # a sample
    estimator: str = "direct"  # device | direct | slope
    floor: float = math.nan  # s, dispatch
    kind: str = "clock"
    foreign: float = math.nan  # share of the processors that others used meanwhile
    pace: float = math.nan  # s of a small program on this host meanwhile: `time` over the median of their ratios
    clock: float = math.nan  # Hz, of the device meanwhile, where it says: median of the samples that count
    throttled: int = 0  # samples thrown away, of a device that had slowed its clock down
    caches: str = "warm"  # repetitions follow each other and find what the last one left; there is no cold mode to mix
    flags: tuple[str, ...] = ()  # unstable, few-samples, drift, dispatch-bound, not-repeated, throttled, foreign-load


def timed(
    timer: Callable[[int], float], *, budget_s: float, floor: float, attempts: int = 1
) -> tuple[Timing, trace.Trace]:
    """Seconds a repetition of a program: by the device's record where that can be believed, or by the host's clock.

    A GPU's record lengthens short kernels, and calls can take longer than they: the smaller of the two is nearer.

    Returns:
      the timing, and what the device did in a repetition, operation by operation (none where no profiler sees it).
    """
    how = {"budget_s": (1.0 - TRACED) * budget_s, "floor": floor, "attempts": attempts}
    gpu = jax.default_backend() == "gpu"
    if gpu:
        timer(1)
        timer(math.ceil(STEADY / max(timer(2) / 2.0, floor)))
    with foreign_load() as foreign:
        timing = estimate(timer, **how, hertz=_hertz(), beside=pace.beside())
        repetitions = max(1, min(MOST_TRACED, int(TRACED * budget_s / max(timing.time, floor))))
        seen = trace.traced(lambda: timer(repetitions))
    recorded = by_device(timing, seen.spans, runs=repetitions * seen.devices)
    timing = timing if gpu and timing.time < recorded.time else recorded
    timing = dataclasses.replace(timing, foreign=foreign())
    if timing.foreign > FOREIGN:
        timing = dataclasses.replace(timing, flags=(*timing.flags, "foreign-load"))
    return timing, seen


def _hertz() -> Callable[[], float]:
    """The clock of the attached GPU, Hz; NaN of other devices, and where there is no NVML."""
    board = energy.board() if jax.default_backend() == "gpu" else None
    return board.clock if board else lambda: math.nan


def by_device(clocked: Timing, spans: Sequence[float], *, runs: int) -> Timing:
    """The timing by the device's seconds of each run, or the host's where those cannot be all there is.

    They are believed where every run is among them, there are enough for an interval, and their median lies between
    0.6 (less ten dispatch floors, which chained calls may wait) and 1.5 of the host's.

    >>> clocked = Timing(time=2e-3, scaling=1.0, samples=9, repetitions=1, floor=1e-5)
    >>> by_device(clocked, [1.9e-3] * 8, runs=8).estimator, by_device(clocked, [0.4e-3] * 8, runs=8).estimator
    ('device', 'direct')
    """
    if len(spans) != runs or runs < LEAST:
        return clocked
    middle = float(np.median(spans))
    if not MISSING * clocked.time - DISPATCH_BOUND * clocked.floor <= middle <= BEYOND * clocked.time:
        return clocked
    found = _timing(spans, clocked.scaling, floor=clocked.floor, repetitions=1, estimator="device")
    return dataclasses.replace(found, clock=clocked.clock, throttled=clocked.throttled, pace=clocked.pace)


def estimate(
    timer: Callable[[int], float],
    *,
    budget_s: float,
    floor: float,
    attempts: int = 1,
    now: Callable[[], float] = time.perf_counter,
    hertz: Callable[[], float] = lambda: math.nan,
    beside: Callable[[], float] = lambda: math.nan,
) -> Timing:
    """Seconds a repetition from `timer(k)`, the seconds that k dependent repetitions took.

    Warms up until three timings agree within 5% (at most 3 s or a third of the budget). Work of at least 50 dispatch
    floors is timed singly, with a few doubled timings as a check; shorter work by the slope between k and 2k
    repetitions, which no fixed cost can enter. An unstable series is taken again, up to `attempts` times; the
    steadiest is kept, and stays marked. Samples during which `hertz`, the device's clock, was below 0.9 of the first
    are thrown away and counted, unless fewer than six are left: then they stay, marked `throttled`. `beside` returns
    the seconds of a program that slows down with this one, asked after each sample.
    """
    once = _warm(timer, min(3.0, budget_s / 3.0), now)
    best = Timing()
    for _ in range(max(1, attempts)):
        if once >= DIRECT * floor:
            result = _direct(timer, budget_s, floor, now, hertz, beside)
        else:
            repetitions = min(1000, max(1, math.ceil(2.0 * DIRECT * floor / once)))
            result = _slope(timer, repetitions, budget_s, floor, now, hertz, beside)
        if not best.samples or result.spread < best.spread:
            best = result
        if "unstable" not in best.flags:
            break
    return best


def _warm(timer, limit_s, now) -> float:
    started = now()
    timer(1)  # the first call pays for allocation, pages and clocks; it counts for nothing
    last: list[float] = []
    while True:
        last = (last + [timer(1)])[-3:]
        agree = len(last) == 3 and max(last) <= 1.05 * min(last)
        if agree or now() - started >= limit_s:
            return min(last)


def _direct(timer, budget_s, floor, now, hertz, beside) -> Timing:
    started = now()
    single, double, clocks, paces = [], [], [], []
    while _more(len(single), now() - started, budget_s):
        single.append(timer(1))
        clocks.append(hertz())
        paces.append(beside())
        if len(double) < (DOUBLES if now() - started < budget_s else 1):
            double.append(timer(2))
    grown = scaling(single[: len(double)], double, repetitions=(1, 2))
    return _timing(single, grown, floor=floor, repetitions=1, estimator="direct", clocks=clocks, paces=paces)


def _slope(timer, repetitions, budget_s, floor, now, hertz, beside) -> Timing:
    started = now()
    short, long, clocks, paces = [], [], [], []
    while _more(len(short), now() - started, budget_s):
        # Which of the two goes first alternates, so that a drift does not enter the slope.
        for count in (1, 2) if len(short) % 2 == 0 else (2, 1):
            (short if count == 1 else long).append(timer(count * repetitions))
        clocks.append(hertz())
        paces.append(beside())
    counts = (repetitions, 2 * repetitions)
    grown = scaling(short, long, repetitions=counts)
    each = slopes(short, long, repetitions=counts)
    return _timing(each, grown, floor=floor, repetitions=repetitions, estimator="slope", clocks=clocks, paces=paces)


def _more(taken: int, spent: float, budget_s: float) -> bool:
    """Whether to take another sample: six in any case, unless that would cost four times the budget."""
    if taken >= MOST or taken >= 3 and spent > 4.0 * budget_s:
        return False
    return taken < LEAST or spent < budget_s


def _timing(
    samples: Sequence[float] | np.ndarray, grown: float, *, floor: float, repetitions: int, estimator: str,
    clocks: Sequence[float] = (), paces: Sequence[float] = (),
) -> Timing:  # fmt: skip
    at, beside = (np.array(each if len(each) else np.full(len(samples), math.nan)) for each in (clocks, paces))
    slowed = at < THROTTLED * at[0] if len(at) else np.zeros(0, bool)
    enough = len(samples) - slowed.sum() >= LEAST
    samples, at, beside = (np.asarray(each)[~slowed] if enough else np.asarray(each) for each in (samples, at, beside))
    ratio = float(np.median(samples / beside)) if len(samples) else math.nan
    low, high, coverage = median_interval(samples)
    middle = float(np.median(samples))
    noise, trend = spread(samples), drift(samples)
    flags = {
        "unstable": not noise < UNSTABLE,
        "few-samples": coverage < 0.95,
        "drift": len(samples) >= LEAST and abs(trend) > DRIFT,
        # What the device spent is true however long the call took.
        "dispatch-bound": middle < DISPATCH_BOUND * floor and estimator != "device",
        "throttled": bool(slowed.any()) and not enough,
        "not-repeated": middle <= 0.0 or not SCALING[0] <= grown <= SCALING[1],
    }
    return Timing(
        time=middle,
        low=low,
        high=high,
        coverage=coverage,
        spread=noise,
        drift=trend,
        scaling=grown,
        samples=len(samples),
        repetitions=repetitions,
        estimator=estimator,
        floor=floor,
        clock=float(np.median(at)) if len(at) else math.nan,
        pace=middle / ratio if ratio > 0.0 else math.nan,  # a slope of nothing has none
        throttled=int(slowed.sum()),
        flags=tuple(name for name, raised in flags.items() if raised),
    )


def doubtful(flops: float, seconds: float, *, peak: float = math.nan, expected: float = math.nan) -> tuple[str, ...]:
    """What cannot be true of a timing: work done faster than the peak, or work that the compiler has removed.

    Args:
      flops: FLOPs of the compiled program on one device; NaN: not known.
      peak: FLOP/s no program can exceed.
      expected: FLOPs that the program was written to do.

    >>> doubtful(1e9, 1e-3, peak=5e11, expected=1e9)
    ('beyond-peak',)
    >>> doubtful(0.0, 1e-3, expected=1e9)
    ('work-removed',)
    """
    work = max(expected, flops) if not math.isnan(expected) and not math.isnan(flops) else flops
    found = []
    if work > 1.02 * peak * seconds:
        found.append("beyond-peak")
    if flops < 0.5 * expected:
        found.append("work-removed")
    return tuple(found)


def verdict(flags: Sequence[str]) -> dict[str, str]:
    """What flags say of a whole timing, as `outcome` and `message` of an answer; nothing where they say nothing.

    >>> verdict(["forward: drift"]), verdict(["beyond-peak"])["outcome"]
    ({}, 'wrong-result')
    """
    said = ", ".join(flags)
    if "beyond-peak" in said:
        return {"outcome": "wrong-result", "message": f"a timing that cannot be true: {said}"}
    if "not-repeated" in said:
        return {"outcome": "noisy", "message": f"a timing that cannot be true: {said}"}
    noisy = any(flag in said for flag in ("unstable", "foreign-load", "throttled"))
    return {"outcome": "noisy", "message": said} if noisy else {}


def counted(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function with a counter as its last argument and last result, which chains one call to the next.

    A call cannot start before the one whose counter it was given has ended, and the final count proves that all ran.
    """

    def step(*arguments):
        *inputs, count = arguments
        return function(*inputs), count + 1

    step.__name__ = getattr(function, "__name__", "step")
    return step


def repeat(
    program: Callable[..., tuple[Any, jax.Array]], arguments: tuple, count: jax.Array, *, apart: bool = False
) -> Callable[[int], float]:
    """A timer for `estimate`: runs a compiled `counted` program k times, each waiting for the one before.

    `apart`: the host waits too. Fake devices have fewer threads than there are, and collectives of two runs that
    overlap wait for each other on them for ever.
    """

    def timer(repetitions: int) -> float:
        after, out = count, None
        started = time.perf_counter()
        for _ in range(repetitions):
            out, after = program(*arguments, after)
            if apart:
                jax.block_until_ready(after)
        jax.block_until_ready((out, after))
        elapsed = time.perf_counter() - started
        ran = int(np.asarray(jax.device_get(after)))
        if ran != repetitions:
            raise RuntimeError(f"{ran} of {repetitions} repetitions ran")
        return elapsed

    return timer


def dispatch_floor(*, samples: int = 30) -> float:
    """Seconds from calling a compiled program that does nothing until its result is there."""
    program = jax.jit(counted(lambda: ())).lower(jax.ShapeDtypeStruct((), jnp.int32)).compile()
    timer = repeat(program, (), jnp.zeros((), jnp.int32))
    timer(1)
    return float(np.median([timer(1) for _ in range(samples)]))
