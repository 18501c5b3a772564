"""What the cost model is made of, one effect at a time: each test changes one thing and says what must follow."""

from __future__ import annotations

import numpy as np
import pytest

from coopt.cost import estimate
from coopt.cost.collectives import collective_time, crossed, ring_steps
from coopt.fit import rows
from coopt.ops import count
from coopt.ops.shapes import mixing, model_flops, parameters
from coopt.ops.weights import stages
from coopt.spec import load
from coopt.spec.nouns import Hardware, LayerKind, Layout, Model, Row, Tier, training
from coopt.study.scored import tables
from coopt.study.scored.evidence import measurements
from coopt.tree import replace

MIXTURE = LayerKind(
    count=16.0, heads=32.0, kv_heads=8.0, head_dim=128.0, feedforward="moe", experts=64.0, top_k=8.0, d_expert=1024.0
)
DENSE = LayerKind(count=32.0, heads=32.0, kv_heads=8.0, head_dim=128.0, d_ff=14336.0)
MOE = Model(d_model=4096.0, vocab=128256.0, kinds=(MIXTURE,))
LLAMA = Model(d_model=4096.0, vocab=128256.0, kinds=(DENSE,))
SPREAD = Layout(dp=32.0, fsdp=32.0, ep=32.0, micro_batch=1.0)
WORK = training(4096.0, 256.0)


@pytest.fixture(scope="module")
def h100() -> Hardware:
    return load.resolve("dgx-h100", chips=32)


def seconds(model, layout, machine, work=WORK) -> float:
    return float(estimate(count(model, layout, work), machine).step_time)


def row_of(model, layout, name, work=WORK) -> Row:
    return next(row for row in count(model, layout, work).rows if row.name == name)


def test_a_token_crosses_to_a_node_once_where_copies_are_deduplicated():
    """Counted by hand over random choices of 8 of 32 chips in 4 nodes, with replacement as the formula has it."""
    rng = np.random.default_rng(3)
    chosen = rng.integers(0, 32, (20_000, 8)) // 8
    reached = np.mean([len(set(one.tolist()) - {0}) for one in chosen])
    outer = Tier(size=float("inf"), bandwidth=1e9)
    net = Hardware(tiers=(Tier(size=8.0, bandwidth=1e30), outer))
    told = float(collective_time(net, Row(collective="all_to_all", payload=8e9, size=32.0, fan=8.0)))
    assert told == pytest.approx(reached, rel=0.01)
    assert float(collective_time(net, Row(collective="all_to_all", payload=8e9, size=32.0))) == pytest.approx(6.0)


def test_transports_cost_what_they_send(h100):
    plain, once = (seconds(MOE, replace(SPREAD, transport=float(code)), h100) for code in (0, 1))
    assert once < 0.8 * plain
    gathered = row_of(MOE, replace(SPREAD, transport=2.0), "mlp.ep.gather")
    assert float(gathered.payload) == 4096.0 * 4096.0 * 2.0 * 32.0 and float(gathered.count) == 1.0


def test_the_fullest_chip_is_waited_for_and_capacity_bounds_it(h100):
    balanced, crowded = seconds(MOE, SPREAD, h100), seconds(MOE, replace(SPREAD, imbalance=1.5), h100)
    assert 1.05 < crowded / balanced < 1.5
    kept = replace(SPREAD, imbalance=1.5, capacity=1.0)
    assert float(row_of(MOE, kept, "mlp.expert_up").m) == float(row_of(MOE, SPREAD, "mlp.expert_up").m)
    memory = [float(count(MOE, one, WORK).memory.activations) for one in (SPREAD, replace(SPREAD, imbalance=1.5))]
    assert memory[1] > memory[0]


def test_a_host_that_must_look_cannot_run_ahead(h100):
    """Launching and running overlap in a dense layer; a mixture that takes what comes reads back how much."""
    slow = replace(h100, dispatch=4e-5)
    ample = replace(SPREAD, capacity=1.0)
    assert seconds(MOE, SPREAD, slow) > 1.02 * seconds(MOE, ample, slow)
    assert seconds(MOE, replace(SPREAD, graphs=1.0), slow) == pytest.approx(
        seconds(MOE, replace(SPREAD, graphs=1.0), replace(slow, dispatch=0.0))
    )


def test_a_host_that_is_slow_hides_what_shows_of_collectives(h100):
    """The layer takes the longer of launching and running; collectives are launched too."""
    layout = Layout(tp=8.0, dp=4.0, fsdp=4.0, micro_batch=1.0, sp=1.0)
    slow = replace(h100, dispatch=1e-3)
    faster_links = tuple(replace(tier, bandwidth=tier.bandwidth * 2) for tier in slow.tiers)
    cost, again = (estimate(count(LLAMA, layout, WORK), m) for m in (slow, replace(slow, tiers=faster_links)))
    assert float(cost.step_time) == pytest.approx(float(again.step_time), rel=2e-3)
    plain, launched = (count(LLAMA, replace(layout, sp=sp), WORK) for sp in (0.0, 1.0))
    assert float(estimate(launched, slow).step_time) > float(estimate(plain, slow).step_time)


@pytest.mark.parametrize(
    ("sp", "recompute", "beside"), [(0.0, 0.0, 2 / 4), (1.0, 0.0, 4 / 10), (0.0, 2.0, 2 / 6), (1.0, 2.0, 4 / 14)]
)
def test_tensor_collectives_hide_only_where_products_do_not_wait_for_them(h100, sp, recompute, beside):
    """None; of the gathers and scatters of a layer, those beside the other product backward; or all."""
    layout = Layout(tp=8.0, dp=4.0, fsdp=4.0, micro_batch=1.0, sp=sp, recompute=recompute)

    def shown(**changed):
        cost = estimate(count(LLAMA, replace(layout, **changed), WORK), h100)
        return sum(
            float(time)
            for name, time in zip(cost.names, cost.time, strict=True)
            if ".tp." in name and "head" not in name and "loss" not in name
        )

    none, hide = shown(), float(h100.hide_tensor)
    assert shown(overlap=1.0) == shown(overlap=1.0, beside=1.0) == pytest.approx((1.0 - hide) * none, rel=1e-6)
    assert shown(beside=1.0) == pytest.approx((1.0 - hide * beside) * none, rel=1e-6)


def test_gradients_are_added_up_by_products_or_by_kernels(h100):
    """Apart, a gradient is written as it is, read again and added to what is kept: 2 + (2 + 4 + 4) bytes for 4 + 4."""
    layout = Layout(tp=8.0, dp=4.0, fsdp=4.0, micro_batch=1.0)

    def moved(apart):
        rows = count(LLAMA, replace(layout, apart=apart), WORK).rows
        wanted = [
            row for row in rows if row.scope == "layer" and (row.name.endswith(".dw") or row.name == "accumulate")
        ]
        inputs = 2.0 * sum(row.count * row.k * (row.m + row.n) for row in wanted if row.name.endswith(".dw"))
        return sum(float(row.count * (row.read + row.written)) for row in wanted) - inputs

    weights = 4096.0 * (6144 + 4096 + 3 * 14336) / 8
    assert moved(0.0) == pytest.approx(8.0 * weights)
    assert moved(1.0) == pytest.approx((2.0 + 10.0 * 63 / 64) * weights, rel=1e-3)  # the first of 64 finds nothing
    assert seconds(LLAMA, replace(layout, apart=1.0), h100) > seconds(LLAMA, layout, h100)


def test_a_compiler_makes_again_what_it_did_not_keep_and_what_is_read():
    """All but the last product, whose result nobody reads unless it is weighed; what lies between under any policy."""

    def again(model, kind, **changed):
        rows = count(model, Layout(dp=32.0, micro_batch=1.0, **changed), WORK).rows
        return {row.name for row in rows if row.phase == "recompute" and row.kind == kind and float(row.count) > 0.0}

    trainer, compiled = (again(LLAMA, "matmul", recompute=2.0, traced=traced) for traced in (0.0, 1.0))
    assert trainer - compiled == {"mlp.down.again"} and "mlp.up.again" in compiled
    assert "mlp.expert_down.again" in again(MOE, "matmul", recompute=2.0, traced=1.0)
    assert not again(LLAMA, "matmul", recompute=1.0, traced=1.0)
    assert again(LLAMA, "elementwise", recompute=1.0, traced=0.0) <= {"attn.softmax.again"}
    assert again(LLAMA, "elementwise", recompute=1.0, traced=1.0) == again(LLAMA, "elementwise", recompute=2.0)


@pytest.mark.parametrize("zero", [0.0, 1.0, 3.0])
def test_late_data_collectives_hide_behind_nothing(h100, zero):
    layout = Layout(dp=32.0, fsdp=32.0, micro_batch=8.0, zero=zero)

    def shown(late):
        cost = estimate(count(LLAMA, replace(layout, late=late), WORK), h100)
        told = zip(cost.names, cost.time, cost.busy, strict=True)
        return np.array([(float(time), float(busy)) for name, time, busy in told if name.startswith("data.")]).sum(0)

    time, busy = shown(1.0)
    assert time == pytest.approx(busy, rel=1e-9)
    assert shown(0.0)[0] == pytest.approx((1.0 - float(h100.hide_data)) * busy, rel=1e-6)


def test_a_gather_has_rings_alone():
    """Latency of a gather grows with the chips; that of an all-reduce with their logarithm."""
    net = Hardware(tiers=(Tier(size=8.0, latency=1e-6, bandwidth=1e30), Tier(latency=1e-5, bandwidth=1e30)))

    def told(kind, size):
        return float(collective_time(net, Row(kind="collective", collective=kind, size=size)))

    start = 4 * 1e-6 + 4 * 1e-5
    assert told("all_gather", 512.0) == pytest.approx(start + 63 * 1e-5 + 448 * 1e-6)
    assert told("all_reduce", 512.0) < 0.5 * told("all_gather", 512.0)
    torus = Tier(size=512.0, axes=3.0)
    assert float(ring_steps(torus, 512.0, 1.0)) == pytest.approx(3 * (8 - 1))


def test_pieces_cost_latency_and_copies(h100):
    sharded = Layout(dp=32.0, fsdp=32.0, zero=3.0, micro_batch=1.0)
    whole, pieces = (count(LLAMA, replace(sharded, pieces=p), WORK) for p in (1.0, 12.0))
    sent = [
        sum(float(row.count * row.payload) for row in ops.rows if ".fsdp." in row.name and row.scope == "layer")
        for ops in (whole, pieces)
    ]
    gradients = float(row_of(LLAMA, sharded, "data.fsdp.scatter").payload)
    assert sent[1] == pytest.approx(sent[0] + gradients)  # which go to everybody
    again = replace(sharded, pieces=12.0, recompute=2.0)
    gathers = row_of(LLAMA, again, "data.fsdp.gather.dx"), row_of(LLAMA, again, "data.fsdp.gather")
    assert float(gathers[0].count) == 2.0 * float(gathers[1].count)  # once more for what is recomputed
    assert float(estimate(pieces, h100).step_time) > float(estimate(whole, h100).step_time)


def test_messages_between_stages_hide_behind_other_chunks(h100):
    """One message a micro-batch shows; with chunks to work on meanwhile, it does not, where the stack overlaps."""
    layout = Layout(tp=1.0, pp=4.0, dp=8.0, fsdp=8.0, vpp=2.0, micro_batch=1.0)

    def sent(**changed):
        cost = estimate(count(LLAMA, replace(layout, **changed), WORK), h100)
        return sum(float(t) for name, t in zip(cost.names, cost.time, strict=True) if name.startswith("pipeline.send"))

    assert sent(overlap=1.0) == 0.0 < sent(overlap=0.0)
    assert sent(vpp=1.0, overlap=1.0) == pytest.approx(0.5 * sent(overlap=0.0), rel=1e-6)


def test_a_fused_loss_moves_a_fifth(h100):
    plain, fused = (
        sum(
            float(row.count * (row.read + row.written))
            for row in count(LLAMA, Layout(fused_loss=f), WORK).rows
            if row.name.startswith("loss") and row.kind == "elementwise"
        )
        for f in (0.0, 1.0)
    )
    logits = 4096.0 * 128256.0
    assert plain == (5 * 2 + 42) * logits and fused == 10 * logits


def test_further_predictions_stand_on_the_last_stage():
    """One more layer, projection and head: (6W + 1.5A) grows by theirs, and the last stage has fewer layers for it."""
    more = replace(MOE, mtp=1)
    layer = model_flops(replace(MOE, kinds=(replace(MIXTURE, count=1.0),)), 4096.0)
    grown = model_flops(more, 4096.0) - model_flops(MOE, 4096.0)
    assert grown == pytest.approx(layer + 12 * 4096.0**2)
    cut = Layout(pp=4.0)
    odd = replace(more, kinds=(replace(MIXTURE, count=14.0),))
    assert (stages(odd, cut).first, stages(odd, cut).last) == (4.0, 2.0)
    names = {row.name for row in count(more, Layout(), WORK).rows} - {
        row.name for row in count(MOE, Layout(), WORK).rows
    }
    assert {"mtp.projection", "mtp.attn.qkv", "mtp.head"} <= names and all(name.startswith("mtp.") for name in names)


def test_the_second_stage_is_the_fullest_behind_dense_layers():
    lead = replace(DENSE, count=2.0, d_ff=4096.0)
    model = replace(MOE, kinds=(lead, replace(MIXTURE, count=14.0)))
    mixed, alone = (count(one, Layout(pp=2.0, dp=4.0, fsdp=4.0), WORK).memory for one in (model, MOE))
    assert float(mixed.parameters) == pytest.approx(float(alone.parameters), rel=1e-2)
    one = float(
        count(
            replace(model, kinds=(replace(lead, count=8.0), replace(MIXTURE, count=8.0))), Layout(pp=2.0), WORK
        ).memory.parameters
    )
    assert one < 0.6 * float(mixed.parameters)  # in turns: every stage has half of each


def test_notes_and_columns_are_read_as_they_stand():
    """What the published wording says beside the columns, and which description a name stands for on later chips."""
    base = {
        "id": "x", "chip": "h100-sxm", "n_chips": "8", "layers": "4", "d_model": "1024", "heads": "8", "d_ff": "4096",
        "vocab": "50257", "seq_len": "2048", "global_batch": "64", "tp": "1", "pp": "1", "mlp_gated": "yes",
    }  # fmt: skip

    def design(**given):
        found, skipped = tables.designs([{**base, **given}])
        assert not skipped
        return found[0][1]

    assert rows.stack({"stack": "nemo", "notes": "MaxText/JAX on H100"}) == "maxtext"
    assert design(stack="megatron-lm").hardware.stack == "megatron-bridge"
    assert design(stack="megatron-lm", chip="a100-80gb").hardware.stack == "megatron-lm"
    unsaid = design(stack="maxtext", dtype="fp8 (README default job; unclear)")
    assert unsaid.layout.precision.name == "fp8" and any("fp8" in note for note in unsaid.notes)
    mixture = {"stack": "megatron-bridge", "experts": "8", "topk": "2", "moe_d_ff": "512", "ep": "8"}
    dropped = design(**mixture, notes="variant: x (tokendrop)").layout
    assert (dropped.capacity, dropped.graphs, dropped.transport) == (1.0, 1.0, 0.0)
    forced = design(**mixture, notes="MoE: forced balanced routing, dropless").layout
    assert (forced.capacity, forced.imbalance, forced.transport) == (0.0, 1.0, 1.0)
    assert design(**{**mixture, "stack": "nemo"}).layout.imbalance == 1.2
    assert design(stack="megatron-bridge", notes="FLOP/token implies 1 MTP layer included").model.mtp == 1
    assert design(stack="megatron-bridge", notes="Megatron-Core with Transformer Engine").layout.overlap == 0.0
    older, newer = (
        design(stack="megatron-lm", chip="a100-80gb", url_or_repo_path=f"arXiv {number}; read in a copy")
        for number in ("2104.04473", "2205.05198")
    )
    assert [(one.layout.beside, one.layout.apart) for one in (older, newer)] == [(0.0, 1.0), (1.0, 0.0)]
    assert newer.layout.late == 1.0 and "beside assumed 0, apart 1 (published before 2022-05)" in older.notes


def test_optimizers_keep_and_do_what_they_must(h100):
    """AdamW keeps 12 bytes a parameter, Muon 8, Adafactor 4; Muon multiplies matrices, shared out over the shards."""
    layout = Layout(tp=2.0, dp=16.0, fsdp=16.0, micro_batch=1.0)
    ops = [count(LLAMA, replace(layout, optimizer=float(code)), WORK) for code in range(3)]
    bytes_of = [float(one.memory.optimizer) for one in ops]
    assert bytes_of[1] == pytest.approx(bytes_of[0] * 8 / 12) and bytes_of[2] == pytest.approx(bytes_of[0] * 4 / 12)
    flops = [sum(float(row.count * row.flops) for row in one.rows if row.phase == "optimizer") for one in ops]
    # 5 (4 m^2 n + 2 m^3) over q, k, v, out and three of the feed-forward, 32 layers, over tp * dp chips
    sides = [(4096, 4096)] * 2 + [(1024, 4096)] * 2 + [(4096, 14336)] * 3
    by_hand = 32 * sum(5 * (4 * m * m * n + 2 * m**3) for m, n in sides) / 32
    assert flops[0] == flops[2] == 0.0 and flops[1] == pytest.approx(by_hand)
    assert not any(row.name.startswith("muon") for row in ops[0].rows)
    alone = replace(layout, tp=1.0, dp=1.0, fsdp=1.0, zero=0.0)
    times = [seconds(LLAMA, replace(alone, optimizer=float(code)), h100, training(4096.0, 1.0)) for code in range(3)]
    assert times[2] < times[0] < times[1]


def test_packed_documents_see_themselves_alone(h100):
    """Eight documents of an eighth: attention does an eighth of the work, and all else as much as before."""
    layout = Layout(dp=32.0, fsdp=32.0, micro_batch=1.0)
    whole, packed = training(32768.0, 256.0), training(32768.0, 256.0, document=4096.0)
    flash = [row_of(LLAMA, layout, "attn.flash", work) for work in (whole, packed)]
    assert float(flash[1].flops) == float(flash[0].flops) / 8 and float(flash[1].read) == float(flash[0].read)
    assert seconds(LLAMA, layout, h100, packed) < 0.8 * seconds(LLAMA, layout, h100, whole)
    same = seconds(LLAMA, layout, h100, training(32768.0, 256.0, document=1e9))
    assert same == seconds(LLAMA, layout, h100, whole)


def test_a_linear_mixer_forgets_the_length_and_a_sparse_one_only_looks(h100):
    """FLOPs of the products a token: by hand for both, at two lengths."""
    linear = replace(DENSE, mixer="linear", heads=32.0, kv_heads=16.0, v_dim=128.0)
    sparse = replace(DENSE, mixer="sparse", window=2048.0, index_heads=8.0, index_dim=64.0)
    told = {
        (name, s): float(model_flops(replace(LLAMA, kinds=(kind,)), s))
        for name, kind in (("linear", linear), ("sparse", sparse), ("full", DENSE))
        for s in (65536.0, 131072.0)
    }
    assert told["linear", 131072.0] == told["linear", 65536.0]
    more = 2048**2 / 2 * (1 / 65536 - 1 / 131072)  # chosen keys, in the mean
    assert told["sparse", 131072.0] - told["sparse", 65536.0] == pytest.approx(
        32 * (8 * 64 * (65536 + 6 * more) + 6 * 32 * 256 * more)
    )
    assert told["full", 131072.0] > 1.5 * told["sparse", 131072.0] > 1.5 * told["linear", 131072.0]
    layout, long = Layout(dp=32.0, fsdp=32.0, recompute=2.0), training(131072.0, 32.0)
    times = [seconds(replace(LLAMA, kinds=(kind,)), layout, h100, long) for kind in (linear, sparse, DENSE)]
    assert times == sorted(times)
    split = replace(layout, cp=8.0, dp=4.0, fsdp=4.0)
    sent = [row_of(replace(LLAMA, kinds=(kind,)), split, "attn.cp.gather", long).payload for kind in (linear, DENSE)]
    assert float(sent[0]) == 8 * 4 * 32 * 128 * 128 and float(sent[1]) == 2 * 131072 * 8 * 256


def test_recurrent_mixers_cost_what_their_papers_count():
    """Mamba-2 2.7B and a gated delta net, by hand: multiply-adds a token of one layer."""
    mamba = replace(DENSE, mixer="linear", heads=80.0, kv_heads=1.0, head_dim=128.0, v_dim=64.0)
    by_hand = 64 * (1 * 128 + 80 * 64) + 2 * 80 * 128 * 64  # half a chunk of 128: scores of the group, values; states
    assert float(mixing(mamba, 8192.0)) == by_hand
    delta = replace(DENSE, mixer="delta", heads=32.0, kv_heads=16.0, head_dim=128.0, v_dim=128.0)
    by_hand = 32 * (32 * 128 * (1 + 1 + 1 + 1 + 1) + 3 * 128 * 128 + 64 * 64 / 6)
    assert float(mixing(delta, 8192.0)) == pytest.approx(by_hand)


V32 = replace(
    DENSE, mixer="sparse-mla", count=61.0, heads=128.0, kv_heads=128.0, head_dim=128.0, rope_dim=64.0, v_dim=128.0,
    q_rank=1536.0, kv_rank=512.0, window=2048.0, index_heads=64.0, index_dim=128.0,
)  # fmt: skip


def test_chosen_keys_of_compressed_rows(h100):
    """DeepSeek-V3.2 by hand: the indexer's weights and FLOPs, the absorbed products, and when choosing pays."""
    wide = replace(LLAMA, d_model=7168.0, kinds=(V32,))
    full = replace(wide, kinds=(replace(V32, mixer="mla"),))
    extra = (parameters(wide) - parameters(full)) / 61
    assert float(extra) == 1536 * 64 * 128 + 7168 * (64 + 128)
    layout, s = Layout(dp=32.0, fsdp=32.0, zero=3.0, micro_batch=1.0, recompute=2.0), 131072.0
    work = training(s, 32.0)
    index, flash = row_of(wide, layout, "attn.index", work), row_of(wide, layout, "attn.flash", work)
    assert float(index.flops) == 2 * s * (s / 2) * 64 * 128
    assert float(flash.flops) == pytest.approx(2 * s * (2048 - 2048**2 / (2 * s)) * 128 * (576 + 512))
    times = {n: [seconds(m, layout, h100, training(n, 32.0)) for m in (wide, full)] for n in (4096.0, s)}
    assert times[4096.0][0] > times[4096.0][1] and times[s][0] < 0.6 * times[s][1]


@pytest.mark.parametrize(
    ("model", "published"), [("maxtext-16b", 0.111), ("maxtext-32b", 0.109), ("maxtext-64b", 0.192)]
)
def test_steps_grow_with_slices_as_published(model, published):
    """MaxText on TPU v5e, 1 to 32 slices, from which the latency of a step between slices was derived."""
    table = [row for row in rows.read(measurements()) if row["stack"] == "maxtext"]
    designs = [one for _, one in tables.designs(table)[0]]
    (first,) = (
        d for d in designs if d.row["model"] == model and d.row["n_chips"] == "256" and d.hardware.chip == "tpu-v5e"
    )
    (last,) = (d for d in designs if d.row["model"] == model and d.row["n_chips"] == "8192")
    assert rows.measured_step_time(last.row) / rows.measured_step_time(first.row) - 1 == pytest.approx(
        published, abs=1e-3
    )
    times, hidden = [], []
    for d in (first, last):
        near, far = d.hardware.tiers
        machine = replace(d.hardware, tiers=(near, replace(far, ring=1.0, latency=350e-6)))
        times.append(seconds(d.model, replace(d.layout, traced=1.0), machine, d.workload))
        apart = replace(count(d.model, d.layout, d.workload), scan=0.0)
        hidden.append(float(estimate(apart, machine).step_time))
    assert times[1] / times[0] - 1 == pytest.approx(published, abs=0.03)
    assert hidden[0] == times[0] and hidden[1] < times[1]


def test_data_parallelism_over_a_wide_area(h100):
    """Two sites, their gradients over a gigabit a chip: weights split inside a site cross a share each, by hand."""
    wan = Tier(name="wan", bandwidth=1.25e8, latency=20e-3)
    sites = replace(h100, tiers=(*(replace(t, size=16.0) if i else t for i, t in enumerate(h100.tiers)), wan))
    layout = Layout(dp=32.0, fsdp=16.0, zero=3.0, micro_batch=1.0)
    copies = row_of(LLAMA, layout, "data.fsdp.copies")
    (crossing,) = [one for one in crossed(sites, copies) if float(one.link) > 0]
    share = float(copies.payload)
    assert float(copies.count) == 32.0 and share == pytest.approx(
        4 * 4 / 16 * float(parameters(LLAMA)) / 32 / 4, rel=0.2
    )
    assert float(crossing.link) == pytest.approx(share / 1.25e8) and float(crossing.steps) == (2 + 4) * 20e-3
    apart, near = (seconds(LLAMA, layout, machine) for machine in (sites, h100))
    assert apart > near + 0.3 * 32 * float(crossing.link)
