"""What choosing a model's shape, its layout and its machine together is worth, over choosing them one after another.

Every choice reaches the loss of a published model; who trains another shape may take other tokens and another batch.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from coopt.cost import loss
from coopt.cost.explain import layout_document, plain
from coopt.cost.quality import counted_parameters
from coopt.problems import Problem, Refused
from coopt.search.space import Candidate
from coopt.spec import load
from coopt.spec.nouns import Hardware, Law, training
from coopt.study import machines, robust, screening, spaces
from coopt.study.objectives import machine_of, unit
from coopt.study.ranking import boundary_hits
from coopt.study.schema import Study
from coopt.study.screening import Screened
from coopt.study.spaces import Family

SLACK = 1e-9  # of the loss: the published model itself is no worse than itself
BASELINES = {
    "published": "the published shape on its best layout, on the first machine",
    "moved": "the published shape on its best layout, on the machine that is best for it",
    "hardware-first": "a machine for the published shape, then a shape for that machine",
    "shape-first": "a shape for the first machine, then a machine for that shape",
    "two-rounds": "both in turn, two rounds of each, from the first machine",
}


@dataclasses.dataclass(frozen=True)
class Published:
    """A model as it was trained: its file's name, tokens, and sequences a step."""

    model: str
    tokens: float
    batch: float


def joint(data: Mapping[str, Any], published: Published, *, path: Any = None) -> dict[str, Any]:
    """Searches shape, layout and machine at once and by turns, and says what each way gives up.

    `data` is a study (as in its file) with a `space` and machines by name; its limits need no `loss`: that of the
    published model under the study's law is put there. The first machine is where the one-after-another ways begin.
    `p_gain` is the share of joint draws of the fitted constants in which the joint choice is the better one.

    Raises:
      Refused: a published model that the law has no loss for; a study in which some machine has no feasible shape.
    """
    study = Study.model_validate({"kind": "study", "measure": 0, **data})
    law, target = _target(study, published, path)
    study = study.model_copy(update={"limits": {**study.limits, "loss": target * (1.0 + SLACK)}})
    seeker = _Seeker(study, law, list(machines.named(study, path=path).values()))
    family = spaces.family(study, path=path)
    alone = load.padded(load.model(published.model, path=path), 1.0, stack=study.stack, path=path)
    known = Family(alone, {}), published.tokens, published.batch
    by_shape = [seeker.best(family, here) for here in range(len(seeker.hardware))]
    by_hardware = [seeker.best(known[0], here, known[1:]) for here in range(len(seeker.hardware))]
    best = min(by_shape, key=_value)
    ways = {
        "published": by_hardware[0],
        "moved": by_hardware[_first(by_hardware)],
        "hardware-first": by_shape[_first(by_hardware)],
        "shape-first": seeker.elsewhere(by_shape[0]),
        "two-rounds": seeker.elsewhere(by_shape[_first_of(seeker, seeker.elsewhere(by_shape[0]))]),
    }
    if best is None:
        raise Refused(
            Problem(field="study", expected="a shape that reaches the loss within the limits", got="none",
                    hint=f"the loss to reach is {target:.4f}; a later deadline or another machine may do")
        )  # fmt: skip
    return {
        "title": study.title,
        "objective": study.objective,
        "unit": unit(study.objective),
        "loss": target,
        "best": _document(best, study),
        "ways": [
            {"way": way, "what": BASELINES[way], **_against(best, found, study, path)} for way, found in ways.items()
        ],
        "boundary_hits": boundary_hits(best.screened, best.index, given=study.layout),
        "evaluated": seeker.evaluated[0],
        "assumed": [
            f"the loss of a run is {law.name}'s alone: its own error moves all ways together, and is not drawn",
            f"batch costs tokens by the critical batch of {law.name}",
        ],
    }


@dataclasses.dataclass(frozen=True)
class Found:
    """The best candidate of one sweep."""

    value: float
    index: int
    plan: Candidate
    screened: Screened
    machine: int


@dataclasses.dataclass(frozen=True)
class _Seeker:
    """The best of a family on one machine of the study; counts what it priced."""

    study: Study
    law: Law
    hardware: Sequence[Hardware]
    evaluated: list[int] = dataclasses.field(default_factory=lambda: [0])

    def best(self, family: Family, machine: int, work: tuple[float, float] | None = None) -> Found | None:
        """The best candidate on a machine; `work` fixes tokens and batch. None where nothing is feasible."""
        study = self.study
        if work is not None:
            done = study.workload.model_copy(update={"tokens": work[0], "global_batch": work[1]})
            study = study.model_copy(update={"workload": done})
        try:
            found = screening.screen(
                study, family, self.hardware[machine], self.law, distinct=1, key=screening.shape, pareto=False
            )
        except Refused:
            return None  # no layout divides up on so many chips
        self.evaluated[0] += found.result.evaluated
        if not len(found.result.top.indices):
            return None
        index = int(found.result.top.indices[0])
        return Found(float(found.result.top.values[0, 0]), index, found.plan(index), found, machine)

    def elsewhere(self, found: Found | None) -> Found | None:
        """The same shape, tokens and batch on the machine that is best for it."""
        if found is None:
            return None
        work = float(found.plan.workload.tokens), float(found.plan.workload.train.batch)
        family = Family(found.plan.model, {})
        return min((self.best(family, here, work) for here in range(len(self.hardware))), key=_value)


def _value(found: Found | None) -> float:
    return np.inf if found is None else found.value


def _first(found: Sequence[Found | None]) -> int:
    return min(range(len(found)), key=lambda here: _value(found[here]))


def _first_of(seeker: _Seeker, found: Found | None) -> int:
    return 0 if found is None else found.machine


def _target(study: Study, published: Published, path: Any) -> tuple[Law, float]:
    """The study's law and the loss of the published model under it."""
    law = spaces.law_of(study, path=path)
    if law is None:
        raise Refused(Problem(field="law", expected="a law to compare shapes by", got="none", hint="add `law:`"))
    work = training(study.workload.seq_len, published.batch, published.tokens)
    model = load.model(published.model, path=path)
    reached = loss(law, model, published.tokens, published.batch * work.train.seq_len)
    if not float(reached.in_range):
        raise Refused(
            Problem(field="published", expected=f"a model inside the range of {law.name}", got=published.model,
                    hint="its size, tokens, aspect or vocabulary lie outside what the law was fitted on")
        )  # fmt: skip
    return law, float(reached.value)


def _against(best: Found, other: Found | None, study: Study, path: Any) -> dict[str, Any]:
    """What another way found, what it costs more than the best, and how sure that is."""
    if other is None:
        return {"plan": None, "value": None, "gain": None, "interval": None, "p_gain": None}
    seed = int(study.seed)
    values = robust.priced([best.plan, other.plan], study.objective, seed=seed, path=path)
    gains = 1.0 - values[0] / values[1]
    return {
        "plan": _document(other, study),
        "value": other.value,
        "gain": 1.0 - best.value / other.value,
        "interval": [plain(end) for end in np.nanquantile(gains, (0.05, 0.95))],
        "p_gain": float((gains > 0.0).mean()),
    }


def _document(found: Found, study: Study) -> dict[str, Any]:
    plan = found.plan
    kind, machine = plan.model.kinds[0], machine_of(plan)
    return {
        "model": plan.model.name,
        "layers": plain(kind.count),
        "d_model": plain(plan.model.d_model),
        "d_ff": plain(kind.d_ff),
        "parameters": plain(counted_parameters(plan.model)),
        "tokens": plain(plan.workload.tokens),
        "global_batch": plain(plan.workload.train.batch),
        "hardware": machine.name,
        "chips": int(machine.chips),
        "layout": layout_document(plan.layout),
        study.objective: found.value,
    }


def text(document: Mapping[str, Any]) -> str:
    """The document in a table for people."""
    objective = document["objective"]
    lines = [
        document["title"],
        f"loss to reach {document['loss']:.4f}; {document['evaluated']:,} candidates priced",
        "",
        f"{'':<15}{'shape':<21}{'tokens':>6}{'batch':>7}  {'machine':<18}{document['unit']:>9}{'gain':>7}  P(gain > 0)",
    ]
    rows: list[tuple[str, Any, Any]] = [("together", document["best"], None)]
    rows += [(one["way"], one["plan"], one) for one in document["ways"]]
    for way, plan, against in rows:
        if plan is None:
            lines.append(f"{way:<15}nothing that fits reaches it")
            continue
        shape = f"{plan['layers']:g} x {plan['d_model']:g}, {plan['parameters'] / 1e9:.2f} G"
        where = f"{plan['hardware']} x {plan['chips']:,}"
        line = f"{way:<15}{shape:<21}{plan['tokens'] / 1e9:>4.0f} G{plan['global_batch']:>7.0f}  {where:<18}"
        line += f"{plan[objective]:>9.4g}"
        if against is not None:
            low, high = against["interval"]
            sure = "the same choice" if low == high == 0.0 else f"{against['p_gain']:.0%} ({low:.1%} to {high:.1%})"
            line += f"{against['gain']:>7.1%}  {sure}"
        lines.append(line)
    cut = {key: value for key, value in document["best"]["layout"].items() if value not in (1, 0, "none")}
    lines += ["", f"together, cut: {', '.join(f'{key}={value}' for key, value in cut.items())}"]
    return "\n".join([*lines, *(f"edge: {hit}" for hit in document["boundary_hits"])])
