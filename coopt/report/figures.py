"""The figures of a report; `draw` makes every one that a document has data for."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from coopt.report import figures_many, figures_step, words
from coopt.report.canvas import (
    BELOW,
    GREY,
    HALF,
    INK,
    PAPER,
    canvas,
    drawable,
    key,
    logarithmic,
    named,
)
from coopt.report.ranked import place
from coopt.report.svg import COLOURS, Drawing, drawing

BLUE, ORANGE = COLOURS["blue"], COLOURS["orange"]

# What a plan is judged by: its name on an axis, how it is said, and whether more of it is better.
QUANTITIES = {
    "tokens_per_second_per_chip": ("tokens/s a chip", words.large, True),
    "loss": ("loss", lambda v: f"{v:.2f}", False),
    "step_time": ("step time", words.seconds, False),
    "device_time": ("devices x run time", words.seconds, False),
    "memory": ("memory a chip", words.memory, False),
    "mfu": ("MFU", lambda v: words.percent(v, places=0), True),
    "dollars_per_token": ("USD a million tokens", lambda v: words.digits(1e6 * v), False),
    "joules_per_token": ("energy a token", lambda v: words.small(v, "J"), False),
}


def draw(document: Mapping[str, Any]) -> dict[str, Drawing]:
    """Every figure of a document by its name; a figure without data is left out."""
    best = words.mapped(document.get("explain")) or document
    makers = {
        "pareto": lambda: pareto(document),
        "measured": lambda: predicted_measured(document),
        "breakdown": lambda: figures_step.breakdown(best),
        "memory": lambda: figures_step.memory(best),
        "reasons": lambda: figures_step.reasons(document),
        "roadmap": lambda: figures_many.roadmap(document),
        "validation": lambda: figures_many.validation(document),
    }
    drawn = {name: make() for name, make in makers.items()}
    return {name: made for name, made in drawn.items() if made is not None}


def pareto(document: Mapping[str, Any]) -> Drawing | None:
    """The Pareto front with the ranked plans, the best one and the measured ones marked."""
    x, y = judged(document, words.entries(document, "pareto"))
    points = sorted(_placed(words.entries(document, "pareto"), x, y), key=lambda point: point[:2])
    if not points:
        return None
    others = _placed(words.entries(document, "plans"), x, y)
    clocked = [point for point in others if drawable(point[2].get("measured_time"))]
    hollow = {"mfc": PAPER, "mec": GREY, "mew": 1.1, "marker": "o", "markersize": 5}
    ring = {"mfc": "none", "mec": INK, "mew": 1.1, "marker": "o", "markersize": 9}
    gem = {"color": ORANGE, "mec": INK, "mew": 0.9, "marker": "D", "markersize": 8}
    layers = [("ranked", others, hollow), ("front", points, {"color": BLUE, "marker": "o", "markersize": 5})]
    layers += [("measured", clocked, ring), ("best plan", others[:1], gem)]
    layers = [layer for layer in layers if layer[1]]
    figure, (ax,) = canvas(HALF, 4.3)
    rising = QUANTITIES[x][2] != QUANTITIES[y][2]  # one is better when more, the other when less
    heights = [point[1] for point in points]
    if heights == sorted(heights, reverse=not rising):  # a front over further quantities is no staircase in these two
        where = "pre" if QUANTITIES[x][2] else "post"
        ax.step([point[0] for point in points], heights, where=where, color=BLUE, lw=1.3)
    for _, held, look in layers:
        ax.plot([point[0] for point in held], [point[1] for point in held], linestyle="none", **look)
    for which, name in (("x", x), ("y", y)):
        values = [point[1] if which == "y" else point[0] for point in points + others]
        unit = 1024.0 ** int(math.log(max(values), 1024)) if name == "memory" and max(values) >= 1 else 1.0
        logarithmic(ax, which, values, say=QUANTITIES[name][1], unit=unit)
    sides = {True: "more is better", False: "less is better"}
    label_x, label_y = (f"{QUANTITIES[name][0]} ({sides[QUANTITIES[name][2]]})" for name in (x, y))
    named(ax, x=label_x, y=label_y)
    key(ax, [(name, look) for name, _, look in layers], **BELOW)
    said = f"{len(points)} candidates are on the front of {QUANTITIES[x][0]} and {QUANTITIES[y][0]}"
    said += f"; the best plan is {words.shape(others[0][2].get('model'))} on {place(others[0][2])}" if others else ""
    return drawing(figure, name="pareto", title="Pareto front", caption=words.sentence(said))


def _placed(held: Sequence[Mapping[str, Any]], x: str, y: str) -> list[tuple[float, float, Mapping[str, Any]]]:
    return [(a, b, plan) for plan in held if (a := drawable(plan.get(x))) and (b := drawable(plan.get(y)))]


def judged(document: Mapping[str, Any], front: Sequence[Mapping[str, Any]]) -> tuple[str, str]:
    """The two quantities a front is drawn over: the document's own, or speed against loss, or speed against memory."""
    own = [q for q in words.listed(document.get("pareto_axes")) if isinstance(q, str) and q in QUANTITIES]
    if len(own) == 2:
        return own[0], own[1]
    losses = {words.figure(plan.get("loss")) for plan in front} - {None}
    return ("tokens_per_second_per_chip", "loss") if len(losses) > 1 else ("memory", "tokens_per_second_per_chip")


def predicted_measured(document: Mapping[str, Any]) -> Drawing | None:
    """Measured against predicted step time, before and after calibration, with intervals and the line of agreement."""
    timed = [m for m in words.entries(document, "measured") if drawable(m.get("measured_time"))]
    timed = [m for m in timed if drawable(m.get("predicted_time")) or drawable(m.get("predicted_before"))]
    if not timed:
        return None
    figure, (ax,) = canvas(HALF, 4.3)
    span = []
    for m in timed:
        time = drawable(m["measured_time"])
        low, high = drawable(m.get("low")) or time, drawable(m.get("high")) or time
        before, after = drawable(m.get("predicted_before")), drawable(m.get("predicted_time"))
        span += [v for v in (low, high, before, after) if v]
        if before and after:
            ax.plot([before, after], [time, time], color=GREY, lw=0.8, alpha=0.7)
        if before:
            ax.plot(before, time, "o", ms=6, mfc=PAPER, mec=GREY, mew=1.2)
        if after:
            ax.plot([after, after], [low, high], color=BLUE, lw=1.4, solid_capstyle="butt")
            ax.plot(after, time, "o" if m.get("kind") in (None, "clock") else "s", ms=6.5, color=BLUE)
    for which in "xy":
        logarithmic(ax, which, span, say=words.seconds)
    ends = ax.get_xlim()
    ax.plot(ends, ends, color=INK, lw=1.0, dashes=(4, 3), zorder=1)
    named(ax, x="predicted step time", y="measured step time")
    entries = [("agreement", {"color": INK, "linestyle": (0, (4, 3)), "lw": 1.0, "marker": ""})]
    entries += [("after calibration", {"color": BLUE, "marker": "o"})]
    entries += [("before", {"mfc": PAPER, "mec": GREY, "mew": 1.2, "marker": "o", "markersize": 6})]
    key(ax, entries, **BELOW)
    missing = len(words.entries(document, "measured")) - len(timed)
    caption = f"{len(timed)} timed blocks; a bar is the interval of the measured median"
    caption += f"; {missing} more in the table came without a time" if missing else ""
    return drawing(
        figure, name="measured", title="Predicted against measured step time", caption=words.sentence(caption)
    )
