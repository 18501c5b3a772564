"""Processes and designs from their files, as nouns in SI."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, TypeVar

from coopt.problems import Problem, Refused, near
from coopt.spec import silicon
from coopt.spec.find import Folders
from coopt.spec.profiles import Profile, profile
from coopt.spec.schema import Mark
from coopt.spec.schema_types import year
from coopt.tree import replace

T = TypeVar("T")

STANDARD = "leading-edge"  # the process that ships
_CODES = {"node": "nodes", "memory": "memories", "link": "links"}
_CM2 = 1e-4


def process(name: str = STANDARD, *, path: Folders = None) -> silicon.Process:
    """The process of that name or file. Raises Refused.

    >>> process().names["nodes"]
    ('n7', 'n5', 'n3', 'n2')
    """
    fields = profile("process", name, path=path).fields
    sections = {
        name: _noun(kind, getattr(fields, name))
        for name, kind in {
            "blocks": silicon.Blocks,
            "package": silicon.Package,
            "around": silicon.Around,
            "money": silicon.Money,
            "delivered": silicon.Delivered,
        }.items()
    }
    nodes = tuple(_noun(silicon.Node, node) for node in fields.nodes)
    return silicon.Process(
        name=fields.name,
        names={kind: tuple(option.name for option in getattr(fields, kind)) for kind in _CODES.values()},
        nodes=tuple(replace(node, defects=node.defects / _CM2) for node in nodes),
        memories=tuple(_noun(silicon.Stack, memory) for memory in fields.memories),
        links=tuple(_noun(silicon.Link, link) for link in fields.links),
        **sections,
    )


def intervals(name: str = STANDARD, *, path: Folders = None) -> dict[str, tuple[float, float, float]]:
    """Value, low and high of every number of a process whose file gives an interval, by its place in the noun.

    >>> intervals()["nodes.2.defects"]
    (1500.0, 800.0, 2000.0)
    """
    fields, found = profile("process", name, path=path).fields, {}
    sections = {kind: getattr(fields, kind) for kind in ("blocks", "package", "around", "money", "delivered")}
    sections |= {f"{kind}.{i}": one for kind in _CODES.values() for i, one in enumerate(getattr(fields, kind))}
    for place, section in sections.items():
        for field in type(section).model_fields:
            quantity = getattr(section, field)
            if field not in ("name", "date") and (quantity.low is not None or quantity.high is not None):
                unit = 1.0 / _CM2 if field == "defects" else 1.0
                ends = (quantity.value if end is None else end for end in (quantity.low, quantity.high))
                found[f"{place}.{field}"] = (unit * quantity.value, *(unit * end for end in ends))
    return found


def operating(name: str = STANDARD, *, path: Folders = None) -> Mapping[str, tuple[float, float, float]]:
    """`clocked`, `leaking` and `slope` of a chip without a design: value, low, high."""
    fields = profile("process", name, path=path).fields.operating
    found = {key: getattr(fields, key) for key in type(fields).model_fields}
    return {key: (q.value, q.low or q.value, q.high or q.value) for key, q in found.items()}


def design(name: str, within: silicon.Process, *, path: Folders = None) -> silicon.Design:
    """The design of that name or file, as one that is bought: its development is in its seller's margin.

    Raises Refused, also for a node, a memory or a link that the process does not have.

    >>> h100 = design("h100", process())
    >>> f"{2 * h100.units * h100.edge**2 * h100.clock:.3g}"
    '9.89e+14'
    """
    given = profile("design", name, path=path)
    values = _values(silicon.Design, given.fields)
    for field, kind in _CODES.items():
        values[field] = code(given, field, within.names[kind])
    return silicon.Design(name=given.name, own=0.0, **values)


def code(given: Profile, field: str, known: tuple[str, ...]) -> float:
    """The position of a named choice."""
    said = getattr(given.fields, field).value
    if said in known:
        return float(known.index(said))
    mark = given.marks.get((field,), Mark(str(given.path), 1))
    raise Refused(Problem(mark.file, mark.line, field, f"one of {', '.join(known)}", said, near(said, known)))


def _noun(kind: type[T], section: Any) -> T:
    return kind(**_values(kind, section))


def _values(kind: type, section: Any) -> dict[str, Any]:
    """The values of a section's quantities under the names of a noun's leaves."""
    found = {}
    for field in dataclasses.fields(kind):
        quantity = getattr(section, field.name, None) if "role" not in field.metadata else None
        if quantity is not None:
            found[field.name] = year(quantity.value) if field.name in ("date", "start") else quantity.value
    return found
