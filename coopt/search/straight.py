"""The cost expression of a space as a straight-line program: what a bound, a certificate and a checker can all read.

The expression is run once on recording terms (`terms.py`), one for every field that an axis sets; everything else is a
number and folds. What is left is a list of elementwise operations without loops or branches, whose operands are fields
of axes, constants or earlier operations. It is the expression and no copy of it: the same functions were called.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from coopt.problems import Problem, Refused
from coopt.search.price import Expression
from coopt.search.space import Space, put
from coopt.search.terms import Tape, Term
from coopt.spec.nouns import Hardware, Law
from coopt.tree import replace

TRUTHS = ("greater", "greater_equal", "less", "less_equal", "equal", "not_equal", "logical_and", "logical_or",
          "logical_not")  # fmt: skip


@dataclasses.dataclass(frozen=True, eq=False)
class Task:
    """What is asked of a space: which objectives, the first `objectives` of `names`, under which limits."""

    space: Space
    expression: Expression
    names: tuple[str, ...]
    objectives: int
    limits: tuple[tuple[int, float], ...]  # (position in names, upper bound)


def task_of(
    space: Space, hardware: Hardware | None, *, law: Law | None, objectives: Sequence[str],
    limits: Mapping[str, float] | None, expression: Expression,
) -> Task:  # fmt: skip
    """What is priced, as sweeps have it: machine and law attached, names of objectives before those of limits."""
    attached = {name: tree for name, tree in (("hardware", hardware), ("law", law)) if tree is not None}
    base = jax.tree.map(np.float64, replace(space.base, **attached))
    names = (*objectives, *(name for name in limits or {} if name not in objectives))
    bounds = tuple((names.index(name), float(most)) for name, most in (limits or {}).items())
    return Task(space=dataclasses.replace(space, base=base), expression=expression, names=names,
                objectives=len(objectives), limits=bounds)  # fmt: skip


@dataclasses.dataclass(frozen=True, eq=False)
class Straight:
    """A straight-line program. Places count inputs first, then constants, then nodes, in this order.

    `inputs` are `(axis, field of the axis)`; a node is `(operation of NumPy, places of its operands)`.
    """

    inputs: tuple[tuple[int, int], ...]
    constants: tuple[float | bool, ...]
    nodes: tuple[tuple[str, tuple[int, ...]], ...]
    results: tuple[int, ...]

    @property
    def first(self) -> int:
        """The place of the first node."""
        return len(self.inputs) + len(self.constants)

    def truths(self) -> list[bool]:
        """Which places hold truth values."""
        kinds = [False] * len(self.inputs) + [isinstance(value, bool) for value in self.constants]
        for name, operands in self.nodes:
            kinds.append(name in TRUTHS or (name == "where" and all(kinds[place] for place in operands[1:])))
        return kinds

    def document(self) -> dict[str, Any]:
        """The program as JSON has it; numbers are written so that they are read back exactly."""
        return {
            "inputs": [list(one) for one in self.inputs],
            "constants": [one if isinstance(one, bool) else number(one) for one in self.constants],
            "nodes": [[name, *operands] for name, operands in self.nodes],
            "results": list(self.results),
        }

    def digest(self) -> str:
        """SHA-256 of the document."""
        return digest(self.document())


def number(value: Any) -> float | str:
    """A number as JSON has it: NaN and infinities are words, which `float` reads back."""
    value = float(value)
    return value if np.isfinite(value) else str(value)


def digest(document: Any) -> str:
    """SHA-256 of a JSON document with sorted keys and no spaces."""
    text = json.dumps(document, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def straight(space: Space, expression: Expression, names: Sequence[str]) -> Straight:
    """The program of an expression over a space: its results are the verdict and the named objectives.

    A field with one value on its whole axis is a number. Operations that no result needs, such as rows that only an
    explanation reads, are left out; equal ones are one.

    Raises:
      Refused: an objective that is not known for any candidate, such as dollars on a machine without a price.
    """
    tape, terms, leaves = Tape(), {}, {}
    for number, one in enumerate(space.axes):
        for field, path in enumerate(one.paths):
            column = one.values[:, field]
            if (column == column[0]).all():
                leaves[path] = np.float64(column[0])
            else:
                leaves[path] = terms[number, field] = tape.term(np.float64(column[0]))
    base = jax.tree.map(np.float64, space.base)
    with np.errstate(all="ignore"):
        score = expression(put(base, leaves), tuple(names))
    results = (score.verdict, *score.objectives)
    unknown = [
        Problem(field="objective", expected="an objective that the machine and the law have a value for", got=name,
                hint="a price, a power or a law is not known")
        for name, value in zip(names, score.objectives, strict=True)
        if not isinstance(value, Term) and value != value
    ]  # fmt: skip
    if unknown:
        raise Refused(*unknown)
    return _canonical(tape, {tape.place(term): key for key, term in terms.items()}, results)


def run(program: Straight, leaves: Mapping[tuple[int, int], np.ndarray]) -> list[np.ndarray]:
    """The results for candidates whose fields are `leaves`, arrays of one length: NumPy, float64, nothing compiled."""
    values: list[Any] = [leaves[one] for one in program.inputs]
    values += [one if isinstance(one, bool) else np.float64(one) for one in program.constants]
    last = last_use(program)
    with np.errstate(all="ignore"):
        for number, (name, operands) in enumerate(program.nodes):
            values.append(getattr(np, name)(*(values[place] for place in operands)))
            for place in last[number]:
                values[place] = None
    return [values[place] for place in program.results]


def objectives(task: Task, program: Straight, digits: np.ndarray) -> np.ndarray:
    """Objectives of candidates by their digits, `(n, objectives)`; infinite where infeasible or unknown."""
    axes = task.space.axes
    verdict, *found = run(program, {one: axes[one[0]].values[digits[:, one[0]], one[1]] for one in program.inputs})
    known = np.stack([np.broadcast_to(one, len(digits)) for one in found[: task.objectives]], axis=1)
    return np.where((np.broadcast_to(verdict, len(digits)) < 0.5)[:, None] & np.isfinite(known), known, np.inf)


def trace(program: Straight, leaves: Mapping[tuple[int, int], Any]) -> list[Any]:
    """The value of every place for one candidate."""
    values: list[Any] = [leaves[one] for one in program.inputs] + list(program.constants)
    with np.errstate(all="ignore"):
        for name, operands in program.nodes:
            values.append(getattr(np, name)(*(values[place] for place in operands)))
    return values


@functools.lru_cache(maxsize=16)  # by identity: a program is run thousands of times
def last_use(program: Straight) -> list[list[int]]:
    """For each node, the places that nothing after it reads: what they hold may be dropped."""
    first, kept = program.first, set(program.results)
    final: dict[int, int] = {}
    for number, (_, operands) in enumerate(program.nodes):
        final |= dict.fromkeys(operands, number)
    drops: list[list[int]] = [[] for _ in program.nodes]
    for place, number in final.items():
        if place >= first and place not in kept:
            drops[number].append(place)
    return drops


def _canonical(tape: Tape, fields: Mapping[Any, tuple[int, int]], results: Sequence[Any]) -> Straight:
    """What the results need of a tape, its places numbered; numbers of one value are one constant."""
    places = [tape.place(one if isinstance(one, Term) else np.float64(one)) for one in results]
    wanted, stack = set(), list(places)
    while stack:
        place = stack.pop()
        if isinstance(place, tuple) and place not in wanted:
            wanted.add(place)
            stack += tape.nodes[place[1]][1] if place[0] == "node" else ()
    needed = sorted(place[1] for place in wanted if place[0] == "node")
    order = sorted((key, place) for place, key in fields.items() if place in wanted)
    known: dict[Any, int] = {place: number for number, (_, place) in enumerate(order)}

    def value(operand: Any) -> float | bool:
        number = tape.inputs[operand[1]] if isinstance(operand, tuple) else operand
        return bool(number) if np.asarray(number).dtype == bool else float(number)

    def varies(operand: Any) -> bool:
        return isinstance(operand, tuple) and (operand[0] == "node" or operand in fields)

    operands = [one for node in needed for one in tape.nodes[node][1]] + places
    numbers = {repr(v): v for v in (value(one) for one in operands if not varies(one))}
    of = {said: len(order) + i for i, said in enumerate(numbers)}

    def find(operand: Any) -> int:
        return known[operand] if varies(operand) else of[repr(value(operand))]

    nodes: list[tuple[str, tuple[int, ...]]] = []
    first, same = len(order) + len(numbers), {}
    for node in needed:
        one = tape.nodes[node][0], tuple(find(operand) for operand in tape.nodes[node][1])
        if one not in same:
            same[one] = first + len(nodes)
            nodes.append(one)
        known["node", node] = same[one]
    return Straight(
        inputs=tuple(key for key, _ in order), constants=tuple(numbers.values()), nodes=tuple(nodes),
        results=tuple(find(place) for place in places),
    )  # fmt: skip
