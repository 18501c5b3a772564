"""How fast a space is searched, and how near that is to what the machine can do.

    python scripts/bench_search.py
    python scripts/bench_search.py --most=1e9 --batch=1536 --chips=4096

GPT-3 175B on 4,096 A100: every layout that divides, priced by the full expression; the exact best 32, the exact front
of step time, dollars, joules and memory, and why the rest was rejected. Takes half a minute on 2 quiet
cores. Prints the space; the first answer from the start of the process, compilation included; the warm rate; the share
it is of the machine's measured rate of multiply-adds; memory; the same for DeepSeek-V3, a mixture of experts whose
collectives cross two tiers; and the rate for spaces from 10^4 candidates up to `--most`, of either kind. Beside
wall time stands the processor time of all threads: on a machine with other work that is the figure to compare.
"""

from __future__ import annotations

import time

BEGAN = time.perf_counter()

import resource  # noqa: E402

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
from absl import app, flags  # noqa: E402

from coopt.search import chunks, exact  # noqa: E402
from coopt.search.layouts import layout_space  # noqa: E402
from coopt.search.price import price  # noqa: E402
from coopt.search.recorded import record, task_of  # noqa: E402
from coopt.search.space import Space, axis, product, settings, size  # noqa: E402
from coopt.search.sweep import CHUNK, Result, sweep  # noqa: E402
from coopt.spec import load  # noqa: E402
from coopt.spec.nouns import Hardware, LayerKind, Model, Tier, training  # noqa: E402

CHIPS = flags.DEFINE_integer("chips", 4096, "A100s")
BATCH = flags.DEFINE_integer("batch", 1536, "sequences a step")
MOST = flags.DEFINE_float("most", 1e8, "largest space of the scaling table")
REPEATS = flags.DEFINE_integer("repeats", 5, "warm sweeps of which the best and the median are printed")
WORKERS = flags.DEFINE_integer("workers", 2, "threads")

OBJECTIVES = ("step_time", "dollars_per_token", "joules_per_token", "memory_share")
CHOICES = {
    "vpp": (1, 2, 3, 4, 6, 8), "micro_batch": (1, 2, 3, 4, 6, 8, 12, 16), "schedule": (0, 2),
    "offload": (0.0, 0.25, 0.5, 1.0), "fused_attention": (1, 0),
}  # fmt: skip
EXPERTS = {
    "vpp": (1, 2, 4), "micro_batch": (1, 2, 4, 8), "schedule": (0, 2), "offload": (0.0, 0.25, 0.5, 1.0),
    "fused_attention": (1, 0), "cp": (1, 2, 4), "precision": ("bf16", "fp8"),
}  # fmt: skip


def gpt3() -> Model:
    """GPT-3 175B: 96 layers, 12,288 wide, 96 heads (Brown et al. 2020, table 2.1)."""
    kind = LayerKind(
        count=96.0, heads=96.0, kv_heads=96.0, head_dim=128.0, d_ff=49152.0, gated=0.0, bias=1.0, norms=4.0
    )
    return Model(name="gpt3-175b", d_model=12288.0, vocab=51200.0, tied=1.0, positions=2048.0, kinds=(kind,))


def a100(chips: int) -> Hardware:
    """A100 80GB SXM in nodes of 8: the vendor's sheet, and round efficiencies. A benchmark's machine, not a profile."""
    inside = Tier(name="nvlink", size=8.0, bandwidth=300e9, latency=2e-6, efficiency=0.8, saturation=1e5)
    outside = Tier(name="infiniband", size=1e6, bandwidth=25e9, latency=8e-6, efficiency=0.8, saturation=1e5)
    return Hardware(
        name="a100", chips=float(chips), peak=(19.5e12, 156e12, 312e12, 312e12, 0.0, 0.0, 0.0, 624e12), vector=78e12,
        bandwidth=2.039e12, memory=80.0 * 2**30, cache=40e6, cores=108.0, host_bandwidth=32e9, host_memory=256e9,
        tiers=(inside, outside), dollars_hour=2.0, watts=400.0, watts_idle=80.0, watts_all_in=650.0,
    )  # fmt: skip


def layouts() -> Space:
    """Every layout of the model on the cluster."""
    return layout_space(gpt3(), training(2048.0, float(BATCH.value)), chips=CHIPS.value, choices=CHOICES)


def scaled(candidates: float) -> Space:
    """About so many candidates: fewer parallel tuples, or the whole space once for each of several widths."""
    space = layouts()
    inner = size(space) // len(space.axes[0])
    if candidates < size(space):
        kept = max(round(candidates / inner), 1)
        first = replace_axis(space, 0, space.axes[0].values[:kept])
        if candidates < inner:
            number = next(i for i, one in enumerate(first.axes) if one.name == "micro_batch")
            return replace_axis(first, number, first.axes[number].values[:1])
        return first
    shapes = round(candidates / size(space))
    widths = axis("shape", ("model.kinds.0.count", "model.kinds.0.d_ff"),
                  [(96 + 6 * (i % 8), 49152 + 1024 * (i // 8)) for i in range(shapes)])  # fmt: skip
    return product((widths, *space.axes), space.base)


def replace_axis(space: Space, number: int, values: np.ndarray) -> Space:
    """The same space with fewer choices on one axis."""
    axes = list(space.axes)
    axes[number] = axis(axes[number].name, axes[number].paths, values)
    return product(axes, space.base)


def multiply_adds() -> float:
    """Multiply-adds a second of a long fused chain in float64, all cores: what an elementwise program can reach."""

    @jax.jit
    def chain(x):
        for _ in range(64):
            x = x * 0.999 + 0.001
        return x

    with jax.enable_x64(True):
        x = jnp.ones(2**20)
        chain(x).block_until_ready()
        times = []
        for _ in range(5):
            began = time.perf_counter()
            chain(x).block_until_ready()
            times.append(time.perf_counter() - began)
    return 64 * x.size / min(times)


def work(space: Space, hardware: Hardware) -> float:
    """Compiled element operations a candidate."""
    task = task_of(space, hardware, objectives=OBJECTIVES, expression=price)
    recorded = record(task, coded=True)
    plan = chunks.plan(exact.Task(space=task.space, recorded=recorded, lead=len(space.axes), block=1), target=CHUNK)
    return plan.staged.work / plan.inner


def resident() -> float:
    """Peak memory of the process, MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main(argv: list[str]) -> None:
    """Prints the table."""
    del argv
    hardware, space = a100(CHIPS.value), layouts()
    print(f"GPT-3 175B on {CHIPS.value:,} A100, batch {BATCH.value:,}: {size(space):,} layouts, imports and space "
          f"{time.perf_counter() - BEGAN:.2f} s")  # fmt: skip
    sweep(space, hardware, objectives=OBJECTIVES, workers=WORKERS.value)
    print(f"first exact answer, process start to finish, compilation included: {time.perf_counter() - BEGAN:.2f} s, "
          f"{time.process_time():.2f} s of processors")  # fmt: skip
    warm("GPT-3", space, hardware)
    model, pod = load.model("deepseek-v3"), load.resolve("dgx-h100", chips=2048)
    mixture = layout_space(model, training(4096.0, 15360.0), chips=2048, choices=EXPERTS)
    print(f"DeepSeek-V3 on 2,048 H100: {size(mixture):,} layouts")
    sweep(mixture, pod, objectives=OBJECTIVES, workers=WORKERS.value)
    warm("DeepSeek-V3", mixture, pod)
    print(f"{'candidates':>15} {'seconds':>8} {'million/s':>10} {'CPU s':>8} {'peak MB':>8}")
    exponent = 4.0
    while 10**exponent <= MOST.value * 1.01:
        line("without the front", scaled(10**exponent), hardware, pareto=False)
        exponent += 1.0
    experts = range(1024, 1024 + 64 * max(round(MOST.value / size(mixture)), 1), 64)
    shapes = product((axis("shape", "model.kinds.1.d_expert", experts), *mixture.axes), mixture.base)
    line("DeepSeek-V3, without the front", shapes, pod, pareto=False)
    line("DeepSeek-V3, with it", shapes, pod, pareto=True)


def line(name: str, space: Space, hardware: Hardware, *, pareto: bool) -> None:
    """The better of two sweeps, as a line of the table."""
    seconds, cpu, best = min((timed(space, hardware, pareto=pareto) for _ in range(2)), key=first)
    print(f"{best.evaluated:>15,} {seconds:>8.3f} {best.evaluated / seconds / 1e6:>10.1f} {cpu:>8.3f} "
          f"{resident():>8.0f}   {name}")  # fmt: skip


def warm(name: str, space: Space, hardware: Hardware) -> None:
    """The full answer again, with nothing left to compile, and what that is of the machine's peak."""
    runs = sorted((timed(space, hardware) for _ in range(REPEATS.value)), key=first)
    seconds, cpu, found = runs[len(runs) // 2]
    print(f"  {found.feasible:,} feasible, {len(found.pareto.indices)} on the front; rejected: {found.rejected}")
    print(f"  best {found.top.values[0, 0]:.6f} s a step: {settings(space, int(found.top.indices[0]))}")
    rate, operations, peak = size(space) / seconds, work(space, hardware), multiply_adds()
    print(
        f"{name}, warm: median {seconds:.3f} s, best {runs[0][0]:.3f} s, {cpu:.3f} s of processors: {rate / 1e6:.1f} "
        f"million/s; {operations:.1f} element operations a candidate = {rate * operations / 1e9:.2f} G/s, "
        f"{100 * rate * operations / peak:.0f}% of {peak / 1e9:.1f} G multiply-adds/s; peak memory {resident():.0f} MB"
    )


def timed(space: Space, hardware: Hardware, *, pareto: bool = True) -> tuple[float, float, Result]:
    """Seconds, seconds of processors, and the result of one sweep."""
    began = time.process_time()
    found = sweep(space, hardware, objectives=OBJECTIVES, pareto=pareto, workers=WORKERS.value)
    return found.seconds, time.process_time() - began, found


def first(run: tuple) -> float:
    """Seconds."""
    return run[0]


if __name__ == "__main__":
    app.run(main)
