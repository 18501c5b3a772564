"""One part of a model as programs to compile: functions of abstract arrays that know where they lie."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from coopt.measure import sharding
from coopt.measure.blocks import Embedding, Head, Layer
from coopt.measure.formats import Formats, formats_of
from coopt.measure.grouped import kernel_of
from coopt.measure.mixers import Implementation
from coopt.measure.splash import splash
from coopt.measure.weights import axes_of, drawn, materialise
from coopt.problems import Problem, Refused
from coopt.spec.nouns import RECOMPUTE, LayerKind, Layout, Model
from coopt.workers.child import resolve

PARTS = ("layer", "embedding", "head")


@dataclasses.dataclass(frozen=True)
class Candidate:
    """A part of a model on a mesh: the function, and the shapes and places of all it takes. No array exists yet."""

    part: str
    mesh: Mesh
    function: Callable  # (weights, *inputs) -> output
    weights: Any  # tree of jax.ShapeDtypeStruct
    inputs: tuple[jax.ShapeDtypeStruct, ...]
    output: jax.ShapeDtypeStruct
    gradients: Any  # shardings of the weights' gradients
    vocab: int  # of the inputs' token numbers
    assumed: tuple[str, ...] = ()


def build(
    model: Model,
    layout: Layout,
    *,
    part: str,
    layer: int,
    seq_len: int,
    devices: tuple,
    formats: Formats | None = None,
    own: str = "",
) -> Candidate:
    """A part of one pipeline stage as the layout cuts it, on the first tp * cp * dp of the devices.

    Args:
      part: layer (one layer of kind number `layer`), embedding, or head (final norm, product, loss).
      seq_len: tokens a sequence; the batch is `layout.micro_batch` sequences a replica.
      formats: instead of those of the layout's recipe (a float64 reference).
      own: `package.module:factory` of a layer to take the place of ours: `factory(model, kind)` returns a Flax module
        from (batch, sequence, d_model) to the same, on one device, with weights in the formats that it chooses.
    """
    if part not in PARTS:
        raise Refused(Problem(field="part", expected=f"one of {', '.join(PARTS)}", got=part))
    if not 0 <= layer < len(model.kinds):
        raise Refused(Problem(field="layer", expected=f"0 to {len(model.kinds) - 1}", got=str(layer)))
    kind = model.kinds[layer] if part == "layer" else None
    formats = formats or formats_of(layout.precision)
    sizes = sharding.mesh_shape(layout)
    sharding.refuse_indivisible(model, kind, layout, seq_len)
    mesh = sharding.mesh_of(sizes, list(devices))
    rules = sharding.rules_of(layout, kind)
    vocab, assumed = _padded(int(model.vocab), int(layout.tp))
    maker = _factory(own, part, mesh) if own else _module(part, layout, formats, mesh, rules, vocab, seq_len)
    module = nnx.eval_shape(lambda: maker(model, model.kinds[layer]))
    graph, state = nnx.split(module)
    weights = place(state, mesh, rules)
    function = _function(graph, mesh, sharding.rules_of(dataclasses.replace(layout, zero=0.0), kind), layout)
    inputs = _inputs(part, model, layout, seq_len, formats, mesh, rules)
    output = jax.eval_shape(function, weights, *inputs)
    kept = rules if part == "head" else {**rules, "batch": rules["batch"]}
    spec = PartitionSpec() if output.ndim == 0 else sharding.spec_of(("batch", "residual", None), kept)
    scattered = dataclasses.replace(layout, zero=3.0 if int(layout.zero) >= 2 else 0.0)
    return Candidate(
        part=part,
        mesh=mesh,
        function=function,
        weights=weights,
        inputs=inputs,
        output=jax.ShapeDtypeStruct(output.shape, output.dtype, sharding=NamedSharding(mesh, spec)),
        gradients=jax.tree.map(lambda leaf: leaf.sharding, place(state, mesh, sharding.rules_of(scattered, kind))),
        vocab=vocab,
        assumed=assumed,
    )


def _factory(own: str, part: str, mesh: Mesh) -> Callable[[Model, LayerKind], nnx.Module]:
    """The user's own layer; refused where it would have to be cut, which only its author could do."""
    if part != "layer":
        raise Refused(Problem(field="block", expected="part = layer", got=part, hint="embedding and head stay ours"))
    if mesh.size > 1:
        hint = "time it with tp = cp = dp = 1, or time the whole step with --program"
        raise Refused(Problem(field="block", expected="a layout on one device", got=f"{mesh.size} devices", hint=hint))
    return resolve(own)


def forward(candidate: Candidate) -> tuple[Callable, tuple, Any]:
    """The forward pass: function, abstract arguments, shardings of its results."""
    return candidate.function, (candidate.weights, *candidate.inputs), candidate.output.sharding


def backward(candidate: Candidate) -> tuple[Callable, tuple, Any]:
    """Forward and backward passes: the output, and the gradients of the weights and of all inputs that are no tokens.

    The output is returned too: it would otherwise be dead, and with it the last product of the forward pass.
    """
    real = [i for i, a in enumerate(candidate.inputs) if jnp.issubdtype(a.dtype, jnp.floating)]

    def both(weights, *inputs_and_cotangent):
        *inputs, cotangent = inputs_and_cotangent

        def of_real(weights, *floats):
            filled = list(inputs)
            for i, value in zip(real, floats, strict=True):
                filled[i] = value
            return candidate.function(weights, *filled)

        output, pull = jax.vjp(of_real, weights, *(inputs[i] for i in real))
        return output, pull(cotangent)

    arguments = (candidate.weights, *candidate.inputs, candidate.output)
    places = (candidate.gradients, *(candidate.inputs[i].sharding for i in real))
    return both, arguments, (candidate.output.sharding, places)


def place(state: Any, mesh: Mesh, rules: sharding.Rules) -> Any:
    """The abstract weights with their shardings; refuses a weight that does not divide, naming its axis."""
    sizes = dict(mesh.shape)

    def one(path, leaf):
        logical = axes_of(path, len(leaf.shape))
        sharding.shard_shape(leaf.shape, logical, rules, sizes)
        return jax.ShapeDtypeStruct(
            leaf.shape, leaf.dtype, sharding=NamedSharding(mesh, sharding.spec_of(logical, rules))
        )

    return jax.tree_util.tree_map_with_path(one, state)


def fill(abstract: Any, candidate: Candidate, seed: int) -> Any:
    """Arrays for abstract weights, or for a tuple of inputs: unit normal values, tokens of the vocabulary."""
    if not isinstance(abstract, tuple):
        return materialise(abstract, seed)
    generator = np.random.default_rng(seed)
    return tuple(_values(leaf, candidate.vocab, generator) for leaf in abstract)


def _values(leaf: jax.ShapeDtypeStruct, vocab: int, generator: np.random.Generator) -> jax.Array:
    if jnp.issubdtype(leaf.dtype, jnp.integer):
        values = generator.integers(0, vocab, leaf.shape)
    elif leaf.ndim == 0:
        values = np.ones(())
    else:
        values = drawn(leaf.shape, leaf.dtype, generator)
    return jax.device_put(values.astype(leaf.dtype), leaf.sharding)


def _padded(vocab: int, tp: int) -> tuple[int, tuple[str, ...]]:
    padded = -(-vocab // tp) * tp
    return padded, (f"vocabulary padded from {vocab} to {padded}, a multiple of tp",) if padded != vocab else ()


def _implementation(
    mesh: Mesh, rules, formats: Formats, kind: LayerKind, layout: Layout, seq_len: int
) -> Implementation:
    """The fused kernel that a platform trains with, where the layout asks for one and it takes these shapes."""
    platform = mesh.devices.flat[0].platform
    if not layout.fused_attention or formats.attention.itemsize != 2 or kind.mixer == "mla":
        return "xla"
    if platform in ("gpu", "cuda"):
        return "cudnn"
    if platform == "tpu" and kind.head_dim % 128 == 0 and seq_len % 128 == 0 and layout.cp == 1:
        return splash(mesh, rules, window=int(kind.window) if kind.mixer == "window" else 0)
    return "xla"


def _module(part, layout, formats, mesh, rules, vocab, seq_len) -> Callable[[Model, LayerKind], nnx.Module]:
    constrain = sharding.constrain_on(mesh, rules)

    def module(model: Model, kind: LayerKind) -> nnx.Module:
        if part == "embedding":
            return Embedding(model, formats, constrain, vocab=vocab)
        if part == "head":
            return Head(model, formats, constrain, vocab=vocab, tied=False)
        return Layer(
            model,
            kind,
            formats,
            constrain,
            selective=RECOMPUTE[int(layout.recompute)] == "selective",
            implementation=_implementation(mesh, rules, formats, kind, layout, seq_len),
            grouped=kernel_of(mesh, rules, formats, kind, layout) if mesh.devices.flat[0].platform == "tpu" else None,
        )

    return module


def _function(graph, mesh: Mesh, gathered: sharding.Rules, layout: Layout) -> Callable:
    """(weights, *inputs) -> output. Sharded weights are gathered for use, which the backward pass turns around."""

    def function(weights, *inputs):
        if mesh.size > 1 and int(layout.zero) == 3:
            places = jax.tree.map(lambda leaf: leaf.sharding, place(weights, mesh, gathered))
            weights = jax.lax.with_sharding_constraint(weights, places)
        return nnx.merge(graph, weights)(*inputs)

    return jax.checkpoint(function) if RECOMPUTE[int(layout.recompute)] == "full" else function


def _inputs(part, model, layout, seq_len, formats, mesh, rules) -> tuple[jax.ShapeDtypeStruct, ...]:
    batch = int(layout.micro_batch) * int(layout.dp)
    shape = (batch, seq_len, int(model.d_model))
    hidden = jax.ShapeDtypeStruct(
        shape, formats.activation, sharding=NamedSharding(mesh, sharding.spec_of(("batch", "residual", None), rules))
    )
    tokens = jax.ShapeDtypeStruct(
        shape[:2], jnp.int32, sharding=NamedSharding(mesh, sharding.spec_of(("batch", "sequence"), rules))
    )
    return {"layer": (hidden,), "embedding": (tokens,), "head": (hidden, tokens)}[part]
