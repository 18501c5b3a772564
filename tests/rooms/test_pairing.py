"""Mixtures on many chips: collectives behind another micro-batch, pipelines that run both ways, tokens kept near, and
what is made again module by module: each test changes one thing and says what must follow.
"""

import numpy as np
import pytest

from coopt.cost import estimate
from coopt.cost.collectives import collective_time
from coopt.fit import rows, runs
from coopt.ops import count
from coopt.spec import load
from coopt.spec.nouns import PRECISIONS, VERDICTS, Row, Tier, training
from coopt.study.scored import tables
from coopt.study.scored.evidence import measurements
from coopt.tree import replace

MODULES = ("recompute_norm", "recompute_act", "recompute_up", "recompute_mlp")
WORK = training(4096.0, 15360.0)


@pytest.fixture(scope="module")
def machine():
    return replace(load.resolve("dgx-h800", chips=2048), stolen=0.0)


@pytest.fixture(scope="module")
def model():
    return load.model("deepseek-v3")


@pytest.fixture(scope="module")
def layout(machine, model):
    return load.layout("pp=16,ep=64,zero=1,precision=fp8-cached,transport=deduplicated", hardware=machine, model=model)[
        0
    ]


def cost(model, layout, machine, work=WORK):
    return estimate(count(model, layout, work), machine)


def seconds(*args, **more) -> float:
    return float(cost(*args, **more).step_time)


def shown(model, layout, machine, work=WORK) -> float:
    """Seconds of expert collectives that show in a step."""
    priced = cost(model, layout, machine, work)
    return sum(float(t) for name, t in zip(priced.names, priced.time, strict=False) if ".ep." in name)


def test_what_is_paired_hides_behind_computing_as_far_as_there_is_any(machine, model, layout):
    fast = replace(machine, tiers=tuple(replace(tier, bandwidth=20.0 * tier.bandwidth) for tier in machine.tiers))
    pair = replace(layout, paired=1.0)
    m = float(count(model, layout, WORK).micro_batches)
    assert m == 120.0
    # one micro-batch of m meets no other, and while the pipeline fills and drains none does
    assert shown(model, pair, fast) == pytest.approx(shown(model, layout, fast) / m, rel=1e-6)
    # what sends takes cores, 20 of an H800's 132, and slows what it hides behind
    taking = replace(fast, stolen=load.resolve("dgx-h800", chips=2048).stolen)
    priced = cost(model, pair, fast)
    sent = sum(float(busy) for name, busy in zip(priced.names, priced.busy, strict=True) if ".ep." in name)
    assert float(taking.stolen) == 20 / 132
    assert 0.9 * 20 / 132 * sent < shown(model, pair, taking) < 1.1 * 20 / 132 * sent + shown(model, pair, fast)
    # where sending takes longer than computing, as much shows as is longer
    slow = replace(machine, tiers=tuple(replace(tier, bandwidth=tier.bandwidth / 4.0) for tier in machine.tiers))
    assert 0.5 * shown(model, layout, slow) < shown(model, pair, slow) <= shown(model, layout, slow) * (1 + 1e-12)
    assert seconds(model, pair, machine) < seconds(model, layout, machine)
    rows = [float(t) for t in cost(model, pair, machine).time]
    assert sum(rows) == pytest.approx(seconds(model, pair, machine), rel=1e-9)


@pytest.mark.parametrize("row, without, with_it", [("mbridge-265", 19.7, 17.6), ("mbridge-050", 24.714, 20.992)])
def test_pairing_saves_what_was_measured(row, without, with_it):
    """Qwen3 235B on 256 H100 (Megatron MoE model zoo), 30B on 16 (Megatron-Bridge, pull request 5129): 11 and 15%."""
    ((_, one),), _ = tables.designs([given for given in rows.read(measurements()) if given["id"] == row])
    plain, pair = (
        seconds(one.model, replace(one.layout, paired=paired), one.hardware, one.workload) for paired in (0.0, 1.0)
    )
    assert pair / plain == pytest.approx(with_it / without, abs=0.03)


def test_one_micro_batch_alone_meets_no_other(machine, model, layout):
    alone, few = replace(layout, pp=1.0, dp=2048.0, fsdp=2048.0), training(4096.0, 2048.0)
    assert seconds(model, replace(alone, paired=1.0), machine, few) == seconds(model, alone, machine, few)
    two = training(4096.0, 4096.0)
    saved = seconds(model, alone, machine, two) - seconds(model, replace(alone, paired=1.0), machine, two)
    assert saved > 0.0


def test_nothing_changes_where_there_are_no_experts(machine):
    dense = load.model("llama3-70b")
    plain = load.layout("tp=8,pp=4", hardware=machine, model=dense)[0]
    work = training(8192.0, 1024.0)
    assert seconds(dense, replace(plain, paired=1.0), machine, work) == pytest.approx(
        seconds(dense, plain, machine, work), rel=0.01
    )  # messages between stages may hide as well


def test_a_pipeline_both_ways_holds_two_stages(machine, model, layout):
    plain, both = (count(model, replace(layout, dualpipe=code), WORK) for code in (0.0, 1.0))
    assert float(both.memory.parameters) == 2.0 * float(plain.memory.parameters)
    assert float(both.memory.gradients) == 2.0 * float(plain.memory.gradients)
    assert float(both.memory.optimizer) == pytest.approx(float(plain.memory.optimizer))  # over twice the chips
    pair, cut = replace(layout, paired=1.0), load.layout("pp=16,dualpipe=1", hardware=machine)[0]
    assert seconds(model, replace(pair, dualpipe=1.0), machine) < seconds(model, pair, machine)
    assert (cut.dualpipe, cut.paired) == (1.0, 1.0)


@pytest.mark.parametrize(
    "changed, batch, verdict",
    [({}, 15360.0, "fits"), ({"pp": 15.0}, 15360.0, "schedule"), ({}, 128.0 * 30, "schedule"),
     ({}, 128.0 * 33, "schedule"), ({"vpp": 2.0}, 128.0 * 32, "schedule")],
)  # fmt: skip
def test_a_pipeline_both_ways_needs_even_numbers(model, layout, changed, batch, verdict):
    both = replace(layout, dualpipe=1.0, **changed)
    assert VERDICTS[int(count(model, both, training(4096.0, batch)).verdict)] == verdict


@pytest.mark.parametrize("chips", [32, 64, 128])
def test_a_token_that_stays_in_a_few_groups_reaches_fewer_nodes(chips):
    """Counted by hand: 4 of 8 groups at random, 8 chips among theirs, nodes of 8 chips."""
    rng = np.random.default_rng(3)
    groups = rng.permuted(np.tile(np.arange(8), (20_000, 1)), axis=1)[:, :4]
    member = rng.integers(0, 4 * chips // 8, (20_000, 8))
    chosen = np.take_along_axis(groups, member // (chips // 8), axis=1) * (chips // 8) + member % (chips // 8)
    reached = np.mean([len(set(one.tolist()) - {0}) for one in chosen // 8])
    net = load.resolve("dgx-h800", chips=chips)
    outer = Tier(size=float("inf"), bandwidth=1e9)
    net = replace(net, tiers=(Tier(size=8.0, bandwidth=1e30), outer))
    sent = Row(collective="all_to_all", payload=8e9, size=float(chips), fan=8.0)
    near = replace(sent, parts=8.0, top_parts=4.0)
    assert float(collective_time(net, near)) == pytest.approx(reached, rel=0.02)
    assert float(collective_time(net, near)) < 0.85 * float(collective_time(net, sent))
    every = replace(sent, parts=8.0, top_parts=8.0)
    assert float(collective_time(net, every)) == pytest.approx(float(collective_time(net, sent)), rel=1e-12)


@pytest.mark.parametrize("module", MODULES)
def test_each_module_made_again_saves_memory_and_costs_time(machine, model, layout, module):
    less = replace(layout, **{module: 1.0})
    before, after = count(model, layout, WORK), count(model, less, WORK)
    assert float(after.memory.activations) < float(before.memory.activations)
    assert seconds(model, less, machine) > seconds(model, layout, machine)
    again = {row.name for row in after.rows if row.phase == "recompute" and float(row.count) > 0}
    assert again and not {row.name for row in before.rows if row.phase == "recompute" and float(row.count) > 0}
    words = {"recompute_norm": "norm", "recompute_act": "act", "recompute_up": "up", "recompute_mlp": "mlp."}
    assert all(words[module] in name or "rope" in name for name in again)


def test_everything_is_made_again_once(machine, model, layout):
    full = replace(layout, recompute=2.0)
    every = replace(full, **dict.fromkeys(MODULES, 1.0))
    assert seconds(model, every, machine) == pytest.approx(seconds(model, full, machine), rel=0.01)
    assert seconds(model, every, machine) >= seconds(model, full, machine)


def test_inputs_in_eight_bits_keep_half(model, layout):
    wide = replace(layout, precision=replace(layout.precision, kept=2.0))
    mixture, narrow = model.kinds[1], count(model, layout, WORK).memory.activations
    saved = float(count(model, wide, WORK).memory.activations - narrow)
    tokens, copies = 4096.0, 8.0 * 1.2
    # norms' outputs, ranks, routed tokens, what goes into the activation and comes out, of a layer and micro-batch
    layer = 2 * 7168 + 2112 + copies * (7168 + 3 * 2048) + 3 * 2048
    dense = 2 * 7168 + 2112 + 3 * 18432
    mean = (float(mixture.count) * layer + 3 * dense) / 61
    assert saved == pytest.approx(tokens * mean * 4 * 15, rel=0.08)  # 4 layers of 15 micro-batches, and one's backward
    assert PRECISIONS["fp8-cached"].kept == 1.0 and PRECISIONS["fp8"].kept == 2.0


def test_words_of_notes_are_fields():
    row = {"notes": "DualPipe; DeepEP; norms recomputed", "tp": "1", "pp": "16", "n_chips": "2048", "experts": "256",
           "global_batch": "15360", "micro_batch": "1", "attn_type": "mla", "ep": "64"}  # fmt: skip
    cut, said = runs.layout(row, {})
    assert (cut.dualpipe, cut.recompute_norm, cut.recompute_up, cut.transport) == (1.0, 1.0, 0.0, 1.0)
    assert {"DualPipe, by the notes", "norms recomputed, by the notes"} <= set(said)
