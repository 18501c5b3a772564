"""Prices every published row by constants fitted without its fold, its chip and its family of chips.

    python scripts/held_out.py          # about four minutes on two cores; writes measurements/held_out.{csv,yaml}

Run it after scripts/fit_published.py: `coopt validate` and docs/agreement.md take their held-out columns from here,
and so does the interval of a prediction on a chip that was never measured.
"""

import datetime

import jax
from absl import app

from coopt import __version__
from coopt.study.scored import heldout


def main(_):
    jax.config.update("jax_enable_x64", True)
    table = heldout.folder() / "training.csv"
    told = heldout.compute(table, heldout.folder() / "priors.yaml")
    heldout.write(table, told, date=datetime.date.today().isoformat(), version=__version__)
    said = heldout.known()
    for kind in ("chip", "family"):
        print(f"left out by {kind}: {said[kind]}")
        for whose, errors in said[f"by_{kind}"].items():
            print(f"  {whose}: {errors}")


if __name__ == "__main__":
    app.run(main)
