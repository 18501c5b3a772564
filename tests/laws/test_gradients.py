"""Gradients of the cost expression toward hardware: right, finite, and bound by Euler's identity (plan E1)."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from coopt.cost import estimate
from coopt.cost.roofline import root_sum
from coopt.ops import count
from coopt.search.elasticity import elasticities as taped
from coopt.spec.nouns import Hardware, Layout
from coopt.tree import replace
from tests.laws.strategies import SHAPES, Case, cases

N = 200
RATES = ("peak", "bandwidth", "host_bandwidth")  # per second: a step takes half as long where they double
TIMES = ("kernel", "dispatch")  # seconds: it takes as long where they halve


def log_step(ops, machine: Hardware):
    """Logarithm of the step time."""
    return jnp.log(estimate(ops, machine).step_time)


def elasticities(case: Case) -> Hardware:
    """d log(step time) / d log(each number of the machine), a machine of the same shape; one case a position."""
    ops = count(case.model, case.layout, case.workload)
    machine = jax.tree.map(lambda leaf: jnp.broadcast_to(jnp.asarray(leaf, float), (case.size,)), case.hardware)
    slope = jax.grad(lambda chip: jnp.sum(log_step(ops, chip)))(machine)
    # a last tier without end has size inf and slope 0
    return jax.tree.map(lambda a, b: np.asarray(a) * np.where(np.isfinite(b), b, 0.0), slope, machine)


def differences(case: Case, name: str, step: float = 1e-5) -> np.ndarray:
    """The same toward one field, by central differences in NumPy's float64."""
    ops = count(case.model, case.layout, case.workload)

    def at(factor: float) -> np.ndarray:
        moved = jax.tree.map(lambda leaf: leaf * factor, getattr(case.hardware, name))
        return np.log(estimate(ops, replace(case.hardware, **{name: moved})).step_time)

    return (at(1 + step) - at(1 - step)) / (2 * step)


@pytest.fixture(scope="module")
def drawn() -> dict[str, tuple[Case, Hardware]]:
    """Random cases of each kind of model with their elasticities."""
    told = {}
    for position, shape in enumerate(("llama", "mixed")):
        one = cases(np.random.default_rng(20 + position), N, shape)
        told[shape] = one, elasticities(one)
    return told


@pytest.mark.parametrize("shape", ["llama", "mixed"])
def test_euler(drawn, shape):
    """A time is of degree -1 in all rates and +1 in all latencies: elasticities to rates less those to times are -1."""
    _, slope = drawn[shape]
    total = sum(sum(jax.tree.leaves(getattr(slope, name))) for name in RATES)
    total = total - sum(getattr(slope, name) for name in TIMES)
    for tier in slope.tiers:
        total = total + tier.bandwidth - tier.latency
    np.testing.assert_allclose(total, -1.0, atol=1e-9)


@pytest.mark.parametrize("shape", ["llama", "mixed"])
def test_the_tape_backwards_is_jax(drawn, shape):
    """Two differentiators of one expression: the recorded tape in NumPy, and jax's own."""
    one, slope = drawn[shape]
    for position in range(0, N, 40):
        alone = one.at(position)
        ops = count(alone.model, alone.layout, alone.workload)
        said = jax.tree.leaves(taped(ops, alone.hardware))
        np.testing.assert_allclose(said, [leaf[position] for leaf in jax.tree.leaves(slope)], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("shape", ["llama", "mixed"])
def test_every_gradient_is_finite(drawn, shape):
    """Rows with zero count, groups of one chip and parts that hide fully give no NaN and no infinity."""
    _, slope = drawn[shape]
    told = jax.tree_util.tree_leaves_with_path(replace(slope, tiers=()))
    told += [pair for tier in slope.tiers for pair in jax.tree_util.tree_leaves_with_path(replace(tier, size=0.0))]
    unread = ("watts", "joules", "dollars", "date", "sigma")  # not known here, and no part of a step time
    for path, leaf in told:
        name = jax.tree_util.keystr(path).lstrip(".")
        assert np.isfinite(leaf).all() or name.startswith(unread), name


@pytest.mark.parametrize("name", ["peak", "bandwidth", "kernel", "dispatch", "tiers", "matmul", "attention", "stream"])
def test_gradients_are_slopes(drawn, name):
    """The gradient equals a finite difference, but where the case sits on a kink (a maximum that changes sides)."""
    for one, slope in drawn.values():
        if name == "tiers":
            chosen = replace(one.hardware, tiers=one.hardware.tiers)
            case = Case(one.model, one.layout, one.workload, chosen)
            said = sum(tier.bandwidth for tier in slope.tiers)
            ops = count(case.model, case.layout, case.workload)

            def at(factor, case=case, ops=ops):
                tiers = tuple(replace(tier, bandwidth=tier.bandwidth * factor) for tier in case.hardware.tiers)
                return np.log(estimate(ops, replace(case.hardware, tiers=tiers)).step_time)

            seen = (at(1 + 1e-5) - at(1 - 1e-5)) / 2e-5
        else:
            said = sum(jax.tree.leaves(getattr(slope, name)))
            seen = differences(one, name)
        off = np.abs(said - seen) > 1e-6 + 1e-4 * np.abs(seen)
        assert off.mean() <= 0.02, f"{off.sum()} of {one.size}: {said[off][:3]} against {seen[off][:3]}"


@pytest.mark.parametrize("shape", ["llama", "mixed"])
def test_signs(drawn, shape):
    """No rate slows a step and no latency speeds it."""
    _, slope = drawn[shape]
    for name in RATES:
        assert np.all(np.asarray(sum(jax.tree.leaves(getattr(slope, name)))) <= 1e-12), name
    for name in TIMES:
        assert np.all(getattr(slope, name) >= -1e-12), name
    for tier in slope.tiers:
        assert np.all(tier.bandwidth <= 1e-12)
        assert np.all(tier.latency >= -1e-12)


def test_root_sum_at_nothing():
    """A p-norm of zeros has slope 0 there and not NaN; float32 keeps that."""
    for dtype in (jnp.float32, jnp.float64):
        zero = jnp.zeros((), dtype)
        assert np.isfinite(jax.grad(root_sum)(zero, zero))


def test_float32_gradients_are_finite(x32):
    """What a sweep on an accelerator differentiates: one chip, every collective a group of one, in float32."""
    one = cases(np.random.default_rng(3), 64, "moe")
    alone = replace(Layout(), micro_batch=one.layout.micro_batch, fused_attention=one.layout.fused_attention)
    ops = count(one.model, alone, one.workload)

    def total(machine):
        return jnp.sum(log_step(ops, machine))

    machine = jax.tree.map(lambda leaf: jnp.broadcast_to(jnp.asarray(leaf, jnp.float32), (64,)), one.hardware)
    slope = jax.grad(total)(machine)
    for name in (*RATES, *TIMES, "matmul", "attention", "stream", "passes"):
        for leaf in jax.tree.leaves(getattr(slope, name)):
            assert np.isfinite(leaf).all(), name
    for tier in slope.tiers:
        assert np.isfinite(tier.bandwidth).all()
        assert np.isfinite(tier.latency).all()


def test_shapes_are_all_drawn():
    """The two structures above hold every kind of layer: dense, windowed, experts; MLA differs by shapes alone."""
    assert set(SHAPES) == {"gpt", "llama", "window", "mla", "moe", "mixed", "linear", "delta", "sparse", "sparse-mla"}
