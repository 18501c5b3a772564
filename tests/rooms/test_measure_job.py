"""The door of the measuring room, through real children: blocks, host, sweep, training."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys

import jax
import numpy as np
import pytest

from coopt import workers
from coopt.commands.parse import parse
from coopt.measure import check, host, sweep
from coopt.measure.job import FIELDS, run_job
from coopt.measure.jobs import block_job, layout_of, model_of
from coopt.problems import Refused
from coopt.spec.nouns import PRECISIONS, LayerKind, Layout, Model
from coopt.store.identity import finite
from coopt.study.given import asked, bench
from coopt.study.timed import blocks

KIND = LayerKind(count=2.0, heads=4.0, kv_heads=2.0, head_dim=16.0, d_ff=128.0)
MODEL = Model(name="tiny", d_model=64.0, vocab=256.0, norms=1.0, kinds=(KIND,))
FP32 = Layout(precision=PRECISIONS["fp32"], micro_batch=2.0)


@pytest.fixture(scope="module")
def executor():
    # As a user's shell is: conftest's eight devices are this process's own affair.
    kept = os.environ.pop("XLA_FLAGS", None)
    with workers.process(preload=("coopt.measure.job",)) as opened:
        workers.run("coopt.store.identity:finite", {}, deadline_s=300.0, executor=opened)
        if kept is not None:
            os.environ["XLA_FLAGS"] = kept
        yield opened


def go(executor, job, **options):
    return workers.run("coopt.measure.job:run_job", job, deadline_s=240.0, executor=executor, **options)


def test_a_block_is_timed_in_a_child(executor):
    outcome = go(executor, block_job(MODEL, FP32, seq_len=64, budget_s=0.3), lease="cpu")
    assert outcome.ok, outcome
    answer = outcome.result
    json.dumps(answer, allow_nan=False)
    one, both = answer["phases"]["forward"], answer["phases"]["forward_backward"]
    assert 0 < one["low"] <= one["time"] <= one["high"]
    assert both["time"] > one["time"] > 0
    assert answer["phases"]["backward"]["time"] == pytest.approx(both["time"] - one["time"])
    assert both["flops"] == pytest.approx(3 * one["flops"], rel=0.1)
    assert (answer["tokens"], answer["chips"], answer["kind"]) == (128, 1, "clock")
    assert answer["memory"] > 4 * answer["parameters"] * 2
    assert answer["check"]["reference"] == "float64" and answer["check"]["worst"] < answer["check"]["tolerance"]
    assert answer["versions"]["jax"] == jax.__version__
    assert len(answer["digest"]) == 64


def test_the_same_job_compiles_to_the_same_program(executor):
    job = block_job(MODEL, FP32, seq_len=64, budget_s=0.0, part="embedding")
    first, second = (go(executor, job).result for _ in range(2))
    assert first["digest"] == second["digest"]
    assert first["kind"] == "none"
    assert "time" not in first
    other = go(executor, job | {"seq_len": 32}).result
    assert other["digest"] != first["digest"]


def test_a_sharded_block_is_checked_on_fake_devices(executor):
    layout = {"tp": 2, "dp": 4, "fsdp": 4, "zero": 3, "sp": 1, "precision": "fp32"}
    job = block_job(MODEL, FP32, seq_len=32, target="cpu:8", budget_s=0.0) | {"layout": layout}
    answer = go(executor, job).result
    assert answer["chips"] == 8
    assert answer["check"]["worst"] < answer["check"]["tolerance"]
    assert {(c["kind"], c["size"]) for c in answer["phases"]["forward"]["collectives"]} >= {("all_gather", 4)}
    assert answer["parameters"] == 64 * 64 * 2 + 2 * 64 * 32 + 3 * 64 * 128 + 2 * 64


def test_a_block_too_large_for_the_memory_is_infeasible_before_it_runs(executor):
    """E4: compiled, compared, never run."""
    outcome = go(executor, block_job(MODEL, FP32, seq_len=64, memory=1e6))
    assert outcome.status == "infeasible-memory"
    assert outcome.available == 1e6
    assert outcome.wanted > 1e6


def test_what_did_not_end_well_is_told_with_its_bytes(executor):
    """The journal and `coopt measure` keep what an outcome says: bytes wanted and there, the phase, the isolation."""
    job = block_job(MODEL, FP32, seq_len=64, memory=1e6)
    block = blocks.of_record(job, bench.do(None, executor, job, deadline_s=120.0))
    said = json.loads(json.dumps(finite(block.document())))
    assert (said["outcome"], said["available"], said["isolation"]) == ("infeasible-memory", 1e6, "process")
    assert said["wanted"] > 1e6
    assert blocks.of_document(said).ended == block.ended
    late = blocks.of_record(job, bench.do(None, executor, job | {"budget_s": 60.0}, deadline_s=0.05))
    assert (late.status, late.ended["phase"]) == ("timeout", "start") or late.ended["phase"] in (
        "import",
        "run",
        "build",
    )


class Scripted:
    """An executor whose outcomes are given."""

    def __init__(self, *outcomes):
        self.outcomes = list(outcomes)
        self.paths = []

    def run(self, job):
        self.paths.append(job.path)
        return self.outcomes.pop(0)


def test_a_device_that_answers_no_more_ends_the_work():
    """A killed child may leave a GPU or TPU busy: the next candidates are not to be blamed for it."""
    late, fine = workers.Outcome(status="timeout", phase="compile"), workers.Outcome(result={"outcome": "ok"})
    lost = Scripted(late, late, late)
    with pytest.raises(Refused, match="device that answers"):
        bench.do(None, lost, BLOCK, deadline_s=1.0)
    assert lost.paths == [bench.JOB, bench.PROBE, bench.PROBE]
    back = Scripted(late, late, fine)
    assert bench.do(None, back, BLOCK, deadline_s=1.0)["status"] == "timeout"
    assert len(back.paths) == 3
    waited = Scripted(workers.Outcome(status="timeout", phase="lease"))
    assert bench.do(None, waited, BLOCK, deadline_s=1.0)["phase"] == "lease"
    assert host.probe({}) == {"outcome": "ok", "two": 2.0}


def test_what_cancels_is_not_called_wrong_and_what_is_wrong_is():
    """The gradient of a key's bias is zero but for rounding: beside the others it is as small as it should be."""
    right = {"output": np.ones(64), "k_bias": 1e-17 * np.ones(64)}
    found = {"output": np.ones(64), "k_bias": 1e-8 * np.ones(64)}
    assert check.compare(found, right, tolerance=2e-4, reference="float64").agrees
    assert not check.compare(found | {"k_bias": 1e-3 * np.ones(64)}, right, tolerance=2e-4, reference="float64").agrees
    small = right | {"k_bias": 1e-6 * np.ones(64)}  # small, and no rounding of a float64: its own size counts
    assert not check.compare(found, small, tolerance=2e-4, reference="float64").agrees
    assert not check.compare(found | {"output": np.full(64, np.nan)}, right, tolerance=1.0, reference="float64").agrees


def test_a_reference_that_costs_too_much_is_not_computed_and_said(executor, monkeypatch):
    monkeypatch.setitem(check.MOST, "cpu", 1e6)
    answer = run_job(BLOCK | {"budget_s": 0.0, "check": True})
    assert answer["outcome"] == "ok" and "takes too long" in answer["check"]["skipped"]
    monkeypatch.setitem(check.MOST, "cpu", 1e12)
    answer = run_job(BLOCK | {"budget_s": 0.0, "check": True, "memory": answer["memory"]})
    assert "does not fit" in answer["check"]["skipped"]


def test_a_compiler_without_our_options_compiles_a_reference_all_the_same(executor, monkeypatch):
    monkeypatch.setattr(check, "QUICK", {"xla_no_such_option": 0})
    answer = run_job(BLOCK | {"budget_s": 0.0, "check": True})
    assert answer["outcome"] == "ok" and answer["check"]["worst"] < answer["check"]["tolerance"]


def test_an_accelerator_that_is_not_used_is_said(tmp_path, monkeypatch):
    """A GPU machine with JAX for CPUs alone, or a TPU that a notebook holds, measures the CPU: never in silence."""
    for name, numbers in {"0": "0x10de 0x2330 0x030200", "1": "0x10de 0x22a3 0x068000", "2": "0x1ae0 0x0042 0x020000",
                          "3": "0x8086 0x0d57 0x060000"}.items():  # fmt: skip
        (tmp_path / name).mkdir()
        for file, value in zip(("vendor", "device", "class"), numbers.split(), strict=True):
            (tmp_path / name / file).write_text(value + "\n")
    (tmp_path / "4").mkdir()
    monkeypatch.setattr(host, "BUS", tmp_path)
    monkeypatch.delenv("JAX_PLATFORMS", raising=False)
    assert host.accelerators() == ["10de:2330"]
    assert "jax[cuda13]" in host.unused("cpu") and not host.unused("gpu")
    assert bench.place()["accelerators"] == ["10de:2330"]
    monkeypatch.setattr(host, "PLUGINS", {"10de": ("no_such_plugin",)})
    assert not host.attached() and host.heap() == workers.HEAP  # what JAX cannot use, it does not
    monkeypatch.setattr(host, "PLUGINS", {"10de": ("no_such_plugin", "json")})
    assert host.attached() and not host.heap()  # of itself
    asked_here = asked.question(parse(["search", "--model=llama3-8b"]))
    assert asked_here.data["layout"]["fused_attention"] == [1] and "an accelerator is attached" in str(
        asked_here.assumed
    )
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    assert not host.unused("cpu")
    assert host.heap() == workers.HEAP
    asked_here = asked.question(parse(["search", "--model=llama3-8b"]))
    assert asked_here.data["layout"]["fused_attention"] == [0] and "accelerator" not in str(asked_here.assumed)


def test_a_time_below_the_speed_of_light_is_no_result(executor):
    """E2: a bound that the measurement breaks is a mistake in the measurement."""
    outcome = go(executor, block_job(MODEL, FP32, seq_len=64, budget_s=0.1, peak_flops=1.0))
    assert outcome.status == "wrong-result"
    assert "beyond-peak" in outcome.message


@pytest.mark.parametrize("part", ["head", "embedding"])
def test_other_parts_are_compiled_too(executor, part):
    answer = go(executor, block_job(MODEL, FP32, seq_len=32, part=part, budget_s=0.0)).result
    assert answer["name"] == part
    assert answer["parameters"] == 256 * 64 + (64 if part == "head" else 0)


def test_a_small_model_learns_its_language(executor):
    """The whole training step: loss falls from a uniform guess towards the entropy of the source, and not below."""
    plain = block_job(MODEL, FP32, seq_len=1)["model"]
    job = {"kind": "train", "model": plain, "seq_len": 32, "batch": 16, "steps": 120, "learning_rate": 0.01}
    answer = go(executor, job).result
    assert answer["losses"][0] == pytest.approx(math.log(256), abs=0.7)
    assert answer["entropy"] < answer["loss"] < answer["losses"][0] - 1.0
    layer = 64 * 64 * 2 + 2 * 64 * 32 + 3 * 64 * 128 + 2 * 64
    assert answer["parameters"] == 2 * layer + 2 * 256 * 64 + 64
    assert answer["time"] > 0


def test_a_file_can_be_the_language(executor, tmp_path):
    (tmp_path / "text").write_bytes(b"to be or not to be " * 50)
    small = Model(d_model=16.0, vocab=256.0, kinds=(LayerKind(count=1.0, head_dim=16.0, d_ff=32.0),))
    plain = block_job(small, FP32, seq_len=1)["model"]
    job = {"kind": "train", "model": plain, "seq_len": 16, "batch": 4, "steps": 3, "file": str(tmp_path / "text")}
    assert len(go(executor, job).result["losses"]) == 3
    with pytest.raises(Refused, match="readable file"):
        go(executor, job | {"file": str(tmp_path / "none")})


def test_the_host_has_rates(executor):
    answer = go(executor, {"kind": "host", "budget_s": 1.0}).result
    assert set(answer["matmul"]) == {"fp32", "bf16"}
    rates = [row["rate"] for rows in answer["matmul"].values() for row in rows.values()]
    assert all(1e8 < rate < 1e14 for rate in rates)
    assert 1e8 < answer["bandwidth"]["rate"] < 1e12
    assert answer["bandwidth"]["low"] <= answer["bandwidth"]["rate"] <= answer["bandwidth"]["high"]
    assert 0 < answer["dispatch"]["time"] < 0.1
    assert answer["cores"] >= 1
    assert answer["memory"] > 1e9
    json.dumps(answer, allow_nan=False)


def test_a_sweep_gives_a_row_an_operation(executor):
    answer = go(executor, {"kind": "sweep", "points": 8, "budget_s": 4.0}).result
    rows = answer["rows"]
    assert len(rows) + answer["left_out"] == 8
    assert {"matmul", "attention"} <= {row["kind"] for row in rows}
    for row in rows:
        assert row["bytes"] > 0
        assert row["low"] <= row["time"] <= row["high"]
        if row["kind"] == "matmul":
            assert row["flops"] == 2 * row["m"] * row["n"] * row["k"]


def test_a_plan_spreads_over_the_sizes(rng):
    """No clumps: every third of each logarithmic range holds a fair share; the order interleaves the kinds."""
    operations = sweep.plan(200, seed=3)
    products = [o for o in operations if o.kind == "matmul"]
    for size, low, high in (("m", 32, 4096), ("n", 64, 4096), ("k", 64, 4096)):
        where = [math.log(getattr(o, size) / low) / math.log(high / low) for o in products]
        shares = np.histogram(where, bins=3, range=(0.0, 1.0))[0] / len(where)
        assert (shares > 0.15).all(), (size, shares)
    assert all(2.0 * o.m * o.n * o.k <= 4e9 for o in products)
    assert len({o.kind for o in operations[:20]}) == 4
    assert sweep.plan(50, seed=3) == sweep.plan(50, seed=3)
    assert sweep.plan(50, seed=4) != sweep.plan(50, seed=3)
    assert [len(sweep.plan(n)) for n in (1, 7, 40)] == [1, 7, 40]


# ---------------------------------------------------------------- the job itself


def test_nouns_survive_the_job():
    job = json.loads(json.dumps(block_job(MODEL, FP32, seq_len=64), allow_nan=False))
    for noun, back in ((MODEL, model_of(job["model"])), (FP32, layout_of(job["layout"]))):
        assert jax.tree.leaves(noun) == jax.tree.leaves(back)
        assert jax.tree.structure(noun) == jax.tree.structure(back)


BLOCK = block_job(MODEL, FP32, seq_len=64)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"kind": "brew"}, "kind"),
        ({"colour": 1}, "colour"),
        ({"seq_len": 1.5}, "seq_len"),
        ({"seq_len": 1e30}, "seq_len"),
        ({"seq_len": math.inf}, "seq_len"),
        ({"seq_len": None}, "seq_len"),
        ({"budget_s": "long"}, "budget_s"),
        ({"part": "tail"}, "part"),
        ({"layer": 3}, "layer"),
        ({"target": "abacus"}, "target"),
        ({"model": None}, "model"),
        ({"model": {"kinds": []}}, "model.kinds"),
        ({"model": {"kinds": [7]}}, "model.kinds[0]"),
        ({"layout": []}, "layout"),
        ({"model": {"kinds": [{"hands": 4}]}}, "model.kinds[0].hands"),
        ({"model": {"kinds": [{"heads": "four"}]}}, "model.kinds[0].heads"),
        ({"layout": {"tp": math.nan}}, "layout.tp"),
        ({"layout": {"precision": "fp7"}}, "layout.precision"),
        ({"layout": {"recompute": "some"}}, "layout.recompute"),
        ({"layout": {"tp": 3}}, "heads"),
    ],
)
def test_a_job_that_cannot_be_done_is_refused_with_its_field(change, field):
    with pytest.raises(Refused) as caught:
        run_job(BLOCK | change)
    assert field in [p.field for p in caught.value.problems]


def test_every_kind_has_fields():
    for kind in FIELDS:
        with pytest.raises(Refused, match="known field"):
            run_job({"kind": kind, "no_such": 1})


def test_the_module_is_a_door(repository):
    """`python -m coopt.measure`: JSON in, JSON out, and a refusal as `errors`."""
    job = json.dumps(block_job(MODEL, FP32, seq_len=16, budget_s=0.0, part="embedding"))
    environment = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
    command = [sys.executable, "-m", "coopt.measure"]
    done = subprocess.run(command, input=job, capture_output=True, text=True, cwd=repository, env=environment)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["outcome"] == "ok"
    assert done.stderr.split()[:3] == ["build", "lower", "compile"]


def test_the_module_refuses_in_json(repository):
    command = [sys.executable, "-m", "coopt.measure"]
    done = subprocess.run(command, input="[1]", capture_output=True, text=True, cwd=repository)
    assert done.returncode == 1
    assert json.loads(done.stdout)["errors"][0]["field"] == "stdin"
