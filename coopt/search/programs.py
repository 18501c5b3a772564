"""A recorded expression as compiled programs: cut where its arrays grow, so that nothing small is computed large."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import Any

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
    """The programs that compute `results` (terms or numbers) from what is on the tape.

    What is recorded but not asked for, such as rows that only an explanation reads, is left out.
    """
    places: list = [tape.place(one if isinstance(one, Term) else np.float64(one)) for one in results]
    needed = _needed(tape, places)
    used = {p[1] for p in (*places, *_operands(tape, needed)) if _is(p, "input")}
    varied = {i for i in used if tape.inputs[i].ndim and tape.inputs[i].shape[-1] > 1}
    width = max((tape.inputs[i].shape[-1] for i in varied), default=1)
    wide = [tape.inputs[i].reshape(-1, width).astype(np.float64) for i in sorted(varied)]
    shared = [tape.inputs[i].reshape(-1).astype(np.float64) for i in sorted(used - varied)]
    return Recorded(
        programs=_programs(tape, places, needed, across=tuple(_spec(i, tape.inputs[i]) for i in sorted(varied)),
                           along=tuple(_spec(i, tape.inputs[i]) for i in sorted(used - varied))),
        wide=np.concatenate(wide) if wide else np.empty((0, width)),
        shared=np.concatenate(shared) if shared else np.empty(0),
        work=sum(math.prod(tape.nodes[i][2]) for i in needed) / width,
    )  # fmt: skip


def run(recorded: Recorded, wide: np.ndarray, shared: np.ndarray) -> list[jax.Array]:
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


def _programs(tape: Tape, places: list, needed: list[int], *, across: tuple, along: tuple) -> tuple[Program, ...]:
    """Small nodes first, then large ones: an operand is never larger than its result, so none is needed earlier."""
    extents = {i: math.prod(tape.nodes[i][2]) for i in needed}
    small = [i for i in needed if extents[i] <= GROWTH * max(extents.values())]
    large = sorted(set(needed) - set(small))
    carried = sorted({p for p in (*places, *_operands(tape, large)) if _is(p, "node") and p[1] in set(small)})
    parts = [(large, carried, places)]
    if small:
        parts.insert(0, (small, [], carried))
    return tuple(
        Program(nodes=tuple((i, *tape.nodes[i][:2]) for i in nodes), takes=tuple(i for _, i in takes),
                gives=tuple(gives), across=across, along=along)
        for nodes, takes, gives in parts
    )  # fmt: skip


def _operands(tape: Tape, nodes: Sequence[int]) -> list:
    return [operand for i in nodes for operand in tape.nodes[i][1]]


def _needed(tape: Tape, places: list) -> list[int]:
    wanted = {p[1] for p in places if _is(p, "node")}
    for i in range(len(tape.nodes) - 1, -1, -1):
        if i in wanted:
            wanted |= {p[1] for p in _operands(tape, [i]) if _is(p, "node")}
    return sorted(wanted)


def _is(place: Any, kind: str) -> bool:
    return isinstance(place, tuple) and place[0] == kind


def _spec(i: int, value: np.ndarray) -> tuple[int, tuple[int, ...], bool]:
    return i, value.shape[:-1] if value.ndim and value.shape[-1] > 1 else value.shape, value.dtype == bool
