"""What a machine asks for besides time: memory with its margin, energy, money, interruptions."""

from __future__ import annotations

from coopt.spec.nouns import Hardware, Leaf, Memory
from coopt.xp import sqrt

HOUR = 3600.0


def wanted(memory: Memory, hardware: Hardware) -> Leaf:
    """Bytes a chip must have: everything counted, times the allocator's margin, plus what the runtime keeps.

    >>> from coopt.spec.nouns import Hardware, Memory
    >>> wanted(Memory(parameters=2e9, optimizer=12e9), Hardware(margin=1.05, reserved=1e9))
    15700000000.0
    """
    parts = (
        memory.parameters + memory.gradients + memory.optimizer + memory.activations + memory.logits + memory.buffers
    )
    return parts * hardware.margin + hardware.reserved


def joules(hardware: Hardware, *, chips: Leaf, step_time: Leaf, computing: Leaf) -> Leaf:
    """J of IT energy a step: host and network always, the chip at full load while it computes, idle else.

        J = chips ((all_in - full) T + idle (T - C) + full C)

    Valid for a machine that is busy with this step; cooling and conversion (PUE) are outside. NaN where a power is
    not known.
    """
    around = hardware.watts_all_in - hardware.watts
    rise = hardware.watts - hardware.watts_idle
    return chips * ((around + hardware.watts_idle) * step_time + rise * computing)


def dollars(hardware: Hardware, *, chips: Leaf, step_time: Leaf) -> Leaf:
    """USD a step at the rented price: chips * T * (USD/h) / 3600. NaN where there is no price.

    >>> dollars(Hardware(dollars_hour=2.0), chips=1024.0, step_time=9.0)
    5.12
    """
    return chips * step_time * hardware.dollars_hour / HOUR


def goodput(hardware: Hardware, chips: Leaf) -> Leaf:
    """Share of wall time that counts, with checkpoints at the interval of Young and Daly.

    With F = chips * failure_rate interruptions a second and checkpoints of c seconds, the best interval is
    sqrt(2 c / F) and the loss is sqrt(2 c F) + F * restart. Sources: Young 1974; Daly 2006.

    >>> llama = Hardware(failure_rate=419 / (54 * 86400 * 16384), restart=600.0, checkpoint=30.0)
    >>> round(float(goodput(llama, 16384.0)), 3)
    0.887
    """
    rate = chips * hardware.failure_rate
    return 1.0 / (1.0 + sqrt(2.0 * hardware.checkpoint * rate) + rate * hardware.restart)
