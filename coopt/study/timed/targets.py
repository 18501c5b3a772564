"""`coopt measure --on=TARGET`: a model's blocks, or its whole step, compiled for machines that are not there."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from coopt import workers
from coopt.measure import kept
from coopt.measure.jobs import block_job, step_job
from coopt.problems import Problem, Refused
from coopt.spec import load
from coopt.spec.nouns import TYPES, Layout, Model
from coopt.store.files import write_whole
from coopt.store.identity import finite
from coopt.study.given import bench, scheduler
from coopt.study.given.designs import of_options
from coopt.study.given.progress import Progress
from coopt.study.timed import cycles
from coopt.tree import replace

FORMS = "local, cpu:8, tpu:v5p:8x8x16 (v4, v5e, v5p, v6e, 7x; `:4` for four slices) or gpu:PROFILE:1x8x8"
STACKS = {"tpu": "maxtext"}  # whose practice fills a layout: weights split over all, fused attention
DEADLINE = 900.0  # s for one program: a pod's takes minutes
TEXTS = "~/.cache/coopt/compiled"
COLLECTIVE_FAILS = "async-update instruction"  # in the message of jax 0.10 for v5p and 7x


def measure(options: Any, *, told: Progress) -> dict[str, Any]:
    """The measurements of a model's layers, of its whole step (`--part=step`), or of `--program`, on a target.

    What cannot run is compiled alone: memory by kind against the profile's, FLOPs, bytes, collectives and, for TPUs,
    seconds from the compiler's cycles. Raises Refused for what cannot be built.
    """
    if not options.model and not options.program:
        hint = "add --model=NAME, or --program=module:function"
        raise Refused(Problem(field="model", expected="the model to compile", got="nothing", hint=hint))
    target, chip = resolved(options.on, path=options.profile_path)
    jobs, assumed = _jobs(options, target, chip)
    deadline = options.block_seconds or DEADLINE
    blocks = []
    with workers.process(preload=bench.PRELOAD) as executor:
        for number, job in enumerate(jobs):
            told(f"compiling for {options.on}", number, len(jobs))
            outcome = executor.run(workers.Job(bench.JOB, job, deadline))
            blocks.append(told_of(outcome, job, chip, path=options.profile_path))
    told(f"compiling for {options.on}", len(jobs), len(jobs))
    document = finite({"command": "measure", "on": options.on, "blocks": blocks, "assumed": list(assumed)})
    if options.out:
        write_whole(Path(options.out), (json.dumps(document, indent=1, allow_nan=False) + "\n").encode())
        document["out"] = options.out
    return document


def resolved(on: str, *, path: Any = None) -> tuple[str, dict[str, Any]]:
    """A target as `coopt.measure.topology` names it, and what the chip's profile says of it.

    >>> resolved("gpu:h100-sxm:1x1x8")[0]
    'gpu:1x1x8'
    """
    kind, _, rest = on.partition(":")
    if kind == "cpu" and re.fullmatch(r"[1-9]\d{0,3}", rest):
        return on, {}
    if kind == "tpu" and (found := re.fullmatch(r"(\w+):\d+x\d+(?:x\d+)?(?::\d+)?", rest)):
        name = found[1].removeprefix("tpu")
        return on, {"profile": f"tpu-{'v7x' if name == '7x' else name}"}
    if kind == "gpu" and rest:
        name, _, shape = rest.rpartition(":") if re.search(r":\d+x\d+x\d+$", rest) else (rest, "", "1x1x1")
        return f"gpu:{shape}", _gpu(name, path)
    raise Refused(Problem(field="on", expected=FORMS, got=on))


def _gpu(name: str, path: Any) -> dict[str, Any]:
    """The fields of a GPU that its compiler wants, from a profile; Refused with every one that is missing."""
    fields = load.profile("chip", name, path=path).fields
    given = {
        "cores": (fields.cores, "core_count", 1.0),
        "microarch.vector_units": (fields.microarch.vector_units, "fpus_per_core", 1.0),
        "memory.bandwidth": (fields.memory.bandwidth, "memory_bandwidth", 1.0),
        "memory.capacity": (fields.memory.capacity, "device_memory_size", 1.0),
        "cache": (fields.cache, "l2_cache_size", 1.0),
        "clock": (fields.clock, "clock_rate_ghz", 1e-9),
        "microarch.shared_memory": (fields.microarch.shared_memory, "shared_memory_per_core", 1.0),
    }
    missing = [field for field, (quantity, _, _) in given.items() if quantity is None]
    missing += [] if fields.microarch.compute_capability else ["microarch.compute_capability"]
    if missing:
        hint = "only GPUs whose profile has these can be compiled for"
        raise Refused(*(Problem(field=f"{name}.{m}", expected="a value", got="nothing", hint=hint) for m in missing))
    chip = {word: quantity.value * scale for quantity, word, scale in given.values()}
    # A block may have all of a core's shared memory but 1 KiB, which the system keeps (CUDA C++ programming guide).
    chip["shared_memory_per_block_optin"] = chip["shared_memory_per_core"] - 1024.0
    return {
        "profile": name,
        "gpu": chip | {"name": fields.title, "compute_capability": fields.microarch.compute_capability},
    }


def _asked(options: Any, target: str, chip: Mapping[str, Any]) -> tuple[Model, Layout, tuple[str, ...]]:
    stack = STACKS.get(target.partition(":")[0], "jax")
    model, layout, assumed = of_options(options, chips=devices(target), stack=stack)
    if chip:
        peaks, wanted = load.profile("chip", chip["profile"], path=options.profile_path).fields.peak, layout.precision
        if getattr(peaks, TYPES[int(wanted.linear)], None) is None:
            expected = f"a type that {chip['profile']} has a peak of"
            raise Refused(Problem(field="layout.precision", expected=expected, got=wanted.name))
    kept = tuple(sentence for sentence in assumed if not sentence.startswith("sp="))
    if stack == "maxtext" and kept != assumed and layout.tp > 1:
        # It cuts the residual stream over the tensor axis as well, along the width; the sequence is as many bytes.
        layout, assumed = replace(layout, sp=1.0), (*kept, "sp=1: what flows between layers is cut over tp too")
    padded = load.padded(model, float(layout.tp), stack=stack, path=options.profile_path)
    return padded, layout, assumed


def devices(target: str) -> float:
    """How many devices a target has, as JAX counts them.

    >>> devices("tpu:v5p:8x8x16"), devices("tpu:v4:2x2x1"), devices("tpu:v5e:4x4:2")
    (1024.0, 8.0, 32.0)
    """
    kind, *rest = target.split(":")
    if kind == "cpu":
        return float(rest[0])
    sizes = rest[0] if kind == "gpu" else rest[1]
    count = 1.0
    for size in sizes.split("x"):
        count *= float(size)
    return count * cores(target) * (float(rest[2]) if kind == "tpu" and len(rest) > 2 else 1.0)


def cores(target: str) -> float:
    """Devices of a chip: those of some TPUs are its two cores."""
    kind, *rest = target.split(":")
    return 2.0 if kind == "tpu" and rest[0] in ("v2", "v3", "v4", "7x", "tpu7x") else 1.0


def _jobs(options: Any, target: str, chip: Mapping[str, Any]) -> tuple[list[dict[str, Any]], tuple[str, ...]]:
    """One job a program to compile, and what was assumed."""
    more: dict[str, Any] = {} if target.startswith("cpu") else {"texts": str(Path(TEXTS).expanduser())}
    if options.xla_flags:
        more["flags"] = options.xla_flags
    room = {}
    if chip:
        whole = load.profile("chip", chip["profile"], path=options.profile_path).fields.memory.capacity
        room = {} if whole is None else {"memory": whole.value / cores(target)}
    if "gpu" in chip:
        more["chip"] = chip["gpu"]
    if options.program:
        return [{"kind": "program", "program": options.program, "target": target, **more, **room}], ()
    model, layout, assumed = _asked(options, target, chip)
    length = int(options.seq_len or min(float(model.context) or 2048.0, 2048.0))
    if options.part == "step":
        return [step_job(model, layout, seq_len=length, target=target, **more)], assumed
    part = options.part or "layer"
    layers = range(len(model.kinds)) if part == "layer" else (0,)
    more |= {"block": options.block} if options.block else {}
    more |= {"part": part, "target": target, "budget_s": 0.0, **room}
    return [block_job(model, layout, seq_len=length, layer=layer, **more) for layer in layers], assumed


def told_of(
    outcome: workers.Outcome, job: Mapping[str, Any], chip: Mapping[str, Any], *, path: Any = None
) -> dict[str, Any]:
    """What became of a job, as a document says it; seconds from cycles where the compiler gave any."""
    answer = outcome.result or {}
    message = outcome.message
    if COLLECTIVE_FAILS in message + outcome.stderr:
        message = "the collectives of v5p and 7x need Python 3.12: its jax compiles them, and that of 3.11 does not"
    said = {
        "name": answer.get("name") or job.get("program") or job.get("part", "step"),
        "outcome": outcome.status,
        "message": message,
        "kind": answer.get("kind", "none"),
        **{key: answer.get(key) for key in ("device", "chips", "layers", "assumed", "digest", "versions")},
        "flags": {**bench.flags(), **kept.options(str(job.get("flags") or ""))},
        "check": answer.get("check"),
        "cache_failures": answer.get("cache_failures", []),
        "resident": answer.get("resident"),
        "seconds": outcome.seconds,
        "room": job.get("memory"),
        **scheduler.ended(vars(outcome)),
    }
    phases = answer.get("phases") or ({"step": answer} if answer else {})
    said["phases"] = {name: _phase(phase, chip, job, path) for name, phase in phases.items()}
    if any(phase["time"] is not None for phase in said["phases"].values()):
        said["kind"] = "compiler cycles"
    return said


def _phase(phase: Mapping[str, Any], chip: Mapping[str, Any], job: Mapping[str, Any], path: Any) -> dict[str, Any]:
    """One compiled program: time and where it comes from, FLOPs, bytes, memory by kind, collectives, fusions."""
    said: dict[str, Any] = {key: phase.get(key) for key in ("time", "flops", "bytes", "memory", "compile_s", "digest")}
    schedule = phase.get("schedule")
    if schedule is None:
        found = [{"times": 1.0, "collective": c["kind"], **c} for c in phase.get("collectives", ())]
        return said | {"collectives": _together(found)}
    rates = cycles.rates(chip["profile"], devices_a_chip=schedule["devices_a_chip"], path=path)
    priced = {rule: cycles.price(schedule, rates, rule=rule) for rule in cycles.RULES}
    found = priced["streams"]
    return said | {
        "time": found.time,
        "flops": max(found.flops, phase["flops"] or 0.0),  # the compiler counts a loop's body once
        "by": dict(found.parts),
        "hidden": found.hidden,
        "rules": {rule: one.time for rule, one in priced.items()},
        "fusions": {"with_products": found.fusions, "replaced": found.replaced},
        "unread_loops": schedule["unread"],
        "collectives": _together([row for row in schedule["rows"] if row["kind"] == "collective"]),
        "rows": sorted(found.rows, key=lambda row: -row["seconds"]),
    }


def _together(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Collectives of a kind and a group size together: how many a pass, and their bytes."""
    groups: dict[tuple, dict[str, Any]] = {}
    for row in rows:
        key = (row["collective"], row["size"], bool(row.get("hidden")))
        one = groups.setdefault(key, dict(zip(("kind", "group", "hidden"), key, strict=True), times=0.0, bytes=0.0))
        one["times"] += row["times"]
        one["bytes"] += row["times"] * row["bytes"]
    return list(groups.values())
