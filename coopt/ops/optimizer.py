"""Rows of the optimizer step: the gradient norm and AdamW, over the weights whose state this chip keeps."""

from __future__ import annotations

from coopt.ops.weights import Weights
from coopt.spec.nouns import Layout, Leaf, Row


def optimizer(layout: Layout, weights: Weights, shards: Leaf, expert_shards: Leaf) -> tuple[Row, ...]:
    """Reads gradient and state, writes state and weight: about 2 * state + gradient + weight bytes a parameter."""
    recipe = layout.precision
    owned = weights.stage_dense / shards + weights.stage_expert / expert_shards
    norm = Row(
        name="optimizer.norm", phase="optimizer", scope="step", count=1.0, launches=4.0, read=recipe.gradient * owned
    )
    step = Row(
        name="optimizer.adamw",
        phase="optimizer",
        scope="step",
        count=1.0,
        launches=8.0,
        read=(recipe.state + recipe.gradient) * owned,
        written=(recipe.state + recipe.weight) * owned,
    )
    return norm, step
