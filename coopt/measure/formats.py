"""Number formats of a precision recipe as JAX types."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from coopt.problems import Problem, Refused
from coopt.spec.nouns import TYPES, Precision

DTYPES = {"fp32": jnp.float32, "tf32": jnp.float32, "bf16": jnp.bfloat16, "fp16": jnp.float16}
QUANTISED = {"int8": jnp.int8, "fp8": jnp.float8_e4m3fn}  # products with weights alone, from operands in bf16


@dataclasses.dataclass(frozen=True)
class Formats:
    """What a block computes in and keeps."""

    linear: jnp.dtype
    attention: jnp.dtype
    head: jnp.dtype
    activation: jnp.dtype
    weight: jnp.dtype
    precision: jax.lax.Precision  # of float32 products: HIGHEST is true float32, DEFAULT what the device does at speed
    quantised: jnp.dtype | None = None  # what operands of products with weights are scaled to, where they are


def formats_of(recipe: Precision) -> Formats:
    """The JAX types of a recipe; refuses, by name, the formats for which no block is built."""
    names = {f: TYPES[int(getattr(recipe, f))] for f in ("linear", "attention", "head")}
    built = {"linear": (*DTYPES, *QUANTISED), "attention": tuple(DTYPES), "head": tuple(DTYPES)}
    problems = [
        Problem(field=f"layout.precision.{field}", expected=f"one of {', '.join(built[field])}", got=name, hint=_HINT)
        for field, name in names.items()
        if name not in built[field]
    ]
    if problems:
        raise Refused(*problems)
    quantised = QUANTISED.get(names["linear"])
    linear = jnp.dtype(DTYPES["bf16" if quantised else names["linear"]])
    return Formats(
        linear=linear,
        attention=jnp.dtype(DTYPES[names["attention"]]),
        head=jnp.dtype(DTYPES[names["head"]]),
        activation=_of_size(float(recipe.activation), linear, "activation"),
        weight=_of_size(float(recipe.weight), linear, "weight"),
        precision=jax.lax.Precision.HIGHEST if names["linear"] == "fp32" else jax.lax.Precision.DEFAULT,
        quantised=jnp.dtype(quantised) if quantised else None,
    )


def emulated(formats: Formats, platform: str) -> tuple[str, ...]:
    """A sentence where a platform has no products of the type that a recipe asks for, and computes them otherwise.

    >>> from coopt.spec.nouns import PRECISIONS
    >>> emulated(formats_of(PRECISIONS["fp8"]), "cpu"), emulated(formats_of(PRECISIONS["int8"]), "cpu")
    (('products of float8_e4m3fn are computed in a wider type: CPUs have none',), ())
    """
    whole = formats.quantised is None or jnp.issubdtype(formats.quantised, jnp.integer)
    if platform != "cpu" or whole:
        return ()
    return (f"products of {formats.quantised} are computed in a wider type: CPUs have none",)


_HINT = "blocks in this format are not built; measure in bf16 and let calibration scale it"


def _of_size(size: float, linear: jnp.dtype, field: str) -> jnp.dtype:
    if size == 4.0:
        return jnp.dtype(jnp.float32)
    if size == 2.0:
        return linear if linear.itemsize == 2 else jnp.dtype(jnp.bfloat16)
    raise Refused(
        Problem(field=f"layout.precision.{field}", expected="4 or 2 bytes an element", got=f"{size:g}", hint=_HINT)
    )
