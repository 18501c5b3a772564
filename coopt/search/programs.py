"""A recorded expression as compiled programs: cut where its arrays grow, so that nothing small is computed large."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from coopt.search.terms import Tape, Term

GROWTH = 0.2  # share of the largest extent below which operations are a program of their own


@dataclasses.dataclass(frozen=True)
class Program:
    """Structure alone, hashable: which recorded nodes run, what they are given and what they give."""

    nodes: tuple[tuple, ...]  # (position, operation, operands)
    takes: tuple[int, ...]  # positions of nodes that an earlier program ran
    gives: tuple[tuple, ...]  # places
    across: tuple[tuple, ...]  # inputs (position, shape but for the last axis, is boolean) that vary along it
    along: tuple[tuple, ...]  # inputs (position, shape, is boolean) that do not


@dataclasses.dataclass(frozen=True, eq=False)
class Recorded:
    """Programs with the numbers they start from: `wide` `(rows, n)` by candidates of the last axis, `shared` flat."""

    programs: tuple[Program, ...]
    wide: np.ndarray
    shared: np.ndarray
    work: float  # compiled element operations for one choice of the last axis


def record(tape: Tape, results: Sequence) -> Recorded:
    """The programs that compute `results` (terms or numbers) from what is on the tape."""
    places = [tape.place(result) if isinstance(result, Term) else tape.place(np.float64(result)) for result in results]
    needed = _needed(tape, places)
    extents = {i: math.prod(tape.nodes[i][2]) for i in needed}
    largest = max(extents.values(), default=1)
    stage = {}
    for i in needed:  # an operand is never larger than its result, so a stage never needs a later one
        stage[i] = 0 if extents[i] <= GROWTH * largest else 1
    # What is recorded but not asked for (rows that only an explanation reads) costs nothing.
    used = {p[1] for i in needed for p in tape.nodes[i][1] if _is(p, "input")} | {
        i for kind, i in places if kind == "input"
    }
    varied = {i for i in used if tape.inputs[i].ndim and tape.inputs[i].shape[-1] > 1}
    across = tuple(_spec(i, tape.inputs[i]) for i in sorted(varied))
    along = tuple(_spec(i, tape.inputs[i]) for i in sorted(used - varied))
    programs, made = [], []
    for number in (0, 1):
        mine = [i for i in needed if stage[i] == number]
        if not mine and number == 0:
            continue
        later = [p for i in needed if stage[i] > number for p in tape.nodes[i][1]]
        gives = places if number == 1 else sorted({p for p in later if _is(p, "node") and p[1] in set(mine)})
        programs.append(
            Program(
                nodes=tuple((i, *tape.nodes[i][:2]) for i in mine),
                takes=tuple(made),
                gives=tuple(gives),
                across=across,
                along=along,
            )  # fmt: skip
        )
        made = [p[1] for p in gives]
    width = max((tape.inputs[i].shape[-1] for i, _, _ in across), default=1)
    wide = [tape.inputs[i].reshape(-1, width).astype(np.float64) for i, _, _ in across]
    shared = [tape.inputs[i].reshape(-1).astype(np.float64) for i, _, _ in along]
    return Recorded(
        programs=tuple(programs),
        wide=np.concatenate(wide) if wide else np.empty((0, width)),
        shared=np.concatenate(shared) if shared else np.empty(0),
        work=sum(math.prod(tape.nodes[i][2]) for i in needed) / width,
    )


def run(recorded: Recorded, wide: jax.Array, shared: jax.Array) -> list[jax.Array]:
    """The results for some columns of `wide`, each at its natural shape."""
    made: list[jax.Array] = []
    for program in recorded.programs:
        made = _run(wide, shared, made, program=program)
    return made


@functools.partial(jax.jit, static_argnames=("program",))
def _run(wide, shared, made, *, program):
    found = {("node", i): value for i, value in zip(program.takes, made, strict=True)}
    found |= _unpack(wide, program.across, wide.shape[-1:]) | _unpack(shared, program.along, ())
    for i, name, operands in program.nodes:
        found["node", i] = getattr(jnp, name)(*(found[p] if isinstance(p, tuple) else p for p in operands))
    return [found[place] for place in program.gives]


def _unpack(table: jax.Array, inputs: Sequence, last: tuple[int, ...]) -> dict[tuple, jax.Array]:
    """Inputs out of the rows of a table, in order; `last` is the length of the axis they all share, if any."""
    found, row = {}, 0
    for i, shape, boolean in inputs:
        rows = math.prod(shape)
        value = table[row : row + rows].reshape(shape + last)
        found["input", i] = value != 0.0 if boolean else value
        row += rows
    return found


def _needed(tape: Tape, places: Sequence) -> list[int]:
    wanted = {p[1] for p in places if _is(p, "node")}
    for i in range(len(tape.nodes) - 1, -1, -1):
        if i in wanted:
            wanted |= {p[1] for p in tape.nodes[i][1] if _is(p, "node")}
    return sorted(wanted)


def _is(place, kind: str) -> bool:
    return isinstance(place, tuple) and place[0] == kind


def _spec(i: int, value: np.ndarray) -> tuple[int, tuple[int, ...], bool]:
    return i, value.shape[:-1] if value.ndim and value.shape[-1] > 1 else value.shape, value.dtype == bool
