"""The share of the peak that coopt's blocks reach, beside the same layer written by hand in plain JAX.

    python scripts/bench_blocks.py --shapes=llama3-8b:4096:2,llama3-70b:4096:1 --peak=989.5e12
    JAX_PLATFORMS=cpu python scripts/bench_blocks.py --shapes=llama3-8b:128:1 --precision=fp32

A shape is model:seq_len:micro_batch. Both are compiled alike, take values of the same sizes, and are timed by turns,
forward and backward, with the same clock; a pair's ratio is the median over the turns. FLOPs are those of the products
that pricing counts, without recomputation. `--peak` (FLOP/s) is the chip's; without it no share is printed.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags

from coopt.measure import candidate, clock
from coopt.measure.compile import compile_program
from coopt.measure.formats import DTYPES
from coopt.measure.weights import drawn
from coopt.ops import count
from coopt.spec import load
from coopt.spec.nouns import PRECISIONS, LayerKind, Layout, training

SHAPES = flags.DEFINE_list("shapes", ["llama3-8b:4096:2", "llama3-70b:4096:1"], "model:seq_len:micro_batch")
PRECISION = flags.DEFINE_enum("precision", "bf16", ["fp32", "bf16"], "of weights and products")
PEAK = flags.DEFINE_float("peak", 0.0, "FLOP/s of the chip in that precision")
TURNS = flags.DEFINE_integer("turns", 3, "timings of each")
SECONDS = flags.DEFINE_float("seconds", 1.0, "of each timing")
OUT = flags.DEFINE_string("out", "", "where to keep the timings, as JSON")
BUILT = ("full", "dense", True, False, 2)  # mixer, feed-forward, gate, biases and norms of the layer by hand
COUNT = jax.ShapeDtypeStruct((), jnp.int32)


def by_hand(kind: LayerKind, d_model: int, fused: bool):
    """A decoder layer as anyone would write it: `(weights, x) -> x`, and the shapes of its weights."""
    heads, groups, size, width = (int(v) for v in (kind.heads, kind.kv_heads, kind.head_dim, kind.d_ff))
    shapes = {
        "norm1": (d_model,), "norm2": (d_model,), "q": (d_model, heads * size), "k": (d_model, groups * size),
        "v": (d_model, groups * size), "o": (heads * size, d_model), "gate": (d_model, width), "up": (d_model, width),
        "down": (width, d_model),
    }  # fmt: skip

    def norm(x, scale):
        wide = x.astype(jnp.float32)
        return (wide * jax.lax.rsqrt(jnp.mean(wide * wide, -1, keepdims=True) + 1e-6)).astype(x.dtype) * scale

    def turned(x):
        half = size // 2
        angle = jnp.arange(x.shape[1])[:, None] * 10000.0 ** (-jnp.arange(half) / half)
        cos, sin = jnp.cos(angle)[:, None, :], jnp.sin(angle)[:, None, :]
        a, b = jnp.split(x.astype(jnp.float32), 2, axis=-1)
        return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], -1).astype(x.dtype)

    def layer(w, x):
        batch, length, _ = x.shape
        h = norm(x, w["norm1"])
        q, k, v = ((h @ w[name]).reshape(batch, length, -1, size) for name in "qkv")
        mixed = jax.nn.dot_product_attention(
            turned(q), turned(k), v, is_causal=True, implementation="cudnn" if fused else "xla"
        )
        x = x + mixed.reshape(batch, length, -1) @ w["o"]
        h = norm(x, w["norm2"])
        return x + (jax.nn.silu(h @ w["gate"]) * (h @ w["up"])) @ w["down"]

    return layer, shapes


def hand(model, layout: Layout, seq_len: int):
    """The hand-written layer, forward and backward: compiled, and a timer of it."""
    dtype = jnp.dtype(DTYPES[PRECISION.value])
    layer, shapes = by_hand(model.kinds[0], int(model.d_model), bool(layout.fused_attention))
    generator = np.random.default_rng(0)
    weights = {
        name: jnp.asarray(drawn(shape, dtype, generator, deviation=shape[0] ** -0.5)) for name, shape in shapes.items()
    }
    shape = (int(layout.micro_batch), seq_len, int(model.d_model))
    x, slope = (jnp.asarray(drawn(shape, dtype, generator)) for _ in range(2))

    def both(weights, x, slope):
        out, pull = jax.vjp(layer, weights, x)
        return out, pull(slope)

    abstract = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), (weights, x, slope))
    compiled = compile_program(clock.counted(both), (*abstract, COUNT))
    return compiled, clock.repeat(compiled.program, (weights, x, slope), jnp.zeros((), jnp.int32))


def ours(model, layout: Layout, seq_len: int):
    """Coopt's block, forward and backward: compiled, and a timer of it."""
    built = candidate.build(model, layout, part="layer", layer=0, seq_len=seq_len, devices=tuple(jax.devices()[:1]))
    function, arguments, places = candidate.backward(built)
    compiled = compile_program(clock.counted(function), (*arguments, COUNT), out_shardings=(places, None))
    values = (candidate.fill(arguments[0], built, 0), *candidate.fill(tuple(arguments[1:]), built, 1))
    return compiled, clock.repeat(compiled.program, values, jnp.zeros((), jnp.int32))


def products(model, layout: Layout, seq_len: int) -> float:
    """FLOPs of a layer's products, forward and backward, as pricing counts them."""
    ops = count(model, layout, training(float(seq_len), float(layout.micro_batch)))
    rows = (row for row in ops.rows if row.scope == "layer" and row.phase != "recompute")
    return float(sum(row.count * row.flops for row in rows if row.kind in ("matmul", "attention")))


def compared(name: str, seq_len: int, micro_batch: int) -> dict:
    """Both layers of one shape, timed by turns."""
    model = load.model(name)
    kind = model.kinds[0]
    if (kind.mixer, kind.feedforward, bool(kind.gated), bool(kind.bias), int(kind.norms)) != BUILT:
        raise app.UsageError(f"{name}: the layer by hand has full attention, a gated feed-forward and no biases")
    fused = float(jax.default_backend() == "gpu" and PRECISION.value != "fp32")
    layout = Layout(micro_batch=float(micro_batch), precision=PRECISIONS[PRECISION.value], fused_attention=fused)
    work, floor = products(model, layout, seq_len), clock.dispatch_floor()
    made = {"coopt": ours(model, layout, seq_len), "by hand": hand(model, layout, seq_len)}
    times: dict[str, list[float]] = {who: [] for who in made}
    flagged: dict[str, set[str]] = {who: set() for who in made}
    for turn in range(TURNS.value):
        for who in made if turn % 2 == 0 else reversed(made):
            timing, _ = clock.timed(made[who][1], budget_s=SECONDS.value, floor=floor)
            times[who].append(timing.time)
            flagged[who] |= {timing.estimator, *timing.flags}
    ratio = float(np.median(np.array(times["by hand"]) / np.array(times["coopt"])))
    said = {"shape": f"{name}:{seq_len}:{micro_batch}", "flops": work, "by hand over coopt": ratio}
    for who, (compiled, _) in made.items():
        best = float(np.median(times[who]))
        said[who] = {"times": times[who], "rate": work / best, "temporary": compiled.memory.get("temporary"),
                     "compile_s": compiled.compile_s, "said": sorted(flagged[who])}  # fmt: skip
        if PEAK.value:
            said[who]["share of the peak"] = work / best / PEAK.value
        share = f"{work / best / PEAK.value:6.1%} of the peak" if PEAK.value else ""
        print(f"  {who:8} {1e3 * best:9.3f} ms  {work / best / 1e12:8.2f} TFLOP/s  {share}  {sorted(flagged[who])}")
    print(f"  by hand over coopt: {ratio:.3f}", flush=True)
    return said


def main(_: list[str]) -> None:
    """Compares, prints, keeps."""
    device = jax.devices()[0]
    print(f"{device.device_kind}, jax {jax.__version__}, {PRECISION.value}")
    found = []
    for shape in SHAPES.value:
        if not re.fullmatch(r"[^:]+(:[1-9]\d*){2}", shape):
            raise app.UsageError(f"--shapes: expected model:seq_len:micro_batch, as llama3-8b:4096:2, got {shape}")
        name, seq_len, micro_batch = shape.split(":")
        print(shape)
        found.append(compared(name, int(seq_len), int(micro_batch)))
        if OUT.value:
            told = {"device": device.device_kind, "jax": jax.__version__, "precision": PRECISION.value, "blocks": found}
            Path(OUT.value).write_text(json.dumps(told, indent=1))


if __name__ == "__main__":
    app.run(main)
