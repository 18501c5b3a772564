"""Times one transformer layer on this machine, forward and backward, in a child process.

    python scripts/measure_block.py --d_model=256 --heads=4 --d_ff=1024 --seq_len=256 --micro_batch=4

About 5 s on two CPU cores, most of it imports and compilation. It prints a line a phase, such as

    forward            15.13 ms  [14.75, 15.37]     116.6 GFLOP/s  spread 1.9%
    forward_backward   48.02 ms  [47.10, 49.33]     110.5 GFLOP/s  spread 2.2%

With `--target=cpu:8 --tp=2 --dp=4 --fsdp=4` it compiles the sharded layer for eight fake devices, checks it against
one device in float64, and lists the collectives instead.
"""

import collections

from absl import app, flags

from coopt import workers
from coopt.measure.jobs import block_job
from coopt.problems import Refused
from coopt.spec.nouns import PRECISIONS, RECOMPUTE, LayerKind, Layout, Model

D_MODEL = flags.DEFINE_integer("d_model", 256, "width of the model")
HEADS = flags.DEFINE_integer("heads", 4, "attention heads")
KV_HEADS = flags.DEFINE_integer("kv_heads", 0, "key and value heads; 0: as many as heads")
D_FF = flags.DEFINE_integer("d_ff", 1024, "feed-forward width")
GATED = flags.DEFINE_bool("gated", True, "three matrices (SwiGLU) instead of two")
SEQ_LEN = flags.DEFINE_integer("seq_len", 256, "tokens a sequence")
MICRO_BATCH = flags.DEFINE_integer("micro_batch", 4, "sequences a replica")
PRECISION = flags.DEFINE_enum("precision", "fp32", list(PRECISIONS), "recipe")
RECOMPUTED = flags.DEFINE_enum("recompute", "none", RECOMPUTE, "what the backward pass computes again")
TP = flags.DEFINE_integer("tp", 1, "tensor parallel chips")
DP = flags.DEFINE_integer("dp", 1, "data parallel chips")
FSDP = flags.DEFINE_integer("fsdp", 1, "of which share the weights")
TARGET = flags.DEFINE_string("target", "local", "local, cpu:N, tpu:CHIP:AxBxC")
BUDGET = flags.DEFINE_float("budget_s", 2.0, "seconds of timing")
DEADLINE = flags.DEFINE_float("deadline_s", 300.0, "seconds after which the child is killed")


def job() -> dict:
    """The job that the flags describe."""
    kind = LayerKind(
        count=1.0,
        heads=float(HEADS.value),
        kv_heads=float(KV_HEADS.value or HEADS.value),
        head_dim=D_MODEL.value / HEADS.value,
        d_ff=float(D_FF.value),
        gated=float(GATED.value),
    )
    layout = Layout(
        tp=float(TP.value),
        dp=float(DP.value),
        fsdp=float(FSDP.value),
        zero=3.0 if FSDP.value > 1 else 1.0,
        micro_batch=float(MICRO_BATCH.value),
        recompute=float(RECOMPUTE.index(RECOMPUTED.value)),
        precision=PRECISIONS[PRECISION.value],
    )
    model = Model(d_model=float(D_MODEL.value), vocab=512.0, kinds=(kind,))
    budget = BUDGET.value if TP.value * DP.value == 1 else 0.0
    return block_job(model, layout, seq_len=SEQ_LEN.value, target=TARGET.value, budget_s=budget)


def tell(answer: dict) -> None:
    """Prints a measurement."""
    print(f"{answer['name']}: {answer['parameters']:,} parameters, {answer['tokens']:,} tokens, on {answer['device']}")
    for name, phase in answer["phases"].items():
        if phase.get("time") is not None and "flops" in phase:
            rate = phase["flops"] / phase["time"] / 1e9 if phase["flops"] else float("nan")
            span = f"[{phase['low'] * 1e3:.2f}, {phase['high'] * 1e3:.2f}]"
            print(f"{name:17} {phase['time'] * 1e3:7.2f} ms  {span:18} {rate:7.1f} GFLOP/s  ", end="")
            print(f"spread {phase['spread']:.1%}  {' '.join(phase['flags'])}")
        for (kind, size), count in collections.Counter(
            (c["kind"], c["size"]) for c in phase.get("collectives", [])
        ).items():
            print(f"{name:17} {count:3} {kind} over {size} chips")
    if "check" in answer:
        print(f"largest difference from {answer['check']['reference']}: {answer['check']['worst']:.2g} of the norm")


def main(_: list[str]) -> None:
    """Measures, in a child."""
    with workers.process(preload=("coopt.measure.job",)) as executor:
        try:
            outcome = workers.run("coopt.measure.job:run_job", job(), deadline_s=DEADLINE.value, executor=executor)
        except Refused as refused:
            raise SystemExit(str(refused)) from None
    print(f"{outcome.status}: {outcome.message}" if outcome.message else outcome.status)
    if outcome.result:
        tell(outcome.result)


if __name__ == "__main__":
    app.run(main)
