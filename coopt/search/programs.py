"""A recorded expression, run: in NumPy where its terms are small, compiled where they are large.

The recording is made once a sweep. What no axis decides is computed then; the rest is replayed for every tile or block
of candidates, thousands of operations with nothing to compile, up to the few that most axes touch: those are XLA's.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from coopt.search.price import Expression
from coopt.search.space import Space, get, lattice_leaves, put
from coopt.search.terms import Tape
from coopt.spec.nouns import VERDICTS
from coopt.xp import where

GROWTH = 0.2  # share of the largest extent below which compiled operations are a program of their own

Slot = int  # inputs first, then nodes, then numbers of the code
Step = tuple[Slot, Callable, tuple[Slot, ...], tuple[Slot, ...]]  # result, operation, operands, what may be let go


@dataclasses.dataclass(frozen=True, eq=False)
class Graph:
    """An expression over a space as steps, in order: a verdict (limits included), then objectives.

    `values` holds what no axis decides, and None elsewhere; `shapes` are on the axes of the space.
    """

    leaves: Mapping[str, Slot]  # by the path of a field that an axis sets
    values: tuple[Any, ...]
    numbers: Slot  # where the numbers of the code begin
    shapes: tuple[tuple[int, ...], ...]
    steps: tuple[Step, ...]  # what axes decide and a result needs
    results: tuple[Slot, ...]


def record(space: Space, expression: Expression, objectives: Sequence[str], *, limits: Mapping[str, float]) -> Graph:
    """Records `expression` over the axes of `space`; `limits` are upper bounds on objectives, by name.

    What is asked of nobody, such as rows that only an explanation reads, is left out.
    """
    tape, leaves = Tape(), lattice_leaves(space)
    leaves = {path: leaf if (leaf != leaf.flat[0]).any() else leaf.flat[0] for path, leaf in leaves.items()}
    candidate = jax.tree.map(tape.term, put(space.base, leaves))
    names = tuple(dict.fromkeys((*objectives, *limits)))
    score = expression(candidate, names)
    code = score.verdict
    for number, (name, bound) in enumerate(limits.items()):
        value, unknown = score.objectives[names.index(name)], len(VERDICTS) + 2 * number
        failed = where(value > tape.term(bound), unknown + 1, where(value == value, 0, unknown))
        code = where(code < 0.5, failed, code)
    results = [tape.place(one) for one in (code, *score.objectives[: len(objectives)])]
    return _graph(
        tape, results, {path: get(candidate, path).place[1] for path, leaf in leaves.items() if np.ndim(leaf)}
    )


def _graph(tape: Tape, results: Sequence, leaves: Mapping[str, Slot]) -> Graph:
    """Places numbered, dead ends left out, and what depends on no axis computed."""
    first, numbers = len(tape.inputs), {}
    last = first + len(tape.nodes)

    def slot(place: Any) -> Slot:
        if isinstance(place, tuple):
            return place[1] + (first if place[0] == "node" else 0)
        return numbers.setdefault((type(place), repr(place)), (last + len(numbers), place))[0]

    wanted = {slot(place) for place in results}
    steps: list[tuple] = []
    for position in range(len(tape.nodes) - 1, -1, -1):
        if first + position in wanted:
            name, operands, _ = tape.nodes[position]
            steps.append((first + position, getattr(np, name), tuple(slot(one) for one in operands)))
            wanted.update(steps[-1][2])
    steps.reverse()
    varied = {first + position for position, (_, _, shape) in enumerate(tape.nodes) if shape} | set(leaves.values())
    values = [None if slot in varied else value for slot, value in enumerate(tape.inputs)]
    values += [None] * len(tape.nodes) + [value for _, value in numbers.values()]
    replay([(*step, ()) for step in steps if step[0] not in varied], values)
    given = [slot for slot in range(len(values)) if values[slot] is not None]
    places = tuple(slot(place) for place in results)
    return Graph(
        leaves=leaves, values=tuple(values), numbers=last, results=places,
        steps=_freed([step for step in steps if step[0] in varied], keep=(*given, *places)),
        shapes=(*(one.shape for one in tape.inputs), *(shape for _, _, shape in tape.nodes), *((),) * len(numbers)),
    )  # fmt: skip


def replay(steps: Sequence[Step], values: list) -> None:
    """Runs steps in NumPy, in place."""
    with np.errstate(all="ignore"):
        for slot, function, operands, dead in steps:
            values[slot] = function(*[values[one] for one in operands])
            for one in dead:
                values[one] = None


def compute(graph: Graph, leaves: Mapping[str, np.ndarray]) -> list[Any]:
    """The results for some candidates, each at its natural shape: all of it in NumPy's float64."""
    values = _filled(graph, leaves)
    replay(graph.steps, values)
    return [values[slot] for slot in graph.results]


def _filled(graph: Graph, leaves: Mapping[str, np.ndarray]) -> list[Any]:
    values = list(graph.values)
    for path, slot in graph.leaves.items():
        values[slot] = leaves[path]
    return values


@dataclasses.dataclass(frozen=True)
class Program:
    """Structure alone, hashable: which steps run, what they are given and what they give."""

    steps: tuple[tuple, ...]  # (slot, operation, operands)
    numbers: tuple[tuple[Slot, Any], ...]  # of the code
    takes: tuple[Slot, ...]  # what an earlier program made
    gives: tuple[Slot, ...]
    across: tuple[tuple, ...]  # inputs (slot, shape but for the last axis, is boolean) that vary along it
    along: tuple[tuple, ...]  # inputs (slot, shape, is boolean) that do not


@dataclasses.dataclass(frozen=True, eq=False)
class Staged:
    """A graph cut in two: steps that NumPy runs for every tile, and programs for the rest."""

    graph: Graph
    eager: tuple[Step, ...]
    programs: tuple[Program, ...]
    work: float  # compiled element operations for one choice of the last axis


def stage(graph: Graph, *, order: Sequence[int], eager: int) -> Staged:
    """Cuts a graph for tiles whose dimensions are the axes `order`, the long one last.

    A step whose result has at most `eager` elements along all of them but the last is NumPy's. No result is smaller
    than an operand, so that those come first.
    """

    def shape(slot: Slot) -> tuple[int, ...]:
        natural = graph.shapes[slot]
        return tuple(natural[axis] for axis in order) if natural else ()

    large = [step for step in graph.steps if math.prod(shape(step[0])[:-1]) > eager]
    made = {step[0] for step in large}
    read = {slot for step in large for slot in step[2]}.union(graph.results) - made
    given = sorted(slot for slot in read if slot < graph.numbers)
    across = [slot for slot in given if shape(slot)[-1:] > (1,)]
    truths = _truths(graph)
    small = [step for step in graph.steps if step[0] not in made]
    programs = _programs(
        graph, large, {slot: math.prod(shape(slot)) for slot in made},
        numbers=tuple((slot, graph.values[slot]) for slot in sorted(read - set(given))),
        across=tuple((slot, shape(slot)[:-1], slot in truths) for slot in across),
        along=tuple((slot, shape(slot), slot in truths) for slot in given if slot not in set(across)),
    )  # fmt: skip
    width = max((shape(slot)[-1] for slot in made), default=1)
    return Staged(graph=graph, eager=_freed(small, keep=(*given, *graph.leaves.values())), programs=programs,
                  work=sum(math.prod(shape(slot)) for slot in made) / width)  # fmt: skip


def inputs(staged: Staged, leaves: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """What the programs of a tile start from: `(rows, n)` along the last axis, and flat what does not vary there."""
    values, (program, *_) = _filled(staged.graph, leaves), staged.programs
    replay(staged.eager, values)
    wide = [np.asarray(values[slot], float).reshape(math.prod(shape), -1) for slot, shape, _ in program.across]
    shared = [np.asarray(values[slot], float).reshape(-1) for slot, _, _ in program.along]
    return np.concatenate(wide) if wide else np.empty((0, 1)), np.concatenate(shared) if shared else np.empty(0)


def run(programs: Sequence[Program], wide: np.ndarray, shared: np.ndarray) -> list[jax.Array]:
    """What the last of some programs gives, for some columns of `wide`, each at its natural shape."""
    made: list[jax.Array] = []
    for program in programs:
        made = _compiled(wide, shared, made, program=program)
    return made


def execute(wide, shared, made, *, program: Program) -> list[jax.Array]:
    """One program on JAX arrays, to be compiled: alone, or with what reduces its results."""
    found = dict(zip(program.takes, made, strict=True)) | dict(program.numbers)
    found |= _unpack(wide, program.across, wide.shape[-1:]) | _unpack(shared, program.along, ())
    for slot, name, operands in program.steps:
        found[slot] = getattr(jnp, name)(*(found[one] for one in operands))
    return [jnp.asarray(found[slot]) for slot in program.gives]


_compiled = jax.jit(execute, static_argnames=("program",))


def _unpack(table: jax.Array, inputs: Sequence, last: tuple[int, ...]) -> dict[Slot, jax.Array]:
    """Inputs out of the rows of a table, in order; `last` is the length of the axis they all share, if any."""
    found, row = {}, 0
    for slot, shape, boolean in inputs:
        rows = math.prod(shape)
        value = table[row : row + rows].reshape(shape + last)
        found[slot] = value != 0.0 if boolean else value
        row += rows
    return found


def _programs(graph: Graph, steps: Sequence[Step], extents: Mapping[Slot, int], **given: Any) -> tuple[Program, ...]:
    """Small steps first, then large ones: an operand is never larger than its result, so none is needed earlier."""
    small = [step for step in steps if extents[step[0]] <= GROWTH * max(extents.values())]
    large = [step for step in steps if extents[step[0]] > GROWTH * max(extents.values())]
    early = {step[0] for step in small}
    carried = tuple(sorted(early & {slot for step in large for slot in step[2]}.union(graph.results)))
    parts = [(large, carried, graph.results)]
    if small:
        parts.insert(0, (small, (), carried))
    return tuple(
        Program(steps=tuple((slot, function.__name__, operands) for slot, function, operands, _ in part),
                takes=takes, gives=gives, **given)
        for part, takes, gives in parts
    )  # fmt: skip


def _truths(graph: Graph) -> set[Slot]:
    """The slots that hold truth values."""
    found = {slot for slot, value in enumerate(graph.values) if np.asarray(value).dtype == bool}
    for slot, function, operands, _ in graph.steps:
        decides = operands[1:] if function is np.where else operands
        types = getattr(function, "types", ())
        if f"{'d' * len(operands)}->?" in types or (
            f"{'d' * len(operands)}->d" not in types and found.issuperset(decides)
        ):
            found.add(slot)
    return found


def _freed(steps: Sequence[tuple], *, keep: Collection[Slot]) -> tuple[Step, ...]:
    """Steps that let go of every value once nothing after them reads it."""
    seen, freed = set(keep), []
    for slot, function, operands, *_ in reversed(steps):
        last = tuple(dict.fromkeys(one for one in operands if one not in seen))
        seen.update(last)
        freed.append((slot, function, operands, last))
    return tuple(reversed(freed))
