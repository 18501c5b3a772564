"""Joules of a board: its counter, read over seconds, and the constants that blocks of different intensity tell apart.

No GPU was there when this was written: the counter below is a board by the physics that the fit assumes, with the
steps and the noise of a real one.
"""

from __future__ import annotations

import math
import time

import pytest

from coopt.measure import energy
from coopt.spec import load
from coopt.study.given.emit import as_yaml
from coopt.study.timed import energy as told
from coopt.study.timed.blocks import Timed

SOURCES = {**load.profile("chip", "h200-sxm").data["sources"], "calibrated": {"title": "coopt", "date": "2026-11-26"}}
JOB = {"layout": {"precision": {"linear": 2.0}}}


def board_of(watts: float) -> energy.Board:
    """A counter that moves every 20 ms, in whole millijoules, at some power."""
    began = time.perf_counter()
    tick = lambda: math.floor((time.perf_counter() - began) / 0.02) * 0.02  # noqa: E731
    return energy.Board(joules=lambda: round(watts * tick(), 3), clock=lambda: 1.4e9)


def run_of(rng, *, seconds: float, flops: float, bytes: float, noise: float = 0.02) -> Timed:
    joules = (90.0 * seconds + 0.6e-12 * flops + 30e-12 * bytes) * math.exp(noise * rng.standard_normal())
    said = {"joules": joules, "seconds": 2.0, "repetitions": 2.0 / seconds, "clock": 1.4e9}
    phase = {"time": seconds, "flops": flops, "bytes": bytes, "energy": said}
    return Timed(JOB, "ok", {"phases": {"forward": phase, "forward_backward": {}}})


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
    """90 W, 0.6 pJ a FLOP, 30 pJ a byte: products, copies and what lies between."""
    runs = [
        run_of(rng, seconds=s, flops=f, bytes=b)
        for s, f, b in ((1e-3, 6e11, 2e8), (1e-3, 3e11, 1e9), (2e-3, 1e9, 5e9), (1e-2, 1e9, 1e8), (1e-3, 5e11, 1e9),
                        (3e-3, 2e11, 6e9))
    ]  # fmt: skip
    found = told.fitted(runs)
    assert found is not None
    assert found["idle"] == pytest.approx(90.0, rel=0.1)
    assert found["flop"] == pytest.approx(0.6e-12, rel=0.1)
    assert found["byte"] == pytest.approx(30e-12, rel=0.15)
    assert found["error"] < 0.04 and found["clock"] == 1.4e9 and found["runs"] == 6
    data = told.profile(load.profile("chip", "h200-sxm").data | {"sources": SOURCES}, found)
    (tmp_path / "here.yaml").write_text(as_yaml({**data, "name": "here"}))
    machine = load.resolve(str(tmp_path / "here.yaml"), chips=1)
    assert machine.joules_byte == pytest.approx(found["byte"], rel=1e-3)
    assert machine.joules_flop[2] == pytest.approx(found["flop"], rel=1e-3)
    assert machine.watts_idle == pytest.approx(found["idle"], rel=1e-3)


def test_what_cannot_be_told_apart_is_not_told(rng):
    one = [run_of(rng, seconds=1e-3, flops=6e11, bytes=2e8, noise=0.0) for _ in range(6)]
    assert told.fitted(one) is None
    assert told.fitted(one[:2]) is None
