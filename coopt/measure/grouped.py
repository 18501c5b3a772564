"""Experts as TPUs train them: tokens sorted by expert, none dropped, and grouped products by a Pallas kernel."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec

from coopt.measure.formats import Formats
from coopt.measure.sharding import Rules, spec_of
from coopt.spec.nouns import LayerKind, Layout

# Rows, inputs and outputs of a tile: tile_batch_seq, tile_embed_dim and tile_mlp_dim as MaxText has them where a recipe
# sets none (github:AI-Hypercomputer/maxtext src/MaxText/configs/types.py, MoEKernels; 2025).
TILE = (512, 1024, 1024)

Product = Callable[[str, jax.Array], jax.Array]  # (name of a weight, rows) -> rows times each row's own expert
Apply = Callable[[jax.Array, Product], jax.Array]  # rows of tokens to rows, by such products
Grouped = Callable[[jax.Array, jax.Array, jax.Array, Mapping[str, jax.Array], Apply], jax.Array]


def tiles(m: int, k: int, n: int) -> tuple[int, int, int]:
    """The tile of a grouped product of m rows, k inputs and n outputs; tiles of rows have to fill them.

    >>> tiles(98304, 2048, 704)
    (512, 1024, 704)
    """
    return math.gcd(m, TILE[0]), min(k, TILE[1]), min(n, TILE[2])


def visited(groups: int, m: int, k: int, n: int) -> float:
    """FLOPs of the tiles that a product of m rows in equal groups visits: a tile that two groups share counts twice.

    >>> visited(8, 8192, 1024, 1024) / (2 * 8192 * 1024 * 1024), visited(3, 1024, 1024, 1408)
    (1.0, 8589934592.0)
    """
    rows, inputs, outputs = tiles(m, k, n)
    shared = sum(m * group // groups % rows > 0 for group in range(1, groups))
    return 2.0 * (m + shared * rows) * math.ceil(k / inputs) * inputs * math.ceil(n / outputs) * outputs


def kernel_of(mesh: Mesh, rules: Rules, formats: Formats, kind: LayerKind, layout: Layout) -> Grouped | None:
    """The form of `Experts` that a TPU trains with; None where there are none, or the kernel does not take them.

    It takes floats without biases, and all experts on a chip: those that lie on several are a batch of products.
    """
    floats = formats.quantised is None and formats.linear in (jnp.bfloat16, jnp.float32)
    takes = kind.feedforward == "moe" and not kind.bias and layout.ep == 1 and floats
    return grouped(mesh, rules) if takes else None


def grouped(mesh: Mesh, rules: Rules, *, interpret: bool = False) -> Grouped:
    """Experts for `Experts`: (batch, sequence, d_model), (batch, sequence, top_k) choices and gates, and the weights.

    Each chip sorts its own tokens; where it holds part of each expert's width, parts are summed, along the axis that
    the residual stream is cut along if there is one. The compiler attaches no cycles to the kernels, `gmm` and for
    gradients of weights `tgmm` (`coopt.measure.schedule` finds them).

    Args:
      interpret: the kernel step by step, on any platform.
    """
    # Imported here: Pallas takes a second, Flax half of one, and no other target or price needs them.
    from jax.experimental.pallas.ops.tpu.megablox import gmm

    from coopt.measure.weights import WEIGHTS

    summed = tuple(axis for axis in rules["ff"] if mesh.shape[axis] > 1)
    narrow, short = (bool(summed) and set(summed) <= set(rules[axis]) for axis in ("width", "residual"))
    tokens = spec_of(("batch", "sequence", None), rules)
    stream = spec_of(("batch", "residual", "width"), rules)

    def whole(name: str) -> PartitionSpec:  # but for its width
        return spec_of(tuple(axis if axis == "ff" else None for axis in WEIGHTS[name][0]), rules)

    def core(x, chosen, gates, weights, apply):
        def local(x, chosen, gates, weights):
            groups, top_k = next(iter(weights.values())).shape[0], chosen.shape[-1]
            with jax.named_scope("mlp.permute"):
                order = jnp.argsort(chosen.reshape(-1))
                sizes = jnp.bincount(chosen.reshape(-1), length=groups).astype(jnp.int32)
                rows = _permuted(jnp.repeat(x.reshape(-1, x.shape[-1]), top_k, axis=0), order)
            rows = apply(rows, lambda name, a: gmm(a, weights[name], sizes, a.dtype, tiles, interpret=interpret))
            with jax.named_scope("mlp.unpermute"):
                if narrow:
                    rows = jax.lax.psum_scatter(rows, summed, scatter_dimension=1, tiled=True)
                back = _permuted(rows, jnp.argsort(order)).reshape(*chosen.shape, -1)
                y = jnp.sum(back.astype(gates.dtype) * gates[..., None], axis=-2).astype(x.dtype)
                if short:
                    return jax.lax.psum_scatter(y, summed, scatter_dimension=1, tiled=True)
                return jax.lax.psum(y, summed) if summed and not narrow else y

        given = (tokens, tokens, tokens, {name: whole(name) for name in weights})
        mapped = jax.shard_map(local, mesh=mesh, in_specs=given, out_specs=stream, check_vma=False)
        return mapped(x, chosen, gates, weights)

    return core


@jax.custom_vjp
def _permuted(rows: jax.Array, order: jax.Array) -> jax.Array:
    """The rows in an order that has each of them once; backward they are put back, where a scatter would add them."""
    return rows[order]


def _forward(rows, order):
    return rows[order], order


def _backward(order, gradient):
    return gradient[jnp.argsort(order)], None


_permuted.defvjp(_forward, _backward)
