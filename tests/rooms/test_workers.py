"""The workers' room: outcomes, frames, leases, executors. What faults do to it is in faults/test_isolation.py."""

from __future__ import annotations

import math
import os
import sys
import threading
import time
from pathlib import Path

import pytest

from coopt import workers
from coopt.problems import Refused
from coopt.workers import frames, inprocess, lease
from coopt.workers.outcome import of_exception, out_of_memory

HAZARDS = Path(__file__).resolve().parent.parent / "faults"
G = 2.0**30


@pytest.fixture(scope="module")
def executor():
    sys.path.insert(0, str(HAZARDS))
    with workers.process(preload=("jax",)) as opened:
        yield opened
    sys.path.remove(str(HAZARDS))


def go(executor, name, payload=None, *, deadline_s=60.0, **options):
    return workers.run(f"hazards:{name}", payload or {}, deadline_s=deadline_s, executor=executor, **options)


@pytest.mark.skipif(sys.platform != "linux", reason="the allocator is glibc's")
def test_children_keep_the_memory_that_they_free(executor):
    """A large block's time is that of its work, not of clearing pages that the kernel was handed back."""
    first, *rest = go(executor, "faults").result["faults"]
    assert first > 1000 > max(rest)


# ---------------------------------------------------------------- outcomes

MESSAGES = [
    # CPU
    ("RESOURCE_EXHAUSTED: Out of memory allocating 400000000000000 bytes.", 4e14, math.nan),
    ("MemoryError: ", math.nan, math.nan),
    ("numpy._core._exceptions._ArrayMemoryError: Unable to allocate 745. GiB for an array", 745.0 * G, math.nan),
    ("terminate called after throwing an instance of 'std::bad_alloc'", math.nan, math.nan),
    ("OSError: [Errno 12] Cannot allocate memory", math.nan, math.nan),
    # GPU
    ("RESOURCE_EXHAUSTED: Out of memory while trying to allocate 85899345920 bytes.", 85899345920.0, math.nan),
    ("RESOURCE_EXHAUSTED: Out of memory while trying to allocate 74.51GiB.", 74.51 * G, math.nan),
    ("Allocator (GPU_0_bfc) ran out of memory trying to allocate 2.00GiB (rounded to 2147483648)", 2.0 * G, math.nan),
    ("INTERNAL: Failed to allocate request for 16.00GiB (17179869184B) on device ordinal 0", 16.0 * G, math.nan),
    # TPU
    (
        "RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm. Used 20.05G of 15.48G hbm. Exceeded hbm capacity "
        "by 4.57G.",
        20.05 * G,
        15.48 * G,
    ),
    (
        "RESOURCE_EXHAUSTED: Attempting to reserve 13.71G at the bottom of memory. That was not possible. There are "
        "9.62G free, 0B reserved, and 9.62G reservable.",
        13.71 * G,
        9.62 * G,
    ),
    ("RESOURCE_EXHAUSTED: Attempting to allocate 2.00G. That was not possible. There are 1.20G free.", 2 * G, 1.2 * G),
]


@pytest.mark.parametrize(("text", "wanted", "available"), MESSAGES)
def test_memory_messages_are_read(text, wanted, available):
    """B4: texts of the CPU, GPU and TPU runtimes."""
    assert out_of_memory(text) == pytest.approx((wanted, available), nan_ok=True)


@pytest.mark.parametrize("text", ["INVALID_ARGUMENT: shapes (3,) and (4,) differ", "memory layout {1,0}", ""])
def test_other_messages_are_not_memory(text):
    assert out_of_memory(text) is None


def test_an_exception_is_named_by_its_phase():
    assert of_exception("ValueError", "no", "compile", math.nan).status == "compile-error"
    assert of_exception("ValueError", "no", "forward", math.nan).status == "crashed"
    assert of_exception("XlaRuntimeError", "RESOURCE_EXHAUSTED: x", "compile", 5.0).available == 5.0


def test_what_a_job_answers(executor):
    assert go(executor, "echo", {"a": [1, None, "é"]}).result == {"echo": {"a": [1, None, "é"]}}
    assert go(executor, "raise_error", {"phase": "lower"}).status == "compile-error"
    crashed = go(executor, "raise_error", {"phase": "warm"})
    assert (crashed.status, crashed.signal, crashed.phase) == ("crashed", "ValueError", "warm")
    assert go(executor, "not_a_dict").status == "crashed"
    assert go(executor, "not_json").status == "crashed"
    assert go(executor, "unknown_outcome").status == "crashed"
    noisy = go(executor, "noisy")
    assert (noisy.status, noisy.ok, noisy.result["time"]) == ("noisy", True, 1.0)


def test_a_refusal_crosses_whole(executor):
    with pytest.raises(Refused) as caught:
        go(executor, "refuse")
    assert [p.field for p in caught.value.problems] == ["tp", "pp"]


@pytest.mark.parametrize("path", ["hazards", "hazards:nothing", "no.such.module:f", ":f", "hazards:os.sep"])
def test_a_callable_that_does_not_exist_is_refused(executor, path):
    with pytest.raises(Refused, match="callable"):
        workers.run(path, {}, deadline_s=60.0, executor=executor)


def test_a_payload_that_is_not_json_is_the_callers_mistake(executor):
    with pytest.raises(TypeError):
        go(executor, "echo", {"array": object()})


def test_a_flood_of_output_is_kept_short(executor):
    """D9: 20 MB on stdout and stderr; the last 4 KiB of it stay."""
    outcome = go(executor, "flood", {"lines": 10_000})
    assert outcome.ok
    assert len(outcome.stderr) <= 4096


def test_one_job_needs_no_executor(monkeypatch):
    monkeypatch.syspath_prepend(HAZARDS)
    assert workers.run("hazards:echo", {"x": 1}, deadline_s=60.0).result == {"echo": {"x": 1}}


# ---------------------------------------------------------------- reuse


@pytest.mark.parametrize("kind", ["environment", "folder", "x64", "precision", "nans", "seed", "devices", "memory"])
def test_a_poisoned_worker_is_clean_for_the_next_job(kind, monkeypatch):
    """B8: a reused worker shows the next job what a fresh one would; where it cannot, it is replaced."""
    monkeypatch.syspath_prepend(HAZARDS)
    monkeypatch.delenv("XLA_FLAGS", raising=False)
    with workers.process(preload=("jax",), reuse=50) as opened:
        clean = go(opened, "observe").result
        poisoned = go(opened, "poison", {"kind": kind}).result
        assert poisoned["pid"] == clean["pid"]
        after = go(opened, "observe").result
    # A configuration that is fixed by a backend cannot be put back: that child is gone.
    assert (after.pop("pid") == clean.pop("pid")) == (kind != "devices")
    after.pop("random"), clean.pop("random")
    assert after == clean


def test_a_worker_is_replaced_after_so_many_jobs(monkeypatch):
    """B7: recycled after N."""
    monkeypatch.syspath_prepend(HAZARDS)
    with workers.process(preload=("jax",), reuse=3) as opened:
        pids = [go(opened, "process_id").result["pid"] for _ in range(7)]
    assert [pids.count(p) for p in dict.fromkeys(pids)] == [3, 3, 1]


def test_a_worker_that_died_idle_is_not_used(monkeypatch):
    monkeypatch.syspath_prepend(HAZARDS)
    with workers.process(preload=("jax",), reuse=9) as opened:
        pid = go(opened, "process_id").result["pid"]
        os.kill(pid, 9)
        time.sleep(0.3)
        assert go(opened, "process_id").result["pid"] != pid


def test_a_server_that_died_is_started_again(monkeypatch):
    monkeypatch.syspath_prepend(HAZARDS)
    with workers.process(preload=()) as opened:
        assert go(opened, "echo").ok
        opened._server.kill()
        opened._server.wait()
        assert go(opened, "echo").ok


# ---------------------------------------------------------------- frames


def test_frames_survive_any_cut():
    messages = [{"phase": "compile"}, {"result": {"x": [1.5, None]}}, {}]
    data = b"".join(frames.encode(m) for m in messages)
    for step in range(1, len(data) + 1):
        buffer, got = bytearray(), []
        for start in range(0, len(data), step):
            buffer += data[start : start + step]
            got += frames.take(buffer)
        assert got == messages
        assert not buffer


@pytest.mark.parametrize(
    "data", [b"\xff\xff\xff\xffx", b"\x00\x00\x00\x02{]", b"\x00\x00\x00\x017", b"\0\0\0\2\xff\xfe"]
)
def test_damaged_frames_are_said_to_be(data):
    with pytest.raises(frames.Damaged):
        frames.take(bytearray(data))


# ---------------------------------------------------------------- leases


def test_a_lease_is_exclusive_and_comes_back():
    name = f"test-{os.getpid()}-a"
    with lease.hold(name, wait_s=0.0):
        with pytest.raises(lease.LeaseTimeout), lease.hold(name, wait_s=0.1):
            pass
    with lease.hold(name, wait_s=0.0):
        pass


def test_whoever_waits_long_is_told_for_what(monkeypatch, caplog):
    """Once, and by the device's name; who waits a moment hears nothing."""
    name = f"test-{os.getpid()}"
    with lease.hold(name, wait_s=0.0):
        for patience, told in ((10.0, 0), (0.0, 1)):
            monkeypatch.setattr(lease, "PATIENCE", patience)
            with pytest.raises(lease.LeaseTimeout), lease.hold(name, wait_s=0.1):
                pass
            assert len(caplog.messages) == told
    assert name in caplog.messages[0]


def test_a_lease_is_waited_for():
    name = f"test-{os.getpid()}-b"
    held, release = threading.Event(), threading.Event()

    def holder():
        with lease.hold(name, wait_s=0.0):
            held.set()
            release.wait()

    thread = threading.Thread(target=holder)
    thread.start()
    held.wait()
    threading.Timer(0.2, release.set).start()
    with lease.hold(name, wait_s=30.0):
        assert release.is_set()
    thread.join()


@pytest.mark.parametrize("name", ["../x", "", "a/b", "x" * 80, "a\0b", "."])
def test_a_lease_cannot_be_named_out_of_its_folder(name):
    """D5."""
    with pytest.raises(Refused):
        lease.path_of(name)


def test_a_device_that_stays_leased_is_a_timeout(executor):
    name = f"test-{os.getpid()}-c"
    with lease.hold(name, wait_s=0.0):
        outcome = go(executor, "echo", lease=name, lease_wait_s=0.1)
    assert (outcome.status, outcome.phase) == ("timeout", "lease")


# ---------------------------------------------------------------- in this process


def test_the_serial_executor_says_that_nothing_is_isolated(monkeypatch):
    monkeypatch.syspath_prepend(HAZARDS)
    with workers.serial() as opened:
        outcome = go(opened, "echo", {"x": 1})
        assert (outcome.status, outcome.isolation, outcome.result) == ("ok", "none", {"echo": {"x": 1}})
        assert go(opened, "raise_error", {"phase": "compile"}).status == "compile-error"
        late = go(opened, "hang", deadline_s=0.2)
        assert (late.status, late.isolation) == ("timeout", "none")
        assert late.seconds < 5.0
        with pytest.raises(Refused):
            go(opened, "refuse")
        with pytest.raises(ValueError, match="memory_cap"):
            go(opened, "echo", memory_cap=1 << 30)


def test_a_hang_in_this_process_ends_on_any_thread_where_python_runs_and_is_told_where_it_does_not(monkeypatch, capfd):
    """Python code is interrupted on threads other than the main one too; native code is not, and the user hears so."""
    monkeypatch.syspath_prepend(HAZARDS)
    monkeypatch.setattr(inprocess, "GRACE", 0.1)
    outcomes = []

    def elsewhere(name):
        with workers.serial() as opened:
            outcomes.append(go(opened, name, deadline_s=0.2))

    for name in ("spin", "nap"):
        thread = threading.Thread(target=elsewhere, args=(name,))
        thread.start()
        thread.join(30.0)
        assert not thread.is_alive()
    assert [(one.status, one.isolation) for one in outcomes] == [("timeout", "none")] * 2
    assert outcomes[0].seconds < 5.0
    assert outcomes[1].seconds >= 1.0, "one native call of a second"
    said = capfd.readouterr().err
    assert said.count("nothing in this process can interrupt it") == 1, said
