"""Ten gigawatts, 2026 to 2030: the plan, and what of it survives when an assumption is another one.

    python scripts/plan_ten_gigawatts.py

Takes about a minute on two cores. Prints, for the shipped scenario and for each changed assumption, the status,
the gap, gigawatts deployed, the first quarter of the newest system, capital, training runs, the loss of the last
model and the objective; `docs/roadmap.md` discusses the table.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from absl import app, flags

from coopt.roadmap import plan, scenario
from coopt.roadmap.options import remembered
from coopt.roadmap.pricing import searched

SCENARIO = flags.DEFINE_string("scenario", "vera-rubin-10gw", "a scenario's name or file")

CHANGES: tuple[tuple[str, Mapping[str, str]], ...] = (
    ("as shipped", {}),
    ("a nat is worth half", {"training.worth.per_nat": "1000 GUSD/yr"}),
    ("a nat is worth twice", {"training.worth.per_nat": "4000 GUSD/yr"}),
    ("what chips earn falls 5 % a year", {"serving.decline": "5 %"}),
    ("what chips earn falls 10 % a year", {"serving.decline": "10 %"}),
    ("half the capital", {"capital.limit": "50 GUSD", "capital.tranche": "5 GUSD"}),
    ("a quarter of the price from the capital", {"capital.equity": "25 %"}),
    ("new chips at half the supply", {"chips.1.supply.first": "20000", "chips.1.supply.most": "140000"}),
    ("runs may span all sites", {"training.span": "fleet"}),
)


def line(name: str, answer: Mapping[str, Any]) -> str:
    """One row of the table."""
    if answer["objective"] is None:
        return f"{name:<42}{answer['status']}"
    gigawatts = sum(entry["megawatts"] for entry in answer["deployments"]) / 1e3
    newest = [entry["quarter"] for entry in answer["deployments"] if entry["chip"] == "vr-nvl72"]
    losses = [run["loss"] for run in answer["training_runs"] if run["loss"] is not None]
    return (
        f"{name:<42}{answer['status']:<10}{answer['gap']:>7.2%}{gigawatts:>7.2f}  {min(newest, default='never'):<8}"
        f"{sum(answer['capex_by_quarter'].values()) / 1e9:>7.0f}{len(answer['training_runs']):>6}"
        f"{min(losses, default=float('nan')):>8.4f}{answer['objective'] / 1e9:>8.0f}"
    )


def main(argv: list[str]) -> None:
    """Plans every variation with one pricer, so that each question is priced once."""
    del argv
    training = scenario(SCENARIO.value)[0].training
    pricer = remembered(
        searched(law=training.law, extrapolate=training.extrapolate, precision=training.precision, stack=training.stack)
    )
    print(f"{'':<42}{'status':<10}{'gap':>7}{'GW':>7}  {'newest':<8}{'GUSD':>7}{'runs':>6}{'loss':>8}{'worth':>8}")
    for name, overrides in CHANGES:
        print(line(name, plan(SCENARIO.value, pricer=pricer, overrides=overrides)), flush=True)


if __name__ == "__main__":
    app.run(main)
