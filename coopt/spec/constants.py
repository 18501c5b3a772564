"""The fitted constants and what they do to a machine: at most ten a chip family, four a software stack.

One mapping, read by `resolve` (constants from files) and by `fit` (constants being estimated): leaves may be arrays.
"""

from __future__ import annotations

from collections.abc import Mapping

from coopt.spec.nouns import Hardware, Leaf
from coopt.tree import replace
from coopt.xp import minimum

FAMILY = (
    "matmul_16",  # share of the dense peak that large matmuls reach, 16 bit and wider
    "matmul_8",
    "matmul_4",
    "depth",  # reduction length at which half of that is reached
    "attention",  # share of the peak that fused attention reaches, long sequences, forward
    "attention_depth",  # sequence length at which half of that is reached
    "stream",  # share of the memory bandwidth
    "kernel",  # s a launch costs on the device
    "scale_up",  # share of the link bandwidth that large collectives reach, inside a domain
    "scale_out",  # the same between domains
)
STACK = (
    "dispatch",  # s of host time a launch
    "hide",  # share of collectives that compute hides
    "attention",  # rate of its attention kernels over the family's
    "passes",  # bytes its pointwise kernels move over those of perfectly fused ones
)
# A backward pass of fused attention reaches about four fifths of the forward's share.
# Dao 2023 (FlashAttention-2), figures 4 to 6: 0.7 to 0.85 on A100 and H100.
BACKWARD = 0.8
FASTEST = 0.95  # share of a peak that no kernel passes
# Bytes of one pass of a collective at which half of its bandwidth is reached: against 512 MiB, all-gathers and
# reduce-scatters of 16 and 64 MiB over 8 chips lack 3 to 10 MB, all-reduces twice that; three generations of NCCL.
SATURATION = 7e6


def applied(hardware: Hardware, family: Mapping[str, Leaf], stack: Mapping[str, Leaf]) -> Hardware:
    """The machine with the constants of its chip family and software stack put in their places.

    >>> fitted = dict.fromkeys(FAMILY, 0.5), dict.fromkeys(STACK, 0.9)
    >>> round(float(applied(Hardware(), *fitted).attention_backward), 3)
    0.36
    """
    wide, eight, four = family["matmul_16"], family["matmul_8"], family["matmul_4"]
    attention = minimum(family["attention"] * stack["attention"] * hardware.ported, FASTEST)
    tiers = tuple(
        replace(tier, efficiency=family["scale_up" if position == 0 else "scale_out"])
        for position, tier in enumerate(hardware.tiers)
    )
    return replace(
        hardware,
        matmul=(wide, wide, wide, wide, eight, eight, four, eight),
        depth=family["depth"],
        attention=attention,
        attention_backward=BACKWARD * attention,
        attention_depth=family["attention_depth"],
        stream=family["stream"],
        kernel=family["kernel"],
        tiers=tiers,
        dispatch=stack["dispatch"],
        passes=stack["passes"],
        hide_tensor=stack["hide"],
        hide_data=stack["hide"],
    )
