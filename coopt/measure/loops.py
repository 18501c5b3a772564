"""How often a loop of a schedule goes round: the compiler prints no trip counts, so its condition and body are read."""

from __future__ import annotations

import math

from coopt.measure.modules import Instruction, Module

_SAME = ("copy", "bitcast", "convert", "copy-done", "copy-start")

Carried = dict[int, int]  # the whole numbers that a loop's parameter is known to hold, by position


def trips(module: Module, loop: Instruction, inside: str, carried: Carried) -> float:
    """Trips of a while loop that counts up to a constant: ceil((limit - start) / step); NaN where it cannot be read.

    `inside` is the computation that holds the loop, and `carried` what is known of its own parameter. A loop of a
    collective and a product counts by two, so the step is read and not taken for one.
    """
    condition, body = loop.called("condition"), loop.called("body")
    if not condition or not body:
        return math.nan
    start = carried_by(module, loop, inside, carried)
    test = _comparison(module, condition[0])
    if test is None:
        return math.nan
    counter, bound, direction = test
    position = _position(module, condition[0], counter)
    limit = value(module, condition[0], bound, start)
    step = None if position is None else _step(module, body[0], position, start)
    if position is None or limit is None or not step or start.get(position) is None or direction not in ("LT", "LE"):
        return math.nan
    return float(max(0, math.ceil((limit + (direction == "LE") - start[position]) / step)))


def carried_by(module: Module, loop: Instruction, inside: str, carried: Carried) -> Carried:
    """The whole numbers in the tuple that a loop starts from."""
    given = module.computations[inside].get(loop.operands[0])
    if given is None or given.operation != "tuple":
        return {}
    found = {i: value(module, inside, name, carried) for i, name in enumerate(given.operands)}
    return {i: number for i, number in found.items() if number is not None}


def kept(module: Module, body: str, carried: Carried) -> Carried:
    """What of the carried numbers a loop's body hands on unchanged."""
    root = module.root(body)
    names = root.operands if root.operation == "tuple" else ()
    return {i: n for i, n in carried.items() if i < len(names) and _position(module, body, names[i]) == i}


def value(module: Module, computation: str, name: str, carried: Carried) -> int | None:
    """The whole number of a name: a constant, or a part of the parameter that is known."""
    one = _origin(module, computation, name)
    if one is None:
        return None
    if one.operation == "constant":
        return int(one.argument) if one.argument.lstrip("-").isdigit() else None
    position = _position(module, computation, one.name)
    return None if position is None else carried.get(position)


def _origin(module: Module, computation: str, name: str) -> Instruction | None:
    one = module.computations[computation].get(name)
    while one is not None and one.operation in _SAME and one.operands:
        one = module.computations[computation].get(one.operands[0])
    return one


def _position(module: Module, computation: str, name: str) -> int | None:
    """Which part of the computation's parameter a name is."""
    one = _origin(module, computation, name)
    if one is None or one.operation != "get-tuple-element":
        return None
    of = module.computations[computation].get(one.operands[0])
    if of is None or of.operation != "parameter" or "index=" not in one.rest:
        return None
    return int(one.rest.partition("index=")[2].split(",")[0].split()[0])


def _comparison(module: Module, condition: str) -> tuple[str, str, str] | None:
    """Counter, bound and direction of a condition, both sides as names in it; the comparison may be fused."""
    root = module.root(condition)
    if root.operation == "compare":
        return root.operands[0], root.operands[1], _direction(root)
    if root.operation != "fusion" or not root.called():
        return None
    inner = module.root(root.called()[0])
    if inner.operation != "compare":
        return None
    sides = [_origin(module, root.called()[0], name) for name in inner.operands]
    if any(side is None or side.operation != "parameter" for side in sides):
        return None
    first, second = (root.operands[int(side.argument)] for side in sides if side is not None)
    return first, second, _direction(inner)


def _direction(compare: Instruction) -> str:
    return compare.rest.partition("direction=")[2][:2]


def _step(module: Module, body: str, position: int, carried: Carried) -> int | None:
    """What a body adds to the counter at a position of the loop's tuple."""
    root = module.root(body)
    if root.operation != "tuple":
        return None
    counted = _origin(module, body, root.operands[position])
    inside, arguments = body, {}
    if counted is not None and counted.operation == "fusion" and counted.called():
        inside, arguments = counted.called()[0], dict(enumerate(counted.operands))
        counted = module.root(inside)
    if counted is None or counted.operation != "add":
        return None
    for name in counted.operands:
        one = _origin(module, inside, name)
        if one is not None and one.operation == "parameter" and arguments:
            number = value(module, body, arguments[int(one.argument)], kept(module, body, carried))
        else:
            number = value(module, inside, name, kept(module, body, carried) if inside == body else {})
        if number is not None:
            return number
    return None
