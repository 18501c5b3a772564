"""Causal attention as the Pallas kernel that TPUs train with, one call a chip."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import Mesh

from coopt.measure.sharding import Rules, spec_of

BLOCK = 512  # tokens of a tile of scores, in both directions
HEADS = ("batch", None, "heads", None)
KV_HEADS = ("batch", None, "kv_heads", None)


def splash(mesh: Mesh, rules: Rules, *, window: int = 0) -> Callable[[jax.Array, jax.Array, jax.Array], jax.Array]:
    """A core of attention for `Attention`: (batch, sequence, heads, size), fewer heads in keys and values.

    The kernel skips tiles above the diagonal, and those before the window where there is one. The compiler attaches no
    cycles to it (`coopt.measure.schedule` finds it as a custom call).
    """
    # Imported here: Pallas takes a second, and no other target needs it.
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as kernel
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as masks

    def core(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
        length, heads, tile = q.shape[1], q.shape[2], min(BLOCK, q.shape[1])
        seen = masks.LocalMask((length, length), (window - 1, 0), 0) if window else masks.CausalMask((length, length))
        sizes = kernel.BlockSizes(
            block_q=tile, block_kv=tile, block_q_dkv=tile, block_kv_dkv=tile, block_q_dq=tile, block_kv_dq=tile
        )
        every = masks.MultiHeadMask([seen] * heads)
        call = jax.vmap(kernel.make_splash_mha(every, block_sizes=sizes, head_shards=1, q_seq_shards=1))
        y: Any = call(*(a.transpose(0, 2, 1, 3) for a in (q * q.shape[-1] ** -0.5, k, v)))
        return y.transpose(0, 2, 1, 3)

    places = tuple(spec_of(axes, rules) for axes in (HEADS, KV_HEADS, KV_HEADS))
    return jax.shard_map(core, mesh=mesh, in_specs=places, out_specs=places[0], check_vma=False)
