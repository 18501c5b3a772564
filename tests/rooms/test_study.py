"""The main loop's parts: what is asked, this host as a file, screening that cannot be gamed, calibration, answers."""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import pytest

from coopt.commands import profiles
from coopt.cost import estimate
from coopt.ops import count
from coopt.problems import Refused
from coopt.search.space import digits, settings, size
from coopt.search.space import index as index_of
from coopt.spec import load, read
from coopt.spec.nouns import PRECISIONS, LayerKind, Layout, Model
from coopt.store import open_run
from coopt.study import elsewhere, main, ranking
from coopt.study.given import asked, bench, emit, host, machines
from coopt.study.given import spaces as families
from coopt.study.given.designs import design
from coopt.study.given.schema import Study
from coopt.study.screened import screening
from coopt.study.timed import blocks, calibration, constants
from coopt.tree import replace

# What a `host` job answers, in the shape of the real thing; the numbers are nobody's.
MEASURED = {
    "name": "Test CPU (two cores)", "platform": "cpu", "device": "cpu", "cores": 2, "versions": {"jax": "0.10.2"},
    "memory": 16 * 2.0**30, "memory_available": 12 * 2.0**30, "dispatch": {"time": 8e-6}, "bandwidth": {"rate": 2e10},
    "matmul": {
        "fp32": {"256": {"rate": 8.0e10}, "512": {"rate": 9.0e10}, "1024": {"rate": 9.6e10}, "2048": {"rate": 1e11}},
        "bf16": {"512": {"rate": 4.0e10}, "1024": {"rate": 4.2e10}},
    },
}  # fmt: skip
DATE = "2026-01-02"


def options(**given):
    """The options of `coopt search` as the command line leaves them."""
    nothing = dict.fromkeys(("study", "model", "hardware", "chips", "layout", "seq_len", "global_batch", "tokens",
                             "stack", "measure", "objective", "loss", "top", "name", "profile_path",
                             "block_seconds", "executor", "ray_address"))  # fmt: skip
    usual = {
        "workload": "train",
        "batch_penalty": "law",
        "seed": 0,
        "resume": False,
        "runs": "runs",
        "overrides": {},
        "workers": 2,
    }
    return argparse.Namespace(**{**nothing, **usual, **given})


@pytest.fixture
def here(tmp_path: Path):
    """The described host as a machine, from its file."""
    (tmp_path / "host.yaml").write_text(emit.as_yaml(host.chip(MEASURED, date=DATE)))
    return load.resolve(str(tmp_path / "host.yaml"), chips=1, stack="jax")


def study(**changes) -> Study:
    """The default study with some fields changed."""
    return asked.checked_study({**asked.study_data(None), **changes})


def test_a_host_read_back_from_the_journal_is_the_same_host():
    """A1: records are sorted by name; the profile of a host must not depend on the order of what was measured."""
    assert host.chip(json.loads(json.dumps(MEASURED, sort_keys=True)), date=DATE) == host.chip(MEASURED, date=DATE)


# ---------------------------------------------------------------- what is asked


def test_default_study_is_sound():
    """The embedded study passes its own schema, and the axes of both its machines hold a million candidates."""
    asking = asked.question(options())
    found = families.family(asking.study)
    sizes = [size(families.space(asking.study, found, chips=chips)) for chips in (1, 8)]
    assert sum(sizes) >= 1_000_000
    assert asking.study.measure >= 8


def test_mistakes_of_a_study_come_at_once_with_their_lines(tmp_path: Path):
    """D-plans of broken inputs: every mistake, each with file and line."""
    file = tmp_path / "mine.yaml"
    file.write_text(
        "kind: study\nname: mine\ntitle: Broken\nspace: gpt-small\nmachines:\n  - {hardware: host, chips: 4}\n"
        "workload: {seq_len: 512, global_batch: many}\nobjective: speed\nlimits: {los: 3}\n"
    )
    with pytest.raises(Refused) as refusal:
        asked.question(options(study=str(file)))
    found = {(problem.line, problem.field.split(".")[0]) for problem in refusal.value.problems}
    assert found >= {(7, "workload"), (8, "objective"), (9, "limits")}
    assert "machines" in {field for _, field in found} and all(line for line, _ in found)
    assert {problem.file for problem in refusal.value.problems} == {str(file)}


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({"objective": "speed"}, "objective"),
        ({"layout": "tq=8"}, "layout.tq"),
        ({"model": "llama3-70b", "hardware": "dgx-h100", "chips": 64, "measure": 2}, "file"),
        ({"model": "no-such-model", "hardware": "dgx-h100"}, "model"),
        ({"study": "mine"}, "study"),
        ({"overrides": {"study.machines.7.chips": "4"}}, "study.machines.7.chips"),
    ],
)
def test_flags_that_cannot_be_are_refused(given, field):
    with pytest.raises(Refused) as refusal:
        asked.question(options(**given))
    assert field in {problem.field for problem in refusal.value.problems}


def test_flags_reach_the_study():
    asking = asked.question(
        options(loss=3.5, measure=0, top=5, name="other", layout="tp=2,recompute=full", batch_penalty="none",
                overrides={"study.law": "chinchilla-besiroglu", "hardware.memory.capacity": "8 GiB"})
    )  # fmt: skip
    assert asking.study.limits == {"loss": 3.5}
    assert (asking.study.measure, asking.study.top, asking.run) == (0, 5, "other")
    assert asking.study.layout["tp"] == [2] and asking.study.layout["recompute"] == ["full"]
    assert asking.study.batch_penalty == "none"
    assert all(machine.set == {"memory.capacity": "8 GiB"} for machine in asking.study.machines)


def test_study_survives_its_own_file():
    """What a run holds reads back as what was asked, for the default study and for a few words."""
    for given in (options(), options(model="llama3-70b", hardware="dgx-h100", chips=64, layout="tp=8")):
        asking = asked.question(given)
        assert asked.written(emit.as_yaml(asking.data), file="study.yaml").study == asking.study


# ---------------------------------------------------------------- this host as files


def test_host_becomes_a_chip_that_loads(here):
    assert here.peak[0] == 1e11 and here.peak[2] == 4.2e10
    assert here.bandwidth * here.stream == 2e10
    assert here.memory == 12 * 2.0**30
    assert 0.9 < here.matmul[0] <= 1.0 and 1 < here.depth < 200
    for unknown in (here.dollars_hour, here.dollars, here.watts, here.sigma):
        assert math.isnan(unknown)


def test_mesh_of_hosts_says_its_link(tmp_path: Path):
    chip = host.chip(MEASURED, date=DATE)
    asking = study()
    machines.write(tmp_path, machines.files(asking, chip, date=DATE), None)
    one, mesh = machines.resolved(asking, chip=chip, folder=tmp_path)
    assert (one.chips, mesh.chips, len(one.tiers)) == (1.0, 8.0, 0)
    assert mesh.tiers[0].bandwidth == 12.5e9 and mesh.tiers[0].latency == 1e-5
    assert mesh.peak == one.peak and mesh.chip == one.name
    assert any("tiers.link.bandwidth" in said for said in mesh.assumed)


@pytest.mark.parametrize("text", ["no", "1e5", "0x10", ".inf", "a: b", "- x", "5 # five", "", "x\ny", "ÿ", "~", "'"])
def test_texts_survive_the_file(text):
    assert read.read_text(emit.as_yaml({"said": text or " "}))[0] == {"said": text or " "}


def test_numbers_survive_the_file(rng):
    numbers = [float(x) for x in 10.0 ** rng.uniform(-30, 30, 50)] + [0.0, 1.0, 2.0**52, 1e-5, 819e6]
    assert read.read_text(emit.as_yaml({"all": numbers}))[0]["all"] == numbers


# ---------------------------------------------------------------- screening


SMALL = {
    "model": {"name": "gpt", "vocab": 32768, "norms": 1,
              "layers": [{"mixer": "full", "feedforward": "dense", "norms": 2, "gated": 0}]},
    "shape": {
        "d_model": [512, 640, 768],
        "layers": [2, 8, 10, 12],
        "heads": {"of": "d_model", "over": 64},
        "kv_heads": {"of": "heads", "over": 1},
        "d_ff": {"of": "d_model", "times": 4},
    },
}  # fmt: skip
WORK = {"seq_len": 256, "global_batch": [16, 64], "tokens": {"from": 0.82e9, "to": 8e9, "factor": 1.2}}


def swept(asking: Study, machine):
    family = families.family(asking)
    kind = screening.kind_of(family)
    return screening.screen(asking, family, machine, families.law_of(asking), distinct=3, key=kind)


def winner(told):
    index = int(told.result.top.indices[0])
    return told.plan(index), settings(told.space, index)


def test_planted_exploits_do_not_win(here):
    """Two layers, a vocabulary of a million and a batch of 1e9 tokens: each would win if only time counted."""
    shape = SMALL["shape"] | {"vocab": [1024, 32768, 1_000_000]}
    batch = 2.0**22  # sequences: 1e9 tokens a step
    tokens = [1.2e9, 2e9, 4e9, 8e9, 16e9, 64e9]
    asking = study(
        space={**SMALL, "shape": shape},
        workload={"seq_len": 256, "global_batch": [16, batch], "tokens": tokens},
        layout={**asked.study_data(None)["layout"], "precision": ["fp32"], "micro_batch": [1]},
    )
    plan, _ = winner(swept(asking, here))
    layers = float(plan.model.kinds[0].count)
    assert layers > 2 and float(plan.model.vocab) == 32768 and float(plan.workload.train.batch) == 16
    # They are better where nothing but time is asked: the space does hold them, and quality alone keeps them out.
    careless, _ = winner(swept(asking.model_copy(update={"limits": {}}), here))
    assert float(careless.model.kinds[0].count) == 2 and float(careless.model.vocab) == 1024


def test_batch_costs_tokens_by_the_law_alone(here):
    """A batch far beyond the critical one wins only where the user says that it costs nothing."""
    batches = {"seq_len": 256, "global_batch": [16, 2.0**15], "tokens": [1.5e9, 2e9, 4e9]}
    asking = study(space=SMALL, workload=batches)
    assert float(winner(swept(asking, here))[0].workload.train.batch) == 16
    free = asking.model_copy(update={"batch_penalty": "none"})
    assert float(winner(swept(free, here))[0].workload.train.batch) == 2.0**15


def test_mixture_is_not_ranked_by_a_dense_law(here):
    """4,096 experts add parameters for nothing: under a dense law their loss is unknown, and they are rejected."""
    kind = {"mixer": "full", "feedforward": "moe", "norms": 2, "gated": 0, "experts": 4096, "top_k": 1}
    shape = {**{k: v for k, v in SMALL["shape"].items() if k != "d_ff"}, "d_expert": {"of": "d_model", "times": 1}}
    asking = study(space={"model": {**SMALL["model"], "layers": [kind]}, "shape": shape}, workload=WORK)
    told = swept(asking, replace(here, memory=1e18))
    assert told.result.feasible == 0 and len(told.result.top.indices) == 0
    assert told.result.rejected.get("loss unknown", 0) > 0


def test_best_plans_differ_in_shape_and_are_in_order(here):
    told = swept(study(space=SMALL, workload=WORK), here)
    plans = ranking.ranked([told], top=5)
    rows = [ranking.document(plan, rank=1, objective="device_time") for plan in plans]
    times = [row["device_time"] for row in rows]
    assert times == sorted(times) and len({row["model"] for row in rows}) == len(rows) > 2
    for row in rows:
        assert row["verdict"] == "fits" and row["loss"] <= 3.6
        tokens_a_second = row["tokens"] / (row["device_time"] / row["chips"])
        assert tokens_a_second == pytest.approx(row["tokens_per_second_per_chip"] * row["chips"])
        assert row["interval"][0] < row["step_time"] < row["interval"][1]
        assert row["dollars_per_token"] is None and row["joules_per_token"] is None


def test_every_machine_has_its_share_of_the_list(here):
    """A machine that is eight times as fast does not push the reader's own out of the list."""
    asking = study(space=SMALL, workload=WORK, objective="run_time")
    fast = replace(here, name="fast", peak=tuple(8 * p for p in here.peak), bandwidth=8 * here.bandwidth)
    plans = ranking.ranked([swept(asking, here), swept(asking, fast)], top=6)
    names = [plan.hardware.name for plan in plans]
    assert len(plans) == 6 and names[0] == "fast" and here.name in names


def test_winner_on_an_edge_is_said(here):
    """A winner at the end of an axis, or of what its law was fitted on, is reported as such."""
    told = swept(study(space=SMALL, workload=WORK), here)
    index = int(told.result.top.indices[0])
    said = " ".join(ranking.boundary_hits(told, index))
    chosen = {axis.name: digit for axis, digit in zip(told.space.axes, digits(told.space, index), strict=True)}
    assert ("micro_batch" in said) == (chosen["micro_batch"] == 1)
    (at,) = (number for number, axis in enumerate(told.space.axes) if "model.d_model" in axis.paths)
    axis, place = told.space.axes[at], list(digits(told.space, index))
    widths = axis.values[:, axis.paths.index("model.d_model")]
    for end, width in (("smallest", widths.min()), ("largest", widths.max())):
        place[at] = int(np.flatnonzero(widths == width)[0])
        (said,) = (one for one in ranking.boundary_hits(told, index_of(told.space, place)) if "d_model" in one)
        assert f"d_model = {width:g}" in said and f"the {end} the space allows" in said


# ---------------------------------------------------------------- blocks and calibration


def block(d: int, micro_batch: float, **layout):
    kind = LayerKind(count=12.0, heads=d / 64, kv_heads=d / 64, head_dim=64.0, d_ff=4.0 * d, gated=0.0)
    model = Model(name="gpt", d_model=float(d), vocab=32768.0, kinds=(kind,))
    layout = {"fused_attention": 0.0, "precision": PRECISIONS["fp32"], **layout}
    cut = Layout(micro_batch=micro_batch, **layout)
    return blocks.job(model, cut, seq_len=256)


def timed_by(machine, jobs, rng, noise=0.01):
    """Blocks as a clock on `machine` would give them."""
    told = []
    for job in jobs:
        forward, both = (time * math.exp(noise * rng.standard_normal()) for time in blocks.predicted(job, machine))
        phases = {"forward": {"time": forward, "spread": noise}, "forward_backward": {"time": both, "spread": noise}}
        told.append(blocks.Timed(job, "ok", {"phases": phases, "kind": "clock"}, 1.0))
    return told


def test_equal_blocks_are_one_job():
    """A layer does not depend on how many there are, on data parallelism, or on where the state lies."""
    one = block(512, 1.0)
    assert blocks.key(one) == blocks.key(block(512, 1.0, dp=8.0, zero=1.0, fsdp=8.0))
    assert blocks.key(one) != blocks.key(block(512, 2.0))
    assert blocks.key(one) != blocks.key(block(512, 1.0, recompute=2.0))
    json.dumps(one, allow_nan=False)


def test_calibration_finds_the_machine_that_was_timed(here, rng):
    """Efficiency and bandwidth of a hidden machine come back within their errors, and left-out blocks agree."""
    hidden = constants.with_constants(
        here,
        {**constants.constants_of(here), "matmul_32": 0.6, "bandwidth": 3.2e10, "passes_back": 2.0, "kernel": 2e-5},
    )
    jobs = [block(d, micro_batch) for d in (256, 384, 512, 768) for micro_batch in (1.0, 2.0)]
    found = calibration.calibrate(here, timed_by(hidden, jobs, rng))
    assert found is not None
    assert found.constants["matmul_32"] == pytest.approx(0.6, rel=0.05)
    assert found.before["mape"] > 0.2 > 0.05 > found.held_out["mape"]
    assert found.after["mape"] <= found.held_out["mape"] + 1e-6


def test_calibrated_profile_loads_and_predicts_the_same(here, rng, tmp_path: Path):
    """The file is the calibration: what it resolves to prices blocks as the fit did."""
    hidden = constants.with_constants(here, {**constants.constants_of(here), "matmul_32": 0.5, "passes_back": 3.0})
    jobs = [block(d, 1.0) for d in (256, 384, 512, 640)]
    found = calibration.calibrate(here, timed_by(hidden, jobs, rng))
    assert found is not None
    data = calibration.profile(host.chip(MEASURED, date=DATE), found, date=DATE, blocks="four blocks")
    (tmp_path / "calibrated.yaml").write_text(emit.as_yaml(data))
    again = load.resolve(str(tmp_path / "calibrated.yaml"), chips=1, stack="jax")
    fitted = constants.with_constants(here, found.constants)
    for job in jobs:
        assert blocks.predicted(job, again) == pytest.approx(blocks.predicted(job, fitted), rel=1e-3)
    assert float(again.sigma) == pytest.approx(found.sigma, rel=1e-3)


def test_slow_products_backward_are_found_by_type(here, rng, tmp_path: Path):
    """16-bit products ten times slower in a backward pass alone: found by a few blocks, two of them in 16 bits."""
    known = constants.constants_of(here)
    hidden = constants.with_constants(here, {**known, "matmul_16": 2.5, "backward_16": 0.1, "passes_back": 2.0})
    halves = {"precision": PRECISIONS["bf16"]}
    jobs = [*(block(d, 1.0) for d in (256, 384, 512, 640)), *(block(d, 2.0, **halves) for d in (448, 640))]
    found = calibration.calibrate(here, timed_by(hidden, jobs, rng))
    assert found is not None
    assert found.constants["backward_16"] == pytest.approx(0.1, rel=0.2)
    assert found.constants["backward_32"] == pytest.approx(1.0, rel=0.1)
    data = calibration.profile(host.chip(MEASURED, date=DATE), found, date=DATE, blocks="six blocks")
    (tmp_path / "backward.yaml").write_text(emit.as_yaml(data))
    again = load.resolve(str(tmp_path / "backward.yaml"), chips=1, stack="jax")
    assert again.backward[2] == again.backward[3] == pytest.approx(found.constants["backward_16"], rel=1e-4)
    for job in (block(768, 1.0), block(768, 2.0, **halves)):
        assert blocks.predicted(job, again) == pytest.approx(blocks.predicted(job, hidden), rel=0.1)


def test_a_block_alone_in_its_format_is_fitted_and_not_held_out(here, rng):
    """Nothing else speaks of its format: left out, it would say how wrong a machine is of which nothing was timed."""
    hidden = constants.with_constants(here, {**constants.constants_of(here), "matmul_16": 2.5, "backward_16": 0.1})
    jobs = [*(block(d, 1.0) for d in (256, 384, 512, 640)), block(640, 2.0, precision=PRECISIONS["bf16"])]
    found = calibration.calibrate(here, timed_by(hidden, jobs, rng))
    assert found is not None and found.blocks == 5
    assert found.held_out["rows"] == 8 and found.held_out["max_ape"] < 0.1 and found.sigma < 0.1
    assert found.constants["backward_16"] == pytest.approx(0.1, rel=0.3)
    every = calibration.calibrate(here, timed_by(hidden, [*jobs, block(448, 2.0, precision=PRECISIONS["bf16"])], rng))
    assert every is not None and every.held_out["rows"] == 12


def test_blocks_faster_than_every_product_raise_the_peak(here, rng, tmp_path: Path):
    """A host measured while it was busy: blocks then run faster than its peak, which is put right, not exceeded."""
    hidden = constants.with_constants(here, {**constants.constants_of(here), "matmul_32": 1.8})
    jobs = [block(d, 1.0) for d in (384, 512, 640, 768)]
    found = calibration.calibrate(here, timed_by(hidden, jobs, rng))
    assert found is not None and found.constants["matmul_32"] > 1.5
    data = calibration.profile(host.chip(MEASURED, date=DATE), found, date=DATE, blocks="four blocks")
    (tmp_path / "raised.yaml").write_text(emit.as_yaml(data))
    raised = load.resolve(str(tmp_path / "raised.yaml"), chips=1, stack="jax")
    assert max(raised.matmul[:4]) <= 1.0 and raised.peak[0] > 1.5 * here.peak[0]
    for job in jobs:
        assert blocks.predicted(job, raised) == pytest.approx(blocks.predicted(job, hidden), rel=0.1)


def test_blocks_are_compared_at_one_pace_of_a_host_that_others_share(here, rng):
    """Where others used the machine, the clock is off by factors and a ratio to what ran beside is not; never mixed."""
    jobs = [block(d, micro_batch) for d in (256, 384, 512, 768) for micro_batch in (1.0, 2.0)]
    hidden = constants.with_constants(here, {**constants.constants_of(here), "matmul_32": 0.5, "passes_back": 2.0})
    timed = []
    for one in timed_by(hidden, jobs, rng):
        slow = float(rng.choice([1.0, rng.uniform(1.5, 6.0)]))  # half of them while the host was as fast as it is
        phases = {
            part: {"time": slow * said["time"], "high": 1.1 * slow * said["time"], "pace": 0.01 * slow, "spread": 0.3}
            for part, said in one.answer["phases"].items()
        }
        timed.append(dataclasses.replace(one, answer={"phases": phases}))
    found = calibration.calibrate(here, timed)
    assert found is not None and found.clock == "paced"
    assert found.held_out["median_ape"] < 0.05
    assert found.tau >= 0.9 * found.tau_ceiling
    again = blocks.settled(timed)
    usual = blocks.pace_of(timed)
    for one, was in zip(again, timed, strict=True):
        for part in blocks.PASSES:
            assert one.figure(part, "time") / usual == pytest.approx(
                was.figure(part, "time") / was.figure(part, "pace")
            )
            assert one.figure(part, "high") == pytest.approx(1.1 * one.figure(part, "time"))
    twice = blocks.settled(again)
    assert [one.times() for one in twice] == [pytest.approx(one.times()) for one in again]
    unpaced = [*timed[:-1], timed_by(here, jobs[-1:], rng)[0]]
    assert blocks.clock_of(unpaced) == "wall" and blocks.settled(unpaced) == unpaced, "one was timed without"


def test_too_few_blocks_calibrate_nothing(here, rng):
    jobs = [block(256, 1.0), block(384, 1.0)]
    assert calibration.calibrate(here, timed_by(here, jobs, rng)) is None


def test_noise_moves_a_calibration_little(here, rng):
    """One block that is four times too slow does not drag the machine along."""
    jobs = [block(d, micro_batch) for d in (256, 384, 512, 768) for micro_batch in (1.0, 2.0)]
    timed = timed_by(here, jobs, rng)
    slow = {part: {**said, "time": 4 * said["time"]} for part, said in timed[0].answer["phases"].items()}
    timed[0] = dataclasses.replace(timed[0], answer={"phases": slow})
    found = calibration.calibrate(here, timed)
    assert found is not None
    assert found.constants["matmul_32"] == pytest.approx(float(here.matmul[0]), rel=0.15)


def test_measured_layer_stands_for_the_layers_of_a_step(here):
    """A layer measured as predicted leaves the step; one twice as slow adds the layers' share."""
    told = swept(study(space=SMALL, workload=WORK), here)
    plan, _ = winner(told)
    both = blocks.predicted(blocks.of_plan(plan), here)[1]
    step = float(estimate(count(plan.model, plan.layout, plan.workload), here).step_time)
    assert blocks.step_time(plan, both) == pytest.approx(step, rel=1e-9)
    phase = plan.workload.train
    layers = float(plan.model.kinds[0].count) * float(phase.batch / plan.layout.micro_batch)
    slower = blocks.step_time(plan, 2 * both) - step
    assert slower == pytest.approx(layers * both * (1 + float(here.overhead)), rel=1e-6)


def test_measurements_survive_their_file(here, rng):
    (one,) = timed_by(here, [block(256, 1.0)], rng)
    again = blocks.of_document(json.loads(json.dumps(one.document())))
    assert again.times() == one.times() and again.job == one.job and again.usable


# ---------------------------------------------------------------- elsewhere


def test_like_another_machine_means_whole_racks_of_the_same_power():
    """GB200 in the megawatts of 1,024 H100: nine racks of 72, of which 64 chips each are at work."""
    asked_for = study().elsewhere
    assert asked_for is not None
    h100, gb200, _ = elsewhere.sites(asked_for)
    assert (h100.chips, gb200.powered % 72, gb200.chips * 72) == (1024, 0, gb200.powered * 64)
    watts = [site.powered * float(load.resolve(site.hardware, chips=site.chips).watts_all_in) for site in (h100, gb200)]
    rack = 72 * watts[1] / gb200.powered
    assert 0 <= watts[0] - watts[1] < rack


def test_fastest_layout_is_the_fastest():
    """Against every candidate priced one by one."""
    from coopt.search.layouts import layout_space
    from coopt.search.space import candidate
    from coopt.spec.nouns import training

    trained = elsewhere.Trained(model="llama3-8b", seq_len=8192, global_batch=64)
    narrow = {"tp": [1, 2, 4], "cp": [1], "micro_batch": [1, 2], "vpp": [1], "zero": [1, 3], "offload": [0],
              "recompute": ["none", "full"], "order": [0], "precision": ["bf16"]}  # fmt: skip
    asked_for = elsewhere.Elsewhere.model_validate(
        {"models": [trained.model_dump()], "machines": [{"hardware": "dgx-h100", "chips": 16}], "layout": narrow}
    )
    found = elsewhere.fastest(trained, elsewhere.Site("dgx-h100", 16, 16), asked_for)
    machine, model = load.resolve("dgx-h100", chips=16), load.model("llama3-8b")
    space = layout_space(model, training(8192.0, 64.0), chips=16, choices=narrow)
    times = []
    for index in range(size(space)):
        one = candidate(space, index)
        cost = estimate(count(model, one.layout, one.workload), machine)
        times.append(float(cost.step_time) if int(cost.verdict) == 0 else math.inf)
    best = candidate(space, int(np.argmin(times))).layout
    assert found is not None and replace(found, precision=best.precision).tp == best.tp
    assert float(estimate(count(model, found, training(8192.0, 64.0)), machine).step_time) == min(times)
    told, watts = elsewhere.entry(trained, elsewhere.Site("dgx-h100", 16, 18), asked_for), float(machine.watts_all_in)
    assert told["tokens_per_second"] == pytest.approx(16 * told["tokens_per_second_per_chip"])  # two of them idle
    assert told["megawatts"] * told["tokens_per_megawatt"] == pytest.approx(told["tokens_per_second"])
    assert told["megawatts"] == pytest.approx(18 * watts / 1e6)


# ---------------------------------------------------------------- a whole search, analytical


def test_a_search_starts_from_its_stack_and_says_so(runs: Path):
    """What the stack does by itself is in every candidate: `explain` of the best layout's cut alone says the same."""
    document = main.search(
        options(model="mixtral-8x7b", hardware="tpu-v5p", chips=64, global_batch=512.0, stack="maxtext", top=1,
                layout="cp=1,pp=1,vpp=1,order=tp-cp-dp-pp,offload=0,micro_batch=1,recompute=full")
    )  # fmt: skip
    (best,) = document["plans"]
    practice = {"traced", "overlap", "imbalance", "fused_attention"}
    cut = ",".join(f"{name}={value}" for name, value in best["layout"].items() if name not in (*practice, "precision"))
    one = design(model="mixtral-8x7b", hardware="tpu-v5p", chips=64, layout=cut, stack="maxtext", global_batch=512.0,
                 seq_len=best["seq_len"])  # fmt: skip
    alone = float(estimate(count(one.model, one.layout, one.workload), one.hardware).step_time)
    assert alone == pytest.approx(best["step_time"], rel=1e-9)
    assert float(one.layout.traced) == 1.0 and float(one.layout.precision.reduce) == 2.0
    for name in (*practice, "precision.reduce"):
        assert any(said.startswith(f"{name}=") and "maxtext" in said for said in document["assumed"]), name


@pytest.mark.parametrize(("vocab", "padded"), [("50257", 51200.0), ("32003", 32768.0)])
def test_a_search_pads_the_vocabulary_for_each_tp_as_explain_does(runs: Path, vocab, padded):
    asked = {"model": "llama2-7b", "hardware": "dgx-a100", "chips": 32, "global_batch": 64.0, "stack": "megatron-lm"}
    asked |= {"overrides": {"model.vocab": vocab}}
    document = main.search(
        options(**asked, top=1, layout="tp=8,cp=1,order=tp-cp-dp-pp,offload=0,micro_batch=1,vpp=1,recompute=full")
    )
    (best,) = document["plans"]
    cut = ",".join(f"{name}={value}" for name, value in best["layout"].items())
    one = design(**asked, layout=cut, seq_len=best["seq_len"])
    alone = float(estimate(count(one.model, one.layout, one.workload), one.hardware).step_time)
    assert float(one.model.vocab) == padded and alone == pytest.approx(best["step_time"], rel=1e-9)


def test_a_padded_vocabulary_is_no_edge(runs: Path):
    asked = {"model": "llama2-7b", "hardware": "dgx-a100", "chips": 8, "global_batch": 64.0, "stack": "megatron-lm"}
    document = main.search(options(**asked, overrides={"model.vocab": "50257"}, top=1, layout="cp=1,offload=0,vpp=1"))
    assert not document["boundary_hits"]


def test_search_of_layouts_writes_a_run_and_answers(runs: Path):
    """`coopt search --model --hardware --chips`: the document's keys, the run's files, refusal of a second one."""
    given = options(model="llama3-8b", hardware="dgx-h100", chips=16, global_batch=64.0, top=4,
                    layout="cp=1,vpp=1,offload=0,order=tp-cp-dp-pp")  # fmt: skip
    seen = []
    document = main.search(given, told=lambda *said: seen.append(said))
    assert {"evaluated", "feasible", "rejected", "seconds", "candidates_per_second", "plans", "pareto", "run",
            "boundary_hits", "interval", "fidelity", "stack", "assumed", "nearest"} <= set(document)  # fmt: skip
    keys = {"rank", "model", "hardware", "chips", "layout", "step_time", "tokens_per_second_per_chip", "mfu", "memory",
            "dollars_per_token", "joules_per_token", "loss", "measured_time", "measured_kind", "interval"}  # fmt: skip
    assert all(keys <= set(plan) for plan in document["plans"])
    assert document["evaluated"] == document["feasible"] + sum(document["rejected"].values())
    assert [plan["rank"] for plan in document["plans"]] == [1, 2, 3, 4]
    assert document["plans"][0]["step_time"] == pytest.approx(document["explain"]["step_time"])
    assert {said[0] for said in seen} and seen[-1][1] == seen[-1][2]
    path = Path(document["run"])
    saved = open_run(path)
    assert saved.finished and json.loads((path / "answer.json").read_text())["plans"] == document["plans"]
    with pytest.raises(Refused, match="--resume.*--name"):
        main.search(given)
    again = main.search(argparse.Namespace(**{**vars(given), "resume": True}))
    assert again["plans"] == document["plans"]
    with pytest.raises(Refused, match="begun with"):
        main.search(argparse.Namespace(**{**vars(given), "resume": True, "top": 3}))
    assert main.resume(options(run=str(path)))["plans"] == document["plans"]


def test_a_space_too_large_is_refined_bounded_and_certified(runs: Path, monkeypatch):
    """Past the limit of a sweep the winner is the same, the answer says how it was found, and the run has the proof."""
    given = options(model="llama3-8b", hardware="dgx-h100", chips=16, global_batch=64.0, top=4,
                    layout="cp=1,vpp=1,offload=0,order=tp-cp-dp-pp,micro_batch=1")  # fmt: skip
    swept = main.search(given)
    monkeypatch.setattr(screening, "EXHAUSTIVE", 100)
    document = main.search(argparse.Namespace(**{**vars(given), "name": "large"}))
    assert document["plans"][0]["step_time"] == swept["plans"][0]["step_time"]
    (said,) = (one for one in document["assumed"] if "too many to price" in one)
    assert "no candidate has a" in said and "better" not in said
    told = profiles.check(argparse.Namespace(files=[f"{document['run']}/certificate.json"], profile_path=None))
    assert not told["errors"] and "proved; of" in told["proved"][0]
    bent = Path(document["run"]) / "bent.json"
    bent.write_text((Path(document["run"]) / "certificate.json").read_text().replace('"least"', '"none"'))
    assert profiles.check(argparse.Namespace(files=[str(bent)], profile_path=None))["errors"]


def test_when_nothing_is_left_the_nearest_is_named(runs: Path):
    """D7: contradictory limits, and no memory: what comes closest, and by how much it misses."""
    given = options(model="llama3-70b", hardware="dgx-h100", chips=8, global_batch=8.0,
                    layout="cp=1,vpp=1,offload=0,order=tp-cp-dp-pp,micro_batch=1")  # fmt: skip
    (said,) = (one for one in main.search(given)["assumed"] if one.startswith("nothing is left"))
    assert "times the memory there is: llama3-70b with tp=8" in said
    limited = asked.study_data(None) | {"name": "tight", "limits": {"loss": 1.8, "step_time": 1e9}, "measure": 0}
    limited |= {"elsewhere": None, "machines": [{"hardware": "dgx-h100", "chips": 8}]}
    file = runs / "tight.yaml"
    file.write_text(emit.as_yaml({key: value for key, value in limited.items() if value is not None}))
    (said,) = (one for one in main.search(options(study=str(file)))["assumed"] if one.startswith("nothing is left"))
    assert "the smallest loss of all that run on dgx-h100 x 8 is" in said and "the limit 1.8" in said


def test_nothing_is_written_for_a_study_that_cannot_be(runs: Path):
    with pytest.raises(Refused):
        main.search(options(model="llama3-8b", hardware="dgx-h100", chips=16, global_batch=64.0, layout="tp=7"))
    assert not runs.exists()


def test_trial_that_is_done_is_never_done_again(runs: Path):
    """The journal is asked before the clock is, and a job that dies twice is given up."""
    from coopt.store import create
    from coopt.workers import Outcome

    class Counting:
        def __init__(self, *outcomes):
            self.outcomes, self.asked = list(outcomes), 0

        def run(self, job):
            if job.path == bench.PROBE:  # the device is still there
                return Outcome(result={"outcome": "ok"})
            self.asked += 1
            return self.outcomes.pop(0)

    executor = Counting(Outcome(result={"time": 1.0}), Outcome(status="crashed"), Outcome(status="crashed"))
    with create(runs, "one", "kind: study\n") as run:
        for _ in range(3):
            assert bench.do(run, executor, {"kind": "a"}, deadline_s=1.0)["result"] == {"time": 1}
        assert executor.asked == 1
        for _ in range(2):
            assert bench.do(run, executor, {"kind": "b"}, deadline_s=1.0)["status"] == "crashed"
        assert executor.asked == 3
