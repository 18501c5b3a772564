"""Arrays that compute at once while they are small and go on a tape when they grow: the expression, staged.

A lattice shares work because a term that depends on three axes is computed on three axes. Handed over whole, a
compiler fuses those small terms into the large loops and computes them there again for every candidate. So the
expression is run on `Term`s: what few axes decide is NumPy's, at once, thousands of operations with nothing to compile;
what is left, some hundred operations that most axes touch, is recorded and compiled (`programs.py`).
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from numpy.lib.mixins import NDArrayOperatorsMixin

Place = tuple[str, int]  # ("input" | "node", position)
Operand = Place | bool | int


@dataclasses.dataclass(eq=False)
class Tape:
    """What was recorded: inputs with their values, and nodes `(operation, operands, shape)`; `limit` is how many
    elements along all axes but the last a term may have and still be computed at once (-1: record everything).
    """

    limit: int
    inputs: list[np.ndarray] = dataclasses.field(default_factory=list)
    nodes: list[tuple[str, tuple, tuple[int, ...]]] = dataclasses.field(default_factory=list)
    shapes: dict[tuple, tuple[tuple[int, ...], int]] = dataclasses.field(default_factory=dict)
    known: dict[tuple, Term] = dataclasses.field(default_factory=dict)
    numbers: dict[int, tuple[Any, Place]] = dataclasses.field(default_factory=dict)  # by identity, kept alive

    def term(self, value: Any) -> Term:
        """A term that has its value."""
        return Term(self, np.shape(value), value=value)

    def apply(self, name: str, function: Any, operands: tuple) -> Term:
        """One operation: computed where every operand has a value and the result is small, recorded otherwise."""
        key = tuple(operand.shape if isinstance(operand, Term) else () for operand in operands)
        shape, extent = self.shapes.get(key) or self._broadcast(key)
        if extent <= self.limit:  # the result is no smaller than any operand, so all of them have values
            return Term(self, shape, value=function(*(o.value if isinstance(o, Term) else o for o in operands)))
        places = tuple(self.place(operand) for operand in operands)
        if (name, places) not in self.known:
            self.known[name, places] = Term(self, shape, place=("node", len(self.nodes)))
            self.nodes.append((name, places, shape))
        return self.known[name, places]

    def place(self, operand: Any) -> Operand:
        """Where a compiled program finds an operand. Floats become inputs, so that a number never causes a
        compilation; whole numbers written in the code stay what they are.
        """
        if isinstance(operand, bool | int):
            return operand
        if isinstance(operand, Term):
            operand.place = operand.place or self._input(operand.value)
            return operand.place
        if id(operand) not in self.numbers:
            self.numbers[id(operand)] = operand, self._input(operand)
        return self.numbers[id(operand)][1]

    def _input(self, value: Any) -> Place:
        self.inputs.append(np.asarray(value))
        return "input", len(self.inputs) - 1

    def _broadcast(self, key: tuple) -> tuple[tuple[int, ...], int]:
        shape = np.broadcast_shapes(*key)
        extent = int(np.prod(shape[:-1])) if shape else 0
        self.shapes[key] = shape, extent
        return shape, extent


class Term(NDArrayOperatorsMixin):
    """An array on a tape, by NumPy's protocols: it has a `value`, or a `place` among what was recorded, or both."""

    __slots__ = ("place", "shape", "tape", "value")

    def __init__(self, tape: Tape, shape: tuple[int, ...], *, value: Any = None, place: Place | None = None):
        self.tape, self.shape, self.value, self.place = tape, shape, value, place

    def __array_ufunc__(self, ufunc, method, *operands, **keywords):
        """Elementwise operations and operators."""
        if method != "__call__" or keywords:
            return NotImplemented
        return self.tape.apply(ufunc.__name__, ufunc, operands)

    def __array_function__(self, function, types, operands, keywords):
        """`np.where`, the one elementwise function that is no ufunc."""
        if function is not np.where or len(operands) != 3:
            return NotImplemented
        return self.tape.apply("where", np.where, operands)
