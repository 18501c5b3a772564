"""`coopt diagnose`: a run beside our prediction. Runs here are predictions with one thing planted."""

from __future__ import annotations

import dataclasses
import json
import math

import pytest

from coopt.commands.parse import parse
from coopt.cost import estimate
from coopt.ops import count
from coopt.problems import Refused
from coopt.report import html_page, table
from coopt.study import verbs
from coopt.study.given.designs import design
from coopt.study.told import diagnosed, suspects
from coopt.study.told.diagnosed import SPENT, diagnose, seconds, spent
from coopt.tree import replace

EVERYTHING = frozenset(("recompute", "zero", "sp", "fused_attention", "vpp", "micro_batch"))
DESIGNS = (
    {"model": "llama3-70b", "hardware": "dgx-h100", "chips": 256, "layout": "tp=8,pp=4"},
    {"model": "llama3-8b", "hardware": "dgx-a100", "chips": 64, "layout": "zero=3,fsdp=64"},
    {"model": "deepseek-v3", "hardware": "gb200-nvl72", "chips": 256, "layout": "pp=4,ep=64,precision=mxfp8"},
    {"model": "llama3-8b", "hardware": "tpu-v5p", "chips": 128, "layout": "tp=2,recompute=full"},
)


@pytest.fixture(scope="module", params=DESIGNS, ids=lambda d: f"{d['model']}@{d['hardware']}")
def one(request):
    return design(**request.param)


def step_time(one, hardware=None, layout=None) -> float:
    ops = count(one.model, layout or one.layout, one.workload)
    return float(estimate(ops, hardware or one.hardware).step_time)


def test_what_a_step_goes_to_adds_to_what_was_measured(one):
    """Whatever was measured; nothing but the unexplained is negative, and every part has a name and a sentence."""
    ops = count(one.model, one.layout, one.workload)
    cost = estimate(ops, one.hardware)
    for measured in (0.5, 7.0, 900.0):
        parts = spent(ops, cost, one.hardware, measured)
        assert sum(part["time"] for part in parts) == pytest.approx(measured, rel=1e-9)
        assert sum(part["share"] for part in parts) == pytest.approx(1.0, rel=1e-9)
        assert {part["name"] for part in parts} <= set(SPENT) and parts[0]["name"] == "arithmetic"
        assert all(part["time"] >= 0 for part in parts if part["name"] != "unexplained")


def test_arithmetic_is_the_models_flops_at_the_peak():
    """Without a pipeline, what physics asks for is MFU's own numerator; recompute is no part of it."""
    for layout in ("tp=4", "tp=4,recompute=full"):
        one = design(model="llama3-8b", hardware="dgx-h100", chips=64, layout=layout)
        ops = count(one.model, one.layout, one.workload)
        parts = {p["name"]: p["time"] for p in spent(ops, estimate(ops, one.hardware), one.hardware, 10.0)}
        ideal = float(ops.model_flops) / 64 / float(one.hardware.peak[2])
        assert parts["arithmetic"] == pytest.approx(ideal, rel=0.03)
        assert ("recompute" in parts) == ("full" in layout)


@pytest.mark.parametrize("which", [*suspects.TURNS, "nvlink bandwidth", "infiniband bandwidth"])
def test_a_planted_cause_is_found_with_its_size(which):
    """A machine on which one thing is off by one spread: it is a suspect of oddness one, and says in which way."""
    one = design(model="gpt3-175b", hardware="dgx-a100", chips=128, layout="tp=8,pp=8")
    machine = replace(one.hardware, dispatch=1e-3)  # a host slow enough to matter
    one = dataclasses.replace(one, hardware=machine)
    odd, turn, slow, fast = dict(suspects.turns(machine))[which]
    for step in (-1.0, 1.0):
        measured = step_time(one, turn(machine, math.exp(odd * step)))
        if measured == pytest.approx(step_time(one), rel=1e-6):
            continue  # a share that is one already
        told = [s for s in suspects._constants(one, measured) if s["what"].startswith(which)]
        assert told and told[0]["oddness"] == pytest.approx(1.0, abs=0.02)
        assert told[0]["look"] == (slow if step < 0 else fast)


def test_an_assumption_that_was_wrong_is_the_first_suspect(no_search):
    """A run with full recompute whose layout does not say so; where it does say, the run is as predicted."""
    one = design(model="llama3-70b", hardware="dgx-h100", chips=256, layout="tp=8,pp=4")
    measured = step_time(one, layout=replace(one.layout, recompute=2.0))
    told = diagnose(one, measured, given=frozenset(("tp", "pp")))
    assert told["suspects"][0]["what"] == "recompute=full" and not told["inside"] and told["ratio"] > 1.2
    given = diagnose(one, measured, given=EVERYTHING)
    assert not [s for s in given["suspects"] if "=" in s["what"]]


def test_better_layouts_are_faster_and_can_run():
    """Each is the same model, chips, batch and recipe; its gain is the ratio of predictions, with an interval."""
    one = design(model="llama3-70b", hardware="dgx-h100", chips=256, layout="tp=8,pp=8,recompute=full")
    told = diagnose(one, 12.0, given=EVERYTHING)
    assert told["better"] and len({json.dumps(b["layout"]) for b in told["better"]}) == len(told["better"])
    for better in told["better"]:
        cut = ",".join(f"{k}={v}" for k, v in better["layout"].items() if k not in ("dp", "schedule", "order"))
        other = design(model="llama3-70b", hardware="dgx-h100", chips=256, layout=cut)
        cost = estimate(count(other.model, other.layout, one.workload), one.hardware)
        assert int(cost.verdict) == 0 and other.layout.precision.name == one.layout.precision.name
        ratio = float(cost.step_time) / step_time(one)
        assert better["step_time"] == pytest.approx(12.0 * ratio, rel=1e-3)  # the vocabulary is padded by tp
        assert ratio < 0.99
        assert better["interval"][0] < better["step_time"] < better["interval"][1] and better["changes"]


@pytest.fixture
def no_search(monkeypatch):
    """Without the search for better layouts, which compiles its programs."""
    monkeypatch.setattr(diagnosed, "better", lambda *_: [])


def test_a_run_as_predicted_lies_inside(no_search):
    one = design(model="llama3-8b", hardware="dgx-h100", chips=64, layout="tp=2")
    told = diagnose(one, step_time(one))
    assert told["inside"] and told["ratio"] == pytest.approx(1.0) and abs(told["spreads"]) < 1e-9
    assert "nothing need be wrong" in table(told)


@pytest.mark.parametrize("text", ["8.9", "8.9 GB", "soon", "0 s", "-1 s", "", "inf s"])
def test_a_step_time_has_a_unit(text):
    with pytest.raises(Refused) as refusal:
        seconds(text)
    (problem,) = refusal.value.problems
    assert problem.field == "step_time" and "8.9 s" in problem.hint


@pytest.mark.parametrize(
    ("hardware", "layout", "word"), [("dgx-h100", "tp=7", "heads"), ("dgx-a100", "tp=8,precision=fp8", "type")]
)
def test_a_layout_that_cannot_have_run_is_refused(hardware, layout, word):
    one = design(model="llama3-70b", hardware=hardware, chips=64, layout=layout)
    with pytest.raises(Refused, match=word):
        diagnose(one, 8.9)


def test_a_run_that_we_think_does_not_fit_is_told_all_the_same(no_search):
    one = design(model="llama3-70b", hardware="dgx-h100", chips=64, layout="tp=2,pp=2")
    told = diagnose(one, 60.0)
    assert told["verdict"] == "memory" and "it did" in told["assumed"][0] and told["spent"]


def test_the_verb_reads_what_was_typed_and_shows_itself():
    words = "diagnose --model=llama3-8b --hardware=dgx-h100 --chips=64 --layout=tp=2 layout.zero=1".split()
    told = verbs.diagnose(parse([*words, "--step_time=900 ms"]))
    assert told["measured"] == 0.9 and json.loads(json.dumps(told, allow_nan=False)) == told
    assert not [s for s in told["suspects"] if s["what"].startswith("zero=")]
    text, page = table(told), html_page(told)
    for heading in ("Where the time goes", "What would explain it", "Better layouts"):
        assert heading in text
    assert "Where the time goes" in page and all(len(line) <= 100 for line in text.splitlines())
