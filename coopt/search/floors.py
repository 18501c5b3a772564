"""What the smallest value of an objective in a block follows from: the part of it that varies there.

An objective is often another value times, or plus, what is the same all over a block: dollars are step times with a
price. Multiplying by a positive number, adding and subtracting keep the order, rounded too. So the least of the product
is the product of the least, and what two objectives share is looked through once.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection

from coopt.search.recorded import Recorded
from coopt.search.space import Space

ORDERLY = ("multiply", "divide", "add", "subtract")  # with something on their right, and for two with it on their left


@dataclasses.dataclass(frozen=True)
class Floor:
    """The least of an objective: that of result `varies`, and then operations, each with one more result."""

    varies: int
    then: tuple[tuple[str, int], ...]


def floors(recorded: Recorded, space: Space, inside: Collection[int]) -> tuple[Recorded, tuple[Floor, ...]]:
    """A recording that gives the verdict and what the least of each objective is made of; `inside` are a block's axes.

    Of each objective, what does not vary along those axes is set aside, from the last operation backwards.
    """
    natural = _natural(recorded, space)
    results, found = [recorded.results[0]], []

    def result(place: int) -> int:
        if place not in results[1:]:
            results.append(place)
        return results.index(place, 1)

    def around(place: int) -> tuple[str, int, int] | None:
        """The operation that gives a place, the operand that varies, and the other one; None where there is no such."""
        if place < recorded.first or recorded.nodes[place - recorded.first][0] not in ORDERLY:
            return None
        name, (varies, other) = recorded.nodes[place - recorded.first]
        varying = [bool(recorded.axes[one].intersection(inside)) for one in (varies, other)]
        if sum(varying) != 1:
            return None
        if varying[1]:
            if name in ("divide", "subtract"):
                return None
            varies, other = other, varies
        return (name, varies, other) if name in ("add", "subtract") or natural[other] else None

    for place in recorded.results[1:]:
        then: list[tuple[str, int]] = []
        while (step := around(place)) is not None:
            name, place, other = step
            then.append((name, result(other)))
        found.append(Floor(varies=result(place), then=tuple(reversed(then))))
    return dataclasses.replace(recorded, results=tuple(results)), tuple(found)


def _natural(recorded: Recorded, space: Space) -> list[bool]:
    """Which places are known not to be below zero."""
    known = [bool((space.axes[axis].values[:, field] >= 0.0).all()) for axis, field in recorded.inputs]
    known += [bool(value >= 0.0) for value in recorded.numbers]
    for name, operands in recorded.nodes:
        given = [known[place] for place in operands]
        if name in ("add", "multiply", "divide", "minimum"):
            known.append(all(given))
        elif name == "maximum":
            known.append(any(given))
        else:
            known.append(all(given[1:]) if name == "where" else name in ("exp", "sqrt"))
    return known
