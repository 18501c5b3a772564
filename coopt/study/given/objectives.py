"""What candidates are ranked by: the objectives of a sweep, and those that need a whole run on all its devices."""

from __future__ import annotations

from coopt.cost import estimate
from coopt.ops import count
from coopt.search.price import OBJECTIVES, Score
from coopt.search.space import Candidate
from coopt.spec.nouns import Hardware

USEFUL = "useful_"  # before an objective: interruptions cost their share of it
DEVICE_TIME = "device_time"  # s of one device to the end of the run: tokens / (tokens a second a device)


def machine_of(plan: Candidate) -> Hardware:
    """The machine that a plan was priced on."""
    assert plan.hardware is not None, "a plan has its machine"
    return plan.hardware


def expression(candidate: Candidate, objectives: tuple[str, ...]) -> Score:
    """The one cost expression, asked for the objectives of a study, those of `coopt.search.price` among them."""
    ops = count(candidate.model, candidate.layout, candidate.workload)
    cost = estimate(ops, machine_of(candidate))

    def value(name: str):
        if name == DEVICE_TIME:
            return cost.step_time * (ops.chips * (candidate.workload.tokens / ops.tokens))
        if name.startswith(USEFUL):
            return value(name.removeprefix(USEFUL)) / cost.goodput
        return OBJECTIVES[name][1](candidate, ops, cost)

    return Score(verdict=cost.verdict, objectives=tuple(value(name) for name in objectives))


def unit(objective: str) -> str:
    """The unit of an objective.

    >>> unit("device_time"), unit("run_dollars"), unit("loss")
    ('s', 'USD', 'nat')
    """
    return "s" if objective == DEVICE_TIME else OBJECTIVES[objective.removeprefix(USEFUL)][0]
