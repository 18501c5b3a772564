"""Feed-forward parts: a multi-layer perceptron, gated or plain, and a mixture of experts."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from flax import nnx

from coopt.measure.formats import Formats
from coopt.measure.grouped import Grouped, Product
from coopt.measure.linear import linear
from coopt.measure.mixers import Constrain
from coopt.measure.weights import parameter
from coopt.spec.nouns import LayerKind


class Perceptron(nnx.Module):
    """`down(silu(gate x) * up x)` when gated, `down(gelu(up x))` otherwise."""

    def __init__(
        self,
        d_model: int,
        width: int,
        formats: Formats,
        constrain: Constrain,
        *,
        gated: bool,
        bias: bool,
        scope: str = "mlp.",
    ):
        self.formats, self.constrain, self.gated, self.bias, self.scope = formats, constrain, gated, bias, scope
        self.up = parameter((d_model, width), formats.weight)
        self.down = parameter((width, d_model), formats.weight)
        if gated:
            self.gate = parameter((d_model, width), formats.weight)
        if bias:
            self.up_bias = parameter((width,), formats.weight)
            self.down_bias = parameter((d_model,), formats.weight)
            if gated:
                self.gate_bias = parameter((width,), formats.weight)

    def __call__(self, x: jax.Array) -> jax.Array:
        """(batch, sequence, d_model) to the same."""
        f = self.formats

        def product(a, weight, bias):
            y = linear(f, "bsi,io->bso", a, weight)
            return y if bias is None else y + bias[...]

        with jax.named_scope(f"{self.scope}up"):
            up = product(x, self.up, self.up_bias if self.bias else None)
            gate = product(x, self.gate, self.gate_bias if self.bias else None) if self.gated else None
        with jax.named_scope(f"{self.scope}act"):
            h = jax.nn.gelu(up) if gate is None else jax.nn.silu(gate) * up
            h = self.constrain(h, "batch", "sequence", "ff")
        with jax.named_scope(f"{self.scope}down"):
            return product(h, self.down, self.down_bias if self.bias else None).astype(f.activation)


class Experts(nnx.Module):
    """A mixture of experts: top-k routing, and tokens gathered by expert.

    With a target's own kernel (`grouped`) each expert takes all its tokens. Without, each has
    `ceil(tokens * top_k / experts)` places of each sequence and experts are one batched product, so the arithmetic is
    that of balanced routing whatever the router says; tokens beyond an expert's places pass by on the residual.
    Dispatch moves rows (gather and scatter) and never multiplies by one-hot matrices, whose cost would grow with the
    square of the tokens.
    """

    def __init__(
        self,
        d_model: int,
        kind: LayerKind,
        formats: Formats,
        constrain: Constrain,
        *,
        grouped: Grouped | None = None,
    ):
        self.experts, self.top_k, width = int(kind.experts), int(kind.top_k), int(kind.d_expert)
        self.formats, self.constrain, self.gated, self.bias = formats, constrain, bool(kind.gated), bool(kind.bias)
        self.grouped = grouped
        self.router = parameter((d_model, self.experts), formats.weight)
        self.expert_up = parameter((self.experts, d_model, width), formats.weight)
        self.expert_down = parameter((self.experts, width, d_model), formats.weight)
        if self.gated:
            self.expert_gate = parameter((self.experts, d_model, width), formats.weight)
        if self.bias:
            self.router_bias = parameter((self.experts,), formats.weight)
            self.expert_up_bias = parameter((self.experts, width), formats.weight)
            self.expert_down_bias = parameter((self.experts, d_model), formats.weight)
            if self.gated:
                self.expert_gate_bias = parameter((self.experts, width), formats.weight)
        # Several shared experts are one of their summed width: the same products, the same parameters.
        width = int(kind.shared) * int(kind.d_shared)
        self.shared = (
            Perceptron(d_model, width, formats, constrain, gated=self.gated, bias=self.bias, scope="mlp.shared_")
            if width
            else None
        )

    def __call__(self, x: jax.Array) -> jax.Array:
        """(batch, sequence, d_model) to the same."""
        f = self.formats
        chosen, gates = self._route(x)
        if self.grouped is not None:
            names = ("expert_up", "expert_down", *(["expert_gate"] if self.gated else []))
            weights = {name: getattr(self, name)[...].astype(f.linear) for name in names}
            y = self.grouped(x.astype(f.linear), chosen, gates, weights, self._apply)
        else:
            y = self._placed(x.astype(f.linear), *(a.reshape(x.shape[0], -1) for a in (chosen, gates)))
        y = self.constrain(y, "batch", "residual", "width")
        return (y + self.shared(x) if self.shared is not None else y).astype(f.activation)

    def _route(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Experts and gates of each token, (batch, sequence, top_k)."""
        f = self.formats
        with jax.named_scope("mlp.router"):
            logits = jnp.einsum("bsd,de->bse", x.astype(f.linear), self.router[...].astype(f.linear))
            logits = logits.astype(jnp.promote_types(f.linear, jnp.float32))
            if self.bias:
                logits = logits + self.router_bias[...]
        with jax.named_scope("mlp.top_k"):
            gates, chosen = jax.lax.top_k(jax.nn.softmax(logits, axis=-1), self.top_k)
            return chosen, gates / jnp.sum(gates, axis=-1, keepdims=True)

    def _placed(self, x: jax.Array, chosen: jax.Array, gates: jax.Array) -> jax.Array:
        """As one batch of products of the places of all experts; choices and gates are (batch, sequence * top_k)."""
        capacity = math.ceil(x.shape[1] * self.top_k / self.experts)
        with jax.named_scope("mlp.permute"):
            slots, kept = jax.vmap(lambda e: _places(e, self.experts, capacity))(chosen)
        tokens = jnp.repeat(jnp.arange(x.shape[1]), self.top_k)

        def dispatch(rows, slot):
            # A place beyond the last is dropped by the scatter.
            source = jnp.full((self.experts * capacity,), x.shape[1]).at[slot].set(tokens, mode="drop")
            return jnp.take(rows, source, axis=0, mode="fill", fill_value=0)

        def product(name, a):
            y = linear(self.formats, "beci,eio->beco", a, getattr(self, name))
            return y + getattr(self, f"{name}_bias")[...][:, None, :] if self.bias else y

        with jax.named_scope("mlp.permute"):
            places = jax.vmap(dispatch)(x, slots)
            places = places.reshape(x.shape[0], self.experts, capacity, x.shape[2])
            places = self.constrain(places, "expert_batch", "experts", None, None)
        out = self._apply(places, product).reshape(x.shape[0], self.experts * capacity, x.shape[2])
        with jax.named_scope("mlp.unpermute"):
            back = jax.vmap(lambda rows, slot: jnp.take(rows, slot, axis=0, mode="fill", fill_value=0))(out, slots)
            back = back * jnp.where(kept, gates, 0.0)[..., None].astype(back.dtype)
            return back.reshape(x.shape[0], x.shape[1], self.top_k, x.shape[2]).sum(axis=2)

    def _apply(self, rows: jax.Array, product: Product) -> jax.Array:
        with jax.named_scope("mlp.expert_up"):
            up = product("expert_up", rows)
            gate = product("expert_gate", rows) if self.gated else None
        with jax.named_scope("mlp.expert_act"):
            h = jax.nn.gelu(up) if gate is None else jax.nn.silu(gate) * up
            if self.grouped is None:
                h = self.constrain(h, "expert_batch", "experts", None, "ff")
        with jax.named_scope("mlp.expert_down"):
            return product("expert_down", h)


def _places(chosen: jax.Array, experts: int, capacity: int) -> tuple[jax.Array, jax.Array]:
    """The place of each choice among `experts * capacity`, first come first served, and whether there was one.

    >>> slots, kept = _places(jnp.array([0, 0, 1, 0]), 2, 2)
    >>> slots.tolist(), kept.tolist()
    ([0, 1, 2, 4], [True, True, True, False])
    """
    order = jnp.argsort(chosen, stable=True)
    by_expert = chosen[order]
    first = jnp.searchsorted(by_expert, jnp.arange(experts))  # where each expert's run begins
    rank = jnp.arange(chosen.shape[0]) - first[by_expert]
    position = jnp.zeros_like(chosen).at[order].set(rank.astype(chosen.dtype))
    kept = position < capacity
    return jnp.where(kept, chosen * capacity + position, experts * capacity), kept
