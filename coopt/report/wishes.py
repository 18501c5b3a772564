"""The gradients of an `explain` document: what each number of the machine is worth, and how much of it is enough."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from coopt.report import words
from coopt.report.grid import Column, Grid, grid

LEAST = 5e-4  # an elasticity smaller than this is not shown


def grids(asked: Mapping[str, Any]) -> tuple[Grid, ...]:
    """The table of elasticities, and the wish-list."""
    return elasticities(asked), wishes(asked)


def elasticities(asked: Mapping[str, Any]) -> Grid:
    """Percent for one percent more of each number, beside what a tenth more and a tenth less does."""
    body = []
    for row in words.entries(asked, "elasticities"):
        slopes = [row.get(name) for name in ("step_time", "dollars_per_token", "joules_per_token")]
        if max((abs(words.figure(slope) or 0.0) for slope in slopes), default=0.0) < LEAST:
            continue
        name = words.plain(row.get("name")) + (" *" if row.get("tooth") is True else "")
        cells = (_slope(slope) for slope in slopes)
        body.append((name, _rate(row.get("value"), row.get("unit")), *cells,
                     words.signed(row.get("up"), places=2), words.signed(row.get("down"), places=2)))  # fmt: skip
    by = words.percent(asked.get("by"), places=0)
    heads = (Column("number", words=True, width=24), Column("now"), Column("step"), Column("USD"), Column("J"))
    notes = (f"step, USD a token, J a token: % for 1% more of it alone; then the step with {by} more or less of it",
             f"all rates less all times: {_slope(asked.get('euler'))}, which must be -1")  # fmt: skip
    if any(name.endswith(" *") for name, *_ in body):
        notes += ("* the derivative is the slope of one tooth here: believe the finite change",)
    return grid("What each number of the machine is worth", (*heads, Column(f"+{by}"), Column(f"-{by}")), body,
                notes=notes)  # fmt: skip


def wishes(asked: Mapping[str, Any]) -> Grid:
    """Every rate: what there is, how much is enough, and what an unlimited one would gain."""
    body = []
    for row in words.entries(asked, "wishes"):
        unit, factor = row.get("unit"), words.figure(row.get("factor"))
        times = words.NOT_KNOWN if factor is None else f"x {words.digits(factor)}" if factor else "any"
        body.append((words.plain(row.get("name")), _rate(row.get("now"), unit), _rate(row.get("enough"), unit), times,
                     words.signed(-(words.figure(row.get("gain")) or 0.0))))  # fmt: skip
    held = words.mapped(asked.get("memory"))
    body.append(("memory", words.memory(held.get("available")), words.memory(held.get("fits_from")), "", "it fits"))
    heads = (Column("rate", words=True), Column("now"), Column("enough"), Column("times"), Column("unlimited"))
    within = words.percent(asked.get("within"), places=0)
    note = f"enough: the step is within {within} of what an unlimited rate would give, all else as it is"
    return grid("The wish-list for a chip", heads, body, notes=(note,))


def _slope(value: Any) -> str:
    return words.fixed(value, "+.3f")


def _rate(value: Any, unit: Any) -> str:
    if unit == "s":
        return words.seconds(value)
    return words.large(value, words.plain(unit)) if unit else words.large(value)
