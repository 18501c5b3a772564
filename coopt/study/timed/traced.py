"""`coopt diagnose --trace`: what a profiler saw beside what the cost model says, row by row, and which row is slow.

An operation belongs to the row whose name is among its named scopes; `rows.yaml` says where the time of other programs
belongs. What has no row is a row `unmatched` with its share, and beyond 15% the attribution is not to be trusted.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from coopt.cost import estimate
from coopt.measure import kernels, trace
from coopt.measure.trace import Trace
from coopt.ops import count
from coopt.problems import Problem, Refused
from coopt.spec import read
from coopt.spec.nouns import Cost, Ops
from coopt.study.given.designs import design

RULES = Path(__file__).with_name("rows.yaml")
TRUSTED = 0.15  # share without a row above which the rest says nothing
DESIGNED = ("chips", "layout", "seq_len", "global_batch", "stack", "overrides")  # options of a design
MANY = 24  # scopes without a row that are named
_PARTS = re.compile(r"^\d+\.|\.(again|dx|dw)$")

Line = tuple[str, str]  # a row, or several together, or a kind; and a phase ("" where it is not known)


@dataclasses.dataclass(frozen=True)
class Rules:
    """`rows.yaml`, read: see there."""

    operations: tuple[tuple[re.Pattern, str], ...]
    scopes: tuple[tuple[re.Pattern, str], ...]
    kernels: tuple[tuple[re.Pattern, str], ...]
    rows: Mapping[str, str]  # a row's name -> the line it is part of


@functools.cache
def rules() -> Rules:
    """The rules that ship."""
    data, _ = read.read(RULES)
    lists = {
        name: tuple((re.compile(rule["match"], re.IGNORECASE), rule.get("name") or rule["kind"]) for rule in data[name])
        for name in ("operations", "scopes", "kernels")
    }
    return Rules(**lists, rows={row: rule["name"] for rule in data["scopes"] for row in rule["rows"]})


def base(name: str) -> str:
    """A row's name without the number of its layer kind and without its pass.

    >>> base("0.attn.qkv.dx"), base("mlp.up.again")
    ('attn.qkv', 'mlp.up')
    """
    return _PARTS.sub("", _PARTS.sub("", name))


def diagnose(options: Any) -> dict[str, Any]:
    """The document of a trace: with a model and hardware, beside the rows of that design; alone, its own rows.

    Raises Refused for a trace that cannot be read, and for a design that cannot be.
    """
    place = Path(options.trace)
    seen = kernels.read(place) if place.suffix == ".csv" else trace.read(place)
    if bool(options.model) != bool(options.hardware):
        lacking = "hardware" if options.model else "model"
        hint = "leave both out to see the trace alone"
        raise Refused(Problem(field=lacking, expected="a model and its hardware", got="one of them", hint=hint))
    about = {"command": "trace", "trace": str(place), "runs": seen.runs, "devices": seen.devices}
    if not options.model:
        given = {name: getattr(options, name) for name in DESIGNED}
        hint = "add --model and --hardware, or leave it out to see the trace alone"
        expected = "the model that was cut like this"
        if lost := [Problem(field=n, expected=expected, got=str(v)[:80], hint=hint) for n, v in given.items() if v]:
            raise Refused(*lost)
        return about | compare(seen)
    one = design(
        model=options.model, hardware=options.hardware, chips=options.chips, layout=options.layout or "",
        seq_len=options.seq_len, global_batch=options.global_batch, stack=options.stack,
        overrides=options.overrides, path=options.profile_path,
    )  # fmt: skip
    ops = count(one.model, one.layout, one.workload)
    return (
        about | {"design": one.name} | compare(seen, ops, estimate(ops, one.hardware)) | {"assumed": list(one.assumed)}
    )


def compare(seen: Trace, ops: Ops | None = None, cost: Cost | None = None) -> dict[str, Any]:
    """Seconds of each row by a trace beside seconds by pricing, slowest first.

    `excess` is what a row takes beyond what it would at the pace of the others: measured - scale x predicted, where
    scale is the median of measured / predicted, weighted by the predicted time. So a machine that is slower than its
    profile throughout makes no row slow.

    >>> seen = Trace(operations=(trace.Operation("dot.1", "jit(f)/mlp.up/dot_general", "jit_f", 2e-3, 1.0),), runs=1,
    ...              spans=(2e-3,))
    >>> compare(seen)["rows"][0]["row"]
    'mlp.up'
    """
    predicted, kinds = _predicted(ops, cost)
    measured, strays = _measured(seen, predicted)
    _by_kind(measured, predicted, kinds)
    total = sum(measured.values()) + sum(strays.values())
    scale = _scale([(measured[line], predicted[line]) for line in measured if predicted.get(line)])
    rows = [
        _row(line, measured.get(line, 0.0), predicted.get(line), total, scale)
        for line in {**measured, **predicted}
        if measured.get(line) or predicted.get(line)
    ]
    rows.sort(key=lambda row: (-(row["excess"] if row["excess"] is not None else row["measured"]), row["row"]))
    lost = sum(strays.values()) / total if total else 1.0
    slow = next((row for row in rows if row["measured"] > 0), None)
    if strays:
        rows.append(_row(("unmatched", ""), sum(strays.values()), None, total, math.nan) | {"excess": None})
    span = float(np.mean(seen.spans)) if seen.spans else None
    return {
        "step_time": span,
        "busy": total,
        "gaps": None if span is None else max(span - total, 0.0),
        "predicted_step_time": None if cost is None else float(cost.step_time),
        "scale": None if math.isnan(scale) else scale,
        "rows": rows,
        "slowest": slow and {"row": slow["row"], "phase": slow["phase"]},
        "unmatched": lost,
        "trusted": lost <= TRUSTED,
        "strays": [{"name": name, "time": time} for name, time in sorted(strays.items(), key=lambda s: -s[1])[:MANY]],
    }


def _row(line: Line, measured: float, predicted: float | None, total: float, scale: float) -> dict[str, Any]:
    excess = measured - scale * (predicted or 0.0) if measured and not math.isnan(scale) else None
    return {
        "row": line[0],
        "phase": line[1],
        "measured": measured,
        "share": measured / total if total else 0.0,
        "predicted": predicted,
        "ratio": measured / predicted if predicted and measured else None,
        "excess": excess,
    }


def _predicted(ops: Ops | None, cost: Cost | None) -> tuple[dict[Line, float], dict[Line, str]]:
    """Busy seconds a step of each line of rows, and its kind."""
    times: dict[Line, float] = {}
    kinds: dict[Line, str] = {}
    if ops is None or cost is None:
        return times, kinds
    for row, busy in zip(ops.rows, cost.busy, strict=False):
        if float(busy) > 0:
            name = base(row.name)
            line = rules().rows.get(name, name), row.phase
            times[line] = times.get(line, 0.0) + float(busy)
            kinds[line] = "collective" if row.kind == "p2p" else row.kind
    return times, kinds


def _measured(seen: Trace, predicted: Mapping[Line, float]) -> tuple[dict[Line, float], dict[str, float]]:
    """Seconds a run by line, and of what has none by its scope or name."""
    phases: dict[str, set[str]] = {}
    for name, phase in predicted:
        phases.setdefault(name, set()).add(phase)
    names = {*phases, *rules().rows, *rules().rows.values()}
    times: dict[Line, float] = {}
    strays: dict[str, float] = {}
    for operation in seen.operations:
        name, is_kind = _place(operation, names)
        if name is None and not predicted:  # nothing to lay beside it: its own scope is its row
            name = "/".join(trace.words(operation.scope)) or None
        if name is None:
            stray = "/".join(trace.words(operation.scope)) or re.sub(r"[.\d]+$", "", operation.name)
            strays[stray] = strays.get(stray, 0.0) + operation.time
            continue
        phase = "" if is_kind else trace.phase_of(operation.scope)
        if not is_kind and phase not in phases.get(name, {phase}) and len(phases[name]) == 1:
            (phase,) = phases[name]  # an optimizer is not told from a forward pass by its scope
        times[name, phase] = times.get((name, phase), 0.0) + operation.time
    return times, strays


def _place(operation: trace.Operation, names: Iterable[str]) -> tuple[str | None, bool]:
    """The line an operation belongs to, and whether that is no more than a kind of row."""
    said, path = rules(), trace.words(operation.scope)
    for pattern, kind in said.operations:
        if pattern.search(operation.name):
            return kind, True
    for word in reversed(path):
        if word in names:
            return said.rows.get(word, word), False
    for pattern, name in said.scopes:
        if path and pattern.search("/".join(path)):
            return name, False
    for pattern, kind in said.kernels if not path else ():
        if pattern.search(operation.name):
            return kind, True
    return None, False


def _by_kind(measured: Mapping[Line, float], predicted: dict[Line, float], kinds: Mapping[Line, str]) -> None:
    """Where the trace knows no more than a kind, the prediction is that of all its rows that were not seen by name."""
    for kind in {name for name, phase in measured if not phase}:
        mine = [line for line, of in kinds.items() if of == kind and line not in measured]
        if mine:
            predicted[kind, ""] = sum(predicted.pop(line) for line in mine)


def _scale(pairs: list[tuple[float, float]]) -> float:
    """The median of measured / predicted, weighted by what was predicted; NaN where nothing was."""
    if not pairs:
        return math.nan
    ratios = sorted((measured / said, said) for measured, said in pairs)
    half, passed = sum(said for _, said in ratios) / 2.0, 0.0
    for ratio, said in ratios:
        passed += said
        if passed >= half:
            return ratio
    return ratios[-1][0]
