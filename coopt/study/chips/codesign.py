"""Which chip to order for a model and its futures, its worth, and what its vendor should change: `coopt codesign`."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from coopt.cost.explain import plain
from coopt.cost.silicon import build
from coopt.problems import Problem, Refused
from coopt.spec.silicon import Design
from coopt.study.chips.feasible import feasible
from coopt.study.chips.orders import asked, assumed, entry
from coopt.study.chips.question import Bench, Question, ordered, prepare
from coopt.study.chips.used import AGAIN, ROUNDS, SAME, Chosen, Used, chip, draws, used
from coopt.study.chips.worth import breakeven, steps, wishes

SEEDS = 2  # searches of each future from the start: how far apart they end says how far to trust them


def codesign(question: Question) -> dict[str, Any]:
    """The document of a question. Raises Refused: impossible limits, with what each removes and the nearest design."""
    bench = prepare(question)
    start, removed = feasible(bench.order, seed=question.seed)
    found = reached(bench, start)
    own = ordered(bench.bought, bench.order.process, volume=question.volume)
    designs = [bench.bought, own, *(one.design for one in found.chips)]
    told = [judged(bench, design) for design in designs]
    table = np.array([[one.value if one else np.inf for one in row] for row in told])  # (designs, futures)
    weights = np.array([work.weight for work in bench.works])
    regret = table / table.min(axis=0) - 1.0
    mean = regret @ weights
    chosen = 2 + int(np.argmin(mean[2:]))
    labels = ["bought", "the same, ordered", *(f"best for {work.name}" for work in bench.works), "best for the mix"]
    entries = [
        entry(bench, label, design, row, regret[i], mean[i], searched=i > 1)
        for i, (label, design, row) in enumerate(zip(labels, designs, told, strict=True))
    ]
    answer, ways = designs[chosen], told[chosen]
    return {
        "command": "codesign",
        **asked(bench),
        "designs": {"of": str(math.prod(len(v) for v in bench.order.offered.values())), "priced": found.evaluated},
        "search": {"seed": question.seed, "seeds": SEEDS, "rounds": found.rounds, "settled": found.settled,
                   "apart": dict(zip((work.name for work in bench.works), found.apart, strict=True))},
        "limits": removed,
        "chips": entries,
        "chosen": chosen,
        "gain": plain(table[0] @ weights / (table[chosen] @ weights)),
        "chance": chance(bench, told[0], ways),
        "fidelity": "transferred",
        "stack": "generic",
        "steps": _along(bench, own, answer, table[[0, 1, chosen]] @ weights),
        "breakeven": breakeven(bench, answer, told[0], ways),
        "wishes": wishes(bench.bought, paced(told[0]).plan, bench.order.process),
        "assumed": assumed(bench),
    }  # fmt: skip


def paced(told: Sequence[Used | None]) -> Used:
    """The bought chip's use in the first future: it sets the pace, so that it has one."""
    first = told[0]
    assert first is not None
    return first


def judged(bench: Bench, design: Design) -> list[Used | None]:
    """The best use of a design in each future; None where it cannot keep the pace."""
    machine = build(design, bench.order.process)
    return [used(work, machine, bench.order.objective, design=design) for work in bench.works]


@dataclasses.dataclass(frozen=True, eq=False)
class Reached:
    """The chips that a search ends at: the best for each future, then for the mix; how far apart its seeds ended."""

    chips: tuple[Chosen, ...]
    apart: tuple[float, ...]
    rounds: int
    settled: bool
    evaluated: int


def reached(bench: Bench, start: Design) -> Reached:
    """The best chip for each future and for the mix, each sought again from where all end until none improves."""
    order, works, seed = bench.order, bench.works, bench.question.seed
    begun = [[chip(order, [work], [1.0], starts=[start], seed=seed + 100 * i) for i in range(SEEDS)] for work in works]
    found = [min(filter(None, ends), key=_value, default=None) for ends in begun]
    for work, one in zip(works, found, strict=True):
        if one is None:
            raise Refused(_nothing(bench, f"in {work.name}"))
    best: list[Chosen] = [one for one in found if one]
    weights = [work.weight / one.value for work, one in zip(works, best, strict=True)]
    mix = chip(order, works, weights, starts=[one.design for one in best], seed=seed) if len(works) > 1 else best[0]
    if mix is None:
        raise Refused(_nothing(bench, "in every future"))
    rounds, settled = 0, False
    while len(works) > 1 and not settled and rounds < ROUNDS:
        rounds, settled = rounds + 1, True
        for position, work in enumerate((*works, None)):
            some, shares = (works, weights) if work is None else ([work], [1.0])
            now = mix if work is None else best[position]
            starts = [mix.design, *(one.design for one in best)]
            again = chip(order, some, shares, starts=starts, seed=seed + rounds, generations=AGAIN)
            if again is None or not again.value < now.value * (1.0 - SAME):
                continue
            settled, mix = False, again if work is None else mix
            best = [again if i == position else one for i, one in enumerate(best)]
    apart = tuple(max(one.value if one else math.inf for one in ends) / min(one.value for one in ends if one) - 1.0
                  for ends in begun)  # fmt: skip
    evaluated = sum(one.evaluated for one in (*filter(None, itertools.chain(*begun)), mix))
    return Reached((*best, mix), apart, rounds, settled if rounds else mix.settled, evaluated)


def chance(bench: Bench, bought: Sequence[Used | None], ways: Sequence[Used | None]) -> float:
    """The share of joint draws of the process's constants in which the answer does the mix's work for less."""
    order, question, totals = bench.order, bench.question, []
    for several in (bought, ways):
        drawn = [draws(one, order.objective, order.process, seed=question.seed, path=question.path)
                 for one in several if one]  # fmt: skip
        totals.append(np.array([work.weight for work in bench.works]) @ np.array(drawn))
    return float((totals[1] < totals[0]).mean())


def _along(bench: Bench, own: Design, answer: Design, known: np.ndarray) -> list[dict[str, Any]]:
    """The objective of the mix, from the bought chip to the answer; `known` are those of bought, ordered and answer."""
    between = steps(bench.bought, own, answer, bench.order.process)
    weights = np.array([work.weight for work in bench.works])
    table = [[one.value if one else np.inf for one in judged(bench, design)] for _, design in between]
    values, names = np.array(table) @ weights, [label for label, _ in between]
    path = [
        ("bought", known[0]),
        ("ordered at a partner's margin", known[1]),
        *zip(names[:-1], values[:-1], strict=True),
    ]
    path += [("the answer", known[2]), (names[-1], values[-1])]
    told, before = [], known[0]
    for label, value in path:  # a design that cannot keep the pace is told, and passed over
        told.append({"step": label, "value": plain(value), "ratio": plain(value / before)})
        before = value if np.isfinite(value) else before
    return told


def _nothing(bench: Bench, where: str) -> Problem:
    most = 2 * bench.question.chips
    return Problem(field="limits", expected=f"a design that keeps the bought fleet's pace {where}", got="none",
                   hint=f"{most:,} of any design within the limits are slower: loosen them")  # fmt: skip


def _value(one: Chosen) -> float:
    return one.value
