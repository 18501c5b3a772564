"""Schemas of what chips are made with (kind: process) and of chips that are still free (kind: design)."""

from __future__ import annotations

from typing import Annotated, Literal

import pydantic

from coopt.spec.schema_types import (
    Area,
    AtLeastOne,
    Bandwidth,
    Bytes,
    Count,
    Date,
    Dollars,
    Efficiency,
    File,
    Frequency,
    JoulesAByte,
    Name,
    Natural,
    Positive,
    Quantity,
    Share,
    Strict,
    Time,
    Watts,
    failure,
    measured_in,
)

Length = Annotated[float, measured_in("m")]
Joules = Annotated[float, measured_in("J")]
Heat = Annotated[float, measured_in("W/m2")]
DollarsAnArea = Annotated[float, measured_in("USD/m2")]
DollarsAWatt = Annotated[float, measured_in("USD/W")]
DollarsAJoule = Annotated[float, measured_in("USD/J")]


class Node(Strict):
    """A logic process; areas and energies are relative to 7 nm."""

    name: Name
    logic: Quantity[Positive]
    bitcell: Quantity[Area]
    voltage: Quantity[Positive]
    threshold: Quantity[Positive]
    clock: Quantity[Frequency]
    energy: Quantity[Positive]
    leakage: Quantity[Heat]
    wafer: Quantity[Dollars]
    defects: Quantity[Positive]  # a cm2
    development: Quantity[Dollars]
    masks: Quantity[Dollars]
    quarters: Quantity[Count]
    date: Quantity[Date]

    @pydantic.model_validator(mode="after")
    def _above_threshold(self) -> Node:
        if self.threshold.value >= self.voltage.value:
            raise failure("threshold < voltage", "more", "both are volts")
        return self


class Stack(Strict):
    """One stack of a generation of HBM."""

    name: Name
    capacity: Quantity[Bytes]
    bandwidth: Quantity[Bandwidth]
    energy: Quantity[JoulesAByte]
    price: Quantity[Dollars]
    area: Quantity[Area]
    edge: Quantity[Length]
    footprint: Quantity[Area]
    date: Quantity[Date]


class Link(Strict):
    """One lane of a technology of scale-up links."""

    name: Name
    rate: Quantity[Bandwidth]
    area: Quantity[Area]
    edge: Quantity[Length]
    energy: Quantity[JoulesAByte]
    price: Quantity[Dollars]
    latency: Quantity[Time]
    reach: Quantity[Count]
    date: Quantity[Date]


class Blocks(Strict):
    """Area and energy at 7 nm of what a die is made of."""

    multiplier: Quantity[Area]
    port: Quantity[Area]
    lane: Quantity[Area]
    exponential: Quantity[Area]
    eight: Quantity[Share]
    four: Quantity[Share]
    control: Quantity[Positive]
    array: Quantity[Efficiency]
    host: Quantity[Area]
    host_edge: Quantity[Length]
    joint: Quantity[Area]
    joint_watts: Quantity[Watts]
    multiply: Quantity[Joules]
    feed: Quantity[Joules]
    vector: Quantity[Joules]
    transcend: Quantity[Joules]
    softmax: Quantity[Positive]
    pointwise: Quantity[Positive]
    least: Quantity[Count]
    interface: Quantity[Watts]
    latency: Quantity[Time]


class Package(Strict):
    """From wafers to a tested package."""

    diameter: Quantity[Length]
    margin: Quantity[Length]
    scribe: Quantity[Length]
    clustering: Quantity[Positive]
    salvage: Quantity[Share]
    half: Quantity[Share]
    reticle: Quantity[Area]
    interposer: Quantity[Area]
    over: Quantity[AtLeastOne]
    shore: Quantity[Efficiency]
    price: Quantity[DollarsAnArea]
    bond: Quantity[Efficiency]
    test: Quantity[Dollars]
    heat: Quantity[Heat]
    overdrive: Quantity[AtLeastOne]


class Around(Strict):
    """What stands around a chip in a rack."""

    share: Quantity[Share]
    host: Quantity[Dollars]
    network: Quantity[Dollars]
    network_rate: Quantity[Bandwidth]
    latency: Quantity[Time]
    plant: Quantity[DollarsAWatt]
    switch_rate: Quantity[Bandwidth]
    switch_radix: Quantity[Count]
    switch_price: Quantity[Dollars]
    switch_watts: Quantity[Watts]
    host_bandwidth: Quantity[Bandwidth]
    host_memory: Quantity[Bytes]
    interval: Quantity[Time]
    restart: Quantity[Time]
    checkpoint: Quantity[Time]
    repair: Quantity[Time]


class Money(Strict):
    """What capital, power and development cost."""

    rate: Quantity[Efficiency]
    life: Quantity[Time]
    plant_life: Quantity[Time]
    electricity: Quantity[DollarsAJoule]
    pue: Quantity[AtLeastOne]
    margin: Quantity[Share]
    reference: Quantity[Area]
    scales: Quantity[Share]
    respin: Quantity[Share]
    respin_quarters: Quantity[Natural]
    least: Quantity[Count]


class Delivered(Strict):
    """What software reaches on a chip that nobody has programmed yet."""

    matmul_16: Quantity[Efficiency]
    matmul_8: Quantity[Efficiency]
    matmul_4: Quantity[Efficiency]
    depth: Quantity[Positive]
    attention: Quantity[Efficiency]
    attention_depth: Quantity[Positive]
    stream: Quantity[Efficiency]
    kernel: Quantity[Time]
    scale_up: Quantity[Efficiency]
    scale_out: Quantity[Efficiency]
    dispatch: Quantity[Time]
    hide: Quantity[Share]
    passes: Quantity[AtLeastOne]
    usable: Quantity[Efficiency]
    idle: Quantity[Share]
    sigma: Quantity[Positive]


class Operating(Strict):
    """Where the watts of a chip under load go, and how its voltage follows its clock; for chips without a design."""

    clocked: Quantity[Share]
    leaking: Quantity[Share]
    slope: Quantity[Share]

    @pydantic.model_validator(mode="after")
    def _whole(self) -> Operating:
        if self.clocked.value + self.leaking.value > 1.0:
            raise failure("clocked + leaking <= 1", "more", "they are shares of the same watts")
        return self


class Process(File):
    """kind: process."""

    kind: Literal["process"]
    nodes: tuple[Node, ...]
    memories: tuple[Stack, ...]
    links: tuple[Link, ...]
    blocks: Blocks
    package: Package
    around: Around
    money: Money
    delivered: Delivered
    operating: Operating


class Published(Strict):
    """What others say of the chip, to compare with; nothing is fitted to a figure that is not here."""

    area: Quantity[Area] | None = None
    tdp: Quantity[Watts] | None = None
    parts: Quantity[Dollars] | None = None


class Design(File):
    """kind: design."""

    kind: Literal["design"]
    chip: Name | None = None  # the profile of the same chip
    units: Quantity[Count]
    edge: Quantity[Positive]
    lanes: Quantity[Count]
    exponentials: Quantity[Count]
    sram: Quantity[Bytes]
    clock: Quantity[Frequency]
    eight: Quantity[Positive]
    four: Quantity[Positive] | None = None
    spare: Quantity[Share]
    dies: Quantity[Count]
    node: Quantity[Name]
    stacks: Quantity[Count]
    memory: Quantity[Name]
    scale_up: Quantity[Bandwidth]
    link: Quantity[Name]
    domain: Quantity[Count]
    torus: Quantity[Count] | None = None
    scale_out: Quantity[Bandwidth]
    margin: Quantity[Share]
    start: Quantity[Date]
    published: Published = Published()
