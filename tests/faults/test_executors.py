"""Trials over executors: each once, a lost worker's again, one that kills its workers never a third time (A10, A20)."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import sys
from collections import Counter
from pathlib import Path

import pytest

from coopt import workers
from coopt.problems import Refused
from coopt.store import create, identity, journal
from coopt.study.given import bench
from coopt.study.given.scheduler import Crew, carry_out
from coopt.workers import Job

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parents[1]


@pytest.fixture(autouse=True)
def importable(monkeypatch):
    """The jobs of this folder can be imported, here and in workers that inherit the environment."""
    monkeypatch.syspath_prepend(HERE)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join((str(REPOSITORY), str(HERE))))


def jobs(count: int, name: str = "square", **payload) -> dict[str, Job]:
    each = {n: {"n": n, **{k: v(n) if callable(v) else v for k, v in payload.items()}} for n in range(count)}
    return {identity({"trial": n}): Job(f"crew:{name}", said, 60.0) for n, said in each.items()}


def driven(root: Path, wanted: dict[str, Job], executor, width: int) -> Counter:
    """The trials carried out in a run; how often each kind of record is in its journal."""
    with create(root, "run", "a: 1\n") as run, contextlib.closing(Crew(executor, width)) as crew:
        carry_out(run, wanted, crew)
        assert set(run.trials.done) == set(wanted) and not run.trials.begun
    records = journal.read(root / "run" / "journal").records
    assert set(Counter(r["id"] for r in records if r["kind"] == "done").values()) == {1}
    return Counter(record["kind"] for record in records)


def values(root: Path) -> list:
    records = journal.read(root / "run" / "journal").records
    return sorted((r["result"] or {}).get("value") for r in records if r["kind"] == "done" and r["status"] == "ok")


@pytest.mark.parametrize("width", [1, 3])
def test_a_crew_of_processes_does_each_trial_once(tmp_path, width):
    with workers.process(preload=()) as executor:
        kinds = driven(tmp_path, jobs(24), executor, width)
    assert kinds["started"] == kinds["done"] == 24 and values(tmp_path) == [n**2 for n in range(24)]


def test_a_poison_trial_is_tried_twice_and_then_quarantined(tmp_path):
    """A10: two of twelve kill their workers every time; the other ten are done, and nothing waits."""
    marks = tmp_path / "marks"
    marks.mkdir()
    with workers.process(preload=()) as executor:
        wanted = jobs(12, marks=str(marks), poison=lambda n: n in (3, 7))
        kinds = driven(tmp_path, wanted, executor, 2)
    assert kinds["crash"] == 4 and kinds["done"] == 12 and len(values(tmp_path)) == 10
    assert Counter(int(path.name.split("-")[0]) for path in marks.iterdir()) == {
        n: 2 if n in (3, 7) else 1 for n in range(12)
    }


def test_this_very_process_can_be_the_executor(tmp_path):
    with workers.serial() as executor:
        kinds = driven(tmp_path, jobs(5), executor, 1)
    assert kinds["done"] == 5 and values(tmp_path) == [0, 1, 4, 9, 16]


@pytest.mark.parametrize("width", [1, 2])
def test_what_a_job_refuses_is_raised_and_its_trial_given_back(tmp_path, width):
    with workers.process(preload=()) as executor, pytest.raises(Refused, match="divisor"):
        driven(tmp_path, jobs(1, "refused"), executor, width)
    kinds = Counter(record["kind"] for record in journal.read(tmp_path / "run" / "journal").records)
    assert kinds["released"] == 1 and not kinds["done"]


@pytest.mark.parametrize(("kind", "package"), [("ray", "ray"), ("slurm", "submitit")])
def test_an_extra_that_is_missing_is_said(monkeypatch, kind, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(Refused, match=f"coopt.{kind}"), bench.opened(False, bench.How(kind)):
        pass


needs_submitit = pytest.mark.skipif(
    importlib.util.find_spec("submitit") is None, reason='the slurm extra is not installed: pip install "coopt[slurm]"'
)
needs_ray = pytest.mark.skipif(
    importlib.util.find_spec("ray") is None, reason='the ray extra is not installed: pip install "coopt[ray]"'
)


@needs_submitit
@pytest.mark.slow
def test_slurm_jobs_by_submitit_on_this_machine(tmp_path):
    """Without Slurm submitit's own local executor runs the same jobs; one of them kills its worker's process."""
    from coopt.workers.on_slurm import slurm

    marks = tmp_path / "marks"
    marks.mkdir()
    with slurm((), workers=2, folder=tmp_path) as executor:
        wanted = jobs(6, "above", marks=str(marks), kill=lambda n: n == 2)
        kinds = driven(tmp_path, wanted, executor, 2)
        assert executor.run(Job("crew:square", {"n": 3, "poison": 1}, 30.0)).signal == "SIGSEGV"
        assert executor.run(Job("crew:square", {"n": 3, "pause": 30}, 1.0)).status == "timeout"
    assert kinds["lost"] == 1 and kinds["started"] == 7 and values(tmp_path) == [n**2 for n in range(6)]
    assert not list(tmp_path.glob("slurm-*"))


@needs_ray
@pytest.mark.slow
def test_ray_workers_killed_every_twenty_trials(tmp_path):
    """A20: 200 trials over 2 workers, a worker killed -9 with its host process every 20: all done, none twice."""
    from coopt.workers.on_ray import ray

    marks = tmp_path / "marks"
    marks.mkdir()
    with ray((), workers=2, reuse=50) as executor:
        kinds = driven(tmp_path, jobs(200, "above", marks=str(marks), kill=lambda n: n % 20 == 10), executor, 2)
        assert executor.run(Job("crew:square", {"n": 3, "poison": 1}, 30.0)).signal == "SIGSEGV"
        assert executor.run(Job("crew:square", {"n": 3, "pause": 30}, 1.0)).status == "timeout"
        with pytest.raises(Refused, match="divisor"):
            executor.run(Job("crew:refused", {}, 30.0))
    print(f"200 trials, {kinds['lost']} workers lost, {kinds['started'] - 200} trials begun again")
    assert kinds["done"] == 200 and kinds["lost"] == 10 and kinds["started"] == 210
    assert values(tmp_path) == [n**2 for n in range(200)]


@needs_ray
@pytest.mark.slow
def test_nobody_at_the_address_is_said():
    from coopt.workers.on_ray import ray

    with pytest.raises(Refused, match="ray_address"), ray((), address="127.0.0.1:1"):
        pass
