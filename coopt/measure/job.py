"""The door: `run_job` takes a JSON job and answers with a JSON measurement.

    block    one part of a model, forward and backward: time, memory, FLOPs, collectives
    program  a function of the user's own: see `coopt.measure.program`
    host     rates of this machine: products, memory, dispatch
    step     a whole training step on a TPU slice that is not attached: memory, FLOPs, and its schedule
    products    cycles of products compiled alone for a TPU that is not attached
    sweep    a row for each of many single operations
    train    losses and step times of a small model

`FIELDS` lists the fields of each kind; `coopt.measure.jobs.block_job` writes a block job from the nouns.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import math
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp

from coopt.measure import (
    alone,
    clock,
    compile,
    cycles,
    energy,
    flops,
    host,
    kept,
    program,
    step,
    sweep,
    topology,
    train,
)
from coopt.measure import candidate as candidates
from coopt.measure.check import Unaffordable, agreement, reference_of
from coopt.measure.formats import emulated, formats_of
from coopt.measure.jobs import layout_of, model_of, real, whole
from coopt.measure.weights import parameters
from coopt.problems import Problem, Refused
from coopt.store.identity import finite

Report = Callable[[str], None]
STORES = (logging.getLogger("coopt.store.cache"), logging.getLogger(kept.__name__))  # of files damaged, or disks full
COUNT = jax.ShapeDtypeStruct((), jnp.int32)
FIELDS = {  # beside `kind`
    "block": "model layout seq_len part layer block target budget_s attempts check peak_flops chip memory seed texts "
    "flags energy cache",
    "program": "program target budget_s attempts peak_flops chip memory seed texts flags cache",
    "host": "budget_s cache",
    "step": "model layout seq_len layers target texts flags cache",
    "products": "target sizes elementwise texts cache",
    "sweep": "points budget_s precision seed target cache",
    "train": "model seq_len batch steps learning_rate seed file precision recompute cache",
}


def run_job(job: dict, report: Report = lambda phase: None) -> dict:
    """Runs one job and returns its measurement as plain JSON values; `report` hears the name of each phase.

    Raises:
      Refused: the job says something that cannot be done, with every reason.
    """
    kind = job.get("kind")
    if kind not in FIELDS:
        raise Refused(Problem(field="kind", expected=f"one of {', '.join(FIELDS)}", got=repr(kind)[:40]))
    unknown = set(job) - {"kind", *FIELDS[kind].split()}
    if unknown:
        hint = f"fields of a {kind} job: {FIELDS[kind]}"
        raise Refused(*(Problem(field=name, expected="a known field", got=name, hint=hint) for name in sorted(unknown)))
    if job.get("cache"):
        jax.config.update("jax_compilation_cache_dir", str(job["cache"]))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
        jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    run = {
        "block": _block,
        "program": program.program_job,
        "host": host.profile_job,
        "products": alone.products_job,
        "step": step.step_job,
        "sweep": sweep.sweep_job,
        "train": train.train_job,
    }[kind]
    # The same blocks in every process, also in one that computes in float64 for its own purposes; a user's own program
    # has the types that its author gave it.
    with contextlib.nullcontext() if kind == "program" else jax.enable_x64(False), _cache_failures() as failed:
        answer = run(job, report)
    return finite({"versions": compile.toolchain()} | answer | ({"cache_failures": failed} if failed else {}))


@contextlib.contextmanager
def _cache_failures() -> Iterator[list[str]]:
    """What a cache (JAX's of programs, the store's, the shelf) could not read or write: it warns and is slower."""
    failed: list[str] = []
    told = logging.Handler(logging.WARNING)
    told.emit = lambda record: failed.append(record.getMessage()[:200])
    show = warnings.showwarning

    def keep(message, *rest: Any, **more: Any) -> None:
        if "persistent compilation cache" in str(message):
            failed.append(" ".join(str(message).split())[:200])
        else:
            show(message, *rest, **more)

    with warnings.catch_warnings():
        warnings.filterwarnings("always", ".*persistent compilation cache.*")
        warnings.showwarning = keep
        for store in STORES:
            store.addHandler(told)
        try:
            yield failed
        finally:
            for store in STORES:
                store.removeHandler(told)


def _block(job: dict, report: Report) -> dict:
    report("build")
    model, layout = model_of(job.get("model")), layout_of(job.get("layout", {}))
    part, layer, seq_len = job.get("part", "layer"), whole(job, "layer", 0), whole(job, "seq_len")
    target = topology.acquire(str(job.get("target", "local")), chip=job.get("chip"))
    own = str(job.get("block") or "")
    built = candidates.build(model, layout, part=part, layer=layer, seq_len=seq_len, devices=target.devices, own=own)
    # What runs here is compiled here: of what is read, there is no program.
    folder = None if target.runs else job.get("texts")
    shelf = kept.shelf_of({**job, "texts": folder}, target.name, compile.toolchain())
    compiled = {}
    for name, made in (("forward", candidates.forward), ("forward_backward", candidates.backward)):
        function, arguments, places = made(built)
        compiled[name] = compile.compile_program(
            clock.counted(function), (*arguments, COUNT), out_shardings=(places, None), shelf=shelf, report=report
        )
    device = target.devices[0]
    answer = {
        "name": own or (f"{part} {layer}" if part == "layer" else part),
        "outcome": "ok",
        "message": "",
        "kind": "none",
        "target": target.name,
        "device": device.device_kind,
        "platform": target.platform,
        "chips": built.mesh.size,
        "parameters": parameters(built.weights),
        "tokens": math.prod(built.inputs[0].shape[:2]),
        "assumed": [*built.assumed, *emulated(formats_of(layout.precision), target.platform)],
        "phases": {name: compile.said(one) for name, one in compiled.items()},
    }
    both = compiled["forward_backward"]
    if target.platform == "gpu" or math.isnan(both.flops):  # XLA counts none that a GPU's libraries do
        for name, made in (("forward", candidates.forward), ("forward_backward", candidates.backward)):
            function, arguments, _ = made(built)
            answer["phases"][name]["flops"] = flops.products(function, arguments) / built.mesh.size
    answer["resident"] = max(one.resident for one in compiled.values())
    answer |= {"flops": answer["phases"]["forward_backward"]["flops"], "bytes": both.bytes, "digest": both.digest}
    answer["memory"] = both.memory.get("total", math.nan)
    available = host.room(device, job) if target.runs else real(job, "memory", 0.0) or math.nan
    if short := host.lacking(answer["memory"], available):
        return answer | short
    if target.platform == "tpu" and not target.runs:
        places = list(built.mesh.devices.flat)
        for name, one in compiled.items():
            answer["phases"][name]["schedule"] = cycles.described(
                one.text, places, folder=job.get("texts"), report=report
            )
    if not target.runs:
        return answer
    timed = real(job, "budget_s", 1.0) > 0
    if not own and job.get("check", timed or built.mesh.size > 1):
        report("check")
        answer |= _checked(built, both, job, available)
    return answer if answer["outcome"] != "ok" or not timed else _timed(answer, job, built, compiled, report)


def _checked(built: candidates.Candidate, both: compile.Compiled, job: dict, available: float) -> dict:
    """What the answer says of the check: how far the results lie from a reference, or why none was computed."""
    options = {"layer": whole(job, "layer", 0), "seq_len": whole(job, "seq_len"), "available": available}
    try:
        reference = reference_of(built, model_of(job["model"]), layout_of(job.get("layout", {})), **options)
    except Unaffordable as why:
        return {"check": {"skipped": str(why)}}
    agreed = agreement(built, both, reference, seed=whole(job, "seed", 0))
    said = {"check": dataclasses.asdict(agreed)}
    if agreed.agrees:
        return said
    message = f"{agreed.where} differs from the {agreed.reference} reference by {agreed.worst:.2g} of its norm"
    return said | {"outcome": "wrong-result", "message": message}


def _timed(answer: dict, job: dict, built: candidates.Candidate, compiled: dict, report: Report) -> dict:
    """The answer with times: forward, and forward with backward, share the budget 1 to 2."""
    if job.get("target", "local").startswith("cpu:") and built.mesh.size > 1:
        answer["message"] = "times on fake devices show that the program runs, nothing more"
    budget, attempts, seed = real(job, "budget_s", 1.0), whole(job, "attempts", 1), whole(job, "seed", 0)
    peak = real(job, "peak_flops", 0.0) or math.nan
    report("warm")
    floor = clock.dispatch_floor()
    _, abstract, _ = candidates.backward(built)
    weights = candidates.fill(abstract[0], built, seed)
    inputs = candidates.fill(tuple(abstract[1:]), built, seed + 1)
    zero = jnp.zeros((), jnp.int32)
    timings = {}
    for name, share, used in (("forward", 1 / 3, inputs[:-1]), ("forward_backward", 2 / 3, inputs)):
        report(name)
        timer = clock.repeat(compiled[name].program, (weights, *used), zero)
        timing, seen = clock.timed(timer, budget_s=budget * share, floor=floor, attempts=attempts)
        extra = clock.doubtful(compiled[name].flops, timing.time, peak=peak)
        timings[name] = dataclasses.replace(timing, flags=(*timing.flags, *extra))
        if job.get("energy"):
            answer["phases"][name]["energy"] = energy.spent(timer, timing.time, energy.board())
        answer["phases"][name] |= dataclasses.asdict(timings[name]) | {"scopes": seen.scopes()}
    one, both = timings["forward"], timings["forward_backward"]
    # Two independent intervals: their widths add as squares.
    half = math.hypot((one.high - one.low) / 2, (both.high - both.low) / 2)
    behind = both.time - one.time
    answer["phases"]["backward"] = {"time": behind, "low": behind - half, "high": behind + half}
    answer |= {name: getattr(both, name) for name in ("time", "low", "high", "spread", "kind", "floor")}
    flags = [f"{name}: {flag}" for name, timing in timings.items() for flag in timing.flags]
    answer["flags"] = flags
    return answer | clock.verdict(flags)
