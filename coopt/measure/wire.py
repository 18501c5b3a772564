"""The names that a compiler gave its operations, from the bytes of an xplane file.

`jax.profiler.ProfileData` shows the events of a trace; the modules they belong to lie beside them, in the metadata of
one plane, where it does not look. Only the few fields that are wanted are read, by the wire format of protocol buffers
(protobuf.dev/programming-guides/encoding) and the field numbers of tsl's `xplane.proto` and XLA's `hlo.proto`.
"""

from __future__ import annotations

import collections
from collections.abc import Iterator
from typing import Any

from coopt.measure.graphs import COPY, Schedules

PLANES, PLANE_NAME, EVENT_METADATA = 1, 2, 4  # XSpace.planes; XPlane.name, .event_metadata (a map: 1 key, 2 value)
METADATA_NAME, METADATA_STATS, STAT_BYTES = 2, 5, 6  # XEventMetadata.name, .stats; XStat.bytes_value
MODULE, MODULE_COMPUTATIONS, SCHEDULE = 1, 3, 7  # HloProto.hlo_module; HloModuleProto.computations, .schedule
INSTRUCTIONS, COMPUTATION_ID = 2, 5  # HloComputationProto
NAME, OPCODE, METADATA, CALLED, OP_NAME = 1, 2, 7, 38, 2  # HloInstructionProto; OpMetadata.op_name
TARGET, INSTRUCTION_ID = 28, 35  # HloInstructionProto.custom_call_target, .id
HEAVY = (b"dot", b"convolution", b"ragged-dot", b"custom-call")  # what a fusion's time is spent on, where it has one


def fields(data: bytes) -> Iterator[tuple[int, Any]]:
    """Number and value of each field of a message: integers, or bytes; raises ValueError or IndexError on nonsense.

    >>> list(fields(bytes([0x08, 0x96, 0x01, 0x12, 0x02, 0x68, 0x69])))
    [(1, 150), (2, b'hi')]
    """
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        kind = key & 7
        if kind == 0:
            value, at = _varint(data, at)
        elif kind in (1, 2, 5):
            size, at = _varint(data, at) if kind == 2 else (8 if kind == 1 else 4, at)
            if at + size > len(data):
                raise ValueError(f"a field of {size} bytes ends beyond the message")
            value, at = data[at : at + size], at + size
        else:
            raise ValueError(f"wire type {kind}")
        yield key >> 3, value


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return value, at


def modules(space: bytes) -> dict[str, bytes]:
    """The programs of a trace, each an `HloModuleProto`, by name and number: `jit_step(3)`."""
    found: dict[str, bytes] = {}
    for number, plane in fields(space):
        if number != PLANES:
            continue
        parts = list(fields(plane))
        if (PLANE_NAME, b"/host:metadata") not in parts:
            continue
        for entry in (value for number, value in parts if number == EVENT_METADATA):
            metadata = list(fields(dict(fields(entry))[2]))
            name = next(value for number, value in metadata if number == METADATA_NAME).decode()
            for stat in (value for number, value in metadata if number == METADATA_STATS):
                hlo = dict(fields(stat)).get(STAT_BYTES)
                if hlo is not None:
                    found[name] = dict(fields(hlo)).get(MODULE, b"")
    return found


def op_names(module: bytes) -> dict[str, str]:
    """`jax.named_scope` paths of a module's operations."""
    computations = {}
    for computation in (value for number, value in fields(module) if number == MODULE_COMPUTATIONS):
        parts = list(fields(computation))
        number = next((value for kind, value in parts if kind == COMPUTATION_ID), 0)
        computations[number] = [_instruction(value) for kind, value in parts if kind == INSTRUCTIONS]
    return {
        name.decode(): _scope(opcode, own, called, computations)
        for instructions in computations.values()
        for name, opcode, own, called in instructions
    }


def launches(module: bytes) -> Schedules:
    """What the computations of a module launch on a GPU, each in the order of its schedule."""
    parts = list(fields(module))
    launching = {}  # by the number of an instruction
    for computation in (value for number, value in parts if number == MODULE_COMPUTATIONS):
        for one in (dict(fields(value)) for number, value in fields(computation) if number == INSTRUCTIONS):
            opcode = one.get(OPCODE, b"")
            library = {b"fusion": "", b"copy": COPY, b"custom-call": one.get(TARGET, b"").decode()}.get(opcode)
            if library is not None:
                launching[one.get(INSTRUCTION_ID, 0)] = (one[NAME].decode(), library)
    orders = [_packed(dict(fields(dict(fields(entry))[2])).get(1, b""))
              for schedule in (value for number, value in parts if number == SCHEDULE)
              for _, entry in fields(schedule)]  # fmt: skip
    return tuple(tuple(launching[one] for one in order if one in launching) for order in orders)


def _instruction(data: bytes) -> tuple[bytes, bytes, str, list[int]]:
    name, opcode, own, called = b"", b"", "", []
    for number, value in fields(data):
        if number == NAME:
            name = value
        elif number == OPCODE:
            opcode = value
        elif number == METADATA:
            own = dict(fields(value)).get(OP_NAME, b"").decode()
        elif number == CALLED:
            called += [value] if isinstance(value, int) else _packed(value)
    return name, opcode, own, called


def _packed(data: bytes) -> list[int]:
    found, at = [], 0
    while at < len(data):
        value, at = _varint(data, at)
        found.append(value)
    return found


def _scope(opcode: bytes, own: str, called: list[int], computations: dict) -> str:
    """An operation's own scope; a fusion's is that of the product within it, or else of most that it holds."""
    if opcode != b"fusion":
        return own
    inside = [entry for number in called for entry in computations.get(number, ())]
    heavy = [said for _, code, said, _ in inside if code in HEAVY and said]
    most = collections.Counter(said for _, _, said, _ in inside if said).most_common(1)
    return heavy[0] if heavy else own or (most[0][0] if most else "")
