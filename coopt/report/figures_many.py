"""Figures of many rows: the years of a roadmap, and predictions against every published measurement."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from coopt.report import planned, words
from coopt.report.canvas import (
    FULL,
    GREY,
    HALF,
    INK,
    PAPER,
    SERIES,
    canvas,
    drawable,
    key,
    logarithmic,
    marks,
    named,
    numbers,
    write,
)
from coopt.report.svg import COLOURS, Drawing, drawing


def roadmap(document: Mapping[str, Any]) -> Drawing | None:
    """Megawatts in all by chip, capital by quarter, and training runs, on one line of time."""
    quarters = planned.quarters(document)
    if not quarters:
        return None
    runs = [r for r in words.entries(document, "training_runs") if planned.ordinal(r.get("start")) is not None]
    heights = (3.2, 1.4, max(0.36 * len(runs), 0.4)) if runs else (3.2, 1.4)
    figure, axes = canvas(FULL, 1.3 + sum(heights), heights, sharex=True)
    chips = _cumulative(document, quarters)
    power = _power(axes[0], chips, len(quarters))
    spent = planned.capex(document)
    axes[1].bar(
        range(len(quarters)), [drawable(spent.get(q)) for q in quarters], width=0.8, color=COLOURS["grey"], linewidth=0
    )
    numbers(axes[1].yaxis, words.dollars)
    named(axes[1], y="capital a quarter")
    if runs:
        _gantt(axes[2], runs, quarters, {chip: colour for (chip, _), colour in zip(chips, _colours(), strict=False)})
    for ax in axes:
        ax.grid(False, axis="x")
        ax.tick_params(axis="x", labelbottom=ax is axes[-1])
    every = -(-len(quarters) // 10)
    firsts = [i for i, q in enumerate(quarters) if q.endswith("Q1")] if every > 1 else list(range(len(quarters)))
    marks(axes[-1].xaxis, firsts, [quarters[i] for i in firsts])
    axes[-1].set_xlim(-0.6, len(quarters) - 0.4)
    caption = (
        f"{power:,.0f} MW by {quarters[-1]}, {words.dollars(sum(spent.values()))} of capital, {len(runs)} training runs"
    )
    return drawing(figure, name="roadmap", title="The roadmap by quarter", caption=words.sentence(caption))


def _colours() -> tuple[str, ...]:
    return SERIES[:6]


def _cumulative(document: Mapping[str, Any], quarters: list[str]) -> list[tuple[str, list[float]]]:
    added: dict[str, dict[str, float]] = {}
    for entry in words.entries(document, "deployments"):
        chip, quarter = words.plain(entry.get("chip")), words.plain(entry.get("quarter"))
        held = added.setdefault(chip, {})
        held[quarter] = held.get(quarter, 0.0) + drawable(entry.get("megawatts"))
    series = []
    for chip, held in added.items():
        total, line = 0.0, []
        for quarter in quarters:
            total += held.get(quarter, 0.0)
            line.append(total)
        series.append((chip, line))
    if len(series) > 6:  # six colours can be told apart; the chips beyond the five largest share one
        series.sort(key=lambda s: -s[1][-1])
        rest = [sum(parts) for parts in zip(*(line for _, line in series[5:]), strict=True)]
        series = [*series[:5], (f"{len(series) - 5} other chips", rest)]
    return series


def _power(ax: Any, chips: list[tuple[str, list[float]]], many: int) -> float:
    floor = [0.0] * many
    for (chip, line), colour in zip(chips, _colours(), strict=False):
        ax.bar(range(many), line, bottom=floor, width=0.8, color=colour, linewidth=0)
        if line[-1] > 0:
            write(ax, (many - 0.5, floor[-1] + line[-1] / 2), chip, offset=(4, 0))
        floor = [a + b for a, b in zip(floor, line, strict=True)]
    numbers(ax.yaxis, lambda v: f"{v:,.0f}")
    named(ax, y="MW in all, IT power, by chip")
    return floor[-1]


def _gantt(ax: Any, runs: list[Mapping[str, Any]], quarters: list[str], colours: Mapping[str, str]) -> None:
    start = planned.ordinal(quarters[0]) or 0
    for line, run in enumerate(runs):
        left = (planned.ordinal(run.get("start")) or 0) - start - 0.4
        long = min(max(drawable(run.get("quarters")), 1.0), float(len(quarters))) - 0.2
        ax.barh(line, long, left=left, height=0.66, color=colours.get(words.plain(run.get("chip")), GREY), linewidth=0)
        loss = words.figure(run.get("loss"))
        said = f"{words.shape(run.get('model'))} on {words.plain(run.get('chip'))}"
        said += f", loss {loss:.3f}" if loss is not None else ""
        late = left + long > 0.62 * len(quarters)
        write(
            ax,
            (left if late else left + long, line),
            said,
            offset=(-6, 0) if late else (6, 0),
            ha="right" if late else "left",
        )
    ax.set(ylim=(len(runs) - 0.4, -0.6), yticks=[])
    ax.grid(False)
    named(ax, y="training runs")


def validation(document: Mapping[str, Any]) -> Drawing | None:
    """Every scored row, predicted against measured, by chip; without rows, the mean error of each chip."""
    points = [
        (
            words.plain(row.get("hardware")),
            drawable(row.get("predicted_step_time")),
            drawable(row.get("measured_step_time")),
        )
        for row in words.entries(document, "points")
    ]
    kept = [point for point in points if point[1] and point[2]]
    return _scatter(kept) if kept else _errors(document)


def _scatter(kept: list[tuple[str, float, float]]) -> Drawing:
    figure, (ax,) = canvas(HALF * 1.25, 5.2)
    order = [chip for chip, _ in Counter(chip for chip, _, _ in kept).most_common()]
    looks = {chip: {"color": c, "marker": m} for chip, c, m in zip(order[:6], _colours(), "osD^vP", strict=False)}
    for chip in reversed(order):
        look = looks.get(chip, {"color": GREY, "marker": "o"})
        mine = [(p, m) for name, p, m in kept if name == chip]
        ax.plot([p for p, _ in mine], [m for _, m in mine], linestyle="none", ms=5, mec=PAPER, mew=0.5, **look)
    for which in "xy":
        logarithmic(ax, which, [v for _, p, m in kept for v in (p, m)], say=words.seconds)
    ends = ax.get_xlim()
    ax.plot(ends, ends, color=INK, lw=1.0, zorder=1)
    for factor in (0.8, 1.25):
        ax.plot(ends, [factor * end for end in ends], color=GREY, lw=0.9, dashes=(4, 3), zorder=1)
    named(ax, x="predicted step time", y="measured step time")
    entries = [(chip, {"markersize": 6, **look}) for chip, look in looks.items()]
    entries += [("other chips", {"color": GREY, "marker": "o", "markersize": 6})] if len(order) > 6 else []
    key(ax, entries, loc="lower right")
    caption = f"{len(kept)} rows; dashed lines are 25% off"
    return drawing(
        figure, name="validation", title="Predicted against measured, every row", caption=words.sentence(caption)
    )


def _errors(document: Mapping[str, Any]) -> Drawing | None:
    held = words.mapped(document.get("by_hardware"))
    named_errors = [(words.plain(n), e) for n, s in held.items() if (e := drawable(words.mapped(s).get("mape")))]
    if not named_errors:
        return None
    named_errors.sort(key=lambda pair: -pair[1])
    figure, (ax,) = canvas(FULL, 0.9 + 0.3 * len(named_errors))
    for line, (_, value) in enumerate(named_errors):
        ax.barh(line, value, height=0.62, color=SERIES[0], linewidth=0)
        write(ax, (value, line), words.percent(value), offset=(6, 0))
    marks(ax.yaxis, range(len(named_errors)), [name for name, _ in named_errors])
    ax.set(ylim=(len(named_errors) - 0.4, -0.6), xlim=(0, 1.15 * named_errors[0][1]))
    ax.grid(False, axis="y")
    numbers(ax.xaxis, lambda v: words.percent(v, places=0))
    named(ax, x="mean absolute error of the step time")
    return drawing(figure, name="validation", title="Mean error by chip", caption="The mean error of each chip.")
