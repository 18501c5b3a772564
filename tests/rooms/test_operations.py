"""Operations timed alone: priced by the expression that prices blocks, and fitted beside them."""

from __future__ import annotations

import math

import jax
import numpy as np
import pytest

from coopt.cost.collectives import collective_time
from coopt.measure import sweep
from coopt.spec.nouns import Hardware, Row, Tier
from coopt.study.timed import blocks, calibration, constants, operations, survey
from tests.rooms.test_study import here, timed_by  # noqa: F401  `here` is a fixture


def swept_by(machine, rng, *, points=60, precision="fp32", noise=0.03):
    """A sweep as a clock on `machine` would give it."""
    rows = []
    for one in sweep.plan(points):
        size = {"matmul": one.m * one.k + one.k * one.n + one.m * one.n}.get(one.kind, 2 * one.m * one.n)
        row = {"name": one.name, "kind": one.kind, "m": one.m, "n": one.n, "k": one.k, "batch": one.batch}
        rows.append({**row, "type": precision, "bytes": 4.0 * size, "time": 1.0, "flags": []})
    for at, ops in operations.counted(rows, fused=False):
        forward, both = (np.broadcast_to(part, at.shape) for part in blocks.passes(ops, machine))
        for position, one, two in zip(at, forward, both, strict=True):
            back = rows[position]["name"].endswith("_backward")
            rows[position]["time"] = float(two if back else one) * math.exp(noise * rng.standard_normal())
    return rows


def test_operations_and_a_few_blocks_find_the_machine_that_a_few_blocks_do_not(here, rng):  # noqa: F811
    """On a hidden machine, of blocks that nobody timed: four blocks and sixty operations against the four alone."""
    changes = {"matmul_32": 0.5, "depth": 60.0, "passes": 3.0, "passes_back": 2.5, "bandwidth": 2e10, "kernel": 1e-5}
    hidden = constants.with_constants(here, {**constants.constants_of(here), **changes})
    jobs = [job for job in survey.pool(here, count=60) if job["layout"]["precision"]["linear"] == 0.0]
    timed, rest = timed_by(hidden, jobs[:4], rng, noise=0.03), jobs[4:]
    few = calibration.calibrate(here, timed)
    joined = calibration.calibrate(here, timed, swept_by(hidden, rng))

    def off(found):
        machine = constants.with_constants(here, found.constants)
        return np.median([abs(blocks.predicted(j, machine)[1] / blocks.predicted(j, hidden)[1] - 1.0) for j in rest])

    assert few.operations == 0 and joined.operations == 60 and joined.blocks == few.blocks == 4
    assert off(joined) < 0.06 and off(joined) < off(few)
    assert joined.constants["matmul_32"] == pytest.approx(0.5, rel=0.1)


def test_times_that_cannot_be_believed_are_left_out(here, rng):  # noqa: F811
    rows = swept_by(here, rng, points=20)
    rows[0]["flags"], rows[1]["time"], rows[2]["time"] = ["dispatch-bound"], None, math.nan
    assert operations.usable(rows) == rows[3:]


def test_operations_are_compared_at_the_pace_of_the_blocks_beside_them():
    """One that was swept while the host was twice as slow as beside the blocks took twice its seconds."""
    row = {"name": "copy", "kind": "memory", "time": 4e-3, "pace": 20e-3, "flags": []}
    assert np.exp(operations.seen([row], 10e-3)[0, 0]) == pytest.approx(2e-3)
    assert np.exp(operations.seen([row])[0, 0]) == pytest.approx(4e-3)


def test_links_come_back_from_the_collectives_that_crossed_them(rng):
    net = Hardware(tiers=(Tier(size=8.0, bandwidth=2e10, latency=3e-6),))
    rows = []
    for one in (o for o in sweep.plan(80, devices=8) if o.kind == "collective"):
        wire = Row(kind="collective", collective=one.name, payload=4.0 * one.m, size=8.0)
        time = float(collective_time(net, wire)) * math.exp(0.02 * rng.standard_normal())
        rows.append({"kind": "collective", "name": one.name, "n": 8, "bytes": 4.0 * one.m, "time": time, "flags": []})
    assert {row["name"] for row in rows} == set(sweep.COLLECTIVES)
    found = operations.links(rows)
    assert found["bandwidth"] == pytest.approx(2e10, rel=0.05) and found["latency"] == pytest.approx(3e-6, rel=0.1)
    assert found["devices"] == 8 and found["error"] < 0.05
    assert operations.links(rows[:2]) is None and not operations.usable(rows)


def test_a_sweep_of_several_devices_times_collectives_that_move_what_they_say():
    """Four fake devices: every collective runs, and is told by the bytes of the buffer that a device holds."""
    devices = tuple(jax.devices("cpu")[:4])
    planned = [one for one in sweep.plan(40, devices=4, limit=1e8) if one.kind == "collective"]
    rows = [row for one in planned[:4] for row in sweep.run([one], devices=devices, budget_s=0.8)]
    assert {row["name"] for row in rows} == set(sweep.COLLECTIVES)
    assert all(row["bytes"] == 4.0 * row["m"] and row["n"] == 4 and row["time"] > 0.0 for row in rows)
