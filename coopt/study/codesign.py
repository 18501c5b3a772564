"""`coopt codesign`: which chip to order for a model and its futures, its worth, and what its vendor should change."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from coopt.cost.explain import plain
from coopt.problems import Problem, Refused
from coopt.search import chips as space
from coopt.spec.silicon import Design
from coopt.study.feasible import feasible
from coopt.study.futures import NAMES
from coopt.study.orders import asked, assumed, entry, one_of
from coopt.study.question import CHIPS, MODEL, PRECISION, VENDOR, VOLUME, Bench, Question, prepare
from coopt.study.screens import best, screened, values
from coopt.study.worth import breakeven, steps, wishes
from coopt.tree import replace

STARTS, ROUNDS = 1, 2  # walks for each aim; times that the screens grow


def main(options: Any) -> dict[str, Any]:
    """The document of a command line."""
    limits = {
        name: scale * value
        for name, scale in {"area": 1e-6, "power": 1.0, "cost": 1.0, "supply": 1.0, "date": 1.0}.items()
        if (value := getattr(options, name)) is not None
    }
    counted = {name: getattr(options, name) for name in ("chips", "volume", "seq_len", "global_batch")}
    given = {**limits, **{name: value for name, value in counted.items() if value is not None}}
    wrong = [
        Problem(field=name, expected="a number above 0", got=f"{value:g}")
        for name, value in given.items()
        if not 0 < value < math.inf
    ]
    if wrong:
        raise Refused(*wrong)
    question = Question(
        model=options.model or MODEL,
        vendor=options.vendor or VENDOR,
        chips=CHIPS if options.chips is None else options.chips,
        volume=VOLUME if options.volume is None else options.volume,
        limits=space.Limits(**limits),
        mix=mixed(options.mix),
        precision=tuple((options.precision or ",".join(PRECISION)).split(",")),
        seq_len=8192.0 if options.seq_len is None else options.seq_len,
        batch=512.0 if options.global_batch is None else options.global_batch,
        seed=options.seed,
        path=options.profile_path,
    )
    return codesign(question)


def mixed(text: str | None) -> dict[str, float]:
    """A mix as it is typed, `today:2,no-fp4:1`; all futures alike where none is.

    >>> mixed("today:2,no-fp4")
    {'today': 2.0, 'no-fp4': 1.0}
    """
    if not text:
        return dict.fromkeys(NAMES, 1.0)
    told = {}
    for part in text.split(","):
        name, _, weight = part.strip().partition(":")
        try:
            told[name] = float(weight or 1.0)
        except ValueError:
            told[name] = math.nan
        if not 0 <= told[name] < math.inf:
            raise Refused(Problem(field=f"mix.{name[:40]}", expected="a weight from 0", got=weight[:40],
                                  hint="write it like `today:2,no-fp4:1`"))  # fmt: skip
    if not sum(told.values()) > 0:
        raise Refused(Problem(field="mix", expected="a future with a weight above 0", got=text[:80]))
    return told


def codesign(question: Question) -> dict[str, Any]:
    """The document of a question. Raises Refused: impossible limits, with what each removes and the nearest design."""
    bench = prepare(question)
    inside, removed = feasible(bench)
    bench, points = settled(bench, inside)
    names = [one.future.name for one in bench.screens] + ["mix"]
    chips = space.designs(points, bench.offered, bench.base)
    at = [one_of(chips, i) for i in range(len(points))]
    own = replace(bench.bought, own=1.0, margin=bench.base.margin, volume=bench.base.volume, start=bench.base.start)
    told = [best(one, [bench.bought, own, *at], bench.process) for one in bench.screens]
    table = np.array([[one.value for one in row] for row in told]).T  # (designs, futures)
    weights = np.array([one.future.weight for one in bench.screens])
    regret = table / table[1:].min(axis=0) - 1.0  # against the best that can be ordered
    mean = regret @ weights
    chosen = 2 + int(np.argmin(mean[2:]))
    labels = ["bought", "the same, ordered", *_labels(names, points)]
    entries = [
        entry(bench, label, design, [row[i] for row in told], regret[i], mean[i], points[i - 2] if i > 1 else None)
        for i, (label, design) in enumerate(zip(labels, [bench.bought, own, *at], strict=True))
    ]
    answer, ways = at[chosen - 2], [row[chosen] for row in told]
    gain = float(table[0] @ weights / (table[chosen] @ weights))
    return {
        "command": "codesign",
        **asked(bench),
        "designs": {"sampled": question.samples, "of": str(math.prod(len(v) for v in bench.offered.values()))},
        "limits": removed,
        "chips": entries,
        "chosen": chosen,
        "gain": plain(gain),
        "chance": _chance(gain, bench.process.delivered.sigma),
        "fidelity": "transferred",
        "stack": "generic",
        "steps": _along(bench, own, answer, table[[0, 1, chosen]] @ weights),
        "breakeven": breakeven(bench.bought, answer, [row[0] for row in told], ways, weights, bench.process),
        "wishes": wishes(bench.bought, told[0][0], bench.process, bench.offered),
        "assumed": assumed(bench),
    }


def _along(bench: Bench, own: Design, answer: Design, known: np.ndarray) -> list[dict[str, Any]]:
    """USD a token of the mix, from the bought chip to the answer; `known` are those of bought, ordered and answer."""
    between = steps(bench.bought, own, answer, bench.process)
    weights = np.array([one.future.weight for one in bench.screens])
    told = [best(one, [design for _, design in between], bench.process) for one in bench.screens]
    values = np.array([[way.value for way in row] for row in told]).T @ weights
    names = [label for label, _ in between]
    path = [
        ("bought", known[0]),
        ("ordered at a partner's margin", known[1]),
        *zip(names[:-1], values[:-1], strict=True),
    ]
    path += [("the answer", known[2]), (names[-1], values[-1])]
    before = [known[0], *(value for _, value in path)]
    return [
        {"step": label, "dollars_per_token": plain(value), "ratio": plain(value / earlier)}
        for (label, value), earlier in zip(path, before, strict=False)
    ]


def settled(bench: Bench, inside: np.ndarray) -> tuple[Bench, np.ndarray]:
    """The points that walks reach, when the layouts they want are all in the screens that they walked on.

    A screen begins with what suits the bought chip. What the full space of layouts gives the chips that were reached
    joins it, and they walk again, ROUNDS times at most.
    """
    starts = inside
    for _ in range(ROUNDS):
        points = improved(bench, starts)
        chips = space.designs(points, bench.offered, bench.base)
        at = [one_of(chips, i) for i in range(len(points))]
        wanted = [[way.tag for way in best(one, at, bench.process)] for one in bench.screens]
        new = [
            tuple(tag for tag in tags if tag not in one.tags) for one, tags in zip(bench.screens, wanted, strict=True)
        ]
        if not any(new):
            break
        screens = [screened(s.future, (*s.tags, *tags), s.deadline) for s, tags in zip(bench.screens, new, strict=True)]
        bench = dataclasses.replace(bench, screens=tuple(screens))
        starts = np.concatenate([points, inside])
    return bench, points


def improved(bench: Bench, starts: np.ndarray) -> np.ndarray:
    """The best point for each future, and for the mix: the best of the starts walk until no change helps."""
    known: list[dict[tuple[int, ...], float]] = [{} for _ in bench.screens]

    def within(points: np.ndarray) -> np.ndarray:
        chips = space.designs(points, bench.offered, bench.base)
        return space.worst(space.loads(chips, bench.process, bench.question.limits)) <= 1.0

    def one(future: int, points: np.ndarray) -> np.ndarray:
        """USD a token in a future `(n,)`; infinite beyond a limit. What was priced once is kept."""
        kept = known[future]
        new = np.array(
            [point for point in {tuple(point): point for point in points}.values() if tuple(point) not in kept]
        )
        if len(new):
            kept.update(dict.fromkeys(map(tuple, new), np.inf))
            some = new[within(new)]
            if len(some):
                found = values(bench.screens[future], space.designs(some, bench.offered, bench.base), bench.process)
                kept.update(zip(map(tuple, some), found, strict=True))
        return np.array([kept[tuple(point)] for point in points])

    first = np.stack([one(future, starts) for future in range(len(bench.screens))], axis=1)
    if not np.isfinite(first).any(axis=0).all():
        raise Refused(
            Problem(field="limits", expected="a design that keeps the bought fleet's pace in every future", got="none",
                    hint=f"twice {bench.question.chips:,} of any design within the limits are slower: loosen them")
        )  # fmt: skip
    scale = first.min(axis=0)
    weights = np.array([screen.future.weight for screen in bench.screens]) / scale

    def mixed(points: np.ndarray) -> np.ndarray:
        return np.stack([one(future, points) for future in range(len(weights))], axis=1) @ weights

    aims = [functools.partial(one, future) for future in range(len(bench.screens))]
    reached = [_walked(starts, aim, bench) for aim in aims]
    return np.array([*reached, _walked(np.concatenate([reached, starts]), mixed, bench)])


def _walked(starts: np.ndarray, aim: space.Price, bench: Bench) -> np.ndarray:
    """The best end of walks from the best starts."""
    order = np.argsort(aim(starts), kind="stable")[:STARTS]
    ends = np.array([space.walk(starts[i], bench.offered, aim) for i in order])
    return ends[int(np.argmin(aim(ends)))]


def _chance(gain: float, sigma: float) -> float:
    """Probability that a gain is one, when what software reaches on a new chip is off by `sigma` of its logarithm.

    >>> round(_chance(1.0, 0.25), 3), round(_chance(1.5, 0.25), 3)
    (0.5, 0.948)
    """
    return 0.5 * (1.0 + math.erf(math.log(gain) / (sigma * math.sqrt(2.0))))


def _labels(names: Sequence[str], points: np.ndarray) -> list[str]:
    return [f"best for {name}" if name != "mix" else "best for the mix" for name in names[: len(points)]]
