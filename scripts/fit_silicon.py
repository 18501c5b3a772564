"""One parameter set for known chips: their area, watts and parts as fitted, and with each chip left out.

    python scripts/fit_silicon.py

About 20 s. Fits the constants of the process that nobody publishes (`fitted` in hw_profiles/process/leading-edge.yaml)
to the published figures in hw_profiles/designs, prints them beside their priors, then the table of docs/silicon.md:
every chip as fitted and with its own figures left out. Ends with step times of built chips beside those of their
profiles, and with what is outside its published range.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from absl import app

from coopt.cost import estimate
from coopt.cost.silicon import build, silicon
from coopt.fit.silicon import FIGURES, PRIORS, Known, fit, known, left_out
from coopt.ops import count
from coopt.spec import load
from coopt.spec.nouns import training
from coopt.spec.process import design, process
from coopt.spec.silicon import Process
from coopt.tree import replace

PROFILES = {"a100": "dgx-a100", "h100": "dgx-h100", "b200": "gb200-nvl72", "tpu-v4": "tpu-v4", "tpu-v5p": "tpu-v5p"}
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


def built(fitted: Process) -> list[str]:
    """Step times of llama3-70b on built chips over those on their profiles, each family's own fit."""
    model, lines = load.model("llama3-70b"), []
    for name, system in PROFILES.items():
        machine = load.resolve(system, chips=1152)
        cut, _ = load.layout("tp=8,pp=4,precision=bf16", hardware=machine, model=model)
        ops = count(model, replace(cut, dp=32.0, fsdp=32.0), training(8192.0, 512.0))
        ratio = estimate(ops, build(design(name, fitted), fitted)).step_time / estimate(ops, machine).step_time
        lines.append(f"{name} {float(ratio):.2f}")
    return lines


def main(_) -> None:
    start = process()
    chips = known(start)
    fitted = fit(start, chips)
    for name, (prior, spread) in PRIORS.items():
        section, field = name.split(".")
        print(f"{name:20} {getattr(getattr(fitted, section), field):10.4g}   prior {prior:.4g}, sigma {spread:g}")
    lines, outside = table(chips, left_out(start, chips), fitted)
    print("\n" + "\n".join(lines) + "\n")
    print(f"step time of a built chip over its profile's: {', '.join(built(fitted))}")
    print("left out and outside: " + ("; ".join(outside) or "none"))


if __name__ == "__main__":
    app.run(main)
