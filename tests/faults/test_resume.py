"""A search with real blocks, killed and stopped in the middle: what is finished is kept and never timed again.

A1 and A13 on the whole command: kill -9, SIGTERM, Ctrl-C, each followed by the same command with --resume.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from coopt.store import open_run
from coopt.store.journal import read as read_journal

REPOSITORY = Path(__file__).resolve().parents[2]

# Three small blocks on this host; one machine, no law, nothing elsewhere: seconds on two cores.
STUDY = """
kind: study
name: tiny
title: Three small blocks
space:
  model: {name: tiny, vocab: 512, norms: 1, layers: [{mixer: full, feedforward: dense, norms: 2, gated: 0}]}
  shape:
    d_model: [64, 96, 128, 160]
    layers: [2, 4]
    heads: {of: d_model, over: 32}
    kv_heads: {of: heads, over: 1}
    head_dim: 32
    d_ff: {of: d_model, times: 4}
machines: [{hardware: host}]
workload: {seq_len: 64, global_batch: [4, 8]}
layout: {micro_batch: [1, 2], precision: [fp32], fused_attention: [0], recompute: [none], vpp: [1], offload: [0],
         order: [0]}
stack: jax
objective: time_per_token
measure: 4
top: 4
"""

pytestmark = pytest.mark.slow


def environment() -> dict[str, str]:
    """One fake device, as a user has; the checkout importable."""
    flags = os.environ.get("XLA_FLAGS", "").replace("--xla_force_host_platform_device_count=8", "")
    path = os.pathsep.join(filter(None, [str(REPOSITORY), os.environ.get("PYTHONPATH")]))
    return {**os.environ, "XLA_FLAGS": flags.strip(), "PYTHONPATH": path}


def started(folder: Path, *words: str) -> subprocess.Popen[str]:
    (folder / "tiny.yaml").write_text(STUDY)
    return subprocess.Popen(
        [sys.executable, "-m", "coopt", "search", "tiny.yaml", "--format=json", *words],
        cwd=folder, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        stdin=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip


def records(folder: Path) -> list[dict]:
    path = folder / "runs" / "tiny" / "journal"
    return list(read_journal(path).records) if path.is_file() else []


def done(folder: Path) -> dict[str, dict]:
    return {record["id"]: record for record in records(folder) if record["kind"] == "done"}


def wait(folder: Path, process: subprocess.Popen[str], *, trials: int, seconds: float = 240.0) -> None:
    """Waits until so many trials are done and another one has begun."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        begun = sum(record["kind"] == "started" for record in records(folder))
        if len(done(folder)) >= trials and begun > trials:
            return
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    raise AssertionError("the search never got so far")


def finished(folder: Path, *words: str) -> dict:
    process = started(folder, *words)
    out, err = process.communicate(timeout=280)
    assert process.returncode == 0, err
    return json.loads(out)


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGKILL, -9), (signal.SIGTERM, 75), (signal.SIGINT, 130)])
def test_search_goes_on_where_it_was_ended(tmp_path: Path, sent: signal.Signals, code: int):
    """A1, A2, A3: no finished trial is lost, none is timed twice, and the answer is that of its measurements."""
    process = started(tmp_path)
    wait(tmp_path, process, trials=3)
    os.kill(process.pid, sent)
    out, err = process.communicate(timeout=60)
    assert process.returncode == code, (out, err)
    assert "Traceback" not in err
    kept = done(tmp_path)
    assert len(kept) >= 3 and not (tmp_path / "runs" / "tiny" / "answer.json").exists()

    document = finished(tmp_path, "--resume")
    after = done(tmp_path)
    assert {trial: after[trial] for trial in kept} == kept
    assert set(Counter(record["id"] for record in records(tmp_path) if record["kind"] == "done").values()) == {1}
    assert len(document["measured"]) >= 4 and document["calibration"]["blocks"] >= 4
    assert all(row["check"]["worst"] < row["check"]["tolerance"] for row in document["measured"])
    timed = [row["measured_time"] / row["pace"] for row in document["measured"]]
    for record in kept.values():
        phases = (record.get("result") or {}).get("phases")
        if phases is not None:  # all at one pace of this host, so that what was timed stands in proportion
            both = phases["forward_backward"]
            assert both["time"] / both["pace"] in [pytest.approx(ratio, rel=1e-9) for ratio in timed]
    assert open_run(tmp_path / "runs" / "tiny").finished

    again = finished(tmp_path, "--resume")
    assert done(tmp_path) == after
    assert again["plans"] == document["plans"]


def test_second_search_is_refused_and_leaves_the_run_alone(tmp_path: Path):
    """The same command without --resume names the ways on, and touches nothing."""
    finished(tmp_path, "--measure=0")
    before = (tmp_path / "runs" / "tiny" / "journal").read_bytes()
    process = started(tmp_path, "--measure=0")
    out, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "--resume" in err and "--name" in err and json.loads(out)["errors"]
    assert (tmp_path / "runs" / "tiny" / "journal").read_bytes() == before
