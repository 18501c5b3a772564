"""Whether a block computes what it says, against one device in float64."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from coopt.measure import flops
from coopt.measure.candidate import Candidate, backward, build, fill
from coopt.measure.compile import Compiled, memory_of
from coopt.measure.formats import Formats, formats_of
from coopt.spec.nouns import Layout, Model

# Relative error of the norm that rounding explains: about ten times what correct blocks show in each format.
TOLERANCE = {"float64": 1e-9, "float32": 2e-4, "bfloat16": 6e-2, "float16": 1e-2}
QUANTISED = {"int8": 0.1, "float8_e4m3fn": 0.2}  # the same where operands of products are rounded to 8 bits
NOTHING = {"float64": 1e-12, "float32": 1e-4}  # of the largest result: what a reference is off by its own rounding
ROUTED = 4.0  # times as much where a router chooses: one token that goes elsewhere moves a whole row
MOST = {"cpu": 2e11}  # FLOPs of a reference that is computed: about six seconds of two cores
MOST_ELSEWHERE = 2e13  # of other platforms
QUICK = {"xla_backend_optimization_level": 0, "xla_cpu_use_fusion_emitters": False}  # of XLA:CPU: 0.25 s, not 1.4


def exactly(name: str) -> Formats:
    """Everything in one type, with products as exact as it allows."""
    return Formats(*(jnp.dtype(name),) * 5, precision=jax.lax.Precision.HIGHEST)


DOUBLE = exactly("float64")


class Unaffordable(Exception):
    """No reference is computed: it says why."""


@dataclasses.dataclass(frozen=True)
class Agreement:
    """How far results lie from the reference, as the norm of the difference over the norm of the reference."""

    worst: float
    where: str  # the result that is worst
    tolerance: float
    reference: str  # its number format

    @property
    def agrees(self) -> bool:
        """Whether rounding explains the difference; NaN never agrees."""
        return self.worst <= self.tolerance


@dataclasses.dataclass(frozen=True)
class Reference:
    """A candidate's backward program on one device, in the formats that its results are held against."""

    candidate: Candidate
    program: jax.stages.Compiled
    exact: str  # float64 | float32 | own format
    tolerance: float

    def results(self, seed: int) -> dict[str, np.ndarray]:
        """Its output and gradients on the values of a seed."""
        with jax.enable_x64(self.exact == "float64"):
            return _leaves(self.program(*_arguments(self.candidate, seed)))


def reference_of(
    candidate: Candidate, model: Model, layout: Layout, *, layer: int, seq_len: int, available: float = np.inf
) -> Reference:
    """Compiles an unsharded reference; nothing runs.

    It computes in float64, on a TPU, which has none, in exact float32. With a router it computes in the block's own
    formats: a token whose two best experts are closer than the rounding goes elsewhere in float64, which is no mistake.

    Args:
      available: bytes that the reference may take.

    Raises:
      Unaffordable: the reference takes too many FLOPs, or more memory than there is.
    """
    device = (candidate.mesh.devices.flat[0],)
    routed = candidate.part == "layer" and model.kinds[layer].feedforward == "moe"
    if routed and candidate.mesh.size == 1:
        raise Unaffordable("the reference of a routed block, in its own formats on one device, is the block")
    same = {"micro_batch": layout.micro_batch * layout.dp, "recompute": 0.0}
    alone = dataclasses.replace(layout, tp=1.0, cp=1.0, dp=1.0, fsdp=1.0, ep=1.0, sp=0.0, **same)
    options = {"part": candidate.part, "layer": layer, "seq_len": seq_len}
    exact = "own format" if routed else "float32" if device[0].platform == "tpu" else "float64"
    with jax.enable_x64(exact == "float64"):
        reference = build(model, alone, devices=device, formats=None if routed else exactly(exact), **options)
        function, arguments, _ = backward(reference)
        traced = jax.jit(function).trace(*arguments)
        work = flops.of(traced.jaxpr.jaxpr)
        if work > MOST.get(device[0].platform, MOST_ELSEWHERE):
            raise Unaffordable(f"a reference of {work:.2g} FLOPs takes too long here")
        program = _quickly(traced.lower(), device[0].platform)
    wanted = memory_of(program.memory_analysis()).get("total", 0.0)
    if wanted > available:
        raise Unaffordable(f"a reference of {wanted:.3g} B does not fit into {available:.3g} B")
    formats = {str(leaf.dtype) for leaf in jax.tree.leaves((candidate.weights, candidate.output))}
    quantised = formats_of(layout.precision).quantised
    tolerance = QUANTISED[str(quantised)] if quantised and not routed else max(TOLERANCE[name] for name in formats)
    return Reference(reference, program, exact, tolerance * (ROUTED if routed else 1.0))


def _quickly(lowered: jax.stages.Lowered, platform: str) -> jax.stages.Compiled:
    """Compiled as fast as can be: a reference runs once, so that a fifth of the compiling pays for a slower run."""
    if platform != "cpu":
        return lowered.compile()
    try:
        return lowered.compile(compiler_options=QUICK)
    except jax.errors.JaxRuntimeError:  # a version of the compiler that has no such options
        return lowered.compile()


def agreement(candidate: Candidate, compiled: Compiled, reference: Reference, *, seed: int = 0) -> Agreement:
    """Runs the compiled `counted` backward program of a candidate once, and its reference, with equal values."""
    found = _leaves(compiled.program(*_arguments(candidate, seed), jnp.zeros((), jnp.int32))[0])
    return compare(found, reference.results(seed), tolerance=reference.tolerance, reference=reference.exact)


def compare(
    found: dict[str, np.ndarray], expected: dict[str, np.ndarray], *, tolerance: float, reference: str
) -> Agreement:
    """The agreement of results by name; a result that is missing or too many is the caller's mistake (KeyError).

    What is nothing but rounding in the reference, as the gradient of a key's bias is, which softmax does not see, is
    compared with the largest of the other results, element by element: it has no size of its own.
    """
    largest = max((_element(value) for value in expected.values()), default=0.0)
    nothing = NOTHING.get(reference, 0.0) * largest
    errors = {}
    for path in sorted({*found, *expected}):
        own = _element(expected[path])
        off = _element(found[path] - expected[path])
        errors[path] = off / (own if own > nothing else largest) if largest > 0 else off
    where = max(errors, key=lambda path: np.inf if np.isnan(errors[path]) else errors[path])
    return Agreement(worst=errors[where], where=where, tolerance=tolerance, reference=reference)


def _arguments(candidate: Candidate, seed: int) -> tuple:
    _, abstract, _ = backward(candidate)
    return (fill(abstract[0], candidate, seed), *fill(tuple(abstract[1:]), candidate, seed + 1))


def _leaves(tree) -> dict[str, np.ndarray]:
    return {
        jax.tree_util.keystr(path): np.asarray(jax.device_get(leaf)).astype(np.float64)
        for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]
    }


def _element(value: np.ndarray) -> float:
    """Root mean square of the elements."""
    return float(np.linalg.norm(value)) / max(1, value.size) ** 0.5
