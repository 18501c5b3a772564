"""Blocks compiled by the real XLA:GPU compiler for GPUs that are profiles (`pip install 'coopt[cuda]'`)."""

import importlib.util

import pytest

from coopt.commands.parse import parse
from coopt.study.timed import timing

pytestmark = [
    pytest.mark.tpu_aot,
    pytest.mark.skipif(
        importlib.util.find_spec("jax_cuda13_plugin") is None, reason="the extra `cuda` is not installed"
    ),
]

TWICE = """\
kind: chip
name: h100-twice
title: an H100 with twice the memory and bandwidth
extends: h100-sxm
sources: {question: {title: what if, date: 2026-11-26}}
memory:
  capacity: {value: 160 GiB, source: question, kind: assumed}
  bandwidth: {value: 6.7 TB/s, source: question, kind: assumed}
"""


def test_a_block_that_an_h100_cannot_hold_fits_one_with_twice_the_memory(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))  # nothing that was compiled before
    (tmp_path / "h100-twice.yaml").write_text(TWICE)
    found = {}
    for name in ("h100-sxm", str(tmp_path / "h100-twice.yaml")):
        typed = [
            "measure",
            "--model=llama3-8b",
            f"--on=gpu:{name}:1x1x2",
            "--layout=tp=2,micro_batch=8",
            "--seq_len=8192",
        ]
        (found[name],) = timing.measure(parse(typed))["blocks"]
    h100, twice = found.values()
    assert (h100["outcome"], twice["outcome"]) == ("infeasible-memory", "ok"), (h100["message"], twice["message"])
    assert h100["wanted"] > h100["room"] == 80 * 2**30 and twice["room"] == 160 * 2**30
    both = twice["phases"]["forward_backward"]
    assert both["time"] is None and twice["kind"] == "none"  # untuned kernels: no time is inferred
    tokens, layer, scores = 8 * 8192, 4096 * (4096 * 2 + 1024 * 2) + 3 * 4096 * 14336, 2 * 8192 * 4096
    assert both["flops"] == pytest.approx(3 * 2 * tokens * (layer + scores) / 2, rel=0.02)
    assert {one["kind"] for one in both["collectives"]} == {"all_reduce"}
