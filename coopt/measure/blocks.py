"""One transformer layer, embedding and head as Flax modules, from the nouns `Model` and `LayerKind`."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from coopt.measure.feedforwards import Experts, Perceptron
from coopt.measure.formats import Formats
from coopt.measure.grouped import Grouped
from coopt.measure.mixers import Attention, Constrain, Implementation, LatentAttention
from coopt.measure.norms import Norm
from coopt.measure.weights import parameter
from coopt.problems import Problem, Refused
from coopt.spec.nouns import LayerKind, Model

MIXERS_BUILT = ("full", "window", "mla")
# norms of a layer, in vectors of length d_model, and whether its products have biases -> kind, and whether each
# branch is normalised after it too. A LayerNorm has two vectors; models with LayerNorm are those with biases.
NORMS = {
    (0, False): ("plain", False),
    (0, True): ("plain", False),
    (2, False): ("rms", False),
    (2, True): ("rms", False),
    (4, False): ("rms", True),
    (4, True): ("layer", False),
}
FINAL_NORMS = {0: "plain", 1: "rms", 2: "layer"}


def unconstrained(x: jax.Array, *axes: str | None) -> jax.Array:
    """The `Constrain` of a single device."""
    return x


class Layer(nnx.Module):
    """x + mixer(norm(x)), then x + feedforward(norm(x)); with sandwich norms, each branch is normalised after too."""

    def __init__(
        self,
        model: Model,
        kind: LayerKind,
        formats: Formats,
        constrain: Constrain = unconstrained,
        *,
        selective: bool = False,
        implementation: Implementation = None,
        grouped: Grouped | None = None,
    ):
        refuse_unbuilt(model, kind)
        d_model = int(model.d_model)
        norm, self.sandwich = NORMS[int(kind.norms), bool(kind.bias)]
        self.constrain = constrain
        self.mixer_norm = Norm(d_model, formats, kind=norm)
        if kind.mixer == "mla":
            self.mixer = LatentAttention(
                d_model, kind, formats, constrain, selective=selective, implementation=implementation
            )
        else:
            self.mixer = Attention(
                d_model,
                kind,
                formats,
                constrain,
                rotary=not model.positions,
                selective=selective,
                implementation=implementation,
            )
        self.feedforward_norm = Norm(d_model, formats, kind=norm)
        self.feedforward = _feedforward(d_model, kind, formats, constrain, grouped)
        if self.sandwich:
            self.mixer_after = Norm(d_model, formats, kind=norm)
            self.feedforward_after = Norm(d_model, formats, kind=norm)

    def __call__(self, x: jax.Array) -> jax.Array:
        """(batch, sequence, d_model) to the same."""
        # With sequence parallelism the norms work on slices of the sequence; products take it whole, by a gather here.
        # Where the stream is cut along its width instead, the partitioner gathers it where products need it.
        # The scopes carry the names of the rows of a cost table, so that a trace can be laid beside it.
        with jax.named_scope("attn.norm"):
            y = self.constrain(self.mixer_norm(x), "batch", "sequence", "width")
        y = self.mixer(y)
        with jax.named_scope("attn.residual"):
            x = self.constrain(x + (self.mixer_after(y) if self.sandwich else y), "batch", "residual", "width")
        with jax.named_scope("mlp.norm"):
            y = self.constrain(self.feedforward_norm(x), "batch", "sequence", "width")
        y = self.feedforward(y)
        with jax.named_scope("mlp.residual"):
            return self.constrain(x + (self.feedforward_after(y) if self.sandwich else y), "batch", "residual", "width")


class Embedding(nnx.Module):
    """Token embedding, with learned positions where the model has them."""

    def __init__(self, model: Model, formats: Formats, constrain: Constrain = unconstrained, *, vocab: int):
        self.formats, self.constrain = formats, constrain
        self.embedding = parameter((vocab, int(model.d_model)), formats.weight)
        longest = int(model.positions)
        self.positions = parameter((longest, int(model.d_model)), formats.weight) if longest else None

    def __call__(self, tokens: jax.Array) -> jax.Array:
        """(batch, sequence) token numbers to (batch, sequence, d_model)."""
        with jax.named_scope("embedding"):
            x = self.embedding[...].astype(self.formats.activation)[tokens]
            if self.positions is not None:
                x = x + self.positions[: tokens.shape[1]].astype(self.formats.activation)
            return self.constrain(x, "batch", "residual", "width")


class Head(nnx.Module):
    """Final norm, product with the vocabulary, mean cross entropy. `matrix` is the tied embedding, if there is one."""

    def __init__(self, model: Model, formats: Formats, constrain: Constrain = unconstrained, *, vocab: int, tied: bool):
        self.formats, self.constrain = formats, constrain
        if int(model.norms) not in FINAL_NORMS:
            expected = "0 (none), 1 (RMSNorm) or 2 (LayerNorm) vectors"
            raise Refused(Problem(field="model.norms", expected=expected, got=f"{model.norms:g}"))
        self.norm = Norm(int(model.d_model), formats, kind=FINAL_NORMS[int(model.norms)])
        self.head = None if tied else parameter((int(model.d_model), vocab), formats.weight)

    def __call__(self, x: jax.Array, labels: jax.Array, matrix: Any = None) -> jax.Array:
        """Mean negative log-likelihood (nats a token) of `labels`, (batch, sequence)."""
        f = self.formats
        weight = self.head[...] if self.head is not None else matrix.T
        with jax.named_scope("head.norm"):
            x = self.norm(x)
        with jax.named_scope("head"):
            logits = jnp.einsum("bsd,dv->bsv", x.astype(f.head), weight.astype(f.head), precision=f.precision)
            logits = self.constrain(logits, "batch", "sequence", "vocab")
        with jax.named_scope("loss"):
            logits = logits.astype(jnp.promote_types(f.head, jnp.float32))
            chosen = jnp.take_along_axis(logits, labels[..., None], axis=-1)[..., 0]
            return jnp.mean(jax.nn.logsumexp(logits, axis=-1) - chosen)


def _feedforward(
    d_model: int, kind: LayerKind, formats: Formats, constrain: Constrain, grouped: Grouped | None
) -> nnx.Module:
    if kind.feedforward == "moe":
        return Experts(d_model, kind, formats, constrain, grouped=grouped)
    gated, bias = bool(kind.gated), bool(kind.bias)
    return Perceptron(d_model, int(kind.d_ff), formats, constrain, gated=gated, bias=bias)


def refuse_unbuilt(model: Model, kind: LayerKind) -> None:
    """Raises `Refused`, with every reason, for a layer that no module here can build."""
    problems = []
    if kind.mixer not in MIXERS_BUILT:
        problems.append(Problem(field="kind.mixer", expected=f"one of {', '.join(MIXERS_BUILT)}", got=kind.mixer))
    if (int(kind.norms), bool(kind.bias)) not in NORMS:
        problems.append(
            Problem(field="kind.norms", expected="0, 2 or 4 vectors of length d_model", got=f"{kind.norms:g}")
        )
    wanted = {"d_model": model.d_model, "heads": kind.heads}
    if kind.mixer == "mla":
        wanted |= {"kv_rank": kind.kv_rank, "rope_dim": kind.rope_dim, "v_dim": kind.v_dim}
    else:
        wanted |= {"kv_heads": kind.kv_heads, "head_dim": kind.head_dim}
    if kind.feedforward == "moe":
        wanted |= {"experts": kind.experts, "top_k": kind.top_k, "d_expert": kind.d_expert}
    else:
        wanted |= {"d_ff": kind.d_ff}
    if kind.mixer == "window":
        wanted |= {"window": kind.window}
    for name, value in wanted.items():
        if value < 1 or value != int(value):
            problems.append(Problem(field=name, expected="a whole number from 1", got=f"{value:g}"))
    if not problems and kind.mixer != "mla" and int(kind.heads) % int(kind.kv_heads):
        got = f"{kind.heads:g} heads on {kind.kv_heads:g}"
        problems.append(Problem(field="kv_heads", expected="a divisor of heads", got=got))
    if problems:
        raise Refused(*problems)
