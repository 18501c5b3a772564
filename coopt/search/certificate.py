"""Certificates: what bound and prune proved, in a file that others can check without this project.

A certificate holds the space (every choice of every axis, and the candidate they are put into), the expression as a
straight-line program, the best candidate, and the tree of boxes: each either split in two along an axis, or closed by
a lower bound, by the reason for which none of its candidates can run, or by pricing each of them. Nothing in it is
trusted: `scripts/check_certificate.py` bounds every closed box by its own arithmetic.
"""

from __future__ import annotations

import dataclasses
import gzip
import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from coopt.problems import Problem, Refused
from coopt.search.bound import CLOSED, OPEN, PRICED, SPLIT, TOLERANCE, Bounded, reasons
from coopt.search.price import Expression
from coopt.search.recorded import digest, number, record, task_of
from coopt.search.space import Axis, Candidate, Space, size
from coopt.spec import nouns

FORMAT = 1
SLACK = 1e-10  # relative: how far below the search's bounds the stated ones lie, for a checker that rounds outwards
_NESTED = {
    "model": nouns.Model, "layout": nouns.Layout, "workload": nouns.Workload, "hardware": nouns.Hardware,
    "law": nouns.Law, "kinds": nouns.LayerKind, "precision": nouns.Precision, "phases": nouns.Phase,
    "tiers": nouns.Tier,
}  # fmt: skip


def certificate(found: Bounded) -> dict[str, Any]:
    """The document of what was proved: no candidate is below `bound`, and the best one has `value`.

    Raises:
      Refused: where nothing that runs was found.
    """
    if found.digits is None:
        raise Refused(Problem(field="certificate", expected="a candidate that runs", got="none"))
    boxed, task = found.boxed, found.boxed.task
    boxes = _boxes(found)
    bound = min((box[1] for box in boxes if len(box) == 2 and box[0] == "least"), default=math.inf)
    bound = min(bound, found.value * (1 - 2 * TOLERANCE) if found.value > 0 else found.value * (1 + 2 * TOLERANCE))
    places = [int(np.flatnonzero(one.order == digit)[0]) for one, digit in zip(boxed.ranges, found.digits, strict=True)]
    document = {
        "kind": "certificate",
        "format": FORMAT,
        "space": {
            "name": task.space.name,
            "size": str(size(task.space)),
            "axes": [
                {"name": one.name, "paths": list(one.paths), "order": ranges.order.tolist(),
                 "values": [[number(v) for v in row] for row in one.values[ranges.order]]}
                for one, ranges in zip(task.space.axes, boxed.ranges, strict=True)
            ],
            "base": described(task.space.base),
        },
        "objective": task.names[0],
        "limits": [[task.names[position], number(most)] for position, most in task.limits],
        "program": boxed.program.document(),
        "powers": [[list(one) for one in powers] for powers in boxed.powers],
        "best": {"choices": places, "value": number(found.value)},
        "bound": number(bound),
        "boxes": boxes,
    }  # fmt: skip
    return document | {"digest": digest({**document, "digest": ""})}


def write(path: Path, document: dict[str, Any]) -> None:
    """Writes a certificate; compressed where the name ends in `.gz`. The same document gives the same bytes."""
    text = (json.dumps(document, allow_nan=False, separators=(",", ":")) + "\n").encode()
    path.write_bytes(gzip.compress(text, mtime=0) if path.suffix == ".gz" else text)


def same_expression(document: dict[str, Any], expression: Expression) -> list[Problem]:
    """What differs between the certificate's program and `expression` recorded anew over the certificate's space."""
    space = space_of(document["space"])
    limits = {name: float(most) for name, most in document["limits"]}
    task = task_of(space, objectives=(document["objective"],), limits=limits, expression=expression)
    ours = digest(record(task).merged().document())
    theirs = digest(document["program"])
    return [] if ours == theirs else [
        Problem(field="program", expected=f"this project's expression over the space, digest {ours[:12]}",
                got=f"digest {theirs[:12]}", hint="another version of coopt, or a file that was changed")
    ]  # fmt: skip


def space_of(data: dict[str, Any]) -> Space:
    """A space out of its axes and its base as a certificate has them: without names of choices."""
    axes = tuple(
        Axis(name=one["name"], paths=tuple(one["paths"]), values=np.array(one["values"], dtype=np.float64))
        for one in data["axes"]
    )
    return Space(axes=axes, base=rebuilt(Candidate, data["base"]))


def described(tree: Any) -> Any:
    """A tree of nouns as JSON has it."""
    if dataclasses.is_dataclass(tree):
        return {field.name: described(getattr(tree, field.name)) for field in dataclasses.fields(tree)}
    if isinstance(tree, tuple | list):
        return [described(one) for one in tree]
    return tree if tree is None or isinstance(tree, str) else number(tree)


def rebuilt(cls: type, data: Any) -> Any:
    """The inverse of `described`."""
    fields = {field.name: field for field in dataclasses.fields(cls)}
    leaves = {}
    for name, value in data.items():
        inner, words = _NESTED.get(name), "role" in fields[name].metadata
        if inner is not None and isinstance(value, dict):
            leaves[name] = rebuilt(inner, value)
        elif isinstance(value, list):
            leaves[name] = tuple(rebuilt(inner, one) if inner else one if words else float(one) for one in value)
        else:
            leaves[name] = value if words or value is None else float(value)
    return cls(**leaves)


def _boxes(found: Bounded) -> list[list]:
    """The tree from the root, a box before its halves, the lower half first."""
    tree, ranges, why = found.tree, found.boxed.ranges, reasons(found.boxed.task)
    goal = found.value - TOLERANCE * abs(found.value)
    boxes, stack = [], [0]
    while stack:
        box = stack.pop()
        state, axis, left = int(tree.state[box]), int(tree.axis[box]), int(tree.left[box])
        least = float(tree.least[box])
        if state in (SPLIT, PRICED) and least >= goal:  # a better candidate came later
            state = OPEN
        if state == SPLIT:
            boxes.append([axis, int(ranges[axis].high[tree.nodes[left, axis]])])
            stack += [left + 1, left]
        elif state == PRICED:
            boxes.append(["priced"])
        elif state == CLOSED:
            boxes.append(["none", why[int(tree.reason[box])]])
        else:
            assert state == OPEN, "a box is open, split, priced or closed"
            boxes.append(["least", number(least - SLACK * abs(least))])
    return boxes
