"""Laws of the clock: what an estimator may say of timings that lie (plan C1, C2, C3, C4, C5, C9)."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from coopt.measure import clock, load, pace, trace
from coopt.measure import statistics as s
from coopt.measure.compile import compile_program

COUNT = jax.ShapeDtypeStruct((), jnp.int32)

# ---------------------------------------------------------------- distributions (C2)


def normal(rng, n):
    return 10.0 + rng.standard_normal(n)


def spiked(rng, n):
    return (5.0 + rng.exponential(size=n)) * np.where(rng.random(n) < 0.05, 3.0, 1.0)


def bimodal(rng, n):
    return np.where(rng.random(n) < 0.35, 12.0, 10.0) + 0.2 * rng.standard_normal(n)


@pytest.mark.parametrize("draw", [normal, spiked, bimodal])
@pytest.mark.parametrize("n", [6, 7, 9, 15, 30])
def test_the_interval_covers_as_often_as_it_says(draw, n, rng):
    """C2: coverage of the 95% interval of the median within 93-97%, at every number of samples in use."""
    median = np.median(draw(rng, 400_000))
    intervals = [s.median_interval(draw(rng, n)) for _ in range(4000)]
    covered = np.mean([low <= median <= high for low, high, _ in intervals])
    assert 0.93 <= covered <= 0.97
    assert all(level == pytest.approx(0.95, abs=1e-9) for *_, level in intervals)


@pytest.mark.parametrize("draw", [normal, spiked])
def test_the_median_is_not_biased(draw, rng):
    """C2: bias of the median below 1%."""
    median = np.median(draw(rng, 400_000))
    assert np.mean([np.median(draw(rng, 15)) for _ in range(4000)]) == pytest.approx(median, rel=0.01)


def test_fewer_than_six_samples_say_how_little_they_cover():
    assert s.median_interval([3.0, 1.0, 2.0]) == (1.0, 3.0, 0.75)
    assert s.median_interval([1.0]) == (1.0, 1.0, 0.0)
    assert np.isnan(s.median_interval([])[0])


def test_the_interval_agrees_with_the_binomial():
    """An independent reckoning: n = 20, X(6) to X(15) covers 95.86%, X(7) to X(14) 88.5%."""
    low, high, _ = s.median_interval(np.arange(1.0, 21.0))
    assert stats.binom.cdf(5, 20, 0.5) * 2 == pytest.approx(1 - 0.9586, abs=1e-4)
    assert 6.0 <= low <= 7.0
    assert 14.0 <= high <= 15.0


# ---------------------------------------------------------------- comparisons (C3, C4, C9)


def test_a_candidate_does_not_differ_from_itself(rng):
    """C3: "different" in at most 5% of pairs; 1000 pairs, so 6.5% with certainty enough."""
    called = [s.different(spiked(rng, 20), spiked(rng, 20)) for _ in range(1000)]
    assert np.mean(called) <= 0.065


def test_a_gap_of_five_percent_is_found(rng):
    """C4: at a coefficient of variation of 5% and 30 samples, at least nine times in ten."""
    called = [
        s.different(1 + 0.05 * rng.standard_normal(30), 1.05 * (1 + 0.05 * rng.standard_normal(30))) for _ in range(500)
    ]
    assert np.mean(called) >= 0.9


def test_different_agrees_with_scipy(rng):
    for _ in range(50):
        a, b = np.round(normal(rng, 12), 1), np.round(0.5 + normal(rng, 15), 1)
        expected = stats.mannwhitneyu(a, b, method="asymptotic").pvalue
        if abs(expected - 0.05) > 1e-6:
            assert s.different(a, b) == (expected < 0.05)


def test_tau_agrees_with_scipy(rng):
    for _ in range(50):
        a, b = rng.integers(0, 8, 20), rng.integers(0, 8, 20)
        assert s.kendall_tau(a, b) == pytest.approx(stats.kendalltau(a, b).statistic, abs=1e-12)


def test_a_perfect_model_does_not_reach_one(rng):
    """C9: 64 candidates spread 20%, medians of nine timings with 10% noise: 0.88 is all there is."""
    times = 1.0 + 0.2 * rng.standard_normal(64)
    assert s.noise_ceiling(times, 1.2533 * 0.1 / 3.0 * times) == pytest.approx(0.88, abs=0.05)
    assert s.noise_ceiling(times, 0.0 * times) == 1.0


# ---------------------------------------------------------------- the estimator on clocks that lie


class Fake:
    """A device that takes `work` seconds a repetition and `floor` a call, with noise; and its own time."""

    def __init__(self, rng, *, work, floor=1e-5, noise=0.01, first=0.0, ramp=0.0, hoisted=False):
        self.rng, self.work, self.floor, self.noise = rng, work, floor, noise
        self.first, self.ramp, self.hoisted = first, ramp, hoisted
        self.now, self.calls = 0.0, 0

    def timer(self, repetitions):
        self.calls += 1
        counted = 1 if self.hoisted else repetitions
        work = self.work * (1.0 + self.ramp * self.now)
        taken = counted * work * abs(1.0 + self.noise * self.rng.standard_normal()) + self.floor
        taken += self.first if self.calls == 1 else 0.0
        self.now += taken
        return taken

    def estimate(self, budget_s=1.0, **options):
        return clock.estimate(self.timer, budget_s=budget_s, floor=self.floor, now=lambda: self.now, **options)


def test_steady_work_is_timed_and_not_flagged(rng):
    timing = Fake(rng, work=0.01).estimate()
    assert timing.time == pytest.approx(0.01, rel=0.01)
    assert timing.low <= timing.time <= timing.high
    assert (timing.flags, timing.estimator, timing.kind) == ((), "direct", "clock")


def test_short_work_is_timed_by_slope(rng):
    """C1, dispatch-bound: the cost of a call is ten times the work, and does not enter the estimate."""
    timing = Fake(rng, work=1e-6, floor=1e-5).estimate()
    assert timing.estimator == "slope"
    assert timing.time == pytest.approx(1e-6, rel=0.05)
    assert "dispatch-bound" in timing.flags


@pytest.mark.parametrize("work", [3e-5, 2e-4, 4.9e-4, 5.1e-4, 2e-3])
def test_a_fixed_cost_does_not_enter(rng, work):
    """The estimate is within 3% of the work on both sides of the limit between singles and slopes."""
    assert Fake(rng, work=work, noise=0.005).estimate().time == pytest.approx(work, rel=0.03)


def test_compilation_in_the_first_call_does_not_count(rng):
    """C1, compile in the timed region."""
    timing = Fake(rng, work=0.01, first=5.0).estimate()
    assert timing.time == pytest.approx(0.01, rel=0.01)
    assert timing.high < 0.011


def test_hoisted_repetitions_are_found(rng):
    """C1, loop-invariant repeat: ten times the work in the time of one."""
    for work in (0.01, 5e-5):
        assert "not-repeated" in Fake(rng, work=work, hoisted=True, noise=0.0).estimate().flags


def test_noise_is_marked_and_tried_again(rng):
    """C5: 30% noise is unstable, taken three times at most; 1% noise once."""
    noisy, calm = Fake(rng, work=0.01, noise=0.3), Fake(rng, work=0.01)
    assert "unstable" in noisy.estimate(attempts=3).flags
    assert calm.estimate(attempts=3).flags == ()
    assert noisy.now > 2.5 * calm.now


def test_throttling_is_marked(rng):
    """C2, drift: a clock that falls while it is measured."""
    assert "drift" in Fake(rng, work=0.01, ramp=0.5).estimate().flags


@pytest.mark.parametrize("work", [0.01, 2e-4])
def test_samples_of_a_slowed_clock_are_thrown_away(rng, work):
    """C6: a device that clocks down by a third for most of the time: its seconds are of the clock it began with."""
    fake = Fake(rng, work=work)
    slow = lambda: fake.now % 0.4 > 0.1  # noqa: E731
    timer = lambda k: Fake.timer(fake, k) * (1.5 if slow() else 1.0)  # noqa: E731
    fake.timer, hertz = timer, lambda: 1.2e9 if slow() else 1.8e9
    timing = fake.estimate(hertz=hertz)
    assert timing.throttled > 6 and timing.clock == 1.8e9 and "throttled" not in timing.flags
    assert timing.time == pytest.approx(work, rel=0.03)
    assert fake.estimate().time > 1.05 * work  # nobody who says: the slow ones count


def test_a_device_that_stays_slow_is_marked(rng):
    fake, told = Fake(rng, work=0.01), []
    hertz = lambda: told.append(1) or (1.8e9 if len(told) < 4 else 1.2e9)  # noqa: E731
    timing = fake.estimate(hertz=hertz)
    assert "throttled" in timing.flags and timing.throttled == timing.samples - 3
    assert clock.verdict(timing.flags)["outcome"] == "noisy"
    assert fake.estimate().throttled == 0 and np.isnan(fake.estimate().clock)


@pytest.mark.parametrize("work", [1e-6, 2e-4, 0.02])
def test_what_slows_down_the_whole_host_is_taken_out_by_what_is_timed_beside(rng, work):
    """The speed of the host wanders by half over seconds: times follow it, their ratio to what ran beside does not."""

    def run(phase, told):
        fake = Fake(rng, work=work)
        slow = lambda: 1.0 + 0.5 * np.sin(fake.now + phase) ** 2  # noqa: E731
        fake.timer = lambda k: (Fake.timer(fake, k) - fake.floor) * slow() + fake.floor
        timing = fake.estimate(budget_s=0.3, beside=lambda: told * slow() * (1.0 + 0.03 * rng.standard_normal()))
        return timing.time, timing.time / timing.pace * told

    found = np.array([run(phase, told) for phase in (0.0, 0.8, 1.6, 2.4) for told in (0.003, 0.01)])
    assert np.ptp(found[:, 0]) > 0.2 * work
    assert found[:, 1] == pytest.approx(work, rel=0.05)
    assert np.isnan(Fake(rng, work=work).estimate().pace), "nothing is timed beside"


def test_work_of_no_time_has_no_pace_and_is_told_of():
    """A clock too coarse to see it: marked, and no division by its nothing."""
    timing = clock.estimate(lambda k: 1e-3, budget_s=0.05, floor=1e-3, beside=lambda: 0.01)
    assert timing.time == 0.0 and np.isnan(timing.pace) and "not-repeated" in timing.flags


def test_this_host_has_a_pace_and_an_accelerator_has_none(monkeypatch):
    now = pace.beside()
    first = now()
    assert 1e-4 < first < 5.0 and now() == first, "asked again at once, it is not run again"
    monkeypatch.setattr(pace, "EVERY", 0.0)
    assert now() != first
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert np.isnan(pace.beside()())


def test_slow_work_gets_six_samples_or_three(rng):
    assert Fake(rng, work=0.4).estimate(budget_s=1.0).samples == 6
    few = Fake(rng, work=5.0).estimate(budget_s=1.0)
    assert few.samples == 3
    assert "few-samples" in few.flags


def test_the_budget_is_kept(rng):
    fake = Fake(rng, work=0.001)
    fake.estimate(budget_s=0.1)
    assert fake.now < 0.2


# ---------------------------------------------------------------- planted mistakes on the real clock (C1)


def chain(function, *shapes):
    arrays = tuple(jnp.ones(shape, jnp.float32) for shape in shapes)
    abstract = tuple(jax.ShapeDtypeStruct(a.shape, a.dtype) for a in arrays)
    compiled = compile_program(clock.counted(function), (*abstract, COUNT))
    return compiled, arrays


SIZE, FLOPS, PEAK = 512, 2.0 * 512**3, 5e12  # no two cores of 2026 do 5 TFLOP/s in float32


def test_an_honest_product_is_not_doubted():
    compiled, arrays = chain(lambda a, b: a @ b, (SIZE, SIZE), (SIZE, SIZE))
    timer = clock.repeat(compiled.program, arrays, jnp.zeros((), jnp.int32))
    timer(1)
    seconds = min(timer(1) for _ in range(3))
    assert compiled.products == 1
    assert clock.doubtful(compiled.flops, seconds, peak=PEAK, expected=FLOPS) == ()


def test_a_result_that_nobody_uses_is_found():
    """C1, unused output: the compiler removes the product."""
    compiled, _ = chain(lambda a, b: ((a @ b)[:1, :1] * 0 + 1).astype(jnp.int32) * 0, (SIZE, SIZE), (SIZE, SIZE))
    removed, _ = chain(lambda a, b: (a @ b, a)[1], (SIZE, SIZE), (SIZE, SIZE))
    assert removed.products == 0
    assert "work-removed" in clock.doubtful(0.0, 1e-3, expected=FLOPS)
    assert compiled.products <= 1


def test_constant_inputs_are_found():
    """C1, constant inputs: the compiler may fold them; a program that takes none shows it in its arguments' bytes."""
    constant, _ = chain(lambda: jnp.zeros((64, 64)) @ jnp.ones((64, 64)))
    honest, _ = chain(lambda a, b: a @ b, (64, 64), (64, 64))
    assert constant.memory["arguments"] == 4.0, "the counter alone"
    assert honest.memory["arguments"] == 4.0 + 2 * 64 * 64 * 4


def test_time_without_waiting_is_faster_than_light():
    """C1, no block_until_ready: what is timed is the call."""
    size = 2048
    product = jax.jit(lambda a, b: a @ b)
    a = jnp.ones((size, size), jnp.float32)
    called, waited = [], []
    for _ in range(4):
        started = time.perf_counter()
        out = product(a, a)
        called.append(time.perf_counter() - started)
        out.block_until_ready()
        waited.append(time.perf_counter() - started)
    flops = 2.0 * size**3
    assert clock.doubtful(flops, min(waited), peak=PEAK) == ()
    # A runtime that computes before it returns is slow, and tells no lie.
    assert min(called) > 0.1 * min(waited) or clock.doubtful(flops, min(called), peak=PEAK) == ("beyond-peak",)


def test_every_repetition_is_counted():
    """C1, hoisting and skipping: the chain's counter shows how many ran; a program that does not count is refused."""
    compiled, arrays = chain(lambda a: a + 1, (8,))
    assert clock.repeat(compiled.program, arrays, jnp.zeros((), jnp.int32))(7) > 0
    idle = jax.jit(lambda a, count: (a, count))
    with pytest.raises(RuntimeError, match="0 of 3"):
        clock.repeat(idle, arrays, jnp.zeros((), jnp.int32))(3)


@pytest.mark.filterwarnings("ignore:Some donated buffers were not usable")
def test_a_donated_buffer_cannot_be_timed_twice():
    """C1, donated buffer reused: JAX raises; no time comes out."""
    program = jax.jit(clock.counted(lambda a: a + 1), donate_argnums=0)
    timer = clock.repeat(program, (jnp.ones((8,)),), jnp.zeros((), jnp.int32))
    with pytest.raises((RuntimeError, ValueError), match="deleted|donated"):
        timer(2)


def test_unknown_figures_raise_no_doubt():
    for flops, expected, peak in itertools.product([np.nan], [np.nan, 1e9], [np.nan, 1e12]):
        assert clock.doubtful(flops, 1.0, peak=peak, expected=expected) == ()


def test_the_dispatch_floor_is_a_time():
    assert 0.0 < clock.dispatch_floor(samples=5) < 0.1


# ---------------------------------------------------------------- the device's own record, and who else was at work


CLOCKED = clock.Timing(time=2e-3, low=1.9e-3, high=2.1e-3, scaling=1.0, samples=9, floor=1e-5)


def test_the_device_is_believed_where_it_agrees_with_the_clock():
    believed = clock.by_device(CLOCKED, [1.9e-3, 1.91e-3] * 4, runs=8)
    assert (believed.estimator, believed.time) == ("device", pytest.approx(1.905e-3))
    assert believed.low <= believed.time <= believed.high
    assert believed.flags == ()


@pytest.mark.parametrize(
    ("spans", "runs"),
    [
        ([], 8),  # no profiler
        ([1.9e-3] * 7, 8),  # a run is missing
        ([1.9e-3] * 3, 3),  # too few for an interval
        ([0.5e-3] * 8, 8),  # operations are missing: C1, time without all of the work
        ([4e-3] * 8, 8),  # something else was recorded
    ],
)
def test_a_record_that_cannot_be_whole_is_not_believed(spans, runs):
    assert clock.by_device(CLOCKED, spans, runs=runs) is CLOCKED


def test_work_shorter_than_its_dispatch_is_timed_by_the_device():
    """C1, dispatch-bound: chained calls wait ten microseconds each for half a microsecond of work."""
    waiting = clock.Timing(time=1e-5, scaling=1.0, samples=9, floor=1e-5, flags=("dispatch-bound",))
    believed = clock.by_device(waiting, [5e-7] * 9, runs=9)
    assert (believed.time, believed.flags) == (5e-7, ())


def test_a_real_program_is_timed_by_its_device():
    compiled, arrays = chain(lambda a, b: a @ b, (256, 256), (256, 256))
    timer = clock.repeat(compiled.program, arrays, jnp.zeros((), jnp.int32))
    timing, seen = clock.timed(timer, budget_s=0.3, floor=clock.dispatch_floor(samples=5))
    assert timing.estimator in ("device", "direct", "slope")
    assert seen.runs >= 1
    assert timing.caches == "warm"
    assert clock.doubtful(compiled.flops, timing.time, peak=PEAK, expected=2.0 * 256**3) == ()


def test_a_gpu_works_before_it_is_timed_and_a_record_that_lengthens_kernels_is_not_taken(monkeypatch):
    monkeypatch.setattr(clock.jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(clock, "_hertz", lambda: lambda: 1.6e9)
    monkeypatch.setattr(clock, "STEADY", 0.2)
    asked, whole = [], clock.by_device

    def timer(repetitions: int) -> float:
        asked.append(repetitions)
        return repetitions * 1e-3

    for each, estimator in ((1.2e-3, "slope"), (0.9e-3, "device")):
        seen = trace.Trace(operations=(), runs=9, spans=(each,) * 9)
        monkeypatch.setattr(clock.trace, "traced", lambda run, seen=seen: seen)
        monkeypatch.setattr(clock, "by_device", lambda timing, spans, runs: whole(timing, spans, runs=9))
        asked.clear()
        timing, _ = clock.timed(timer, budget_s=0.05, floor=1e-4)
        assert asked[:3] == [1, 2, 200]  # 0.2 s of work before anything counts
        assert timing.estimator == estimator and timing.time == pytest.approx(min(each, 1e-3))


def test_what_others_use_of_the_processors_is_seen():
    """B11: a foreign load makes a timing noisy; what this process does itself is not foreign."""
    spin = "import time\nuntil = time.monotonic() + 60\nwhile time.monotonic() < until: pass"
    with subprocess.Popen([sys.executable, "-c", spin]) as other:
        with load.foreign_load() as foreign:
            time.sleep(0.6)
        other.kill()
    cores = os.cpu_count() or 1
    assert foreign() >= 0.5 / cores
    with load.foreign_load() as foreign:
        pass
    assert not foreign() > 1.0
