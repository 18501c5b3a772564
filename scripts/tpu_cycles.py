"""Times the published single-slice TPU steps by their compiler, with no TPU, and scores every rule against them.

    python scripts/tpu_cycles.py                      # rows not yet in measurements/tpu_cycles.csv, then the scores
    python scripts/tpu_cycles.py --rows=maxtext-031   # these again
    python scripts/tpu_cycles.py --published          # with the flags of measurements/tpu_flags.yaml
    python scripts/tpu_cycles.py --score              # the scores alone

Needs Python 3.12 and `pip install 'coopt[tpu]'`. A row is 1 to 3 minutes on two quiet cores and at most 1.7 GB; each
is written when it is done, so that a run that was stopped goes on. A step with tensor parallelism is compiled with its
residual stream cut along its width, as MaxText's source has it, and along the sequence. Nothing is fitted: the rules
know cycles, FLOPs and bytes, and no measured time. Prints a line a row, then mean and worst error, bias and Kendall's
tau of each rule, of FLOPs over peak times one constant, and of the multi-slice rows, where `estimate` adds the
data-centre network.
"""

import csv
import os
import time
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np
import yaml
from absl import app, flags

from coopt import workers
from coopt.fit import rows
from coopt.measure import kept
from coopt.measure.jobs import step_job
from coopt.measure.statistics import kendall_tau
from coopt.study.given import bench
from coopt.study.scored import tables
from coopt.study.scored.evidence import measurements
from coopt.study.timed import cycles
from coopt.study.timed.targets import TEXTS
from coopt.tree import replace

ROWS = flags.DEFINE_list("rows", [], "ids of rows to compile anew")
CUTS = flags.DEFINE_list("cuts", ["width", "sequence"], "how steps with tensor parallelism cut their residual stream")
PUBLISHED = flags.DEFINE_bool("published", False, "compile with the flags that a row's source gives")
SCORE = flags.DEFINE_bool("score", False, "compile nothing")
TEXT_FOLDER = flags.DEFINE_string("texts", os.path.expanduser(TEXTS), "where compiled texts are kept")
DEADLINE = flags.DEFINE_float("deadline_s", 3600.0, "seconds after which a row is given up")

SLICES = {  # the real topologies of the published slices, by chip and chips
    ("tpu-v5e", 256): "tpu:v5e:16x16",
    ("tpu-v5p", 4): "tpu:v5p:2x2x1",
    ("tpu-v5p", 64): "tpu:v5p:4x4x4",
    ("tpu-v5p", 128): "tpu:v5p:4x4x8",
    ("tpu-v5p", 256): "tpu:v5p:4x8x8",
    ("tpu-v5p", 512): "tpu:v5p:8x8x8",
    ("tpu-v5p", 1024): "tpu:v5p:8x8x16",
    ("tpu-v5p", 2048): "tpu:v5p:8x16x16",
}
# What a row's `offload` stands for: of maxtext-025 every product of weights is kept on the host. Of the others it is a
# tensor or two of a layer, the rest computed again, which is nearer to computing everything again.
OFFLOADED = {"maxtext-025": {"recompute": 1.0}}
# What a row leaves to the recipe that its source links to (tpu-recipes, training/v5p/Mixtral-8X7B-Maxtext): sequences a
# device, and MaxText's defaults. Its source says "256 chips (8x4x4)", which are 128; tokens a second a chip are scored.
RECIPES = {
    "maxtext-054": {"n_chips": "128", "scaleup_domain": "128", "global_batch": "4608", "micro_batch": "36", "tp": "1",
                    "pp": "1", "cp": "1", "ep": "1", "dp": "128", "recompute_kind": "full", "scorable": "yes"},
}  # fmt: skip
Table = dict[tuple[str, str, str], dict[str, str]]
FIELDS = (
    "id kind flags cut target measured raw alone streams matmul attention experts other collective hidden flops ideal "
    "fusions replaced streamed unread memory compile_s resident jax libtpu digest date"
).split()


def table_file() -> Path:
    """What this script writes: the parts of each row's time, by rule, with where they come from."""
    return measurements().with_name("tpu_cycles.csv")


def done() -> Table:
    """The rows that are written, by id, flags (default or published) and cut (width, sequence or none)."""
    if not table_file().exists():
        return {}
    with table_file().open(newline="") as file:
        return {(row["id"], row["flags"], row["cut"]): row for row in csv.DictReader(file)}


def faster(told: Table, *, flags: str, cuts: Sequence[str] = ("width", "sequence")) -> dict[str, dict[str, str]]:
    """Of each step with these flags the row of the faster cut, by id."""
    found: dict[str, dict[str, str]] = {}
    for (name, how, cut), row in told.items():
        if how == flags and cut in (*cuts, "none"):
            found[name] = min(found.get(name, row), row, key=lambda one: float(one["streams"]))
    return found


def published() -> dict[str, str]:
    """The flags of each row's source: without those that are refused today, and with what takes their place."""
    steps = yaml.safe_load(measurements().with_name("tpu_flags.yaml").read_text())["steps"]
    found = {}
    for one in steps:
        options = {
            name: value for name, value in kept.options(one["flags"]).items() if name not in one.get("refused", ())
        }
        options |= kept.options(one.get("instead", ""))
        found |= dict.fromkeys(one["rows"], " ".join(f"--{name}={value}" for name, value in options.items()))
    return found


def designs() -> dict[str, rows.Design]:
    """The published steps on v5e and v5p that give all their inputs, or leave them to a recipe, by id."""
    table = [row | RECIPES.get(row["id"], {}) for row in rows.read(measurements())]
    found, _ = tables.designs([row for row in table if row["chip"] in ("tpu-v5e", "tpu-v5p")])
    return {one.row["id"]: one for _, one in found}


def slice_of(one: rows.Design) -> str:
    """The target of a row's slice."""
    return SLICES[one.row["chip"], int(one.row["scaleup_domain"])]


def single(one: rows.Design) -> bool:
    """True where the whole job is one slice."""
    return int(one.row["n_chips"]) == int(one.row["scaleup_domain"])


def kind(one: rows.Design) -> str:
    """`dense` (in bfloat16), `mixture`, or a number format: of the last two other programs were published."""
    if any(kind.feedforward == "moe" for kind in one.model.kinds):
        return "mixture"
    return "dense" if one.layout.precision.name == "bf16" else one.layout.precision.name


def timed(one: rows.Design, executor, *, flags: str, cut: str) -> dict[str, str]:
    """A row of the table: the step compiled for its slice with these flags, priced by every rule."""
    layout = replace(one.layout, sp=float(cut == "sequence"), **OFFLOADED.get(one.row["id"], {"offload": 0.0}))
    seq_len = int(one.workload.train.seq_len)
    job = step_job(one.model, layout, seq_len=seq_len, target=slice_of(one), texts=TEXT_FOLDER.value, flags=flags)
    outcome = executor.run(workers.Job(bench.JOB, job, DEADLINE.value))
    if not outcome.ok:
        raise SystemExit(f"{one.row['id']}: {outcome.status} {outcome.message[:400]}")
    answer = outcome.result
    schedule = answer["schedule"]
    rates, ideal = (
        cycles.rates(one.row["chip"], devices_a_chip=schedule["devices_a_chip"], precision=name)
        for name in ("bf16", one.layout.precision.name)
    )
    by = {rule: cycles.price(schedule, rates, rule=rule) for rule in cycles.RULES}
    best = by["streams"]
    numbers = {
        "measured": rows.measured_step_time(one.row),
        **{rule: priced.time for rule, priced in by.items()},
        **best.parts,
        "hidden": best.hidden,
        "flops": best.flops,
        "ideal": best.flops / ideal.peak,
        "memory": answer["memory"]["total"],
        "compile_s": answer["compile_s"],
        "resident": answer["resident"],
    }
    return {
        "id": one.row["id"],
        "kind": kind(one),
        "flags": "published" if flags else "default",
        "cut": cut,
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


def write(told: Table) -> None:
    """The table in the order of ids, whole or not at all."""
    new = table_file().with_suffix(".new")
    with new.open("w", newline="") as file:
        writer = csv.DictWriter(file, FIELDS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(told[key] for key in sorted(told))
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
    names = [name for name in sorted(told) if name in every]
    measured = np.array([float(told[name]["measured"]) for name in names])
    for name in names:
        row = told[name]
        errors = "  ".join(
            f"{rule} {float(row[rule]):7.2f} {float(row[rule]) / float(row['measured']) - 1:+6.1%}"
            for rule in cycles.RULES
        )
        print(f"{name}  measured {float(row['measured']):7.2f}  {errors}  ideal {float(row['ideal']):6.2f}")
    dense = np.array([told[name]["kind"] == "dense" for name in names])
    for rule in cycles.RULES:
        predicted = np.array([float(told[name][rule]) for name in names])
        print(said(f"{rule}, dense", predicted[dense], measured[dense]))
        if not np.all(dense):
            print(said(f"{rule}, every row", predicted, measured))
    ideal = np.array([float(told[name]["ideal"]) for name in names])[dense]
    constant = ideal * np.exp(np.mean(np.log(measured[dense] / ideal)))
    print(said("FLOPs/peak x one constant", constant, measured[dense]))
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
    how, given = ("published", published()) if PUBLISHED.value else ("default", dict.fromkeys(every, ""))
    names = ROWS.value or [name for name, one in every.items() if single(one) and name in given]
    wanted = [(name, how, cut) for name in names for cut in (CUTS.value if every[name].layout.tp > 1 else ["none"])]
    wanted = [] if SCORE.value else [key for key in wanted if ROWS.value or key not in told]
    with workers.process(preload=bench.PRELOAD) as executor:
        for key in wanted:
            name, started = key[0], time.monotonic()
            row = told[key] = timed(every[name], executor, flags=given[name], cut=key[2])
            write(told)
            print(f"{name}  {row['streams']} s, measured {row['measured']} s", end="")
            print(f"  in {time.monotonic() - started:.0f} s", flush=True)
    default = faster(told, flags="default")
    for title, chosen in (
        ("default flags, the faster cut", default),
        ("default flags, along the width", faster(told, flags="default", cuts=["width"])),
        ("default flags, along the sequence", faster(told, flags="default", cuts=["sequence"])),
        ("published flags where a source gives any, the faster cut", default | faster(told, flags="published")),
    ):
        print(f"\n{title}")
        score(chosen, every)


if __name__ == "__main__":
    app.run(main)
