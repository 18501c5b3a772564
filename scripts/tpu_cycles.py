"""Times the published single-slice TPU steps by their compiler, with no TPU, and scores every rule against them.

    python scripts/tpu_cycles.py                      # rows not yet in measurements/tpu_cycles.csv, then the scores
    python scripts/tpu_cycles.py --rows=maxtext-031   # these again
    python scripts/tpu_cycles.py --score              # the scores alone

Needs Python 3.12 and `pip install 'coopt[tpu]'`. A row is 1 to 3 minutes on two quiet cores and at most 1.7 GB; each
is written when it is done, so that a run that was stopped goes on. Nothing is fitted: the rules know cycles, FLOPs and
bytes, and no measured time. Prints a line a row, then mean and worst error, bias and Kendall's tau of each rule, of
FLOPs over peak times one constant, and of the multi-slice rows, where `estimate` adds the data-centre network.
"""

import csv
import os
import time
from pathlib import Path

import jax
import numpy as np
from absl import app, flags

from coopt import workers
from coopt.fit import rows
from coopt.measure.jobs import step_job
from coopt.measure.statistics import kendall_tau
from coopt.study import bench, cycles, tables
from coopt.study.evidence import measurements
from coopt.study.targets import TEXTS
from coopt.tree import replace

ROWS = flags.DEFINE_list("rows", [], "ids of rows to compile anew")
SCORE = flags.DEFINE_bool("score", False, "compile nothing")
TEXT_FOLDER = flags.DEFINE_string("texts", os.path.expanduser(TEXTS), "where compiled texts are kept")
DEADLINE = flags.DEFINE_float("deadline_s", 3600.0, "seconds after which a row is given up")

SLICES = {  # the real topologies of the published slices, by chip and chips
    ("tpu-v5e", 256): "tpu:v5e:16x16",
    ("tpu-v5p", 64): "tpu:v5p:4x4x4",
    ("tpu-v5p", 128): "tpu:v5p:4x4x8",
    ("tpu-v5p", 256): "tpu:v5p:4x8x8",
    ("tpu-v5p", 512): "tpu:v5p:8x8x8",
    ("tpu-v5p", 1024): "tpu:v5p:8x8x16",
    ("tpu-v5p", 2048): "tpu:v5p:8x16x16",
}
# "context+mlpwo offload": two tensors of a layer kept on the host and the rest computed again, which is nearer to
# recomputing all than to keeping every product.
NEAREST = {"tpur-021": {"offload": 0.0}}
FIELDS = (
    "id target measured raw alone streams matmul attention other collective hidden flops ideal fusions replaced "
    "streamed unread memory compile_s resident jax libtpu digest date"
).split()


def table_file() -> Path:
    """What this script writes: the parts of each row's time, by rule, with where they come from."""
    return measurements().with_name("tpu_cycles.csv")


def done() -> dict[str, dict[str, str]]:
    """The rows that are written, by id."""
    if not table_file().exists():
        return {}
    with table_file().open(newline="") as file:
        return {row["id"]: row for row in csv.DictReader(file)}


def designs() -> dict[str, rows.Design]:
    """The published dense steps in 16 bits on v5e and v5p that give all their inputs, by id."""
    chips = ("tpu-v5e", "tpu-v5p")
    table = [row for row in rows.read(measurements()) if row["chip"] in chips and row["precision"] == "bf16"]
    found, _ = tables.designs(table)
    return {one.row["id"]: one for _, one in found if [k.feedforward for k in one.model.kinds] == ["dense"]}


def slice_of(one: rows.Design) -> str:
    """The target of a row's slice."""
    return SLICES[one.row["chip"], int(one.row["scaleup_domain"])]


def single(one: rows.Design) -> bool:
    """True where the whole job is one slice."""
    return int(one.row["n_chips"]) == int(one.row["scaleup_domain"])


def timed(one: rows.Design, executor) -> dict[str, str]:
    """A row of the table: the step compiled for its slice, priced by every rule."""
    # The stack cuts the residual stream over the tensor axis; along the sequence that is as many bytes.
    layout = replace(one.layout, sp=float(one.layout.tp > 1), **NEAREST.get(one.row["id"], {}))
    seq_len = int(one.workload.train.seq_len)
    job = step_job(one.model, layout, seq_len=seq_len, target=slice_of(one), texts=TEXT_FOLDER.value)
    outcome = executor.run(workers.Job(bench.JOB, job, DEADLINE.value))
    if not outcome.ok:
        raise SystemExit(f"{one.row['id']}: {outcome.status} {outcome.message[:400]}")
    answer = outcome.result
    schedule = answer["schedule"]
    rates = cycles.rates(one.row["chip"], devices_a_chip=schedule["devices_a_chip"])
    by = {rule: cycles.price(schedule, rates, rule=rule) for rule in cycles.RULES}
    best = by["streams"]
    numbers = {
        "measured": rows.measured_step_time(one.row),
        **{rule: priced.time for rule, priced in by.items()},
        **best.parts,
        "hidden": best.hidden,
        "flops": best.flops,
        "ideal": best.flops / rates.peak,
        "memory": answer["memory"]["total"],
        "compile_s": answer["compile_s"],
        "resident": answer["resident"],
    }
    return {
        "id": one.row["id"],
        "target": answer["target"],
        **{name: f"{value:.6g}" for name, value in numbers.items()},
        "fusions": str(best.fusions),
        "replaced": str(by["alone"].replaced),
        "streamed": str(best.replaced - by["alone"].replaced),
        "unread": str(len(schedule["unread"])),
        "jax": answer["versions"]["jax"],
        "libtpu": answer["libtpu"],
        "digest": answer["digest"],
        "date": time.strftime("%Y-%m-%d"),
    }


def write(told: dict[str, dict[str, str]]) -> None:
    """The table in the order of ids, whole or not at all."""
    new = table_file().with_suffix(".new")
    with new.open("w", newline="") as file:
        writer = csv.DictWriter(file, FIELDS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(told[name] for name in sorted(told))
    new.replace(table_file())


def said(name: str, predicted: np.ndarray, measured: np.ndarray) -> str:
    """Mean, worst and bias of relative errors, and how alike the orders are."""
    miss = predicted / measured - 1.0
    tau, ratio = kendall_tau(predicted, measured), measured / predicted
    return (
        f"{name:<26} {len(miss):3d} rows  mean {np.mean(np.abs(miss)):6.1%}  worst {np.max(np.abs(miss)):6.1%}  "
        f"bias {np.mean(miss):+6.1%}  tau {tau:.3f}  spread {np.std(ratio) / np.mean(ratio):.1%}"
    )


def score(told: dict[str, dict[str, str]], every: dict[str, rows.Design]) -> None:
    """Prints the scores of the rules on single slices, and of the chosen one on several."""
    names = [name for name in told if name in every]
    measured = np.array([float(told[name]["measured"]) for name in names])
    for name in names:
        row = told[name]
        errors = "  ".join(
            f"{rule} {float(row[rule]):7.2f} {float(row[rule]) / float(row['measured']) - 1:+6.1%}"
            for rule in cycles.RULES
        )
        print(f"{name}  measured {float(row['measured']):7.2f}  {errors}  ideal {float(row['ideal']):6.2f}")
    for rule in cycles.RULES:
        print(said(rule, np.array([float(told[name][rule]) for name in names]), measured))
    ideal = np.array([float(told[name]["ideal"]) for name in names])
    print(said("FLOPs/peak x one constant", ideal * np.exp(np.mean(np.log(measured / ideal))), measured))
    base = {(every[name].row["model"], slice_of(every[name])): name for name in names}
    several = [one for one in every.values() if not single(one) and (one.row["model"], slice_of(one)) in base]
    if not several:
        return
    alone = [base[one.row["model"], slice_of(one)] for one in several]
    estimates = [(0, one) for one in (*several, *(every[name] for name in alone))]
    predicted, _, _ = tables.price(estimates)
    network = predicted[: len(several)] - predicted[len(several) :]
    added = np.array([float(told[name]["streams"]) for name in alone]) + network
    print(said("several slices", added, np.array([rows.measured_step_time(one.row) for one in several])))


def main(_):
    jax.config.update("jax_enable_x64", True)
    every, told = designs(), done()
    wanted = [] if SCORE.value else ROWS.value or [n for n, one in every.items() if single(one) and n not in told]
    with workers.process(preload=bench.PRELOAD) as executor:
        for name in wanted:
            started = time.monotonic()
            told[name] = timed(every[name], executor)
            write(told)
            print(f"{name}  {told[name]['streams']} s, measured {told[name]['measured']} s", end="")
            print(f"  in {time.monotonic() - started:.0f} s", flush=True)
    score(told, every)


if __name__ == "__main__":
    app.run(main)
