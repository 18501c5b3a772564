"""Writes today's predictions of machines with few or no published steps into docs/ledger/, before anybody measures.

    python scripts/ledger.py          # a few seconds; a new file, docs/ledger/<today>.csv, and its digest

A file that is in git is never written again: see docs/ledger/README.md.
"""

import datetime
from pathlib import Path

import jax
from absl import app

from coopt.study.ledger import write

LEDGER = Path(__file__).resolve().parents[1] / "docs" / "ledger"
# machine, chips for the small and for the large models, eight- or four-bit recipe
MACHINES = (
    ("gb300-nvl72", 64, 512, "mxfp8"),
    ("tpu-v7x", 128, 1024, "fp8"),
    ("mi355x-8", 64, 512, "fp8"),
    ("vr-nvl72", 64, 512, "mxfp8"),
    ("helios", 64, 512, "mxfp8"),
    ("trn3-ultraserver", 128, 1024, "mxfp8"),
)
# model, which chips, layout, sequences a step
MODELS = (
    ("llama3-8b", 0, "micro_batch=1", 256),
    ("llama3-70b", 0, "tp=8", 256),
    ("llama3.1-405b", 1, "tp=8,pp=8", 1024),
    ("deepseek-v3", 1, "pp=8,ep=64,recompute=full", 2048),
)


def questions() -> list[tuple[str, int]]:
    return [
        (f"{model}@{machine}:{(small, large)[which]}/{layout},precision={precision}", batch)
        for machine, small, large, low in MACHINES
        for model, which, layout, batch in MODELS
        for precision in ("bf16", low)
    ]


def main(_):
    jax.config.update("jax_enable_x64", True)
    path = write(LEDGER, questions(), date=datetime.date.today().isoformat())
    print(f"{path.name}: {len(questions())} predictions")


if __name__ == "__main__":
    app.run(main)
