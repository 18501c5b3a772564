"""A plan as one JSON document, and the series that a figure draws."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from coopt.roadmap.accounts import Accounts, accounts, objective
from coopt.roadmap.instance import Instance
from coopt.roadmap.options import Offer, Task, duration
from coopt.roadmap.quarters import SECONDS
from coopt.roadmap.scenario_schema import Scenario
from coopt.roadmap.solution import Solution

OBJECTIVE = "discounted USD: models in hand + serving - annuity of chips - electricity"
MEGAWATT = 1e6


def to_json(
    scenario: Scenario,
    instance: Instance,
    solution: Solution,
    offered: Sequence[Offer],
    *,
    tasks: Sequence[Task],
    evidence: Mapping[str, Any],
) -> dict[str, Any]:
    """The document of `coopt plan`; what is not known or not possible is None."""
    document = {
        "command": "plan",
        "name": scenario.name,
        "title": scenario.title,
        "status": solution.status,
        "gap": None,
        "objective": None,
        "objective_name": OBJECTIVE,
        "objective_parts": {},
        "basis": "IT megawatts",
        "deployments": [],
        "training_runs": [],
        "capex_by_quarter": {},
        "shadow_prices": {},
        "infeasible": _shortfalls(instance, solution),
        "figure": {},
        "solver": solution.solver,
    }
    if solution.deployed is not None:
        kept = accounts(instance, solution.deployed, solution.starts)
        parts = objective(instance, kept)
        runs = _runs(scenario, instance, solution, offered, tasks)
        document |= {
            "gap": _gap(solution, parts["total"]),
            "objective": parts["total"],
            "objective_parts": parts,
            "deployments": _deployments(instance, solution.deployed),
            "training_runs": runs,
            "capex_by_quarter": dict(zip(instance.quarters[: instance.decided], kept.capex.tolist(), strict=False)),
            "shadow_prices": _prices(instance, solution),
            "figure": series(instance, kept, runs),
        }
    return document | dict(evidence)


def series(instance: Instance, kept: Accounts, runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What the figure of a plan shows: IT megawatts in place by chip, money by quarter, and runs as bars.

    `megawatts` are those deployed so far (chips that retire are not taken off) beside the initial fleet at work.
    """
    deployed = np.cumsum(kept.bought, axis=1) * instance.watts[:, None] / MEGAWATT
    fleet = instance.fleet.sum(axis=0) * instance.watts[:, None] / MEGAWATT
    first = {quarter: position for position, quarter in enumerate(instance.quarters)}
    return {
        "quarters": list(instance.quarters),
        "decided": instance.decided,
        "megawatts": {name: deployed[c].tolist() for c, name in enumerate(instance.chips) if deployed[c].any()},
        "fleet_megawatts": {name: fleet[c].tolist() for c, name in enumerate(instance.chips) if fleet[c].any()},
        "power_megawatts": (instance.power.sum(axis=0) / MEGAWATT).tolist(),
        "capex": kept.capex.tolist(),
        "equity": np.cumsum(kept.equity).tolist(),
        "released": kept.released.tolist(),
        "training_share": _share(kept.held.sum(axis=(0, 1)), kept.working.sum(axis=(0, 1))),
        "best": [None if rung is None else instance.rungs[rung] for rung in kept.best],
        "runs": [
            {
                "label": run["model"],
                "row": run["chip"],
                "start": first[run["start"]],
                "end": first[run["start"]] + run["quarters"],
                "chips": run["chips"],
            }
            for run in runs
        ],
    }


def _share(part: np.ndarray, whole: np.ndarray) -> list[float | None]:
    return [float(p / w) if w > 0 else None for p, w in zip(part, whole, strict=True)]


def _gap(solution: Solution, total: float) -> float | None:
    """What is proved possible over what the plan as written reaches, whole chips and all."""
    if solution.bound is None or not math.isfinite(solution.bound):
        return None
    return max(0.0, solution.bound - total) / max(abs(total), 1.0)


def _deployments(instance: Instance, deployed: np.ndarray) -> list[dict[str, Any]]:
    return [
        {
            "quarter": instance.quarters[t],
            "site": instance.sites[s],
            "chip": instance.chips[c],
            "megawatts": float(deployed[t, s, c] * instance.watts[c] / MEGAWATT),
            "chips": int(deployed[t, s, c]),
        }
        for t, s, c in zip(*np.nonzero(deployed), strict=True)
    ]


def _runs(scenario, instance: Instance, solution: Solution, offered: Sequence[Offer], tasks) -> list[dict[str, Any]]:
    goodput = scenario.training.goodput.value
    said = []
    for r, pool, t in solution.starts:
        offer, run = offered[r], instance.runs[r]
        rung, option = scenario.training.ladder[offer.rung], offer.option
        time = duration(tasks[offer.rung], option, chips=offer.chips, goodput=goodput)
        said.append(
            {
                "start": instance.quarters[t],
                "quarters": offer.quarters,
                "chip": instance.chips[offer.system],
                "chips": offer.chips,
                "model": rung.name,
                "tokens": rung.tokens,
                "loss": option.loss,
                "loss_in_range": option.loss_in_range,
                "sites": [site for site, p in zip(instance.sites, instance.pool, strict=True) if p == pool],
                "chips_held": round(run.chips),
                "days": time * SECONDS / 86400.0,
                "shape": {"model": rung.model, "width": rung.scale.width, "layers": rung.scale.layers},
                "batch_tokens": rung.batch,
                "layout": option.layout,
                "tokens_per_second_per_chip": option.tokens_per_second_per_chip,
                "mfu": option.mfu,
                "interval": None if option.interval is None else list(option.interval),
            }
        )
    return said


def _prices(instance: Instance, solution: Solution) -> dict[str, float]:
    """Prices that are not zero, each under what it is the price of, with its unit."""
    named: dict[str, float] = {}
    for (t, s), price in solution.prices.get("power", {}).items():
        if t >= instance.decided:
            continue
        named[f"power from {instance.quarters[t]} on at {instance.sites[s]}, USD/MW"] = price * MEGAWATT
    for (t, c), price in solution.prices.get("supply", {}).items():
        named[f"supply of {instance.chips[c]} in {instance.quarters[t]}, USD/chip"] = price
    for (t,), price in solution.prices.get("capital", {}).items():
        if t >= instance.decided:
            continue
        named[f"capital from {instance.quarters[t]} on, USD/USD"] = price
    for _, price in solution.prices.get("limit", {}).items():
        named["limit of capital, USD/USD"] = price
    return {name: price for name, price in named.items() if abs(price) > 1e-6}


def _shortfalls(instance: Instance, solution: Solution) -> list[dict[str, Any]]:
    """What is missing, the largest first, each with a sentence."""
    pools = [
        ", ".join(s for s, p in zip(instance.sites, instance.pool, strict=True) if p == q) for q in set(instance.pool)
    ]
    names = {"power": instance.sites, "supply": instance.chips, "date": instance.chips, "capacity": pools}
    words = {
        "power": "more power at {}",
        "supply": "more chips of {}",
        "date": "chips of {} before they exist",
        "capital": "more capital released",
        "limit": "a higher limit of capital",
        "capacity": "more chips free to train at {}",
    }
    said = []
    for short in solution.shortfalls:
        where = None if short.where is None else names[short.constraint][short.where]
        quarter = None if short.quarter is None else instance.quarters[short.quarter]
        what = words[short.constraint].format(where)
        sentence = f"{what}{f' in {quarter}' if quarter else ''}: {short.short:.4g} {short.unit}"
        entry = {"constraint": short.constraint, "quarter": quarter, "where": where, "short": short.short}
        said.append({**entry, "unit": short.unit, "sentence": sentence})
    return said
