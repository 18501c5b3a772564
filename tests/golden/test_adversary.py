"""The adversary's findings: nothing undercuts its floor, and the worst disagreements found get no worse."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from coopt.search import adversary
from coopt.search.layouts import layout_space
from coopt.search.space import Candidate, all_digits, axis, candidate, flat, put, size
from coopt.spec import load
from coopt.spec.nouns import training
from coopt.tree import replace

WORSE = 1.10  # how much further from its witness a case may drift before somebody should look


def corners(model, chips):
    """Layouts of a model with sequences and batches wide enough for odd corners."""
    return layout_space(
        model, training(4096.0, 512.0), chips=chips,
        choices={"vpp": (1, 2, 4, 5, 8), "micro_batch": (1, 2, 4), "schedule": (0, 1)},
        axes=[axis("seq_len", "workload.phases.0.seq_len", [512, 2048, 8192, 32768]),
              axis("batch", "workload.phases.0.batch", [128, 512, 2048])],
    )  # fmt: skip


def stored(repository):
    return json.loads((repository / "tests" / "data" / "adversary.json").read_text())


def test_the_worst_found_get_no_worse(repository):
    cases = stored(repository)
    assert len(cases) >= 10 and {case["witness"] for case in cases} == {"floor", "replay"}
    for case in cases:
        base = Candidate(model=load.model(case["model"]), workload=training(1.0, 1.0),
                         hardware=load.resolve(case["hardware"], chips=case["chips"]))  # fmt: skip
        told = adversary.witnessed(put(base, case["leaves"]), case["witness"])
        assert told is not None, case
        factor = told[0] / told[1]
        assert abs(math.log(factor)) <= abs(math.log(case["factor"])) + math.log(WORSE), (case, factor)
        assert case["witness"] != "floor" or factor >= 1.0


@pytest.mark.parametrize(("model", "hardware"), [("llama3-70b", "dgx-h100"), ("gpt3-175b", "dgx-a100")])
def test_no_candidate_undercuts_its_floor(model, hardware, rng):
    """E2, by a bound written apart from the model: 20,000 candidates, and what evolution finds."""
    space, machine = corners(load.model(model), 512), load.resolve(hardware, chips=512)
    space = type(space)(axes=space.axes, base=replace(space.base, hardware=machine))
    drawn = all_digits(space, rng.integers(0, size(space), 20_000))
    with np.errstate(all="ignore"):
        score = adversary.above_floor(flat(space, drawn), ("flaw",))
    runs = np.broadcast_to(score.verdict, 20_000) < 0.5
    assert runs.sum() > 500 and (np.broadcast_to(score.objectives[0], 20_000)[runs] > 1.0).all()


def test_unequal_chunks_replay_nearly_as_they_are_priced(rng):
    """80 layers in chunks that do not divide them: stages wait for one another by their layers, not chunk by chunk."""
    space, machine = corners(load.model("llama3-70b"), 512), load.resolve("dgx-h100", chips=512)
    factors = []
    for which in rng.integers(0, size(space), 8000):
        one = replace(candidate(space, int(which)), hardware=machine)
        uneven = 80 % (one.layout.pp * one.layout.vpp) != 0 and one.layout.vpp > 1.5
        if uneven and (told := adversary.witnessed(one, "replay")):
            factors.append(told[0] / told[1])
        if len(factors) == 40:
            break
    assert len(factors) >= 20
    assert 0.85 < min(factors) and max(factors) < 1.20 and abs(np.median(factors) - 1.0) < 0.05, sorted(factors)


def test_equal_chunks_replay_as_they_are_priced(rng):
    """1F1B and GPipe, interleaved and not: where stages are equal the closed form is the replay, sends aside."""
    space, machine = corners(load.model("gpt3-175b"), 512), load.resolve("dgx-a100", chips=512)
    factors = []
    for which in rng.integers(0, size(space), 4000):
        one = replace(candidate(space, int(which)), hardware=machine)
        if 96 % (one.layout.pp * one.layout.vpp) == 0 and (told := adversary.witnessed(one, "replay")):
            factors.append(told[0] / told[1])
        if len(factors) == 40:
            break
    assert len(factors) >= 10
    assert 0.95 < min(factors) and max(factors) < 1.20, (min(factors), max(factors))


def test_a_replay_counts_by_hand():
    """Two stages, four micro-batches: (m + p - 1)(f + b); interleaving halves the bubble; one stage has none."""
    assert adversary.replay(forward=[1.0, 1.0], backward=[2.0, 2.0], send=0.0, micro_batches=4) == 15.0
    assert adversary.replay(forward=[1.0], backward=[2.0], send=9.0, micro_batches=4) == 12.0
    half = adversary.replay(forward=[0.5] * 4, backward=[1.0] * 4, send=0.0, micro_batches=4, chunks=2)
    assert half == pytest.approx(4 * 3.0 + 1.5)
    gpipe = adversary.replay(forward=[1.0] * 4, backward=[2.0] * 4, send=0.0, micro_batches=8, schedule=1.0)
    assert gpipe == (8 + 3) * 3.0
    slow = adversary.replay(forward=[1.0, 3.0, 1.0], backward=[2.0, 6.0, 2.0], send=0.0, micro_batches=6)
    assert slow == 1.0 + 6 * 9.0 + 2.0  # what follows the slow stage hides behind its next forward


def test_the_command_finds_what_its_own_json_reproduces(capsys):
    """`coopt search --adversary`: every case it lists, put into a candidate again, has the factor it says."""
    from coopt.cli import main, read

    words = "coopt search --adversary --model=llama3-8b --hardware=dgx-h100 --chips=16 --top=2 --format=json"
    options = read([*words.split(), "layout.precision=bf16"])
    assert main(options) == 0
    found = json.loads(capsys.readouterr().out)["disagreements"]
    assert {one["witness"] for one in found} == {"floor", "replay"}
    for one in found:
        base = Candidate(model=load.model(one["model"]), workload=training(8192.0, 1.0),
                         hardware=load.resolve(one["hardware"], chips=one["chips"]))  # fmt: skip
        told = adversary.witnessed(put(base, one["leaves"]), one["witness"])
        assert told is not None and told[0] / told[1] == pytest.approx(one["factor"], rel=1e-6)
        assert one["witness"] != "floor" or one["factor"] >= 1.0
