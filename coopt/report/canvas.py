"""The look of every figure: quiet axes, words in ink, colours that everybody tells apart.

No pyplot and no state: a figure is made, filled and turned into a `Drawing`. Names from documents are drawn as they
are: nothing in them is read as mathematics.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from coopt.report.svg import COLOURS
from coopt.report.words import figure, plain

INK, FAINT, PAPER, GREY = COLOURS["ink"], COLOURS["faint"], COLOURS["paper"], COLOURS["grey"]
SERIES = tuple(COLOURS[name] for name in ("blue", "orange", "green", "pink", "red", "sky", "grey"))
HALF, FULL = 5.7, 11.9  # inches: half a page and a whole one
TEXT = 10.0  # points
LONGEST = 44  # characters of one label: a longer one would push the drawing out of its figure
BELOW = {"loc": "upper left", "bbox_to_anchor": (-0.02, -0.14), "ncols": 4, "borderaxespad": 0.0}  # a key under an axis


def label(said: Any) -> str:
    """A name as one harmless line, short enough for a figure."""
    text = plain(said)
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"


def canvas(width: float, height: float, heights: Sequence[float] = (1,), **more: Any) -> tuple[Any, list[Any]]:
    """An empty figure with quiet axes, one above the other."""
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    sheet = Figure(figsize=(width, height), layout=ConstrainedLayoutEngine(w_pad=0.06, h_pad=0.05))
    axes = list(sheet.subplots(len(heights), 1, squeeze=False, height_ratios=heights, **more)[:, 0])
    for ax in axes:
        _quiet(ax)
    return sheet, axes


def _quiet(ax: Any) -> None:
    ax.set_axisbelow(True)
    ax.grid(True, color=FAINT, linewidth=0.7)
    ax.tick_params(colors=INK, labelsize=TEXT, length=0, pad=5)
    for side, spine in ax.spines.items():
        spine.set_visible(side == "bottom")
        spine.set(color=GREY, linewidth=0.9)


def named(ax: Any, *, x: str = "", y: str = "") -> None:
    """Names of the axes: the vertical one stands above its axis, so that it reads without turning the head."""
    if x:
        ax.set_xlabel(x, color=INK, size=TEXT, parse_math=False, labelpad=6)
    if y:
        ax.set_title(y, color=INK, size=TEXT, loc="left", parse_math=False, pad=8)


def write(ax: Any, place: tuple[float, float], said: Any, *, offset: tuple[float, float] = (0, 0), **more: Any) -> Any:
    """Words in a figure, `offset` points from their place."""
    style = {"color": INK, "fontsize": TEXT, "parse_math": False, "va": "center"} | more
    return ax.annotate(label(said), place, xytext=offset, textcoords="offset points", annotation_clip=False, **style)


def marks(axis: Any, places: Sequence[float], words: Iterable[Any]) -> None:
    """Words at places of an axis."""
    axis.set_ticks(list(places), [label(word) for word in words], parse_math=False)


def numbers(axis: Any, say: Callable[[float], str]) -> None:
    """Numbers of an axis in the words of `say`."""
    from matplotlib.ticker import FuncFormatter

    axis.set_major_formatter(FuncFormatter(lambda value, _: say(value)))


def logarithmic(
    ax: Any, which: str, values: Sequence[float], *, say: Callable[[float], str], unit: float = 1.0
) -> None:
    """Makes the axis `which` ("x" or "y") logarithmic, with marks at round numbers of `unit`."""
    from matplotlib.ticker import FixedLocator, NullLocator

    low, high = min(values), max(values)
    edge = 1.06 * (high / low) ** 0.05
    low, high = low / edge, high * edge
    getattr(ax, f"set_{which}scale")("log")
    getattr(ax, f"set_{which}lim")(low, high)
    axis = getattr(ax, f"{which}axis")
    axis.set_major_locator(FixedLocator([unit * mark for mark in round_numbers(low / unit, high / unit)]))
    axis.set_minor_locator(NullLocator())
    numbers(axis, say)


def round_numbers(low: float, high: float, most: int = 6) -> list[float]:
    """At most `most` round numbers between two positive ones, for a logarithmic axis.

    >>> round_numbers(0.9, 30.0), round_numbers(3.4, 5.1)
    ([1.0, 2.0, 5.0, 10.0, 20.0], [3.5, 4.0, 4.5, 5.0])
    """
    if high < 2.5 * low:  # so short that even steps look even
        size = 10.0 ** math.floor(math.log10(high - low)) if high > low else low
        steps = (size * step for step in (0.1, 0.2, 0.5, 1.0, 2.0, 5.0))
        step = next(s for s in steps if (high - low) / s <= most - 1)
        return [place * step for place in range(math.ceil(low / step), math.floor(high / step) + 1)]
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    ladders = ((1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0), (1.0, 2.0, 3.0, 5.0), (1.0, 2.0, 5.0), (1.0, 3.0), (1.0,))
    for ladder in ladders:
        found = [step * 10.0**decade for decade in decades for step in ladder if low <= step * 10.0**decade <= high]
        if len(found) <= most:
            return found
    return found[:: -(-len(found) // most)]


def key(ax: Any, entries: Sequence[tuple[str, dict[str, Any]]], **more: Any) -> None:
    """A legend of `(words, how the mark looks)`."""
    from matplotlib.lines import Line2D

    usual = {"linestyle": "none", "marker": "s", "markersize": 8, "markeredgewidth": 0}
    handles = [Line2D([], [], **(usual | look)) for _, look in entries]
    style = {"frameon": False, "fontsize": TEXT, "labelcolor": INK, "handletextpad": 0.3, "columnspacing": 1.4} | more
    legend = ax.legend(handles, [label(name) for name, _ in entries], **style)
    for text in legend.get_texts():
        text.set_parse_math(False)


def drawable(value: Any) -> float:
    """The value as a positive float, or 0 for what cannot be drawn: null, zero, less, and what no axis reaches.

    >>> drawable(2), drawable(None), drawable(-1.0), drawable(1e300)
    (2.0, 0.0, 0.0, 0.0)
    """
    number = figure(value)
    return number if number is not None and 1e-60 < number < 1e60 else 0.0
