"""A worked study: what to hold a bought chip's power to, and which chip to order instead.

    python scripts/order_a_chip.py
    python scripts/order_a_chip.py --small

A few minutes on two quiet cores (`--small`: half a minute; one future, a small model). Prints, of GB200 racks
that train llama3-70b, step time, energy and tokens a megawatt under power caps, with the cap that is best at either end
of what is known of such a chip's watts; then what `coopt codesign` says, in its tables; then the questions that an
answer has to stand: what it is at the end of, what it owes to the seller's margin, what the vendor could sell itself.
Expected: the best cap lies between 740 and 1,200 W (operators hold them to about 960); the chip to order is several
dies of N2 with several times the 16-bit rate of a B200 at two to three times its watts; about a fifth of its gain is
margin.
"""

from __future__ import annotations

import numpy as np
from absl import app, flags

from coopt.cost import estimate
from coopt.cost.operate import clock_at, operate
from coopt.ops import count
from coopt.report.tables import table
from coopt.spec import load, process
from coopt.spec.nouns import training
from coopt.study.chips.codesign import codesign
from coopt.study.chips.question import Question
from coopt.tree import replace

SMALL = flags.DEFINE_bool("small", False, "a small model, one future, few designs")
CAPS = (700.0, 800.0, 900.0, 960.0, 1000.0, 1100.0, 1200.0)


def caps() -> list[str]:
    """A table of caps, and the best of them at either end of what is known of such a chip."""
    machine, model = load.resolve("gb200-nvl72", chips=1152), load.model("llama3-70b")
    cut, _ = load.layout("tp=2,pp=4", hardware=machine, model=model)
    ops = count(model, cut, training(8192.0, 1152.0))
    curve = process.operating()
    lines = [f"{'W':>6} {'clock':>6} {'step':>8} {'J/token':>8} {'chips/MW':>9} {'tokens/MW':>10}"]
    middle = replace(machine, **{name: value[0] for name, value in curve.items()})
    rated = estimate(ops, middle).step_time * middle.watts_all_in
    for cap in CAPS:
        held = operate(middle, cap)
        cost = estimate(ops, held)
        gain = float(rated / (cost.step_time * held.watts_all_in)) - 1.0
        lines.append(
            f"{cap:6.0f} {float(clock_at(middle, cap / middle.watts)):6.0%} {float(cost.step_time):6.2f} s "
            f"{float(cost.joules / ops.tokens):8.3f} {1e6 / float(held.watts_all_in):9.0f} {gain:+10.1%}"
        )
    best = []
    for pick in (1, 2):
        some = replace(machine, **{name: value[pick] for name, value in curve.items()})
        fine = np.arange(600.0, 1201.0, 20.0)
        held = operate(some, fine)
        best.append(float(fine[np.argmin(estimate(ops, held).step_time * held.watts_all_in)]))
    return [*lines, f"the cap with the most tokens a megawatt: from {min(best):.0f} to {max(best):.0f} W"]


def main(_) -> None:
    print("\n".join(caps()))
    small = Question(model="llama3-8b", chips=32, batch=32.0, mix={"today": 1.0}, precision=("bf16", "fp8"))
    document = codesign(small if SMALL.value else Question())
    print("\n" + table(document))
    answer, steps = document["chips"][document["chosen"]], {s["step"]: s for s in document["steps"]}
    sold = steps["the answer, if the vendor sold it"]["value"]
    margin = np.log(steps["ordered at a partner's margin"]["ratio"]) / -np.log(document["gain"])
    print(f"\nat the end of their choices: {', '.join(answer['at_ends']) or 'nothing'}")
    print(f"share of the gain that is a seller's margin: {margin:.0%}")
    gain = steps["bought"]["value"] / sold
    print(f"the answer sold at the vendor's margin: {gain:.2f} times the work a dollar")


if __name__ == "__main__":
    app.run(main)
