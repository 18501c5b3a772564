"""The adversary: a study's candidates searched against the model, for those on which witnesses disagree with it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from coopt.problems import Problem, Refused
from coopt.search.adversary import worst
from coopt.search.space import digits
from coopt.study.given import asked, machines, spaces
from coopt.study.screened import screening

KEEP = 5  # candidates of each kind
FIXED = ("seq_len", "batch")  # said of a candidate also where no axis sets them


def adversary(options: Any, *, told: Callable[[str, int, int], None]) -> dict[str, Any]:
    """`coopt search --adversary`: where the model disagrees most with what must be true, on each published machine.

    Raises Refused for a study of this host alone: what is not described has no floor.
    """
    asking = asked.question(options)
    study = asking.study
    family, known = spaces.family(study, path=options.profile_path), machines.named(study, path=options.profile_path)
    if not known:
        raise Refused(Problem(field="adversary", expected="a machine with a profile", got="this host alone",
                              hint="write --hardware=NAME"))  # fmt: skip
    found = []
    for number, machine in enumerate(known.values()):
        told(f"searching against the model: {machine.name} x {float(machine.chips):g}", number, len(known))
        within = spaces.space(study, family, chips=float(machine.chips), path=options.profile_path)
        for one in worst(within, machine, keep=int(options.top or KEEP), seed=int(study.seed)):
            plan = spaces.chosen(within, one.index, family, machine, None)
            rows = [axis.values[digit] for axis, digit in zip(within.axes, digits(within, one.index), strict=True)]
            leaves = {f"workload.phases.0.{name}": float(getattr(plan.workload.train, name)) for name in FIXED}
            leaves |= {path: float(value) for axis, row in zip(within.axes, rows, strict=True)
                       for path, value in zip(axis.paths, row, strict=True)}  # fmt: skip
            found.append(
                {"witness": one.witness, "factor": one.factor, "predicted_time": one.model, "witness_time": one.other,
                 "model": plan.model.name, "hardware": machine.name, "chips": float(machine.chips),
                 "layout": screening.layout_text(plan), "leaves": leaves}
            )  # fmt: skip
    told("searching against the model", len(known), len(known))
    return {"command": "adversary", "study": study.title, "assumed": list(asking.assumed), "disagreements": found}
