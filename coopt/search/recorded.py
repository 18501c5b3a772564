"""The cost expression of a space as a straight line of operations: what sweeps, bounds and certificates all read.

The expression is run once on recording terms (`terms.py`). What no axis decides is computed then; what is left is a
list of elementwise operations without loops or branches, whose operands are fields of axes, numbers or earlier
operations. It is the expression and no copy of it: the same functions were called.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from coopt.search.price import Expression
from coopt.search.space import Space, flat_leaves, put
from coopt.search.terms import Tape
from coopt.spec.nouns import VERDICTS, Hardware, Law, Layout
from coopt.tree import replace
from coopt.xp import where

TRUTHS = ("greater", "greater_equal", "less", "less_equal", "equal", "not_equal", "logical_and", "logical_or",
          "logical_not")  # fmt: skip

Step = tuple[int, Callable, tuple[int, ...], tuple[int, ...]]  # place, operation, operands, what may be let go


@dataclasses.dataclass(frozen=True, eq=False)
class Task:
    """What is asked of a space: which objectives, the first `objectives` of `names`, under which limits."""

    space: Space
    expression: Expression
    names: tuple[str, ...]
    objectives: int
    limits: tuple[tuple[int, float], ...]  # (position in names, upper bound)

    @property
    def reasons(self) -> tuple[str, ...]:
        """What a verdict counts once limits are in it: the verdicts, and each limit, unknown or above."""
        limits = [self.names[position] for position, _ in self.limits]
        return (*VERDICTS, *(f"{name}{why}" for name in limits for why in (" unknown", " above limit")))


def task_of(
    space: Space, hardware: Hardware | None = None, *, law: Law | None = None, objectives: Sequence[str],
    limits: Mapping[str, float] | None = None, expression: Expression,
) -> Task:  # fmt: skip
    """What is priced: machine and law attached to the space, names of objectives before those of limits."""
    attached = {name: tree for name, tree in (("hardware", hardware), ("law", law)) if tree is not None}
    base = jax.tree.map(np.float64, replace(space.base, **attached))
    names = tuple(dict.fromkeys([*objectives, *(limits or ())]))
    bounds = tuple((names.index(name), float(most)) for name, most in (limits or {}).items())
    return Task(space=dataclasses.replace(space, base=base), expression=expression, names=names,
                objectives=len(objectives), limits=bounds)  # fmt: skip


@dataclasses.dataclass(frozen=True, eq=False)
class Recorded:
    """A straight line of operations. Places count inputs first, then numbers, then nodes, in this order.

    `inputs` are `(axis, field of the axis)`; a node is `(operation of NumPy, places of its operands)`.
    """

    inputs: tuple[tuple[int, int], ...]
    numbers: tuple[Any, ...]
    nodes: tuple[tuple[str, tuple[int, ...]], ...]
    results: tuple[int, ...]
    literals: int = 0  # where the numbers begin that stand in the code; those before are a candidate's

    @property
    def first(self) -> int:
        """The place of the first node."""
        return len(self.inputs) + len(self.numbers)

    @functools.cached_property
    def steps(self) -> tuple[Step, ...]:
        """The nodes, ready to be run."""
        steps = [(self.first + n, getattr(np, name), operands) for n, (name, operands) in enumerate(self.nodes)]
        return freed(steps, keep=(*self.results, *range(self.first)))

    @functools.cached_property
    def truths(self) -> tuple[bool, ...]:
        """Which places hold truth values."""
        kinds = [False] * len(self.inputs) + [np.asarray(value).dtype == bool for value in self.numbers]
        for name, operands in self.nodes:
            kinds.append(name in TRUTHS or (name == "where" and all(kinds[place] for place in operands[1:])))
        return tuple(kinds)

    @functools.cached_property
    def axes(self) -> tuple[frozenset[int], ...]:
        """The axes that each place depends on."""
        found = [frozenset((axis,)) for axis, _ in self.inputs] + [frozenset()] * len(self.numbers)
        for _, operands in self.nodes:
            found.append(frozenset().union(*(found[place] for place in operands)))
        return tuple(found)

    def merged(self) -> Recorded:
        """The same with numbers of one value once, and operations on the same places once: for this base alone."""
        known, at, nodes = {}, list(range(len(self.inputs))), {}
        for value in self.numbers:
            value = bool(value) if np.asarray(value).dtype == bool else float(value)
            at.append(len(self.inputs) + known.setdefault(repr(value), (len(known), value))[0])
        for name, operands in self.nodes:
            node = name, tuple(at[place] for place in operands)
            at.append(len(self.inputs) + len(known) + nodes.setdefault(node, len(nodes)))
        return Recorded(inputs=self.inputs, numbers=tuple(value for _, value in known.values()), nodes=tuple(nodes),
                        results=tuple(at[place] for place in self.results))  # fmt: skip

    def document(self) -> dict[str, Any]:
        """The program as JSON has it; numbers are written so that they are read back exactly."""
        return {
            "inputs": [list(one) for one in self.inputs],
            "constants": [one if isinstance(one, bool) else number(one) for one in self.numbers],
            "nodes": [[name, *operands] for name, operands in self.nodes],
            "results": list(self.results),
        }


def record(task: Task, *, coded: bool = False) -> Recorded:
    """Records what a task asks for: the results are the verdict and the named objectives; `coded`, limits are verdicts.

    A field with one value on its whole axis is a number. What no result needs, such as rows that only an explanation
    reads, is left out. Another value in the base records the same line, so that nothing is compiled anew for it, but
    for its layout: what no axis switches on is not priced, as it is not for one candidate.
    """
    tape, fields, leaves = Tape(), {}, {}
    for number, one in enumerate(task.space.axes):
        for field, path in enumerate(one.paths):
            column = one.values[:, field]
            leaves[path] = tape.term(column[0])
            if (column != column[0]).any():
                fields[leaves[path].place] = number, field
    base = jax.tree.map(lambda one: one if _is_layout(one) else tape.term(one), task.space.base, is_leaf=_is_layout)
    score = task.expression(put(base, leaves), task.names)
    code, values = score.verdict, score.objectives
    if coded:
        for number, (position, bound) in enumerate(task.limits):
            value, unknown = values[position], len(VERDICTS) + 2 * number
            failed = where(value > tape.term(bound), unknown + 1, where(value == value, 0, unknown))
            code = where(code < 0.5, failed, code)
        values = values[: task.objectives]
    return _line(tape, fields, [tape.place(one) for one in (code, *values)])


def _is_layout(tree: Any) -> bool:
    return isinstance(tree, Layout)


def _line(tape: Tape, fields: Mapping[Any, tuple[int, int]], results: Sequence[Any]) -> Recorded:
    """What the results need of a tape, its places numbered; what depends on no axis is computed."""
    known: dict[Any, Any] = {("input", i): value[()] for i, value in enumerate(tape.inputs)}
    varies = set(fields)
    with np.errstate(all="ignore"):
        for i, (name, operands) in enumerate(tape.nodes):
            if varies.intersection(operands):
                varies.add(("node", i))
            else:
                known["node", i] = getattr(np, name)(*(known.get(one, one) for one in operands))
    wanted = set(results)
    for i in range(len(tape.nodes) - 1, -1, -1):
        if ("node", i) in wanted and ("node", i) in varies:
            wanted.update(tape.nodes[i][1])
    inputs = sorted((key, place) for place, key in fields.items() if place in wanted)
    given = [place for place in known if place in wanted and place not in varies]
    needed = [i for i in range(len(tape.nodes)) if ("node", i) in wanted and ("node", i) in varies]
    order = [place for _, place in inputs] + given
    at: dict[Any, int] = {place: number for number, place in enumerate(order)}
    written: dict[Any, Any] = {}
    for one in (*(one for i in needed for one in tape.nodes[i][1]), *results):
        if not isinstance(one, tuple):
            written.setdefault((type(one), repr(one)), one)
    at |= {key: len(order) + number for number, key in enumerate(written)}
    at |= {("node", i): len(order) + len(written) + number for number, i in enumerate(needed)}

    def find(operand: Any) -> int:
        return at[operand if isinstance(operand, tuple) else (type(operand), repr(operand))]

    return Recorded(
        inputs=tuple(key for key, _ in inputs), numbers=(*(known[place] for place in given), *written.values()),
        nodes=tuple((tape.nodes[i][0], tuple(find(one) for one in tape.nodes[i][1])) for i in needed),
        results=tuple(find(one) for one in results), literals=len(order),
    )  # fmt: skip


def columns(space: Space, program: Recorded, leaves: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    """The inputs of a program out of leaves by path."""
    return [leaves[space.axes[axis].paths[field]] for axis, field in program.inputs]


def replay(steps: Sequence[Step], values: list) -> None:
    """Runs steps in NumPy's float64, in place: nothing is compiled."""
    with np.errstate(all="ignore"):
        for place, function, operands, dead in steps:
            values[place] = function(*[values[one] for one in operands])
            for one in dead:
                values[one] = None


def run(program: Recorded, inputs: Sequence[Any], *, keep: bool = False) -> list[Any]:
    """The results for some candidates, each at its natural shape; of every place where `keep`."""
    values = [*inputs, *program.numbers, *[None] * len(program.nodes)]
    replay([(*step[:3], ()) for step in program.steps] if keep else program.steps, values)
    return values if keep else [values[place] for place in program.results]


def evaluated(program: Recorded, inputs: Sequence[Any], shape: tuple[int, ...], *, objectives: int) -> np.ndarray:
    """Objectives of candidates, `(objectives, *shape)`; infinite where infeasible or unknown."""
    code, *found = run(program, inputs)
    values = np.empty((objectives, *shape))
    for row, one in zip(values, found, strict=False):
        row[...] = np.where((code < 0.5) & np.isfinite(one), one, np.inf)
    return values


def flat_objectives(task: Task, program: Recorded, digits: np.ndarray) -> np.ndarray:
    """Objectives of candidates by their digits, `(n, objectives)`; infinite where infeasible or unknown."""
    inputs = columns(task.space, program, flat_leaves(task.space, digits))
    return evaluated(program, inputs, (len(digits),), objectives=task.objectives).T


def freed(steps: Sequence[tuple], *, keep: Collection[int]) -> tuple[Step, ...]:
    """The steps that what is kept needs; each lets go of every value that nothing after it reads."""
    seen, found = set(keep), []
    for place, function, operands, *_ in reversed(steps):
        if place not in seen:
            continue
        last = tuple(dict.fromkeys(one for one in operands if one not in seen))
        seen.update(last)
        found.append((place, function, operands, last))
    return tuple(reversed(found))


def number(value: Any) -> float | str:
    """A number as JSON has it: NaN and infinities are words, which `float` reads back."""
    value = float(value)
    return value if np.isfinite(value) else str(value)


def digest(document: Any) -> str:
    """SHA-256 of a JSON document with sorted keys and no spaces."""
    text = json.dumps(document, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()
