"""What `coopt codesign` is asked, and everything that designs are then judged on."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from coopt.cost.silicon import build
from coopt.problems import Problem, Refused
from coopt.search import chips as space
from coopt.spec import load, process
from coopt.spec.nouns import PRECISIONS
from coopt.spec.silicon import Design, Process
from coopt.study.futures import NAMES, futures
from coopt.study.screens import Screen, screen
from coopt.tree import replace

MODEL, VENDOR, CHIPS, VOLUME = "llama3-70b", "b200", 1024, 100_000
PRECISION = ("bf16", "fp8", "nvfp4")
LAW = "chinchilla-besiroglu"  # whose range of shapes bounds the shapes that are offered
SAMPLES = 256
FLEETS = (0.25, 0.5, 1.0, 2.0)  # of the bought fleet's chips that another chip's fleet may have
BEGIN = 2027.0  # year in which a part ordered now begins to be developed


@dataclasses.dataclass(frozen=True)
class Question:
    """What is asked: work, the bought fleet that sets the pace, the volume, limits, and the mix of futures."""

    model: str = MODEL
    vendor: str = VENDOR
    chips: int = CHIPS
    volume: float = VOLUME
    limits: space.Limits = space.Limits()
    mix: Mapping[str, float] = dataclasses.field(default_factory=lambda: dict.fromkeys(NAMES, 0.25))
    precision: Sequence[str] = PRECISION
    seq_len: float = 8192.0
    batch: float = 512.0
    seed: int = 0
    samples: int = SAMPLES
    path: Any = None


@dataclasses.dataclass(frozen=True)
class Bench:
    """Everything that designs are judged on; `bought` is the vendor's chip as it is sold."""

    question: Question
    process: Process
    bought: Design
    base: Design  # what is not varied, as ordered: development paid, a partner's margin, the volume
    offered: dict[str, tuple[float, ...]]
    screens: tuple[Screen, ...]


def prepare(question: Question) -> Bench:
    """The bench of a question, every file read and every layout of the screens chosen."""
    made_with = process.process(path=question.path)
    bought = process.design(question.vendor, made_with, path=question.path)
    if question.volume < made_with.money.least:
        raise Refused(
            Problem(field="volume", expected=f"{made_with.money.least:,.0f} or more", got=f"{question.volume:,.0f}",
                    hint="below it no foundry and no partner begins; money.least in hw_profiles/process")
        )  # fmt: skip
    unknown = [recipe for recipe in question.precision if recipe not in PRECISIONS]
    if unknown:
        known = ", ".join(PRECISIONS)
        raise Refused(*(Problem(field="precision", expected=f"some of {known}", got=one[:40]) for one in unknown))
    model = load.model(question.model, path=question.path)
    numbers = sorted({max(int(question.chips * times), 1) for times in FLEETS})
    law = load.law(LAW, path=question.path)
    asked = futures(
        model, seq_len=question.seq_len, batch=question.batch, chips=numbers, precision=question.precision,
        mix=question.mix, aspect=law.aspect,
    )  # fmt: skip
    reference = build(bought, made_with)
    base = replace(
        bought,
        name="",
        own=1.0,
        margin=made_with.money.margin,
        volume=question.volume,
        start=BEGIN,
        torus=0.0,
        eight=2.0,
    )
    return Bench(
        question, made_with, bought, base, space.choices(made_with),
        tuple(screen(future, reference, chips=question.chips) for future in asked),
    )  # fmt: skip
