"""What lies on a chip and what chips send, as `count` has it, against JAX's shardings and compiled collectives.

Eight fake devices. A collective of the compiled module is compared by kind, group and bytes; where a compiler sends
something else, the expected bytes are written out with the reason, and docs/cross-checks.md lists them.
"""

from __future__ import annotations

import collections
import itertools
import math

import jax
import pytest
from jax.sharding import NamedSharding

from coopt.measure import candidate as candidates
from coopt.measure import sharding
from coopt.measure.compile import compile_program
from coopt.measure.weights import WEIGHTS, name_of
from coopt.ops import count
from coopt.ops.cut import cut
from coopt.ops.shapes import vectors
from coopt.ops.weights import chip_weights, stages
from coopt.spec.nouns import PRECISIONS, LayerKind, Layout, Model, training
from coopt.tree import replace

SEQ, D = 64, 128
DENSE = LayerKind(count=1.0, heads=8.0, kv_heads=8.0, head_dim=16.0, d_ff=256.0)
GROUPED = replace(DENSE, kv_heads=2.0)
EXPERTS = replace(
    DENSE, kv_heads=8.0, feedforward="moe", experts=8.0, top_k=2.0, d_expert=64.0, shared=1.0, d_shared=64.0
)
LATENT = replace(DENSE, mixer="mla", q_rank=32.0, kv_rank=16.0, rope_dim=8.0, v_dim=16.0)
KINDS = {"dense": DENSE, "grouped": GROUPED, "experts": EXPERTS, "latent": LATENT}
FP32 = Layout(precision=replace(PRECISIONS["fp32"], reduce=4.0), fused_attention=0.0, zero=0.0)


def layouts() -> list[Layout]:
    """Ways of up to eight chips over tp, cp and dp, with and without sequence parallelism, shards and experts apart."""
    found = []
    for tp, cp, dp in itertools.product((1, 2, 4, 8), repeat=3):
        if tp * cp * dp <= 8:
            for sp, zero, fsdp, ep in itertools.product((0, 1), (0, 3), (1, 2, 4, 8), (1, 2, 4, 8)):
                if (tp > 1 or not sp) and dp % fsdp == 0 and dp % ep == 0 and (zero == 3) == (fsdp > 1):
                    sizes = {"tp": tp, "cp": cp, "dp": dp, "sp": sp, "zero": zero, "fsdp": fsdp, "ep": ep}
                    found.append(replace(FP32, **{key: float(value) for key, value in sizes.items()}))
    return found


LAYOUTS = layouts()


def model(kind: LayerKind) -> Model:
    """One layer and nothing else: no vocabulary, no final norm."""
    return Model(d_model=float(D), vocab=0.0, norms=0.0, kinds=(kind,))


def build(kind: LayerKind, layout: Layout):
    whole = replace(model(kind), vocab=512.0, norms=1.0)
    return candidates.build(whole, layout, part="layer", layer=0, seq_len=SEQ, devices=jax.devices())


def work(layout: Layout):
    return training(float(SEQ), float(layout.dp * layout.micro_batch))


def test_a_hundred_layouts_are_tried():
    assert len(LAYOUTS) >= 100


@pytest.mark.parametrize("name", KINDS)
def test_weights_on_a_chip_are_jaxs_shards(name):
    """Elements of one layer on one chip, matrix by matrix from `Sharding.shard_shape`, against `count`'s weights."""
    kind = KINDS[name]
    abstract = build(kind, FP32).weights
    for layout in LAYOUTS:
        rules, sizes = sharding.rules_of(layout, kind), sharding.mesh_shape(layout)
        mesh = sharding.mesh_of(sizes, jax.devices())
        held = collections.Counter()
        for path, leaf in jax.tree_util.tree_flatten_with_path(candidates.place(abstract, mesh, rules))[0]:
            ours = sharding.shard_shape(leaf.shape, WEIGHTS[name_of(path)][0], rules, sizes)
            assert ours == leaf.sharding.shard_shape(leaf.shape)
            part = "expert" if "expert_" in name_of(path) else "dense" if len(leaf.shape) > 1 else "vectors"
            held[part] += math.prod(ours)
        one = model(kind)
        said = chip_weights(one, layout, sizes_of(one, layout), stages(one, layout))
        shards = layout.fsdp if layout.zero > 2.5 else 1.0
        whole = said.layer_dense - vectors(kind, float(D)) + _copied(kind, layout)
        assert held["vectors"] == vectors(kind, float(D))
        assert held["dense"] == whole / shards + _unsharded(kind, layout) * (1.0 - 1.0 / shards)
        if kind.feedforward == "moe":
            # A block's experts are cut over tensor chips too; those of `count` are whole wherever ep > 1.
            over_tensor = layout.tp if layout.ep > 1.5 else 1.0
            apart = shards / math.gcd(int(layout.ep), int(shards))
            assert held["expert"] == said.layer_expert / over_tensor / apart


def sizes_of(one: Model, layout: Layout):
    return cut(one, layout, work(layout).train)


def _copied(kind: LayerKind, layout: Layout) -> float:
    """Weights beyond an equal part over tensor chips, of which each holds the whole.

    Keys and values with fewer heads than chips; down-projections to latent ranks; routers.
    """
    whole = D * (kind.q_rank + kind.kv_rank + kind.rope_dim) if kind.mixer == "mla" else 0.0
    if kind.mixer != "mla" and kind.kv_heads % layout.tp:
        whole += 2.0 * D * kind.kv_heads * kind.head_dim
    whole += D * kind.experts if kind.feedforward == "moe" else 0.0
    return whole * (1.0 - 1.0 / layout.tp)


def _unsharded(kind: LayerKind, layout: Layout) -> float:
    """Weights that a block does not cut over data, having no axis of d_model: the up-projections of latent ranks."""
    if kind.mixer != "mla":
        return 0.0
    up = kind.q_rank * (kind.head_dim + kind.rope_dim) + kind.kv_rank * (kind.head_dim + kind.v_dim)
    return kind.heads * up / layout.tp


def test_activations_on_a_chip_are_jaxs_shards():
    """Tokens between the blocks: micro_batch x seq_len / cp, over tp as well with sequence parallelism."""
    for layout in LAYOUTS:
        layout = replace(layout, micro_batch=2.0)
        rules, sizes = sharding.rules_of(layout, DENSE), sharding.mesh_shape(layout)
        mesh = sharding.mesh_of(sizes, jax.devices())
        logical = ("batch", "residual", None)
        whole = (int(layout.micro_batch * layout.dp), SEQ, D)
        jaxs = NamedSharding(mesh, sharding.spec_of(logical, rules)).shard_shape(whole)
        sized = sizes_of(model(DENSE), layout)
        assert sharding.shard_shape(whole, logical, rules, sizes) == jaxs
        assert math.prod(jaxs) == sized.tokens / sized.split * D


# ---------------------------------------------------------------- collectives


def compiled(kind: LayerKind, layout: Layout) -> collections.Counter:
    """Bytes of each (kind, group size) in the compiled forward and backward pass of one layer."""
    function, arguments, places = candidates.backward(build(kind, layout))
    found = collections.Counter()
    for one in compile_program(function, arguments, out_shardings=places).collectives:
        found[one.kind, one.size] += one.bytes
    return found


def counted(kind: LayerKind, layout: Layout) -> collections.Counter:
    """The same of `count`'s rows, by (kind, group size, phase)."""
    found = collections.Counter()
    for row in count(model(kind), layout, work(layout)).rows:
        if (
            row.kind == "collective"
            and row.scope in ("layer", "step")
            and row.size > 1.5
            and row.count * row.payload > 0
        ):
            found[row.collective, int(row.size), row.phase] += float(row.count * row.payload)
    return found


TOKENS = 4.0 * SEQ * D  # B of one micro-batch of activations


def test_tensor_parallelism():
    """Two all-reduces of the activations forward; backward one more an input of a parallel block.

    A trainer fuses q, k, v and gate, up into one product each and reduces its input's gradient once; a block has five
    products, whose gradients XLA reduces together, in one collective of five times the bytes instead of two.
    """
    layout = replace(FP32, tp=4.0)
    ours, theirs = counted(DENSE, layout), compiled(DENSE, layout)
    assert set(theirs) == {("all_reduce", 4)}
    assert ours["all_reduce", 4, "forward"] == ours["all_reduce", 4, "backward"] == 2 * TOKENS
    assert theirs["all_reduce", 4] == ours["all_reduce", 4, "forward"] + 2.5 * ours["all_reduce", 4, "backward"]


def test_data_parallelism():
    """Every gradient summed once over the replicas: the same bytes, to the last."""
    layout = replace(FP32, dp=4.0)
    ours, theirs = counted(DENSE, layout), compiled(DENSE, layout)
    assert theirs == {("all_reduce", 4): ours["all_reduce", 4, "backward"]}


def test_full_sharding():
    """Weights gathered for the forward pass within 1%: a block does not cut its norms, whose share that is.

    XLA keeps what it gathered for the backward pass, where a trainer gathers again; and on CPU a reduce-scatter of
    gradients is an all-reduce of the same buffer, of which each chip keeps its part.
    """
    layout = replace(FP32, dp=4.0, fsdp=4.0, zero=3.0)
    ours, theirs = counted(DENSE, layout), compiled(DENSE, layout)
    assert theirs["all_gather", 4] == pytest.approx(ours["all_gather", 4, "forward"], rel=0.01)
    assert ours["all_gather", 4, "backward"] == ours["all_gather", 4, "forward"]
    assert theirs["all_reduce", 4] == ours["reduce_scatter", 4, "backward"]


@pytest.mark.slow
def test_sequence_parallelism():
    """Gathers forward are equal. Backward, XLA keeps the gathered input of each block where Megatron gathers it again.

    Scatters are all-reduces on CPU (as above); five products are reduced apart (as above), and gradients of the
    norms, which see their part of the tokens alone, are summed over the tensor chips: two vectors of d_model.
    """
    layout = replace(FP32, tp=4.0, sp=1.0)
    ours, theirs = counted(DENSE, layout), compiled(DENSE, layout)
    forward, again = ours["all_gather", 4, "forward"], ours["all_gather", 4, "backward"]
    assert forward == ours["reduce_scatter", 4, "forward"] == ours["reduce_scatter", 4, "backward"] == 2 * TOKENS
    assert again == 2 * forward and theirs["all_gather", 4] == forward + again / 2
    assert theirs["all_reduce", 4] == 2 * TOKENS + 2.5 * 2 * TOKENS + 2 * D * 4


@pytest.mark.slow
def test_context_parallelism():
    """Gradients of weights are summed, those of keys and values scattered back (as all-reduces), to the last byte.

    Forward, `count` gathers keys and values, as ring and gather implementations do; XLA's partitioner gathers values,
    and the block's input instead of the keys, from which each chip makes all keys itself.
    """
    layout = replace(FP32, cp=4.0)
    ours, theirs = counted(GROUPED, layout), compiled(GROUPED, layout)
    keys = 4.0 * SEQ * GROUPED.kv_heads * GROUPED.head_dim
    assert ours["all_gather", 4, "forward"] == 2 * keys
    assert theirs["all_gather", 4] == TOKENS + keys
    assert theirs["all_reduce", 4] == ours["all_reduce", 4, "backward"] + ours["reduce_scatter", 4, "backward"]


@pytest.mark.slow
def test_expert_parallelism():
    """Dispatch is the all-to-all that is counted, within 1% (the indices of its tokens travel with it).

    The way back is one too in every trainer; XLA's partitioner turns a gather across chips into an all-reduce of the
    rows that each chip has, four times the bytes: not what anybody ships, and not what is priced.
    """
    layout = replace(FP32, dp=4.0, ep=4.0)
    ours = counted(EXPERTS, layout)
    function, arguments, places = candidates.forward(build(EXPERTS, layout))
    found = collections.Counter()
    for one in compile_program(function, arguments, out_shardings=places).collectives:
        found[one.kind, one.size] += one.bytes
    dispatch = ours["all_to_all", 4, "forward"] / 2
    assert found["all_to_all", 4] == pytest.approx(dispatch, rel=0.01)
    assert found["all_reduce", 4] == 4 * dispatch


# ---------------------------------------------------------------- memory

ARGUED = {
    "one": FP32,
    "tensor": replace(FP32, tp=4.0, dp=2.0),
    "sequence": replace(FP32, tp=2.0, cp=2.0, dp=2.0, sp=1.0, micro_batch=2.0),
}


@pytest.mark.parametrize("name", ARGUED)
def test_arguments_of_the_compiled_program_are_the_bytes_counted(name):
    """XLA's argument size on one chip: its weights, and its part of the activations that come in; exact."""
    layout = ARGUED[name]
    function, arguments, places = candidates.forward(build(DENSE, layout))
    compiled = jax.jit(function, out_shardings=places).lower(*arguments).compile()
    one = model(DENSE)
    weights = count(one, layout, work(layout)).memory.parameters
    sized = sizes_of(one, layout)
    activations = 4.0 * sized.tokens / sized.split * D
    assert compiled.memory_analysis().argument_size_in_bytes == weights + activations
