"""Bytes that an operation of a schedule moves to and from main memory, read from its shapes."""

from __future__ import annotations

import re

from coopt.measure import hlo
from coopt.measure.modules import Instruction, Module

_ARRAY = re.compile(r"[a-z]+[0-9]*(?:e[0-9]m[0-9][a-z]*)?\[[0-9,]*\](?:\{[^{}]*\})?")
_NEAR = re.compile(r"S\([1-9]\d*\)")  # a memory space on the core: not main memory
_THROUGH = ("bitcast", "reshape", "get-tuple-element")
_LAZY = ("convert", "pad")  # made inside a fusion where they are read, and no further


def traffic(module: Module, computation: str, one: Instruction) -> float:
    """Bytes read and written in main memory by an instruction of a computation.

    Operands and results that the compiler placed on the core count nothing, a stack of which one slice is read counts
    that slice, and a stack in which one slice is written counts the slice that is written.
    """
    around = module.computations[computation]
    read = sum(_read(module, one, i, around[name]) for i, name in enumerate(one.operands) if name in around)
    return read + _made(module, computation, one)


def main_bytes(shape: str) -> float:
    """Bytes of the arrays of a shape that lie in main memory.

    >>> main_bytes("(f32[8,4]{1,0:T(8,128)}, bf16[2]{0:T(256)S(1)})")
    128.0
    """
    return sum(sum(hlo.shape_bytes(text)) for text in _ARRAY.findall(shape) if not _NEAR.search(text))


def _read(module: Module, one: Instruction, position: int, operand: Instruction) -> float:
    whole = main_bytes(operand.shape)
    if one.operation in ("dynamic-slice", "slice", "gather"):
        return min(whole, sum(hlo.shape_bytes(one.shape))) if position == 0 else 0.0
    if one.operation == "dynamic-update-slice":
        return 0.0 if position == 0 else whole
    if one.operation != "fusion" or not one.called() or not whole:
        return whole
    inside = module.computations[one.called()[0]]
    parameter = next(p for p in inside.values() if p.operation == "parameter" and int(p.argument) == position)
    return min(whole, _used(module, inside, parameter))


def _used(module: Module, inside: dict[str, Instruction], value: Instruction, *, made: bool = False) -> float:
    """Bytes of a value that its users inside a fusion read; what is handed on, or sent by links, is not read.

    Args:
      made: in the fusion, so that what is handed on had to be read too.
    """
    total = _size(value) if made and value.root else 0.0
    for user in inside.values():
        for position, name in enumerate(user.operands):
            if name != value.name or _sent(user):
                continue
            if user.operation == "tuple":
                total += _size(value) if made else 0.0
            elif user.operation in _THROUGH:
                total += _used(module, inside, user, made=made)
            elif user.operation in _LAZY and position == 0:
                total += _used(module, inside, user, made=True) * _size(value) / (_size(user) or 1.0)
            else:
                total += _read(module, user, position, value)
    return total


def _size(one: Instruction) -> float:
    return sum(hlo.shape_bytes(one.shape))


def _made(module: Module, computation: str, one: Instruction) -> float:
    """Bytes of a value that an instruction writes: of an update the slice, of what is handed on nothing."""
    around = module.computations[computation]
    if one.operation == "parameter" or _sent(one):
        return 0.0
    if one.operation == "dynamic-update-slice":
        return main_bytes(around[one.operands[1]].shape)
    if one.operation == "fusion" and one.called():
        return min(main_bytes(one.shape), _made(module, one.called()[0], module.root(one.called()[0])))
    if one.operation in _THROUGH and one.operands[0] in around:
        return min(main_bytes(one.shape), _made(module, computation, around[one.operands[0]]))
    if one.operation == "tuple":
        return sum(_made(module, computation, around[name]) for name in one.operands if name in around)
    return main_bytes(one.shape)


def _sent(one: Instruction) -> bool:
    return re.sub(r"-(start|update|done)$", "", one.operation) in hlo.KINDS
