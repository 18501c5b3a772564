"""Sweeps in parts: whatever the cut, the crew and the interruptions, the answer is that of one sweep."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from coopt import workers
from coopt.problems import Refused
from coopt.search.certificate import described, rebuilt, space_of
from coopt.search.space import candidate, size
from coopt.spec import load
from coopt.spec.nouns import Hardware
from coopt.store import create, journal, resume
from coopt.study.given import asked, spaces
from coopt.study.given.scheduler import Crew
from coopt.study.screened import parts, screening

STUDY = """\
kind: study
name: parts
title: Layouts of a small model on eight chips
model: gpt2-124m
machines: [{hardware: dgx-h100, chips: 8}]
workload: {seq_len: 1024, global_batch: [16, 32, 64]}
layout: {micro_batch: [1, 2, 64], precision: [bf16, fp8], tp: [1, 2], cp: [1], vpp: [1], offload: [0], order: [0],
         recompute: [none, full], fused_attention: [0, 1], zero: [0, 1]}
objective: time_per_token
top: 8
"""


@dataclasses.dataclass
class Asked:
    """One space and what is asked of it."""

    space: object
    hardware: object
    rest: dict


@pytest.fixture(scope="module")
def question() -> Asked:
    study = asked.written(STUDY, file="study.yaml").study
    hardware = load.resolve("dgx-h100", chips=8)
    family = spaces.family(study)
    rest = {"law": spaces.law_of(study), "objectives": screening.objectives(study, family), "limits": study.limits}
    return Asked(spaces.space(study, family, chips=8.0), hardware, {**rest, "keep": 64, "pareto": True})


@pytest.fixture(scope="module")
def whole(question):
    return screening.PLAIN(question.space, question.hardware, **question.rest)


def same(one, other) -> None:
    """Every field of two results but their clocks, to the last bit."""
    for field in dataclasses.fields(one):
        a, b = getattr(one, field.name), getattr(other, field.name)
        if field.name in ("top", "pareto"):
            assert a.indices.tolist() == b.indices.tolist() and a.values.tobytes() == b.values.tobytes(), field.name
        elif "seconds" not in field.name:
            assert a == b, field.name


def in_parts(root: Path, question: Asked, executor, *, width: int = 1, part: int, name: str = "run"):
    begin = resume(root / name) if (root / name).exists() else create(root, name, STUDY)
    with begin as run, contextlib.closing(Crew(executor, width)) as crew:
        return parts.sweep_in_parts(question.space, question.hardware, run=run, crew=crew, part=part, **question.rest)


@pytest.mark.parametrize("share", [1, 4])
def test_any_split_gives_the_answer_of_one_sweep(question, whole, tmp_path, share):
    """A17: the same bytes from one part and from four, as from none."""
    part = -(-size(question.space) // share)
    with workers.serial() as executor:
        same(in_parts(tmp_path, question, executor, part=part), whole)
    records = journal.read(tmp_path / "run" / "journal").records
    assert sum(record["kind"] == "done" for record in records) >= share
    assert len(whole.pareto.indices) > 5 and whole.rejected and 0 < whole.feasible < whole.evaluated


@pytest.mark.slow
def test_one_worker_and_two_leave_the_same_records(question, whole, tmp_path):
    """A17: processes, one and two at a time: the same results, and the same parts in the journal."""
    part = size(question.space) // 2
    with workers.process(preload=("coopt.study.screened.parts",), reuse=64) as executor:
        for width in (1, 2):
            same(in_parts(tmp_path, question, executor, width=width, part=part, name=f"w{width}"), whole)
    done = [
        {
            r["id"]: {**r["result"], "seconds": 0}
            for r in journal.read(tmp_path / n / "journal").records
            if r["kind"] == "done"
        }
        for n in ("w1", "w2")
    ]
    assert json.dumps(done[0], sort_keys=True) == json.dumps(done[1], sort_keys=True)


class Dying:
    """An executor that dies with its whole driver after some jobs."""

    def __init__(self, executor, after: int):
        self.executor, self.left = executor, after

    def run(self, *job, **limits):
        if not self.left:
            raise KeyboardInterrupt
        self.left -= 1
        return self.executor.run(*job, **limits)


def test_a_sweep_that_was_stopped_goes_on_from_its_parts(question, whole, tmp_path):
    """A1: what is done is not priced again, and the end is the same."""
    part = size(question.space) // 3
    with workers.serial() as executor:
        with pytest.raises(KeyboardInterrupt):
            in_parts(tmp_path, question, Dying(executor, 1), part=part)
        same(in_parts(tmp_path, question, executor, part=part), whole)
    records = journal.read(tmp_path / "run" / "journal").records
    done = [record["id"] for record in records if record["kind"] == "done"]
    assert len(done) == len(set(done)) == sum(record["kind"] == "started" for record in records) - 1


def test_a_part_is_a_run_of_candidates_of_the_whole(question, rng):
    """The space of a part holds the same candidates under the same numbers, and its data reads back exactly."""
    slabs = parts.slabs_of(question.space, size(question.space) // 7)
    assert sum(slab.size for slab in slabs) == size(question.space)
    assert [slab.start for slab in slabs] == np.cumsum([0, *(slab.size for slab in slabs)])[:-1].tolist()
    for slab in slabs:
        cut = space_of(json.loads(json.dumps(parts.told_of(parts.cut(question.space, slab)))))
        assert size(cut) == slab.size
        for local in rng.integers(slab.size, size=3):
            ours, theirs = candidate(cut, int(local)), candidate(question.space, slab.start + int(local))
            assert described(ours) == described(theirs)
    again = rebuilt(Hardware, json.loads(json.dumps(described(question.hardware))))
    assert json.dumps(described(again)) == json.dumps(described(question.hardware))


def test_an_objective_that_one_part_knows_counts_in_all(question):
    """A front made without an objective is void once another part knows it; equals stand once, the first."""
    from coopt.search.sweep import Ranked, Result

    def part(start, values, unknown=()):
        rows = Ranked(np.arange(start, start + len(values)), np.array(values, float))
        return Result(objectives=("a", "b"), evaluated=9, feasible=len(values), rejected={"memory": 1}, unknown=unknown,
                      top=rows, pareto=rows, seconds=1.0)  # fmt: skip

    inf = float("inf")
    found = parts.joined([part(0, [[1, inf]], ("b",)), part(10, [[2, 2], [3, 1]]), part(20, [[2, 2], [4, 4]])],
                         keep=3, pareto=True)  # fmt: skip
    assert found.pareto.indices.tolist() == [10, 11] and found.unknown == ()
    assert found.top.indices.tolist() == [0, 10, 20] and found.rejected == {"memory": 3}
    assert parts.joined([part(0, [[1, inf]], ("b",))], keep=3, pareto=True).unknown == ("b",)


def test_a_part_that_cannot_be_swept_is_said(question, tmp_path):
    class Failing:
        def run(self, *job, **limits):
            return workers.Outcome(status="infeasible-memory", message="1 GiB wanted")

    with pytest.raises(Refused, match="infeasible-memory: 1 GiB"):
        in_parts(tmp_path, question, Failing(), part=size(question.space))
