"""A program of the user's own, any function that JAX can compile, timed as blocks are.

The contract: `package.module:function` names a function which returns `(step, arguments)`. It takes nothing, or the
devices of the target, of which it makes its mesh.

    step        what is timed; jitted or not, Flax or not
    arguments   the tuple it is called with: arrays, or `jax.ShapeDtypeStruct` (with shardings or without), in any tree

    def train():
        state = jax.eval_shape(create_state)
        return jax.jit(train_step, donate_argnums=0), (state, jax.ShapeDtypeStruct((8, 1025), jnp.int32))

Arrays that are not given are made: normal numbers, integers zero. A step that donates arguments is called with its own
results in their place, as a training loop does; every other is chained through a counter. Either way no repetition can
start before the one before it has ended.

For a target that is not attached the step is compiled alone, and says its memory, FLOPs, collectives and, of a TPU, its
schedule. A function that takes no devices is compiled for one of them.
"""

from __future__ import annotations

import dataclasses
import inspect
import math
import warnings
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from coopt.measure import clock, compile, cycles, flops, host, kept, topology
from coopt.measure.jobs import real, whole
from coopt.measure.weights import drawn
from coopt.problems import Problem, Refused
from coopt.workers.child import resolve

COUNT = jax.ShapeDtypeStruct((), jnp.int32)


def program_job(job: dict, report: Callable[[str], None]) -> dict:
    """A `program` job: the answer of a block job, with one phase, `step`."""
    name = str(job.get("program", ""))
    report("build")
    target = topology.acquire(str(job.get("target", "local")), chip=job.get("chip"))
    step, arguments = _built(name, target)
    places = _devices(arguments) or target.devices[:1]
    jitted = step if hasattr(step, "lower") else jax.jit(step)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Some donated buffers")  # refused below, in a sentence
        donated = _donated(jitted.lower(*arguments))
    folder = None if target.runs else job.get("texts")  # what runs is compiled here: of what is read is no program
    shelf = kept.shelf_of({**job, "texts": folder}, target.name, compile.toolchain())
    compiled = compile.compile_program(
        clock.counted(jitted), (*arguments, COUNT), donate=tuple(donated), shelf=shelf, report=report
    )
    device = target.devices[0]
    said = compile.said(compiled)
    if target.platform == "gpu" or math.isnan(compiled.flops):  # XLA counts none that a GPU's libraries do
        said["flops"] = flops.products(jitted, arguments) / len(places)
    if target.platform == "tpu" and not target.runs:
        said["schedule"] = cycles.described(compiled.text, places, folder=folder, report=report)
    answer: dict[str, Any] = {
        "name": name,
        "outcome": "ok",
        "message": "",
        "kind": "none",
        "target": target.name,
        "device": device.device_kind,
        "platform": target.platform,
        "chips": len(places),
        "donated": sorted(donated),
        "flops": said["flops"],
        "bytes": compiled.bytes,
        "memory": compiled.memory.get("total", float("nan")),
        "resident": compiled.resident,
        "digest": compiled.digest,
        "phases": {"step": said},
    }
    available = host.room(device, job) if target.runs else real(job, "memory", 0.0) or math.nan
    if lacking := host.lacking(answer["memory"], available):
        return answer | lacking
    return _timed(answer, job, compiled, arguments, donated, report) if target.timed else answer


def _timed(
    answer: dict, job: dict, compiled: compile.Compiled, arguments: tuple, donated: dict[int, int], report: Callable
) -> dict:
    report("warm")
    floor = clock.dispatch_floor()
    values, assumed = _filled(arguments, whole(job, "seed", 0))
    answer |= {"assumed": assumed, "unused": host.unused(answer["platform"])}
    zero = jnp.zeros((), jnp.int32)
    timer = _carried(compiled.program, values, donated) if donated else clock.repeat(compiled.program, values, zero)
    report("step")
    timing, seen = clock.timed(
        timer, budget_s=real(job, "budget_s", 2.0), floor=floor, attempts=whole(job, "attempts", 1)
    )
    extra = clock.doubtful(compiled.flops, timing.time, peak=real(job, "peak_flops", 0.0) or float("nan"))
    timing = dataclasses.replace(timing, flags=(*timing.flags, *extra))
    answer["phases"]["step"] |= dataclasses.asdict(timing) | {"scopes": seen.scopes()}
    answer |= {name: getattr(timing, name) for name in ("time", "low", "high", "spread", "kind", "floor")}
    return answer | {"flags": list(timing.flags)} | clock.verdict(timing.flags)


def _built(name: str, target: topology.Target) -> tuple[Callable, tuple]:
    """The step and its arguments; on a target that is not attached, abstract ones that know where they lie."""
    function = resolve(name)
    cut = bool(inspect.signature(function).parameters)
    made = function(target.devices) if cut else function()
    good = isinstance(made, tuple | list) and len(made) == 2 and callable(made[0]) and isinstance(made[1], tuple | list)
    if not good:
        said = f"a {type(made).__name__}" + (f" of {len(made)}" if isinstance(made, tuple | list) else "")
        hint = "return (step, arguments): a function, and the tuple of arrays or jax.ShapeDtypeStruct it is called with"
        raise Refused(Problem(field="program", expected=f"two things from {name}()", got=said, hint=hint))
    step, arguments = made[0], tuple(made[1])
    if target.runs:
        return step, arguments
    places = set(_devices(arguments))
    if cut and not (places and places <= set(target.devices)):
        expected = "arguments that lie on the devices which the function is given"
        hint = "jax.ShapeDtypeStruct(shape, dtype, sharding=NamedSharding(mesh, spec)), with a Mesh of those devices"
        raise Refused(Problem(field="program", expected=expected, got="shapes without a place there", hint=hint))
    if not cut and len(places) > 1:
        hint = f"let {name}(devices) make its mesh of the devices that it is given"
        got = f"arguments on {len(places)} devices of this machine"
        raise Refused(Problem(field="program", expected=f"arguments for {target.name}", got=got, hint=hint))
    return step, arguments if cut else _placed(arguments, target.devices[0])


def _devices(arguments: tuple) -> tuple:
    """The devices that arguments lie on, in the order of their mesh; none where none says."""
    shardings = [s for leaf in jax.tree.leaves(arguments) if (s := getattr(leaf, "sharding", None)) is not None]
    most = max(shardings, key=lambda sharding: len(sharding.device_set), default=None)
    if most is None:
        return ()
    mesh = most.mesh if isinstance(most, NamedSharding) else None
    return tuple(most.device_set) if mesh is None or mesh.devices is None else tuple(mesh.devices.flat)


def _placed(arguments: tuple, device: Any) -> tuple:
    """The shapes of arguments, on one device."""
    where = NamedSharding(Mesh(np.array([device]), ("chip",)), PartitionSpec())
    shapes = jax.eval_shape(lambda *given: given, *arguments)
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where), shapes)


def _donated(lowered: Any) -> dict[int, int]:
    """For each donated argument, the result that takes its place: the first of the same tree of shapes."""
    given, _ = lowered.args_info
    wanted = [i for i, info in enumerate(given) if any(leaf.donated for leaf in jax.tree.leaves(info))]
    out = lowered.out_info
    results = list(out) if isinstance(out, tuple | list) else [out]
    places: dict[int, int] = {}
    for i in wanted:
        same = (
            j for j, found in enumerate(results) if j not in places.values() and _shapes(found) == _shapes(given[i])
        )
        if (j := next(same, None)) is None:
            hint = "return it with the same tree of shapes and types, or do not donate it"
            got = f"argument {i} is donated and no result has its shapes"
            raise Refused(Problem(field="program", expected="a step whose state goes round", got=got, hint=hint))
        places[i] = j
    return places


def _shapes(tree: Any) -> tuple:
    leaves, structure = jax.tree.flatten(tree)
    return structure, [(leaf.shape, str(leaf.dtype)) for leaf in leaves]


def _carried(program: Callable, arguments: tuple, places: dict[int, int]) -> Callable[[int], float]:
    """A timer for `clock.timed` that feeds donated arguments with the results of the call before."""
    held = list(arguments)

    def once(*given: Any) -> tuple[Any, jax.Array]:
        *inputs, count = given
        for i in places:
            inputs[i] = held[i]
        out, count = program(*inputs, count)
        results = list(out) if isinstance(out, tuple | list) else [out]
        for i, j in places.items():
            held[i] = results[j]
        return out, count

    return clock.repeat(once, arguments, jnp.zeros((), jnp.int32))


def _filled(arguments: tuple, seed: int) -> tuple[tuple, list[str]]:
    """The arguments with arrays in place of shapes, and what was assumed of them."""
    generator = np.random.default_rng(seed)
    made = []

    def fill(leaf: Any) -> Any:
        if not isinstance(leaf, jax.ShapeDtypeStruct):
            return leaf
        made.append(leaf)
        if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            value = jax.random.split(jax.random.key(seed), leaf.shape)
        elif jnp.issubdtype(leaf.dtype, jnp.floating):
            value = drawn(leaf.shape, leaf.dtype, generator, deviation=0.02)
        else:
            value = np.zeros(leaf.shape, leaf.dtype)
        return value if leaf.sharding is None else jax.device_put(value, leaf.sharding)

    values = tuple(jax.tree.map(fill, argument) for argument in arguments)
    said = ["arrays that were given as shapes are normal numbers of deviation 0.02, and integers zero"] if made else []
    return jax.tree.map(jnp.asarray, values), said
