"""What a sweep promises, on expressions whose answer brute force knows: exact best, exact front, exact census."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys

import jax
import numpy as np
import pytest

from coopt.search import exact
from coopt.search.pareto import dominated, front, graded
from coopt.search.price import Score
from coopt.search.space import Candidate, Space, all_digits, axis, digits, flat, index, product, size
from coopt.search.sweep import sweep
from coopt.spec.nouns import NAN, VERDICTS, Hardware
from coopt.tree import replace
from coopt.xp import log, maximum, sqrt, where

NAMES = ("time", "memory", "dollars", "energy", "loss")


def landscape(candidate: Candidate, names: tuple[str, ...]) -> Score:
    """Smooth and bumpy terms, ties, an objective that is never known and one that is known in places."""
    layout, machine = candidate.layout, candidate.hardware
    time = (layout.tp - machine.bandwidth) ** 2 / 7.0 + sqrt(layout.dp) / layout.pp + 0.1 * layout.micro_batch
    time = time + where(layout.recompute > 0.5, 0.3 * layout.tp, 0.0) + maximum(layout.vpp - 2.0, 0.0)
    memory = layout.micro_batch * layout.tp / layout.pp + where(layout.recompute > 0.5, 0.0, 2.0)
    known = {
        "time": time,
        "memory": memory,
        "dollars": time * machine.dollars_hour,
        "energy": log(layout.dp + layout.vpp) * (2.0 - layout.offload),
        "loss": where(layout.pp > 2.5, NAN, 1.0 / layout.tp),
    }
    verdict = where(memory > 6.0, 1.0, where(layout.tp * layout.dp > machine.chips, 2.0, 0.0))
    return Score(verdict=verdict, objectives=tuple(known[name] for name in names))


def small_space(rng: np.random.Generator) -> Space:
    """Six or seven axes in a random order, one coupled, some with equal choices."""
    pairs = [(t, d) for t in range(1, int(rng.integers(3, 9))) for d in (1, 2, 4, 8)]
    axes = [
        axis("parallel", ("layout.tp", "layout.dp"), pairs),
        axis("pp", "layout.pp", rng.integers(1, 6, size=int(rng.integers(1, 5)))),
        axis("vpp", "layout.vpp", (1, 2, 3)),
        axis("micro_batch", "layout.micro_batch", (1, 2, 4)[: int(rng.integers(1, 4))]),
        axis("recompute", "layout.recompute", (0, 1)),
        axis("offload", "layout.offload", (0.0, 0.0, 0.5)),
    ]
    rng.shuffle(axes)
    return product(axes, Candidate())


def machine() -> Hardware:
    return Hardware(bandwidth=3.3, chips=16.0, dollars_hour=NAN)


def brute(space: Space, hardware: Hardware, names=NAMES, expression=landscape):
    """Verdicts and objectives of every candidate, one flat call."""
    space = dataclasses.replace(space, base=replace(space.base, hardware=hardware))
    everyone = np.arange(size(space))
    with np.errstate(all="ignore"):
        score = expression(flat(space, all_digits(space, everyone)), names)
    values = np.stack([np.broadcast_to(one, everyone.shape) for one in score.objectives], axis=1)
    return np.broadcast_to(score.verdict, everyone.shape), values.astype(float)


def expect(space: Space, hardware: Hardware, *, keep: int):
    """Best and front by the definition, from all candidates."""
    verdict, values = brute(space, hardware)
    values = np.where((verdict == 0)[:, None] & np.isfinite(values), values, np.inf)
    key = graded(values[:, 0])
    ranked = [i for i in np.lexsort((np.arange(len(key)), key)) if np.isfinite(key[i])][:keep]
    live = np.isfinite(values).any(axis=0)
    rows, best = graded(values[:, live]), []
    for i in np.flatnonzero(np.isfinite(rows).all(axis=1)):
        beaten = (rows <= rows[i]).all(axis=1) & (rows < rows[i]).any(axis=1)
        twin = (rows[:i] == rows[i]).all(axis=1).any()
        if not beaten.any() and not twin:
            best.append(i)
    return ranked, best, live


@pytest.mark.parametrize("seed", range(8))
def test_best_front_and_census_are_those_of_brute_force(seed):
    rng = np.random.default_rng(seed)
    space, hardware = small_space(rng), machine()
    ranked, best, live = expect(space, hardware, keep=10)
    found = sweep(space, hardware, objectives=NAMES, expression=landscape, keep=10, chunk=int(rng.integers(1, 999)))
    verdict, values = brute(space, hardware)
    assert found.top.indices.tolist() == ranked
    assert found.pareto.indices.tolist() == best
    assert found.unknown == tuple(name for name, known in zip(NAMES, live, strict=True) if not known)
    assert "dollars" in found.unknown
    assert found.evaluated == size(space)
    assert found.feasible == (verdict == 0).sum()
    census = {VERDICTS[code]: int((verdict == code).sum()) for code in (1, 2) if (verdict == code).any()}
    assert found.rejected == census
    np.testing.assert_array_equal(found.top.values[:, 0], values[ranked, 0])


def test_chunks_workers_and_x64_change_nothing():
    """Identical numbers, bit for bit, for any cut of the work."""
    space, hardware = small_space(np.random.default_rng(3)), machine()
    found = []
    for x64 in (True, False):
        for chunk in (1, 100, 10**6):
            for workers in (1, 2):
                with jax.enable_x64(x64):
                    found.append(sweep(space, hardware, objectives=NAMES, expression=landscape, chunk=chunk,
                                       workers=workers))  # fmt: skip
    for other in found[1:]:
        for name in ("top", "pareto"):
            np.testing.assert_array_equal(getattr(found[0], name).indices, getattr(other, name).indices)
            np.testing.assert_array_equal(getattr(found[0], name).values, getattr(other, name).values)
        assert (found[0].rejected, found[0].feasible) == (other.rejected, other.feasible)


DEVICES = """
import jax, numpy as np
from tests.laws.test_search_laws import NAMES, landscape, machine, small_space
from coopt.search.sweep import sweep
assert len(jax.local_devices()) == {devices}
found = sweep(small_space(np.random.default_rng(3)), machine(), objectives=NAMES, expression=landscape, chunk=64)
print(found.top.indices.tolist(), found.top.values.tolist(), found.pareto.indices.tolist(), found.rejected)
"""


def test_eight_devices_find_what_one_finds(repository):
    """The same code with a thread a device; fake ones, of this host."""
    said = []
    for devices in (1, 8):
        flags = f"--xla_force_host_platform_device_count={devices}"
        environment = {**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
        command = [sys.executable, "-c", DEVICES.format(devices=devices)]
        done = subprocess.run(command, capture_output=True, text=True, cwd=repository, env=environment)
        assert done.returncode == 0, done.stderr
        said.append(done.stdout)
    assert said[0] == said[1]


def planted(candidate: Candidate, names: tuple[str, ...]) -> Score:
    """A bowl around the machine's `(cache, cores, depth, kernel)`, with ripples that make false minima."""
    layout, at = candidate.layout, candidate.hardware
    offsets = (layout.tp - at.cache, layout.pp - at.cores, layout.micro_batch - at.depth, layout.vpp - at.kernel)
    bowl = 1.0
    for offset in offsets:
        bowl = bowl + offset * offset + 3.0 * where(abs(offset) < 0.5, 0.0, 1.0)
    return Score(verdict=0.0, objectives=(bowl,))


@pytest.mark.parametrize("seed", range(20))
def test_a_planted_optimum_is_found(seed):
    rng = np.random.default_rng(seed)
    sizes = rng.integers(2, 17, size=4)
    fields = ("tp", "pp", "micro_batch", "vpp")
    space = product([axis(f, f"layout.{f}", range(n)) for f, n in zip(fields, sizes, strict=True)], Candidate())
    at = rng.integers(0, sizes)
    hardware = Hardware(**{k: float(v) for k, v in zip(("cache", "cores", "depth", "kernel"), at, strict=True)})
    found = sweep(space, hardware, objectives=("bowl",), expression=planted, keep=3, chunk=500)
    assert digits(space, int(found.top.indices[0])) == tuple(at)
    assert found.pareto.indices.tolist() == [index(space, at)]
    assert found.top.values[0, 0] == 1.0


def poisoned(candidate: Candidate, names: tuple[str, ...]) -> Score:
    """NaN, both infinities and overflow beside one honest winner."""
    code = candidate.layout.tp
    value = where(code == 3.0, NAN, where(code == 5.0, float("inf"), where(code == 7.0, -float("inf"), code)))
    return Score(verdict=0.0, objectives=(value, where(code == 2.0, value / 0.0, 1.0 + code)))


def test_nan_and_infinity_never_win():
    """D8: unknown or infinite objectives are never best and never on a front."""
    space = product([axis("tp", "layout.tp", (7, 3, 5, 4, 2, 6)), axis("pp", "layout.pp", (1, 2))], Candidate())
    found = sweep(space, Hardware(), objectives=("value", "other"), expression=poisoned)
    assert np.isfinite(found.pareto.values).all()
    assert found.top.indices.tolist() == [8, 9, 6, 7, 10, 11]  # tp = 2 ranks, its other objective is infinite
    assert found.pareto.indices.tolist() == [6]


def test_limits_reject_what_is_above_and_what_is_unknown():
    space, hardware = small_space(np.random.default_rng(5)), machine()
    verdict, values = brute(space, hardware)
    found = sweep(space, hardware, objectives=("time",), limits={"loss": 0.5}, expression=landscape)
    fits, loss = verdict == 0, values[:, 4]
    assert found.feasible == (fits & (loss <= 0.5)).sum()
    assert found.rejected.get("loss unknown", 0) == (fits & np.isnan(loss)).sum()
    assert found.rejected.get("loss above limit", 0) == (fits & (loss > 0.5)).sum()


@pytest.mark.parametrize("columns", [1, 2, 3, 5])
def test_front_is_that_of_the_definition(columns, rng):
    for levels in (3, 10**6):
        values = rng.integers(0, levels, size=(300, columns)).astype(float)
        values[rng.random(values.shape) < 0.01] = np.nan
        known = np.isfinite(values).all(axis=1)
        beaten = [(known & (values <= row).all(axis=1) & (values < row).any(axis=1)).any() for row in values]
        first = [not (values[:i] == row).all(axis=1).any() for i, row in enumerate(values)]
        expected = np.flatnonzero(known & ~np.array(beaten) & np.array(first))
        assert front(values).tolist() == expected.tolist()
        assert dominated(values[known], values[known]).tolist() == np.array(beaten)[known].tolist()


def test_grading_is_monotone_and_idempotent(rng):
    values = np.sort(np.concatenate([rng.normal(size=5000) * 10.0 ** rng.integers(-300, 300, 5000), [0.0, np.inf]]))
    rounded = graded(values)
    assert (np.diff(rounded[:-1]) >= 0).all()
    np.testing.assert_array_equal(graded(rounded), rounded)
    assert np.abs(rounded[:-1] / np.where(values[:-1] == 0, 1, values[:-1]) - 1)[values[:-1] != 0].max() <= 2.0**-30


def many_on_the_front(candidate: Candidate, names: tuple[str, ...]) -> Score:
    """An anti-chain: nobody beats anybody."""
    step = candidate.layout.tp * 100.0 + candidate.layout.pp
    return Score(verdict=0.0, objectives=(1.0 + step, 1e5 - step))


def test_a_front_of_everything_is_returned_whole(monkeypatch):
    """More blocks stay open than are kept, and than are priced at once."""
    monkeypatch.setattr(exact, "BATCH", 32)
    monkeypatch.setattr(sys.modules[sweep.__module__], "OPEN", 48)
    space = product([axis("tp", "layout.tp", range(60)), axis("pp", "layout.pp", range(50))], Candidate())
    for chunk in (500, 10**6):
        found = sweep(space, Hardware(), objectives=("up", "down"), expression=many_on_the_front, keep=1, chunk=chunk)
        assert found.pareto.indices.tolist() == list(range(size(space)))
