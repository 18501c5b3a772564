"""Every weight of a block by name: its logical axes, and how it starts. Sharding and initial values read this table."""

from __future__ import annotations

import zlib

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

# name: (logical axes, how many leading axes are summed over in the product; 0 for vectors)
WEIGHTS = {
    "scale": ((None,), 0),
    "offset": ((None,), 0),
    "q": (("embed", "heads", None), 1),
    "k": (("embed", "kv_heads", None), 1),
    "v": (("embed", "kv_heads", None), 1),
    "o": (("heads", None, "embed"), 2),
    "q_bias": (("heads", None), 0),
    "k_bias": (("kv_heads", None), 0),
    "v_bias": (("kv_heads", None), 0),
    "o_bias": ((None,), 0),
    "q_down": (("embed", None), 1),
    "q_up": ((None, "heads", None), 1),
    "kv_down": (("embed", None), 1),
    "kv_up": ((None, "heads", None), 1),
    "gate": (("embed", "ff"), 1),
    "up": (("embed", "ff"), 1),
    "down": (("ff", "embed"), 1),
    "gate_bias": (("ff",), 0),
    "up_bias": (("ff",), 0),
    "down_bias": ((None,), 0),
    "router": (("embed", None), 1),
    "router_bias": ((None,), 0),
    "expert_gate": (("experts", "expert_embed", "ff"), 2),
    "expert_up": (("experts", "expert_embed", "ff"), 2),
    "expert_down": (("experts", "ff", "expert_embed"), 2),
    "expert_gate_bias": (("experts", "ff"), 0),
    "expert_up_bias": (("experts", "ff"), 0),
    "expert_down_bias": (("experts", None), 0),
    "embedding": (("vocab", "embed"), 0),
    "positions": ((None, "embed"), 0),
    "head": (("embed", "vocab"), 1),
}
EMBEDDING_DEVIATION = 0.02
POOL = 1 << 20  # random numbers that a large weight repeats: drawing billions would take longer than timing them


def name_of(path: tuple) -> str:
    """The weight's name in a path of `jax.tree_util`: its last key that is a word of the table; "" for another's."""
    words = [str(getattr(key, "key", getattr(key, "name", ""))) for key in path]
    return next((word for word in reversed(words) if word in WEIGHTS), "")


def axes_of(path: tuple, dimensions: int) -> tuple[str | None, ...]:
    """The logical axes of the weight at a path; nothing is known of one that a user's own module made."""
    logical = WEIGHTS[name][0] if (name := name_of(path)) else ()
    return logical if len(logical) == dimensions else (None,) * dimensions


def parameter(shape: tuple[int, ...], dtype: jnp.dtype) -> nnx.Param:
    """A weight of zeros, which stays a shape alone while modules are built under `nnx.eval_shape`."""
    return nnx.Param(jnp.zeros(shape, dtype))


def _deviation(name: str, shape: tuple[int, ...]) -> float:
    if not name:  # not of the table: the last axis is taken to be the output's
        return float(np.prod(shape[:-1], dtype=float)) ** -0.5
    summed = WEIGHTS[name][1]
    if not summed:
        return EMBEDDING_DEVIATION
    # An expert's first axis numbers the experts; it is not summed over.
    inputs = shape[1:summed] if name.startswith("expert") else shape[:summed]
    return float(np.prod(inputs, dtype=float)) ** -0.5


def _values(name: str, shape: tuple[int, ...], dtype: np.dtype, generator: np.random.Generator) -> np.ndarray:
    if name == "scale" or not name and len(shape) < 2:
        return np.ones(shape, dtype)
    if name == "offset" or name.endswith("_bias"):
        return np.zeros(shape, dtype)
    return drawn(shape, dtype, generator, deviation=_deviation(name, shape))


def drawn(
    shape: tuple[int, ...], dtype: np.dtype, generator: np.random.Generator, *, deviation: float = 1.0
) -> np.ndarray:
    """Normal numbers of mean 0, of which a large array repeats the first 2^20.

    They are rounded before they are repeated: rounding a gigabyte takes seconds.
    """
    size = min(int(np.prod(shape, dtype=np.int64)), POOL)
    values = generator.standard_normal(size, dtype=np.float32) * np.float32(deviation)
    return np.resize(values.astype(dtype), shape)


def materialise(abstract, seed: int):
    """Arrays for a tree of `jax.ShapeDtypeStruct`, placed by their shardings: normal weights, unit scales, zero biases.

    The values depend on the seed, the path and the shape alone, so that a sharded and an unsharded copy are equal.
    """

    def make(path, leaf):
        name = name_of(path)
        generator = np.random.default_rng((seed, zlib.crc32(jax.tree_util.keystr(path).encode())))
        return jax.device_put(_values(name, leaf.shape, leaf.dtype, generator), leaf.sharding)

    return jax.tree_util.tree_map_with_path(make, abstract)


def parameters(tree) -> int:
    """How many numbers a tree of arrays or shapes holds.

    >>> parameters({"up": jax.ShapeDtypeStruct((4, 8), jnp.float32)})
    32
    """
    return sum(int(np.prod(leaf.shape, dtype=np.int64)) for leaf in jax.tree.leaves(tree))
