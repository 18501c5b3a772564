"""Searches against the cost model: where does it disagree most with what must be true?

    python scripts/adversary.py
    python scripts/adversary.py --model=gpt3-175b --hardware=dgx-a100 --out=worst.json

Two witnesses that share nothing with the model: a floor of float64 maxima (FLOPs at the peak, bytes that cannot be
cached, gradients over the fastest link) that no step may undercut, and a replay of the pipeline event by event. Takes
a minute on 2 cores. Prints the worst of each kind; a factor below 1 at the floor would be a flaw. `--out` writes them
as tests/data/adversary.json has them: CI holds the model to being no worse.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from absl import app, flags

from coopt.search.adversary import corners, worst
from coopt.search.space import Space, digits, settings
from coopt.spec import load

MODEL = flags.DEFINE_string("model", "llama3-70b", "a model's name or file")
HARDWARE = flags.DEFINE_string("hardware", "dgx-h100", "a system's name or file")
CHIPS = flags.DEFINE_integer("chips", 512, "how many chips")
KEEP = flags.DEFINE_integer("keep", 5, "candidates of each kind")
REPLAYS = flags.DEFINE_integer("replays", 400, "pipelines replayed")
SEED = flags.DEFINE_integer("seed", 0, "seed of the search")
OUT = flags.DEFINE_string("out", None, "the file to write")


def rows(space: Space, index: int) -> list[np.ndarray]:
    """The choices of a candidate, one row an axis."""
    return [axis.values[digit] for axis, digit in zip(space.axes, digits(space, index), strict=True)]


def main(argv: list[str]) -> None:
    """Prints the worst candidates, and writes them where asked."""
    del argv
    within, hardware = corners(load.model(MODEL.value), CHIPS.value), load.resolve(HARDWARE.value, chips=CHIPS.value)
    cases = []
    for one in worst(within, hardware, keep=KEEP.value, seed=SEED.value, replays=REPLAYS.value):
        said = settings(within, one.index)
        cut = {name.rsplit(".", 1)[-1]: value for name, value in said.items() if "precision" not in name}
        print(f"{one.witness:6} x {one.factor:8.3f}  model {one.model:.4g} s, witness {one.other:.4g} s: "
              + ", ".join(f"{name}={value:g}" if isinstance(value, float) else f"{name}={value}"
                          for name, value in cut.items()))  # fmt: skip
        leaves = {path: float(row[field]) for row, axis in zip(rows(within, one.index), within.axes, strict=True)
                  for field, path in enumerate(axis.paths)}  # fmt: skip
        cases.append({"model": MODEL.value, "hardware": HARDWARE.value, "chips": CHIPS.value, "witness": one.witness,
                      "factor": one.factor, "leaves": leaves})  # fmt: skip
    if OUT.value:
        Path(OUT.value).write_text(json.dumps(cases, indent=1) + "\n")


if __name__ == "__main__":
    app.run(main)
