"""Elementwise functions that stay in NumPy until a JAX array appears.

The cost expression is written once against these. With NumPy or Python numbers it runs in float64 at once, with
nothing to compile; with JAX arrays or tracers the very same lines are jitted, differentiated and swept.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np


def _namespace(values):
    return jnp if any(isinstance(v, jax.Array) for v in values) else np


def _dispatch(name):
    def function(*values):
        return getattr(_namespace(values), name)(*values)

    function.__name__ = name
    function.__doc__ = f"`numpy.{name}`, or `jax.numpy.{name}` when an operand is a JAX array."
    return function


where = _dispatch("where")
minimum = _dispatch("minimum")
maximum = _dispatch("maximum")
sqrt = _dispatch("sqrt")
exp = _dispatch("exp")
log = _dispatch("log")
ceil = _dispatch("ceil")
floor = _dispatch("floor")
logical_and = _dispatch("logical_and")
logical_or = _dispatch("logical_or")


def at_least(value, bound):
    """The value, or the bound where that is larger: keeps a divisor away from zero."""
    return maximum(value, bound)


def always(leaf, value):
    """True where it is known, before anything is compiled, that a leaf is nothing but that value."""
    return isinstance(leaf, float | np.ndarray | np.generic) and bool(np.all(leaf == value))


def choose(code, options):
    """The option whose position is `code`: `choose(2.0, (a, b, c))` is `c`; a code beyond the last gives the last.

    Selects are written out instead of indexing, so that every operand keeps its natural shape and gradients flow.
    """
    chosen = options[-1]
    for position in range(len(options) - 2, -1, -1):
        if options[position] is chosen:
            continue
        chosen = where(code < position + 0.5, options[position], chosen)
    return chosen
