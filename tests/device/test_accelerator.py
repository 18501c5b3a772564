"""A block on the accelerator of this machine, in children of its own: `pytest -m device` where there is one."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from coopt.measure.host import accelerators
from coopt.spec import load
from coopt.spec.nouns import PRECISIONS, Layout
from coopt.study.timed import blocks
from coopt.study.timed.traced import TRUSTED

pytestmark = [pytest.mark.device, pytest.mark.skipif(not accelerators(), reason="no accelerator on this machine's bus")]
HIDDEN = ("JAX_PLATFORMS", "XLA_FLAGS")  # the conftest's own


def answered(job: dict) -> dict:
    """What the door says of a job, in a process that takes the accelerator."""
    environment = {name: value for name, value in os.environ.items() if name not in HIDDEN}
    command = [sys.executable, "-m", "coopt.measure"]
    done = subprocess.run(command, input=json.dumps(job), capture_output=True, text=True, env=environment, timeout=280)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def block() -> dict:
    layout = Layout(micro_batch=4.0, precision=PRECISIONS["bf16"], fused_attention=1.0)
    job = blocks.job(load.model("gpt2-355m"), layout, seq_len=1024.0)
    return answered({**job, "budget_s": 1.0, "check": 1, "energy": 1})


def test_a_block_is_timed_on_the_device_and_computes_what_float64_does(block):
    assert block["platform"] in ("gpu", "tpu") and block["outcome"] in ("ok", "noisy"), block["message"]
    assert block["check"]["worst"] < block["check"]["tolerance"]
    one, both = (block["phases"][part] for part in blocks.PASSES)
    assert 0.0 < one["time"] < both["time"]
    assert both["low"] <= both["time"] <= both["high"]


def test_what_the_device_did_has_rows(block):
    """Kernels that a graph launched as well: see coopt/measure/graphs.py."""
    for part in blocks.PASSES:
        scopes = block["phases"][part]["scopes"]
        unknown = sum(row["time"] for row in scopes if not row["scope"])
        assert scopes and unknown < TRUSTED * sum(row["time"] for row in scopes)


def test_a_board_with_a_counter_says_its_joules(block):
    said = block["phases"]["forward_backward"]["energy"]
    if "joules" not in said:
        pytest.skip(said["message"])
    assert 10.0 < said["watts"] < 3000.0 and said["seconds"] >= 1.5 and said["clock"] > 1e8
