"""What a scenario file may hold: the schema, field by field."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from coopt.roadmap import quarters
from coopt.spec.schema_types import (
    AtLeastOne,
    Count,
    Date,
    Dollars,
    File,
    Flag,
    Kind,
    Name,
    Natural,
    Positive,
    Quantity,
    Real,
    Scalar,
    Share,
    Strict,
    Text,
    Watts,
    measured_in,
)


def _quarter(given: Any) -> str | None:
    try:
        return quarters.name(quarters.number(given)) if isinstance(given, str) else None
    except ValueError:
        return None


Quarter = Annotated[str, Scalar("a quarter", "write it like `2026Q3`", _quarter)]
DollarsAYear = Annotated[float, measured_in("USD/yr", zero=True)]
DollarsAWattYear = Annotated[float, measured_in("USD/W/yr", zero=True)]
DollarsAJoule = Annotated[float, measured_in("USD/J", zero=True)]
DollarsOrNone = Annotated[float, measured_in("USD", zero=True)]


class Horizon(Strict):
    """The quarters in which decisions are made, and until when what they bring is counted."""

    first: Quarter
    last: Quarter
    until: Quarter | None = None  # what decisions bring is counted until here; the last quarter when left out


class Site(Strict):
    """A place for new chips: the power that comes in each quarter, and stays."""

    site: Text
    region: Text
    added: dict[Quarter, Watts]
    source: Text
    kind: Kind
    notes: Text | None = None


class Capital(Strict):
    """Money that is released as power is deployed, and the share of chips it pays."""

    limit: Quantity[Dollars]
    initial: Quantity[DollarsOrNone]
    tranche: Quantity[DollarsOrNone]
    tranche_power: Quantity[Watts]
    equity: Quantity[Share]


class Filled(Strict):
    """What a scenario says about a system whose profile does not."""

    watts: Quantity[Watts] | None = None
    price: Quantity[Dollars] | None = None
    date: Quantity[Date] | None = None


class Supply(Strict):
    """Chips that can be had in a quarter: first * growth^(quarters since the first), at most `most`."""

    first: Quantity[Count]
    growth: Quantity[Positive]
    most: Quantity[Count]


class Chip(Strict):
    """A system that may be bought."""

    system: Name
    lifetime: Quantity[Count]
    supply: Supply
    assumed: Filled = Filled()


class Owned(Strict):
    """Systems at work when the horizon begins, on power of their own, until they retire."""

    system: Name
    site: Text
    power: Quantity[Watts]
    retires: Quantity[Quarter]
    assumed: Filled = Filled()


class Serving(Strict):
    """Stands in for demand until serving is planned: a reserved share, and what work other than training earns."""

    reserved: Quantity[Share]
    revenue: Quantity[DollarsAWattYear]
    reference: Name
    decline: Quantity[Share]


class Scale(Strict):
    """A model grown from a published shape: widths (d_model, heads, feed-forward) and layers times a factor."""

    width: AtLeastOne = 1.0
    layers: AtLeastOne = 1.0


class Rung(Strict):
    """One step of the ladder: a model, the tokens it is trained on and the batch (tokens a step) it is trained with."""

    name: Name
    model: Name
    scale: Scale = Scale()
    tokens: Positive
    batch: Positive
    due: Quarter | None = None


class Reference(Strict):
    """The model against whose loss worth is counted: what anybody can have today."""

    model: Name
    tokens: Positive
    batch: Positive


class Worth(Strict):
    """USD a year for each nat that the best model in hand is below the reference, which itself falls every year."""

    reference: Reference
    per_nat: Quantity[DollarsAYear]
    drift: Quantity[Real]


class Training(Strict):
    """What may be trained, and how runs are sized."""

    seq_len: Count
    law: Name
    extrapolate: Flag = False
    precision: tuple[Literal["fp32", "bf16", "fp16", "fp8", "mxfp8", "nvfp4", "int8"], ...] = ("bf16",)
    stack: Name = "generic"
    goodput: Quantity[Share]
    spares: Quantity[Share]
    span: Literal["site", "region", "fleet"]
    durations: tuple[Count, ...]
    chips: tuple[Count, ...]
    worth: Worth
    ladder: tuple[Rung, ...]


class Milestone(Strict):
    """New power that must be deployed by the end of a quarter."""

    by: Quarter
    deployed: Watts


class Scenario(File):
    """A scenario file as read: SI units, USD."""

    kind: Literal["scenario"]
    basis: Literal["IT"]
    quarters: Horizon
    sites: tuple[Site, ...]
    capital: Capital
    chips: tuple[Chip, ...]
    fleet: tuple[Owned, ...] = ()
    commissioning: Quantity[Natural]
    rate: Quantity[Share]
    electricity: Quantity[DollarsAJoule]
    pue: Quantity[AtLeastOne]
    serving: Serving
    training: Training
    milestones: tuple[Milestone, ...] = ()
