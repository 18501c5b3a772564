"""Blocks compute what transformers compute, with the parameters and FLOPs they are said to have (plan E3, E4)."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from coopt.measure import candidate as candidates
from coopt.measure import flops
from coopt.measure.check import DOUBLE
from coopt.measure.compile import compile_program
from coopt.measure.weights import parameters
from coopt.problems import Refused
from coopt.spec.nouns import PRECISIONS, LayerKind, Layout, Model

KINDS = {
    "llama": LayerKind(count=2.0, heads=8.0, kv_heads=2.0, head_dim=16.0, d_ff=256.0),
    "gpt2": LayerKind(count=2.0, heads=4.0, kv_heads=4.0, head_dim=32.0, d_ff=512.0, gated=0.0, bias=1.0, norms=4.0),
    "gemma": LayerKind(
        mixer="window", window=8.0, count=2.0, heads=4.0, kv_heads=1.0, head_dim=32.0, d_ff=256.0, norms=4.0
    ),
    "olmo": LayerKind(count=2.0, heads=4.0, kv_heads=4.0, head_dim=32.0, d_ff=256.0, norms=0.0),
    "mixtral": LayerKind(
        feedforward="moe", heads=8.0, kv_heads=2.0, head_dim=16.0, experts=4.0, top_k=2.0, d_expert=128.0
    ),
    "deepseek": LayerKind(
        mixer="mla",
        feedforward="moe",
        heads=4.0,
        head_dim=32.0,
        q_rank=48.0,
        kv_rank=32.0,
        rope_dim=16.0,
        v_dim=24.0,
        experts=8.0,
        top_k=2.0,
        d_expert=64.0,
        shared=2.0,
        d_shared=64.0,
    ),
    "deepseek-lite": LayerKind(
        mixer="mla", heads=4.0, head_dim=32.0, kv_rank=32.0, rope_dim=16.0, v_dim=24.0, d_ff=256.0
    ),
}
FP32 = Layout(precision=PRECISIONS["fp32"], micro_batch=2.0)


def model(name: str, **changes) -> Model:
    return Model(d_model=128.0, vocab=512.0, norms=1.0, kinds=(KINDS[name],), **changes)


def build(model: Model, layout: Layout = FP32, *, part: str = "layer", seq_len: int = 64, **options):
    devices = tuple(jax.devices())
    return candidates.build(model, layout, part=part, layer=0, seq_len=seq_len, devices=devices, **options)


def counted(d: int, k: LayerKind) -> float:
    """Parameters of a layer, reckoned matrix by matrix from the papers."""
    h, hd, b = k.heads, k.head_dim, bool(k.bias)
    if k.mixer == "mla":
        query = d * k.q_rank + k.q_rank + k.q_rank * h * (hd + k.rope_dim) if k.q_rank else d * h * (hd + k.rope_dim)
        mixer = query + d * (k.kv_rank + k.rope_dim) + k.kv_rank + k.kv_rank * h * (hd + k.v_dim) + h * k.v_dim * d
    else:
        mixer = d * h * hd + 2 * d * k.kv_heads * hd + h * hd * d + b * (h * hd + 2 * k.kv_heads * hd + d)
    matrices = 3 if k.gated else 2
    if k.feedforward == "moe":
        ff = d * k.experts + matrices * d * (k.experts * k.d_expert + k.shared * k.d_shared)
    else:
        ff = matrices * d * k.d_ff + b * ((matrices - 1) * k.d_ff + d)
    return mixer + ff + k.norms * d


@pytest.mark.parametrize("name", KINDS)
def test_a_layer_has_the_parameters_it_should(name):
    """E4: the leaves of the module against a count from the shapes."""
    assert parameters(build(model(name)).weights) == counted(128, KINDS[name])


def test_embedding_and_head_have_the_parameters_they_should():
    assert parameters(build(model("llama"), part="embedding").weights) == 512 * 128
    assert parameters(build(model("gpt2", positions=64.0), part="embedding").weights) == 512 * 128 + 64 * 128
    assert parameters(build(model("llama"), part="head").weights) == 128 * 512 + 128


@pytest.mark.parametrize("name", ["llama", "mixtral", "deepseek-lite"])
def test_building_makes_no_array(name):
    """Shapes first: a layer with the width of a 70B model is built in no time and no memory."""
    wide = model(name)
    before = len(jax.live_arrays())
    made = build(dataclasses.replace(wide, d_model=8192.0), seq_len=8192)
    assert all(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in jax.tree.leaves((made.weights, made.inputs)))
    assert len(jax.live_arrays()) == before


def products(d: int, k: LayerKind, tokens: float, seq: float) -> float:
    """FLOPs of the matrix products of a forward pass."""
    weights = counted(d, dataclasses.replace(k, norms=0.0, bias=0.0))
    if k.mixer == "mla":
        weights -= k.q_rank + k.kv_rank
        attention = 2 * seq * k.heads * (k.head_dim + k.rope_dim + k.v_dim)
    else:
        attention = 4 * seq * k.heads * k.head_dim
    if k.feedforward == "moe":
        weights -= (3 if k.gated else 2) * d * k.d_expert * (k.experts - k.top_k)
    return tokens * (2 * weights + attention)


@pytest.mark.parametrize("name", KINDS)
def test_xla_counts_the_flops_that_the_shapes_say(name):
    """E3: forward FLOPs by XLA lie above the products', by less than the elementwise work of this small width."""
    made = build(model(name), seq_len=128)
    function, arguments, _ = candidates.forward(made)
    said = compile_program(function, arguments).flops
    exact = products(128, KINDS[name], 2 * 128, 128)
    assert exact <= said * 1.001
    assert said <= exact * 1.06


@pytest.mark.parametrize("name", ["llama", pytest.param("gpt2", marks=pytest.mark.slow)])
def test_backward_is_two_forwards_and_recompute_is_one_more(name):
    """E3: forward and backward three forwards; with full recompute, all but the last product (whose result is not
    needed) once more."""
    flops = {}
    for recompute in (0.0, 2.0):
        made = build(model(name), dataclasses.replace(FP32, recompute=recompute), seq_len=128)
        function, arguments, _ = candidates.backward(made)
        flops[recompute] = compile_program(function, arguments).flops
    one = products(128, KINDS[name], 2 * 128, 128)
    last = 2 * 256 * 128 * KINDS[name].d_ff
    assert flops[0.0] == pytest.approx(3 * one, rel=0.06)
    assert flops[2.0] - flops[0.0] == pytest.approx(one - last, rel=0.06)


def test_selective_recompute_repeats_the_scores():
    """In the program as lowered; the CPU compiler may merge the two again, and its FLOPs then say so."""
    texts = []
    for recompute in (0.0, 1.0):
        made = build(model("llama"), dataclasses.replace(FP32, recompute=recompute))
        function, arguments, _ = candidates.backward(made)
        texts.append(jax.jit(function).lower(*arguments).as_text())
    none, selective = (text.count("stablehlo.dot_general") for text in texts)
    assert selective == none + 1
    assert "optimization_barrier" in texts[1]


# ---------------------------------------------------------------- values


def values(made, seed=0):
    return candidates.fill(made.weights, made, seed), *candidates.fill(made.inputs, made, seed + 1)


def named(weights) -> dict[str, np.ndarray]:
    return {
        ".".join(str(k.key) for k in path if hasattr(k, "key")): np.asarray(leaf, np.float64)
        for path, leaf in jax.tree_util.tree_flatten_with_path(weights)[0]
    }


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def llama(w: dict, x: np.ndarray, kind: LayerKind) -> np.ndarray:
    """A dense layer with grouped queries, written out in NumPy: no line shared with the blocks."""

    def norm(x, scale):
        return x / np.sqrt((x * x).mean(-1, keepdims=True) + 1e-6) * scale

    def rope(x):
        half = x.shape[-1] // 2
        angle = np.arange(x.shape[1])[:, None] / 10000.0 ** (np.arange(half) / half)
        turn = np.exp(1j * angle)[None, :, None, :]
        z = (x[..., :half] + 1j * x[..., half:]) * turn
        return np.concatenate([z.real, z.imag], -1)

    h = norm(x, w["mixer_norm.scale"])
    q, k, v = (np.einsum("bsd,dhe->bshe", h, w[f"mixer.{n}"]) for n in "qkv")
    q, k = rope(q), rope(k)
    group = int(kind.heads / kind.kv_heads)
    mixed = np.empty_like(q)
    for head in range(int(kind.heads)):
        scores = np.einsum("bte,bse->bts", q[:, :, head], k[:, :, head // group]) / np.sqrt(kind.head_dim)
        t = np.arange(x.shape[1])
        scores = np.where(t[:, None] >= t[None, :], scores, -np.inf)
        mixed[:, :, head] = softmax(scores) @ v[:, :, head // group]
    x = x + np.einsum("bshe,hed->bsd", mixed, w["mixer.o"])
    h = norm(x, w["feedforward_norm.scale"])
    gate = h @ w["feedforward.gate"]
    return x + (gate / (1 + np.exp(-gate)) * (h @ w["feedforward.up"])) @ w["feedforward.down"]


def test_a_dense_layer_equals_numpy(x64):
    made = build(model("llama"), formats=DOUBLE)
    weights, x = values(made)
    expected = llama(named(weights), np.asarray(x), KINDS["llama"])
    np.testing.assert_allclose(np.asarray(jax.jit(made.function)(weights, x)), expected, rtol=1e-9, atol=1e-9)


def test_experts_that_all_agree_are_one_dense_layer(x64):
    """With all experts equal, and a place for every token, the router cannot matter."""
    kind = dataclasses.replace(KINDS["mixtral"], top_k=4.0)
    made = build(Model(d_model=128.0, vocab=512.0, kinds=(kind,)), formats=DOUBLE)
    weights, x = values(made)
    same = jax.tree_util.tree_map_with_path(
        lambda path, w: jnp.broadcast_to(w[:1], w.shape) if "expert_" in jax.tree_util.keystr(path) else w, weights
    )
    w = named(same) | {f"feedforward.{n}": named(same)[f"feedforward.expert_{n}"][0] for n in ("gate", "up", "down")}
    expected = llama(w, np.asarray(x), kind)
    np.testing.assert_allclose(np.asarray(jax.jit(made.function)(same, x)), expected, rtol=1e-9, atol=1e-9)


def test_experts_equal_a_loop_over_tokens(x64):
    """Routing, gates, capacity and drops, against one token after another."""
    kind = KINDS["mixtral"]
    made = build(Model(d_model=128.0, vocab=512.0, kinds=(kind,)), formats=DOUBLE, seq_len=32)
    weights, x = values(made)
    w = {k.removeprefix("feedforward."): v for k, v in named(weights).items() if k.startswith("feedforward.")}
    from flax import nnx

    from coopt.measure.blocks import Layer

    layer = nnx.merge(
        nnx.split(nnx.eval_shape(lambda: Layer(Model(d_model=128.0), kind, DOUBLE)))[0], weights
    )  # the same module outside the candidate, for its parts
    found = np.asarray(jax.jit(layer.feedforward)(x))
    expected, dropped = np.zeros_like(found), 0
    for b in range(x.shape[0]):
        places = np.zeros(4, int)
        for t in range(x.shape[1]):
            p = softmax(np.asarray(x)[b, t] @ w["router"])
            best = np.argsort(-p)[:2]
            for e in best:
                places[e] += 1
                if places[e] > 16:  # 32 tokens x 2 / 4 experts
                    dropped += 1
                    continue
                gate = np.asarray(x)[b, t] @ w["expert_gate"][e]
                h = gate / (1 + np.exp(-gate)) * (np.asarray(x)[b, t] @ w["expert_up"][e])
                expected[b, t] += p[e] / p[best].sum() * (h @ w["expert_down"][e])
    assert dropped > 0, "the case must hold a full expert"
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", ["llama", "gpt2", "gemma", "deepseek-lite"])
def test_no_token_sees_a_later_one(name, x64):
    made = build(model(name), formats=DOUBLE, seq_len=24)
    weights, x = values(made)
    changed = x.at[:, 12].add(1.0)
    function = jax.jit(made.function)
    before, after = function(weights, x), function(weights, changed)
    np.testing.assert_array_equal(np.asarray(before[:, :12]), np.asarray(after[:, :12]))
    assert np.abs(np.asarray(before - after))[:, 12:].max() > 1e-3
    if name == "gemma":  # a window of 8: token 12 is seen by tokens 12 to 19
        np.testing.assert_array_equal(np.asarray(before[:, 20:]), np.asarray(after[:, 20:]))
        assert np.abs(np.asarray(before - after))[:, 19].max() > 1e-6


def test_the_head_gives_the_loss_of_a_uniform_guess():
    made = build(model("llama"), part="head")
    weights, x, labels = values(made)
    nothing = jax.tree.map(jnp.zeros_like, weights)
    assert float(made.function(nothing, x, labels)) == pytest.approx(np.log(512), rel=1e-6)


def test_recipes_decide_the_types():
    made = build(model("llama"), dataclasses.replace(FP32, precision=PRECISIONS["bf16"]))
    function, arguments, _ = candidates.forward(made)
    text = jax.jit(function).lower(*arguments).as_text()
    dots = [line for line in text.splitlines() if "dot_general" in line]
    assert dots
    assert all("xbf16>" in line for line in dots)


# ---------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"mixer": "linear"}, "kind.mixer"),
        ({"mixer": "sparse"}, "kind.mixer"),
        ({"norms": 3.0}, "kind.norms"),
        ({"kv_heads": 3.0}, "kv_heads"),
        ({"d_ff": 0.0}, "d_ff"),
        ({"heads": 2.5}, "heads"),
        ({"mixer": "window"}, "window"),
    ],
)
def test_what_is_not_built_is_refused_by_name(change, field):
    kind = dataclasses.replace(KINDS["llama"], **change)
    with pytest.raises(Refused) as caught:
        build(Model(d_model=128.0, vocab=512.0, kinds=(kind,)))
    assert field in [p.field for p in caught.value.problems]


@pytest.mark.parametrize("name,bits,word,off", [("llama", "int8", "xi8>", 0.06), ("mixtral", "int8", "xi8>", 0.06),
                                                ("llama", "fp8", "xf8E4M3FN>", 0.15)])  # fmt: skip
def test_numbers_of_eight_bits_multiply_to_nearly_the_same(name, bits, word, off):
    """Products with weights and both of their gradients, each with scales by row: within their rounding."""
    eight = dataclasses.replace(FP32, precision=dataclasses.replace(PRECISIONS[bits], weight=4.0, activation=4.0))
    found = {}
    for recipe, layout in {"fp32": FP32, bits: eight}.items():
        made = build(model(name), layout, seq_len=32)
        function, abstract, _ = candidates.backward(made)
        weights = candidates.fill(abstract[0], made, 0)
        inputs = candidates.fill(tuple(abstract[1:-1]), made, 1)
        cotangent = jnp.ones(made.output.shape, made.output.dtype)
        text = jax.jit(function).lower(weights, *inputs, cotangent).as_text()
        assert (text.count(word) > 0) == (recipe == bits)
        found[recipe] = jax.jit(function)(weights, *inputs, cotangent)
    if name == "mixtral":  # rounding changes a few tokens' experts: only its output is comparable
        found = {recipe: both[0] for recipe, both in found.items()}
    for exact, near in zip(jax.tree.leaves(found["fp32"]), jax.tree.leaves(found[bits]), strict=True):
        exact, near = np.asarray(exact, np.float64), np.asarray(near, np.float64)
        assert np.linalg.norm(near - exact) <= off * np.linalg.norm(exact)


@pytest.mark.parametrize("recipe", ["mxfp8", "nvfp4"])
def test_formats_without_blocks_are_refused_by_name(recipe):
    with pytest.raises(Refused, match=recipe):
        build(model("llama"), dataclasses.replace(FP32, precision=PRECISIONS[recipe]))


def test_products_of_a_fused_kernel_of_attention_are_counted(monkeypatch):
    """What cuDNN computes is no product of a program: scores and values; backward, scores again and four more."""
    from jax._src.cudnn import fused_attention_stablehlo as cudnn

    for name in ("check_cudnn_version", "check_compute_capability"):
        monkeypatch.setattr(cudnn, name, lambda *_, **__: 91900, raising=False)
    q, k = (jax.ShapeDtypeStruct((2, 128, heads, 64), jnp.bfloat16) for heads in (8, 2))

    def counted(implementation, back):
        def core(q, k, v):
            return jax.nn.dot_product_attention(q, k, v, is_causal=True, implementation=implementation)

        return flops.products(lambda q, k, v: jax.vjp(core, q, k, v)[1](q) if back else core(q, k, v), (q, k, k))

    one = 2.0 * 2 * 8 * 128 * 128 * 64
    assert counted("cudnn", False) == counted("xla", False) == 2 * one
    assert counted("xla", True) == 6 * one and counted("cudnn", True) == 7 * one
