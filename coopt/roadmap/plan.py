"""`plan`: from a scenario file to the roadmap."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from coopt.roadmap import assemble
from coopt.roadmap.document import to_json
from coopt.roadmap.instance import Instance, reach
from coopt.roadmap.machines import Machines, machine
from coopt.roadmap.options import Offer, Option, Pricer, Task, at_end, offers, remembered
from coopt.roadmap.scenario import assumptions, scenario
from coopt.roadmap.scenario_schema import Scenario
from coopt.roadmap.solution import optimise

Progress = Callable[[str, int, int], None]
TOLERANCE, ROUGH = 1e-3, 1e-2  # relative gaps at which solving may stop: the plan, the ends of its interval
SOLVING = 15.0  # s kept for the programme, however long pricing took


def plan(
    scenario_path: str | Path,
    *,
    pricer: Pricer | None = None,
    machines: Machines | None = None,
    overrides: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
    time_limit: float = 50.0,
) -> dict[str, Any]:
    """What to deploy when, to train what: the best roadmap of a scenario within `time_limit` seconds.

    `pricer(task, system, chips)` says how fast a model trains and what loss it reaches (default: the search over
    layouts); `machines(system)` what a system draws and costs (default: its profile); `overrides` set fields of the
    scenario by dotted path; `progress(sentence, done, total)` is told what is being done.

    Returns the document of `coopt plan`. An impossible scenario is an answer too: `status` is infeasible, and
    `infeasible` says what is missing. Raises Refused with every problem of the file and its profiles.
    """
    began = time.monotonic()
    parsed, marks = scenario(scenario_path, overrides=overrides)
    price = remembered(_searched(parsed) if pricer is None else pricer)
    found = assemble.known(parsed, machine if machines is None else machines, marks)
    base, sizes = assemble.reference(parsed), [int(size) for size in parsed.training.chips]
    yardstick = {name: first_that_fits(price, base, name, sizes) for name in assemble.systems(parsed)}
    empty = assemble.skeleton(parsed, found, yardstick)
    instance, offered = _furnished(parsed, empty, price, _loss(yardstick), progress)
    if progress is not None:
        progress(f"planning {instance.decided} quarters", 0, 3)
    left = max(time_limit - (time.monotonic() - began), SOLVING)
    solution = optimise(instance, time_limit=0.6 * left, tolerance=TOLERANCE)
    ends: list[float | None] = [None, None]
    for end in (0, 1) if solution.objective is not None else ():
        if progress is not None:
            progress(f"planning with the {('slowest', 'fastest')[end]} training that is likely", 1 + end, 3)
        other, _ = _furnished(parsed, empty, at_end(price, end), _loss(yardstick), None)
        ends[end] = optimise(other, time_limit=0.2 * left, tolerance=ROUGH).objective
    evidence = {"interval": _interval(ends), **_evidence(parsed, found, offered, yardstick)}
    return to_json(parsed, instance, solution, offered, tasks=assemble.tasks(parsed), evidence=evidence)


def _furnished(parsed: Scenario, empty: Instance, price: Pricer, base: float | None, progress: Progress | None):
    """The instance with everything that can be trained in it, and the offers it was made from."""
    tasks, training = assemble.tasks(parsed), parsed.training
    free = (1.0 - empty.reserved) / (1.0 + training.spares.value)
    offered = offers(
        tasks,
        empty.chips,
        price,
        sizes=[int(size) for size in training.chips],
        durations=[int(duration) for duration in training.durations],
        goodput=training.goodput.value,
        most=(free * reach(empty).max(axis=(0, 2))).tolist(),
        progress=progress,
    )
    losses = [next((o.option.loss for o in offered if o.rung == m), None) for m in range(len(tasks))]
    return assemble.furnished(empty, parsed, offered, losses, base), offered


def _interval(ends: Sequence[float | None]) -> dict[str, float | str] | None:
    """What the objective becomes where every run trains as slowly, or as fast, as its price's interval allows."""
    low, high = ends
    if low is None or high is None:
        return None
    return {
        "of": "objective",
        "low": min(low, high),
        "high": max(low, high),
        "why": "speed of training, planned anew",
    }


def _searched(parsed: Scenario) -> Pricer:
    from coopt.roadmap.pricing import searched  # brings jax: only where the search itself is asked

    training = parsed.training
    return searched(
        law=training.law, extrapolate=training.extrapolate, precision=training.precision, stack=training.stack
    )


def first_that_fits(price: Pricer, task: Task, system: str, sizes: list[int]) -> Option | None:
    """The task on the fewest chips (of `sizes`) that hold it."""
    return next((option for size in sizes if (option := price(task, system, size)) is not None), None)


def _loss(yardstick: Mapping[str, Option | None]) -> float | None:
    return next((option.loss for option in yardstick.values() if option is not None), None)


def _evidence(parsed: Scenario, found, offered: tuple[Offer, ...], yardstick) -> dict[str, Any]:
    options = [offer.option for offer in offered] + [option for option in yardstick.values() if option is not None]
    said = dict.fromkeys(assumptions(parsed))
    said |= dict.fromkeys(sentence for machine in found for sentence in machine.assumed)
    said |= dict.fromkeys(sentence for option in options for sentence in option.assumed)
    ladder = parsed.training.ladder
    losses = [next((o.option.loss for o in offered if o.rung == m), None) for m in range(len(ladder))]
    unranked = [
        {"model": rung.name, "why": _unranked(parsed, any(offer.rung == m for offer in offered))}
        for m, rung in enumerate(ladder)
        if losses[m] is None
    ]
    nearest = {str(row.get("id")): dict(row) for option in options for row in option.nearest}
    fidelities = sorted({str(option.fidelity) for option in options})
    stacks = sorted({str(option.stack) for option in options})
    return {
        "unranked": unranked,
        "fidelity": " and ".join(fidelities),
        "stack": " and ".join(stacks),
        "assumed": [*said, *(parsed.notes if isinstance(parsed.notes, tuple) else filter(None, [parsed.notes]))],
        "nearest": list(nearest.values()),
    }


def _unranked(parsed: Scenario, trained: bool) -> str:
    if trained:
        return f"the law {parsed.training.law} has no loss for it, so it is worth nothing here"
    return "no chips of this scenario train it within the longest duration"
