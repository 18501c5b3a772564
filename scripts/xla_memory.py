"""Counted memory of whole training steps against what the real XLA:TPU compiler gives each device, with no TPU.

    python scripts/xla_memory.py            # compiles the rows of measurements/xla_memory.csv that have no total yet
    python scripts/xla_memory.py --score    # the scores alone

Compiling needs Python 3.12 and `pip install 'coopt[tpu]'`, one to three minutes a row on two quiet cores; each row is
written when it is done. A row is a step as `coopt measure --part=step` compiles it: embedding, `layers` layers in a
scan, head, loss, AdamW on float32 weights. Prints a line a row, how many are within 10%, and, over every row and the
memory of every chip that ships, how often counting says rightly whether it fits. Rows of published runs (maxtext-*,
tpur-*) hold the totals of measurements/tpu_cycles.csv, cut along the sequence.
"""

import csv
import time

import jax
import numpy as np
from absl import app, flags

from coopt.measure import topology
from coopt.measure.compile import memory_of, toolchain
from coopt.measure.step import step
from coopt.spec.profiles import hardware_table
from coopt.study.scored import memory
from coopt.study.scored.evidence import measurements

SCORE = flags.DEFINE_bool("score", False, "compile nothing")
GIB = 2.0**30


def compiled(row: dict[str, str]) -> dict[str, str]:
    """The row with what the compiler says of its step, in bytes a device."""
    model, layout, seq_len = memory.step_of(row)
    devices = topology.acquire(row["target"]).devices
    built = step(model, layout, seq_len=seq_len, devices=devices, layers=int(row["layers"]))
    program = jax.jit(built.function, donate_argnums=(0, 1)).lower(*built.arguments).compile()
    found = memory_of(program.memory_analysis())
    parts = {part: f"{found[part]:.0f}" for part in ("arguments", "temporary", "total")}
    tools = toolchain()
    return row | parts | {"jax": tools["jax"], "libtpu": tools["libtpu"], "date": time.strftime("%Y-%m-%d")}


def score(table: list[dict[str, str]]) -> None:
    """Prints every row, then the scores."""
    told = memory.compiled([row for row in table if row["total"]])
    for one in told:
        print(
            f"{one['id']:<12} compiled {one['published']:7.2f} GiB  counted {one['counted']:7.2f}  {one['error']:+6.1%}"
        )
    miss = np.array([one["error"] for one in told])
    rooms = np.unique([row.memory / GIB for row in hardware_table() if row.memory > 0.0])
    fits = np.array([[one["published"] <= rooms, one["counted"] <= rooms] for one in told])
    right = float(np.mean(fits[:, 0] == fits[:, 1]))
    print(f"{len(told)} steps: within 10% {np.sum(np.abs(miss) <= 0.1)}, mean {np.mean(np.abs(miss)):.1%}", end=", ")
    print(f"bias {np.mean(miss):+.1%}; fits or not: right in {right:.1%} of {fits[:, 0].size} pairs")


def main(_):
    """Compiles what is missing, row by row, and scores."""
    jax.config.update("jax_enable_x64", False)
    path = measurements().with_name("xla_memory.csv")
    with path.open(newline="") as file:
        table = list(csv.DictReader(file))
    for number, row in enumerate(table):
        if row["total"] or SCORE.value:
            continue
        started = time.monotonic()
        table[number] = compiled(row)
        with path.with_suffix(".new").open("w", newline="") as file:
            writer = csv.DictWriter(file, list(row), lineterminator="\n")
            writer.writeheader()
            writer.writerows(table)
        path.with_suffix(".new").replace(path)
        print(
            f"{row['id']}: {float(table[number]['total']) / GIB:.2f} GiB in {time.monotonic() - started:.0f} s",
            flush=True,
        )
    score(table)


if __name__ == "__main__":
    app.run(main)
