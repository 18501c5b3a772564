"""Devices to measure on or compile for: those at hand, fake CPU devices, and machines that are not attached.

The only module that touches `jax.experimental.topologies` and the initialisation of backends.

    local                 the attached accelerator, or this CPU
    cpu:8                 eight fake devices on this CPU: shapes and collectives are real, times are not
    tpu:v5p:4x4x4         XLA:TPU for a pod that is not there (needs libtpu); `:4` after it for four slices
    gpu:1x8x8             XLA:GPU for slices x hosts x GPUs of a described chip (needs the CUDA plugin)

A device is what JAX calls one: of v2, v3, v4 and 7x, a core, two of which are a chip.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import os
import re
from collections.abc import Mapping

import jax
from jax.experimental import topologies

from coopt.problems import Problem, Refused

FORMS = "local, cpu:N, tpu:CHIP:AxBxC or gpu:SLICESxHOSTSxGPUS"
TPUS = {name: name for name in ("v2", "v3", "v4", "v5e", "v5p", "v6e")} | {"7x": "tpu7x", "tpu7x": "tpu7x"}
FLAT = ("1x1", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")  # v5e, v6e
SMALL = ("1x1x1", "2x2x1", "2x2x2", "2x2x4", "2x4x4")  # of the others; above these, multiples of 4 in rising order


@dataclasses.dataclass(frozen=True)
class Target:
    """Devices, and whether a program compiled for them can run, and its times mean anything."""

    name: str
    platform: str  # cpu | gpu | tpu
    devices: tuple
    runs: bool  # attached: programs can be executed
    timed: bool  # a clock tells about the hardware: false for fake devices


def acquire(name: str, *, chip: Mapping[str, object] | None = None) -> Target:
    """The target of that name; refuses an unknown name, or one whose compiler is not installed.

    Args:
      chip: for `gpu:` targets, the chip's figures as `gpu_configuration` wants them.
    """
    if name == "local":
        devices = tuple(jax.devices())
        return Target(name=name, platform=devices[0].platform, devices=devices, runs=True, timed=True)
    if match := re.fullmatch(r"cpu:([1-9]\d{0,3})", name):
        devices = _fake(int(match[1]))
        return Target(name=name, platform="cpu", devices=devices, runs=True, timed=len(devices) == 1)
    if match := re.fullmatch(r"tpu:(\w+):(\d+x\d+(?:x\d+)?)(?::(\d+))?", name):
        return _tpu(name, match[1], match[2], int(match[3] or 1))
    if match := re.fullmatch(r"gpu:(\d+x\d+x\d+)", name):
        return _gpu(name, match[1], chip)
    raise Refused(Problem(field="target", expected=FORMS, got=name))


def _untouched() -> bool:
    """Whether no backend exists here yet: there is no public way to ask without creating one."""
    from jax._src import xla_bridge

    return not xla_bridge.backends_are_initialized()


def _fake(count: int) -> tuple:
    if _untouched():
        jax.config.update("jax_num_cpu_devices", count)
    _leave_alone()
    devices = tuple(jax.devices("cpu"))
    if len(devices) < count:
        raise Refused(
            Problem(
                field="target",
                expected=f"{count} CPU devices",
                got=f"{len(devices)}, fixed when this process first used JAX",
                hint="run the job in a fresh process (the process executor does)",
            )
        )
    return devices[:count]


def _installed(module: str, target: str, install: str) -> None:
    if importlib.util.find_spec(module) is None:
        hint = f"install it with: pip install {install}"
        raise Refused(Problem(field="target", expected=f"the package {module} for {target}", got="no such", hint=hint))


def _tpu(name: str, chip: str, shape: str, slices: int) -> Target:
    if chip not in TPUS:
        raise Refused(Problem(field="target", expected=f"a TPU of {', '.join(TPUS)}", got=chip))
    _known(chip, shape)
    _installed("libtpu", name, "'coopt[tpu]'")
    # libtpu asks a metadata server who it is unless it is told; without these it waits for minutes.
    settings = {
        "TPU_SKIP_MDS_QUERY": "1",
        "TPU_WORKER_HOSTNAMES": "localhost",
        "TPU_ACCELERATOR_TYPE": "v5p-8",
        "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",  # nothing is attached: processes have nothing to share
    }
    for key, value in settings.items():
        os.environ.setdefault(key, value)
    _leave_alone()
    options = {"num_slices": slices} if slices > 1 else {}
    try:
        description = topologies.get_topology_desc(platform="tpu", topology_name=f"{TPUS[chip]}:{shape}", **options)
    except (jax.errors.JaxRuntimeError, NotImplementedError) as error:
        raise Refused(Problem(field="target", expected="a topology libtpu knows", got=f"{name} ({error})")) from error
    return Target(name=name, platform="tpu", devices=_by_place(description.devices), runs=False, timed=False)


def _leave_alone() -> None:
    """What is compiled for a machine that is not there takes no accelerator that is: a notebook may hold it."""
    if _untouched():
        jax.config.update("jax_platforms", "cpu")


def _known(chip: str, shape: str) -> None:
    """Refuses a slice that nobody can have; the compiler itself takes more than exist."""
    flat = chip in ("v5e", "v6e")
    axes = [int(size) for size in shape.split("x")]
    whole = len(axes) == 3 and axes == sorted(axes) and all(size % 4 == 0 for size in axes)
    if shape in (FLAT if flat else SMALL) or (whole and not flat) or (chip in ("v2", "v3") and len(axes) == 2):
        return
    known = ", ".join(FLAT) if flat else f"{', '.join(SMALL)}, or AxBxC of multiples of 4, smallest first"
    raise Refused(Problem(field="target", expected=f"a slice of {chip}: {known}", got=shape))


def _by_place(devices) -> tuple:
    """Devices in the order of the torus, slice by slice: neighbours in the list are neighbours on a link."""
    return tuple(
        sorted(
            devices,
            key=lambda d: (
                getattr(d, "slice_index", 0) or 0,
                *reversed(d.coords),
                getattr(d, "core_on_chip", 0),
            ),
        )
    )


def _gpu(name: str, shape: str, chip: Mapping[str, object] | None) -> Target:
    _installed("jax_cuda13_plugin", name, "'coopt[cuda]'")
    if chip is None:
        raise Refused(
            Problem(field="chip", expected="the figures of a GPU", got="none", hint=f"fields: {', '.join(GPU_FIELDS)}")
        )
    _leave_alone()
    try:
        description = topologies.get_topology_desc(
            platform="cuda", target_config=gpu_configuration(chip), topology=shape
        )
    except (jax.errors.JaxRuntimeError, NotImplementedError) as error:
        raise Refused(Problem(field="target", expected="a GPU XLA can compile for", got=f"{name} ({error})")) from error
    return Target(name=name, platform="gpu", devices=tuple(description.devices), runs=False, timed=False)


GPU_FIELDS = (
    "name",
    "core_count",
    "fpus_per_core",
    "memory_bandwidth",
    "device_memory_size",
    "l2_cache_size",
    "clock_rate_ghz",
    "shared_memory_per_core",
    "shared_memory_per_block_optin",
    "compute_capability",
)


def gpu_configuration(chip: Mapping[str, object]) -> str:
    """A `stream_executor.GpuTargetConfigProto` in text form, for a chip that need not exist.

    Bytes, B/s and GHz as named in `GPU_FIELDS`; `compute_capability` is "9.0". Limits that every CUDA device of
    compute capability 7 and later shares (CUDA C++ programming guide, table of technical specifications) are filled in.
    """
    missing = [field for field in GPU_FIELDS if field not in chip]
    if missing:
        raise Refused(*(Problem(field=f"chip.{field}", expected="a value", got="nothing") for field in missing))
    major, _, minor = str(chip["compute_capability"]).partition(".")
    whole = {f: int(float(str(chip[f]))) for f in GPU_FIELDS[1:] if f not in ("clock_rate_ghz", "compute_capability")}
    name = re.sub(r"[^\w .-]", "", str(chip["name"]))
    lines = [f"  {field}: {value}" for field, value in whole.items()]
    return "\n".join(
        [
            "gpu_device_info {",
            "  threads_per_block_limit: 1024",
            "  threads_per_warp: 32",
            "  threads_per_core_limit: 2048",
            "  shared_memory_per_block: 49152",
            "  registers_per_core_limit: 65536",
            "  registers_per_block_limit: 65536",
            "  block_dim_limit_x: 2147483647",
            "  block_dim_limit_y: 65535",
            "  block_dim_limit_z: 65535",
            "  thread_dim_limit_x: 1024",
            "  thread_dim_limit_y: 1024",
            "  thread_dim_limit_z: 64",
            *lines,
            f"  clock_rate_ghz: {float(str(chip['clock_rate_ghz']))}",
            f"  cuda_compute_capability {{ major: {int(major)} minor: {int(minor or 0)} }}",
            '  device_vendor: "NVIDIA Corporation"',
            '  platform_version: "CUDA"',
            "  device_address_bits: 64",
            f'  name: "{name}"',
            '  driver_version: "13.0.0"',
            '  runtime_version: "13.0.0"',
            '  compile_time_toolkit_version: "13.0.0"',
            '  dnn_version: "9.10.0"',
            "}",
            'platform_name: "CUDA"',
            "dnn_version_info { major: 9 minor: 10 patch: 0 }",
            f'device_description_str: "{name}"',
        ]
    )
