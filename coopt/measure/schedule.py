"""What one step of a compiled TPU program executes: every operation of the schedule, how often, and at what estimate.

The compiler writes `estimated_cycles` on fusions, copies and other operations that it models, and nothing on
collectives, kernels, gathers and sorts: those are rows without cycles, for others to price.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterator, Sequence

from coopt.measure import hlo, loops
from coopt.measure.modules import Instruction, Module, parse
from coopt.measure.traffic import traffic

DOTS = ("convolution", "dot", "ragged-dot")
MOVES = ("gather", "scatter", "sort")
Layers = Sequence[tuple[int, int]]
_ELEMENTS = re.compile(r"\b([a-z]+[0-9]*(?:e[0-9]m[0-9][a-z]*)?)\[([0-9,]*)\]")
_STEPS = re.compile(r"-(?:start|update|done)$")
_DILATED = re.compile(r"window=\{size=([\dx]+)[^}]* lhs_dilate=([\dx]+)")
_KERNEL = re.compile(r"splash_\w*?(fwd|dkv|dq)")
_GROUPED = re.compile(r"^(t?gmm)\b")


@dataclasses.dataclass(frozen=True)
class Product:
    """A matrix product: (m, k) times (k, n), with the types of both sides and of the result."""

    m: int
    n: int
    k: int
    types: tuple[str, str, str]


@dataclasses.dataclass(frozen=True)
class Row:
    """One operation of a schedule, as each device runs it."""

    name: str
    kind: str  # matmul | attention | experts | collective | other
    times: float  # executions a step
    cycles: float  # of one execution; NaN: no estimate
    label: str  # the operation of the program
    traffic: float = 0.0  # B of main memory, one execution
    products: tuple[Product, ...] = ()  # of a matmul, one for each of a batch; none where one could not be read
    kernel: str = ""  # attention: fwd, dq or dkv; experts: gmm, or tgmm for gradients of weights
    shape: tuple[int, ...] = ()  # attention: batch, heads, sequence, size; experts: groups, m, k, n
    collective: str = ""
    bytes: float = 0.0  # collective: the full buffer a device holds
    group: tuple[int, ...] = ()  # collective: the devices of one group
    hidden: bool = False  # collective: under way while others compute


@dataclasses.dataclass(frozen=True)
class Schedule:
    """The rows of a program, and the loops whose trips could not be read, which count once."""

    rows: tuple[Row, ...]
    unread: tuple[str, ...]


def schedule(text: str, *, layers: Layers = ()) -> Schedule:
    """The rows of a module's text.

    Args:
      layers: of each kind, how many the program has and how many it stands for; the loop of a kind goes round as much
        more often. The compiler may have taken one trip out of it, so numbers in the program differ by two or more.

    Raises:
      ValueError: there is no such loop.
    """
    module = parse(text)
    rows: list[Row] = []
    unread: list[str] = []
    more = {float(trips): (n, of) for n, of in layers if of != n for trips in (n - 1, n)}
    longer: set[tuple[int, int]] = set()  # whose loops were found

    def walk(computation: str, times: float, carried: loops.Carried, outer: bool) -> None:
        for one in module.computations[computation].values():
            if one.operation == "while":
                trips = loops.trips(module, one, computation, carried)
                if math.isnan(trips):
                    unread.append(one.name)
                    trips = 1.0
                own = one.label.rpartition("/")[2] in ("while", "")  # the partitioner's loops are named by a product
                layer = outer and own and trips in more
                if layer:
                    n, of = more[trips]
                    longer.add((n, of))
                    trips += of - n
                body = one.called("body")[0]
                inner = loops.kept(module, body, loops.carried_by(module, one, computation, carried))
                walk(body, times * trips, inner, outer and not layer)
            elif one.operation in ("call", "conditional"):
                for name in one.called():
                    walk(name, times, {}, outer)
            elif found := row(module, computation, one, times):
                rows.append(found)

    walk(module.entry, 1.0, {}, True)
    if missing := [n for n, of in layers if of != n and (n, of) not in longer]:
        raise ValueError(f"no loop of {missing[0]} layers in the compiled program")
    return Schedule(tuple(rows), tuple(unread))


def row(module: Module, computation: str, one: Instruction, times: float) -> Row | None:
    """The row of an instruction; None for what takes no time of its own (tuples, constants, ends of transfers)."""
    if one.operation == "custom-call":
        return _kernel(module, computation, one, times)
    base = _STEPS.sub("", one.operation)
    if one.operation.endswith("-done") or one.name.startswith("async-collective-done"):
        return None
    if base in hlo.KINDS:
        return _collective(one, one, times, one.operation != base)
    inside = list(_inside(module, one, computation))
    dots = [_products(module, name, dot) for name, dot in inside if dot.operation in DOTS]
    moved = next((dot for _, dot in inside if _STEPS.sub("", dot.operation) in hlo.KINDS), None)
    if dots:
        products = tuple(product for dot in dots for product in dot) if all(dots) else ()
        return Row(one.name, "matmul", times, one.cycles, one.label, traffic(module, computation, one), products)
    if moved is not None:
        return _collective(one, moved, times, "async" in one.name + " ".join(one.called()))
    moves = any(inner.operation in MOVES for _, inner in inside)
    if one.operation.endswith("-start") or math.isnan(one.cycles) and not moves:
        return None
    return Row(one.name, "other", times, one.cycles, one.label, traffic(module, computation, one))


def _inside(module: Module, one: Instruction, computation: str) -> Iterator[tuple[str, Instruction]]:
    """The instructions of a fusion, of fusions in it too, each with the computation it stands in."""
    yield computation, one
    if one.operation in ("fusion", "async-start"):
        for name in one.called():
            for inner in module.computations.get(name, {}).values():
                yield from _inside(module, inner, name)


def _arrays(shape: str) -> list[tuple[str, tuple[int, ...]]]:
    return [(kind, tuple(int(s) for s in sizes.split(",") if s)) for kind, sizes in _ELEMENTS.findall(shape)]


def _products(module: Module, computation: str, dot: Instruction) -> tuple[Product, ...]:
    """m, n and k of a product from the sizes of both sides and of the result, whatever axes the compiler gave them.

    |lhs| = m k, |rhs| = k n and |out| = m n, so m = sqrt(|lhs| |out| / |rhs|), and so on. Experts are a batch of
    products, which the compiler writes as a convolution along an axis whose window, as long as the axis, is dilated so
    far that each step sees one of them. None where sizes give no whole numbers.
    """
    around = module.computations.get(computation, {})
    shapes = [*(around[name].shape for name in dot.operands[:2] if name in around), dot.shape]
    arrays = [found[0] for shape in shapes if (found := _arrays(shape))]
    if len(arrays) != 3 or not all(math.prod(size) for _, size in arrays):
        return ()
    dilated = _DILATED.search(dot.rest)
    window = zip(*(map(int, sizes.split("x")) for sizes in dilated.groups()), strict=True) if dilated else ()
    batch = math.prod(size for size, dilation in window if size == dilation > 1)
    left, right, out = (math.prod(size) / batch for _, size in arrays)
    m, n, k = (math.sqrt(a * b / c) for a, b, c in ((left, out, right), (right, out, left), (left, right, out)))
    if any(abs(size - round(size)) > 1e-6 * size for size in (m, n, k)):
        return ()
    return batch * (Product(round(m), round(n), round(k), (arrays[0][0], arrays[1][0], arrays[2][0])),)


def _collective(one: Instruction, moved: Instruction, times: float, hidden: bool) -> Row:
    """The row of a collective; `moved` is the collective itself where `one` is a fusion round it."""
    kind = hlo.KINDS[_STEPS.sub("", moved.operation)]
    arrays = hlo.shape_bytes(moved.shape)
    if moved.operation.endswith("-start") and len(arrays) > 1 and kind != "all_reduce":
        arrays = hlo.results(arrays)
    group = hlo.first_group(moved.rest)
    payload = sum(arrays) * (max(len(group), 1) if kind == "reduce_scatter" else 1)
    if kind == "all_reduce" and "scatter" in " ".join(one.called()):  # summed, and each keeps its part alone
        kind = "reduce_scatter"
    return Row(
        one.name, "collective", times, math.nan, one.label or moved.label,
        collective=kind, bytes=payload, group=group, hidden=hidden,
    )  # fmt: skip


def _kernel(module: Module, computation: str, one: Instruction, times: float) -> Row | None:
    """The row of a kernel of attention or experts; None of another's without an estimate.

    Of attention the queries are the first operand of floats with heads; a batch of one sequence may have lost its axis.
    Of grouped products the groups are the array of three axes, and the other two, in their order, (m, k) and (m, n).
    """
    around = module.computations[computation]
    shapes = [around[name].shape for name in one.operands if name in around]
    given = [[size for kind, size in _arrays(shape) if "f" in kind] for shape in (*shapes, one.shape)]
    floats = [size for arrays in given for size in arrays if len(size) >= 2]
    if found := _KERNEL.search(one.name) or _KERNEL.search(one.label):
        shape = next(size for size in floats if len(size) >= 3)
        whole = (math.prod(shape[:-3]), *shape[-3:])
        return Row(one.name, "attention", times, math.nan, one.label, kernel=found[1], shape=whole)
    if found := _GROUPED.search(one.name):
        (groups,) = (size[0] for size in floats if len(size) == 3)
        (m, k), (_, n) = (size for size in floats if len(size) == 2)
        moved = traffic(module, computation, one)
        return Row(one.name, "experts", times, math.nan, one.label, moved, kernel=found[1], shape=(groups, m, k, n))
    return None if math.isnan(one.cycles) else Row(one.name, "other", times, one.cycles, one.label)
