"""Schemas of chips and systems. Fields that pricing needs may be missing here, with a reason."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import pydantic

from coopt.spec.schema_fitted import Fitted
from coopt.spec.schema_types import (
    Area,
    AtLeastOne,
    Bandwidth,
    Bytes,
    Count,
    Date,
    Dollars,
    DollarsAnHour,
    Efficiency,
    File,
    Flag,
    Frequency,
    JoulesAByte,
    JoulesAFlop,
    Kind,
    Name,
    Notes,
    Positive,
    Quantity,
    Rate,
    Scalar,
    Share,
    Strict,
    Text,
    Time,
    Watts,
    failure,
)


def _quoted(given: Any) -> str | None:
    return str(given) if isinstance(given, (str, int, float)) and not isinstance(given, bool) else None


Quoted = Annotated[str, Scalar("a version", "write it like `9.0`", _quoted)]


class Peak(Strict):
    """Dense FLOP/s by number format."""

    fp64: Quantity[Rate] | None = None
    fp32: Quantity[Rate] | None = None
    tf32: Quantity[Rate] | None = None
    bf16: Quantity[Rate] | None = None
    fp16: Quantity[Rate] | None = None
    fp8: Quantity[Rate] | None = None
    mxfp8: Quantity[Rate] | None = None
    fp6: Quantity[Rate] | None = None
    mxfp4: Quantity[Rate] | None = None
    nvfp4: Quantity[Rate] | None = None
    int8: Quantity[Rate] | None = None
    int4: Quantity[Rate] | None = None


class Memory(Strict):
    """Main memory of a chip."""

    capacity: Quantity[Bytes] | None = None
    usable: Quantity[Bytes] | None = None  # what a program can allocate
    bandwidth: Quantity[Bandwidth] | None = None
    type: Text | None = None

    @pydantic.model_validator(mode="after")
    def _usable(self) -> Memory:
        if self.usable and self.capacity and self.usable.value > self.capacity.value:
            raise failure("memory.usable <= memory.capacity", "more", "GB and GiB may be mixed up")
        return self


class Tile(Strict):
    """The matmul tile that reaches the fitted efficiency."""

    m: Count
    n: Count
    k: Count | None = None
    source: Text
    kind: Kind
    notes: Notes | None = None


class ChipHost(Strict):
    """The host, as one chip sees it."""

    bandwidth: Quantity[Bandwidth] | None = None
    memory: Quantity[Bytes] | None = None


class Links(Strict):
    """Links of a chip, one way, all of a kind together."""

    each: Quantity[Bandwidth] | None = None  # one link of a torus, as far as it can be used
    scale_up: Quantity[Bandwidth] | None = None
    scale_out: Quantity[Bandwidth] | None = None
    cores: Quantity[Count] | None = None  # that a collective keeps from other work; none where engines of its own send


class ChipPower(Strict):
    """Power of the chip alone."""

    tdp: Quantity[Watts] | None = None
    idle: Quantity[Watts] | None = None
    sustained: Quantity[Watts] | None = None


class ChipPrice(Strict):
    """Money for one chip."""

    chip: Quantity[Dollars] | None = None
    hour: Quantity[DollarsAnHour] | None = None
    hour_committed: Quantity[DollarsAnHour] | None = None


class Energy(Strict):
    """Energy of an operation, beyond idle."""

    flop: dict[str, Quantity[JoulesAFlop]] = {}  # noqa: RUF012
    byte: Quantity[JoulesAByte] | None = None  # main memory
    wire: Quantity[JoulesAByte] | None = None  # network


class Microarchitecture(Strict):
    """What sets wave quantisation and cycle counts."""

    matrix_units: Quantity[Count] | None = None
    matrix_unit: Text | None = None
    vector_units: Quantity[Count] | None = None  # of a core, single precision
    shared_memory: Quantity[Bytes] | None = None  # of a core
    compute_capability: Quoted | None = None
    transistors: Quantity[Positive] | None = None
    dies: Quantity[Count] | None = None
    area: Quantity[Area] | None = None
    notes: Notes | None = None


class Chip(File):
    """kind: chip."""

    kind: Literal["chip"]
    vendor: Text | None = None
    family: Name | None = None
    system: Name | None = None  # its usual machine
    announced: Quantity[Date] | None = None
    available: Quantity[Date] | None = None
    node: Quantity[Text] | None = None
    peak: Peak = Peak()
    vector: Quantity[Rate] | None = None
    memory: Memory = Memory()
    cache: Quantity[Bytes] | None = None
    cores: Quantity[Count] | None = None
    clock: Quantity[Frequency] | None = None
    tile: Tile | None = None
    attention: Quantity[Positive] | None = None  # rate of its fused attention over that of its family
    host: ChipHost = ChipHost()
    links: Links = Links()
    power: ChipPower = ChipPower()
    price: ChipPrice = ChipPrice()
    energy: Energy = Energy()
    microarch: Microarchitecture = Microarchitecture()
    fitted: Fitted = Fitted()  # measured on this very chip: before the family's


class Tier(Strict):
    """One level of the network, seen from one chip."""

    name: Name
    size: Count | None = None  # chips inside one unit; the last tier may take any number
    usable: Count | None = None  # of them, in practice (64 of 72)
    topology: Literal["switch", "torus2d", "torus3d"]
    wrap: Flag | None = None  # a torus whose axes close
    bandwidth: Quantity[Bandwidth] | None = None
    latency: Quantity[Time] | None = None
    efficiency: Quantity[Efficiency] | None = None
    saturation: Quantity[Bytes] | None = None
    oversubscription: AtLeastOne = 1.0
    reduction: Flag = False
    ring: Flag = False  # reductions go round a ring alone
    notes: Notes | None = None


class NodeHost(Strict):
    """The host of a node."""

    memory: Quantity[Bytes] | None = None
    bandwidth: Quantity[Bandwidth] | None = None
    cpu: Text | None = None


class SystemPower(Strict):
    """Power of a chip with its share of everything around it."""

    it_per_chip: Quantity[Watts] | None = None
    facility_per_chip: Quantity[Watts] | None = None
    node: Quantity[Watts] | None = None
    rack: Quantity[Watts] | None = None


class SystemPrice(Strict):
    """Money for a chip with its share of everything around it, or for a whole unit."""

    per_chip: Quantity[Dollars] | None = None
    unit: Quantity[Dollars] | None = None
    hour: Quantity[DollarsAnHour] | None = None


class Failures(Strict):
    """What goodput needs."""

    interval: Quantity[Time] | None = None  # chip-time between interruptions
    restart: Quantity[Time] | None = None
    checkpoint: Quantity[Time] | None = None
    repair: Quantity[Time] | None = None  # from an interruption until its chips are back, in the mean of all
    blast: Quantity[Count] | None = None  # chips that wait for it; else the scale-up domain
    spares: Quantity[Share] | None = None  # chips that are paid for and idle, over those at work


class System(File):
    """kind: system."""

    kind: Literal["system"]
    vendor: Text | None = None
    chip: Name
    chips_per_node: Count
    max_chips: Count | None = None
    available: Quantity[Date] | None = None
    level: Text | None = None
    cooling: Text | None = None
    tiers: tuple[Tier, ...] = ()
    host: NodeHost = NodeHost()
    power: SystemPower = SystemPower()
    price: SystemPrice = SystemPrice()
    failures: Failures = Failures()

    @pydantic.model_validator(mode="after")
    def _nested(self) -> System:
        sizes = [tier.size for tier in self.tiers]
        if None in sizes[:-1]:
            raise failure("a size for every tier but the last", "a tier without", "add `size:` in chips")
        known = [size for size in sizes if size is not None]
        if known != sorted(known) or len(set(known)) < len(known):
            raise failure(
                "tiers nearest first, each larger", " then ".join(f"{s:g}" for s in known), "reorder `tiers:`"
            )
        if any(tier.usable and tier.size and tier.usable > tier.size for tier in self.tiers):
            raise failure("usable <= size in a tier", "more", "")
        return self
