"""FLOPs of a function's matrix products, from its own trace: for compilers that count none."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
from jax.extend import core

# Products of cuDNN's kernels of attention, by JAX's names: scores and values; backward, scores again and four more.
ATTENTION = {"dot_product_attention_fwd_wrapper": 2.0, "dot_product_attention_bwd_wrapper": 5.0}


def products(function: Callable, arguments: tuple) -> float:
    """2 b m n k over all products of a function on these arguments, over all devices together; loops in full.

    >>> a = jax.ShapeDtypeStruct((4, 8), "float32")
    >>> products(lambda x: jax.lax.scan(lambda c, _: (c @ c.T @ c, None), x, length=3)[0], (a,))
    1536.0
    """
    return of(jax.make_jaxpr(function)(*arguments).jaxpr)


def of(jaxpr: Any) -> float:
    """The same of a function that is traced already."""
    total = 0.0
    for one in jaxpr.eqns:
        name, times = one.primitive.name, 1.0
        if name == "dot_general":
            ((contracted, _), _) = one.params["dimension_numbers"]
            left = one.invars[0].aval.shape
            total += 2.0 * math.prod(one.outvars[0].aval.shape) * math.prod(left[axis] for axis in contracted)
            continue
        if name in ATTENTION:  # operands are (batch, sequence, heads, size); the whole square of scores, as written out
            (batch, length, heads, size), keys = one.invars[0].aval.shape, one.invars[1].aval.shape[1]
            total += ATTENTION[name] * 2.0 * batch * heads * length * keys * size
            continue
        if name == "scan":
            times = float(one.params["length"])
        elif name == "shard_map":
            times = float(one.params["mesh"].size)
        inner = [of(part) for part in _parts(one.params)]
        total += times * (max(inner, default=0.0) if name == "cond" else math.fsum(inner))
    return total


def _parts(params: dict[str, Any]) -> Iterator[Any]:
    for value in params.values():
        for part in value if isinstance(value, tuple | list) else (value,):
            if isinstance(part, core.ClosedJaxpr):
                yield part.jaxpr
            elif isinstance(part, core.Jaxpr):
                yield part
