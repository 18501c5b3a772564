"""What explain, compare, predict and validate say: parts that add up, keys that are there, mistakes in words."""

import csv
import json
import math

import pytest

from coopt.cost import estimate, explain
from coopt.ops import count
from coopt.problems import Refused
from coopt.study.given.designs import design, parse
from coopt.study.scored import tables
from coopt.study.scored.evidence import card, measurements, nearest
from coopt.study.scored.validated import validate
from coopt.study.told.compared import compare
from coopt.study.told.wishes import gradients
from coopt.tree import replace

H100, B200 = "llama3-70b@dgx-h100:1024/tp=8,pp=4", "llama3-70b@dgx-b200:1024/tp=8,pp=2"


def told(text: str) -> dict:
    one = parse(text)
    return explain(one.model, one.layout, one.workload, one.hardware)


@pytest.mark.parametrize(
    "text", [H100, B200, "deepseek-v3@gb200-nvl72:256/ep=64,pp=4,recompute=full", "llama3-8b@tpu-v5p:64/zero=3"]
)
def test_rows_add_to_the_step(text):
    """E10: times of rows add to the step time; every row has what the command line promises."""
    document = told(text)
    assert document["verdict"] == "fits", document["limits"]
    assert math.fsum(row["time"] for row in document["rows"]) == pytest.approx(document["step_time"], rel=1e-9)
    assert all({"name", "time", "busy", "flops", "bytes", "bound"} <= row.keys() for row in document["rows"])
    assert {"bubble", "overhead", "stragglers"} <= {row["name"] for row in document["rows"]}
    json.dumps(document, allow_nan=False)


def test_gradients_are_a_wish_list():
    """Euler's identity, a tooth that is marked, and a rate that is enough by its own definition."""
    one = parse(H100)
    document = gradients(one)
    assert document["euler"] == pytest.approx(-1.0, abs=1e-9)
    rows = {row["name"]: row for row in document["elasticities"]}
    assert rows["peak bf16"]["step_time"] < rows["nvlink bandwidth"]["step_time"] < 0.0
    assert rows["dollars_hour"]["dollars_per_token"] == pytest.approx(1.0)
    assert rows["nvlink size"]["tooth"] and not rows["bandwidth"]["tooth"]  # tp = 8 fills the domain exactly
    ops = count(one.model, one.layout, one.workload)
    for wish in document["wishes"]:
        if wish["name"] == "bandwidth":
            some, all_of_it = (
                float(estimate(ops, replace(one.hardware, bandwidth=rate)).step_time) for rate in (wish["enough"], 1e30)
            )
            assert some == pytest.approx(1.05 * all_of_it, rel=1e-5)
    assert {wish["name"] for wish in document["wishes"]} >= {"peak bf16", "bandwidth", "infiniband bandwidth"}
    json.dumps(document, allow_nan=False)


def test_mfu_is_its_convention():
    """(6W + 1.5A) tokens / (step x chips x dense peak), with W and A of the model's own file."""
    one = parse(H100)
    document = told(H100)
    d, layers, heads = 8192, 80, 64
    weights = layers * (2 * d * d + 2 * d * 8 * 128 + 3 * d * 28672) + float(one.model.vocab) * d
    attention = 4 * layers * 8192 * heads * 128
    phase = one.workload.train
    flops = (6 * weights + 1.5 * attention) * float(phase.batch * phase.seq_len)
    assert document["mfu"] == pytest.approx(flops / (document["step_time"] * 1024 * 989.4e12), rel=1e-9)


@pytest.mark.parametrize(
    ("text", "limit"),
    [
        ("llama3-70b@dgx-h100:64/tp=2", "memory"),
        ("llama3-70b@dgx-h100:1024/tp=3", "heads"),
        ("llama3-8b@dgx-h100:64/pp=64", "layers"),
        ("llama3-8b@dgx-a100:8/tp=8,precision=fp8", "type"),
    ],
)
def test_what_cannot_run_says_why_and_what_would_fit(text, limit):
    document = told(text)
    assert not document["feasible"] and document["verdict"] == limit and document["step_time"] is None
    (found,) = document["limits"]
    assert found["name"] == limit
    if limit == "memory":
        asked = {"tp": "2"} | dict(part.split("=") for part in found["smallest_change"].split(","))
        one = parse(text)
        again = parse("llama3-70b@dgx-h100:64/" + ",".join(f"{key}={value}" for key, value in asked.items()))
        assert int(estimate(count(again.model, again.layout, one.workload), again.hardware).verdict) == 0


def test_both_explanations_of_a_comparison_add_to_the_whole():
    document = compare([parse(H100), parse(B200, seq_len=8192, global_batch=512)])
    whole = math.log(document["ratio"]["time"])
    for part in ("by_row", "by_rate"):
        assert math.fsum(row["log_ratio"] for row in document[part]) == pytest.approx(whole, abs=1e-6), part
    assert document["ratio"]["time"] < 1 and document["better"] == B200 and document["flips"]
    assert document["interval"][0] < document["ratio"]["time"] < document["interval"][1]
    by_rate = {row["name"]: row["log_ratio"] for row in document["by_rate"]}
    assert by_rate["peak bf16"] == min(by_rate.values())  # the peak is what a B200 is bought for
    assert abs(by_rate["path residual"]) < 1e-4


def test_a_machine_compared_with_itself_is_no_different():
    document = compare([parse(H100), parse(H100)])
    assert document["ratio"]["time"] == 1.0 and document["by_row"] == []


def test_one_design_is_no_comparison():
    with pytest.raises(Refused, match="two designs"):
        compare([parse(H100)])
    with pytest.raises(Refused, match="write `llama3-70b@dgx-h100"):
        parse("llama3-70b on dgx-h100")


def test_every_mistake_of_a_design_is_said_at_once():
    with pytest.raises(Refused) as refusal:
        design(model="lama3-70b", hardware="dgx-h10", chips=8)
    assert len(refusal.value.problems) == 2


def test_the_card_names_the_nearest_published_runs():
    one = design(model="llama3-70b", hardware="dgx-h100", chips=64, layout="tp=4,pp=4,vpp=5", stack="nemo",
                 seq_len=8192, global_batch=128)  # fmt: skip
    told = card(one, 10.0)
    assert told["interval"][0] < 10.0 < told["interval"][1] and told["nearest"][0]["distance"] < 1.0
    (known, *_), (other, *_) = (nearest(each) for each in (one, replace_hardware(one, stack="another")))
    assert known["id"] == other["id"] and other["distance"] == pytest.approx(known["distance"] + 1.0)
    unknown = card(replace_hardware(one, sigma=float("nan")), 10.0)
    assert unknown["interval"][0] < told["interval"][0] and any("never compared" in text for text in unknown["assumed"])


def replace_hardware(one, **changes):
    import dataclasses

    return dataclasses.replace(one, hardware=replace(one.hardware, **changes))


def test_predict_answers_every_row(tmp_path):
    out = tmp_path / "predicted.csv"
    document = tables.predict(str(measurements()), out=str(out))
    with open(out, newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 1249 == document["priced"] + document["refused"]
    assert [row["id"] for row in rows[:3]] == [row["id"] for row in document["rows"][:3]]
    for row in rows:
        assert bool(row["predicted_step_time"]) != row["note"].startswith("not priced"), row
    json.dumps(document, allow_nan=False)


def test_a_broken_table_is_refused_in_words(tmp_path):
    broken = tmp_path / "rows.csv"
    broken.write_text("id,chip\n1,h100-sxm\n")
    with pytest.raises(Refused, match="a column of this name"):
        validate(str(broken))
    with pytest.raises(Refused, match="readable"):
        validate(str(tmp_path / "nothing.csv"))


def test_rows_of_an_unknown_chip_are_skipped_with_a_reason(tmp_path):
    table = tmp_path / "rows.csv"
    with open(measurements(), newline="") as file:
        head, *rows = list(csv.reader(file))
    mine = [row[:] for row in rows[-5:]]
    mine[0][head.index("chip")] = "h1000"
    with open(table, "w", newline="") as file:
        csv.writer(file).writerows([head, *mine])
    document = validate(str(table))
    assert document["scored"] == 4 and sum(document["skipped"].values()) == 1


# ---------------------------------------------------------------- what is asked


def test_what_a_design_is_to_do_is_read_as_numbers_that_can_be():
    """Nothing divides by a sequence of no tokens, and nothing that was typed is left out."""
    with pytest.raises(Refused) as refusal:
        parse("llama3-9b@dgx-h100:8/tp=8", seq_len=0, global_batch=0.0, overrides={"workload.tokens": "nan"})
    assert {problem.field for problem in refusal.value.problems} == {"model", "seq_len", "global_batch", "tokens"}
    with pytest.raises(Refused, match="once"):
        parse("llama3-8b@dgx-h100:8/tp=8", seq_len=64, overrides={"workload.seq_len": "128"})
    packed = parse("llama3-8b@dgx-h100:8/tp=8", seq_len=8192, overrides={"workload.document": "512"})
    whole = parse("llama3-8b@dgx-h100:8/tp=8", seq_len=8192)
    flops = [float(count(one.model, one.layout, one.workload).model_flops) for one in (packed, whole)]
    assert flops[0] < flops[1]


def test_what_a_token_takes_is_the_step_over_its_tokens():
    one = parse(H100)
    document = explain(one.model, one.layout, one.workload, one.hardware)
    cost = estimate(count(one.model, one.layout, one.workload), one.hardware)
    tokens = float(one.workload.train.batch * one.workload.train.seq_len)
    assert document["joules_per_token"] == pytest.approx(float(cost.joules) / tokens)
    assert document["dollars_per_token"] == pytest.approx(float(cost.dollars) / tokens)


def test_a_step_waits_for_the_slowest_of_its_chips():
    """The mean of the slowest of n normal draws is near sqrt(2 ln n) deviations: 3.72 for 1,024 chips."""
    one = parse(H100)
    ops, calm = count(one.model, one.layout, one.workload), replace(one.hardware, jitter=0.0, overhead=0.0)
    slower = estimate(ops, replace(calm, jitter=0.01)).step_time / estimate(ops, calm).step_time
    assert float(ops.chips) == 1024 and slower == pytest.approx(1 + 0.01 * 3.7233, rel=1e-6)


def test_what_is_offloaded_leaves_the_chip_for_its_host():
    one = parse("llama3-8b@dgx-h100:8/tp=2")
    kept, half = (count(one.model, replace(one.layout, offload=share), one.workload).memory for share in (0.0, 0.5))
    assert float(kept.host) == 0 < float(half.host)
    gone, sent = float(kept.activations - half.activations), float(half.host)
    assert 0.9 * sent < gone < sent  # of 32 layers, one is in use on the chip and one under way
