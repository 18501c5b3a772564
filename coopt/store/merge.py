"""Two runs of one study as one: what either has done is done, and where both did it, the first one's word stands."""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path
from typing import Any

from coopt.problems import Problem, Refused
from coopt.store.frame import Record
from coopt.store.run import create
from coopt.store.saved import JOURNAL, Saved, content, open_run

OUTCOME = ("status", "result", "seconds", "message", "detail")


@dataclasses.dataclass(frozen=True)
class Merged:
    """A joined run: how many trials only one side had done, and those that both had, with another outcome."""

    path: Path
    first: int
    second: int
    both: int
    disagreements: tuple[Record, ...]


def merge(a: Path, b: Path, root: Path, name: str) -> Merged:
    """Makes the run `root/name` of everything that the runs `a` and `b` have done; neither is touched.

    A trial that both have done is kept once, as `a` has it; another outcome in `b` is noted in the journal. Raises
    `Refused` for runs of two studies or on two sets of profiles, for a damaged journal, for a name that is taken.
    """
    ours, theirs = open_run(a), open_run(b)
    files = _same(ours, theirs)
    new = {trial: record for trial, record in theirs.trials.done.items() if trial not in ours.trials.done}
    shared = [trial for trial in ours.trials.done if trial in theirs.trials.done]
    notes = tuple(
        {"kind": "disagreement", "trial": trial, "kept": one, "other": other}
        for trial in shared
        if (one := _outcome(ours.trials.done[trial])) != (other := _outcome(theirs.trials.done[trial]))
    )
    sources = [
        {"run": run.name, "records": run.records, "journal": hashlib.sha256(content(run.path / JOURNAL)).hexdigest()}
        for run in (ours, theirs)
    ]
    records: list[Record] = [{"kind": "merged", "from": sources}, *ours.trials.done.values(), *new.values(), *notes]
    started = [run.trials.notes[0].get("started") for run in (ours, theirs) if run.trials.notes]
    about = {"started": min(filter(None, started))} if any(started) else {}
    with create(root, name, ours.study, files=files, records=records, **about) as run:
        return Merged(run.path, len(ours.trials.done) - len(shared), len(new), len(shared), notes)


def _same(ours: Saved, theirs: Saved) -> dict[str, bytes]:
    """The profiles of two runs that can be joined; refused with what is different, or damaged."""
    if damaged := (*ours.problems, *theirs.problems):
        raise Refused(*damaged)
    inputs = [_inputs(run.path) for run in (ours, theirs)]
    problems = []
    if ours.study != theirs.study:
        problems.append(Problem(file=str(theirs.path), field="study", expected=f"the study of {ours.path}",
                                got="another", hint="only runs of one study can be joined"))  # fmt: skip
    odd = [name for name in inputs[0].keys() | inputs[1].keys() if inputs[0].get(name) != inputs[1].get(name)]
    problems += [
        Problem(file=str(theirs.path / name), expected=f"the profile that {ours.path} was begun with", got="another")
        for name in sorted(odd)
    ]
    if problems:
        raise Refused(*problems)
    return inputs[0]


def _inputs(run: Path) -> dict[str, bytes]:
    return {str(file.relative_to(run)): content(file) for file in sorted((run / "inputs").rglob("*.yaml"))}


def _outcome(record: Record) -> dict[str, Any]:
    return {key: record[key] for key in OUTCOME if key in record}
