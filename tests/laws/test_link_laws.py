"""Laws of communication beside compute and beside other communication: links are shared, cores are taken."""

from __future__ import annotations

import numpy as np
import pytest

from coopt.cost import estimate
from coopt.cost.estimate import alone
from coopt.ops import count
from coopt.ops.rows import wire
from coopt.spec.nouns import Hardware, LayerKind, Layout, Model, Ops, Row, Tier, training
from coopt.tree import replace
from tests.laws.strategies import Case, cases
from tests.laws.test_cost_laws import QUICK, ROUNDING, holds, price, wide

ON_LINKS = ("tensor", "context", "expert", "data", "copies")
MIXTURE = Model(
    d_model=4096.0,
    vocab=32000.0,
    kinds=(LayerKind(count=32.0, feedforward="moe", heads=32.0, kv_heads=8.0, head_dim=128.0, experts=64.0, top_k=4.0,
                     d_expert=4096.0),),
)  # fmt: skip


@pytest.mark.parametrize("shape", ["gpt", "moe", "mixed", "sparse"])
def test_no_link_carries_more_than_it_can(shape, request):
    """On one stage, what all kinds send over a tier in a step, one after another, is never longer than the step."""
    drawn = cases(np.random.default_rng(request.config.getoption("--seed") + 31), QUICK, shape, pipelines=False)
    ops = count(drawn.model, drawn.layout, drawn.workload)
    step = estimate(ops, drawn.hardware).step_time
    times = {"layer": ops.micro_batches * ops.layers, "step": 1.0}
    for tier in range(len(drawn.hardware.tiers)):
        sent = sum(
            times[row.scope] * row.count * alone(drawn.hardware, row).links[tier]
            for row in ops.rows
            if row.scope in times and row.group in ON_LINKS
        )
        holds(drawn, np.asarray(sent) <= step * (1 + ROUNDING), ("on the link", sent), ("step", step))


def net(**changes) -> Hardware:
    """Chips that compute slowly, eight to a domain; everything that can hide may."""
    inner, outer = Tier(size=8.0, bandwidth=2e11), Tier(bandwidth=2.5e10)
    base = Hardware(peak=(1e14,) * 8, bandwidth=2e12, memory=1e12, cores=100.0, tiers=(inner, outer), kernel=0.0)
    return replace(base, hide_tensor=1.0, hide_data=1.0, jitter=0.0, **changes)


def test_kinds_on_one_link_slow_each_other_and_on_two_do_not():
    """By hand: a second of compute, 0.8 s of weights on the outer link, 0.8 s of tokens elsewhere or on it too."""

    def step(stride: float, size: float) -> float:
        tier = net().tiers[0 if stride < 8 else 1]
        tokens = 0.8 * tier.bandwidth * size / (size - 1.0)
        rows = (
            Row(name="work", kind="elementwise", count=1.0, read=2e12),
            wire("weights", collective="all_gather", group="data", phase="forward", count=1.0,
                 payload=0.8 * 2.5e10 * 4.0 / 3.0, size=4.0, stride=8.0),
            wire("tokens", collective="all_gather", group="expert", phase="forward", count=1.0,
                 payload=tokens, size=size, stride=stride),
        )  # fmt: skip
        ops = Ops(rows=rows, chips=32.0, tokens=1.0, layers=1.0, layers_first=1.0, layers_middle=1.0, layers_last=1.0)
        return float(estimate(ops, net(stream=1.0)).step_time)

    assert step(stride=1.0, size=8.0) == pytest.approx(1.0, rel=1e-6)
    assert step(stride=8.0, size=4.0) == pytest.approx(1.6, rel=1e-6)


@pytest.mark.parametrize("shape", ["llama", "moe"])
def test_cores_are_taken_only_by_what_is_hidden(shape, request):
    """Nothing hidden, nothing moves, to the last bit; and hiding always pays, since fewer cores go than there are."""
    drawn = cases(np.random.default_rng(request.config.getoption("--seed") + 32), QUICK, shape)
    bare, plain = replace(drawn.hardware, hide_tensor=0.0, hide_data=0.0), replace(drawn.layout, paired=0.0)
    told = [price(Case(drawn.model, plain, drawn.workload, replace(bare, stolen=s))).step_time for s in (0.0, 0.4)]
    assert np.array_equal(*(wide(one, drawn) for one in told))
    hidden = price(Case(drawn.model, drawn.layout, drawn.workload, replace(drawn.hardware, stolen=0.4))).step_time
    holds(drawn, hidden <= told[0] * (1 + ROUNDING), ("hidden", hidden), ("not", told[0]))


def test_hidden_communication_slows_compute_by_the_cores_it_takes():
    """By hand: a gather that hides wholly behind compute takes a fifth of the cores for as long as it lasts."""
    layout, work = Layout(dp=32.0, fsdp=32.0, zero=3.0, micro_batch=4.0), training(4096.0, 128.0)
    dense = replace(MIXTURE, kinds=(LayerKind(count=32.0, heads=32.0, kv_heads=8.0, head_dim=128.0, d_ff=14336.0),))
    ops = count(dense, layout, work)
    free, taken = (float(estimate(ops, net(stolen=share)).step_time) for share in (0.0, 0.2))
    rows = [row for row in ops.rows if row.group == "data"]
    sent = sum(float(row.count * alone(net(), row).time * (32.0 if row.scope == "layer" else 1.0)) for row in rows)
    assert taken - free == pytest.approx(0.2 * sent, rel=1e-6)
