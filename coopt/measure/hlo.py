"""What the text of a compiled XLA module says: its collectives, products and loops."""

from __future__ import annotations

import dataclasses
import hashlib
import math
import re

import numpy as np

KINDS = {
    "all-reduce": "all_reduce",
    "all-gather": "all_gather",
    "reduce-scatter": "reduce_scatter",
    "all-to-all": "all_to_all",
    "ragged-all-to-all": "all_to_all",
    "collective-permute": "p2p",
}
_BITS = {
    "pred": 8,
    "s4": 4,
    "u4": 4,
    "s8": 8,
    "u8": 8,
    "s16": 16,
    "u16": 16,
    "s32": 32,
    "u32": 32,
    "s64": 64,
    "u64": 64,
}
_BITS |= {"f16": 16, "bf16": 16, "f32": 32, "f64": 64, "c64": 64, "c128": 128}
_COLLECTIVE = re.compile(
    r"^\s*(?:ROOT )?%?[\w.-]+ = (?P<shape>\(.*?\)|\S+) "
    r"(?P<name>ragged-all-to-all|all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute)(?P<start>-start)?\(",
    re.MULTILINE,
)
_ARRAY = re.compile(r"\b([a-z]+[0-9]*(?:e[0-9]m[0-9][a-z]*)?)\[([0-9,]*)\]")
_GROUPS_LISTED = re.compile(r"replica_groups=\{\{([0-9,]+)\}")
_GROUPS_IOTA = re.compile(r"replica_groups=\[(\d+),(\d+)\](?:<=\[([\d,]+)\](?:T\(([\d,]+)\))?)?")
_PAIRS = re.compile(r"source_target_pairs=\{\{([0-9,]+)\}")
_GROUPS_MESH = re.compile(r"replica_groups=mesh\[([^\]]*)\][^{]*\{([^}]*)\}")
_METADATA = re.compile(r", metadata=\{[^}]*\}")
_SOURCES = re.compile(r"^(?:FileNames|FunctionNames|FileLocations|StackFrames)\n(?:\d.*\n)*\n?", re.MULTILINE)
_PRODUCT = re.compile(
    r" (?:dot|ragged-dot|convolution)\(|custom_call_target=\"[^\"]*(?:gemm|matmul|\$dot|\$onednn)", re.I
)
_LOOP = re.compile(r" while\(")


@dataclasses.dataclass(frozen=True)
class Collective:
    """One collective of a compiled module, as each chip runs it."""

    kind: str  # one of nouns.COLLECTIVES
    bytes: float  # of the full buffer a chip holds: before a reduction, after a gather
    size: int  # chips in a group; 0: not said


def shape_bytes(shape: str) -> list[float]:
    """Bytes of each array in the text of a shape.

    >>> shape_bytes("(f32[8,4]{1,0}, bf16[2])")
    [128.0, 4.0]
    """
    found = []
    for name, sizes in _ARRAY.findall(shape):
        bits = _BITS.get(name, 8 if name.startswith("f8") else 4 if name.startswith("f4") else math.nan)
        found.append(math.prod(int(s) for s in sizes.split(",") if s) * bits / 8.0)
    return found


def collectives(text: str) -> tuple[Collective, ...]:
    """The collectives of a module, in the order of the text; one inside a loop's body is listed once.

    >>> collectives("  %a = f32[16]{0} all-gather(f32[2]{0} %b), replica_groups={{0,1,2,3,4,5,6,7}}, dimensions={0}")
    (Collective(kind='all_gather', bytes=64.0, size=8),)
    """
    found = []
    for match in _COLLECTIVE.finditer(text):
        line = text[match.start() : text.find("\n", match.end()) if "\n" in text[match.end() :] else len(text)]
        size = group_size(line)
        kind = KINDS[match["name"]]
        arrays = shape_bytes(match["shape"])
        if match["start"] and len(arrays) > 1 and kind != "all_reduce":
            arrays = results(arrays)
        payload = sum(arrays) * (max(size, 1) if kind == "reduce_scatter" else 1)
        found.append(Collective(kind=kind, bytes=payload, size=2 if kind == "p2p" else size))
    return tuple(found)


def first_group(line: str) -> tuple[int, ...]:
    """The devices of one group of the collective on this line, in any of the four ways XLA writes groups.

    >>> first_group("replica_groups={{0,2},{1,3}}"), first_group("replica_groups=[2,4]<=[4,2]T(1,0)")
    ((0, 2), (0, 2, 4, 6))
    >>> first_group("replica_groups=mesh['a'=4,'b'=2] {'a'}"), first_group("replica_groups=mesh['a'=8] {'a':(2)4}")
    ((0, 2, 4, 6), (0, 1, 2, 3))
    >>> first_group("source_target_pairs={{0,1},{1,2}}")
    (0, 1)
    """
    if listed := _GROUPS_LISTED.search(line) or _PAIRS.search(line):
        return tuple(int(one) for one in listed[1].split(","))
    if iota := _GROUPS_IOTA.search(line):
        shape = [int(size) for size in (iota[3] or str(int(iota[1]) * int(iota[2]))).split(",")]
        order = [int(axis) for axis in iota[4].split(",")] if iota[4] else range(len(shape))
        every = np.arange(math.prod(shape)).reshape(shape).transpose(tuple(order))
        return tuple(map(int, every.reshape(int(iota[1]), int(iota[2]))[0]))
    if not (mesh := _GROUPS_MESH.search(line)):
        return ()
    sizes = {axis: int(size) for axis, size in re.findall(r"'([^']+)'=(\d+)", mesh[1])}
    grid = np.arange(math.prod(sizes.values())).reshape(tuple(sizes.values()))
    taken = {}
    for axis, before, part in re.findall(r"'([^']+)'(?::\((\d+)\)(\d+))?", mesh[2]):
        # A part of an axis is written 'name':(pre-size)size, and is one axis of the three that it falls into.
        after = sizes[axis] // (int(before) * int(part)) if part else 1
        taken[axis] = np.arange(int(part)) * after if part else np.arange(sizes[axis])
    chosen = np.ix_(*(taken.get(axis, np.zeros(1, int)) for axis in sizes))
    return tuple(map(int, grid[chosen].reshape(-1)))


def group_size(line: str) -> int:
    """Chips in a group of the collective on this line; 0: not said.

    >>> group_size("replica_groups={{0,2},{1,3}}"), group_size("replica_groups=[2,4]<=[4,2]T(1,0)")
    (2, 4)
    """
    return 0 if "source_target_pairs" in line else len(first_group(line))


def results(arrays: list[float]) -> list[float]:
    """The results of a started collective, whose tuple lists operands, results and (permute) context words."""
    arrays = [a for a in arrays if a > 4.0]
    return arrays[len(arrays) // 2 :]


def products(text: str) -> int:
    """How many matrix products a module contains; a loop's body counts once."""
    return len(_PRODUCT.findall(text))


def loops(text: str) -> int:
    """How many loops a module contains; XLA's own counts take each body once, whatever its trips."""
    return len(_LOOP.findall(text))


def digest(text: str) -> str:
    """SHA-256 of a module without what names source lines: equal programs of different callers have equal digests.

    >>> digest("a, metadata={op_name='b'}") == digest("a") == digest(chr(10).join(["FileNames", "1 f.py", "", "a"]))
    True
    """
    return hashlib.sha256(_SOURCES.sub("", _METADATA.sub("", text)).encode()).hexdigest()
