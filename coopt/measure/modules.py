"""The text of a compiled XLA module as computations of instructions."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterator

_INSTRUCTION = re.compile(r"^\s+(ROOT )?%?([\w.-]+) = ")
_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.-]+) \(")
_OPERATION = re.compile(r"([\w-]+)\(")
_STRING = re.compile(r'"(?:[^"\\]|\\.)*"', re.DOTALL)
_NAME = re.compile(r"%([\w.-]+)")
_CALLED = re.compile(r"\b(?:calls|to_apply|body|condition)=%?([\w.-]+)")
_CYCLES = re.compile(r'"estimated_cycles":"(\d+)"')
_LABEL = re.compile(r'op_name="([^"]*)"')
UNKNOWN = 2**63 - 1  # what the compiler writes where it has no estimate


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One line of a schedule."""

    name: str
    shape: str
    operation: str
    operands: tuple[str, ...]
    rest: str  # attributes and configuration, as written
    argument: str  # between the parentheses: the value of a constant, the number of a parameter
    root: bool

    def called(self, word: str = "") -> tuple[str, ...]:
        """Names of the computations it calls; with a word, of that attribute alone."""
        found = re.findall(rf"\b{word}=%?([\w.-]+)", self.rest) if word else _CALLED.findall(self.rest)
        return tuple(found)

    @property
    def cycles(self) -> float:
        """The compiler's estimate; NaN where there is none."""
        found = _CYCLES.search(self.rest)
        return float(found[1]) if found and int(found[1]) not in (0, UNKNOWN) else math.nan

    @property
    def label(self) -> str:
        """The operation of the program it comes from."""
        found = _LABEL.search(self.rest)
        return found[1] if found else ""


@dataclasses.dataclass(frozen=True)
class Module:
    """Computations by name, each its instructions by name in the order of the schedule."""

    computations: dict[str, dict[str, Instruction]]
    entry: str

    def root(self, computation: str) -> Instruction:
        """The instruction whose value a computation returns."""
        return next(one for one in self.computations[computation].values() if one.root)


def parse(text: str) -> Module:
    r"""The module of a text; what is not understood is left out, never half read.

    An instruction may go over several lines: attributes hold newlines, some before a brace.

    >>> module = parse("ENTRY %main (a: f32[2]) -> f32[2] {\n  ROOT %b = f32[2]{0} negate(%a), note={\n}\n}")
    >>> module.root(module.entry).operands
    ('a',)
    """
    computations: dict[str, dict[str, Instruction]] = {}
    entry, name = "", ""
    for line in _lines(text):
        if found := _INSTRUCTION.match(line):
            if name and (one := _instruction(line[found.end() :], found[2], bool(found[1]))):
                computations[name][one.name] = one
        elif line.startswith("}"):
            name = ""
        elif (found := _COMPUTATION.match(line)) and line.rstrip().endswith("{"):
            name = found[2]
            computations[name] = {}
            entry = name if found[1] else entry
    return Module(computations, entry)


def _lines(text: str) -> Iterator[str]:
    """Lines, with those joined over which an instruction goes: until its braces and quotes are closed."""
    held = ""
    for line in text.split("\n"):
        held = f"{held}\n{line}" if held else line
        if _INSTRUCTION.match(held) and not _closed(held):
            continue
        yield held
        held = ""


def _closed(text: str) -> bool:
    bare = _STRING.sub("", text)
    return '"' not in bare and bare.count("{") <= bare.count("}") and bare.count("(") <= bare.count(")")


def _instruction(text: str, name: str, root: bool) -> Instruction | None:
    end = _matching(text, 0) if text.startswith("(") else text.find(" ")
    found = _OPERATION.match(text, end + 1) if end > 0 else None
    if not found:
        return None
    close = _matching(text, found.end() - 1)
    inside = text[found.end() : close - 1]
    return Instruction(name, text[:end], found[1], tuple(_NAME.findall(inside)), text[close:], inside, root)


def _matching(text: str, start: int) -> int:
    """The place after the parenthesis that closes the one at `start`."""
    depth = 0
    for found in re.finditer(r"[()]", text[start:]):
        depth += 1 if found[0] == "(" else -1
        if depth == 0:
            return start + found.end()
    return len(text)
