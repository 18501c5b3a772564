"""Rows of the optimizer step over the weights whose state this chip keeps: gradient norm, AdamW, Muon, Adafactor."""

from __future__ import annotations

from coopt.ops.cut import Cut
from coopt.ops.rows import never, wire
from coopt.ops.shapes import LATENT, layers, query_key_dim, value_dim
from coopt.ops.weights import Stages, Weights
from coopt.spec.nouns import LayerKind, Layout, Leaf, Model, Row
from coopt.xp import choose, maximum, minimum, where

NEWTON_SCHULZ = (
    5.0  # iterations that make a momentum matrix orthogonal (Jordan 2024; Liu et al. 2025, arXiv 2502.16982)
)


def state(layout: Layout) -> Leaf:
    """Bytes a parameter of master weight and moments: AdamW keeps two, Muon one, Adafactor rows and columns of one."""
    full = layout.precision.state
    master = where(layout.precision.weight < 3.5, 4.0, 0.0)  # in 32 bits, where the weights are not
    return choose(layout.optimizer, (full, 0.5 * (full + master), master))


def optimizer(
    model: Model, layout: Layout, cut: Cut, stages: Stages, weights: Weights, shards: Leaf, expert_shards: Leaf
) -> tuple[Row, ...]:
    """Reads gradient and state, writes state and weight: about 2 * state + gradient + weight bytes a parameter.

    Muon also multiplies matrices, see `muon`; its rows are there where the layout may choose it.
    """
    recipe = layout.precision
    owned = weights.stage_dense / shards + weights.stage_expert / expert_shards
    kept = state(layout)
    norm = Row(
        name="optimizer.norm", phase="optimizer", scope="step", count=1.0, launches=4.0, read=recipe.gradient * owned
    )
    step = Row(
        name="optimizer.step",
        phase="optimizer",
        scope="step",
        count=1.0,
        launches=8.0,
        read=(kept + recipe.gradient) * owned,
        written=(kept + recipe.weight) * owned,
    )
    rows = (norm, step)
    if never(layout.optimizer, 1.0):
        return rows
    both = 1.0 + layout.dualpipe  # stages, and as many times the shards
    return rows + muon(model, layout, cut, stages, shards=shards / both, expert_shards=expert_shards / both)


def matrices(kind: LayerKind, d: Leaf) -> tuple[tuple[Leaf, Leaf, Leaf, bool], ...]:
    """The weight matrices of one layer: (short side, long side, how many, of routed experts), whole."""
    out, wide = kind.heads * value_dim(kind), kind.heads * query_key_dim(kind)
    sides: list[tuple[Leaf, Leaf, Leaf, bool]] = [(d, out, 1.0, False), (d, wide, 1.0, False)]
    if kind.mixer in LATENT:
        sides += [(kind.kv_rank, kind.heads * (kind.head_dim + kind.v_dim), 1.0, False)]
    else:
        sides += [(d, kind.kv_heads * kind.head_dim, 2.0, False)]
    if kind.feedforward == "moe":
        sides += [(d, kind.d_expert, (2.0 + kind.gated) * kind.experts, True)]
        sides += [(d, kind.d_shared, (2.0 + kind.gated) * kind.shared, False)]
    else:
        sides += [(d, kind.d_ff, 2.0 + kind.gated, False)]
    return tuple((minimum(a, b), maximum(a, b), many, routed) for a, b, many, routed in sides)


def muon(
    model: Model, layout: Layout, cut: Cut, stages: Stages, *, shards: Leaf, expert_shards: Leaf
) -> tuple[Row, ...]:
    """Newton-Schulz iterations on whole momentum matrices m x n, m <= n: (4 m^2 n + 2 m^3) FLOPs each, five times.

    The matrices of a stage are dealt out over tensor ranks and over the chips that split the optimizer's state; a
    tensor rank gathers the parts of those it is dealt, in 16 bits, and scatters what it made of them.
    """
    on = where(abs(layout.optimizer - 1.0) < 0.5, 1.0, 0.0)
    most, total = maximum(stages.first, maximum(stages.middle, stages.last)), layers(model)
    rows: tuple[Row, ...] = ()
    for position, kind in enumerate(model.kinds):
        here = most * kind.count / total
        for number, (m, n, many, routed) in enumerate(matrices(kind, model.d_model)):
            dealt = layout.ep * cut.expert_tensor * expert_shards if routed else layout.tp * shards
            owned = here * many / dealt
            name = f"muon.{position}.{number}"
            for part, k, times in ((".gram", n, 1.0), (".square", m, 1.0), (".apply", n, 1.0)):
                long = n if part == ".apply" else m
                inner = m if part == ".apply" else k
                rows += (
                    Row(
                        name=f"{name}{part}", kind="matmul", phase="optimizer", scope="step",
                        count=on * NEWTON_SCHULZ * times, m=m, n=long, k=inner, batch=owned,
                        flops=2.0 * m * long * inner * owned, read=2.0 * (m * inner + inner * long) * owned,
                        written=2.0 * m * long * owned,
                    ),
                )  # fmt: skip
            if not routed:
                rows += tuple(
                    wire(
                        f"{name}.{what}", collective=what, group="data", phase="optimizer", scope="step", count=on,
                        payload=2.0 * m * n * here * many / shards, size=layout.tp, stride=cut.stride_tensor,
                    )
                    for what in ("all_gather", "reduce_scatter")
                )  # fmt: skip
    return rows
