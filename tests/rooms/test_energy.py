"""Joules of a board: its counter, read over seconds, and the constants that blocks of different intensity tell apart.

The counter below is a board by the physics that the fit assumes, with the steps and the noise of a real one; what the
board of an H200 counted stands in measurements/h200_blocks.json.
"""

from __future__ import annotations

import math
import time

import pytest

from coopt.measure import energy
from coopt.spec import load
from coopt.spec.nouns import LayerKind, Layout, Model
from coopt.study.given.emit import as_yaml
from coopt.study.timed import energy as told
from coopt.study.timed import survey
from coopt.study.timed.blocks import PASSES, Timed, predicted
from coopt.study.timed.blocks import job as block_of

SOURCES = {**load.profile("chip", "h200-sxm").data["sources"], "calibrated": {"title": "coopt", "date": "2026-11-26"}}


def board_of(watts: float) -> energy.Board:
    """A counter that moves every 20 ms, in whole millijoules, at some power."""
    began = time.perf_counter()
    tick = lambda: math.floor((time.perf_counter() - began) / 0.02) * 0.02  # noqa: E731
    return energy.Board(joules=lambda: round(watts * tick(), 3), clock=lambda: 1.4e9)


def run_of(rng, job, machine, *, noise: float = 0.02) -> Timed:
    """A block that took as long as pricing says, under a board of 90 W, 0.6 pJ a FLOP and 30 pJ a byte."""
    phases = {}
    for part, seconds, (flops, moved) in zip(
        PASSES, predicted(job, machine), told.work([job], machine)[0], strict=True
    ):
        joules = (90.0 * seconds + 0.6e-12 * flops + 30e-12 * moved) * math.exp(noise * rng.standard_normal())
        said = {"joules": joules, "seconds": 2.0, "repetitions": 2.0 / seconds, "clock": 1.4e9}
        phases[part] = {"time": seconds, "energy": said}
    return Timed(job, "ok", {"phases": phases})


def test_joules_of_a_run_are_those_of_the_counter_over_two_seconds(monkeypatch):
    monkeypatch.setattr(energy, "LEAST", 0.4)
    found = energy.spent(lambda k: time.sleep(0.05 * k), 0.05, board_of(300.0))
    assert found["repetitions"] == 8
    assert found["watts"] == pytest.approx(300.0, rel=0.15) and found["clock"] == 1.4e9
    assert found["joules"] * 8 == pytest.approx(found["watts"] * found["seconds"])


def test_without_nvml_it_says_so_in_one_sentence():
    said = energy.spent(lambda k: None, 1.0, None)
    assert list(said) == ["message"] and "coopt[energy]" in said["message"]


def test_idle_flops_and_bytes_are_told_apart_by_intensity(rng, tmp_path):
    """90 W, 0.6 pJ a FLOP, 30 pJ a byte: long reductions and short ones, products and attention."""
    machine = load.resolve("h200-sxm", chips=1, stack="jax")
    runs = [run_of(rng, job, machine, noise=0.005) for job in survey.pool(machine, count=10)]
    found = told.fitted(runs, machine)
    assert found is not None
    assert found["idle"] == pytest.approx(90.0, rel=0.3)
    assert found["flop"] == pytest.approx(0.6e-12, rel=0.1)
    assert found["byte"] == pytest.approx(30e-12, rel=0.2)
    assert found["error"] < 0.02 and found["clock"] == 1.4e9 and found["runs"] == 20
    data = told.profile(load.profile("chip", "h200-sxm").data | {"sources": SOURCES}, found)
    (tmp_path / "here.yaml").write_text(as_yaml({**data, "name": "here"}))
    machine = load.resolve(str(tmp_path / "here.yaml"), chips=1)
    assert machine.joules_byte == pytest.approx(found["byte"], rel=1e-3)
    assert machine.joules_flop[2] == pytest.approx(found["flop"], rel=1e-3)
    assert machine.watts_idle == pytest.approx(found["idle"], rel=1e-3)


def test_what_cannot_be_told_apart_is_not_told(rng):
    machine = load.resolve("h200-sxm", chips=1, stack="jax")
    (job,) = survey.pool(machine, count=1)
    one = [run_of(rng, job, machine, noise=0.0)] * 3
    assert told.fitted(one, machine) is None
    assert told.fitted(one[:1], machine) is None


def test_work_is_what_pricing_counts():
    """A layer of d = 1024 with 2 d^2 weights a feed-forward: 2 FLOPs a weight and token forward, 6 with backward."""
    machine = load.resolve("h200-sxm", chips=1, stack="jax")
    kind = LayerKind(heads=8.0, kv_heads=8.0, head_dim=128.0, d_ff=1024.0)
    job = block_of(Model(d_model=1024.0, kinds=(kind,)), Layout(micro_batch=4.0), seq_len=512.0)
    ((forward, both),) = told.work([job], machine)
    weights = 4 * 1024**2 + 3 * 1024**2 * float(kind.gated) + 2 * 1024**2 * (1.0 - float(kind.gated))
    attention = forward[0] - 2 * weights * 2048
    assert 2 * 2 * 2048 * 512 * 1024 / 2 <= attention <= 2 * 2 * 2048 * 512 * 1024
    assert both[0] - 6 * weights * 2048 == pytest.approx(3.5 * attention, rel=0.2)
    assert both[1] > forward[1] > 2 * weights
