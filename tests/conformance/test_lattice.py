"""One expression, four ways of calling it: lattice, flat batch, loop, compiled; one answer."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from coopt.search import chunks, exact, programs
from coopt.search.layouts import layout_space
from coopt.search.price import OBJECTIVES, price
from coopt.search.recorded import record, task_of
from coopt.search.space import all_digits, axis, candidate, flat, lattice, product, size
from coopt.search.sweep import sweep
from coopt.spec.nouns import VERDICTS, Hardware, Law, LayerKind, Model, Tier, Workload, training
from coopt.tree import replace

NAMES = tuple(OBJECTIVES)


def dense() -> Model:
    kind = LayerKind(count=12.0, heads=16.0, kv_heads=4.0, head_dim=64.0, d_ff=2816.0, gated=1.0)
    return Model(name="dense", d_model=1024.0, vocab=32768.0, kinds=(kind,))


def mixture() -> Model:
    first = LayerKind(count=2.0, heads=16.0, kv_heads=16.0, head_dim=64.0, d_ff=4096.0)
    rest = LayerKind(
        feedforward="moe", count=10.0, heads=16.0, kv_heads=16.0, head_dim=64.0, experts=16.0, top_k=2.0,
        d_expert=1408.0, shared=1.0, d_shared=1408.0,
    )  # fmt: skip
    return Model(name="mixture", d_model=1024.0, vocab=32768.0, kinds=(first, rest))


def machine(chips: float = 64.0) -> Hardware:
    near = Tier(name="near", size=8.0, bandwidth=300e9, latency=2e-6, efficiency=0.8, saturation=1e5)
    far = Tier(name="far", size=1e6, bandwidth=25e9, latency=8e-6, efficiency=0.8, saturation=1e5)
    return Hardware(
        chips=chips, peak=(20e12, 156e12, 312e12, 312e12, 0.0, 0.0, 0.0, 0.0), vector=78e12, bandwidth=2e12,
        memory=6e9, cache=40e6, cores=108.0, host_bandwidth=32e9, host_memory=2e11, tiers=(near, far),
        dollars_hour=2.0, watts=400.0, watts_idle=80.0, watts_all_in=650.0,
    )  # fmt: skip


def law(form: str = "dense") -> Law:
    return Law(form=form, E=1.8, A=480.0, alpha=0.35, B=2085.0, beta=0.37, sparsity=(0.3, 0.2), parameters=(1e6, 1e11),
               tokens=(1e8, 1e13), experts=(1.0, 512.0), critical=(1e3, 0.3))  # fmt: skip


def work() -> Workload:
    return training(2048.0, 64.0, 2e10)


def spaces():
    """A dense model whose width, batch and recipe are axes too, and a mixture of experts."""
    widths = axis("width", ("model.d_model", "model.kinds.0.heads"), [(512, 8), (1024, 16)])
    few = {"pp": (1, 2, 4), "cp": (1, 2), "micro_batch": (1, 2), "vpp": (1, 2), "precision": ("bf16", "fp8"),
           "batch": (48, 64), "fused_attention": (1, 0), "offload": (0.0, 1.0)}  # fmt: skip
    yield layout_space(dense(), work(), chips=64, choices=few, axes=[widths]), law()
    some = {"pp": (1, 2), "tp": (1, 2, 4), "cp": (1,), "micro_batch": (1, 2), "vpp": (1, 2), "offload": (0.0,)}
    yield layout_space(mixture(), work(), chips=64, choices=some), law("sparse")


def attached(space, hardware, law):
    return dataclasses.replace(space, base=replace(space.base, hardware=hardware, law=law))


def table(score, shape) -> np.ndarray:
    """Verdict and objectives as columns."""
    columns = (score.verdict, *score.objectives)
    return np.stack([np.broadcast_to(np.asarray(c, dtype=float), shape).reshape(-1) for c in columns], axis=1)


@pytest.mark.parametrize("which", [0, 1], ids=["dense", "mixture"])
def test_lattice_is_flat_is_loop(which, rng):
    """The same numbers, bit for bit, whatever the shape of the leaves."""
    space, quality = list(spaces())[which]
    space = attached(space, machine(), quality)
    shape = tuple(len(one) for one in space.axes)
    with np.errstate(all="ignore"):
        whole = table(price(lattice(space), NAMES), shape)
        some = rng.integers(0, size(space), size=400)
        batch = table(price(flat(space, all_digits(space, some)), NAMES), some.shape)
        np.testing.assert_allclose(whole[some], batch, rtol=1e-14)
        for i in some[:10]:
            one = jax.tree.map(np.float64, candidate(space, int(i)))
            np.testing.assert_allclose(table(price(one, NAMES), (1,))[0], whole[i], rtol=1e-14)
    assert {0, VERDICTS.index("memory")} <= set(whole[:, 0])


@pytest.mark.parametrize("which", [0, 1], ids=["dense", "mixture"])
def test_sweep_is_the_eager_expression(which, monkeypatch):
    """Minima and census of the compiled programs against NumPy on the whole lattice."""
    monkeypatch.setattr(chunks, "WORTH", 0)  # compile, though NumPy would be done before
    space, quality = list(spaces())[which]
    whole = attached(space, machine(), quality)
    with np.errstate(all="ignore"):
        every = table(price(lattice(whole), NAMES), tuple(len(one) for one in space.axes))
    found = sweep(space, machine(), law=quality, objectives=NAMES, pareto=False, keep=5, chunk=3000)
    counts = {name: int((every[:, 0] == code).sum()) for code, name in enumerate(VERDICTS)}
    assert found.feasible == counts.pop("fits") > 0
    assert found.rejected == {name: count for name, count in counts.items() if count}
    fits = np.where(every[:, 0] == 0, every[:, 1], np.inf)
    assert found.top.values[0, 0] == pytest.approx(fits.min(), rel=1e-12)
    np.testing.assert_allclose(found.top.values, every[found.top.indices, 1:], rtol=1e-12)


def test_compiled_is_eager():
    """jit of the whole expression on a lattice, the shape in which gradients use it."""
    space, quality = list(spaces())[0]
    axes = [one for one in space.axes if one.name in ("width", "micro_batch", "zero", "recompute")]
    base = replace(space.base, layout=replace(space.base.layout, tp=4.0, dp=16.0, fsdp=16.0))
    small = attached(product(axes, base), machine(), quality)
    shape = tuple(len(one) for one in axes)
    with np.errstate(all="ignore"):
        eager = table(price(lattice(small), NAMES), shape)
    compiled = jax.jit(price, static_argnums=1)(lattice(small), NAMES)
    np.testing.assert_allclose(table(compiled, shape), eager, rtol=1e-10)


def test_a_small_space_compiles_nothing():
    """What NumPy has done before a compiler would be ready is left to NumPy."""
    few = {"tp": (2, 4), "pp": (1, 2), "cp": (1,), "micro_batch": (1, 2), "vpp": (1,), "offload": (0.0,)}
    space = attached(layout_space(dense(), work(), chips=64, choices=few), machine(), None)
    recorded = record(task_of(space, objectives=("step_time",), expression=price))
    plan = chunks.plan(exact.Task(space=space, recorded=recorded, lead=len(space.axes), block=1), target=2**19)
    assert recorded.steps and not any(program.steps for program in plan.staged.programs)


def test_numbers_compile_nothing(monkeypatch):
    """Other hardware, another batch, another number of chips: the programs are those that exist."""
    monkeypatch.setattr(chunks, "WORTH", 0)
    one = jax.local_devices()[:1]  # a program is compiled once a device, and which thread comes first is chance
    monkeypatch.setattr(jax, "local_devices", lambda: one)
    few = {"pp": (1, 2, 4), "cp": (1,), "micro_batch": (1, 2), "vpp": (1, 2), "offload": (0.0, 1.0)}

    def run(hardware, chips, batch):
        space = layout_space(dense(), training(2048.0, batch), chips=chips, choices=few)
        return sweep(space, replace(hardware, chips=float(chips)), objectives=("step_time", "memory"), chunk=2000)

    first = run(machine(), 64, 64.0)
    compiled = programs._compiled._cache_size(), chunks._minima._cache_size()
    assert compiled[1] > 0
    faster = replace(machine(), bandwidth=4e12, dollars_hour=3.0, kernel=1e-6, memory=8e9)
    for hardware, chips, batch in ((faster, 64, 64.0), (machine(), 64, 192.0), (faster, 128, 256.0)):
        other = run(hardware, chips, batch)
        assert other.top.values[0, 0] != first.top.values[0, 0]
    assert (programs._compiled._cache_size(), chunks._minima._cache_size()) == compiled


@pytest.mark.parametrize(("energy", "most"), [(False, 20), (True, 24)], ids=["without-energy", "with-energy"])
def test_work_a_candidate(energy, most):
    """Element operations that are left for the compiled part, a candidate of a large space of layouts."""
    kind = LayerKind(count=96.0, heads=96.0, kv_heads=96.0, head_dim=128.0, d_ff=49152.0, gated=0.0)
    gpt3 = Model(d_model=12288.0, vocab=51200.0, kinds=(kind,))
    few = {"vpp": (1, 2, 4, 8), "micro_batch": (1, 2, 4, 8), "fused_attention": (1, 0), "schedule": (0, 2)}
    space = attached(layout_space(gpt3, training(2048.0, 1536.0), chips=4096, choices=few), machine(4096.0), None)
    names = ("step_time", "dollars_per_token", "memory_share") + ("joules_per_token",) * energy
    recorded = record(task_of(space, objectives=names, expression=price))
    plan = chunks.plan(exact.Task(space=space, recorded=recorded, lead=len(space.axes), block=1), target=2**19)
    assert sum(len(program.steps) for program in plan.staged.programs) < 500
    assert 5 < plan.staged.work / plan.inner <= most


@pytest.mark.slow
def test_the_benchmark_runs_small():
    """scripts/bench_search.py: every line it promises, with spaces as large as were asked."""
    script = Path(__file__).parents[2] / "scripts" / "bench_search.py"
    asked = [sys.executable, str(script), "--most=1e5", "--chips=256", "--batch=256", "--repeats=1"]
    told = subprocess.run(asked, capture_output=True, text=True, check=True).stdout
    for line in ("first exact answer", "GPT-3, warm", "DeepSeek-V3, warm", "DeepSeek-V3, with it"):
        assert line in told, line
    counted = [int(line.split()[0].replace(",", "")) for line in told.splitlines() if line.endswith("the front")]
    assert counted[0] < counted[1] <= 1.2e5 and len(counted) == 3
