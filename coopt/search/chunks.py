"""Chunks of a space through the expression: small terms in NumPy once a tile, the rest compiled, reduced by block.

A tile is a run of choices of one long axis times all axes inside it. The long axis is laid out last in memory, so that
every loop of the compiled part runs along contiguous vectors, and a block's axes first, so that a minimum over a block
is a minimum of whole slices.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np

from coopt.search.exact import Task
from coopt.search.floors import Floor, floors
from coopt.search.programs import Staged, execute, inputs, run, stage
from coopt.search.recorded import columns
from coopt.search.space import Slab, lattice_leaves, size, walk

TILE = 1024  # choices of the long axis in a tile, at most
INNER = 2**19  # candidates inside one choice of it, at most
NARROW = 8  # choices of it in a chunk come in multiples of this: vectors of the machine stay full
EAGER = 64  # extent up to which NumPy computes a term at once,
SHARE = 64  # or this part of all that lies inside a choice of the long axis
WORTH = 2**19  # elements over the whole space up to which NumPy is done before a compiler would be
TERM = 2**17  # elements of such a term in a tile: many of them live at a time
TILES = 256  # more tiles than this, of narrow ones, and everything is compiled


@dataclasses.dataclass(frozen=True, eq=False)
class Plan:
    """How a space is cut: the long axis, its choices a chunk, the order of axes in memory, and what runs eagerly."""

    task: Task
    cut: int
    length: int
    order: tuple[int, ...]
    tile: int
    staged: Staged
    floors: tuple[Floor, ...]

    @property
    def inner(self) -> int:
        """Candidates inside one choice of the long axis."""
        return math.prod(len(one) for one in self.task.space.axes[self.cut + 1 :])


@dataclasses.dataclass(frozen=True, eq=False)
class Chunk:
    """Some columns of a tile; the first `skip` of them were counted before."""

    wide: np.ndarray  # (rows, columns of the tile): what the programs start from
    shared: np.ndarray
    slab: Slab
    low: int
    skip: int
    columns: int


def plan(task: Task, *, target: int) -> Plan:
    """A plan for chunks of about `target` candidates.

    The long axis is the longest with at most INNER candidates inside a choice of it. The length of a chunk depends on
    what is inside, not on how long the axis is, so another machine size compiles nothing.
    """
    axes = task.space.axes
    inside = [math.prod(len(one) for one in axes[position + 1 :]) for position in range(len(axes))]
    fitting = [position for position in range(len(axes)) if inside[position] <= INNER]
    cut = max(fitting, key=lambda position: (len(axes[position]), -position))
    lead = max(task.lead, cut + 1)
    order = (*range(lead, len(axes)), *range(cut + 1, lead), cut)
    repeats = size(task.space) // inside[cut]
    eager = max(EAGER, inside[cut] // SHARE, WORTH // repeats)
    tile = max(min(TILE, TERM // eager), NARROW)
    length = max(min(target // inside[cut], tile) // NARROW * NARROW, NARROW)
    tiles = math.prod(len(one) for one in axes[:cut]) * -(-len(axes[cut]) // tile)
    if tiles > TILES and inside[cut] < EAGER:
        eager = -1
    recorded, least = floors(task.recorded, task.space, range(lead, len(axes)))
    return Plan(task=dataclasses.replace(task, lead=lead, block=math.prod(len(one) for one in axes[lead:])), cut=cut,
                length=min(length, _padded(len(axes[cut]))), order=order, tile=tile,
                staged=stage(recorded, axes={one: len(axes[one]) for one in order}, eager=eager),
                floors=least)  # fmt: skip


def chunks(plan: Plan) -> Iterator[Chunk]:
    """All chunks, tile by tile; the last of a tile overlaps the one before, so that all have one length."""
    space, recorded = plan.task.space, plan.task.recorded
    for slab in walk(space, plan.cut, plan.tile):
        wide, shared = inputs(plan.staged, columns(space, recorded, lattice_leaves(space, slab, order=plan.order)))
        many = slab.high - slab.low
        for low in range(0, many, plan.length):
            first = max(min(low, many - plan.length), 0)
            yield Chunk(wide=wide, shared=shared, slab=slab, low=first, skip=low - first,
                        columns=min(plan.length, many))  # fmt: skip


def reduce(plan: Plan, chunk: Chunk, *, reasons: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """One chunk: counts by reason, the first index of each block, and the blocks' minima `(objectives, blocks)`."""
    task, columns = plan.task, slice(chunk.skip, chunk.columns)
    wide = chunk.wide[:, chunk.low : chunk.low + plan.length]
    if wide.shape[1] < plan.length:  # a tile shorter than a chunk repeats its last choice
        wide = np.pad(wide, ((0, 0), (0, plan.length - wide.shape[1])), mode="edge")
    wide, axes, programs = np.ascontiguousarray(wide), task.space.axes, plan.staged.programs
    made = run(programs[:-1], wide, chunk.shared)
    shape = (1,) * len(plan.order[1:]) + (plan.length,)
    codes, minima = _minima(wide, chunk.shared, made, program=programs[-1], floors=plan.floors,
                            block=len(axes) - task.lead, shape=shape)  # fmt: skip
    codes = np.asarray(codes)[..., columns]
    repeated = plan.inner * codes.shape[-1] // codes.size
    counts = repeated * np.asarray(_count(codes, reasons))
    grid = (*(len(one) for one in axes[plan.cut + 1 : task.lead]), codes.shape[-1])
    table = np.empty((len(minima), math.prod(grid)))
    for row, one in zip(table, minima, strict=True):
        row.reshape(grid)[...] = np.asarray(one)[..., columns]
    within = np.arange(math.prod(grid[:-1]), dtype=np.int64)[:, None] * task.block
    across = (chunk.low + chunk.skip + np.arange(grid[-1], dtype=np.int64)) * plan.inner
    return counts, (chunk.slab.start + within + across).reshape(-1), table


@functools.partial(jax.jit, static_argnames=("program", "floors", "block", "shape"))
def _minima(wide, shared, made, *, program, floors, block, shape):
    """Codes as bytes, and each objective's minima over the first `block` axes; infinite or NaN where there is none.

    Compiled together with the program that makes them, so that nothing of full size is ever written.
    """
    code, *found = execute(wide, shared, made, program=program)
    code = jnp.broadcast_to(code, np.broadcast_shapes(code.shape, shape))
    barred, least, minima = jnp.where(code < 0.5, 0.0, jnp.inf), {}, []
    for floor in floors:
        if floor.varies not in least:
            value = found[floor.varies - 1] + barred
            slices = [value[place] for place in itertools.product(*(range(n) for n in value.shape[:block]))]
            least[floor.varies] = functools.reduce(_lesser, slices, jnp.asarray(jnp.inf))
        value = least[floor.varies]
        for name, other in floor.then:
            other = found[other - 1]
            value = getattr(jnp, name)(value, other[(0,) * block] if other.ndim else other)
        minima.append(value)
    return code.astype(jnp.uint8), minima


def _lesser(least: jax.Array, value: jax.Array) -> jax.Array:
    """The smaller of two, NaN counting as none: one instruction of the machine."""
    return jnp.where(value < least, value, least)


def _count(codes: np.ndarray, reasons: int) -> list[int]:
    """How often each code occurs; comparing bytes is what NumPy does fastest."""
    counts, left = [0] * reasons, codes.size
    for code in range(reasons):
        if left:
            counts[code] = int(np.count_nonzero(codes == code))
            left -= counts[code]
    return counts


def _padded(length: int) -> int:
    return max(8 * -(-length // 8), NARROW)
