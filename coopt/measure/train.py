"""Trains a small decoder: a whole step with embedding, layers, head, loss and AdamW, and its loss curve."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from coopt.measure.blocks import Embedding, Head, Layer
from coopt.measure.formats import Formats, formats_of
from coopt.measure.jobs import layout_of, model_of, real, whole
from coopt.measure.statistics import median_interval, spread
from coopt.measure.weights import materialise, parameters
from coopt.problems import Problem, Refused
from coopt.spec.nouns import RECOMPUTE, Layout, Model

SUCCESSORS = 16  # of each token of the synthetic language


class Decoder(nnx.Module):
    """A decoder on one device: tokens in, mean cross entropy of the next token out."""

    def __init__(self, model: Model, formats: Formats, *, recompute: str = "none"):
        vocab = int(model.vocab)
        self.full = recompute == "full"
        self.tied = bool(model.tied)
        self.embedding = Embedding(model, formats, vocab=vocab)
        kinds = [kind for kind in model.kinds for _ in range(int(kind.count))]
        self.layers = nnx.List(
            [Layer(model, kind, formats, selective=recompute == "selective", implementation="xla") for kind in kinds]
        )
        self.head = Head(model, formats, vocab=vocab, tied=self.tied)

    def __call__(self, tokens: jax.Array) -> jax.Array:
        """Mean loss in nats a token; `tokens` is (batch, sequence + 1)."""
        x = self.embedding(tokens[:, :-1])
        for layer in self.layers:
            graph, weights = nnx.split(layer)
            apply = lambda weights, x, graph=graph: nnx.merge(graph, weights)(x)  # noqa: E731
            x = (jax.checkpoint(apply) if self.full else apply)(weights, x)
        return self.head(x, tokens[:, 1:], self.embedding.embedding[...] if self.tied else None)


@dataclasses.dataclass(frozen=True)
class Trainer:
    """A model that can be trained: its abstract weights, its optimizer and one step."""

    weights: Any  # tree of jax.ShapeDtypeStruct
    optimizer: optax.GradientTransformation
    loss: Callable  # (weights, tokens) -> nats a token
    step: Callable  # (weights, state, tokens) -> (weights, state, loss); not jitted


def trainer(model: Model, layout: Layout, optimizer: optax.GradientTransformation) -> Trainer:
    """The training step of a model on one device, master weights in float32, products in the layout's recipe."""
    formats = dataclasses.replace(formats_of(layout.precision), weight=jnp.dtype(jnp.float32))
    recompute = RECOMPUTE[int(layout.recompute)]
    graph, state = nnx.split(nnx.eval_shape(lambda: Decoder(model, formats, recompute=recompute)))
    device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    weights = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=device), state)

    def loss(weights, tokens):
        return nnx.merge(graph, weights)(tokens)

    def step(weights, state, tokens):
        value, gradients = jax.value_and_grad(loss)(weights, tokens)
        updates, state = optimizer.update(gradients, state, weights)
        return optax.apply_updates(weights, updates), state, value

    return Trainer(weights=weights, optimizer=optimizer, loss=loss, step=step)


def adamw(learning_rate: float, steps: int) -> optax.GradientTransformation:
    """AdamW as language models are trained with it: warm-up of 5%, cosine decay to a tenth, clipping at 1."""
    warm = max(1, steps // 20)
    schedule = optax.warmup_cosine_decay_schedule(
        0.0, learning_rate, warm, max(warm + 1, steps), end_value=learning_rate / 10.0
    )
    decay = optax.adamw(schedule, b1=0.9, b2=0.95, weight_decay=0.1)
    return optax.chain(optax.clip_by_global_norm(1.0), decay)


def markov(vocab: int, seed: int) -> tuple[np.ndarray, np.ndarray, float]:
    """A synthetic language: each token has sixteen successors with Zipf probabilities.

    Returns:
      successors (vocab, 16), their cumulative probabilities, and the entropy in nats a token, which no model beats.
    """
    successors = np.random.default_rng(seed).integers(0, vocab, (vocab, SUCCESSORS))
    weights = 1.0 / np.arange(1, SUCCESSORS + 1)
    probabilities = weights / weights.sum()
    return successors, np.cumsum(probabilities), float(-np.sum(probabilities * np.log(probabilities)))


def synthetic(vocab: int, shape: tuple[int, int], *, seed: int, draw: int) -> np.ndarray:
    """Token numbers of `shape` (sequences, tokens) in the synthetic language of `seed`; `draw` selects a batch."""
    successors, cumulative, _ = markov(vocab, seed)
    generator = np.random.default_rng((seed, draw))
    tokens = np.empty(shape, np.int32)
    tokens[:, 0] = generator.integers(0, vocab, shape[0])
    choices = np.searchsorted(cumulative, generator.random(shape)).clip(0, SUCCESSORS - 1)
    for t in range(1, shape[1]):
        tokens[:, t] = successors[tokens[:, t - 1], choices[:, t]]
    return tokens


def _batches(job: dict, vocab: int, shape: tuple[int, int], seed: int) -> tuple[Callable[[int], np.ndarray], float]:
    """A function from step number to tokens, and the entropy of the source (NaN for a file)."""
    if "file" not in job:
        return lambda i: synthetic(vocab, shape, seed=seed, draw=i), markov(vocab, seed)[2]
    path = Path(str(job["file"]))
    if vocab < 256:
        raise Refused(Problem(field="model.vocab", expected="256 or more, for bytes of a file", got=str(vocab)))
    try:
        data = np.frombuffer(path.read_bytes(), np.uint8)
    except OSError as error:
        raise Refused(Problem(file=str(path), field="file", expected="a readable file", got=str(error))) from error
    if len(data) < 2 * shape[1]:
        raise Refused(
            Problem(file=str(path), field="file", expected=f"{2 * shape[1]} bytes or more", got=str(len(data)))
        )

    def batch(i: int) -> np.ndarray:
        starts = np.random.default_rng((seed, i)).integers(0, len(data) - shape[1] + 1, shape[0])
        return np.stack([data[s : s + shape[1]] for s in starts]).astype(np.int32)

    return batch, math.nan


def train_job(job: dict, report: Callable[[str], None]) -> dict:
    """A `train` job: `steps` steps of `batch` sequences; losses a step, median step time, the source's entropy."""
    report("build")
    model = model_of(job.get("model"))
    layout = layout_of({"precision": job.get("precision", "fp32"), "recompute": job.get("recompute", "none")})
    steps, batch, length = whole(job, "steps"), whole(job, "batch"), whole(job, "seq_len")
    seed = whole(job, "seed", 0)
    made = trainer(model, layout, adamw(real(job, "learning_rate", 3e-3), steps))
    batches, entropy = _batches(job, int(model.vocab), (batch, length + 1), seed)
    report("compile")
    weights = materialise(made.weights, seed)
    state = jax.jit(made.optimizer.init)(weights)
    shape = jax.ShapeDtypeStruct((batch, length + 1), jnp.int32)
    program = jax.jit(made.step, donate_argnums=(0, 1)).lower(weights, state, shape).compile()
    report("train")
    losses, times = [], []
    for i in range(steps):
        tokens = jnp.asarray(batches(i))
        started = time.perf_counter()
        weights, state, loss = program(weights, state, tokens)
        losses.append(float(loss))  # waits for the step
        times.append(time.perf_counter() - started)
    settled = times[min(2, len(times) - 1) :]
    low, high, _ = median_interval(settled)
    return {
        "outcome": "ok" if all(math.isfinite(v) for v in losses) else "wrong-result",
        "device": jax.devices()[0].device_kind,
        "parameters": parameters(made.weights),
        "tokens": steps * batch * length,
        "losses": losses,
        "loss": float(np.mean(losses[-max(1, steps // 10) :])),
        "entropy": entropy,
        "time": float(np.median(settled)),
        "low": low,
        "high": high,
        "spread": spread(settled),
    }
