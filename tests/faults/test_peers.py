"""A20: one block over two processes joined by `jax.distributed`; a lost peer ends it, by name, within a minute."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from coopt import workers
from coopt.measure.jobs import block_job
from coopt.problems import Refused
from coopt.spec.nouns import PRECISIONS, LayerKind, Layout, Model
from coopt.workers import Job
from coopt.workers.together import together

MODEL = Model(d_model=64.0, vocab=256.0, norms=1.0,
              kinds=(LayerKind(count=1.0, heads=4.0, kv_heads=4.0, head_dim=16.0, d_ff=128.0, norms=2.0),))  # fmt: skip
LAYOUT = Layout(tp=2.0, dp=1.0, micro_batch=2.0, precision=PRECISIONS["fp32"])
REPOSITORY = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.slow


def jobs(repeats: int = 3) -> list[dict]:
    """The two ranks of one job, at a free port."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{one.getsockname()[1]}"
    asked = block_job(MODEL, LAYOUT, seq_len=32, layer=0)
    asked = {key: asked[key] for key in ("model", "layout", "seq_len", "layer")}
    return [{**asked, "repeats": repeats, "peers": {"address": address, "count": 2, "rank": r}} for r in (0, 1)]


def peers(asked: list[dict]) -> list[Job]:
    return [Job("coopt.measure.peers:run_peer", one, 240.0) for one in asked]


def test_two_processes_time_one_block(tmp_path):
    """Both ranks run one program, with collectives, and its result is that of one process with two devices."""
    with workers.process(preload=("coopt.measure.job",)) as executor:
        outcome = together(executor, peers(jobs()))
        (single,) = jobs()[:1]
        single["peers"] |= {"count": 1, "devices": 2}
        same = together(executor, peers([single]))
    assert outcome.status == "ok", (outcome.message, outcome.stderr)
    found = outcome.result
    assert (found["chips"], found["processes"]) == (2, 2) and found["collectives"] > 0 and found["time"] > 0
    assert (same.result["chips"], same.result["processes"]) == (2, 1), same.message
    assert found["norm"] == pytest.approx(same.result["norm"], rel=1e-5) and found["norm"] > 0
    assert found["flops"] == same.result["flops"]


@pytest.mark.parametrize("rank", [0, 1])
def test_a_lost_peer_ends_the_job_by_its_name(rank):
    """A20: a rank killed -9 in its work: the whole ends within a minute, with that rank named, and nothing hangs."""
    with workers.process(preload=("coopt.measure.job",)) as executor:
        before = {p.pid for p in psutil.Process().children(recursive=True)}
        said: list = []
        asked = jobs(repeats=1_000_000)
        whole = threading.Thread(target=lambda: said.append(together(executor, peers(asked))))
        whole.start()
        address = asked[0]["peers"]["address"]
        victim = _worker(address, rank, before)
        time.sleep(3.0)
        began = time.monotonic()
        os.kill(victim, signal.SIGKILL)
        whole.join(timeout=90.0)
        assert not whole.is_alive(), "the other rank hangs"
        took = time.monotonic() - began
    (outcome,) = said
    print(f"rank {rank} killed: the job ended {took:.1f} s later: {outcome.message[:120]}")
    assert took < 60.0 and outcome.message.startswith(f"rank {rank} of 2"), outcome.message


def _worker(address: str, rank: int, before: set[int]) -> int:
    """The child that serves as a rank: rank 0 listens at the address, the other one is connected to it."""
    port, until = int(address.rpartition(":")[2]), time.monotonic() + 120.0
    while time.monotonic() < until:
        for child in psutil.Process().children(recursive=True):
            try:
                sockets = child.net_connections(kind="tcp")
            except (psutil.NoSuchProcess, psutil.AccessDenied):
                continue
            listens = any(c.status == psutil.CONN_LISTEN and c.laddr.port == port for c in sockets)
            joined = any(c.raddr and c.raddr.port == port for c in sockets) and not listens
            if (listens, joined)[rank]:
                return child.pid
        time.sleep(0.1)
    raise AssertionError(f"rank {rank} never came: {sys.platform}")


def test_a_rank_that_cannot_be_is_refused():
    from coopt.measure.peers import run_peer

    for peers in ({}, {"address": "x:1", "count": 2, "rank": 2}):
        with pytest.raises(Refused, match="rank"):
            run_peer({"peers": peers})


def test_peers_on_the_command_line(tmp_path):
    """Two processes of two devices run the layer that one process of four does; each layer says what it took."""
    said = coopt("measure", "--model=gpt2-124m", "--layout=tp=4", "--seq_len=32", "--peers=2", "--chips=4",
                 "--format=json", f"--out={tmp_path / 'peers.json'}")  # fmt: skip
    (found,) = json.loads(said[1])["blocks"]
    assert (found["outcome"], found["processes"], found["chips"], found["rank"]) == ("ok", 2, 4, 0), found
    assert found["time"] > 0 and found["collectives"] > 0
    assert json.loads((tmp_path / "peers.json").read_text())["blocks"][0]["norm"] == found["norm"]


def test_processes_that_a_launcher_began_find_one_another():
    """Under the variables that srun sets, the same command on each process is one block; without them it is refused."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port = one.getsockname()[1]
    step = {"SLURM_JOB_ID": "1", "SLURM_STEP_NODELIST": "localhost", "SLURM_NTASKS": "2", "SLURM_LOCALID": "0",
            "SLURM_STEP_NUM_NODES": "2", "JAX_COORDINATOR_PORT": str(port)}  # fmt: skip
    asked = ("measure", "--model=gpt2-124m", "--layout=tp=2", "--seq_len=32", "--peers=auto", "--chips=2",
             "--format=json")  # fmt: skip
    with ThreadPoolExecutor(2) as both:
        answers = list(both.map(lambda rank: coopt(*asked, **step, SLURM_PROCID=str(rank)), (0, 1)))
    found = [json.loads(out)["blocks"][0] for _, out, _ in answers]
    assert [one["rank"] for one in found] == [0, 1] and found[0]["norm"] == found[1]["norm"] > 0, found
    assert found[0]["time"] == found[1]["time"] and found[0]["processes"] == 2
    code, _, words = coopt(*asked)
    assert code == 1 and "srun" in words and "Traceback" not in words


def coopt(*words: str, **environment: str) -> tuple[int, str, str]:
    """The command as a user runs it."""
    done = subprocess.run([sys.executable, "-m", "coopt", *words], capture_output=True, text=True, timeout=240,
                          env=os.environ | {"PYTHONPATH": str(REPOSITORY)} | environment)  # fmt: skip
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize("flags", [("--peers=0",), ("--peers=two",), ("--peers=auto",), ("--peers=2", "--chips=3")])
def test_peers_that_do_not_go_together_are_refused(flags):
    code, _, said = coopt("measure", "--model=gpt2-124m", *flags)
    assert code == 1 and "peers: expected a number that divides --chips" in said and "Traceback" not in said
