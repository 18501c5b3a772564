"""Random models, layouts, workloads and machines: batches of thousands for the laws, single ones that shrink.

`cases` draws leaves of shape `(n,)` from a NumPy generator; `one` is a hypothesis strategy of scalars. Both make
layouts that divide what they cut, so that a law is never kept by a refusal.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import hypothesis.strategies as st
import jax
import numpy as np

from coopt.spec.nouns import PRECISIONS, Hardware, LayerKind, Layout, Model, Tier, Workload, training

SHAPES = ("gpt", "llama", "window", "mla", "moe", "mixed", "linear", "delta", "sparse", "sparse-mla")
RECIPES = ("fp32", "bf16", "fp16", "fp8", "mxfp8", "nvfp4", "int8")


@dataclasses.dataclass(frozen=True)
class Case:
    """Everything that `estimate(count(...))` takes."""

    model: Model
    layout: Layout
    workload: Workload
    hardware: Hardware

    @property
    def size(self) -> int:
        """How many cases this is."""
        return len(self.layout.tp)

    def at(self, position: int) -> Case:
        """One of the cases, with scalar leaves."""
        trees = (self.model, self.layout, self.workload, self.hardware)
        return Case(*jax.tree.map(lambda leaf: float(np.broadcast_to(leaf, (self.size,))[position]), trees))


class Draw:
    """Random leaves of one shape, from one generator."""

    def __init__(self, rng: np.random.Generator, n: int):
        self.rng, self.n = rng, n

    def among(self, *values: float) -> np.ndarray:
        """One of the values each."""
        return self.rng.choice(np.asarray(values, float), self.n)

    def between(self, low: float, high: float) -> np.ndarray:
        """Uniform."""
        return self.rng.uniform(low, high, self.n)

    def across(self, low: float, high: float) -> np.ndarray:
        """Uniform in the logarithm."""
        return np.exp(self.rng.uniform(np.log(low), np.log(high), self.n))

    def whole(self, low: int, high: int) -> np.ndarray:
        """A whole number, ends included."""
        return self.rng.integers(low, high, self.n, endpoint=True).astype(float)


def kind(draw: Any, shape: str, d_model: Any, count: Any) -> LayerKind:
    """One kind of layer; heads are multiples of 8, experts of 64, so that tp and ep divide them."""
    heads = 8.0 * draw.whole(1, 16)
    given: dict[str, Any] = {"count": count, "heads": heads, "kv_heads": heads, "head_dim": draw.among(64.0, 128.0)}
    given |= {"d_ff": 64.0 * draw.whole(8, 512), "bias": draw.among(0.0, 1.0), "dropout": draw.among(0.0, 1.0)}
    if shape == "gpt":
        return LayerKind(gated=0.0, norms=4.0, **given)
    if not shape.endswith("mla"):
        given["kv_heads"] = draw.among(1.0, 2.0, 4.0, 8.0)
    if shape == "window":
        return LayerKind(mixer="window", window=draw.among(128.0, 1024.0, 8192.0), **given)
    if shape in ("linear", "delta"):
        return LayerKind(mixer=shape, v_dim=draw.among(0.0, 128.0), **given)
    if shape.startswith("sparse"):
        given |= {"index_heads": draw.among(4.0, 64.0), "index_dim": draw.among(32.0, 128.0)}
        given |= {"window": draw.among(128.0, 2048.0)}
    if shape == "sparse":
        return LayerKind(mixer="sparse", **given)
    if shape.endswith("mla"):
        given |= {
            "kv_rank": 64.0 * draw.whole(1, 16),
            "rope_dim": draw.among(32.0, 64.0),
            "v_dim": draw.among(64.0, 128.0),
        }
        return LayerKind(mixer=shape, q_rank=draw.among(0.0, 512.0, 1536.0), **given)
    if shape == "moe":
        experts = 64.0 * draw.whole(1, 4)
        given |= {"experts": experts, "top_k": draw.whole(1, 8), "d_expert": 64.0 * draw.whole(4, 64)}
        return LayerKind(feedforward="moe", shared=draw.among(0.0, 1.0, 2.0), d_shared=512.0, **given)
    return LayerKind(**given)


def model(draw: Any, shape: str, layers: Any) -> Model:
    """A model of `layers` layers of one shape; `mixed` is dense MLA-free layers, windows and experts together."""
    d_model = 128.0 * draw.whole(4, 160)
    if shape == "mixed":
        kinds = tuple(kind(draw, name, d_model, layers) for name in ("llama", "window", "moe"))
    else:
        kinds = (kind(draw, shape, d_model, layers),)
    vocab = 128.0 * draw.whole(64, 2048)
    return Model(d_model=d_model, vocab=vocab, tied=draw.among(0.0, 1.0), kinds=kinds)


def recipe(draw: Any, names: tuple[str, ...] = RECIPES):
    """A precision recipe; leaf by leaf from one of the names."""
    trees = [PRECISIONS[name] for name in names]
    which = draw.whole(0, len(names) - 1)

    def pick(*leaves):
        return np.asarray(leaves, float)[np.asarray(which, int)]

    return jax.tree.map(pick, *trees)


def layout(draw: Any, *, pipelines: bool = True) -> tuple[Layout, Any]:
    """A layout whose parts divide one another, and its micro-batches; order, schedule and recipe at random."""
    tp, cp = draw.among(1.0, 2.0, 4.0, 8.0), draw.among(1.0, 1.0, 2.0, 4.0)
    pp = draw.among(1.0, 2.0, 4.0, 8.0) if pipelines else draw.among(1.0, 1.0)
    dp = draw.among(1.0, 2.0, 4.0, 16.0, 64.0)
    vpp = np.where(pp > 1.5, draw.among(1.0, 1.0, 2.0), 1.0)
    placed = Layout(
        tp=tp,
        cp=cp,
        pp=pp,
        dp=dp,
        fsdp=np.minimum(dp, draw.among(1.0, 4.0, 64.0)),
        ep=np.minimum(tp * cp * dp, draw.among(1.0, 2.0, 8.0, 64.0)),
        vpp=vpp,
        schedule=np.where(vpp > 1.5, 0.0, draw.among(0.0, 1.0, 2.0)),
        dualpipe=np.where((pp > 1.5) & (vpp < 1.5), draw.among(0.0, 0.0, 1.0), 0.0),
        paired=draw.among(0.0, 0.0, 1.0),
        recompute_norm=draw.among(0.0, 1.0),
        recompute_act=draw.among(0.0, 1.0),
        recompute_up=draw.among(0.0, 1.0),
        recompute_mlp=draw.among(0.0, 0.0, 1.0),
        micro_batch=draw.among(1.0, 2.0, 4.0),
        sp=draw.among(0.0, 1.0),
        zero=draw.among(0.0, 1.0, 2.0, 3.0),
        recompute=draw.among(0.0, 1.0, 2.0),
        fused_attention=draw.among(0.0, 1.0, 1.0),
        fused_loss=(fused := draw.among(0.0, 1.0)),
        traced=1.0 - fused,
        offload=draw.among(0.0, 0.0, 0.5, 1.0),
        overlap=draw.among(0.0, 1.0),
        late=draw.among(0.0, 0.0, 1.0),
        beside=draw.among(0.0, 1.0),
        apart=draw.among(0.0, 1.0),
        pieces=draw.among(1.0, 1.0, 12.0),
        graphs=draw.among(0.0, 0.0, 0.5, 1.0),
        transport=draw.among(0.0, 1.0, 2.0),
        capacity=draw.among(0.0, 0.0, 1.0, 1.5),
        imbalance=draw.among(1.0, 1.3),
        order=draw.among(0.0, 1.0, 2.0),
        precision=recipe(draw),
    )
    return placed, pp * draw.whole(1, 16)


def machine(draw: Any, tiers: int = 2) -> Hardware:
    """A machine with every type, tiers that widen and slow outwards, and efficiencies that are shares."""
    sixteen = draw.across(1e13, 1e16)
    peak = tuple(sixteen * share for share in (0.1, 0.5, 1.0, 1.0, 2.0, 2.0, 4.0, 2.0))
    bandwidth, latency = draw.across(1e10, 4e12), draw.across(1e-7, 1e-5)
    nets = []
    for position in range(tiers):
        last = position == tiers - 1
        nets.append(
            Tier(
                name=f"tier{position}",
                size=float("inf") if last else draw.among(4.0, 8.0, 16.0, 72.0) * 32.0**position,
                bandwidth=bandwidth,
                latency=latency,
                efficiency=draw.between(0.3, 1.0),
                saturation=draw.across(1e4, 1e7),
                oversubscription=draw.among(1.0, 1.0, 2.0),
                reduction=draw.among(0.0, 1.0),
                ring=draw.among(0.0, 1.0),
                axes=0.0 if last else draw.among(0.0, 2.0, 3.0),
            )
        )
        bandwidth, latency = bandwidth * draw.between(0.05, 1.0), latency * draw.between(1.0, 20.0)
    return Hardware(
        peak=peak,
        bandwidth=draw.across(1e11, 2e13),
        memory=draw.across(1e10, 1e12),
        cores=draw.whole(8, 256),
        host_bandwidth=draw.across(1e9, 1e12),
        host_memory=draw.across(1e9, 1e13),
        matmul=(draw.between(0.3, 1.0),) * 8,
        depth=draw.across(1.0, 1000.0),
        attention=draw.between(0.2, 0.95),
        attention_backward=draw.between(0.2, 0.95),
        attention_depth=draw.across(1.0, 4000.0),
        stream=draw.between(0.4, 1.0),
        kernel=draw.across(1e-7, 2e-5),
        tiers=tuple(nets),
        dispatch=draw.across(1e-8, 1e-4),
        passes=draw.between(1.0, 5.0),
        hide_tensor=draw.between(0.0, 1.0),
        hide_data=draw.between(0.0, 1.0),
        stolen=draw.among(0.0, 0.0, 0.15, 0.4),
        overhead=draw.between(0.0, 0.1),
        jitter=draw.between(0.0, 0.02),
        failure_rate=draw.across(1e-10, 1e-7),
        restart=draw.across(10.0, 3600.0),
        checkpoint=draw.across(1.0, 300.0),
        repair=draw.among(0.0, 3600.0, 86400.0),
        blast=draw.among(1.0, 8.0, 72.0),
        spares=draw.among(0.0, 0.02, 0.125),
    )


def case(draw: Any, shape: str, *, tiers: int = 2, pipelines: bool = True) -> Case:
    """Everything at random, each layer count a multiple of pp * vpp or not."""
    placed, micro_batches = layout(draw, pipelines=pipelines)
    layers = placed.pp * placed.vpp * draw.whole(1, 8) + draw.whole(0, 3)
    batch = placed.dp * placed.micro_batch * micro_batches
    # cp * tp divides it for every draw above
    seq_len = 32.0 * 2.0 ** draw.whole(0, 10)
    return Case(model(draw, shape, layers), placed, training(seq_len, batch), machine(draw, tiers))


def cases(rng: np.random.Generator, n: int, shape: str, **options: Any) -> Case:
    """`n` random cases of one structure."""
    return case(Draw(rng, n), shape, **options)


class Shrinking:
    """`Draw` for hypothesis: scalars whose simplest value is the first or the lowest."""

    def __init__(self, draw: Any):
        self.draw = draw

    def among(self, *values: float) -> float:
        """One of the values."""
        return self.draw(st.sampled_from(values))

    def between(self, low: float, high: float) -> float:
        """A share of the way, in hundredths, so that shrunk examples can be read."""
        return low + (high - low) * self.draw(st.integers(0, 100)) / 100.0

    def across(self, low: float, high: float) -> float:
        """The same in the logarithm."""
        return low * (high / low) ** (self.draw(st.integers(0, 100)) / 100.0)

    def whole(self, low: int, high: int) -> float:
        """A whole number."""
        return float(self.draw(st.integers(low, high)))


@st.composite
def one(draw: Any, shape: str | None = None, *, tiers: int = 2) -> Case:
    """One random case, of any shape unless one is named."""
    chosen = shape or draw(st.sampled_from(SHAPES))
    drawn = case(Shrinking(draw), chosen, tiers=tiers)
    scalars = jax.tree.map(float, (drawn.model, drawn.layout, drawn.workload, drawn.hardware))
    return Case(*scalars)


def told(case: Case) -> str:
    """A case in words for a failing test: what differs from the nouns' defaults."""
    words = []
    for tree in (case.model, case.layout, case.workload, case.hardware):
        usual = {jax.tree_util.keystr(p): v for p, v in jax.tree_util.tree_leaves_with_path(type(tree)())}
        usual |= {f".kinds[{i}].{name}": v for i in range(9) for name, v in vars(LayerKind()).items()}
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
            name = jax.tree_util.keystr(path)
            if usual.get(name) != leaf and not np.isnan(leaf):
                words.append(f"{name.lstrip('.')}={leaf:.6g}")
    return ", ".join(words)
