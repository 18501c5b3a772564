"""A machine under a power cap: clock and voltage follow the watts, memory and links keep theirs."""

from __future__ import annotations

from coopt.spec.nouns import Hardware, Leaf
from coopt.tree import replace
from coopt.xp import at_least, minimum

ROUNDS = 12  # of Newton's method; it converges from above and is at rounding error after eight


def full_load(hardware: Hardware, clock: Leaf) -> Leaf:
    """Watts of a chip at full load over those it is rated for, at `clock` times its rated clock.

        W(r) / W = rest + leaking v^2 + clocked r v^2,   v = 1 - slope + slope r

    >>> chip = Hardware(clocked=0.6, leaking=0.1, slope=0.4)
    >>> round(full_load(chip, 1.0), 12), round(full_load(chip, 0.8), 3)
    (1.0, 0.791)
    """
    voltage = 1.0 - hardware.slope + hardware.slope * clock
    rest = 1.0 - hardware.clocked - hardware.leaking
    return rest + (hardware.leaking + hardware.clocked * clock) * voltage * voltage


def clock_at(hardware: Hardware, share: Leaf) -> Leaf:
    """The clock, relative to the rated one, at which a chip draws `share` of its watts under full load; at most 1.

    Newton's method from the rated clock: the watts are convex in the clock, so each step stays above the answer. A cap
    below what memory, links and leakage draw leaves a clock near 0.

    >>> chip = Hardware(clocked=0.6, leaking=0.1, slope=0.4)
    >>> round(float(clock_at(chip, full_load(chip, 0.8))), 9)
    0.8
    """
    clock = 1.0 + 0.0 * (share + hardware.clocked)
    for _ in range(ROUNDS):
        voltage = 1.0 - hardware.slope + hardware.slope * clock
        steep = hardware.clocked * voltage * voltage
        steep = steep + 2.0 * (hardware.leaking + hardware.clocked * clock) * voltage * hardware.slope
        clock = at_least(clock - (full_load(hardware, clock) - share) / steep, 1e-3)
    return minimum(clock, 1.0)


def operate(hardware: Hardware, watts: Leaf) -> Hardware:
    """The machine with each chip held to `watts`: rates of its cores fall with the clock, and its power with them.

    Elementwise and differentiable; a cap above the rated power changes nothing. Matrix, vector and exponential units
    follow the clock; HBM, links and launches do not. The cap is taken to bind whenever the chip computes: rows that
    wait for memory draw less and in truth keep more of their clock, so that this errs to the slow side. Shares of
    peaks were fitted at the rated power and are kept. NaN where a machine's `clocked`, `leaking` or `slope` is not
    known. The law is P = leakage V^2 + C V^2 f (Weste and Harris, CMOS VLSI Design, chapter 5).
    """
    share = minimum(watts / hardware.watts, 1.0)
    clock = clock_at(hardware, share)
    voltage = 1.0 - hardware.slope + hardware.slope * clock
    drawn = hardware.watts * full_load(hardware, clock)
    clocked = hardware.clocked * clock * voltage * voltage * hardware.watts / drawn
    return replace(
        hardware,
        peak=tuple(rate * clock for rate in hardware.peak),
        vector=hardware.vector * clock,
        score=hardware.score / clock,
        pointwise=hardware.pointwise / clock,
        watts=drawn,
        watts_idle=minimum(hardware.watts_idle, drawn),
        watts_all_in=hardware.watts_all_in - hardware.watts + drawn,
        clocked=clocked,
        leaking=hardware.leaking * voltage * voltage * hardware.watts / drawn,
        slope=hardware.slope * clock / voltage,
    )
