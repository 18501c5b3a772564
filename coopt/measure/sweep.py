"""Times single operations over a range of shapes: what a calibration fits efficiencies to."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from coopt.measure import clock, topology
from coopt.measure.compile import compile_program
from coopt.measure.formats import DTYPES
from coopt.measure.jobs import real, whole
from coopt.measure.weights import drawn
from coopt.problems import Problem, Refused

# Share of the points by operation: products decide a transformer's time.
SHARES = {"matmul": 0.55, "attention": 0.2, "elementwise": 0.15, "memory": 0.1}
COLLECTIVES = ("all_reduce", "all_gather", "reduce_scatter", "all_to_all")
WIRED = 0.25  # share of collectives, where there are several devices
PRODUCTS = {"matmul": "mk,kn->mn", "matmul_weights": "km,kn->mn", "matmul_inputs": "mk,nk->mn"}
HEADS = 4  # of the attention rows; batch counts sequences times heads
LARGEST = {"cpu": (1, 2e8)}  # times the sizes below, and FLOPs of the largest product for each second of the budget
LARGEST_ELSEWHERE = (16, 2e11)
MOST_ELEMENTS = 1 << 28  # of an array that is copied
BRIEF = 1e-4  # s below which an accelerator's launches and caches are much of an operation's time
ELEMENTWISE = ("add", "gelu", "norm", "softmax")


@dataclasses.dataclass(frozen=True)
class Operation:
    """One operation to time; m, n, k, batch as in a cost table; of a collective, n devices hold m elements each."""

    name: str
    kind: str  # matmul | attention | elementwise | memory | collective
    m: int
    n: int
    k: int = 1
    batch: int = 1


def sweep_job(job: dict, report: Callable[[str], None]) -> dict:
    """A `sweep` job: times `points` operations in about `budget_s` seconds."""
    name = job.get("precision", "fp32")
    if name not in DTYPES:
        raise Refused(Problem(field="precision", expected=f"one of {', '.join(DTYPES)}", got=repr(name)[:40]))
    budget, seed = real(job, "budget_s", 15.0), whole(job, "seed", 0)
    devices = topology.acquire(str(job.get("target", "local"))).devices
    device = devices[0]
    scale, flops = LARGEST.get(device.platform, LARGEST_ELSEWHERE)
    operations = plan(whole(job, "points", 40), seed=seed, limit=budget * flops, devices=len(devices), scale=scale)
    rows = run(operations, devices=devices, precision=name, budget_s=budget, report=report)
    return {
        "outcome": "ok",
        "device": device.device_kind,
        "platform": device.platform,
        "devices": len(devices),
        "precision": name,
        "rows": rows,
        "left_out": len(operations) - len(rows),
    }


def plan(points: int, *, seed: int = 0, limit: float = 4e9, devices: int = 1, scale: int = 1) -> list[Operation]:
    """Operations spread evenly, by logarithm, over the sizes of small and middling transformers.

    Additive recurrence (Roberts' R3 sequence) shifted by the seed: no clumps at any number of points. Products of
    more than `limit` FLOPs are halved along their longest side until they are below it; all sides are `scale`
    times a CPU's. Kinds are interleaved, so a plan cut short still holds all of them. Collectives are among them where
    there are several devices.
    """
    root = 1.2207440846057596  # of x^4 = x + 1
    shift = np.random.default_rng(seed).random(3)
    shares = SHARES if devices == 1 else {k: (1.0 - WIRED) * v for k, v in SHARES.items()} | {"collective": WIRED}
    counts = {kind: max(1, round(share * points)) for kind, share in shares.items()}
    queues = {
        kind: [
            _operation(kind, i, (shift + (i + 1) / root ** np.arange(1, 4)) % 1.0, limit, devices, scale)
            for i in range(count)
        ]
        for kind, count in counts.items()
    }
    order = sorted(((i + 0.5) / counts[kind], kind, i) for kind in queues for i in range(counts[kind]))
    return [queues[kind][i] for _, kind, i in order][:points]


def _operation(kind: str, number: int, u: np.ndarray, limit: float, devices: int, scale: int) -> Operation:
    def between(low: int, high: int, share: float, multiple: int = 8) -> int:
        return max(multiple, round(scale * low * (high / low) ** float(share) / multiple) * multiple)

    if kind == "matmul":
        sizes = [between(32, 4096, u[0]), between(64, 4096, u[1]), between(64, 4096, u[2])]
        while 2.0 * math.prod(sizes) > limit:
            longest = sizes.index(max(sizes))
            sizes[longest] = max(8, sizes[longest] // 16 * 8)
        return Operation(tuple(PRODUCTS)[number % 3], kind, *sizes)
    if kind == "attention":
        length, size = between(64, 1024, u[0], 64), (32, 64, 128)[int(3 * u[1])]
        batch = max(1, min(between(4, 64, u[2], 4), int(limit / (12.0 * length * length * size))))
        batch = batch // HEADS * HEADS or batch
        return Operation(("attention", "attention_forward_backward")[number % 2], kind, length, length, size, batch)
    if kind == "collective":
        return Operation(COLLECTIVES[number % 4], kind, between(1 << 10, 1 << 22, u[0], 8 * devices), devices)
    rows, columns = between(256, 16384, u[0]), between(64, 2048, u[1])
    rows = min(rows, MOST_ELEMENTS // columns)
    if kind == "elementwise":
        return Operation(ELEMENTWISE[number % len(ELEMENTWISE)], kind, rows, columns)
    return Operation("copy", kind, rows, columns)


def run(
    operations: list[Operation],
    *,
    devices: tuple,
    precision: str = "fp32",
    budget_s: float = 15.0,
    report: Callable[[str], None] = lambda phase: None,
) -> list[dict]:
    """A row for each operation, in order, until the budget is spent: sizes, FLOPs, bytes, seconds, interval, flags."""
    floor = clock.dispatch_floor()
    ends = time.monotonic() + budget_s
    rows: list[dict] = []
    for number, operation in enumerate(operations):
        left = ends - time.monotonic()
        if left <= 0:
            break
        report(f"sweep {number + 1}/{len(operations)}")
        rows.append(_row(operation, precision, left / (len(operations) - number) / 2.0, floor, devices))
    return rows


def _row(operation: Operation, precision: str, budget_s: float, floor: float, devices: tuple) -> dict:
    dtype = jnp.dtype(DTYPES[precision])
    if operation.kind == "collective":
        function, abstract = _collective(operation, dtype, devices)
    else:
        function, shapes = program_of(operation, precision)
        abstract = tuple(jax.ShapeDtypeStruct(shape, dtype) for shape in shapes)
    compiled = compile_program(clock.counted(function), (*abstract, jax.ShapeDtypeStruct((), jnp.int32)))
    generator = np.random.default_rng(0)
    values = (drawn(one.shape, dtype, generator) for one in abstract)
    arrays = tuple(jax.device_put(value, one.sharding) for value, one in zip(values, abstract, strict=True))
    fake = operation.kind == "collective" and devices[0].platform == "cpu"
    timer = clock.repeat(compiled.program, arrays, jnp.zeros((), jnp.int32), apart=fake)
    timing, _ = clock.timed(timer, budget_s=budget_s, floor=floor)
    out = jax.eval_shape(function, *abstract)
    moved = sum(math.prod(a.shape) * a.dtype.itemsize for a in (*abstract, *jax.tree.leaves(out)))
    if operation.kind == "collective":
        moved = operation.m * dtype.itemsize  # of the whole buffer that a device holds
    flops = _flops(operation)
    extra = clock.doubtful(compiled.flops, timing.time, expected=flops) if operation.kind == "matmul" else ()
    extra += ("brief",) if devices[0].platform != "cpu" and timing.time < BRIEF else ()
    return dataclasses.asdict(operation) | {
        "type": precision,
        "flops": compiled.flops if math.isnan(flops) else flops,
        "bytes": float(moved),
        "time": timing.time,
        "low": timing.low,
        "high": timing.high,
        "spread": timing.spread,
        "samples": timing.samples,
        "estimator": timing.estimator,
        "foreign": timing.foreign,
        "pace": timing.pace,
        "flags": [*timing.flags, *extra],
        "digest": compiled.digest,
    }


def _flops(operation: Operation) -> float:
    """FLOPs of the products; attention counts the whole square of scores, which is what unfused kernels compute."""
    products = {"matmul": 1, "attention": 2, "attention_forward_backward": 6}
    name = "matmul" if operation.kind == "matmul" else operation.name
    if name not in products:
        return math.nan
    return products[name] * 2.0 * operation.batch * operation.m * operation.n * operation.k


def program_of(operation: Operation, precision: str) -> tuple[Callable, list[tuple[int, ...]]]:
    """An operation as a function of arrays, and their shapes."""
    m, n, k = operation.m, operation.n, operation.k
    exact = jax.lax.Precision.HIGHEST if precision == "fp32" else jax.lax.Precision.DEFAULT
    if operation.kind == "matmul":
        equation = PRODUCTS[operation.name]
        size = {"m": m, "n": n, "k": k}
        shapes = [tuple(size[axis] for axis in term) for term in equation.split("->")[0].split(",")]
        return lambda a, b: jnp.einsum(equation, a, b, precision=exact), shapes
    if operation.kind == "attention":
        heads = min(HEADS, operation.batch)
        fused = jax.default_backend() == "gpu" and jnp.dtype(DTYPES[precision]).itemsize == 2
        return _attention(operation.name, "cudnn" if fused else "xla"), [(operation.batch // heads, m, heads, k)] * (
            3 if operation.name == "attention" else 4
        )
    functions = {
        "add": (lambda a, b: a + b, 2),
        "gelu": (jax.nn.gelu, 1),
        "norm": (lambda a: a * jax.lax.rsqrt(jnp.mean(a * a, axis=-1, keepdims=True) + 1e-6), 1),
        "softmax": (lambda a: jax.nn.softmax(a, axis=-1), 1),
        "copy": (lambda a: a + 1, 1),
    }
    function, inputs = functions[operation.name]
    return function, [(m, n)] * inputs


def _collective(operation: Operation, dtype: jnp.dtype, devices: tuple) -> tuple[Callable, tuple]:
    """A collective over all devices, each of which holds a whole buffer of m elements: before it, or after a gather."""
    mesh = Mesh(np.array(devices), ("all",), axis_types=(AxisType.Auto,))
    bodies = {
        "all_reduce": lambda a: jax.lax.psum(a, "all"),
        "all_gather": lambda a: jax.lax.all_gather(a, "all", axis=1, tiled=True),
        "reduce_scatter": lambda a: jax.lax.psum_scatter(a, "all", scatter_dimension=1, tiled=True),
        "all_to_all": lambda a: jax.lax.all_to_all(a, "all", split_axis=1, concat_axis=1, tiled=True),
    }
    held = operation.m // len(devices) if operation.name == "all_gather" else operation.m
    cut = PartitionSpec("all")
    function = jax.shard_map(bodies[operation.name], mesh=mesh, in_specs=cut, out_specs=cut, check_vma=False)
    return function, (jax.ShapeDtypeStruct((len(devices), held), dtype, sharding=NamedSharding(mesh, cut)),)


def _attention(name: str, implementation: Literal["xla", "cudnn"]) -> Callable:
    def core(q, k, v):
        return jax.nn.dot_product_attention(q, k, v, is_causal=True, implementation=implementation)

    if name == "attention":
        return core

    def both(q, k, v, d):
        out, pull = jax.vjp(core, q, k, v)
        return out, pull(d)

    return both
