"""Where arrays lie: shards, meshes, collectives, and that a sharded block computes the same (plan B12, E5)."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import NamedSharding

from coopt.measure import candidate as candidates
from coopt.measure import check, grouped, hlo, sharding, topology
from coopt.measure.clock import counted
from coopt.measure.compile import compile_program
from coopt.measure.feedforwards import Experts
from coopt.measure.formats import formats_of
from coopt.measure.step import step
from coopt.measure.weights import WEIGHTS, materialise, name_of
from coopt.problems import Refused
from coopt.spec.nouns import PRECISIONS, LayerKind, Layout, Model

COUNT = jax.ShapeDtypeStruct((), np.int32)
DENSE = LayerKind(heads=8.0, kv_heads=4.0, head_dim=16.0, d_ff=256.0)
EXPERTS = LayerKind(
    feedforward="moe", heads=8.0, kv_heads=2.0, head_dim=16.0, experts=8.0, top_k=2.0, d_expert=64.0, shared=1.0,
    d_shared=64.0,
)  # fmt: skip
LATENT = LayerKind(
    mixer="mla", heads=8.0, head_dim=16.0, q_rank=32.0, kv_rank=16.0, rope_dim=8.0, v_dim=16.0, d_ff=256.0
)
MODEL = Model(d_model=128.0, vocab=512.0, norms=1.0, kinds=(DENSE, EXPERTS, LATENT))
FP32 = Layout(precision=PRECISIONS["fp32"])


def layouts() -> list[Layout]:
    """Every way of 1, 2, 4 and 8 chips over tp, cp, dp, fsdp and ep that divides, with and without shards."""
    found = []
    for tp, cp, dp in itertools.product((1, 2, 4, 8), repeat=3):
        if tp * cp * dp > 8:
            continue
        for fsdp, ep in itertools.product((1, 2, 4, 8), repeat=2):
            if dp % fsdp == 0 and dp % ep == 0:
                for zero in (1.0, 3.0):
                    sizes = {"tp": tp, "cp": cp, "dp": dp, "fsdp": fsdp, "ep": ep}
                    found.append(dataclasses.replace(FP32, zero=zero, **{k: float(v) for k, v in sizes.items()}))
    return found


LAYOUTS = layouts()


def build(layout: Layout, layer: int = 0, part: str = "layer"):
    devices = tuple(jax.devices())
    return candidates.build(MODEL, layout, part=part, layer=layer, seq_len=64, devices=devices)


@pytest.mark.parametrize("layer", range(3))
def test_shards_are_what_jax_says_they_are(layer):
    """E5: our arithmetic of shard shapes against `Sharding.shard_shape`, and the shards add up to the whole."""
    abstract = build(FP32, layer).weights
    for layout in LAYOUTS:
        rules, sizes = sharding.rules_of(layout, MODEL.kinds[layer]), sharding.mesh_shape(layout)
        mesh = sharding.mesh_of(sizes, jax.devices())
        for path, leaf in _flat(candidates.place(abstract, mesh, rules)):
            logical = WEIGHTS[name_of(path)][0]
            ours = sharding.shard_shape(leaf.shape, logical, rules, sizes)
            assert ours == leaf.sharding.shard_shape(leaf.shape)
            cuts = math.prod(sizes[axis] for name in logical if name for axis in rules[name])
            assert math.prod(ours) * cuts == math.prod(leaf.shape)
    assert len(LAYOUTS) > 60


def test_fully_sharded_weights_are_cut_by_every_chip_that_can():
    layout = dataclasses.replace(FP32, tp=2.0, dp=4.0, fsdp=4.0, zero=3.0)
    made = build(layout)
    held = sum(math.prod(leaf.sharding.shard_shape(leaf.shape)) for leaf in jax.tree.leaves(made.weights))
    whole = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(made.weights))
    norms = 2 * 128
    assert held == (whole - norms) / 8 + norms


def test_activations_are_cut_by_data_and_context():
    layout = dataclasses.replace(FP32, tp=2.0, cp=2.0, dp=2.0, micro_batch=3.0)
    (x,) = build(layout).inputs
    assert x.shape == (6, 64, 128)
    assert x.sharding.shard_shape(x.shape) == (3, 32, 128)
    (x,) = build(dataclasses.replace(layout, sp=1.0)).inputs
    assert x.sharding.shard_shape(x.shape) == (3, 16, 128)


def test_few_key_value_heads_are_copied_to_all_tensor_chips():
    made = build(dataclasses.replace(FP32, tp=8.0), layer=1)
    shapes = {name_of(p): leaf.sharding.shard_shape(leaf.shape) for p, leaf in _flat(made.weights)}
    assert shapes["k"] == (128, 2, 16)
    assert shapes["q"] == (128, 1, 16)


def _flat(tree):
    return jax.tree_util.tree_flatten_with_path(tree)[0]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"dp": 4.0, "fsdp": 3.0}, "fsdp"),
        ({"dp": 2.0, "ep": 4.0}, "ep"),
        ({"tp": 3.0}, "multiple of 3 \\(tp\\)"),
        ({"cp": 5.0}, "seq_len.*multiple of 5 \\(cp\\)"),
        ({"tp": 16.0}, "tp"),
        ({"tp": 2.5}, "whole number"),
        ({"dp": 16.0}, "16 devices"),
    ],
)
def test_a_layout_that_does_not_divide_says_which_axis(changes, words):
    with pytest.raises(Refused, match=words):
        build(dataclasses.replace(FP32, **changes))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"pp": 2.0}, "layout.pp.*one stage"),
        ({"offload": 1.0, "recompute": 2.0}, "layout.offload.*1 with recompute=full"),
        ({"offload": 0.5, "recompute": 1.0}, "layout.offload.*0.5"),
    ],
)
def test_a_step_that_cannot_be_compiled_as_it_is_said_is_refused(changes, words):
    with pytest.raises(Refused, match=words):
        step(MODEL, dataclasses.replace(FP32, **changes), seq_len=64, devices=tuple(jax.devices()[:1]), layers=4)


# ---------------------------------------------------------------- collectives

TENSOR = dataclasses.replace(FP32, tp=4.0, dp=2.0)


def test_tensor_parallelism_reduces_twice_a_pass():
    """E5: Megatron's two all-reduces of the activations in a forward pass, each of the whole residual."""
    made = build(TENSOR)
    function, arguments, places = candidates.forward(made)
    compiled = compile_program(function, arguments, out_shardings=places)
    reduced = [c for c in compiled.collectives if c.kind == "all_reduce" and c.size == 4]
    assert [c.bytes for c in reduced] == [64 * 128 * 4.0] * 2
    assert compiled.flops == pytest.approx(compile_program(*candidates.forward(build(FP32))[:2]).flops / 4, rel=0.1)


def test_data_parallelism_reduces_every_gradient_once():
    """E5: bytes reduced over the replicas equal the bytes of the gradients."""
    made = build(dataclasses.replace(FP32, dp=4.0))
    function, arguments, places = candidates.backward(made)
    compiled = compile_program(function, arguments, out_shardings=places)
    whole = sum(math.prod(leaf.shape) * 4.0 for leaf in jax.tree.leaves(made.weights))
    assert sum(c.bytes for c in compiled.collectives if c.size == 4) == pytest.approx(whole, rel=0.01)


def test_full_sharding_gathers_every_weight():
    """E5: bytes gathered in a forward pass equal the bytes of the matrices."""
    made = build(dataclasses.replace(FP32, dp=4.0, fsdp=4.0, zero=3.0))
    function, arguments, places = candidates.forward(made)
    compiled = compile_program(function, arguments, out_shardings=places)
    matrices = sum(math.prod(leaf.shape) * 4.0 for leaf in jax.tree.leaves(made.weights) if len(leaf.shape) > 1)
    gathered = sum(c.bytes for c in compiled.collectives if c.kind == "all_gather" and c.size == 4)
    assert gathered == pytest.approx(matrices, rel=0.01)


TEXTS = {
    "%r = bf16[8,128]{1,0} reduce-scatter(bf16[64,128]{1,0} %p), replica_groups=[2,8]<=[16], dimensions={0}": (
        "reduce_scatter",
        64 * 128 * 2.0,
        8,
    ),
    "%s = (f32[2]{0}, f32[16]{0}) all-gather-start(f32[2]{0} %p), replica_groups={{0,1,2,3,4,5,6,7}}": (
        "all_gather",
        64.0,
        8,
    ),
    "%s = (f32[4]{0}, f32[8]{0}) all-reduce-start(%a, %b), replica_groups={{0,1},{2,3}}, to_apply=%add": (
        "all_reduce",
        48.0,
        2,
    ),
    "%c = f8e4m3fn[64]{0} collective-permute(%p), source_target_pairs={{0,1},{1,0}}": ("p2p", 64.0, 2),
    "%a = (s32[], f32[6]{0}) all-to-all(%p), replica_groups=mesh['x'=4,'y'=2] {'x','y'}": ("all_to_all", 28.0, 8),
}


@pytest.mark.parametrize("line", TEXTS)
def test_collectives_are_read_from_the_text(line):
    (found,) = hlo.collectives(f"ENTRY %main {{\n  {line}, channel_id=1\n  %x = f32[] constant(0)\n}}")
    assert (found.kind, found.bytes, found.size) == TEXTS[line]


def test_uses_of_collectives_are_not_collectives():
    assert hlo.collectives("  %d = f32[16]{0} all-reduce-done(%s)\n  %a = f32[2] add(%all-reduce.1, %b)\n") == ()


@pytest.mark.slow
def test_projections_in_eight_bits_exchange_one_sum_of_gradients():
    """Of queries, keys and values together: each by itself would be a sum of 32 bits of the whole residual stream."""
    layout = dataclasses.replace(TENSOR, precision=PRECISIONS["int8"])
    equal = dataclasses.replace(DENSE, kv_heads=DENSE.heads)
    devices = tuple(jax.devices())
    found = {}
    for kind in (equal, DENSE):
        model = dataclasses.replace(MODEL, kinds=(kind,))
        made = candidates.build(model, layout, part="layer", layer=0, seq_len=64, devices=devices)
        function, arguments, places = candidates.backward(made)
        text = compile_program(counted(function), (*arguments, COUNT), out_shardings=(places, None)).text
        sums = re.findall(r"= (.*) all-reduce\(.*attn\.qkv", text)
        found[kind] = sum(shape.count("s32[1,64,128]") for shape in sums)
    assert found == {equal: 1, DENSE: 3}


@pytest.mark.slow
def test_a_step_is_the_same_however_its_stream_is_cut():
    """Along the sequence or along the width: the loss of one chip, and the stream lies where it is said."""
    model = dataclasses.replace(MODEL, kinds=(dataclasses.replace(DENSE, count=2.0),))
    whole = dataclasses.replace(FP32, tp=4.0)
    losses, wide = {}, {}
    for name, layout in {"one": FP32, "sequence": dataclasses.replace(whole, sp=1.0), "width": whole}.items():
        devices = tuple(jax.devices()[: int(layout.tp)])
        made = step(model, layout, seq_len=64, devices=devices, layers=2, fused=False)
        weights, state, tokens = made.arguments
        drawn = np.random.default_rng(0).integers(0, 512, tokens.shape)
        given = (
            materialise(weights, 0),
            jax.tree.map(lambda leaf: jax.device_put(np.zeros(leaf.shape, leaf.dtype), leaf.sharding), state),
            jax.device_put(drawn.astype(np.int32), tokens.sharding),
        )
        losses[name] = float(jax.jit(made.function)(*given)[2])
        wide[name] = jax.jit(made.function).lower(*given).as_text().count('{"context"}, {"tensor"}]')
    assert losses["sequence"] == pytest.approx(losses["one"], rel=1e-5)
    assert losses["width"] == pytest.approx(losses["one"], rel=1e-5)
    assert wide["width"] > wide["sequence"] > 0  # logits and hidden layers are cut so in any case


# ---------------------------------------------------------------- the result check


CHECKED = {
    "tp": dataclasses.replace(FP32, tp=2.0, sp=1.0),
    "fsdp": dataclasses.replace(FP32, dp=2.0, fsdp=2.0, zero=3.0),
    "all": dataclasses.replace(FP32, tp=2.0, cp=2.0, dp=2.0, fsdp=2.0, zero=3.0, precision=PRECISIONS["bf16"]),
}


def _agreement(made, function, layout, layer=0):
    _, arguments, places = candidates.backward(made)
    compiled = compile_program(counted(function), (*arguments, COUNT), out_shardings=(places, None))
    reference = check.reference_of(made, MODEL, layout, layer=layer, seq_len=64)
    return check.agreement(made, compiled, reference)


SLOW = pytest.mark.slow
MORE = [("fsdp", 0), ("fsdp", 1), ("all", 0), ("tp", 2)]
CASES = [("tp", 0), *(pytest.param(*case, marks=SLOW) for case in MORE)]


@pytest.mark.parametrize(("name", "layer"), CASES)
def test_a_sharded_block_computes_what_one_device_does(name, layer, x32):
    """B12: output and all gradients, against float64 on one device (a router's block: its own formats)."""
    made = build(CHECKED[name], layer)
    found = _agreement(made, candidates.backward(made)[0], CHECKED[name], layer)
    assert found.agrees, found
    assert found.worst > 0.0 or found.reference == "own format"


WHOLE = dataclasses.replace(FP32, dp=2.0, fsdp=2.0, zero=3.0)


@pytest.mark.parametrize(
    ("layout", "width"),
    [
        (FP32, ()),
        (dataclasses.replace(WHOLE, tp=2.0, cp=2.0), ("tensor",)),
        pytest.param(dataclasses.replace(WHOLE, tp=2.0, cp=2.0, sp=1.0), (), marks=SLOW),
        pytest.param(TENSOR, (), marks=SLOW),
    ],
)
def test_sorted_experts_compute_what_every_expert_on_every_token_does(layout, width, x32):
    """None dropped, however many an expert has: output and all gradients, the kernel interpreted, on one and more."""
    kind = dataclasses.replace(EXPERTS, shared=0.0)
    mesh = sharding.mesh_of(sharding.mesh_shape(layout), jax.devices())
    rules = {**sharding.rules_of(layout, kind), "width": width}
    formats = formats_of(layout.precision)
    core = grouped.grouped(mesh, rules, interpret=True)
    made = functools.partial(Experts, 128, kind, formats, sharding.constrain_on(mesh, rules), grouped=core)
    graph, abstract = nnx.split(nnx.eval_shape(made))
    weights = materialise(candidates.place(abstract, mesh, rules), 0)
    x = jax.random.normal(jax.random.key(1), (2, 32, 128))

    def written_out(weights, x):
        w = {name: leaf[...] for name, leaf in weights.items()}
        gates, chosen = jax.lax.top_k(jax.nn.softmax(x @ w["router"]), 2)
        shares = jnp.sum(jax.nn.one_hot(chosen, 8) * (gates / gates.sum(-1, keepdims=True))[..., None], axis=-2)
        up, gate = (jnp.einsum("bsd,edf->bsef", x, w[f"expert_{name}"]) for name in ("up", "gate"))
        return jnp.einsum("bsef,efd,bse->bsd", jax.nn.silu(gate) * up, w["expert_down"], shares), chosen

    def results(function):
        loss = lambda weights, x: (jnp.sum(jnp.sin(function(weights, x))), function(weights, x))  # noqa: E731
        return jax.jit(jax.value_and_grad(loss, argnums=(0, 1), has_aux=True))(weights, x)

    with jax.default_matmul_precision("highest"):
        expected, found = results(lambda *given: written_out(*given)[0]), results(lambda w, x: nnx.merge(graph, w)(x))
    sizes = np.bincount(np.ravel(written_out(weights, x)[1]), minlength=8)
    assert sizes.min() < sizes.max()  # of 16 tokens on average
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert np.linalg.norm(np.asarray(one) - np.asarray(other)) <= 1e-5 * np.linalg.norm(np.asarray(other))


def test_a_wrong_kernel_is_caught(x32):
    """B12: a planted kernel that is wrong by a thousandth."""
    made = build(CHECKED["tp"])
    wrong = dataclasses.replace(made, function=lambda weights, x: 1.001 * made.function(weights, x))
    assert not _agreement(made, candidates.backward(wrong)[0], CHECKED["tp"]).agrees


WRONG = {
    "nothing": lambda x: x,
    "rounding": lambda x: x * (1 + 1e-6 * np.sign(np.sin(np.arange(x.size).reshape(x.shape)))),
    "scaled": lambda x: x * 1.001,
    "shifted": lambda x: np.roll(x, 1, axis=1),
    "a token": lambda x: np.where(np.arange(64)[None, :, None] == 5, 0.0, x),
    "a shard": lambda x: np.concatenate([x[..., 64:], x[..., :64]], -1),
    "reduced twice": lambda x: 2.0 * x,
    "not reduced": lambda x: x / 2.0,
    "sign": lambda x: -x,
    "zero": lambda x: 0.0 * x,
    "nan": lambda x: np.where(np.arange(128) == 7, np.nan, x),
    "infinity": lambda x: np.where(np.arange(128) == 7, np.inf, x),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_results_are_told_from_rounding(name, rng):
    """B12: ten ways to be wrong, ten of ten caught; two ways to be right, none."""
    right = {"output": rng.standard_normal((2, 64, 128)), "gradient": rng.standard_normal((4, 4))}
    found = right | {"output": WRONG[name](right["output"])}
    agreed = check.compare(found, right, tolerance=check.TOLERANCE["float32"], reference="float64")
    assert agreed.agrees == (name in ("nothing", "rounding"))
    assert agreed.agrees or agreed.where == "output"


# ---------------------------------------------------------------- targets


def test_targets_are_devices_or_a_sentence():
    assert topology.acquire("local").runs
    eight = topology.acquire("cpu:8")
    assert (len(eight.devices), eight.runs, eight.timed) == (8, True, False)
    for name in ("cpu", "cpu:0", "gpu", "tpu:v5p", "abacus"):
        with pytest.raises(Refused, match="local, cpu:N"):
            topology.acquire(name)
    with pytest.raises(Refused, match="v5p"):
        topology.acquire("tpu:v9:2x2x1")
    with pytest.raises(Refused, match="fixed when this process"):
        topology.acquire("cpu:64")


@pytest.mark.parametrize(
    ("name", "module", "words"),
    [("tpu:v5p:2x2x1", "libtpu", "coopt\\[tpu\\]"), ("gpu:1x1x8", "jax_cuda13_plugin", "coopt\\[cuda\\]")],
)
def test_a_missing_compiler_names_its_install_line(name, module, words, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda asked: None)
    with pytest.raises(Refused, match=words):
        topology.acquire(name)


def test_a_gpu_that_does_not_exist_can_be_written():
    fields = dict.fromkeys(topology.GPU_FIELDS, 1) | {"name": 'H"200', "compute_capability": "9.0"}
    text = topology.gpu_configuration(fields)
    assert "cuda_compute_capability { major: 9 minor: 0 }" in text
    assert 'name: "H200"' in text
    assert text.count("{") == text.count("}")
    with pytest.raises(Refused) as caught:
        topology.gpu_configuration({"name": "x"})
    assert len(caught.value.problems) == len(topology.GPU_FIELDS) - 1


def test_meshes_put_tensor_chips_next_to_each_other():
    made = build(dataclasses.replace(FP32, tp=2.0, cp=2.0, dp=2.0))
    ids = np.vectorize(lambda d: d.id)(made.mesh.devices)
    assert ids[..., 0].ravel().tolist() == [0, 2, 4, 6]
    assert isinstance(made.output.sharding, NamedSharding)
