"""`coopt measure --on`: targets by name, what is refused, and seconds from a compiler's cycles by each rule."""

import dataclasses
import json
import math
import sys

import numpy as np
import pytest

from coopt.commands.parse import parse
from coopt.measure import grouped, job, kept, topology
from coopt.problems import Refused
from coopt.spec import load
from coopt.study import verbs
from coopt.study.given import machines
from coopt.study.timed import cycles, profiled, targets, timing

MINI = """\
kind: model
name: mini
title: a model that compiles in a second
sources: {test: {title: a test, date: 2026-01-01}}
source: test
d_model: 64
vocab: 256
tied: no
norm: rms
context: 64
layers:
  - {count: 2, heads: 4, kv_heads: 2, head_dim: 16, d_ff: 128, gated: yes, mixer: full, feedforward: dense}
"""


def refusal(function, *arguments, **more) -> str:
    with pytest.raises(Refused) as caught:
        function(*arguments, **more)
    return str(caught.value)


def test_targets_by_name():
    assert targets.resolved("cpu:8") == ("cpu:8", {})
    assert targets.resolved("tpu:v5p:8x8x16:2") == ("tpu:v5p:8x8x16:2", {"profile": "tpu-v5p"})
    assert targets.resolved("tpu:7x:2x2x1")[1] == {"profile": "tpu-v7x"}
    name, chip = targets.resolved("gpu:h100:4x2x8")
    assert name == "gpu:4x2x8" and chip["gpu"]["core_count"] == 132
    assert targets.devices("gpu:4x2x8") == 64


@pytest.mark.parametrize("on", ["tpu", "cpu:0", "tpu:v5p", "gpu:", "cuda:1x1x1", "local:2"])
def test_an_unknown_target_says_how_one_is_written(on):
    assert "tpu:v5p:8x8x16" in refusal(targets.resolved, on)


def test_an_unknown_topology_lists_the_known_ones():
    said = refusal(topology.acquire, "tpu:v5e:5x5")
    assert "2x4" in said and "16x16" in said and "5x5" in said
    assert "multiples of 4" in refusal(topology.acquire, "tpu:v5p:3x3x3")
    assert "smallest first" in refusal(topology.acquire, "tpu:v5p:8x4x4")
    assert "v6e" in refusal(topology.acquire, "tpu:v9:2x2")


def test_a_gpu_is_written_from_its_profile_and_a_change_shows():
    _, h100 = targets.resolved("gpu:h100-sxm")
    text = topology.gpu_configuration(h100["gpu"])
    for line in ("core_count: 132", "fpus_per_core: 128", "device_memory_size: 85899345920", "major: 9 minor: 0"):
        assert line in text, text
    twice = topology.gpu_configuration({**h100["gpu"], "device_memory_size": 2 * 85899345920})
    assert "device_memory_size: 171798691840" in twice


def test_a_profile_that_lacks_what_a_compiler_wants_names_every_field():
    said = refusal(targets.resolved, "gpu:mi300x")
    assert "microarch.compute_capability" in said and "microarch.vector_units" in said


def options(tmp_path, *typed):
    (tmp_path / "mini.yaml").write_text(MINI)
    return parse(["measure", f"--model={tmp_path / 'mini.yaml'}", *typed])


def test_a_layout_that_does_not_divide_says_which_axis(tmp_path):
    asked = options(tmp_path, "--on=cpu:8", "--layout=tp=8", "--seq_len=64")
    said = refusal(timing.measure, asked)
    assert "heads" in said and "8" in said


def test_a_type_that_a_chip_does_not_have_is_refused(tmp_path):
    """fp8 where the device has it: an H100 does, an A100 does not."""
    asked = options(tmp_path, "--on=gpu:a100:1x1x1", "--layout=precision=fp8", "--seq_len=64")
    said = refusal(targets._asked, asked, *targets.resolved("gpu:a100:1x1x1"))
    assert "layout.precision" in said and "a100" in said and "fp8" in said
    _, layout, _ = targets._asked(asked, *targets.resolved("gpu:h100:1x1x1"))
    assert layout.precision.name == "fp8"


def test_eight_devices_that_are_not_there(tmp_path):
    document = timing.measure(options(tmp_path, "--on=cpu:8", "--layout=tp=2,dp=4", "--seq_len=64"))
    (block,) = document["blocks"]
    assert block["outcome"] == "ok" and block["kind"] == "none" and block["chips"] == 8
    both = block["phases"]["forward_backward"]
    assert both["time"] is None and both["flops"] > 0 and both["memory"]["total"] > 0
    assert {one["kind"] for one in both["collectives"]} == {"all_reduce"}
    assert {one["group"] for one in both["collectives"]} == {2, 4}
    assert block["check"]["worst"] < block["check"]["tolerance"] and block["check"]["reference"] == "float64"
    assert (
        block["flags"]["JAX_PLATFORMS"] == "cpu"
    )  # of this process: what a compiler was told stands beside its figures
    from coopt.report.measured import shown

    assert "Compiled for cpu:8" in shown(document) and "all reduce" in shown(document)


def test_what_is_kept_is_found_by_all_that_it_depends_on(tmp_path, monkeypatch):
    flags = kept.options("--xla_a=1 --xla_b --xla_a=2")
    assert flags == {"xla_a": "2", "xla_b": "true"}
    one = kept.Shelf("tpu:v5e:2x2", {"jax": "1"}, flags, str(tmp_path))
    kept.write(one, "module", {"flops": 3.0})
    assert kept.read(one, "module") == {"flops": 3.0}
    changes = {
        "target": "tpu:v5e:2x4",
        "versions": {"jax": "2"},
        "options": {"xla_a": "1"},
        "folder": str(tmp_path / "x"),
    }
    for field, value in changes.items():
        assert kept.read(dataclasses.replace(one, **{field: value}), "module") is None, field
    assert kept.read(one, "another") is None
    with monkeypatch.context() as inside:
        inside.setenv("LIBTPU_INIT_ARGS", "--xla_c=1")
        assert kept.read(one, "module") is None
    (file,) = tmp_path.glob("*.gz")
    file.write_bytes(file.read_bytes()[:-9])
    with job._cache_failures() as failed:  # a miss with a note, which stands in the answer
        assert kept.read(one, "module") is None and kept.read(kept.NONE, "module") is None
        (tmp_path / "taken").write_text("")
        kept.write(dataclasses.replace(one, folder=str(tmp_path / "taken")), "module", {"flops": 3.0})
    assert len(failed) == 2 and "damaged" in failed[0] and "could not be kept" in failed[1]


def test_flags_that_are_none_are_refused_each():
    said = refusal(kept.options, "-xla_a=1 --xla_b=2 xla_c")
    assert "-xla_a=1" in said and "xla_c" in said and "xla_b" not in said


def test_a_measurement_goes_on_from_its_file(tmp_path, monkeypatch):
    """What was timed by the same code on the same machine is read again; a change of flags times it anew."""
    out = tmp_path / "measured.json"
    asked = options(tmp_path, f"--out={out}", "--seq_len=64")
    first = timing.measure(asked)
    monkeypatch.setattr(timing.bench, "do", lambda *given, **more: pytest.fail("timed again"))
    host = json.loads(out.read_text())
    monkeypatch.setattr(timing.machines, "measure_host", lambda *given, **more: machines.Here(host["profile"], {}))
    monkeypatch.setattr(timing.host, "told", lambda measured: {})
    assert timing.measure(asked)["blocks"] == first["blocks"]
    monkeypatch.setenv("XLA_FLAGS", "--xla_cpu_enable_fast_math=false")
    with pytest.raises(pytest.fail.Exception, match="timed again"):
        timing.measure(asked)


@pytest.mark.parametrize(
    "typed, fields",
    [
        (["a-study.yaml", "--model=llama3-8b"], ["study"]),
        (["--program=a:b", "--model=llama3-8b", "--on=cpu:2"], ["model"]),
        (["--layout=tp=2", "--seq_len=64", "model.d_ff=64"], ["layout", "seq_len", "overrides"]),
        (["--model=llama3-8b", "--part=step", "--xla_flags=--xla_a"], ["part", "xla_flags"]),
        (["--model=llama3-8b", "--chips=8"], ["chips"]),
        (["--model=llama3-8b", "--on=cpu:8", "--chips=8", "--peers=2", "--seconds=9"], ["peers", "seconds"]),
    ],
)
def test_a_flag_that_would_be_passed_over_is_refused(typed, fields):
    with pytest.raises(Refused) as caught:
        timing.measure(parse(["measure", *typed]))
    assert [problem.field for problem in caught.value.problems] == fields


def test_what_calibrate_and_diagnose_would_pass_over_is_refused(tmp_path):
    assert "without files" in refusal(profiled.calibrate, parse(["calibrate", "a.json", "--seconds=9"]))
    assert "without files" in refusal(profiled.calibrate, parse(["calibrate", "--from=tpu:v6e", "--on=cpu:8"]))
    (tmp_path / "k.csv").write_text("Total Time (ns),Instances,Name\n2000,1,gemm\n")
    typed = ["diagnose", f"--trace={tmp_path / 'k.csv'}", "--chips=8", "--layout=tp=8"]
    said = refusal(verbs.diagnose, parse(typed))
    assert "chips" in said and "layout" in said and "--model and --hardware" in said
    assert verbs.diagnose(parse(typed[:2]))["rows"][0]["row"] == "matmul"


def test_a_file_that_holds_no_measurements_is_said(tmp_path, caplog):
    (tmp_path / "notes.json").write_text('{"blocks": 7}')
    assert timing._finished(str(tmp_path / "notes.json")) == {} and "timed anew" in caplog.text
    caplog.clear()
    assert timing._finished(str(tmp_path / "new.json")) == {} and not caplog.text


def test_a_model_is_needed():
    assert "--model" in refusal(timing.measure, parse(["measure", "--on=cpu:8"]))


RATES = cycles.Rates(clock=1e9, peak=1e14, bandwidth=1e12, link=5e10)
ROWS = [
    {"name": "a", "kind": "matmul", "times": 2.0, "cycles": 4e6, "alone": 3e6, "traffic": 1e6, "flops": 1e9},
    {"name": "b", "kind": "matmul", "times": 1.0, "cycles": 4e6, "alone": 1e6, "traffic": 1.6e9, "flops": 1e9},
    {"name": "c", "kind": "matmul", "times": 1.0, "cycles": 5e6, "alone": None, "traffic": 1e6, "flops": 0.0},
    {"name": "d", "kind": "other", "times": 1.0, "cycles": 3e6, "traffic": 8e8},
    {"name": "e", "kind": "attention", "times": 1.0, "kernel": "fwd", "shape": [2, 8, 2048, 128]},
    {"name": "f", "kind": "collective", "times": 3.0, "collective": "all_reduce", "bytes": 1e9, "size": 4, "axes": 1,
     "hidden": False},
    {"name": "g", "kind": "collective", "times": 1.0, "collective": "all_gather", "bytes": 1e9, "size": 4, "axes": 2,
     "hidden": True},
]  # fmt: skip


@pytest.mark.parametrize(
    "rule,matmul,other,replaced",
    [
        ("raw", 8e-3 + 4e-3 + 5e-3, 3e-3, 0),
        ("alone", 6e-3 + 1e-3 + 5e-3, 3e-3, 2),
        ("streams", 6e-3 + 2e-3 + 5e-3, 1e-3, 3),
    ],
)
def test_rules_take_the_place_of_estimates(rule, matmul, other, replaced):
    priced = cycles.price({"rows": ROWS}, RATES, rule=rule)
    assert priced.parts["matmul"] == pytest.approx(matmul)
    assert priced.parts["other"] == pytest.approx(other)
    assert priced.replaced == replaced and priced.fusions == 3
    assert priced.time == pytest.approx(sum(priced.parts.values()))
    assert priced.time == pytest.approx(sum(r["seconds"] for r in priced.rows if not r.get("hidden")))


def test_collectives_by_links_and_the_hidden_ones_beside():
    priced = cycles.price({"rows": ROWS}, RATES)
    assert priced.parts["collective"] == pytest.approx(3 * 2 * 1e9 * 3 / 4 / (2 * 5e10))
    assert priced.hidden == pytest.approx(1e9 * 3 / 4 / (4 * 5e10))


def test_attention_is_the_tiles_it_visits_at_half_the_peak():
    flops = 2 * 2 * 2 * 8 * 2048**2 * 128 * 0.625
    assert cycles.price({"rows": ROWS}, RATES).parts["attention"] == pytest.approx(flops / 5e13)
    assert cycles.attention("dkv", (2, 8, 2048, 128)) == pytest.approx(2 * flops)
    assert cycles.attention("fwd", (1, 1, 256, 128)) == 4 * 256**2 * 128


def test_experts_are_the_tiles_they_visit_at_half_the_peak_or_their_bytes():
    rows = [
        {"name": "a", "kind": "experts", "times": 2.0, "kernel": "gmm", "shape": [8, 8192, 1408, 2048], "traffic": 8e8}
    ]
    flops = 2 * 8192 * 2048 * 2048  # 1,408 inputs are two tiles of 1,024
    for rule in cycles.RULES:
        priced = cycles.price({"rows": rows}, RATES, rule=rule)
        assert priced.parts["experts"] == priced.time == pytest.approx(2 * flops / 5e13)
        assert priced.flops == 2 * flops and (priced.fusions, priced.replaced) == (0, 0)
    streamed = cycles.price({"rows": [rows[0] | {"traffic": 8e9}]}, RATES)
    assert streamed.time == pytest.approx(2 * 1e-2) and streamed.rows[0]["rule"] == "streams"


def test_a_tile_that_experts_share_is_visited_by_each():
    """48 experts of 128 rows, four to a tile of 512: every row counts four times, and none where they are tiles."""
    assert grouped.visited(48, 48 * 128, 1024, 1024) == 4 * 2 * 48 * 128 * 1024 * 1024
    assert grouped.visited(48, 48 * 512, 1024, 1024) == 2 * 48 * 512 * 1024 * 1024


def test_what_moves_rows_and_has_no_estimate_is_its_bytes_by_every_rule():
    rows = [{"name": "a", "kind": "other", "times": 3.0, "cycles": None, "traffic": 8e8}]
    for rule in cycles.RULES:
        priced = cycles.price({"rows": rows}, RATES, rule=rule)
        assert priced.parts["other"] == pytest.approx(3e-3) and priced.replaced == 0


def test_rates_of_every_tpu_that_can_be_compiled_for():
    """Clock times the multiplies a clock is the peak: what turns cycles into seconds is consistent with the profile."""
    for name, multiplies in {
        "v4": 8 * 128**2,
        "v5e": 4 * 128**2,
        "v5p": 8 * 128**2,
        "v6e": 4 * 256**2,
        "v7x": 8 * 256**2,
    }.items():
        found = cycles.rates(f"tpu-{name}")
        assert found.clock * multiplies * 2 == pytest.approx(found.peak, rel=0.01)
        total = load.profile("chip", f"tpu-{name}").fields.links.scale_up.value
        assert 0.85 < found.link * (4 if name in ("v5e", "v6e") else 6) / total < 0.95
    assert cycles.rates("tpu-v4", devices_a_chip=2).peak == cycles.rates("tpu-v4").peak / 2


def test_a_profile_without_a_clock_cannot_turn_cycles_into_seconds():
    assert "links.each" in refusal(cycles.rates, "h100-sxm")


def test_memory_that_is_not_enough_is_an_outcome(tmp_path):
    (tmp_path / "small.yaml").write_text(MINI)
    asked = options(tmp_path, "--on=cpu:2", "--layout=dp=2", "--seq_len=64")
    target, chip = targets.resolved("cpu:2")
    ((job,), _) = targets._jobs(asked, target, chip)
    from coopt import workers
    from coopt.study.given import bench

    with workers.process(preload=bench.PRELOAD) as executor:
        outcome = executor.run(workers.Job(bench.JOB, {**job, "memory": 1000.0}, 120.0))
    assert outcome.status == "infeasible-memory" and outcome.wanted > outcome.available == 1000.0
    block = targets.told_of(outcome, job, chip)
    assert (block["wanted"], block["available"]) == (outcome.wanted, 1000.0)
    assert math.isfinite(outcome.wanted) and sys.version_info >= (3, 11)


def test_constants_come_back_from_estimates_that_have_them():
    """Products estimated with known constants, the compiler's own among them: the fit finds each."""
    from coopt.study.timed import compiled

    rates = cycles.rates("tpu-v6e")
    m, n, k = np.array(compiled.SIZES, float).T
    compute, every = 2 * m * n * k / (0.83 * rates.peak), 2 * (m * k + k * n + m * n) / (0.7 * rates.bandwidth)
    seen = np.maximum.reduce([compute, every, 3.2 * 2 * m * n / rates.bandwidth]) + 2e-6
    found = compiled.fit(rates, np.array(compiled.SIZES, float), seen)
    assert found["constants"] == pytest.approx({"matmul": 0.83, "stream": 0.7}, rel=1e-3)
    assert found["compiler"] == pytest.approx({"written": 3.2, "each": 2e-6}, rel=1e-2)
    assert found["held_out"]["mape"] < 1e-3
    chip = load.profile("chip", "tpu-v6e").data
    data = compiled.profile(chip, found, said="a test", date="2026-11-26")
    assert data["fitted"]["matmul_16"]["value"] == pytest.approx(0.83) and data["sources"]["cycles"]["title"]
    assert chip.get("fitted", {}).get("matmul_16") != data["fitted"]["matmul_16"]  # the file as it was is not changed


def test_calibrating_from_what_is_no_tpu_is_refused():
    assert "tpu:v6e" in refusal(profiled.calibrate, parse(["calibrate", "--from=gpu:h100"]))
    assert "v9" in refusal(profiled.calibrate, parse(["calibrate", "--from=tpu:v9"]))
