"""Norms: RMSNorm (a scale), LayerNorm (a scale and an offset), or one without weights."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx

from coopt.measure.formats import Formats
from coopt.measure.weights import parameter

EPSILON = 1e-6


class Norm(nnx.Module):
    """Normalises the last axis in float32 or better; `kind` is rms, layer or plain (rms without a scale)."""

    def __init__(self, size: int, formats: Formats, *, kind: str):
        self.kind = kind
        if kind != "plain":
            self.scale = parameter((size,), formats.weight)
        if kind == "layer":
            self.offset = parameter((size,), formats.weight)

    def __call__(self, x: jax.Array) -> jax.Array:
        """The same shape and type."""
        y = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        if self.kind == "layer":
            y = y - jnp.mean(y, axis=-1, keepdims=True)
        y = y * jax.lax.rsqrt(jnp.mean(y * y, axis=-1, keepdims=True) + EPSILON)
        if self.kind != "plain":
            y = y * self.scale[...].astype(y.dtype)
        if self.kind == "layer":
            y = y + self.offset[...].astype(y.dtype)
        return y.astype(x.dtype)
