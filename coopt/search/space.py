"""Spaces: an ordered tuple of axes over the fields of a candidate, with an exact size and nothing built beforehand.

An axis holds the values that one field, or several coupled fields, may take: one row a choice. The space is their
product, outermost axis first. A candidate is named by an integer (any size) or by its digits, one an axis.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from coopt.problems import Problem, Refused
from coopt.spec import nouns
from coopt.tree import replace, struct

INT64 = 2**63 - 1


@struct
class Candidate:
    """Everything that pricing reads; its leaves may be scalar, flat `(n,)` or shaped by lattice axes."""

    model: nouns.Model = nouns.Model()
    layout: nouns.Layout = nouns.Layout()
    workload: nouns.Workload = nouns.Workload()
    hardware: nouns.Hardware | None = None
    law: nouns.Law | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class Axis:
    """Choices for one field or for several coupled ones: `values[choice, field]`; `labels` name the choices.

    A path is a field of `Candidate`, dotted: `layout.tp`, `model.kinds.0.count`, `workload.phases.0.batch`.
    """

    name: str
    paths: tuple[str, ...]
    values: np.ndarray  # (choices, fields), float64
    labels: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.values)


@dataclasses.dataclass(frozen=True, eq=False)
class Space:
    """The product of `axes` around a `base` candidate; `removed` counts tuples that divisibility ruled out, by rule."""

    axes: tuple[Axis, ...]
    base: Candidate
    name: str = ""
    removed: tuple[tuple[str, int], ...] = ()


@dataclasses.dataclass(frozen=True)
class Slab:
    """A run of consecutive candidates: axes before `axis` fixed at `digits`, choices `[low, high)` of `axis`."""

    axis: int
    digits: tuple[int, ...]
    low: int
    high: int
    start: int  # index of its first candidate
    size: int  # candidates in it


def axis(name: str, path: str | Sequence[str], choices: Sequence[Any], *, labels: Sequence[str] = ()) -> Axis:
    """An axis from plain choices: numbers for one path, tuples of numbers for several.

    >>> axis("micro_batch", "layout.micro_batch", [1, 2, 4]).values.shape
    (3, 1)
    """
    paths = (path,) if isinstance(path, str) else tuple(path)
    values = np.asarray([np.atleast_1d(choice) for choice in choices], dtype=np.float64).reshape(-1, len(paths))
    return Axis(name=name, paths=paths, values=values, labels=tuple(labels))


def product(axes: Sequence[Axis], base: Candidate, *, name: str = "", removed: Sequence[tuple[str, int]] = ()) -> Space:
    """A checked space: every path exists, is set by one axis alone, and every axis has a choice.

    Raises:
      Refused: naming each axis that is empty (with what was removed from it) or sets a field it cannot set.
    """
    problems, seen = [], {}
    for one in axes:
        if not len(one):
            ruled = "; ".join(f"{rule} removed {count:,}" for rule, count in removed)
            problems.append(Problem(field=f"axes.{one.name}", expected="at least one choice", got="none", hint=ruled))
        for path in one.paths:
            if path in seen:
                problems.append(
                    Problem(field=f"axes.{one.name}", expected="a field that no other axis sets", got=path,
                            hint=f"axis {seen[path]} sets it too")
                )  # fmt: skip
            seen[path] = one.name
            if not _is_leaf(base, path):
                problems.append(
                    Problem(field=f"axes.{one.name}", expected="a numeric field of a candidate", got=path,
                            hint="write for example layout.tp, model.d_model, model.kinds.0.d_ff")
                )  # fmt: skip
    if problems:
        raise Refused(*problems)
    return Space(axes=tuple(axes), base=base, name=name, removed=tuple(removed))


def size(space: Space) -> int:
    """The exact number of candidates, as a Python integer of any length."""
    return math.prod(len(one) for one in space.axes)


def digits(space: Space, index: int) -> tuple[int, ...]:
    """The choice on each axis of candidate `index`, by exact integer arithmetic.

    >>> twelve = Space(axes=(axis("a", "layout.tp", range(3)), axis("b", "layout.pp", range(4))), base=Candidate())
    >>> digits(twelve, 7), index(twelve, (1, 3)), size(twelve)
    ((1, 3), 7, 12)
    """
    if not 0 <= index < size(space):
        raise IndexError(f"candidate {index} of a space of {size(space)}")
    found = []
    for one in reversed(space.axes):
        index, digit = divmod(index, len(one))
        found.append(digit)
    return tuple(reversed(found))


def index(space: Space, digits: Sequence[int]) -> int:
    """The inverse of `digits`."""
    total = 0
    for one, digit in zip(space.axes, digits, strict=True):
        total = total * len(one) + int(digit)
    return total


def all_digits(space: Space, indices: Sequence[int] | np.ndarray) -> np.ndarray:
    """Digits of many candidates, `(n, axes)`; Python integers where an index does not fit 64 bits."""
    if size(space) > INT64:
        return np.asarray([digits(space, int(i)) for i in indices], dtype=np.int64).reshape(-1, len(space.axes))
    rest = np.asarray(indices, dtype=np.int64)
    found = np.empty((len(rest), len(space.axes)), dtype=np.int64)
    for position in range(len(space.axes) - 1, -1, -1):
        rest, found[:, position] = np.divmod(rest, len(space.axes[position]))
    return found


def candidate(space: Space, index: int) -> Candidate:
    """One candidate, its leaves plain floats."""
    leaves = {}
    for one, digit in zip(space.axes, digits(space, index), strict=True):
        leaves |= {path: float(value) for path, value in zip(one.paths, one.values[digit], strict=True)}
    return put(space.base, leaves)


def flat(space: Space, digits: np.ndarray) -> Candidate:
    """Many candidates with leaves of shape `(n,)`, from their digits `(n, axes)`; fields off every axis stay scalar."""
    return put(space.base, flat_leaves(space, digits))


def flat_leaves(space: Space, digits: np.ndarray) -> dict[str, np.ndarray]:
    """The same by path: what the axes set in each candidate."""
    leaves = {}
    for position, one in enumerate(space.axes):
        rows = one.values[digits[:, position]]
        leaves |= {path: np.ascontiguousarray(rows[:, field]) for field, path in enumerate(one.paths)}
    return leaves


def lattice(space: Space) -> Candidate:
    """A whole space with every leaf shaped by its own axis, `(1, .., n, .., 1)`."""
    return put(space.base, lattice_leaves(space))


def lattice_leaves(
    space: Space, slab: Slab | None = None, *, order: Sequence[int] | None = None
) -> dict[str, np.ndarray]:
    """The same by path, of a slab (default: the whole space).

    `order` lists the axes from `slab.axis` on as the dimensions of the leaves; without it they are in the space's own
    order. Axes before the slab's are scalars.
    """
    slab = slab or Slab(axis=0, digits=(), low=0, high=len(space.axes[0]), start=0, size=size(space))
    leaves = {}
    for one, digit in zip(space.axes, slab.digits, strict=False):
        leaves |= dict(zip(one.paths, one.values[digit], strict=True))
    order = list(order or range(slab.axis, len(space.axes)))
    for dimension, position in enumerate(order):
        one = space.axes[position]
        rows = one.values[slab.low : slab.high] if position == slab.axis else one.values
        leaves |= _shaped(one, rows, dimension, len(order))
    return leaves


def block_leaves(space: Space, digits: np.ndarray) -> dict[str, np.ndarray]:
    """The candidates below each row of leading `digits` `(b, k)`: leading axes share dimension 0, the rest follow.

    Leaves by path, of shape `(b, 1, ..)` for the leading axes and `(1, .., n, .., 1)` for the others.
    """
    lead, leaves = digits.shape[1], {}
    rank = 1 + len(space.axes) - lead
    for position, one in enumerate(space.axes):
        if position < lead:
            leaves |= _shaped(one, one.values[digits[:, position]], 0, rank)
        else:
            leaves |= _shaped(one, one.values, position - lead + 1, rank)
    return leaves


def walk(space: Space, cut: int, length: int) -> Iterator[Slab]:
    """The slabs of at most `length` choices of axis `cut`, in order of index, made one at a time."""
    inner = math.prod(len(one) for one in space.axes[cut + 1 :])
    outer = Space(axes=space.axes[:cut], base=space.base)
    width = len(space.axes[cut])
    for number in range(size(outer)):
        chosen = digits(outer, number)
        for low in range(0, width, length):
            high = min(low + length, width)
            yield Slab(axis=cut, digits=chosen, low=low, high=high, start=(number * width + low) * inner,
                       size=(high - low) * inner)  # fmt: skip


def settings(space: Space, index: int) -> dict[str, float | str]:
    """What the axes set in a candidate: `{path: value}`, with an axis's label under its name where it has one."""
    said: dict[str, float | str] = {}
    for one, digit in zip(space.axes, digits(space, index), strict=True):
        if one.labels:
            said[one.name] = one.labels[digit]
        else:
            said |= {path: float(value) for path, value in zip(one.paths, one.values[digit], strict=True)}
    return said


def put(tree: Any, leaves: dict[str, Any]) -> Any:
    """A tree with the leaves at dotted paths replaced.

    >>> put(Candidate(), {"layout.tp": 8.0, "workload.phases.0.batch": 64.0}).workload.train.batch
    64.0
    """
    if "" in leaves:
        return leaves[""]
    below: dict[str, dict[str, Any]] = {}
    for path, value in leaves.items():
        head, _, rest = path.partition(".")
        below.setdefault(head, {})[rest] = value
    if isinstance(tree, tuple):
        return tuple(put(item, below[str(i)]) if str(i) in below else item for i, item in enumerate(tree))
    return replace(tree, **{name: put(getattr(tree, name), inside) for name, inside in below.items()})


def get(tree: Any, path: str) -> Any:
    """What stands at a dotted path.

    >>> get(Candidate(), "workload.phases.0.repeat")
    1.0
    """
    for name in path.split("."):
        tree = tree[int(name)] if isinstance(tree, tuple) else getattr(tree, name)
    return tree


def _shaped(one: Axis, rows: np.ndarray, position: int, rank: int) -> dict[str, np.ndarray]:
    shape = (1,) * position + (len(rows),) + (1,) * (rank - position - 1)
    return {path: np.ascontiguousarray(rows[:, field]).reshape(shape) for field, path in enumerate(one.paths)}


def _is_leaf(tree: Any, path: str) -> bool:
    for name in path.split("."):
        if isinstance(tree, tuple) and name.isdigit() and int(name) < len(tree):
            tree = tree[int(name)]
            continue
        field = {f.name: f for f in dataclasses.fields(tree)}.get(name) if dataclasses.is_dataclass(tree) else None
        if field is None or "role" in field.metadata:
            return False
        tree = getattr(tree, name)
    return not isinstance(tree, tuple) and not dataclasses.is_dataclass(tree) and tree is not None
