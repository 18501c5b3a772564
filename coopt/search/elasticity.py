"""What a faster part of the machine would be worth: derivatives of an objective toward every hardware number."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np

from coopt.cost import estimate
from coopt.spec.nouns import Cost, Hardware, Leaf, Ops

# Objectives of a fixed set of operations: only the hardware changes, so a step stands for a token.
OBJECTIVES = ("step_time", "joules", "dollars", "memory", "mfu", "tokens_per_second_per_chip")


def elasticities(ops: Ops, hardware: Hardware, *, objective: str = "step_time") -> Hardware:
    """Elasticities: d log(objective) / d log(x) for every leaf x of `hardware`, as a `Hardware`.

    -0.4 at `bandwidth`: one percent more memory bandwidth takes 0.4 percent off. For `step_time` the elasticities of
    all rates less those of all times and latencies add to -1 (Euler's identity). Leaves that are 0 or not known, and
    such as the objective does not depend on, have 0. Exact by reverse differentiation, at this point only: where
    tiles or waves round up it is the slope of one tooth, so read it beside `changes`.
    """
    with jax.enable_x64(True):
        numbers = jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype=jnp.float64), (ops, hardware))
        return jax.tree.map(lambda leaf: np.asarray(leaf)[()], _elasticities(*numbers, objective=objective))


def changes(ops: Ops, hardware: Hardware, *, objective: str = "step_time", by: float = 0.1) -> Hardware:
    """The relative change of the objective when each leaf of `hardware` alone grows by `by`; no derivative involved."""
    before = _value(estimate(ops, hardware), objective)
    leaves, structure = jax.tree.flatten(hardware)

    def change(position: int) -> float:
        grown = [leaf * (1.0 + by) if i == position else leaf for i, leaf in enumerate(leaves)]
        if not np.isfinite(leaves[position]) or leaves[position] == 0.0:
            return 0.0
        after = _value(estimate(ops, jax.tree.unflatten(structure, grown)), objective)
        return float(after / before - 1.0)

    with np.errstate(all="ignore"):
        return jax.tree.unflatten(structure, [change(position) for position in range(len(leaves))])


@functools.partial(jax.jit, static_argnames=("objective",))
def _elasticities(ops: Ops, hardware: Hardware, *, objective: str) -> Hardware:
    def logarithm(hardware: Hardware) -> Leaf:
        return jnp.log(_value(estimate(ops, hardware), objective))

    slopes = jax.grad(logarithm)(hardware)
    return jax.tree.map(lambda x, slope: jnp.where(jnp.isfinite(x) & (x != 0.0), x * slope, 0.0), hardware, slopes)


def _value(cost: Cost, objective: str) -> Leaf:
    return getattr(cost, objective)
