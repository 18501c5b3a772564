"""Fitted constants into profile files: the `fitted:` block of a family or stack, with intervals and rows used."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from coopt import units
from coopt.fit.constants import Name
from coopt.spec.constants import FAMILY, STACK

TIMES = ("kernel", "dispatch")
Z90 = 1.645
HEAD = {"family": "fitted:  # shares of a peak for large work, sizes at which half of it is reached; at most ten",
        "stack": "fitted:  # at most four"}  # fmt: skip


def quantity(which: str, value: float, error: float, *, prior: float) -> str:
    """One line of the block: the value with its 90% interval, and where the fit started.

    >>> quantity("stream", 0.8871, 0.05, prior=0.88)
    '  stream: {value: 0.887, source: fit, kind: fitted, low: 0.817, high: 0.963, basis: "prior 0.88"}'
    """
    low, high = value * math.exp(-Z90 * error), value * math.exp(Z90 * error)
    if which in ("stream", "scale_up", "scale_out", "hide") or which.startswith("matmul"):
        high = min(high, 1.0)
    shown = [_shown(which, number) for number in (value, low, high, prior)]
    return (
        f"  {which}: {{value: {shown[0]}, source: fit, kind: fitted, low: {shown[1]}, high: {shown[2]}, "
        f'basis: "prior {shown[3]}"}}'
    )


def _shown(which: str, value: float) -> str:
    return units.show(float(f"{value:.3g}"), "s") if which in TIMES else f"{value:.3g}"


def block(kind: str, whose: str, fitted: Mapping[Name, tuple[float, float, float]], sigma: float | None) -> str:
    """The `fitted:` block of one family or stack; constants that nothing pins keep their prior and say so."""
    lines = [HEAD[kind]]
    for which in FAMILY if kind == "family" else STACK:
        lines.append(quantity(which, *fitted[kind, whose, which][:2], prior=fitted[kind, whose, which][2]))
    if sigma is not None:
        lines.append(
            f"  sigma: {{value: {sigma:.3g}, source: fit, kind: fitted}}  # of log(measured / held-out prediction)"
        )
    return "\n".join(lines) + "\n"


def write(
    path: Path, text: str, *, rows: int, date: str, over: str, chips: Sequence[str] = (), base: Path | None = None
) -> None:
    """Writes the profile at `base` to `path` with a new `fitted:` block, the fit among its sources, and its chips."""
    old = (base or path).read_text()
    source = f"  fit:\n    title: coopt fit over {over}, {rows} rows\n    date: {date}\n"
    old = re.sub(r"  fit:\n(?:    .*\n)+", "", old)
    old = re.sub(r"^sources:\n", "sources:\n" + source, old, count=1, flags=re.M)
    if chips:
        old = re.sub(r"^chips: .*\n", "", old, flags=re.M)
        old = re.sub(
            r"^((?:vendor|title): .*\n)(?!vendor)", rf"\1chips: [{', '.join(chips)}]\n", old, count=1, flags=re.M
        )
    start = re.search(r"^fitted:.*\n(?:  .*\n)*", old, flags=re.M)
    new = old[: start.start()] + text + old[start.end() :] if start else old + text
    path.write_text(new)
