"""Token mixers: grouped-query attention (full or windowed) and multi-head latent attention."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx

from coopt.measure.formats import Formats
from coopt.measure.linear import linear
from coopt.measure.norms import Norm
from coopt.measure.weights import parameter
from coopt.spec.nouns import LayerKind

Constrain = Callable[..., jax.Array]  # (array, *logical axes) -> the array, with its sharding said
Core = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]  # queries, keys, values -> mixed values
Implementation = Core | Literal["xla", "cudnn"] | None
ROPE_BASE = 10000.0


def rotate(x: jax.Array) -> jax.Array:
    """Rotary position embedding of the last axis; `x` is (batch, sequence, heads, size), size even.

    The two halves of the axis are the pairs (Su et al., arXiv:2104.09864, in the layout of GPT-NeoX and Llama).
    """
    half = x.shape[-1] // 2
    wide = jnp.promote_types(x.dtype, jnp.float32)
    frequency = ROPE_BASE ** (-jnp.arange(half, dtype=wide) / half)
    angle = jnp.arange(x.shape[1], dtype=wide)[:, None] * frequency
    cos, sin = jnp.cos(angle)[:, None, :], jnp.sin(angle)[:, None, :]
    a, b = x[..., :half].astype(wide), x[..., half:].astype(wide)
    return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1).astype(x.dtype)


def _core(implementation: Implementation, window: int, dtype: jnp.dtype) -> Core:
    if callable(implementation):  # a kernel of the target's own
        return implementation
    if dtype.itemsize == 8:  # dot_product_attention works in float32 inside: no reference for anything
        return lambda q, k, v: written_out(q, k, v, window=window)

    def core(q, k, v):
        local = (window - 1, 0) if window else None
        return jax.nn.dot_product_attention(
            q, k, v, is_causal=True, local_window_size=local, implementation=implementation
        )

    return core


def written_out(q: jax.Array, k: jax.Array, v: jax.Array, *, window: int = 0) -> jax.Array:
    """Causal attention as two products and a softmax; (batch, sequence, heads, size), fewer heads in `k` and `v`.

    For what `jax.nn.dot_product_attention` does not do: values of another size than keys, and float64.
    """
    wide = jnp.promote_types(q.dtype, jnp.float32)
    group = q.shape[2] // k.shape[2]
    k, v = (jnp.repeat(a, group, axis=2) if group > 1 else a for a in (k, v))
    scores = jnp.einsum("bthd,bshd->bhts", q, k, preferred_element_type=wide) * q.shape[-1] ** -0.5
    t = jnp.arange(q.shape[1])
    seen = t[:, None] >= t[None, :]
    if window:
        seen &= t[:, None] - t[None, :] < window
    weights = jax.nn.softmax(jnp.where(seen, scores, jnp.finfo(wide).min), axis=-1).astype(v.dtype)
    return jnp.einsum("bhts,bshd->bthd", weights, v)


class Attention(nnx.Module):
    """Grouped-query attention; `window` > 0 lets a token see that many tokens, itself included."""

    def __init__(
        self,
        d_model: int,
        kind: LayerKind,
        formats: Formats,
        constrain: Constrain,
        *,
        rotary: bool,
        selective: bool,
        implementation: Implementation,
    ):
        heads, kv_heads, size = int(kind.heads), int(kind.kv_heads), int(kind.head_dim)
        self.formats, self.constrain, self.rotary = formats, constrain, rotary
        core = _core(implementation, int(kind.window) if kind.mixer == "window" else 0, formats.attention)
        self.core = jax.checkpoint(core) if selective else core
        self.q = parameter((d_model, heads, size), formats.weight)
        self.k = parameter((d_model, kv_heads, size), formats.weight)
        self.v = parameter((d_model, kv_heads, size), formats.weight)
        self.o = parameter((heads, size, d_model), formats.weight)
        self.bias = bool(kind.bias)
        if self.bias:
            self.q_bias = parameter((heads, size), formats.weight)
            self.k_bias = parameter((kv_heads, size), formats.weight)
            self.v_bias = parameter((kv_heads, size), formats.weight)
            self.o_bias = parameter((d_model,), formats.weight)

    def __call__(self, x: jax.Array) -> jax.Array:
        """(batch, sequence, d_model) to the same."""
        f = self.formats
        with jax.named_scope("attn.qkv"):
            weights = self.q, self.k, self.v
            if f.quantised is not None and self.q.shape == self.k.shape:
                # Scaled each by itself, the three gradients of x cannot be summed before tensor chips exchange them, in
                # 32 bits: of one product there is one such exchange (MaxText trains GPT-3 so, `fused_qkv`).
                fused = linear(f, "bsd,dchk->bschk", x, jnp.stack([weight[...] for weight in weights], axis=1))
                q, k, v = (fused[:, :, i] for i in range(3))
            else:
                q, k, v = (linear(f, "bsd,dhk->bshk", x, weight) for weight in weights)
            if self.bias:
                q, k, v = (a + b[...] for a, b in ((q, self.q_bias), (k, self.k_bias), (v, self.v_bias)))
        if self.rotary:
            with jax.named_scope("attn.rope"):
                q, k = rotate(q), rotate(k)
        q = self.constrain(q, "batch", "sequence", "heads", None)
        k, v = (self.constrain(a, "batch", None, "kv_heads", None) for a in (k, v))
        with jax.named_scope("attention"):
            mixed = self.core(*(a.astype(f.attention) for a in (q, k, v)))
        with jax.named_scope("attn.out"):
            mixed = self.constrain(mixed, "batch", "sequence", "heads", None)
            y = linear(f, "bshk,hkd->bsd", mixed, self.o)
            return (y + self.o_bias[...] if self.bias else y).astype(f.activation)


class LatentAttention(nnx.Module):
    """Multi-head latent attention in training form (DeepSeek-V2, arXiv:2405.04434, section 2.1)."""

    def __init__(
        self,
        d_model: int,
        kind: LayerKind,
        formats: Formats,
        constrain: Constrain,
        *,
        selective: bool,
        implementation: Implementation = None,
    ):
        heads, size, rope, value = (int(v) for v in (kind.heads, kind.head_dim, kind.rope_dim, kind.v_dim))
        q_rank, kv_rank = int(kind.q_rank), int(kind.kv_rank)
        self.formats, self.constrain = formats, constrain
        self.size, self.rope, self.kv_rank, self.low_rank_query = size, rope, kv_rank, q_rank > 0
        core = implementation if callable(implementation) else written_out
        self.core = jax.checkpoint(core) if selective else core
        if q_rank:
            self.q_down = parameter((d_model, q_rank), formats.weight)
            self.q_norm = Norm(q_rank, formats, kind="rms")
            self.q_up = parameter((q_rank, heads, size + rope), formats.weight)
        else:
            self.q = parameter((d_model, heads, size + rope), formats.weight)
        self.kv_down = parameter((d_model, kv_rank + rope), formats.weight)
        self.kv_norm = Norm(kv_rank, formats, kind="rms")
        self.kv_up = parameter((kv_rank, heads, size + value), formats.weight)
        self.o = parameter((heads, value, d_model), formats.weight)

    def __call__(self, x: jax.Array) -> jax.Array:
        """(batch, sequence, d_model) to the same."""
        f = self.formats

        def product(name, equation, a, weight):
            with jax.named_scope(f"attn.{name}"):
                return linear(f, equation, a, weight)

        def normal(norm, a):
            with jax.named_scope("attn.latent_norm"):
                return norm(a)

        if self.low_rank_query:
            query = normal(self.q_norm, product("q_down", "bsd,dr->bsr", x, self.q_down))
            q = product("q_up", "bsr,rhk->bshk", query, self.q_up)
        else:
            q = product("q_up", "bsd,dhk->bshk", x, self.q)
        low = product("kv_down", "bsd,dr->bsr", x, self.kv_down)
        kv = product("kv_up", "bsr,rhk->bshk", normal(self.kv_norm, low[..., : self.kv_rank]), self.kv_up)
        with jax.named_scope("attn.rope"):
            position = rotate(low[..., None, self.kv_rank :])  # one key of positions, shared by all heads
            position = jnp.broadcast_to(position, (*kv.shape[:3], self.rope))
            q = jnp.concatenate([q[..., : self.size], rotate(q[..., self.size :])], axis=-1)
            k = jnp.concatenate([kv[..., : self.size], position], axis=-1)
        q = self.constrain(q, "batch", "sequence", "heads", None)
        k, v = (self.constrain(a, "batch", None, "heads", None) for a in (k, kv[..., self.size :]))
        with jax.named_scope("attention"):
            mixed = self.core(*(a.astype(f.attention) for a in (q, k, v)))
        return product("out", "bshk,hkd->bsd", mixed, self.o).astype(f.activation)
