"""A whole training step on a mesh: embedding, layers by `lax.scan`, head, loss, and AdamW on float32 weights.

Nothing says where weights are gathered or gradients reduced: as in programs that are trained this way, the partitioner
decides, from where weights and activations lie.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from coopt.measure import cycles, kept, sharding, topology
from coopt.measure.blocks import Embedding, Head, Layer
from coopt.measure.candidate import place
from coopt.measure.compile import compile_program, toolchain
from coopt.measure.formats import Formats, formats_of
from coopt.measure.grouped import kernel_of
from coopt.measure.jobs import layout_of, model_of, whole
from coopt.measure.mixers import Core
from coopt.measure.splash import splash
from coopt.problems import Problem, Refused
from coopt.spec.nouns import RECOMPUTE, LayerKind, Layout, Model

LAYERS = 4  # of a kind, compiled: as many as a loop needs to be a loop; two more of each further kind
OPTIMIZER = optax.adamw(3e-4, b1=0.9, b2=0.95, weight_decay=0.1)
saved = jax.checkpoint_policies


@dataclasses.dataclass(frozen=True)
class Step:
    """A training step to compile, and the shapes and places of all it takes: weights, optimizer's state, tokens."""

    function: Callable  # (weights, state, tokens) -> (weights, state, loss)
    arguments: tuple[Any, ...]
    layers: tuple[tuple[int, int], ...]  # of each kind, in the program and in the model
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
    shelf = kept.shelf_of(job, target.name, toolchain())
    made = compile_program(built.function, built.arguments, donate=(0, 1), shelf=shelf, report=report)
    devices = built.arguments[-1].sharding.mesh.devices.reshape(-1)
    told = cycles.described(made.text, devices, layers=built.layers, folder=job.get("texts"), report=report)
    return {
        "name": "step",
        "outcome": "ok",
        "kind": "none",
        "target": target.name,
        "device": target.devices[0].device_kind,
        "platform": target.platform,
        "chips": built.chips,
        "layers": [sum(n) for n in zip(*built.layers, strict=True)],
        **{name: getattr(made, name) for name in ("flops", "bytes", "memory", "compile_s", "resident", "digest")},
        "libtpu": shelf.versions.get("libtpu", ""),
        "schedule": told,
    }


def step(model: Model, layout: Layout, *, seq_len: int, devices: tuple, layers: int, fused: bool = True) -> Step:
    """The step of a model with only a few layers of each kind, in a loop a kind, whose body is the same for more.

    `layout.micro_batch` sequences a replica are one step. Over the tensor axis the residual stream is cut along the
    sequence with `layout.sp`, along its width without, as MaxText has it (logical axis `activation_embed`). What a
    layer keeps for its backward pass: everything without recompute; the products of weights with selective recompute,
    in host memory with `offload`; its input alone with full.

    Args:
      layers: of the rarest kind, where it has more; of each next, two more than that.
      fused: attention and experts by the kernels of TPUs; else as XLA writes them.

    Raises:
      Refused: a layout that does not divide, naming each axis; stages; other things moved to the host than those.
    """
    if layout.pp > 1:
        raise Refused(Problem(field="layout.pp", expected="1: a step is one stage", got=f"{layout.pp:g}"))
    recompute = RECOMPUTE[int(layout.recompute)]
    if layout.offload > 0 and (layout.offload < 1 or recompute != "selective"):
        got = f"{layout.offload:g} with recompute={recompute}"
        raise Refused(Problem(field="layout.offload", expected="0, or 1 with recompute=selective", got=got))
    for kind in model.kinds:
        sharding.refuse_indivisible(model, kind, layout, seq_len)
    mesh = sharding.mesh_of(sharding.mesh_shape(layout), list(devices))
    computed = formats_of(layout.precision)
    formats = dataclasses.replace(computed, weight=jnp.dtype(jnp.float32))
    counts = _compiled([int(kind.count) for kind in model.kinds], layers)
    names = [f"layers_{number}" if number else "layers" for number in range(len(model.kinds))]
    wide = {} if layout.sp else {"width": ("tensor",)}
    own = {name: {**sharding.rules_of(layout, kind), **wide} for name, kind in zip(names, model.kinds, strict=True)}
    rules = own["first"] = own["last"] = own["layers"]
    constrain = {name: sharding.constrain_on(mesh, own[name]) for name in own}

    def parts() -> dict[str, nnx.Module]:
        vocab = int(model.vocab)
        made: dict[str, nnx.Module] = {"first": Embedding(model, formats, constrain["first"], vocab=vocab)}
        for name, kind in zip(names, model.kinds, strict=True):
            core = _core(kind, mesh, own[name]) if fused else "xla"
            grouped = kernel_of(mesh, own[name], formats, kind, layout) if fused else None
            made[name] = Layer(model, kind, formats, constrain[name], implementation=core, grouped=grouped)
        return made | {"last": Head(model, formats, constrain["last"], vocab=vocab, tied=False)}

    split = {name: nnx.split(part) for name, part in nnx.eval_shape(parts).items()}
    graphs = {name: graph for name, (graph, _) in split.items()}
    weights = {name: place(state, mesh, own[name]) for name, (_, state) in split.items()}
    for name, (count, _) in zip(names, counts, strict=True):
        weights[name] = jax.tree.map(lambda leaf, n=count: _stacked(leaf, n), weights[name])
    loss = _loss(names, graphs, lambda own: _cast(own, computed), _policy(layout))

    def function(weights, state, tokens):
        value, gradients = jax.value_and_grad(loss)(weights, tokens)
        updates, state = OPTIMIZER.update(gradients, state, weights)
        return optax.apply_updates(weights, updates), state, value

    batch = int(layout.micro_batch * layout.dp)
    where = NamedSharding(mesh, sharding.spec_of(("batch", None), rules))
    tokens = jax.ShapeDtypeStruct((batch, seq_len + 1), jnp.int32, sharding=where)
    return Step(function, (weights, _state(weights, mesh), tokens), counts, mesh.size)


def _loss(names: Sequence[str], graphs: Mapping, cast: Callable, policy: Any) -> Callable:
    """The loss of weights and tokens: embedding, a loop over the layers of each kind, head."""
    part = lambda name, own: nnx.merge(graphs[name], cast(own))  # noqa: E731

    def loss(weights, tokens):
        x = part("first", weights["first"])(tokens[:, :-1])
        for name in names:

            def one(x, layer, name=name):
                return part(name, layer)(x), None

            body = one if policy is saved.everything_saveable else jax.checkpoint(one, policy=policy, prevent_cse=False)
            x, _ = jax.lax.scan(body, x, weights[name])
        return part("last", weights["last"])(x, tokens[:, 1:])

    return loss


def _compiled(counts: Sequence[int], least: int) -> tuple[tuple[int, int], ...]:
    """Of each kind, how many layers are compiled and how many there are: numbers that a loop's trips tell apart.

    >>> _compiled([32], 4), _compiled([58, 3], 4)
    (((4, 32),), ((6, 58), (3, 3)))
    """
    found = {}
    for rank, position in enumerate(sorted(range(len(counts)), key=lambda i: counts[i])):
        found[position] = (min(counts[position], least + 2 * rank), counts[position])
    return tuple(found[position] for position in range(len(counts)))


def _core(kind: LayerKind, mesh: Mesh, rules: sharding.Rules) -> Core:
    return splash(mesh, rules, window=int(kind.window) if kind.mixer == "window" else 0)


def _policy(layout: Layout) -> Callable:
    if layout.offload > 0:  # of selective recompute
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
