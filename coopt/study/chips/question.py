"""What `coopt codesign` is asked, and everything that designs are then judged on."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from coopt.cost.silicon import build
from coopt.problems import Problem, Refused
from coopt.search import chips as space
from coopt.search.chips import Work
from coopt.spec import load, process
from coopt.spec.nouns import PRECISIONS
from coopt.spec.silicon import Design, Process
from coopt.study.chips.futures import NAMES, futures
from coopt.study.chips.used import Order, used
from coopt.tree import replace

MODEL, VENDOR, CHIPS, VOLUME = "llama3-70b", "b200", 1024, 100_000
PRECISION = ("bf16", "fp8", "nvfp4")
OBJECTIVES = ("dollars_per_token", "joules_per_token", "chip_time_per_token")  # interruptions counted
PACE = "useful_time_per_token"
LAW = "chinchilla-besiroglu"  # whose range of shapes bounds the shapes that are offered
FLEETS = (0.125, 0.25, 0.5, 1.0, 2.0)  # of the bought fleet's chips that another chip's fleet may have
BEGIN = 2027.0  # year in which a part ordered now begins to be developed


@dataclasses.dataclass(frozen=True)
class Question:
    """What is asked: work, the bought fleet that sets the pace, the volume, limits, and the mix of futures."""

    model: str = MODEL
    vendor: str = VENDOR
    chips: int = CHIPS
    volume: float = VOLUME
    objective: str = OBJECTIVES[0]
    limits: Mapping[str, float] = dataclasses.field(default_factory=dict)  # SI, by the names of `space.LIMITS`
    mix: Mapping[str, float] = dataclasses.field(default_factory=lambda: dict.fromkeys(NAMES, 0.25))
    precision: Sequence[str] = PRECISION
    seq_len: float = 8192.0
    batch: float = 512.0
    seed: int = 0
    path: Any = None


@dataclasses.dataclass(frozen=True)
class Bench:
    """Everything that designs are judged on; `bought` is the vendor's chip as it is sold, works are the futures."""

    question: Question
    order: Order
    bought: Design
    works: tuple[Work, ...]


def prepare(question: Question) -> Bench:
    """The bench of a question, every file read; its futures have the pace of the bought fleet as their limit."""
    made_with = process.process(path=question.path)
    bought = process.design(question.vendor, made_with, path=question.path)
    _check(question, made_with)
    model = load.model(question.model, path=question.path)
    numbers = sorted({max(int(question.chips * times), 1) for times in FLEETS})
    law = load.law(LAW, path=question.path)
    asked = {"seq_len": question.seq_len, "batch": question.batch, "precision": question.precision,
             "mix": question.mix, "aspect": law.aspect}  # fmt: skip
    reference, works = build(bought, made_with), []
    every = zip(futures(model, chips=numbers, **asked), futures(model, chips=(question.chips,), **asked), strict=True)
    for work, paced in every:
        best = used(paced, reference, PACE)
        if best is None:
            raise Refused(
                Problem(field="chips", expected=f"enough of the bought chip for the model ({work.name})",
                        got=f"{question.chips}", hint="give more --chips")
            )  # fmt: skip
        works.append(dataclasses.replace(work, limits={PACE: 1.0001 * best.value}))
    base = replace(ordered(bought, made_with, volume=question.volume), name="", torus=0.0, eight=2.0)
    order = Order(made_with, base, space.choices(made_with), question.limits, f"useful_{question.objective}")
    return Bench(question, order, bought, tuple(works))


def ordered(bought: Design, made_with: Process, *, volume: float) -> Design:
    """A bought chip as it would be ordered: development paid over a volume, a partner's margin."""
    return replace(bought, own=1.0, margin=made_with.money.margin, volume=volume, start=BEGIN)


def _check(question: Question, made_with: Process) -> None:
    problems = []
    if question.volume < made_with.money.least:
        problems.append(
            Problem(field="volume", expected=f"{made_with.money.least:,.0f} or more", got=f"{question.volume:,.0f}",
                    hint="below it no foundry and no partner begins; money.least in hw_profiles/process")
        )  # fmt: skip
    known = ", ".join(PRECISIONS)
    problems += [
        Problem(field="precision", expected=f"some of {known}", got=one[:40] or "nothing")
        for one in question.precision
        if one not in PRECISIONS
    ]
    if question.objective not in OBJECTIVES:
        problems.append(
            Problem(field="objective", expected=f"one of {', '.join(OBJECTIVES)}", got=question.objective[:40],
                    hint="time alone always asks for the largest chips: it is the pace that all designs keep")
        )  # fmt: skip
    if problems:
        raise Refused(*problems)
