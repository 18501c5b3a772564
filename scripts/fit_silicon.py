"""One parameter set for known chips: their area, watts and parts as fitted, and with each chip left out.

    python scripts/fit_silicon.py

About 20 s. Fits the constants of the process that nobody publishes (`fitted` in hw_profiles/process/leading-edge.yaml)
to the published figures in hw_profiles/designs, prints them beside their priors, then the table of docs/silicon.md:
every chip as fitted and with its own figures left out. Ends with what is outside its published range.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from absl import app

from coopt.cost.silicon import silicon
from coopt.fit.silicon import FIGURES, PRIORS, Known, fit, known, left_out
from coopt.spec.process import process
from coopt.spec.silicon import Process

UNITS = {"area": (1e6, "mm2"), "tdp": (1.0, "W"), "parts": (1.0, "USD")}


def table(chips: Sequence[Known], alone: Mapping, fitted: Process) -> tuple[list[str], list[str]]:
    """The lines of the table, and what of it lies outside, from the fits to the others and the fit to all."""
    lines = ["| chip | | published | fitted to all | left out | |", "|---|---|---|---|---|---|"]
    outside = []
    for chip in chips:
        made = silicon(chip.design, fitted)
        for figure, (low, value, high, used) in chip.figures.items():
            size, unit = UNITS[figure]
            said = f"{value * size:,.0f} {unit}" + (f" ({low * size:,.0f} to {high * size:,.0f})" if low < high else "")
            said += "" if used else ", an estimate"
            here, out = float(getattr(made, FIGURES[figure])), alone[chip.name][figure]
            inside = chip.inside(figure, out)
            told = f"{here * size:,.0f} | {out * size:,.0f} | {'inside' if inside else f'{out / value - 1:+.0%}'}"
            lines.append(f"| {chip.name} | {figure} | {said} | {told} |")
            outside += [] if inside else [f"{chip.name} {figure}: {out * size:,.0f} {unit}, published {said}"]
    return lines, outside


def main(_) -> None:
    start = process()
    chips = known(start)
    fitted = fit(start, chips)
    for name, (prior, spread) in PRIORS.items():
        section, field = name.split(".")
        print(f"{name:20} {getattr(getattr(fitted, section), field):10.4g}   prior {prior:.4g}, sigma {spread:g}")
    lines, outside = table(chips, left_out(start, chips), fitted)
    print("\n" + "\n".join(lines) + "\n")
    print("left out and outside: " + ("; ".join(outside) or "none"))


if __name__ == "__main__":
    app.run(main)
