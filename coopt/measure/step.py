"""A whole training step on a mesh: embedding, layers by `lax.scan`, head, loss, and AdamW on float32 weights.

Nothing says where weights are gathered or gradients reduced: as in programs that are trained this way, the partitioner
decides, from where weights and activations lie.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax.sharding import NamedSharding, PartitionSpec

from coopt.measure import cycles, hlo, kept, sharding, topology
from coopt.measure.blocks import Embedding, Head, Layer
from coopt.measure.candidate import place
from coopt.measure.formats import Formats, formats_of
from coopt.measure.jobs import layout_of, model_of, whole
from coopt.measure.splash import splash
from coopt.problems import Problem, Refused
from coopt.spec.nouns import RECOMPUTE, Layout, Model

LAYERS = 4  # compiled: as many as a loop needs to be a loop
OPTIMIZER = optax.adamw(3e-4, b1=0.9, b2=0.95, weight_decay=0.1)
saved = jax.checkpoint_policies


@dataclasses.dataclass(frozen=True)
class Step:
    """A training step to compile, and the shapes and places of all it takes: weights, optimizer's state, tokens."""

    function: Callable  # (weights, state, tokens) -> (weights, state, loss)
    arguments: tuple[Any, ...]
    layers: int  # in the program
    of: int  # in the model
    chips: int


def step_job(job: dict, report: Callable[[str], None]) -> dict:
    """A `step` job: the training step compiled for a TPU slice; its memory, FLOPs and schedule, and no time.

    The memory is that of the program compiled, with `layers` layers. `texts` is a folder where compiled texts are kept.
    """
    report("build")
    model, layout = model_of(job.get("model")), layout_of(job.get("layout", {}))
    target = topology.acquire(str(job.get("target")))
    if target.platform != "tpu":
        raise Refused(Problem(field="target", expected="a TPU slice, such as tpu:v5p:4x4x4", got=target.name))
    layers, seq_len = whole(job, "layers", LAYERS), whole(job, "seq_len")
    built = step(model, layout, seq_len=seq_len, devices=target.devices, layers=layers)
    report("lower")
    lowered = jax.jit(built.function, donate_argnums=(0, 1)).lower(*built.arguments)
    made = kept.compiled(lowered, target=target.name, folder=job.get("texts"), report=report)
    devices = built.arguments[-1].sharding.mesh.devices.reshape(-1)
    told = cycles.described(made["text"], devices, layers=layers, of=built.of, folder=job.get("texts"), report=report)
    return {
        "name": "step",
        "outcome": "ok",
        "kind": "none",
        "target": target.name,
        "device": target.devices[0].device_kind,
        "platform": target.platform,
        "chips": built.chips,
        "layers": [layers, built.of],
        "flops": made["flops"],
        "bytes": made["bytes"],
        "memory": made["memory"],
        "compile_s": made["compile_s"],
        "resident": made["resident"],
        "digest": hlo.digest(made["text"]),
        "libtpu": made["versions"].get("libtpu", ""),
        "schedule": told,
    }


def step(model: Model, layout: Layout, *, seq_len: int, devices: tuple, layers: int, fused: bool = True) -> Step:
    """The step of a model of one kind of layer, with only `layers` of them: the loop's body is the same for more.

    `layout.micro_batch` sequences a replica are one step. What a layer keeps for its backward pass: everything without
    recompute; the products of weights with selective recompute; its input alone with full. With `offload`, the
    products of weights are kept in host memory.

    Args:
      fused: attention by the kernel of TPUs; else as XLA writes it.

    Raises:
      Refused: a model of several kinds of layers, or a layout that does not divide, naming each axis.
    """
    if len(model.kinds) != 1:
        raise Refused(Problem(field="model.kinds", expected="one kind of layer", got=f"{len(model.kinds)} kinds"))
    if layout.pp > 1:
        raise Refused(Problem(field="layout.pp", expected="1: a step is one stage", got=f"{layout.pp:g}"))
    kind = model.kinds[0]
    sharding.refuse_indivisible(model, kind, layout, seq_len)
    mesh = sharding.mesh_of(sharding.mesh_shape(layout), list(devices))
    rules = sharding.rules_of(layout, kind)
    constrain = sharding.constrain_on(mesh, rules)
    computed = formats_of(layout.precision)
    formats = dataclasses.replace(computed, weight=jnp.dtype(jnp.float32))
    core = splash(mesh, rules, window=int(kind.window) if kind.mixer == "window" else 0) if fused else None
    parts = nnx.eval_shape(
        lambda: (
            Embedding(model, formats, constrain, vocab=int(model.vocab)),
            Layer(model, kind, formats, constrain, implementation=core or "xla"),
            Head(model, formats, constrain, vocab=int(model.vocab), tied=False),
        )
    )
    graphs, states = zip(*(nnx.split(part) for part in parts), strict=True)
    first, layer, last = (place(state, mesh, rules) for state in states)
    weights = {"first": first, "layers": jax.tree.map(lambda leaf: _stacked(leaf, layers), layer), "last": last}
    policy = _policy(layout)

    def loss(weights, tokens):
        x = nnx.merge(graphs[0], _cast(weights["first"], computed))(tokens[:, :-1])

        def one(x, layer):
            return nnx.merge(graphs[1], _cast(layer, computed))(x), None

        body = one if policy is saved.everything_saveable else jax.checkpoint(one, policy=policy, prevent_cse=False)
        x, _ = jax.lax.scan(body, x, weights["layers"])
        return nnx.merge(graphs[2], _cast(weights["last"], computed))(x, tokens[:, 1:])

    def function(weights, state, tokens):
        value, gradients = jax.value_and_grad(loss)(weights, tokens)
        updates, state = OPTIMIZER.update(gradients, state, weights)
        return optax.apply_updates(weights, updates), state, value

    batch = int(layout.micro_batch * layout.dp)
    where = NamedSharding(mesh, sharding.spec_of(("batch", None), rules))
    tokens = jax.ShapeDtypeStruct((batch, seq_len + 1), jnp.int32, sharding=where)
    return Step(function, (weights, _state(weights, mesh), tokens), layers, int(kind.count), mesh.size)


def _policy(layout: Layout) -> Callable:
    if layout.offload > 0:
        return saved.offload_dot_with_no_batch_dims("device", "pinned_host")
    return {
        "none": saved.everything_saveable,
        "selective": saved.dots_with_no_batch_dims_saveable,
        "full": saved.nothing_saveable,
    }[RECOMPUTE[int(layout.recompute)]]


def _cast(weights: Any, formats: Formats) -> Any:
    """Matrices in the type products take, vectors as they are; gathered after this, at half the bytes."""
    return jax.tree.map(lambda leaf: leaf.astype(formats.linear) if leaf.ndim > 1 else leaf, weights)


def _stacked(leaf: jax.ShapeDtypeStruct, layers: int) -> jax.ShapeDtypeStruct:
    where = leaf.sharding
    assert isinstance(where, NamedSharding)
    return jax.ShapeDtypeStruct(
        (layers, *leaf.shape), leaf.dtype, sharding=NamedSharding(where.mesh, PartitionSpec(None, *where.spec))
    )


def _state(weights: Any, mesh) -> Any:
    """The optimizer's state, each moment where its weight lies."""
    alone = NamedSharding(mesh, PartitionSpec())
    state = jax.eval_shape(OPTIMIZER.init, weights)
    places = {leaf.shape: leaf.sharding for leaf in jax.tree.leaves(weights)}
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=places[leaf.shape] if leaf.ndim else alone),
        state,
    )
