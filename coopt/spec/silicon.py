"""The nouns of a chip that is still free: its design, what a process offers and asks, and what comes of both.

Leaves are SI floats or arrays that broadcast; a `Design` whose leaves have shape `(n,)` is n chips. A code (`node`,
`memory`, `link`) is the position of a choice in the process's tuple of that name.
"""

from __future__ import annotations

from coopt.spec.nouns import Leaf
from coopt.tree import label, struct


@struct
class Design:
    """A package's free parameters, how it is wired, and how it is ordered."""

    name: str = label(default="")
    # logic
    units: Leaf = 0.0  # matrix units in use
    edge: Leaf = 0.0  # multipliers along each side of one
    lanes: Leaf = 0.0  # vector lanes: a fused multiply-add a cycle each
    exponentials: Leaf = 0.0  # exponentials a cycle
    sram: Leaf = 0.0  # B on chip: caches and scratch, registers left out
    clock: Leaf = 0.0  # Hz; the voltage follows
    eight: Leaf = 2.0  # 8-bit rate over the 16-bit rate
    four: Leaf = 0.0  # 4-bit rate over the 16-bit rate; 0 = not supported
    spare: Leaf = 0.05  # units and lanes built beyond those in use, as a share: what salvage lives on
    dies: Leaf = 1.0
    node: Leaf = 0.0
    # around it
    stacks: Leaf = 0.0
    memory: Leaf = 0.0
    scale_up: Leaf = 0.0  # B/s one way, all links
    link: Leaf = 0.0
    domain: Leaf = 1.0  # chips that scale-up links join
    torus: Leaf = 0.0  # dimensions of a torus; 0 = switches
    scale_out: Leaf = 5e10  # B/s one way
    # the order
    own: Leaf = 1.0  # 1: development is paid by whoever orders; 0: it is in the seller's margin
    margin: Leaf = 0.5  # of the seller, on the price
    volume: Leaf = 1e5  # chips in all
    start: Leaf = 2026.0  # year in which development begins


@struct
class Node:
    """A logic process."""

    logic: Leaf = 1.0  # area of a block over its area at 7 nm
    bitcell: Leaf = 0.0  # m2 a bit of SRAM
    voltage: Leaf = 0.0  # V at `clock`
    threshold: Leaf = 0.0  # V at which the linear law of clock and voltage stands still
    clock: Leaf = 0.0  # Hz
    energy: Leaf = 1.0  # energy of an operation at `voltage` over that at 7 nm
    leakage: Leaf = 0.0  # W/m2 of logic and SRAM at `voltage`
    wafer: Leaf = 0.0  # USD
    defects: Leaf = 0.0  # a m2
    development: Leaf = 0.0  # USD for a die of `Money.reference`
    masks: Leaf = 0.0  # USD a set
    quarters: Leaf = 0.0  # from the decision to volume
    date: Leaf = 0.0  # year of volume


@struct
class Stack:
    """One stack of a generation of HBM."""

    capacity: Leaf = 0.0  # B
    bandwidth: Leaf = 0.0  # B/s
    energy: Leaf = 0.0  # J/B, controller and PHY included
    price: Leaf = 0.0  # USD
    area: Leaf = 0.0  # m2 of the PHY on the die; does not shrink
    edge: Leaf = 0.0  # m of die edge
    footprint: Leaf = 0.0  # m2 on the interposer
    date: Leaf = 0.0


@struct
class Link:
    """One lane of a technology of scale-up links: electrical end on the die, and what is beyond it."""

    rate: Leaf = 1.0  # B/s one way
    area: Leaf = 0.0  # m2 on the die
    edge: Leaf = 0.0  # m of die edge
    energy: Leaf = 0.0  # J/B sent, both ends
    price: Leaf = 0.0  # USD of cable, module or engine, an end
    latency: Leaf = 0.0  # s a step inside one switch
    reach: Leaf = 0.0  # chips that it can join
    date: Leaf = 0.0


@struct
class Blocks:
    """Area and energy at 7 nm of what a die is made of; operations that kernels need of it."""

    multiplier: Leaf = 0.0  # m2 of a 16-bit multiply-add with its registers
    port: Leaf = 0.0  # m2 that feeds one row of a matrix unit
    lane: Leaf = 0.0  # m2 of a vector lane with its registers and its share of the front end
    exponential: Leaf = 0.0  # m2 of one exponential a cycle
    eight: Leaf = 0.0  # area of a multiplier more for each step of the 8-bit rate
    four: Leaf = 0.0  # the same of the 4-bit rate
    control: Leaf = 0.0  # network, schedulers, test: a share on top of all logic
    array: Leaf = 1.0  # share of an SRAM's area that is bit cells
    host: Leaf = 0.0  # m2 of host and scale-out interfaces
    host_edge: Leaf = 0.0  # m
    joint: Leaf = 0.0  # m2 a die of the interface to its neighbour
    joint_watts: Leaf = 0.0  # W of such an interface, both ends
    multiply: Leaf = 0.0  # J a multiply-add
    feed: Leaf = 0.0  # J a row fed, a cycle
    vector: Leaf = 0.0  # J a lane, a cycle, as busy as large matmuls leave it
    transcend: Leaf = 0.0  # J an exponential
    softmax: Leaf = 0.0  # vector FLOP a score of attention, the exponential left out
    pointwise: Leaf = 0.0  # vector FLOP a byte of pointwise kernels
    least: Leaf = 32.0  # side of the smallest tile that keeps a unit busy
    interface: Leaf = 0.0  # W of host interfaces
    latency: Leaf = 0.0  # s from asking HBM to having it; bytes on their way need room on chip


@struct
class Package:
    """From wafers to a tested package."""

    diameter: Leaf = 0.3  # m
    margin: Leaf = 0.0  # m at the wafer's edge
    scribe: Leaf = 0.0  # m between dies
    clustering: Leaf = 10.0  # of defects
    salvage: Leaf = 0.0  # share of dies with defects that much spare logic saves
    half: Leaf = 0.05  # spare share at which half of that is saved
    reticle: Leaf = 0.0  # m2
    interposer: Leaf = 0.0  # m2, largest
    over: Leaf = 1.1  # interposer over what stands on it
    shore: Leaf = 1.0  # share of a die's outer edge that interfaces can use
    price: Leaf = 0.0  # USD/m2 of interposer and substrate
    bond: Leaf = 1.0  # yield of each die or stack placed
    test: Leaf = 0.0  # USD a package
    heat: Leaf = 0.0  # W/m2 of silicon that can be cooled
    overdrive: Leaf = 1.1  # highest voltage over the node's own


@struct
class Around:
    """What stands around a chip in a rack."""

    share: Leaf = 0.0  # W of host, fans, conversion over the chip's
    host: Leaf = 0.0  # USD a chip
    network: Leaf = 0.0  # USD for a chip's scale-out at `network_rate`
    network_rate: Leaf = 1.0  # B/s
    latency: Leaf = 0.0  # s a step of scale-out
    plant: Leaf = 0.0  # USD/W of IT: building, power, cooling
    switch_rate: Leaf = 1.0  # B/s one way through one switch chip
    switch_radix: Leaf = 64.0
    switch_price: Leaf = 0.0  # USD
    switch_watts: Leaf = 0.0  # W
    host_bandwidth: Leaf = 0.0  # B/s
    host_memory: Leaf = 0.0  # B a chip
    interval: Leaf = 0.0  # chip-seconds between interruptions
    restart: Leaf = 0.0  # s
    checkpoint: Leaf = 0.0  # s
    repair: Leaf = 0.0  # s until what failed, and its domain with it, is back


@struct
class Money:
    """What capital, power and development cost."""

    rate: Leaf = 0.0  # a year
    life: Leaf = 0.0  # s, chips and what is around them
    plant_life: Leaf = 0.0  # s
    electricity: Leaf = 0.0  # USD/J
    pue: Leaf = 1.0
    margin: Leaf = 0.0  # of a partner who makes a part to order
    reference: Leaf = 1.0  # m2 of the die whose development a node's figure is for
    scales: Leaf = 0.0  # share of development that grows with the die
    respin: Leaf = 0.0  # probability of a second set of masks
    respin_quarters: Leaf = 0.0
    least: Leaf = 0.0  # chips below which nobody starts


@struct
class Delivered:
    """What software reaches on a chip that nobody has programmed yet: the middle of the fitted families."""

    matmul_16: Leaf = 0.7
    matmul_8: Leaf = 0.6
    matmul_4: Leaf = 0.5
    depth: Leaf = 100.0
    attention: Leaf = 0.6
    attention_depth: Leaf = 1000.0
    stream: Leaf = 0.8
    kernel: Leaf = 2e-6
    scale_up: Leaf = 0.75
    scale_out: Leaf = 0.75
    dispatch: Leaf = 0.0
    hide: Leaf = 0.5
    passes: Leaf = 1.5
    usable: Leaf = 0.95  # share of HBM that a program can have
    idle: Leaf = 0.15  # W idle over full load
    sigma: Leaf = 0.3  # of log(measured / predicted), across families


@struct
class Process:
    """Everything that a design is priced with."""

    name: str = label(default="")
    names: dict[str, tuple[str, ...]] = label(default=None)  # of nodes, memories and links, in the order of codes
    nodes: tuple[Node, ...] = ()
    memories: tuple[Stack, ...] = ()
    links: tuple[Link, ...] = ()
    blocks: Blocks = Blocks()
    package: Package = Package()
    around: Around = Around()
    money: Money = Money()
    delivered: Delivered = Delivered()


@struct
class Silicon:
    """A design as an object: m2, m, W, USD, year."""

    die: Leaf = 0.0  # m2 of one die
    area: Leaf = 0.0  # m2 of all dies
    logic: Leaf = 0.0
    sram: Leaf = 0.0
    interfaces: Leaf = 0.0
    interposer: Leaf = 0.0
    edge: Leaf = 0.0  # m of die edge that interfaces need
    shore: Leaf = 0.0  # m of it that there is
    watts: Leaf = 0.0
    clocked: Leaf = 0.0  # W that follow clock and voltage
    leaking: Leaf = 0.0  # W
    watts_memory: Leaf = 0.0
    watts_links: Leaf = 0.0
    density: Leaf = 0.0  # W/m2
    voltage: Leaf = 0.0  # V
    good: Leaf = 0.0  # share of dies that can be sold
    dollars_dies: Leaf = 0.0
    dollars_memory: Leaf = 0.0
    dollars_package: Leaf = 0.0
    dollars_test: Leaf = 0.0
    parts: Leaf = 0.0  # USD of a tested package
    development: Leaf = 0.0  # USD once: design, masks, what a respin costs on average
    price: Leaf = 0.0  # USD a chip to whoever orders, development included
    date: Leaf = 0.0
