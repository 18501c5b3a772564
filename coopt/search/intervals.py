"""Bounds of a straight-line program over boxes of candidates, by interval arithmetic on many boxes at once.

A value is a pair of arrays, the least and the most it can be over each box. Whatever holds for the whole space (a sign,
a divisor that is never zero) is found out once and picks the cheaper rule. NaN as an end means that there is no known
value in the box; a place that may be NaN for some candidates is never compared with certainty.

Rounding: every operation here is monotone and rounds to nearest, so the value that NumPy computes for a candidate lies
between the ends; `log`, `exp` and `power` are widened by WIDEN. The checker of certificates rounds outwards.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from coopt.problems import Problem, Refused
from coopt.search.recorded import Recorded
from coopt.search.shared import Shared, run, share

WIDEN = 1e-14  # relative: more than any libm's error in log, exp and power
Pair = tuple[Any, Any]
Rule = Callable[..., Pair]


@dataclasses.dataclass(frozen=True, eq=False)
class Bounding:
    """A program with a rule for each node that is sound over the space it was made for."""

    shared: Shared
    rules: tuple[Rule, ...]


def bounding(program: Recorded, root: Mapping[tuple[int, int], Pair]) -> Bounding:
    """Rules for a space whose fields lie within `root`.

    Raises:
      Refused: an operation that no rule is known for.
    """
    pairs: list[Pair] = [(np.atleast_1d(root[one][0]), np.atleast_1d(root[one][1])) for one in program.inputs]
    pairs += [(np.atleast_1d(one), np.atleast_1d(one)) for one in program.numbers]
    loose = [bool(np.isnan(low).any()) for low, _ in pairs]  # may be NaN for some candidate
    truths, rules = program.truths, []
    with np.errstate(all="ignore"):
        for number, (name, operands) in enumerate(program.nodes):
            given = [pairs[place] for place in operands]
            unsure = any(loose[place] for place in operands)
            rule = _rule(name, given, unsure=unsure, truth=truths[program.first + number])
            rules.append(rule)
            pairs.append(rule(*given))
            loose.append(not truths[program.first + number] and (unsure or _invents(name, given, pairs[-1])))
    return Bounding(shared=share(program), rules=tuple(rules))


def bounds(made: Bounding, boxes: np.ndarray, ends: Callable[[int, int, np.ndarray], Pair]) -> list[Pair]:
    """The least and the most of every result over boxes `(n, axes)`; `ends` of a field over some ranges of an axis."""
    numbers = [(one, one) if isinstance(one, bool) else (np.float64(one),) * 2 for one in made.shared.recorded.numbers]
    return run(made.shared, boxes, ends, numbers, made.rules, take=_taken)


def _taken(pair: Pair, places: np.ndarray) -> Pair:
    return pair[0].take(places), pair[1].take(places)


def _rule(name: str, given: list[Pair], *, unsure: bool, truth: bool) -> Rule:
    """The cheapest sound rule for a node whose operands lie within `given`."""
    if name == "multiply":
        return _signed_product(*(_sign(one) for one in given)) if _finite(given) else _any_product
    if name == "divide":
        return _over_positive(_sign(given[0])) if _finite(given) and (given[1][0] > 0).all() else _any_quotient
    if name == "where":
        return _either if truth else _chosen
    if name in _COMPARED:
        return _never_sure(_COMPARED[name], name == "not_equal") if unsure else _COMPARED[name]
    if name == "power" and not _is_square(given):
        raise Refused(Problem(field="expression", expected="powers of two, or exp and log", got="another power"))
    if name not in _PLAIN:
        raise Refused(Problem(field="expression", expected=f"operations with bounds: {', '.join(_PLAIN)}", got=name))
    rule = _PLAIN[name]
    return rule if name not in ("add", "subtract") or _finite(given) else _open_ended(rule)


def _invents(name: str, given: list[Pair], result: Pair) -> bool:
    """True where an operation on known numbers may give NaN: 0 / 0, inf - inf, the root of a negative number."""
    if name in ("sqrt", "log"):
        return bool((given[0][0] < 0).any())
    return name in ("add", "subtract", "multiply", "divide") and not _finite([*given, result])


def _finite(pairs: list[Pair]) -> bool:
    return all(bool(np.isfinite(end).all()) for pair in pairs for end in pair)


def _sign(pair: Pair) -> int:
    """1: nowhere negative, -1: nowhere positive, 0: either."""
    return 1 if (pair[0] >= 0).all() else -1 if (pair[1] <= 0).all() else 0


def _is_square(given: list[Pair]) -> bool:
    return bool((given[1][0] == 2.0).all() and (given[1][1] == 2.0).all())


def _signed_product(a: int, b: int) -> Rule:
    if a > 0 and b > 0:
        return lambda x, y: (x[0] * y[0], x[1] * y[1])
    if a < 0 and b < 0:
        return lambda x, y: (x[1] * y[1], x[0] * y[0])
    if a > 0 and b < 0:
        return lambda x, y: (x[1] * y[0], x[0] * y[1])
    if a < 0 and b > 0:
        return lambda x, y: (x[0] * y[1], x[1] * y[0])
    if a > 0:
        return lambda x, y: (np.minimum(x[0] * y[0], x[1] * y[0]), np.maximum(x[0] * y[1], x[1] * y[1]))
    if b > 0:
        return lambda x, y: (np.minimum(x[0] * y[0], x[0] * y[1]), np.maximum(x[1] * y[0], x[1] * y[1]))
    return _any_product


def _any_product(x: Pair, y: Pair) -> Pair:
    return _hull(x, y, (x[0] * y[0], x[0] * y[1], x[1] * y[0], x[1] * y[1]))


def _hull(x: Pair, y: Pair, ends: tuple) -> Pair:
    """The least and the most of products or quotients of ends; 0 * inf and inf / inf stand for 0, as others near do."""
    known = ~(np.isnan(x[0]) | np.isnan(y[0]))
    ends = tuple(np.where(np.isnan(end) & known, 0.0, end) for end in ends)
    low, high = np.minimum(ends[0], ends[1]), np.maximum(ends[0], ends[1])
    return np.minimum(low, np.minimum(ends[2], ends[3])), np.maximum(high, np.maximum(ends[2], ends[3]))


def _over_positive(sign: int) -> Rule:
    def quotient(x: Pair, y: Pair) -> Pair:
        if sign > 0:
            return x[0] / y[1], x[1] / y[0]
        return np.where(x[0] < 0, x[0] / y[0], x[0] / y[1]), np.where(x[1] < 0, x[1] / y[1], x[1] / y[0])

    return quotient


def _any_quotient(x: Pair, y: Pair) -> Pair:
    low, high = _hull(x, y, (x[0] / y[0], x[0] / y[1], x[1] / y[0], x[1] / y[1]))
    through = (y[0] <= 0) & (y[1] >= 0) & ~np.isnan(x[0])  # a divisor that may be zero says nothing
    return np.where(through, -np.inf, low), np.where(through, np.inf, high)


def _open_ended(rule: Rule) -> Rule:
    """Sums with infinite ends: one end that is NaN beside one that is known is open, both mean nothing is known."""

    def guarded(x: Pair, y: Pair) -> Pair:
        low, high = rule(x, y)
        nothing = np.isnan(low) & np.isnan(high)
        return (
            np.where(np.isnan(low) & ~nothing, -np.inf, low),
            np.where(np.isnan(high) & ~nothing, np.inf, high),
        )

    return guarded


def _chosen(sure: Pair, x: Pair, y: Pair) -> Pair:
    """`where`: one branch where the condition is certain, the hull of both elsewhere."""
    low = np.where(sure[0], x[0], np.where(sure[1], np.fmin(x[0], y[0]), y[0]))
    return low, np.where(sure[0], x[1], np.where(sure[1], np.fmax(x[1], y[1]), y[1]))


def _either(sure: Pair, x: Pair, y: Pair) -> Pair:
    """`where` between truth values."""
    least = np.where(sure[0], x[0], np.where(sure[1], np.logical_and(x[0], y[0]), y[0]))
    return least, np.where(sure[0], x[1], np.where(sure[1], np.logical_or(x[1], y[1]), y[1]))


def _never_sure(rule: Rule, unequal: bool) -> Rule:
    """A comparison with NaN is false, except `!=`: neither is certain where NaN may stand."""

    def unsure(x: Pair, y: Pair) -> Pair:
        least, most = rule(x, y)
        return (least, np.ones_like(most)) if unequal else (np.zeros_like(least), most)

    return unsure


def _absolute(x: Pair) -> Pair:
    return np.maximum(np.maximum(x[0], -x[1]), 0.0), np.maximum(-x[0], x[1])


def _square(x: Pair, y: Pair) -> Pair:
    low, high = _absolute(x)
    return low * low * (1 - WIDEN), high * high * (1 + WIDEN)


def _widened(function: Any) -> Rule:
    def rule(x: Pair) -> Pair:
        low, high = function(x[0]), function(x[1])
        return low - WIDEN * abs(low), high + WIDEN * abs(high)

    return rule


_PLAIN: dict[str, Rule] = {
    "add": lambda x, y: (x[0] + y[0], x[1] + y[1]),
    "subtract": lambda x, y: (x[0] - y[1], x[1] - y[0]),
    "negative": lambda x: (-x[1], -x[0]),
    "minimum": lambda x, y: (np.minimum(x[0], y[0]), np.minimum(x[1], y[1])),
    "maximum": lambda x, y: (np.maximum(x[0], y[0]), np.maximum(x[1], y[1])),
    "sqrt": lambda x: (np.sqrt(np.maximum(x[0], 0.0)), np.sqrt(x[1])),
    "floor": lambda x: (np.floor(x[0]), np.floor(x[1])),
    "ceil": lambda x: (np.ceil(x[0]), np.ceil(x[1])),
    "exp": _widened(np.exp),
    "log": lambda x: _widened(np.log)((np.maximum(x[0], 0.0), x[1])),
    "absolute": _absolute,
    "power": _square,
    "logical_and": lambda x, y: (np.logical_and(x[0], y[0]), np.logical_and(x[1], y[1])),
    "logical_or": lambda x, y: (np.logical_or(x[0], y[0]), np.logical_or(x[1], y[1])),
    "logical_not": lambda x: (np.logical_not(x[1]), np.logical_not(x[0])),
    # of the second form of a program alone (`scaled.py`)
    "both": lambda x, y: (np.fmax(x[0], y[0]), np.fmin(x[1], y[1])),  # one value, known in two ways
}
_COMPARED: dict[str, Rule] = {
    "greater": lambda x, y: (x[0] > y[1], x[1] > y[0]),
    "greater_equal": lambda x, y: (x[0] >= y[1], x[1] >= y[0]),
    "less": lambda x, y: (x[1] < y[0], x[0] < y[1]),
    "less_equal": lambda x, y: (x[1] <= y[0], x[0] <= y[1]),
    "equal": lambda x, y: ((x[0] == y[1]) & (x[1] == y[0]), (x[0] <= y[1]) & (y[0] <= x[1])),
    "not_equal": lambda x, y: ((x[1] < y[0]) | (y[1] < x[0]), (x[0] != y[1]) | (x[1] != y[0])),
}
