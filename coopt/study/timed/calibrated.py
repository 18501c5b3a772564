"""The front door's `calibrate`: a machine and what a clock said of blocks on it, to a machine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from coopt.problems import Problem, Refused
from coopt.spec.nouns import Hardware
from coopt.study.timed.blocks import of_document
from coopt.study.timed.calibration import LEAST
from coopt.study.timed.calibration import calibrate as fitted
from coopt.study.timed.constants import with_constants
from coopt.tree import replace


def calibrate(hardware: Hardware, measured: Sequence[Mapping[str, Any]]) -> Hardware:
    """The machine with constants fitted to timed blocks; nothing downstream knows the difference.

    Robust least squares on log(predicted / measured) of the forward pass, and of forward and backward, with a prior
    around what the machine was: share of the matmul peak in 16 and 32 bits, memory bandwidth (B/s), share of the peak
    in attention, seconds of a launch. `sigma` becomes the spread of log(predicted / measured) over blocks left out of
    the fit one at a time, and `assumed` says what was fitted and how far off it was before and after.

    Args:
      hardware: the profile of the device that the blocks were timed on.
      measured: what `coopt.measure` returned, or the `blocks` of a file that `coopt measure --out` wrote.

    Raises:
      Refused: fewer than three blocks with usable times, with what became of the others.
    """
    timed = [of_document(said) for said in measured]
    found = fitted(hardware, timed)
    if found is None:
        said = "; ".join(f"{each.get('outcome')}: {each.get('message') or 'no time'}" for each in measured)
        raise Refused(
            Problem(
                field="measured",
                expected=f"at least {LEAST} blocks with usable times",
                got=str(sum(block.usable for block in timed)),
                hint=said[:400],
            )
        )
    errors = {name: error["mape"] for name, error in (("before", found.before), ("left out", found.held_out))}
    words = (
        f"{', '.join(found.constants)} of {hardware.name} fitted to {found.blocks} timed blocks: mean error "
        f"{errors['before']:.0%} before, {errors['left out']:.0%} of blocks left out of the fit"
    )
    machine = with_constants(hardware, found.constants)
    return replace(machine, sigma=found.sigma, fidelity="interpolated", assumed=(*hardware.assumed, words))
