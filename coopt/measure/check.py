"""Whether a sharded block computes what the same block computes on one device: once for each candidate."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from coopt.measure.candidate import Candidate, backward, build, fill
from coopt.measure.compile import Compiled
from coopt.measure.formats import Formats
from coopt.spec.nouns import Layout, Model

# Relative error of the norm that rounding explains: about ten times what correct blocks show in each format.
TOLERANCE = {"float64": 1e-9, "float32": 2e-4, "bfloat16": 6e-2, "float16": 1e-2}
ROUTED = 4.0  # times as much where a router chooses: one token that goes elsewhere moves a whole row
DOUBLE = Formats(
    linear=jnp.dtype("float64"),
    attention=jnp.dtype("float64"),
    head=jnp.dtype("float64"),
    activation=jnp.dtype("float64"),
    weight=jnp.dtype("float64"),
    precision=jax.lax.Precision.HIGHEST,
)


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


def agreement(
    candidate: Candidate, compiled: Compiled, model: Model, layout: Layout, *, layer: int, seq_len: int, seed: int = 0
) -> Agreement:
    """Runs the compiled `counted` backward program once, and an unsharded reference on one device with equal values.

    The reference computes in float64. With a router it computes in the block's own formats: a token whose two best
    experts are closer than the rounding goes elsewhere in float64, which is no mistake.
    """
    found = _results(compiled.program, candidate, seed, counted=True)
    routed = candidate.part == "layer" and model.kinds[layer].feedforward == "moe"
    alone = dataclasses.replace(
        layout, tp=1.0, cp=1.0, dp=1.0, fsdp=1.0, ep=1.0, sp=0.0, micro_batch=layout.micro_batch * layout.dp
    )
    options = {"part": candidate.part, "layer": layer, "seq_len": seq_len}
    device = (candidate.mesh.devices.flat[0],)
    with jax.enable_x64(not routed):
        reference = build(model, alone, devices=device, formats=None if routed else DOUBLE, **options)
        function, arguments, _ = backward(reference)
        values = _arguments(reference, arguments, seed)
        expected = _leaves(jax.jit(function)(*values))
    formats = {str(leaf.dtype) for leaf in jax.tree.leaves((candidate.weights, candidate.output))}
    tolerance = max(TOLERANCE[name] for name in formats) * (ROUTED if routed else 1.0)
    return compare(found, expected, tolerance=tolerance, reference="own format" if routed else "float64")


def compare(
    found: dict[str, np.ndarray], expected: dict[str, np.ndarray], *, tolerance: float, reference: str
) -> Agreement:
    """The agreement of results by name; a result that is missing or too many is the caller's mistake (KeyError)."""
    errors = {path: _error(found[path], expected[path]) for path in sorted({*found, *expected})}
    where = max(errors, key=lambda path: np.inf if np.isnan(errors[path]) else errors[path])
    return Agreement(worst=errors[where], where=where, tolerance=tolerance, reference=reference)


def _arguments(candidate: Candidate, abstract: tuple, seed: int) -> tuple:
    return (fill(abstract[0], candidate, seed), *fill(tuple(abstract[1:]), candidate, seed + 1))


def _results(program, candidate: Candidate, seed: int, *, counted: bool) -> dict[str, np.ndarray]:
    _, abstract, _ = backward(candidate)
    values = _arguments(candidate, abstract, seed)
    out = program(*values, jnp.zeros((), jnp.int32))[0] if counted else program(*values)
    return _leaves(out)


def _leaves(tree) -> dict[str, np.ndarray]:
    return {
        jax.tree_util.keystr(path): np.asarray(jax.device_get(leaf)).astype(np.float64)
        for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]
    }


def _error(found: np.ndarray, expected: np.ndarray) -> float:
    size = float(np.linalg.norm(expected))
    difference = float(np.linalg.norm(found - expected))
    return difference / size if size > 0 else difference
