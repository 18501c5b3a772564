"""What a profiler wrote is read for what it says: real traces of this CPU, kernel tables as nsys writes them."""

from __future__ import annotations

import gzip

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from coopt.measure import clock, graphs, kernels, trace, wire
from coopt.measure.compile import compile_program
from coopt.problems import Refused

COUNT = jax.ShapeDtypeStruct((), jnp.int32)
SIZE = 256


def two_products(a, b):
    with jax.named_scope("first"):
        h = a @ b
    with jax.named_scope("between"):
        h = jnp.tanh(h) * 2.0
    with jax.named_scope("second"):
        return h @ b


def in_a_loop(a, b):
    return jax.lax.fori_loop(0, 5, lambda _, x: two_products(x, b) / 100.0, a)


def runner(function):
    shape = jax.ShapeDtypeStruct((SIZE, SIZE), jnp.float32)
    program = compile_program(clock.counted(function), (shape, shape, COUNT)).program
    a = jnp.full((SIZE, SIZE), 0.01, jnp.float32)
    timer = clock.repeat(program, (a, a), jnp.zeros((), jnp.int32))
    timer(1)
    return timer


@pytest.fixture(scope="module")
def products():
    timer, walls = runner(two_products), []
    with jax.enable_x64(False):
        found = trace.traced(lambda: walls.append(timer(8)))
    return found, walls[0]


def test_every_run_is_seen_and_lies_within_the_wall_time(products):
    found, wall = products
    assert (found.runs, found.devices, len(found.spans)) == (8, 1, 8)
    assert 0.0 < sum(found.spans) <= wall
    assert found.busy <= np.mean(found.spans) * 1.001


def test_operations_carry_the_scopes_they_were_written_under(products):
    found, _ = products
    said = {row["scope"]: row["time"] for row in found.scopes()}
    assert {"first", "between", "second"} <= set(said)
    named = said["first"] + said["between"] + said["second"]
    assert named >= 0.8 * found.busy


def test_a_loop_does_not_count_its_body_twice():
    timer = runner(in_a_loop)
    found = trace.traced(lambda: timer(6))
    assert found.runs == 6
    assert found.busy <= np.mean(found.spans) * 1.001
    inside = [row for row in found.operations if trace.words(row.scope)[-1:] in (("first",), ("second",))]
    assert inside
    assert all(row.count == 5.0 for row in inside)


def test_a_trace_on_disk_is_the_same_and_the_newest_session_counts(tmp_path):
    timer = runner(two_products)
    for repetitions in (2, 4):
        with jax.profiler.trace(tmp_path):
            timer(repetitions)
    files = sorted(tmp_path.glob("**/*.xplane.pb"), key=lambda file: file.stat().st_mtime)
    found = trace.read(tmp_path)
    if len(files) == 2:  # two sessions in one second would share a folder
        assert found.runs == 4
    assert trace.read(files[-1]) == found


def test_damaged_traces_are_refused_by_name(tmp_path, rng):
    timer = runner(two_products)
    with jax.profiler.trace(tmp_path):
        timer(1)
    file = next(tmp_path.glob("**/*.xplane.pb"))
    whole = file.read_bytes()
    for cut in rng.integers(1, len(whole), 40):
        file.write_bytes(whole[: int(cut)])
        try:
            trace.read(tmp_path)  # a cut between two fields is a smaller trace
        except Refused as refused:
            assert "xplane" in str(refused) or "host alone" in str(refused)
    file.write_bytes(b"")
    with pytest.raises(Refused, match="host alone"):
        trace.read(tmp_path)
    with pytest.raises(Refused, match="jax.profiler.trace"):
        trace.read(tmp_path / "nothing")


def test_wire_format_refuses_nonsense():
    for data in (b"\x0a\x05ab", b"\x0b", b"\xff" * 3):
        with pytest.raises((ValueError, IndexError)):
            list(wire.fields(data))


SUMMARY = """\
Processing [step.sqlite] with [cuda_gpu_kern_sum.py]...

Time (%),Total Time (ns),Instances,Avg (ns),Med (ns),Min (ns),Max (ns),StdDev (ns),Name
62.5,"5,000,000",10,500000.0,500000.0,1,2,0.0,nvjet_hsh_128x256_64x4_2x1_v_bz_coopA_NNT
37.5,3000000,20,150000.0,150000.0,1,2,0.0,"void flash::flash_fwd_kernel<Kernel_traits<(int)128, (int)64>>(Params)"
"""
ONE_BY_ONE = """\
Start (ns),Duration (ns),CorrId,GrdX,Name
10,1500,1,1,nvjet_hsh
2000,500,2,1,nvjet_hsh
3000,1000,3,1,softmax_warp_forward
"""


def test_kernel_tables_of_nsys_are_read(tmp_path):
    file = tmp_path / "kernels.csv"
    file.write_text(SUMMARY)
    found = kernels.read(file)
    assert [(o.time, o.count) for o in found.operations] == [(5e-3, 10.0), (3e-3, 20.0)]
    assert found.operations[1].name.startswith("void flash::flash_fwd_kernel")
    file.write_text(ONE_BY_ONE)
    assert [(o.name, o.time, o.count) for o in kernels.read(file).operations] == [
        ("nvjet_hsh", pytest.approx(2e-6), 2.0),
        ("softmax_warp_forward", pytest.approx(1e-6), 1.0),
    ]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "no header"),
        ("Name,Grid\na,1\n", "cuda_gpu_kern_sum"),
        (ONE_BY_ONE.replace("1500", "fast"), "kernels.csv:2"),
        (ONE_BY_ONE.replace("1500", "nan"), "kernels.csv:2"),
        (ONE_BY_ONE.replace("(ns)", "(parsecs)"), "kernels.csv:2"),
    ],
)
def test_kernel_tables_that_are_none_are_refused(tmp_path, text, said):
    file = tmp_path / "kernels.csv"
    file.write_text(text)
    with pytest.raises(Refused, match=said):
        kernels.read(file)


def test_phases_and_words_of_what_jax_writes():
    """The three forms jax 0.10 to 0.12 writes: forward, backward, and what a checkpoint computes again."""
    again = "jit(both)/transpose(jvp(jvp()))/checkpoint/rematted_computation/mlp.up/dot_general"
    back = "jit(both)/transpose(jvp(jvp()))/checkpoint/mlp.up/bsi,io->bso/transpose"
    assert [trace.phase_of(s) for s in (again, back, "jit(f)/mlp.up/dot")] == ["recompute", "backward", "forward"]
    assert trace.words(again) == ("mlp.up",)
    assert trace.words(back) == ("mlp.up", "bsi,io->bso")
    assert trace.words("") == ()


@pytest.fixture
def h200(tmp_path, repository):
    """Three runs of a block, forward and backward, on an H200: every kernel was launched by one CUDA graph."""
    file = tmp_path / "gpu.xplane.pb"
    file.write_bytes(gzip.decompress((repository / "tests/data/h200_block.xplane.pb.gz").read_bytes()))
    return trace.read(file)


def test_kernels_of_a_cuda_graph_are_told_apart_by_the_schedule(h200):
    assert (h200.runs, h200.devices, len(h200.operations)) == (3, 1, 49)
    assert all(1.06e-3 < span < 1.08e-3 for span in h200.spans)
    assert sum(row["time"] for row in h200.scopes() if not row["scope"]) < 0.01 * h200.busy
    told = {(row["scope"].partition("/")[0], row["phase"]): row["time"] for row in h200.scopes()}
    assert told["attention", "backward"] == pytest.approx(27.6e-6, abs=1e-7)
    assert told["mlp.down", "forward"] == pytest.approx(58.7e-6, abs=1e-7)
    # Three products with the same weights: one forward, two backward.
    assert told["mlp.down", "backward"] == pytest.approx(2 * told["mlp.down", "forward"], rel=0.25)


def test_a_graph_that_no_schedule_explains_keeps_the_names_of_its_kernels():
    schedules = ((("loop_add_fusion.4", ""), ("custom-call.1", "__cudnn$fmhaSoftmaxBackward"), ("copy.2", "copy")),)
    whole = ("loop_add_fusion_4", "Memset 0", "cudnn_bprop", "void cudnn::convert", "MemcpyD2D")
    attention = ["custom-call.1"] * 3
    assert graphs.instructions(whole, schedules) == ("loop_add_fusion.4", *attention, "copy.2")
    for odd in (("loop_mul_fusion",), ("loop_add_fusion_4", "nvjet_sm90"), (*whole, "nvjet_sm90"), ("Memset 0",)):
        assert graphs.instructions(odd, schedules) == odd
    sums = ((("custom-call.1", "__cublas$lt$matmul"), ("custom-call.2", "__cublas$lt$matmul")),)
    parts = ("nvjet_sm90_a", "cublasLt::splitKreduce_kernel", "nvjet_sm90_a")
    assert graphs.instructions(parts, sums) == ("custom-call.1", "custom-call.1", "custom-call.2")
