"""A machine held to so many watts a chip, with what is assumed of its voltage where no design says it."""

from __future__ import annotations

import math

from coopt import units
from coopt.cost.operate import clock_at, full_load, operate
from coopt.problems import Problem, Refused
from coopt.spec import process
from coopt.spec.find import Folders
from coopt.spec.nouns import Hardware
from coopt.tree import replace

SLOWEST = 0.3  # of the rated clock: below, the straight line of voltage and clock ends


def capped(machine: Hardware, watts: float, *, path: Folders = None) -> Hardware:
    """The machine under a power cap, in W a chip; Refused where it cannot be one.

    >>> from coopt.spec.load import resolve
    >>> held = capped(resolve("gb200-nvl72", chips=72), 960.0)
    >>> round(held.watts), bool(held.peak[2] / 2.5e15 < 0.9)
    (960, True)
    """
    if not math.isfinite(machine.watts):
        raise Refused(
            Problem(field="watts", expected=f"a machine whose power is known to cap, which {machine.name}'s is not",
                    got=f"{watts:g} W", hint="give power.tdp in the chip's file, or as hardware.power.tdp=...")
        )  # fmt: skip
    said = ()
    if math.isnan(machine.slope):
        curve = {name: given[0] for name, given in process.operating(path=path).items()}
        machine = replace(machine, **curve)
        told = ", ".join(f"{name} {value:g}" for name, value in curve.items())
        said = (f"how {machine.chip} spends its watts is not known: {told} of hw_profiles/process are taken",)
    least = machine.watts * float(full_load(machine, SLOWEST))
    if not least <= watts <= machine.watts:
        raise Refused(
            Problem(field="watts", expected=f"from {least:.0f} to {machine.watts:g} W a chip", got=f"{watts:g} W",
                    hint=f"{machine.chip} is rated for {machine.watts:g} W; below {least:.0f} W it cannot run")
        )  # fmt: skip
    clock = float(clock_at(machine, watts / machine.watts))
    held = f"each chip is held to {units.show(watts, 'W')}: its cores run at {clock:.0%} of their rated clock"
    return replace(operate(machine, watts), assumed=(held, *said, *machine.assumed))
