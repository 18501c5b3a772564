"""Products with weights, in the type that a recipe computes them in; 8 bits with scales, forward and backward."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp

from coopt.measure.formats import Formats


def linear(formats: Formats, equation: str, x: jax.Array, weight: Any) -> jax.Array:
    """`einsum(equation, x, weight)` as the recipe computes products with weights.

    >>> f = Formats(*(jnp.dtype("float32"),) * 5, jax.lax.Precision.HIGHEST, quantised=jnp.dtype("int8"))
    >>> linear(f, "bsi,io->bso", jnp.array([[[1.0, -2.0]]]), jnp.array([[3.0], [1.0]])).round(3).item()
    1.039...
    """
    x, weight = x.astype(formats.linear), weight[...].astype(formats.linear)
    if formats.quantised is not None:
        return _scaled(equation, formats.quantised, x, weight)
    return jnp.einsum(equation, x, weight, precision=formats.precision)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _scaled(equation: str, dtype: jnp.dtype, x: jax.Array, weight: jax.Array) -> jax.Array:
    """A product of numbers of 8 bits, scaled; so are the two of its backward pass, each with scales of its own.

    As in accurate quantised training (Abdolrashidi et al., arXiv:2105.03536): a scale for each row that a product does
    not sum over, its largest value over the largest number of the type. Gradients are rounded to nearest, not
    stochastically; in fp8 they are e4m3 as everything else (DeepSeek-V3, arXiv:2412.19437, section 3.3).
    """
    return _product(equation, dtype, x, weight)


def _forward(equation, dtype, x, weight):
    return _product(equation, dtype, x, weight), (x, weight)


def _backward(equation, dtype, kept, gradient):
    x, weight = kept
    left, right, out = equation.replace("->", ",").split(",")
    by_x = _product(f"{out},{right}->{left}", dtype, gradient, weight)
    return by_x, _product(f"{left},{out}->{right}", dtype, x, gradient)


_scaled.defvjp(_forward, _backward)


def _product(equation: str, dtype: jnp.dtype, a: jax.Array, b: jax.Array) -> jax.Array:
    left, right, out = equation.replace("->", ",").split(",")
    (a8, a_scale), (b8, b_scale) = _quantised(a, left, out, dtype), _quantised(b, right, out, dtype)
    sums = jnp.einsum(equation, a8, b8, preferred_element_type=jnp.int32 if _is_whole(dtype) else jnp.float32)
    return (sums.astype(jnp.float32) * a_scale * b_scale).astype(a.dtype)


def _quantised(a: jax.Array, axes: str, out: str, dtype: jnp.dtype) -> tuple[jax.Array, jax.Array]:
    """Numbers of the type, and scales with the axes of the result, among which an operand's keep their order."""
    summed = tuple(i for i, axis in enumerate(axes) if axis not in out)
    most = jnp.max(jnp.abs(a), axis=summed, keepdims=True).astype(jnp.float32)
    scale = jnp.where(most > 0, most, 1.0) / float((jnp.iinfo if _is_whole(dtype) else jnp.finfo)(dtype).max)
    sizes = dict(zip(axes, a.shape, strict=True))
    steps = a / scale
    return (jnp.round(steps) if _is_whole(dtype) else steps).astype(dtype), scale.reshape(
        [sizes.get(axis, 1) for axis in out]
    )


def _is_whole(dtype: jnp.dtype) -> bool:
    return jnp.issubdtype(dtype, jnp.integer)
