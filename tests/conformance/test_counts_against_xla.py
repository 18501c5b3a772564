"""What `count` counts, against two witnesses that share no line with it: what JAX traces, and XLA's own analysis.

FLOPs of a layer's products are exact. XLA's total lies above them by its elementwise work. Where the two count
another thing, docs/cross-checks.md says which and why, and the test holds the difference to its reason.
"""

from __future__ import annotations

import dataclasses
import math

import jax
import pytest

from coopt.measure import candidate as candidates
from coopt.measure.weights import parameters
from coopt.ops import count
from coopt.ops.shapes import parameters as counted
from coopt.spec.nouns import PRECISIONS, LayerKind, Layout, Model, training

DENSE = LayerKind(count=1.0, heads=16.0, kv_heads=16.0, head_dim=64.0, d_ff=4096.0)
LATENT = LayerKind(
    count=1.0, mixer="mla", heads=8.0, kv_heads=8.0, head_dim=64.0, q_rank=384.0, kv_rank=128.0, rope_dim=32.0,
    v_dim=48.0, d_ff=2816.0,
)  # fmt: skip
EXPERTS = LayerKind(
    count=1.0, feedforward="moe", heads=16.0, kv_heads=4.0, head_dim=64.0, experts=8.0, top_k=2.0, d_expert=1408.0
)
KINDS = {
    "dense": DENSE,
    "ungated": dataclasses.replace(DENSE, gated=0.0, bias=1.0, norms=4.0),
    "grouped": dataclasses.replace(DENSE, kv_heads=2.0, d_ff=2752.0),
    "one-key": dataclasses.replace(DENSE, kv_heads=1.0, head_dim=128.0),
    "window": dataclasses.replace(DENSE, mixer="window", window=128.0, kv_heads=8.0),
    "latent": LATENT,
    "latent-lite": dataclasses.replace(LATENT, q_rank=0.0),
    "experts": EXPERTS,
    "shared": dataclasses.replace(EXPERTS, experts=16.0, top_k=4.0, shared=2.0, d_shared=512.0),
    "latent-experts": dataclasses.replace(
        LATENT, feedforward="moe", experts=8.0, top_k=2.0, d_expert=512.0, shared=1.0, d_shared=512.0
    ),
}
SIZES = ((1024, 512, 2), (768, 1024, 1), (2048, 256, 4))  # d_model, seq_len, micro_batch
SHAPES = [(name, size) for size in SIZES for name in KINDS]
# One size in the quick tier: tracing thirty blocks and their gradients takes half a minute.
CASES = [pytest.param(*shape, marks=() if shape[1] == SIZES[0] else pytest.mark.slow) for shape in SHAPES]


def model(name: str, d_model: int) -> Model:
    return Model(d_model=float(d_model), vocab=4096.0, norms=1.0, kinds=(KINDS[name],))


def layout(micro_batch: int, recompute: float = 0.0) -> Layout:
    return Layout(
        micro_batch=float(micro_batch), recompute=recompute, fused_attention=0.0, precision=PRECISIONS["fp32"], zero=0.0
    )


def build(name: str, size: tuple[int, int, int], recompute: float = 0.0, part: str = "layer"):
    d_model, seq_len, micro_batch = size
    cut = layout(micro_batch, recompute)
    return candidates.build(model(name, d_model), cut, part=part, layer=0, seq_len=seq_len, devices=jax.devices()[:1])


def dots(jaxpr) -> float:
    """FLOPs of every dot_general of a jaxpr and of the jaxprs inside it: 2 x results x reduction length."""
    total = 0.0
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            left = equation.invars[0].aval.shape
            total += 2.0 * math.prod(equation.outvars[0].aval.shape) * math.prod(left[i] for i in contracted)
        for inner in jax.tree.leaves(list(equation.params.values()), is_leaf=lambda x: hasattr(x, "eqns")):
            inner = getattr(inner, "jaxpr", inner)
            total += dots(inner) if hasattr(inner, "eqns") else 0.0
    return total


def ours(name: str, size: tuple[int, int, int], recompute: float = 0.0) -> dict[str, float]:
    """FLOPs of the products of one layer and micro-batch, by phase."""
    d_model, seq_len, micro_batch = size
    ops = count(model(name, d_model), layout(micro_batch, recompute), training(float(seq_len), float(micro_batch)))
    told = dict.fromkeys(("forward", "recompute", "backward"), 0.0)
    for row in ops.rows:
        if row.scope == "layer" and row.kind in ("matmul", "attention"):
            told[row.phase] += float(row.count * row.flops)
    return told


@pytest.mark.parametrize(("name", "size"), CASES)
def test_products_of_a_layer_are_exact(name, size):
    """Forward, and forward with backward, to the last FLOP; XLA's count of the whole block is at most 5% above."""
    said = ours(name, size)
    function, arguments, _ = candidates.forward(build(name, size))
    traced = dots(jax.make_jaxpr(function)(*arguments).jaxpr)
    assert said["forward"] == traced
    xla = jax.jit(function).lower(*arguments).cost_analysis()["flops"]
    assert traced <= xla <= 1.05 * traced
    function, arguments, _ = candidates.backward(build(name, size))
    assert said["forward"] + said["backward"] == dots(jax.make_jaxpr(function)(*arguments).jaxpr)


@pytest.mark.parametrize(("name", "size"), CASES)
def test_recomputed_products_are_exact_but_for_the_last(name, size):
    """Full recompute: a trainer runs the whole layer again; a compiler drops products whose result nobody reads."""
    said = ours(name, size, recompute=2.0)
    function, arguments, _ = candidates.backward(build(name, size, recompute=2.0))
    traced = dots(jax.make_jaxpr(function)(*arguments).jaxpr)
    d_model, seq_len, micro_batch = size
    kind = KINDS[name]
    width = float(kind.d_ff) if kind.feedforward == "dense" else float(kind.shared * kind.d_shared)
    last = 2.0 * micro_batch * seq_len * d_model * width
    assert sum(said.values()) - traced == last


@pytest.mark.parametrize(("name", "size"), SHAPES)
def test_parameters_equal_the_leaves(name, size):
    """Embedding, layer and head of a model, leaf by leaf, against the count from its shape."""
    parts = ("embedding", "layer", "head")
    leaves = sum(parameters(build(name, size, part=part).weights) for part in parts)
    assert float(counted(model(name, size[0]))) == leaves
