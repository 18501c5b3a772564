"""What was compiled or measured before is used again where nothing has changed, and nowhere else (plan B9, B10)."""

from __future__ import annotations

import os
import stat

import jax
import pytest

from coopt.measure import job
from coopt.measure.job import run_job
from coopt.store.cache import Cache
from coopt.study.given import bench

JOB = {
    "kind": "block", "seq_len": 16, "budget_s": 0.0,
    "model": {"d_model": 32, "kinds": [{"heads": 2, "kv_heads": 2, "head_dim": 16, "d_ff": 64}]},
    "layout": {"precision": "fp32"},
}  # fmt: skip


@pytest.fixture
def compiled(tmp_path):
    """A compilation cache that holds the programs of the job, and what a job that compiles everything answers."""
    before = {name: jax.config.values[name] for name in ("jax_compilation_cache_dir",)}
    answer = _fresh(tmp_path)
    assert list(tmp_path.glob("*-cache")), "the cache holds something"
    yield tmp_path, answer
    for name, value in before.items():
        jax.config.update(name, value)
    jax.experimental.compilation_cache.compilation_cache.reset_cache()


def _fresh(folder) -> dict:
    """The job as a new process would do it: nothing of earlier compilations in memory."""
    from jax.experimental.compilation_cache import compilation_cache

    jax.clear_caches()
    compilation_cache.reset_cache()
    return run_job(JOB | {"cache": str(folder)})


@pytest.mark.parametrize("damage", ["empty", "half", "flip"])
def test_a_damaged_entry_is_compiled_anew_and_said(compiled, damage):
    """B9: zero bytes, half, one flipped bit: the same program, no crash, and told in the answer."""
    folder, whole = compiled
    files = sorted(folder.glob("*-cache"))
    contents = [file.read_bytes() for file in files]
    for number, file in enumerate(files):
        data = contents[number]
        middle = len(data) // 2
        file.write_bytes(
            {
                "empty": b"",
                "half": data[:middle],
                "flip": data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :],
            }[damage]
        )
    again = _fresh(folder)
    assert (again["outcome"], again["digest"], again["flops"]) == ("ok", whole["digest"], whole["flops"])
    if damage in ("empty", "half"):
        assert again["cache_failures"]


def test_a_cache_that_cannot_be_written_is_said(compiled):
    """B9: read-only, or full: everything works, and each failed write is counted."""
    folder, whole = compiled
    for file in folder.iterdir():
        file.unlink()
    blocked = folder / "not-a-folder"
    blocked.write_text("")
    again = _fresh(blocked)
    assert (again["outcome"], again["digest"]) == ("ok", whole["digest"])
    assert again["cache_failures"]
    assert stat.S_ISREG(os.stat(blocked).st_mode)


def test_what_the_stores_cache_could_not_read_is_in_the_answer(tmp_path):
    """B9: a damaged file of kept figures is a miss with a note, where the user sees it and not in a child's stderr."""
    kept, key = Cache(tmp_path), "ab" * 32
    with job._cache_failures() as failed:
        kept.put(key, b"figures")
        kept._path(key).write_bytes(b"damage")
        assert kept.get(key) is None
        assert kept.get(key) is None  # absent by now: nothing to say
    assert len(failed) == 1 and "damaged" in failed[0]


CHANGES = {
    "job": lambda patch: None,
    "jax": lambda patch: patch.setattr(bench, "version", lambda name: "0" if name == "jax" else "1"),
    "jaxlib": lambda patch: patch.setattr(bench, "version", lambda name: "0" if name == "jaxlib" else "1"),
    "flax": lambda patch: patch.setattr(bench, "version", lambda name: "0" if name == "flax" else "1"),
    "libtpu": lambda patch: patch.setattr(bench, "version", lambda name: "0" if name == "libtpu" else "1"),
    "python": lambda patch: patch.setattr(bench.platform, "python_version", lambda: "3.99"),
    "coopt": lambda patch: patch.setattr(bench, "__version__", "99"),
    "XLA_FLAGS": lambda patch: patch.setenv("XLA_FLAGS", "--xla_cpu_enable_fast_math=true"),
    "LIBTPU_INIT_ARGS": lambda patch: patch.setenv("LIBTPU_INIT_ARGS", "--x"),
    "JAX_*": lambda patch: patch.setenv("JAX_DEFAULT_MATMUL_PRECISION", "highest"),
    "code": lambda patch: patch.setattr(bench, "code", lambda: "0"),
    "processor": lambda patch: patch.setattr("coopt.measure.host.processor", lambda: "another"),
    "accelerators": lambda patch: patch.setattr("coopt.measure.host.accelerators", lambda: ["10de:2330"]),
    "cores": lambda patch: patch.setattr("coopt.measure.host.cores", lambda: 99),
}


@pytest.mark.parametrize("field", CHANGES)
def test_any_change_is_another_trial(field, monkeypatch):
    """B10: job, toolchain, flags, code and machine are in the name of a trial; the same again is the same."""
    first = bench.trial_of(JOB)
    assert bench.trial_of(dict(JOB)) == first
    CHANGES[field](monkeypatch)
    assert bench.trial_of(JOB | {"seq_len": 32} if field == "job" else JOB) != first


def test_what_one_child_has_compiled_another_runs():
    """Blocks that are timed afresh, in processes of their own, cost no second compilation, and are the same trials."""
    job = JOB | {"budget_s": 0.05}

    def answered(**how) -> tuple[dict, set[str]]:
        with bench.opened(False, again=True, **how) as executor:
            said = bench.do(None, executor, job, deadline_s=240.0)
        assert said["status"] in ("ok", "noisy"), said
        folder = bench._programs()["JAX_COMPILATION_CACHE_DIR"]
        return said["result"], {name for name in os.listdir(folder) if name.endswith("-cache")}

    first, made = answered()
    second, after = answered(reuse=1)
    assert made and after == made
    for name in ("forward", "forward_backward"):
        one, two = first["phases"][name], second["phases"][name]
        assert (one["digest"], one["flops"], one["memory"]) == (two["digest"], two["flops"], two["memory"])
    assert not any(name.startswith("JAX_COMPILATION") for name in bench.flags()), "where it lies is not what it is"
