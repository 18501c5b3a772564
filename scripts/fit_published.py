"""Fits the constants of chip families and software stacks to the published steps in measurements/training.csv.

    python scripts/fit_published.py            # about a minute on two cores; rewrites hw_profiles/{families,stacks}
    python scripts/fit_published.py --dry      # prints and writes nothing

`coopt fit` over the table that ships; prints the score of the fit on all rows, and of five folds held out by source
and model.
"""

import datetime
from pathlib import Path

import jax
from absl import app, flags

from coopt.study.scored.evidence import measurements
from coopt.study.scored.published import fit

DRY = flags.DEFINE_bool("dry", False, "print, and write nothing")
DATE = flags.DEFINE_string("date", datetime.date.today().isoformat(), "the date that the files give for the fit")
PROFILES = Path(__file__).resolve().parents[1] / "hw_profiles"


def main(_):
    jax.config.update("jax_enable_x64", True)
    told = fit(measurements(), out=None if DRY.value else PROFILES, date=DATE.value)
    for name, said in told["blocks"].items():
        print(f"# {name}\n{said}")
    for name, key in (("all rows", "after"), ("five folds", "left_out")):
        score = told[key]
        print(
            f"{name}: MAPE {score['mape']:.3f} median {score['median_ape']:.3f} bias {score['bias']:+.3f}; macro "
            f"{score['macro_mape']:.3f} bias {score['macro_bias']:+.3f} worst {score['macro_worst_mape']:.3f} "
            f"{score['macro_worst']}"
        )


if __name__ == "__main__":
    app.run(main)
