"""`coopt measure --peers`: one block over the devices of several processes, begun here or by a launcher of many."""

from __future__ import annotations

import socket
from typing import Any

from coopt.measure.jobs import block_job
from coopt.problems import Problem, Refused
from coopt.store.identity import finite
from coopt.study.given import bench, scheduler
from coopt.study.given.designs import of_options
from coopt.study.given.progress import Progress
from coopt.workers import Executor, Job, Outcome
from coopt.workers.lease import hold
from coopt.workers.together import together

PEER = "coopt.measure.peers:run_peer"
LAUNCHED = "auto"  # the peers are there already: srun, mpirun or the runtime of a TPU slice began one a device
SEQ_LEN = 256.0
WAIT = 600.0  # s for whoever times on this host to be done
TOLD = ("rank", "processes", "chips", "time", "times", "flops", "collectives", "norm", "digest")


def measure(options: Any, *, told: Progress) -> dict[str, Any]:
    """Every kind of a model's layers, cut over `--chips` devices (one a peer without it), as its slowest peer ran it.

    Every peer that a launcher began runs the same command and gives the same answer but for its `rank`.
    Raises Refused for peers, devices and layouts that do not go together.
    """
    count = _count(options)
    jobs, assumed = _jobs(options, count)
    deadline, blocks = options.block_seconds or bench.DEADLINE, []
    with bench.opened(True) as executor:
        for number, job in enumerate(jobs):
            told(f"timing a block over {options.peers} peers", number, len(jobs))
            outcome = _one(executor, job, count, int(options.chips or count), deadline)
            record = scheduler.record(outcome)
            answer = record["result"] or {}
            blocks.append({"layer": job["layer"], "outcome": record["status"], "message": record["message"],
                           **scheduler.ended(record),
                           **{name: answer.get(name) for name in TOLD}})  # fmt: skip
    told(f"timing a block over {options.peers} peers", len(jobs), len(jobs))
    return finite({"command": "measure", "peers": options.peers, "blocks": blocks, "assumed": list(assumed),
                   "versions": bench.toolchain()})  # fmt: skip


def _count(options: Any) -> int:
    """How many peers to begin here; 0 where a launcher began them."""
    text, chips = str(options.peers), options.chips
    if text == LAUNCHED and chips:
        return 0
    if not text.isdigit() or int(text) < 1 or (chips or int(text)) % int(text):
        hint = "`--peers=2 --chips=4` begins two of two devices each; `--peers=auto --chips=16` joins those of srun"
        got = f"--peers={text}" + (f" --chips={chips}" if chips else "")
        raise Refused(Problem(field="peers", expected="a number that divides --chips, or auto with --chips",
                              got=got[:80], hint=hint))  # fmt: skip
    return int(text)


def _jobs(options: Any, count: int) -> tuple[list[dict[str, Any]], tuple[str, ...]]:
    if not options.model:
        raise Refused(Problem(field="model", expected="the model whose layers peers run", got="nothing"))
    chips = float(options.chips or count)
    model, layout, assumed = of_options(options, chips=chips, stack="jax", precision="fp32")
    seq_len = options.seq_len or min(float(model.context) or SEQ_LEN, SEQ_LEN)
    made = [block_job(model, layout, seq_len=int(seq_len), layer=layer) for layer in range(len(model.kinds))]
    return [{name: job[name] for name in ("model", "layout", "seq_len", "layer")} for job in made], assumed


def _one(executor: Executor, job: dict[str, Any], count: int, chips: int, deadline: float) -> Outcome:
    if not count:
        return executor.run(Job(PEER, {**job, "peers": {"launched": True}}, deadline))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    peers = [{"address": address, "count": count, "rank": rank, "devices": chips // count} for rank in range(count)]
    with hold(bench.DEVICE, wait_s=WAIT):
        return together(executor, [Job(PEER, {**job, "peers": peer}, deadline) for peer in peers])
