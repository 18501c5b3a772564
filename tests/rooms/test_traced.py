"""`coopt diagnose --trace`: a real block of this CPU, one of its operations slowed, is found out."""

from __future__ import annotations

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from coopt.commands import say
from coopt.commands.parse import parse
from coopt.cost import estimate
from coopt.measure import candidate, clock, feedforwards, trace
from coopt.measure.compile import compile_program
from coopt.ops import count
from coopt.problems import Refused
from coopt.report import tables
from coopt.spec.nouns import PRECISIONS, Hardware, LayerKind, Layout, Model, training
from coopt.study.timed import traced

KIND = LayerKind(count=1.0, heads=4.0, kv_heads=2.0, head_dim=64.0, d_ff=512.0, gated=1.0)
MODEL = Model(name="one", d_model=256.0, vocab=512.0, kinds=(KIND,))
LAYOUT = Layout(micro_batch=2.0, precision=PRECISIONS["fp32"], fused_attention=0.0)
SEQ_LEN = 128
HOST = Hardware(
    name="here", peak=(1e11,) * 8, matmul=(0.7,) * 8, bandwidth=1e10, memory=1e10, kernel=5e-6, cores=2.0,
    tile_m=16.0, tile_n=16.0,
)  # fmt: skip


def priced(model=MODEL):
    ops = count(model, LAYOUT, training(float(SEQ_LEN), 2.0))
    return ops, estimate(ops, HOST)


def block(folder) -> trace.Trace:
    """A traced layer, forward and backward, from the folder that the profiler wrote."""
    with jax.enable_x64(False):
        built = candidate.build(MODEL, LAYOUT, part="layer", layer=0, seq_len=SEQ_LEN, devices=tuple(jax.devices()[:1]))
        function, abstract, _ = candidate.backward(built)
        program = compile_program(clock.counted(function), (*abstract, jax.ShapeDtypeStruct((), jnp.int32))).program
        values = (candidate.fill(abstract[0], built, 0), *candidate.fill(tuple(abstract[1:]), built, 1))
        timer = clock.repeat(program, values, jnp.zeros((), jnp.int32))
        timer(1)
        with jax.profiler.trace(folder):
            timer(4)
    return trace.read(folder)


def test_the_rows_of_a_block_are_found_in_its_trace(tmp_path):
    """Nine tenths of a real block's time has a row; forward and backward are told apart."""
    found = traced.compare(block(tmp_path), *priced())
    assert found["unmatched"] <= 0.1
    assert found["trusted"]
    seen = {(row["row"], row["phase"]) for row in found["rows"] if row["measured"]}
    for name in ("attn.qkv", "attention", "attn.out", "mlp.up", "mlp.act", "mlp.down"):
        assert {(name, "forward"), (name, "backward")} <= seen
    assert sum(row["measured"] for row in found["rows"]) == pytest.approx(found["busy"])
    ops, cost = priced()
    busy = sum(float(b) for b in cost.busy[: len(ops.rows)])
    assert sum(row["predicted"] or 0.0 for row in found["rows"]) == pytest.approx(busy)


def test_a_planted_slow_row_is_named_first(tmp_path, monkeypatch):
    """The activation function is made to take dozens of passes: it is the row to look at."""
    silu = jax.nn.silu

    def slow(x):
        for _ in range(60):
            x = jnp.sin(x) + 0.5 * jnp.cos(x)
        return silu(x)

    monkeypatch.setattr(feedforwards.jax.nn, "silu", slow)
    found = traced.compare(block(tmp_path), *priced())
    assert found["slowest"]["row"] == "mlp.act"
    assert "Look at mlp.act" in tables.table(found | {"runs": 4, "devices": 1})


def operation(name, scope, time):
    return trace.Operation(name=name, scope=scope, module="jit_f", time=time, count=1.0)


def test_what_has_no_row_is_said_with_its_share():
    operations = (operation("dot.1", "jit(f)/mlp.up/dot_general", 0.8), operation("fusion.7", "jit(f)/mine/add", 0.2))
    found = traced.compare(trace.Trace(operations=operations, runs=1, spans=(1.1,)), *priced())
    last = found["rows"][-1]
    assert (last["row"], last["measured"], found["unmatched"]) == ("unmatched", 0.2, pytest.approx(0.2))
    assert not found["trusted"]
    assert found["strays"] == [{"name": "mine", "time": 0.2}]
    assert found["gaps"] == pytest.approx(0.1)
    assert "20.0% of the time has no row: the attribution is not to be trusted" in tables.table(found)
    fewer = traced.compare(trace.Trace(operations=operations[:1] * 9 + operations[1:], runs=1, spans=()), *priced())
    assert fewer["trusted"]


def test_a_machine_slower_throughout_has_no_slow_row():
    ops, cost = priced()
    lines, _ = traced._predicted(ops, cost)
    rng = np.random.default_rng(0)

    def everything(pace):
        return tuple(
            operation("x", f"jit(f)/{'transpose(jvp(' if phase == 'backward' else ''}{name}/dot", pace(name) * time)
            for (name, phase), time in lines.items()
        )

    even = traced.compare(
        trace.Trace(operations=everything(lambda _: 3.0 * rng.uniform(0.98, 1.02)), runs=1, spans=()), ops, cost
    )
    assert even["scale"] == pytest.approx(3.0, rel=0.03)
    assert max(abs(row["excess"]) for row in even["rows"]) < 0.05 * even["busy"]
    odd = traced.compare(
        trace.Trace(operations=everything(lambda n: 9.0 if n == "attn.out" else 3.0), runs=1, spans=()), ops, cost
    )
    assert odd["slowest"]["row"] == "attn.out"


@pytest.mark.parametrize(
    ("name", "scope", "line"),
    [
        ("all-reduce.3", "jit(f)/mlp.up/dot_general", ("collective", True)),
        ("fusion.1", "jit(f)/decoder/layers/self_attention/query/dot_general", ("attn.qkv", False)),
        ("fusion.1", "jit(f)/decoder/layers/self_attention/out/dot_general", ("attn.out", False)),
        ("fusion.1", "jit(f)/decoder/layers/mlp/wi_0/dot_general", ("mlp.up", False)),
        ("fusion.1", "jit(f)/decoder/layers/mlp/wo/dot_general", ("mlp.down", False)),
        ("fusion.1", "jit(f)/h/0/attn/c_proj/dot_general", ("attn.out", False)),
        ("fusion.1", "jit(f)/attention/vmap()/div", ("attention", False)),
        ("fusion.1", "jit(f)/model/layers/3/mlp/down_proj/dot_general", ("mlp.down", False)),
        ("fusion.1", "jit(step)/adam/mul", ("optimizer", False)),
        ("ncclDevKernel_AllReduce_Sum_bf16_RING_LL(ncclDevKernelArgsStorage<4096>)", "", ("collective", True)),
        ("void flash::flash_bwd_dq_dk_dv_loop_seqk_parallel_kernel<...>", "", ("attention", True)),
        ("nvjet_hsh_128x256_64x4_2x1_v_bz_coopA_NNT", "", ("matmul", True)),
        ("loop_add_fusion_7", "", ("elementwise", True)),
        ("my_kernel", "", (None, False)),
    ],
)
def test_words_of_other_programs_have_rows(name, scope, line):
    names = {*traced.rules().rows, *traced.rules().rows.values()}
    assert traced._place(operation(name, scope, 1.0), names) == line


def test_a_kernel_table_is_laid_beside_kinds_of_rows():
    operations = tuple(operation(name, "", 1.0) for name in ("nvjet_hsh", "softmax_warp_forward", "nccl_AllReduce"))
    ops, cost = priced()
    found = traced.compare(trace.Trace(operations=operations, runs=1, spans=()), ops, cost)
    rows = {row["row"]: row for row in found["rows"]}
    matmuls = sum(float(b) for row, b in zip(ops.rows, cost.busy, strict=False) if row.kind == "matmul")
    attention = rows["matmul"]["predicted"]
    assert 0 < attention <= matmuls * 1.0001
    assert rows["collective"]["predicted"] is None
    assert found["unmatched"] == 0.0


def test_the_command_reads_a_trace_and_says_what_it_saw(tmp_path):
    block(tmp_path)
    options = parse(["diagnose", f"--trace={tmp_path}"])
    alone = traced.diagnose(options)
    json.loads(say.as_json(alone))
    assert alone["runs"] == 4
    assert "The longest row is" in tables.table(alone)
    file = tmp_path / "kernels.csv"
    file.write_text("Total Time (ns),Instances,Name\n5000,1,nvjet_hsh\n")
    words = ["diagnose", f"--trace={file}", "--model=llama3-8b", "--hardware=dgx-h100", "--chips=8", "--layout=zero=3"]
    beside = traced.diagnose(parse(words))
    assert "where pricing says" in tables.table(beside)
    with pytest.raises(Refused, match="a model and its hardware"):
        traced.diagnose(parse(["diagnose", f"--trace={file}", "--model=llama3-8b"]))


def test_hostile_names_are_harmless():
    seen = trace.Trace(operations=(operation("\x1b[31m<script>", "a/\x1b[2J/b", 1.0),), runs=1, spans=())
    assert "\x1b" not in tables.table(traced.compare(seen))
    assert "\x1b" not in tables.table(traced.compare(seen, *priced()))
