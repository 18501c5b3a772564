"""What a system draws, costs and when it can be had: from its profile, or from the scenario where that is silent."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from coopt import units
from coopt.roadmap.scenario import said
from coopt.spec.find import Folders
from coopt.spec.profiles import profile
from coopt.spec.schema_types import Quantity, year


@dataclasses.dataclass(frozen=True, kw_only=True)
class Machine:
    """One system seen by a planner, a chip at a time; None: not known."""

    system: str
    watts: float | None = None  # IT W a chip, host and network included
    dollars: float | None = None  # USD a chip with its share of the rack
    date: float | None = None  # year, as a decimal
    assumed: tuple[str, ...] = ()


# a system's name -> what its profile says
Machines = Callable[[str], Machine]


def machine(system: str, *, path: Folders = None) -> Machine:
    """What the profiles of a system and of its chip say; the chip's date where the system has none.

    >>> machine("dgx-h100").watts
    1380.0
    """
    fields = profile("system", system, path=path).fields
    date = fields.available or profile("chip", fields.chip, path=path).fields.available
    watts, price = fields.power.it_per_chip, fields.price.per_chip
    figures = (("IT power a chip", watts, "W"), ("price a chip", price, "USD"), ("date", date, ""))
    return Machine(
        system=fields.name,
        watts=watts and watts.value,
        dollars=price and price.value,
        date=date and year(date.value),
        assumed=tuple(_sentence(system, *figure) for figure in figures if figure[1] and figure[1].kind == "assumed"),
    )


def _sentence(system: str, what: str, quantity: Quantity[Any], dimension: str) -> str:
    if quantity.confidential:
        return f"{system}: {what} assumed (confidential)"
    value = units.show(quantity.value, dimension) if dimension else str(quantity.value)
    return f"{system}: {what} = {value} assumed" + (f": {said(quantity.notes)}" if quantity.notes else "")
