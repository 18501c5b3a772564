"""The expression run once on terms instead of arrays: what it did, as a straight line of elementwise operations.

A lattice shares work because a term that depends on three axes is computed on three axes. Handed over whole, a
compiler fuses those small terms into the large loops and computes them there again for every candidate. So the
expression is recorded: no loop or branch is left in it, and the same line of operations is replayed by NumPy where
terms are small, compiled where they are large, bounded (`recorded.py`), and read backwards for derivatives
(`slopes.py`).
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from numpy.lib.mixins import NDArrayOperatorsMixin

Place = tuple[str, int]  # ("input" | "node", position)
Operand = Place | bool | int | float


@dataclasses.dataclass(eq=False)
class Tape:
    """What was recorded: inputs with their values, and nodes `(operation, operands)`, equal ones once.

    Operands are places, or numbers as the code has them; every number of a candidate is an input, so that another
    value records nothing anew.
    """

    inputs: list[np.ndarray] = dataclasses.field(default_factory=list)
    nodes: list[tuple[str, tuple[Operand, ...]]] = dataclasses.field(default_factory=list)
    known: dict[tuple, Term] = dataclasses.field(default_factory=dict)

    def term(self, value: Any) -> Term:
        """A new input."""
        self.inputs.append(np.asarray(value))
        return Term(self, ("input", len(self.inputs) - 1))

    def apply(self, name: str, operands: tuple) -> Term:
        """One operation, on record."""
        key = (name, *[one.place if type(one) is Term else (type(one), repr(one)) for one in operands])
        found = self.known.get(key)
        if found is None:
            found = self.known[key] = Term(self, ("node", len(self.nodes)))
            self.nodes.append((name, tuple(self.place(one) for one in operands)))
        return found

    def place(self, operand: Any) -> Operand:
        """Where an operand is, or the number that it is."""
        if isinstance(operand, Term):
            return operand.place
        return operand if type(operand) in (bool, int, float) else np.asarray(operand).item()


class Term(NDArrayOperatorsMixin):
    """An array that is only a place on a tape, by NumPy's protocols."""

    __slots__ = ("place", "tape")

    def __init__(self, tape: Tape, place: Place):
        self.tape, self.place = tape, place

    def __array_ufunc__(self, ufunc, method, *operands, **keywords):
        """Elementwise operations and operators."""
        if method != "__call__" or keywords:
            return NotImplemented
        return self.tape.apply(ufunc.__name__, operands)

    def __array_function__(self, function, types, operands, keywords):
        """`np.where`, the one elementwise function that is no ufunc."""
        if function is not np.where or len(operands) != 3:
            return NotImplemented
        return self.tape.apply("where", operands)

    def __bool__(self):
        """There is no value to branch on."""
        raise TypeError("an expression that is recorded takes `where` in the place of `if`")
