"""Writes today's predictions of machines with few or no published steps into docs/ledger/, before anybody measures.

    python scripts/ledger.py                            # a few seconds; a new file, docs/ledger/<today>.csv
    python scripts/ledger.py --cycles=tpu-v6e,tpu-v7x   # minutes, with Python 3.12 and libtpu: a file for each machine,
        # docs/ledger/<today>-<machine>.csv, of a step compiled for a slice and timed by the compiler's cycles

A file that is in git is never written again: see docs/ledger/README.md.
"""

import csv
import datetime
import math
from pathlib import Path

import jax
from absl import app, flags

from coopt.commands.parse import parse as typed
from coopt.cost.quality import Z90
from coopt.study.scored import ledger
from coopt.study.timed import timing

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


# model, machine, chips, its slice, sequences a device, tokens a sequence
STEPS = (
    ("llama2-70b", "tpu-v6e", 256, "tpu:v6e:16x16", 2, 4096),
    ("llama3-70b", "tpu-v7x", 64, "tpu:7x:4x4x4", 1, 8192),
)
KNOWN = {  # said beside a prediction of what somebody did measure
    "tpu-v6e": "MaxText's page of tuned models (docs/reference/models/tiering.md) gives about 900 tokens/s a chip for "
    "this model, slice and length with a program of its own; it was seen before this was written, and no rule uses it",
}
CYCLES = flags.DEFINE_list("cycles", [], "machines of STEPS whose step the compiler times")
SCORES = LEDGER.parents[1] / "measurements" / "tpu_cycles.csv"


def compiled(asked: tuple, date: str) -> dict[str, str]:
    """A line for one of STEPS: the step compiled for its slice, timed by the rule that v5e and v5p were scored by."""
    model, machine, chips, slice_, sequences, tokens = asked
    with SCORES.open(newline="") as file:
        scored = [row for row in csv.DictReader(file) if (row["flags"], row["kind"]) == ("default", "dense")]
    miss = [math.log(float(row["streams"]) / float(row["measured"])) for row in scored]
    sigma = math.sqrt(sum(one * one for one in miss) / len(miss))
    width = math.exp(2.0 * Z90 * sigma)
    words = [f"--model={model}", f"--on={slice_}", f"--seq_len={tokens}", f"--layout=micro_batch={sequences}"]
    document = timing.measure(typed(["measure", "--part=step", "--block_seconds=3600", *words]))
    (block,) = document["blocks"]
    if block["outcome"] != "ok":
        raise SystemExit(f"{model} on {slice_}: {block['outcome']} {block['message']}")
    time = block["phases"]["step"]["time"]
    devices = int(block["chips"])
    design = ledger.parse(
        f"{model}@{machine}:{chips}/micro_batch={sequences * devices // chips}",
        seq_len=float(tokens), global_batch=sequences * devices, stack="maxtext",
    )  # fmt: skip
    said = (
        f"the step compiled by XLA:TPU for {slice_} (module {block['digest'][:12]}), cycles over the clock by the "
        f"rule streams of docs/machines-you-do-not-have.md",
        f"the rule is off by {sigma:.1%} (root mean square of the logarithm, {len(miss)} steps on v5e and v5p); on "
        f"{machine} it was never compared, and the interval is twice as wide",
        *([KNOWN[machine]] if machine in KNOWN else []),
        *document["assumed"],
    )
    timed = ledger.Timed(time, time / width, time * width, by="compiler cycles", said=said)
    return ledger.line(design, date=date, timed=timed)


def questions() -> list[tuple[str, int]]:
    return [
        (f"{model}@{machine}:{(small, large)[which]}/{layout},precision={precision}", batch)
        for machine, small, large, low in MACHINES
        for model, which, layout, batch in MODELS
        for precision in ("bf16", low)
    ]


def main(_):
    jax.config.update("jax_enable_x64", True)
    date = datetime.date.today().isoformat()
    if not CYCLES.value:
        path = ledger.write(LEDGER, questions(), date=date)
        print(f"{path.name}: {len(questions())} predictions")
        return
    for asked in (one for one in STEPS if one[1] in CYCLES.value):
        told = compiled(asked, date)
        path = ledger.keep(LEDGER / f"{date}-{asked[1]}.csv", [told])
        print(f"{path.name}: {told['step_time']} s ({told['low']} to {told['high']}), MFU {told['mfu']}", flush=True)


if __name__ == "__main__":
    app.run(main)
