"""What the machine at hand delivers: matmul rates, memory bandwidth, dispatch; numbers with their spreads."""

from __future__ import annotations

import dataclasses
import importlib.util
import math
import os
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from coopt.measure import clock, energy
from coopt.measure.compile import compile_program
from coopt.measure.formats import DTYPES
from coopt.measure.jobs import real
from coopt.workers import HEAP
from coopt.workers.kernel import available_memory

SIZES = {"cpu": (256, 512, 1024, 2048)}
SIZES_ELSEWHERE = (1024, 2048, 4096, 8192)
FORMATS = ("fp32", "bf16")
BUS = Path("/sys/bus/pci/devices")
VENDORS = {"0x10de": ("NVIDIA's GPUs", "'jax[cuda13]'"), "0x1ae0": ("Google's TPUs", "'jax[tpu]'")}
PLUGINS = {"10de": ("jax_cuda13_plugin", "jax_cuda12_plugin"), "1ae0": ("libtpu",)}  # modules that JAX finds them by
HOST_SIDE = ("0x01", "0x02", "0x04", "0x06", "0x0c")  # PCI classes: disks, networks, sound, bridges, USB
TRIAD = {"cpu": 1 << 24}  # elements an array of the memory test: 64 MiB in float32, beyond a CPU's caches
TRIAD_ELSEWHERE = 1 << 28  # 1 GiB


def profile_job(job: dict, report: Callable[[str], None]) -> dict:
    """A `host` job: see `profile`."""
    return {"outcome": "ok"} | profile(budget_s=real(job, "budget_s", 6.0), report=report)


def probe(payload: dict) -> dict:
    """The smallest job that the device itself has to answer."""
    return {"outcome": "ok", "two": float(jax.block_until_ready(jnp.ones(()) + jnp.ones(())))}


def profile(*, budget_s: float = 6.0, report: Callable[[str], None] = lambda phase: None) -> dict:
    """The rates of the local device, as a dict of plain numbers (SI), each rate with interval and spread.

    `matmul[format][size]` holds FLOP/s of square products; `bandwidth` B/s of `a + s * b` written over `a`; `dispatch`
    the seconds a call costs; a size that would not fit into the budget is left out.
    """
    device = jax.devices()[0]
    report("idle")
    idle = energy.resting(energy.board() if device.platform == "gpu" else None)
    report("dispatch")
    floor = clock.dispatch_floor(samples=100)
    report("bandwidth")
    elements = TRIAD.get(device.platform, TRIAD_ELSEWHERE)
    bandwidth = _rate(3.0 * 4.0 * elements, _triad(elements, budget_s / 6.0, floor))
    rates: dict[str, dict[str, dict]] = {}
    sizes = SIZES.get(device.platform, SIZES_ELSEWHERE)
    share = budget_s * 5.0 / 6.0 / (len(FORMATS) * len(sizes))
    for name in FORMATS:
        report(f"matmul {name}")
        rates[name] = {}
        for size in sizes:
            flops = 2.0 * size**3
            smaller = [row["rate"] for row in rates[name].values()]
            if smaller and flops / smaller[-1] > share:
                break
            rates[name][str(size)] = _rate(flops, _square(size, DTYPES[name], share, floor))
    return {
        "name": processor() if device.platform == "cpu" else device.device_kind,
        "platform": device.platform,
        "device": device.device_kind,
        "devices": len(jax.devices()),
        "cores": cores() if device.platform == "cpu" else getattr(device, "core_count", None),
        "memory": _memory(device),
        "memory_available": available_memory() if device.platform == "cpu" else None,
        "matmul": rates,
        "bandwidth": bandwidth,
        "dispatch": {"time": floor},
        "idle": None if math.isnan(idle) else idle,
        "unused": unused(device.platform),
    }


def cores() -> int:
    """Processors this process may use: its affinity, and the control group's quota if that is lower."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        with open("/sys/fs/cgroup/cpu.max") as file:
            quota, period = file.read().split()
        return allowed if quota == "max" else max(1, min(allowed, int(quota) // int(period)))
    except (OSError, ValueError):
        return allowed


def accelerators() -> list[str]:
    """Accelerators on this machine's bus by their PCI numbers, `vendor:device`, whether JAX uses them or not."""
    found = []
    for device in sorted(BUS.glob("*")):
        try:
            vendor, number, kind = ((device / name).read_text().strip() for name in ("vendor", "device", "class"))
        except OSError:
            continue
        if vendor in VENDORS and not kind.startswith(HOST_SIDE):
            found.append(f"{vendor[2:]}:{number[2:]}")
    return found


def heap() -> dict[str, str]:
    """How children keep their memory: as programs on a CPU want it, and of itself where there is an accelerator.

    XLA keeps an accelerator's memory, and the threads of its compiler wait for each other where all share one heap:
    beside an H200 with sixteen cores a block compiled in 6.4 s in children with one, in 1.2 s in a process without.
    """
    return {} if attached() else dict(HEAP)


def attached() -> bool:
    """Whether blocks here run on an accelerator: one is on the bus, JAX has its plugin, and nobody asks for the CPU.

    No backend is started: the process that asks would hold the device.
    """
    plugins = {plugin for here in accelerators() for plugin in PLUGINS[here.partition(":")[0]]}
    asked = os.environ.get("JAX_PLATFORMS", "")
    return not asked.startswith("cpu") and any(importlib.util.find_spec(plugin) is not None for plugin in plugins)


def unused(platform: str) -> str:
    """A sentence about an accelerator that is here and was not used; nothing where there is none, or one was asked for.

    Without its plugin, or while another process holds it, JAX takes the CPU and says little.
    """
    here = accelerators()
    if platform != "cpu" or not here or os.environ.get("JAX_PLATFORMS") or os.environ.get("JAX_PLATFORM_NAME"):
        return ""
    name, extra = VENDORS["0x" + here[0].partition(":")[0]]
    return (
        f"this machine has {len(here)} of {name} and JAX used the CPU: `pip install {extra}` brings what it lacks, or "
        "another process (a notebook?) holds the device; JAX_PLATFORMS=cpu says that the CPU is meant"
    )


def processor() -> str:
    """The processor's name as the kernel gives it."""
    try:
        with open("/proc/cpuinfo") as file:
            for line in file:
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def room(device: Any, job: dict) -> float:
    """Bytes a program may use on an attached device: what the job or the device says; this host's free memory."""
    if job.get("memory"):
        return real(job, "memory", 0.0)
    stats = device.memory_stats() or {}
    return float(stats.get("bytes_limit", 0)) or available_memory()


def lacking(wanted: float, available: float) -> dict[str, Any]:
    """What an answer says of a program that does not fit; nothing where it does, or where a figure is not known.

    >>> lacking(2e9, 1e9)["outcome"], lacking(1e9, 2e9)
    ('infeasible-memory', {})
    """
    if not wanted > available:
        return {}
    message = f"the compiled program wants {wanted:.4g} B, {available:.4g} B are there"
    return {"outcome": "infeasible-memory", "wanted": wanted, "available": available, "message": message}


def _memory(device: Any) -> float:
    stats = device.memory_stats() or {}
    if "bytes_limit" in stats:
        return float(stats["bytes_limit"])
    return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))


def _rate(work: float, timing: clock.Timing) -> dict:
    """Work a second, fast to slow: the interval's ends change places."""
    return {
        "rate": work / timing.time,
        "low": work / timing.high,
        "high": work / timing.low,
        "spread": timing.spread,
        "samples": timing.samples,
        "flags": list(timing.flags),
    }


def _square(size: int, dtype, budget_s: float, floor: float) -> clock.Timing:
    precision = jax.lax.Precision.HIGHEST if dtype == jnp.float32 else jax.lax.Precision.DEFAULT
    shape = jax.ShapeDtypeStruct((size, size), dtype)
    counter = jax.ShapeDtypeStruct((), jnp.int32)
    product = clock.counted(lambda a, b: jnp.matmul(a, b, precision=precision))
    compiled = compile_program(product, (shape, shape, counter))
    generator = np.random.default_rng(size)
    a, b = (jnp.asarray(generator.standard_normal((size, size)), dtype) for _ in range(2))
    timer = clock.repeat(compiled.program, (a, b), jnp.zeros((), jnp.int32))
    timing = _clocked(timer, budget_s, floor)
    removed = ("work-removed",) if compiled.products < 1 else ()
    return dataclasses.replace(timing, flags=(*timing.flags, *removed))


def _clocked(timer: Callable[[int], float], budget_s: float, floor: float) -> clock.Timing:
    """Timed by the device's own record on an accelerator, whose kernels can be shorter than a call of one."""
    if jax.default_backend() == "cpu":
        return clock.estimate(timer, budget_s=budget_s, floor=floor)
    return clock.timed(timer, budget_s=budget_s, floor=floor)[0]


def _triad(elements: int, budget_s: float, floor: float) -> clock.Timing:
    """The memory test, in place: a result in fresh memory would time the kernel clearing pages."""
    triad = jax.jit(lambda a, b: a + 0.5 * b, donate_argnums=0)
    state = [jnp.ones((elements,), jnp.float32)]
    other = jnp.full((elements,), 1e-3, jnp.float32)

    def timer(repetitions: int) -> float:
        started = time.perf_counter()
        for _ in range(repetitions):
            state[0] = triad(state[0], other)
        state[0].block_until_ready()
        return time.perf_counter() - started

    return _clocked(timer, budget_s, floor)
