"""A recorded expression, run over tiles: in NumPy where its terms are small, compiled where they are large.

The recording is made once a sweep. Most of its thousands of operations are replayed for every tile of candidates, with
nothing to compile, up to the few that most axes touch: those are XLA's.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from coopt.search.recorded import Recorded, Step, freed, replay

GROWTH = 0.2  # share of the largest extent below which compiled operations are a program of their own


@dataclasses.dataclass(frozen=True)
class Program:
    """Structure alone, hashable: which steps run, what they are given and what they give."""

    steps: tuple[tuple, ...]  # (place, operation, operands)
    numbers: tuple[tuple[int, Any], ...]  # of the code
    takes: tuple[int, ...]  # what an earlier program made
    gives: tuple[int, ...]
    across: tuple[tuple, ...]  # inputs (place, shape but for the last axis, is boolean) that vary along it
    along: tuple[tuple, ...]  # inputs (place, shape, is boolean) that do not


@dataclasses.dataclass(frozen=True, eq=False)
class Staged:
    """A recording cut in two: steps that NumPy runs for every tile, and programs for the rest."""

    recorded: Recorded
    eager: tuple[Step, ...]
    programs: tuple[Program, ...]
    work: float  # compiled element operations for one choice of the last axis


def stage(recorded: Recorded, *, axes: Mapping[int, int], eager: int) -> Staged:
    """Cuts a recording for tiles whose dimensions are `axes`, `{axis: length}`, the long one last.

    A step whose result has at most `eager` elements along all of them but the last is NumPy's. No result is smaller
    than an operand, so that those come first.
    """

    def shape(place: int) -> tuple[int, ...]:
        on = recorded.axes[place]
        return tuple(length if axis in on else 1 for axis, length in axes.items()) if on else ()

    large = [step for step in recorded.steps if math.prod(shape(step[0])[:-1]) > eager]
    made = {step[0] for step in large}
    read = {place for step in large for place in step[2]}.union(recorded.results) - made
    literals = {place for place in read if recorded.literals <= place < recorded.first}
    given = sorted(read - literals)
    across = [place for place in given if shape(place)[-1:] > (1,)]
    small = [step for step in recorded.steps if step[0] not in made]
    programs = _programs(
        large, {place: math.prod(shape(place)) for place in made}, results=recorded.results,
        numbers=tuple((place, recorded.numbers[place - len(recorded.inputs)]) for place in sorted(literals)),
        across=tuple((place, shape(place)[:-1], recorded.truths[place]) for place in across),
        along=tuple((place, shape(place), recorded.truths[place]) for place in given if place not in set(across)),
    )  # fmt: skip
    width = max((shape(place)[-1] for place in made), default=1)
    keep = (*given, *range(recorded.first))
    return Staged(recorded=recorded, eager=freed(small, keep=keep), programs=programs,
                  work=sum(math.prod(shape(place)) for place in made) / width)  # fmt: skip


def inputs(staged: Staged, leaves: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """What the programs of a tile start from: `(rows, n)` along the last axis, and flat what does not vary there."""
    recorded, (program, *_) = staged.recorded, staged.programs
    values = [*leaves, *recorded.numbers, *[None] * len(recorded.nodes)]
    replay(staged.eager, values)
    wide = [np.asarray(values[place], float).reshape(math.prod(shape), -1) for place, shape, _ in program.across]
    shared = [np.asarray(values[place], float).reshape(-1) for place, _, _ in program.along]
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
    for place, name, operands in program.steps:
        found[place] = getattr(jnp, name)(*(found[one] for one in operands))
    return [jnp.asarray(found[place]) for place in program.gives]


_compiled = jax.jit(execute, static_argnames=("program",))


def _unpack(table: jax.Array, inputs: Sequence, last: tuple[int, ...]) -> dict[int, jax.Array]:
    """Inputs out of the rows of a table, in order; `last` is the length of the axis they all share, if any."""
    found, row = {}, 0
    for place, shape, boolean in inputs:
        rows = math.prod(shape)
        value = table[row : row + rows].reshape(shape + last)
        found[place] = value != 0.0 if boolean else value
        row += rows
    return found


def _programs(
    steps: Sequence[Step], extents: Mapping[int, int], *, results: tuple[int, ...], **given: Any
) -> tuple[Program, ...]:
    """Small steps first, then large ones: an operand is never larger than its result, so none is needed earlier."""
    most = GROWTH * max(extents.values(), default=0)
    small, large = ([step for step in steps if (extents[step[0]] <= most) == is_small] for is_small in (True, False))
    early = {step[0] for step in small}
    carried = tuple(sorted(early & {place for step in large for place in step[2]}.union(results)))
    parts = [(large, carried, results)]
    if small:
        parts.insert(0, (small, (), carried))
    return tuple(
        Program(steps=tuple((place, function.__name__, operands) for place, function, operands, _ in part),
                takes=takes, gives=gives, **given)
        for part, takes, gives in parts
    )  # fmt: skip
