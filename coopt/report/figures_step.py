"""Figures of one step: where its time goes, what fills the memory, and why one design is faster than another."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from coopt.report import compared, explained, words
from coopt.report.canvas import (
    FULL,
    GREY,
    INK,
    PAPER,
    SERIES,
    canvas,
    drawable,
    key,
    marks,
    named,
    numbers,
    write,
)
from coopt.report.svg import COLOURS, Drawing, drawing

BLUE, ORANGE = COLOURS["blue"], COLOURS["orange"]
DARK = "#101418"  # words on a light colour, on a light and on a dark page
BOUNDS = {
    "compute": BLUE,
    "memory": ORANGE,
    "network": COLOURS["green"],
    "latency": COLOURS["pink"],
    "overhead": COLOURS["red"],
    "none": GREY,
}
ROWS = 20  # rows of a breakdown that get a bar of their own; the others share one


def breakdown(document: Mapping[str, Any]) -> Drawing | None:
    """Where the step goes: the whole as one bar by bound, then the longest rows."""
    total = drawable(document.get("step_time"))
    held = [
        (
            words.plain(row.get("name")),
            drawable(row.get("time")),
            drawable(row.get("busy")),
            words.plain(row.get("bound")),
        )
        for row in words.entries(document, "rows")
    ]
    held = [row for row in held if row[1] or row[2]]
    if not held or not total:
        return None
    shown, rest = _longest(held)
    figure, (whole, ax) = canvas(FULL, 1.35 + 0.29 * len(shown), (1.0, 0.62 * len(shown)))
    _whole(whole, explained.by_bound(document), total)
    reach = max(max(row[1], row[2]) for row in shown)
    for line, (_, time, busy, bound) in enumerate(shown):
        colour = BOUNDS.get(bound, GREY)
        if busy > time:
            ax.barh(line, busy, height=0.62, color=colour, alpha=0.22, linewidth=0)
        ax.barh(line, time, height=0.62, color=colour, linewidth=0)
        said = f"{words.seconds(time)} ({words.percent(time / total)})"
        write(ax, (max(time, busy), line), said, offset=(6, 0))
    marks(ax.yaxis, range(len(shown)), [row[0] for row in shown])
    ax.set(xlim=(0, 1.17 * reach), ylim=(len(shown) - 0.4, -0.6))
    ax.grid(False)
    numbers(ax.xaxis, words.seconds)
    pale = ": full colour is exposed, pale is hidden behind other work" if any(r[2] > r[1] for r in shown) else ""
    named(ax, x=f"time a step{pale}")
    caption = f"The step of {words.seconds(total)} by row, coloured by what bounds the row"
    caption += f"; {rest} short rows share the last bar" if rest else ""
    return drawing(figure, name="breakdown", title="Breakdown of the step", caption=words.sentence(caption))


def _longest(held: list[tuple[str, float, float, str]]) -> tuple[list[tuple[str, float, float, str]], int]:
    held = sorted(held, key=lambda row: -max(row[1], 0.25 * row[2]))
    if len(held) <= ROWS:
        return held, 0
    rest = held[ROWS - 1 :]
    together = (f"{len(rest)} further rows", sum(r[1] for r in rest), sum(r[1] for r in rest), "none")
    return [*held[: ROWS - 1], together], len(rest)


def _whole(ax: Any, by_bound: Mapping[str, float], total: float) -> None:
    left = 0.0
    for name, time in by_bound.items():
        ax.barh(0, time, left=left, height=0.9, color=BOUNDS.get(name, GREY), linewidth=0)
        if time > 0.06 * total:
            colour = DARK if name in ("memory", "latency") else PAPER
            write(
                ax,
                (left + time / 2, 0),
                words.percent(time / total, places=0),
                weight="bold",
                ha="center",
                color=colour,
            )
        left += time
    ax.set(xlim=(0, left), ylim=(-0.5, 0.5))
    ax.axis("off")
    entries = [
        (f"{_bound(n)} {words.percent(t / total)}", {"color": BOUNDS.get(n, GREY)}) for n, t in by_bound.items() if t
    ]
    key(ax, entries, loc="lower left", bbox_to_anchor=(-0.01, 1.0), ncols=6, borderaxespad=0.1)


def _bound(name: str) -> str:
    return "waiting" if name == "none" else name


def memory(document: Mapping[str, Any]) -> Drawing | None:
    """Memory of the fullest chip by part, against what the chip has."""
    held = words.mapped(document.get("memory"))
    parts = [(name, size) for name, size in explained.parts(held) if drawable(size)]
    total = drawable(held.get("total")) or sum(size for _, size in parts)
    if not parts:
        return None
    room = drawable(held.get("available"))
    figure, (ax,) = canvas(FULL, 1.75)
    left = 0.0
    for (_, size), colour in zip(parts, [*SERIES] * (len(parts) // len(SERIES) + 1), strict=False):
        ax.barh(0, size, left=left, height=0.8, color=colour, linewidth=0)
        left += size
    if room:
        ax.plot([room, room], [-0.55, 0.55], color=INK, lw=2)
        near_end = room > 0.8 * max(total, room) and room > 1.25 * total  # then the words stand before the line
        write(
            ax,
            (room, 0.0),
            f"a chip has {words.memory(room)}",
            offset=(-6 if near_end else 6, 0),
            ha="right" if near_end else "left",
        )
    ax.set(
        xlim=(0, 1.02 * max(total, room) if room > 1.25 * total else 1.22 * max(total, room)),
        ylim=(-0.6, 0.6),
        yticks=[],
    )
    ax.grid(False, axis="y")
    _binary(ax)
    entries = [(f"{n} {words.memory(s)}", {"color": c}) for (n, s), c in zip(parts, [*SERIES] * 9, strict=False)]
    key(ax, entries, loc="lower left", bbox_to_anchor=(-0.01, 1.0), ncols=4, borderaxespad=0.1)
    caption = f"{words.memory(total)} on the fullest chip" + (f" of {words.memory(room)}" if room else "")
    return drawing(figure, name="memory", title="Memory by part", caption=words.sentence(caption))


def _binary(ax: Any) -> None:
    # Marks at round numbers of the binary unit that the axis is read in.
    from matplotlib.ticker import MultipleLocator

    high = ax.get_xlim()[1]
    unit = 1024.0 ** max(int(math.log(max(high, 1.0), 1024)), 0)
    step = next(s for s in (0.1, 0.25, 0.5, 1, 2, 4, 8, 16, 32, 64, 128, 256) if s * unit * 9 >= high)
    ax.xaxis.set_major_locator(MultipleLocator(step * unit))
    numbers(ax.xaxis, words.memory)


def reasons(document: Mapping[str, Any]) -> Drawing | None:
    """The log-ratio of two step times, split over hardware rates and over rows."""
    halves = [("by hardware rate", compared.parts(document, "by_rate")), ("by row", compared.parts(document, "by_row"))]
    halves = [(title, [p for p in parts if drawable(abs(p[1] or 0.0))][:12]) for title, parts in halves]
    halves = [(title, parts) for title, parts in halves if parts]
    if not halves:
        return None
    sizes = [len(parts) + 1.0 for _, parts in halves]
    figure, axes = canvas(FULL, 0.8 + 0.3 * sum(sizes), sizes, sharex=True)
    reach = max(abs(value or 0.0) for _, parts in halves for _, value in parts)
    for ax, (title, parts) in zip(axes, halves, strict=True):
        for line, (_, value) in enumerate(parts):
            size = value or 0.0
            ax.barh(line, size, height=0.62, color=BLUE if size < 0 else ORANGE, linewidth=0)
            side = {"ha": "right", "offset": (-5, 0)} if size < 0 else {"ha": "left", "offset": (5, 0)}
            write(ax, (size, line), f"{size:+.3f}", **side)
        ax.axvline(0, color=GREY, lw=0.9)
        marks(ax.yaxis, range(len(parts)), [name for name, _ in parts])
        ax.set(xlim=(-1.2 * reach, 1.2 * reach), ylim=(len(parts) - 0.4, -0.6))
        ax.grid(False, axis="y")
        named(ax, y=title)
    named(axes[-1], x="log-ratio of step times: left, the second design is faster")
    caption = "The parts of the log-ratio of the step times; they add to the whole."
    return drawing(figure, name="reasons", title="Why one is faster", caption=caption)
