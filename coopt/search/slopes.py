"""Derivatives of a recorded expression by reading it backwards: exact, in NumPy, with nothing to compile."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from coopt.search.terms import Tape, Term


def _larger(a, b, _):
    return (a > b) + 0.5 * (a == b), (b > a) + 0.5 * (a == b)


# For each operation, from its operands and its result, the derivative toward each operand. What is not named is flat
# (comparisons, rounding); where two sides of a maximum are equal, each has half, as in JAX.
SLOPES: dict[str, Callable[..., tuple]] = {
    "add": lambda a, b, y: (1.0, 1.0),
    "subtract": lambda a, b, y: (1.0, -1.0),
    "multiply": lambda a, b, y: (b, a),
    "divide": lambda a, b, y: (1.0 / b, -y / b),
    "power": lambda a, b, y: (b * a ** (b - 1.0), y * np.log(a)),
    "maximum": _larger,
    "minimum": lambda a, b, y: _larger(b, a, y),
    "where": lambda c, a, b, y: (0.0, np.where(c, 1.0, 0.0), np.where(c, 0.0, 1.0)),
    "sqrt": lambda a, y: (0.5 / y,),
    "log": lambda a, y: (1.0 / a,),
    "exp": lambda a, y: (y,),
    "negative": lambda a, y: (-1.0,),
    "absolute": lambda a, y: (np.sign(a),),
}


def gradient(tape: Tape, result: Term | float) -> tuple[float, list[float]]:
    """The value of a result recorded on scalars, and its derivative toward each of the tape's inputs, in order.

    >>> tape = Tape()
    >>> x, y = tape.term(3.0), tape.term(4.0)
    >>> gradient(tape, x * y + y)
    (16.0, [4.0, 4.0])
    """
    if not isinstance(result, Term):
        return float(result), [0.0] * len(tape.inputs)
    found: dict[Any, Any] = {("input", i): value[()] for i, value in enumerate(tape.inputs)}

    def value(operand: Any) -> Any:
        return found[operand] if isinstance(operand, tuple) else operand

    with np.errstate(all="ignore"):
        for i, (name, operands) in enumerate(tape.nodes):
            found["node", i] = getattr(np, name)(*(value(one) for one in operands))
    nodes = [(("node", i), name, operands) for i, (name, operands) in enumerate(tape.nodes)]
    weights = backwards(nodes, value, {result.place: 1.0})
    return float(found[result.place]), [float(weights.get(("input", i), 0.0)) for i in range(len(tape.inputs))]


def backwards(nodes: Sequence[tuple], value: Callable[[Any], Any], weights: dict[Any, Any]) -> dict[Any, Any]:
    """What the sum of `weights` x places changes by when a place does: `{place: array}`, from that of some results.

    `nodes` are `(place, operation, operands)` in order. A weight of zero times an infinite slope is zero: what does not
    matter has no derivative.
    """
    with np.errstate(all="ignore"):
        for place, name, operands in reversed(nodes):
            weight = weights.get(place)
            if weight is None or name not in SLOPES or not np.any(weight):
                continue
            for one, slope in zip(operands, SLOPES[name](*map(value, operands), value(place)), strict=True):
                if isinstance(one, int | tuple):
                    weights[one] = weights.get(one, 0.0) + np.where(weight == 0.0, 0.0, weight * slope)
    return weights
