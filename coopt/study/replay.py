"""A bundle derived once more, here: every number that follows from the study, its profiles and what was measured."""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from coopt import store, workers
from coopt.problems import Problem, Refused
from coopt.store import Saved, bundle, finite, identity
from coopt.store.files import safe_name
from coopt.store.saved import ANSWER, content
from coopt.study import main
from coopt.study.given import bench, inputs, scheduler
from coopt.study.given.progress import Progress, silent
from coopt.workers import Job, Outcome

FILES = ("study.yaml", "journal", ANSWER, "plans.json", "measurements.json")
FOLDERS = (inputs.FOLDER, "measured", "calibrated", "models")
# What says when, where and how fast a run was, or stands beside its numbers: published runs of our own table.
APART = ("run", "seconds", "candidates_per_second", "spent", "versions", "assumed", "nearest", "started")
CLOCK = ("host", "measured_time", "afresh")
TIMED = ("low", "high", "pace", "spread", "compile_s")  # the same, of a row of `measured`
ROUNDING = 1e-12  # relative: another processor's exp and log


def pack(run: Saved, out: Path) -> bundle.Bundle:
    """Writes a finished run as one file; Refused when it has no answer yet or is damaged."""
    if run.problems:
        raise Refused(*run.problems)
    if not (run.path / ANSWER).is_file():
        hint = f"`coopt resume {run.name}` goes on with it"
        raise Refused(Problem(file=str(run.path), expected="a run that reached its answer", got="none yet", hint=hint))
    if withheld := [name for name in inputs.kept(run.path) if inputs.confidential(run.path / name)]:
        hint = "a bundle is for others; the folder of the run is for you"
        raise Refused(*(Problem(file=str(run.path / name), expected="profiles that may be passed on",
                                got="confidential values", hint=hint) for name in withheld))  # fmt: skip
    names = [name for name in FILES if (run.path / name).is_file()]
    names += [
        str(file.relative_to(run.path)) for folder in FOLDERS for file in sorted((run.path / folder).rglob("*.yaml"))
    ]
    stamp = inputs.stamped(run.trials.notes)
    return bundle.write(out, {name: content(run.path / name) for name in names}, run=run.name,
                        versions=stamp.get("versions", {}))  # fmt: skip


def replay(file: Path, *, told: Progress = silent) -> dict[str, Any]:
    """Derives a bundled run again and compares: `first` is the first number that differs, None when none does.

    Measured numbers are those of the machine that measured them: they are taken from the journal and not compared.
    """
    packed = bundle.read(file)
    with tempfile.TemporaryDirectory(prefix="coopt-replay-") as folder:
        given = Path(folder) / "given" / safe_name(str(packed.about.get("run")))
        packed.unpack(given)
        kept = store.open_run(given)
        if kept.problems or ANSWER not in packed.files:
            raise Refused(*kept.problems, Problem(file=str(file), expected="a whole run", got="a damaged one"))
        then = json.loads(packed.files[ANSWER])
        now = finite(main.again(Path(folder) / "again", kept, Playback(kept), told=told))
        stamp = inputs.stamped(kept.trials.notes)
    pairs = list(compared(then, json.loads(json.dumps(now))))
    wrong = [pair for pair in pairs if _apart(*pair[1:]) > ROUNDING]
    first = wrong[0] if wrong else None
    largest = max((_apart(*pair[1:]) for pair in pairs), default=0.0)
    return {
        "file": str(file),
        "run": kept.name,
        "digest": packed.digest,
        "numbers": sum(_is_number(pair[1]) for pair in pairs),
        "measured_elsewhere": sum(_is_number(value) for _, value in _leaves(then, measured=True)),
        "identical": first is None,
        "differing": len(wrong),
        "largest_difference": largest if math.isfinite(largest) else None,
        "first": first and {"field": first[0], "bundled": first[1], "here": first[2]},
        "changed": _changed(stamp),
    }


class Playback:
    """An executor that measures nothing: a timed job's outcome is what the journal says; any other is run here."""

    def __init__(self, kept: Saved):
        self._done = {identity(record["job"]): record for record in kept.trials.done.values() if "job" in record}

    def run(self, job: Job) -> Outcome:
        """The recorded outcome of a job; `crashed` where there is none."""
        if job.path != bench.JOB:
            with workers.serial() as here:
                return here.run(job)
        found = self._done.get(identity(finite(dict(job.payload))))
        if found is None:
            return Outcome(status="crashed", phase="replay", signal="not in the bundle",
                           message="this job was not measured in the run")  # fmt: skip
        seconds = found.get("seconds")
        return Outcome(status=found["status"], result=found.get("result"), message=str(found.get("message") or ""),
                       seconds=math.nan if seconds is None else float(seconds), **scheduler.ended(found))  # fmt: skip


def compared(then: Any, now: Any) -> Iterator[tuple[str, Any, Any]]:
    """Every leaf that is derived and not measured, in the order of the first document, with both values."""
    ours, theirs = dict(_leaves(then)), dict(_leaves(now))
    for field in dict.fromkeys((*ours, *theirs)):
        yield field, ours.get(field), theirs.get(field)


def _leaves(tree: Any, place: str = "", *, measured: bool = False, inside: bool = False) -> Iterator[tuple[str, Any]]:
    if isinstance(tree, Mapping):
        for key, value in tree.items():
            if key not in APART:
                clock = key in CLOCK or (place.startswith("measured[") and key in TIMED)
                below = f"{place}.{key}" if place else key
                yield from _leaves(value, below, measured=measured, inside=inside or clock)
    elif isinstance(tree, list):
        for number, value in enumerate(tree):
            yield from _leaves(value, f"{place}[{number}]", measured=measured, inside=inside)
    elif inside == measured:
        yield place, tree


def _apart(a: Any, b: Any) -> float:
    """Relative difference of two numbers; infinite between anything else that is not the same."""
    if a == b:
        return 0.0
    return abs(a - b) / max(abs(a), abs(b)) if _is_number(a) and _is_number(b) else math.inf


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _changed(stamp: Mapping[str, Any]) -> list[dict[str, str]]:
    """What computes differently here from there: versions, then files of coopt's own."""
    versions, here = stamp.get("versions", {}), bench.toolchain()
    told = [
        {"what": name, "bundled": versions.get(name, "not there"), "here": here.get(name, "not there")}
        for name in dict.fromkeys((*versions, *here))
        if versions.get(name) != here.get(name)
    ]
    then, now = stamp.get("code", {}), inputs.code()
    odd = [name for name in dict.fromkeys((*then, *now)) if then.get(name) != now.get(name)]
    return told + [{"what": f"coopt/{name}", "bundled": then.get(name, "not there"),
                    "here": now.get(name, "not there")} for name in odd]  # fmt: skip


def because(changed: Sequence[Mapping[str, str]]) -> str:
    """A sentence on what may have changed a number."""
    if not changed:
        return "coopt, its code and the versions under it are the same: the machine's own arithmetic is left"
    said = ", ".join(f"{one['what']} ({one['bundled']} there, {one['here']} here)" for one in changed[:4])
    more = f" and {len(changed) - 4} more" if len(changed) > 4 else ""
    return f"the profiles are the bundled ones, so it is of what differs here: {said}{more}"
