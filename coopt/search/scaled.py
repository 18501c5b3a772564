"""A second form of a program, whose values are products of powers of fields times a remainder: what cancels, cancels.

Interval arithmetic forgets that two factors share a field: micro-batches are few where each is large, yet their number
times their time is bounded as if both could be small. So a value is kept as x^e c, with x^e a product of powers of
positive fields and c what is bounded:

    x^a c * x^b d = x^(a + b) (c d)          x^a c + x^b d = x^a (c + x^(b - a) d)

A sum takes the exponents of its larger operand at one good candidate; any others would be as true and less tight. A
product of powers of fields of one axis is a column of that axis, so it is bounded exactly: tp cp pp dp is one number.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from coopt.search.recorded import Recorded

Powers = tuple[tuple[int, float], ...]  # (input, exponent), without exponents of 0
Product = tuple[int, tuple[tuple[int, float], ...]]  # an axis, and (field, exponent) of it
MEET = ("subtract", "minimum", "maximum", "where")  # where the first form may know more: both are kept


def exponents(program: Recorded, values: Sequence[Any], positive: Sequence[bool]) -> tuple[Powers, ...]:
    """The exponents of every place, from its `values` for one candidate; only inputs that are `positive` have any."""
    found: list[Powers] = [((place, 1.0),) if good else () for place, good in enumerate(positive)]
    found += [()] * len(program.numbers)
    for name, operands in program.nodes:
        of, at = [found[place] for place in operands], [float(values[place]) for place in operands]
        if name in ("multiply", "divide"):
            found.append(times(of[0], of[1], 1.0 if name == "multiply" else -1.0))
        elif name == "sqrt":
            found.append(times((), of[0], 0.5))
        elif name in ("ceil", "floor", "negative", "absolute"):
            found.append(of[0])
        elif name in ("add", "subtract"):
            found.append(of[0] if abs(at[0]) >= abs(at[1]) else of[1])
        elif name in ("maximum", "minimum"):
            found.append(of[0] if (at[0] >= at[1]) == (name == "maximum") else of[1])
        elif name == "where":
            found.append(of[1] if at[0] else of[2])
        else:
            found.append(())
    return tuple(found)


def times(one: Powers, other: Powers, power: float) -> Powers:
    """The exponents of one product times another's power.

    >>> times(((0, 1.0), (2, 0.5)), ((0, 1.0), (1, 2.0)), -1.0)
    ((1, -2.0), (2, 0.5))
    """
    total = dict(one)
    for which, exponent in other:
        total[which] = total.get(which, 0.0) + power * exponent
    return tuple(sorted((which, exponent) for which, exponent in total.items() if exponent))


def scaled(program: Recorded, powers: Sequence[Powers], fields: Sequence[int]) -> tuple[Recorded, tuple[Product, ...]]:
    """The program with one more result, its second one (the objective) in the second form; and the columns it reads.

    `fields` are how many fields each axis has: the products become inputs behind them, in the order of the answer.
    """
    made = _Form(program, powers)
    last = made.whole(program.results[1])
    columns, order = list(fields), []
    for axis, _ in made.products:
        order.append((axis, columns[axis]))
        columns[axis] += 1
    inputs, one = len(program.inputs), program.first + len(order)

    def place(token: Any) -> int:
        if token is ONE:
            return one
        if isinstance(token, int):
            return token + (0 if token < inputs else len(order) + (token >= program.first))
        return inputs + token[1] if token[0] == "product" else one + 1 + len(program.nodes) + token[1]

    nodes = (*program.nodes, *made.nodes)
    return dataclasses.replace(
        program, inputs=(*program.inputs, *order), numbers=(*program.numbers, 1.0),
        nodes=tuple((name, tuple(place(token) for token in operands)) for name, operands in nodes),
        results=(*(place(token) for token in program.results), place(last)),
    ), tuple(made.products)  # fmt: skip


ONE = ("one",)


class _Form:
    """Remainders of places as they are written down: a place of the program, ONE, or a new node."""

    def __init__(self, program: Recorded, powers: Sequence[Powers]):
        self.program, self.powers, self.truths = program, powers, program.truths
        self.nodes: list[tuple[str, tuple]] = []
        self.known: dict[tuple, Any] = {}
        self.products: dict[Product, Any] = {}
        self.rest: dict[int, Any] = {}

    def whole(self, place: int) -> Any:
        """The value of a place by way of its remainder."""
        stack, needed = [place], set()
        while stack:
            one = stack.pop()
            if one not in needed:
                needed.add(one)
                operands = self.program.nodes[one - self.program.first][1] if one >= self.program.first else ()
                stack += [operand for operand in operands if not self.truths[operand]]
        for one in sorted(needed):
            self.rest[one] = self._rest(one)
        return self._as(place, ())

    def _rest(self, place: int) -> Any:
        powers, first = self.powers[place], self.program.first
        if place < first:
            return ONE if powers else place
        name, operands = self.program.nodes[place - first]
        plain = all(self.truths[one] or (self.rest[one] == one and not self.powers[one]) for one in operands)
        if self.truths[place] or (plain and not powers):
            return place
        if name in ("multiply", "divide", "sqrt", "negative", "absolute"):
            return self._node(name, *(self.rest[one] for one in operands))
        first = self._product(place, times((), powers, -1.0))  # the value by way of the first form
        if name in ("ceil", "floor"):
            return first
        found = self._node(name, *(one if self.truths[one] else self._as(one, powers) for one in operands))
        return self._node("both", found, first) if name in MEET else found

    def _as(self, place: int, powers: Powers) -> Any:
        """The remainder of a place for other exponents than its own."""
        return self._product(self.rest[place], times(self.powers[place], powers, -1.0))

    def _product(self, token: Any, powers: Powers) -> Any:
        by_axis: dict[int, list[tuple[int, float]]] = {}
        for which, exponent in powers:
            axis, field = self.program.inputs[which]
            by_axis.setdefault(axis, []).append((field, exponent))
        for axis, product in sorted(by_axis.items()):
            column = self.products.setdefault((axis, tuple(product)), ("product", len(self.products)))
            token = self._node("multiply", token, column)
        return token

    def _node(self, name: str, *operands: Any) -> Any:
        if name in ("multiply", "divide") and operands[1] is ONE:
            return operands[0]
        if name == "multiply" and operands[0] is ONE:
            return operands[1]
        if (name, operands) not in self.known:
            self.known[name, operands] = "node", len(self.nodes)
            self.nodes.append((name, operands))
        return self.known[name, operands]
