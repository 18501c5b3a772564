"""Blocks compiled by the real XLA:TPU compiler for slices that are not attached (Python 3.12 and libtpu)."""

import pytest

from coopt.measure.jobs import block_job
from coopt.spec.nouns import PRECISIONS, LayerKind, Layout, Model

pytestmark = pytest.mark.tpu_aot

LLAMA = Model(
    name="small", d_model=512.0, vocab=4096.0, kinds=(
        LayerKind(count=2.0, heads=8.0, kv_heads=4.0, head_dim=64.0, d_ff=1536.0, gated=1.0),
    ),
)  # fmt: skip


def compiled(target: str, layout: Layout) -> dict:
    """The answer of a compile-only job, made where such jobs are made: in a child process."""
    from coopt import workers

    job = block_job(LLAMA, layout, seq_len=1024, part="layer", layer=0, target=target, budget_s=0.0)
    with workers.process(preload=("coopt.measure.job",)) as executor:
        outcome = workers.run("coopt.measure.job:run_job", job, deadline_s=900.0, executor=executor)
    assert outcome.ok, (outcome.status, outcome.message, outcome.stderr)
    return outcome.result


def test_a_block_is_compiled_for_one_chip_of_v5e():
    answer = compiled("tpu:v5e:2x2", Layout(dp=4.0, micro_batch=1.0, precision=PRECISIONS["bf16"]))
    assert answer["platform"] == "tpu" and answer["kind"] == "none" and answer.get("time") is None
    # two products forward and four backward a weight: at least 6 FLOPs a weight and token, on one chip
    weights = 512 * 64 * (8 + 2 * 4 + 8) + 3 * 512 * 1536
    assert answer["flops"] >= 0.9 * 6 * weights * 1024
    assert 0 < answer["memory"] < 16 * 2**30 and answer["digest"]


def test_a_tensor_parallel_block_has_its_collectives():
    answer = compiled("tpu:v5p:2x2x1", Layout(tp=4.0, micro_batch=1.0, precision=PRECISIONS["bf16"]))
    found = answer["phases"]["forward"]["collectives"]
    assert found and all(one["bytes"] > 0 for one in found)
