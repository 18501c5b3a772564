"""What a machine asks for besides time: memory with its margin, energy, money, interruptions."""

from __future__ import annotations

from coopt.spec.nouns import Hardware, Leaf, Memory
from coopt.xp import minimum, sqrt, where

HOUR = 3600.0


def wanted(memory: Memory, hardware: Hardware) -> Leaf:
    """Bytes a chip must have: everything counted, times the allocator's margin, plus what the runtime keeps.

    >>> from coopt.spec.nouns import Hardware, Memory
    >>> wanted(Memory(parameters=2e9, optimizer=12e9), Hardware(margin=1.05, reserved=1e9))
    15700000000.0
    """
    parts = memory.parameters + memory.gradients + memory.optimizer + memory.logits + memory.buffers
    return (parts + memory.activations) * hardware.margin + hardware.reserved


def joules(hardware: Hardware, *, chips: Leaf, step_time: Leaf, computing: Leaf) -> Leaf:
    """J of IT energy a step: host and network always, the chip at full load while it computes, idle else; spares idle.

        J = chips (((all_in - full) T + idle T) (1 + spares) + (full - idle) C)

    Valid for a machine that is busy with this step; cooling and conversion (PUE) are outside. NaN where a power is
    not known.
    """
    still = hardware.watts_all_in - hardware.watts + hardware.watts_idle
    rise = hardware.watts - hardware.watts_idle
    return chips * (still * (1.0 + hardware.spares)) * step_time + chips * rise * computing


def dollars(hardware: Hardware, *, chips: Leaf, step_time: Leaf) -> Leaf:
    """USD a step at the rented price: chips (1 + spares) T (USD/h) / 3600. NaN where there is no price.

    >>> dollars(Hardware(dollars_hour=2.0), chips=1024.0, step_time=9.0)
    5.12
    """
    return chips * ((1.0 + hardware.spares) * hardware.dollars_hour / HOUR) * step_time


def idle(hardware: Hardware, chips: Leaf) -> Leaf:
    """Share of the chips of a job that wait for a repair, in the mean and at worst: what spares do not replace.

    One failed chip takes `blast` chips with it, its scale-up domain, until it is repaired. So the units in repair are L
    = chips rate repair in the mean, and Poisson's variance is L too. Of U = chips / blast units and S = spares U of
    spares there lack at most (Scarf 1958, whatever the distribution)

        E (X - S)+ <= L - S L / (L + 1)                        for S <= (L + 1) / 2
                   <= (sqrt(L + (S - L)^2) - (S - L)) / 2      beyond

    >>> rack = Hardware(failure_rate=1 / (2112 * 86400), repair=86400.0, blast=72.0)
    >>> from coopt.tree import replace
    >>> [round(100 * float(idle(replace(rack, spares=s), 7200.0)), 2) for s in (0.0, 0.02, 0.05)]
    [3.41, 1.86, 0.42]
    """
    units = chips / minimum(hardware.blast, chips)
    down, spare = chips * hardware.failure_rate * hardware.repair, hardware.spares * units
    few = down - spare * down / (down + 1.0)
    more = spare - down
    many = 0.5 * (sqrt(down + more * more) - more)
    return minimum(where(spare <= 0.5 * (down + 1.0), few, many) / units, 1.0)


def goodput(hardware: Hardware, chips: Leaf) -> Leaf:
    """Share of wall time that counts, with checkpoints at the interval of Young and Daly.

    With F = chips * failure_rate interruptions a second and checkpoints of c seconds, the best interval is
    sqrt(2 c / F) and the loss is sqrt(2 c F) + F * restart. Sources: Young 1974; Daly 2006. A job goes on without the
    chips that wait for a repair (`idle`).

    >>> llama = Hardware(failure_rate=419 / (54 * 86400 * 16384), restart=600.0, checkpoint=30.0)
    >>> round(float(goodput(llama, 16384.0)), 3)
    0.887
    """
    rate = chips * hardware.failure_rate
    return (1.0 - idle(hardware, chips)) / (1.0 + sqrt(2.0 * hardware.checkpoint * rate) + rate * hardware.restart)
