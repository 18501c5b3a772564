"""What choosing a model's shape, its layout and its machine together is worth, over choosing them one after another.

Every choice reaches the loss of a published model; who trains another shape may take other tokens and another batch.
The machine is one of a list, or a chip that is bought or still free: turns and the joint choice use the same two
functions, the best work for a machine and the best machine for a work.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from coopt.cost import loss
from coopt.cost.explain import layout_document, plain
from coopt.cost.quality import counted_parameters
from coopt.cost.silicon import build, silicon
from coopt.problems import Problem, Refused
from coopt.search import chips as free
from coopt.search.chips import Work
from coopt.spec import load, process
from coopt.spec.nouns import Hardware, Law, training
from coopt.spec.silicon import Design
from coopt.study.chips import orders
from coopt.study.chips.question import ordered
from coopt.study.chips.used import Order, Used, chip, draws, used
from coopt.study.given import machines, spaces
from coopt.study.given.objectives import machine_of, unit
from coopt.study.given.schema_joint import Joint
from coopt.study.given.spaces import Family
from coopt.study.ranking import boundary_hits
from coopt.study.screened.screening import Screened
from coopt.tree import replace

SEEDS = 2  # searches of a chip that is free
SLACK = 1e-9  # of the loss: the published model itself is no worse than itself
BASELINES = {
    "published": "the published shape on its best layout, on the first machine",
    "moved": "the published shape on its best layout, on the machine that is best for it",
    "hardware-first": "a machine for the published shape, then a shape for that machine",
    "shape-first": "a shape for the first machine, then a machine for that shape",
    "two-rounds": "both in turn, two rounds of each, from the first machine",
}


@dataclasses.dataclass(frozen=True)
class Place:
    """A machine that work can be done on, and how many chips of it there may be."""

    machine: Hardware
    chips: tuple[float, ...]
    design: Design | None = None


def joint(study: Joint, *, path: Any = None) -> dict[str, Any]:
    """Searches shape, layout and machine at once and by turns, and says what each way gives up.

    The limits of the study need no `loss`: that of the published model under its law is put there. `p_gain` is the
    share of joint draws of the constants in which the joint choice is the better one.

    Raises:
      Refused: a published model that the law has no loss for; a study in which some machine has no feasible shape.
    """
    seeker = _seeker(study, path)
    ways, best = seeker.ways()
    if best is None:
        raise Refused(
            Problem(field="study", expected="a shape that reaches the loss within the limits", got="none",
                    hint=f"the loss to reach is {seeker.study.limits['loss']:.4f}; a later deadline or another machine "
                    "may do")
        )  # fmt: skip
    given = seeker.study.layout
    screened = Screened(space=best.work.space, result=best.result, family=seeker.family, hardware=machine_of(best.plan),
                        law=seeker.law)  # fmt: skip
    ends = free.at_ends(best.design, seeker.order.offered) if best.design and seeker.order and best.design.own else ()
    return {
        "command": "joint",
        "title": study.title,
        "objective": study.objective,
        "unit": unit(study.objective),
        "loss": seeker.study.limits["loss"],
        "best": seeker.document(best),
        "ways": [{"way": way, "what": BASELINES[way], **seeker.against(best, found)} for way, found in ways.items()],
        "boundary_hits": boundary_hits(screened, best.index, given=given)
        + [f"{name} of the best chip is at the end of its choices" for name in ends],
        "evaluated": sum(seeker.evaluated),
        "seed": int(study.seed),
        "fidelity": "transferred",
        "stack": study.stack,
        "assumed": _assumed(seeker),
    }


@dataclasses.dataclass(frozen=True)
class _Seeker:
    """The best work for a machine, and the best machine for a work; counts what it priced."""

    study: Joint
    law: Law
    family: Family
    known: tuple[Family, tuple[float, float]]  # the published shape, with its tokens and its batch
    places: tuple[Place, ...]
    order: Order | None  # of a free chip
    path: Any
    evaluated: list[int] = dataclasses.field(default_factory=list)

    def work(self, family: Family, chips: Sequence[float], done: tuple[float, float] | None) -> Work | None:
        """Everything that is open: shapes, layouts, and tokens and batch where they are not `done`."""
        study = self.study
        if done is not None:
            fixed = study.workload.model_copy(update={"tokens": done[0], "global_batch": done[1]})
            study = study.model_copy(update={"workload": fixed})
        try:
            space = spaces.space(study, family, chips=chips, path=self.path)
        except Refused:
            return None  # no layout divides up on so many chips
        law = replace(space.base, law=self.law)
        return Work(study.name, dataclasses.replace(space, base=law), limits=study.limits)

    def on(self, place: Place, family: Family, done: tuple[float, float] | None = None) -> Used | None:
        """The best of a family on a machine; None where nothing is feasible."""
        work = self.work(family, place.chips, done)
        found = work and used(work, place.machine, self.study.objective, design=place.design)
        self.evaluated.append(found.result.evaluated if found else 0)
        return found

    def free(self, family: Family, done: tuple[float, float] | None, *, starts: Iterable[Used | None]) -> Used | None:
        """The best of a family on a chip that is free, no worse than on the designs of `starts`; None without one."""
        work = self.study.chip and self.work(family, self.study.chip.chips, done)
        if not (self.order and work):
            return None
        begun = [one.design for one in starts if one and one.design is not None]
        seeds = [int(self.study.seed) + 100 * number for number in range(SEEDS)]  # as many for turns as for all at once
        made = [one for seed in seeds if (one := chip(self.order, [work], [1.0], starts=begun, seed=seed))]
        self.evaluated.extend(one.evaluated for one in made)
        return min((one.uses[0] for one in made), key=_value, default=None)

    def anywhere(self, family: Family, done: tuple[float, float]) -> Used | None:
        """A shape and its work on the machine that is best for it: listed, bought, or still free."""
        found = [self.on(place, family, done) for place in self.places]
        return min((*found, self.free(family, done, starts=found)), key=_value)

    def shaped(self, found: Used | None) -> Used | None:
        """The best shape, tokens and batch for the machine of what was found."""
        if found is None:
            return None
        return self.on(Place(machine_of(found.plan), self._chips(found), found.design), self.family)

    def elsewhere(self, found: Used | None) -> Used | None:
        """The same shape, tokens and batch on the machine that is best for it."""
        if found is None:
            return None
        done = float(found.plan.workload.tokens), float(found.plan.workload.train.batch)
        return self.anywhere(Family(found.plan.model, {}), done)

    def ways(self) -> tuple[dict[str, Used | None], Used | None]:
        """Every way of taking turns, and the best of all there is: never worse than any of them."""
        alone, done = self.known
        shaped = [self.on(place, self.family) for place in self.places]
        moved, second = self.anywhere(alone, done), self.elsewhere(shaped[0])
        ways = {
            "published": self.on(self.places[0], alone, done),
            "moved": moved,
            "hardware-first": self.shaped(moved),
            "shape-first": second,
            "two-rounds": self.elsewhere(self.shaped(second)),
        }
        ends = [*shaped, *ways.values()]
        return ways, min((self.free(self.family, None, starts=ends), *ends), key=_value)

    def _chips(self, found: Used) -> tuple[float, ...]:
        if found.design is not None and self.study.chip:
            return self.study.chip.chips
        return (float(machine_of(found.plan).chips),)

    def against(self, best: Used, other: Used | None) -> dict[str, Any]:
        """What another way found, what it costs more than the best, and how sure that is."""
        if other is None:
            return {"plan": None, "value": None, "gain": None, "interval": None, "p_gain": None}
        made_with = self.order and self.order.process
        here, there = (
            draws(one, self.study.objective, made_with, seed=int(self.study.seed), path=self.path)
            for one in (best, other)
        )
        gains = 1.0 - here / there
        return {
            "plan": self.document(other),
            "value": other.value,
            "gain": 1.0 - best.value / other.value,
            "interval": [plain(end) for end in np.nanquantile(gains, (0.05, 0.95))],
            "p_gain": float((gains > 0.0).mean()),
        }

    def document(self, found: Used) -> dict[str, Any]:
        """A choice: the shape, its work, its machine and how it is cut."""
        plan, machine = found.plan, machine_of(found.plan)
        kind, told = plan.model.kinds[0], {}
        name = machine.name
        if found.design is not None and self.order:
            made_with = self.order.process
            made = silicon(found.design, made_with)
            figures = {key: plain(getattr(made, key)) for key in ("area", "watts", "price", "date")}
            told = {"chip": {**orders.variables(found.design, made_with), **figures}}
            name = orders.short(found.design, made_with) if found.design.own else found.design.name
        return {
            "model": spaces.shape_name(self.family.name, plan.model),
            "layers": plain(kind.count),
            "d_model": plain(plan.model.d_model),
            "heads": plain(kind.heads),
            "head_dim": plain(kind.head_dim),
            "d_ff": plain(kind.d_ff),
            "parameters": plain(counted_parameters(plan.model)),
            "tokens": plain(plan.workload.tokens),
            "global_batch": plain(plan.workload.train.batch),
            "hardware": name,
            "chips": orders.chips_of(plan),
            "precision": spaces.recipe(found.work.space, found.index),
            "layout": layout_document(plan.layout),
            self.study.objective: found.value,
            **told,
        }


def _value(found: Used | None) -> float:
    return np.inf if found is None else found.value


def _seeker(study: Joint, path: Any) -> _Seeker:
    law, target = _target(study, path)
    study = study.model_copy(update={"limits": {**study.limits, "loss": target * (1.0 + SLACK)}})
    alone = load.padded(load.model(study.published.model, path=path), 1.0, stack=study.stack, path=path)
    known = Family(alone, {}), (study.published.tokens, study.published.global_batch)
    order = None
    if study.chip is None:
        places = [Place(one, (float(one.chips),)) for one in machines.named(study, path=path).values()]
    else:
        made_with = process.process(path=path)
        bought = [process.design(name, made_with, path=path) for name in study.chip.designs]
        places = [Place(build(one, made_with), study.chip.chips, one) for one in bought]
        base = replace(ordered(bought[0], made_with, volume=study.chip.volume), name="", torus=0.0, eight=2.0)
        order = Order(made_with, base, free.choices(made_with), study.chip.limits.given(), study.objective)
    return _Seeker(study, law, spaces.family(study, path=path), known, tuple(places), order, path)


def _target(study: Joint, path: Any) -> tuple[Law, float]:
    """The study's law and the loss of the published model under it."""
    law, published = spaces.law_of(study, path=path), study.published
    assert law is not None, "the schema asks for it"
    work = training(study.workload.seq_len, published.global_batch, published.tokens)
    model = load.model(published.model, path=path)
    reached = loss(law, model, published.tokens, published.global_batch * work.train.seq_len)
    if not float(reached.in_range):
        raise Refused(
            Problem(field="published", expected=f"a model inside the range of {law.name}", got=published.model,
                    hint="its size, tokens, aspect or vocabulary lie outside what the law was fitted on")
        )  # fmt: skip
    return law, float(reached.value)


def _assumed(seeker: _Seeker) -> list[str]:
    law, told = seeker.law.name, seeker.study.chip
    said = [
        f"the loss of a run is {law}'s alone: its own error moves all ways together, and is not drawn",
        f"batch costs tokens by the critical batch of {law}",
    ]
    if told is not None:
        said += [
            "all number formats and shapes of one size are taken to reach the same loss",
            f"a chip that is ordered is one of {told.volume:,.0f}; one that is bought costs what its vendor asks, and "
            "both cost their owner annuities of machine and plant, and electricity",
            "what software reaches on a chip not built yet is taken from families that were fitted",
            "a free chip is sought, not proved: another seed may end elsewhere",
        ]
    return said
