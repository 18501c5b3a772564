"""Where a fit starts: measurements/priors.yaml as the prior's centre of every constant that some row uses."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from coopt.fit.constants import Name
from coopt.fit.rows import Design
from coopt.spec import read
from coopt.spec.constants import FAMILY, STACK


def starts(designs: Sequence[Design], file: str | Path) -> dict[Name, float]:
    """The prior's centre by kind, owner and constant; families and stacks that the file leaves out take its middle."""
    given, _ = read.read(file)
    start: dict[Name, float] = {}
    for family in sorted({one.hardware.family for one in designs}):
        own = {**given["otherwise"], **given["families"].get(family, {})}
        start |= {("family", family, which): float(own[which]) for which in FAMILY}
    for stack in sorted({one.hardware.stack for one in designs}):
        own = {**given["otherwise_stacks"], **given["stacks"].get(stack, {})}
        start |= {("stack", stack, which): float(own[which]) for which in STACK}
    return start
