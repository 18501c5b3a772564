"""What is to be reached: every figure of a `validate` document with its target, and whether it is there."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

FEW = 10  # rows or pairs: fewer establish nothing
FIRST = "Korthikanti et al. 2022, Table 5 (iteration time) | a100-80gb | dense"


class Figure(NamedTuple):
    """One figure: where a scored document holds it (and how many rows stand behind it), its target, and its side."""

    name: str
    read: Callable[[Mapping[str, Any]], float | None]
    rows: Callable[[Mapping[str, Any]], int | None]
    goal: float | tuple[float, float] | None  # at most; at least where `more`; between a pair; None: reported alone
    more: bool = False


def _at(*keys: str) -> Callable[[Mapping[str, Any]], Any]:
    def read(document: Mapping[str, Any]) -> Any:
        found: Any = document
        for key in keys:
            found = found.get(key) if isinstance(found, Mapping) else None
        return found

    return read


def _size(*keys: str) -> Callable[[Mapping[str, Any]], float | None]:
    read = _at(*keys)
    return lambda document: None if (value := read(document)) is None else abs(value)


def figures(document: Mapping[str, Any]) -> list[Figure]:
    """The figures in the order in which they are told; one a slice, one a kind of ratio."""
    scored, macro, vtrain = _at("scored"), _at("macro", "cells"), _at("vtrain", "rows")
    told = [
        Figure("macro over cells: MAPE", _at("macro", "mape"), macro, 0.10),
        Figure("macro over cells: |bias|", _size("macro", "bias"), macro, 0.04),
        Figure("macro over cells: worst cell", _at("macro", "worst_mape"), macro, 0.20),
        Figure("pooled: MAPE", _at("mape"), scored, 0.09),
        Figure("pooled: median", _at("median_ape"), scored, 0.06),
        Figure("pooled: |bias|", _size("bias"), scored, 0.02),
    ]
    told += [Figure(f"slice {name}: MAPE", _at("by_slice", name, "mape"), _at("by_slice", name, "rows"), 0.15)
             for name in document.get("by_slice", ())]  # fmt: skip
    for name in document.get("ratios", ()):
        pairs = _at("ratios", name, "pairs")
        told.append(Figure(f"ratios of {name}: median", _at("ratios", name, "median"), pairs, 0.06))
        told.append(Figure(f"ratios of {name}: order right", _at("ratios", name, "order_right"), pairs, 0.95, True))
    told += [
        Figure("rows refused among the scorable", _at("refused_share"), _at("scorable"), 0.02),
        Figure("vTrain single node: MAPE", _at("vtrain", "mape"), vtrain, 0.08),
        Figure("vTrain single node: best layout found", _at("vtrain", "top1_hit"), _at("vtrain", "groups"), 0.65, True),
        Figure("vTrain single node: mean regret", _at("vtrain", "mean_regret"), _at("vtrain", "groups"), 0.03),
        Figure("Korthikanti table 5: mean", _at("by_cell", FIRST, "mape"), _at("by_cell", FIRST, "rows"), 0.035),
        Figure("Korthikanti table 5: worst", _at("by_cell", FIRST, "max_ape"), _at("by_cell", FIRST, "rows"), 0.08),
    ]
    for name, goal in (("parameters+optimizer", 0.02), ("activations", 0.06), ("peaks", 0.03)):
        told.append(Figure(f"memory, {name}: MAPE", _at("memory", name, "mape"), _at("memory", name, "rows"), goal))
    told += [
        Figure("memory, peaks: worst underestimate", _size("memory", "peaks", "least"), _at("memory", "peaks", "rows"),
               0.05),
        Figure("chips left out: MAPE", _at("left_out", "chip", "mape"), _at("left_out", "chip", "rows"), 0.20),
        Figure("chips left out, a sibling kept: MAPE", _at("left_out", "sibling", "mape"),
               _at("left_out", "sibling", "rows"), None),
        Figure("families left out: MAPE", _at("left_out", "family", "mape"), _at("left_out", "family", "rows"), None),
        Figure("publications left out: mean of MAPEs", _at("left_out", "source", "macro_mape"),
               _at("left_out", "source", "rows"), None),
        Figure("90% interval holds, chips left out", _at("left_out", "holds", "sibling"),
               _at("left_out", "sibling", "rows"), (0.85, 0.95)),
        Figure("90% interval holds, families left out", _at("left_out", "holds", "family"),
               _at("left_out", "family", "rows"), (0.85, 0.95)),
        Figure("90% interval holds", _at("coverage", "share"), _at("coverage", "rows"), (0.85, 0.95)),
    ]  # fmt: skip
    return told


# What is held out anyway, or was never fitted: one column says it all.
_ALONE = ("rows refused", "memory", "chips left out", "families left out", "publications left out", "90% interval")
# Sets that are small by nature: the target is for all of them, however few.
_WHOLE = ("Korthikanti", "macro", "memory")


def reach(document: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Each figure with its value on all rows, its held-out value, its target and a verdict, judged on the latter.

    A figure of fewer than ten rows or pairs is `not established`; one that the table has no data for is left out.
    """
    held = document.get("held_out")
    told = []
    for figure in figures(document):
        alone = figure.name.startswith(_ALONE)
        fitted, rows = figure.read(document), figure.rows(document)
        other = None if alone or not isinstance(held, Mapping) else figure.read(held)
        value = fitted if other is None else other
        if value is None and not rows:
            continue
        told.append(
            {
                "figure": figure.name,
                "rows": rows,
                "fitted": None if alone else fitted,
                "held_out": fitted if alone else other,
                "target": target(figure),
                "verdict": verdict(figure, value, rows),
            }
        )
    return told


def target(figure: Figure) -> str:
    """The target in words.

    >>> target(Figure("a", _at("a"), _at("b"), 0.06)), target(Figure("a", _at("a"), _at("b"), (0.85, 0.95)))
    ('at most 6%', '85% to 95%')
    """
    goal = figure.goal
    if goal is None:
        return "reported"
    if isinstance(goal, tuple):
        return f"{100 * goal[0]:g}% to {100 * goal[1]:g}%"
    return f"{'at least' if figure.more else 'at most'} {100 * goal:g}%"


def verdict(figure: Figure, value: float | None, rows: int | None) -> str:
    """`reached`, `missed`, `not established` (too few), or `reported` where there is no target."""
    if value is None or (rows is not None and rows < FEW and not figure.name.startswith(_WHOLE)):
        return "not established"
    goal = figure.goal
    if goal is None:
        return "reported"
    if isinstance(goal, tuple):
        return "reached" if goal[0] <= value <= goal[1] else "missed"
    return "reached" if (value >= goal if figure.more else value <= goal) else "missed"
