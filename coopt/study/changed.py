"""Which saved conclusions a corrected profile overturns: the plans of every run that read it, priced again."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from coopt.problems import Problem, Refused
from coopt.search.space import Candidate
from coopt.spec import load, read
from coopt.spec.find import FOLDERS, kind_of
from coopt.spec.nouns import VERDICTS, training
from coopt.store import Saved
from coopt.store.saved import ANSWER, content
from coopt.study.given import asked, inputs, machines, spaces
from coopt.study.given.schema import Study
from coopt.study.ranking import document


def changed_by(runs: Sequence[Saved], profile: str, *, path: Any = None) -> list[dict[str, Any]]:
    """For every finished run that read a profile: whether its best plan is still the best of those it kept.

    `profile` is a name, for the file that the name means now, or a file that would take its place. The plans are
    priced twice by today's code, with the run's own copy and with the file, so that what differs is the profile's
    doing. A design that the run did not keep may be better still: only a new search would tell.
    """
    kind, file = _profile(profile, path)
    found = []
    for run in runs:
        copies = [name for name in inputs.kept(run.path) if _is(run.path / name, kind, file)]
        if copies and (run.path / ANSWER).is_file():
            found.append(_checked(run, kind, file, copies[0]))
    return found


def _profile(name: str, path: Any) -> tuple[str, Path]:
    """The kind and the file of a profile."""
    if name.endswith((".yaml", ".yml")):
        kind = read.head(load.find("chip", name, path=path), ("kind",)).get("kind")
        if isinstance(kind, str) and kind in FOLDERS:
            return kind, Path(name)
        raise Refused(Problem(file=name, field="kind", expected=f"one of {', '.join(FOLDERS)}", got=str(kind)))
    if kind := kind_of(name, FOLDERS, path=path):
        return kind, load.find(kind, name, path=path)
    hint = "`coopt hardware` and `coopt models` list the names"
    raise Refused(Problem(field="changed_by", expected="a profile's name or file", got=name[:80], hint=hint))


def _is(copy: Path, kind: str, file: Path) -> bool:
    """True where a run's copy is of that profile: the same kind, and the same name in it."""
    one, other = (read.head(each, ("kind", "name")) for each in (copy, file))
    return one.get("kind") == kind and one.get("name") == other.get("name")


def _checked(run: Saved, kind: str, file: Path, copy: str) -> dict[str, Any]:
    answer = json.loads(content(run.path / ANSWER))
    told = {"name": run.name, "profile": Path(copy).stem, "plans": len(answer["plans"])}
    if content(run.path / copy) == file.read_bytes():
        return {**told, "conclusion": "holds: the same profile"}
    study = inputs.located(asked.written(run.study, file=str(run.path / "study.yaml")).study)
    with tempfile.TemporaryDirectory(prefix="coopt-changed-") as folder:
        place = Path(folder) / FOLDERS[kind] / f"{Path(copy).stem}.yaml"
        place.parent.mkdir(parents=True)
        place.write_bytes(file.read_bytes())
        before = _values(run, study, answer, inputs.folders(run.path))
        after = _values(run, study, answer, (Path(folder), *inputs.folders(run.path)))
    return {**told, **_compared(answer, before, after)}


def _compared(answer: Mapping[str, Any], before: list[float], after: list[float]) -> dict[str, Any]:
    """What the new prices say of the old ranking; infinite is a plan that no longer fits."""
    if not before:
        return {"conclusion": "holds: it has no plans"}
    first = min(range(len(before)), key=before.__getitem__)
    best = min(range(len(after)), key=after.__getitem__)
    order = sorted(range(len(after)), key=after.__getitem__)
    told = {
        "objective": answer["objective"],
        "winner_changes_by": after[first] / before[first] - 1.0,
        "ranks_now": [order.index(place) + 1 for place in range(len(before))],
    }
    if after[best] < after[first]:
        name = f"plan {best + 1}"
        lost = after[first] / after[best] - 1.0
        return {"conclusion": f"no longer holds: {name} is now better than plan {first + 1}", **told, "better_by": lost}
    return {"conclusion": "holds", **told}


def _values(run: Saved, study: Study, answer: Mapping[str, Any], path: tuple[Path, ...]) -> list[float]:
    """The objective of every saved plan on the machines and models of some folders; infinite where it cannot run."""
    law = spaces.law_of(study, path=path)
    family = spaces.family(study, path=path)
    hosts = [folder for name in ("calibrated", "measured") if (folder := run.path / name).is_dir()]
    chip = next((load.profile("chip", str(f), path=path).data for f in _chips(hosts)), None)
    there = machines.resolved(study, chip=chip, folder=hosts[0] if hosts else None, path=path)
    values = []
    for plan in answer["plans"]:
        machine = next(m for m in there if m.name == plan["hardware"] and int(m.chips) == plan["chips"])
        model = family.model or load.model(str(run.path / "models" / f"{plan['model']}.yaml"), path=path)
        cut = ",".join(f"{key}={value}" for key, value in plan["layout"].items())
        layout, _ = load.layout(cut, chips=float(machine.chips), model=model, stack=study.stack, path=path)
        work = training(float(plan["seq_len"]), float(plan["global_batch"]), float(plan["tokens"] or "nan"))
        one = Candidate(model=model, layout=layout, workload=work, hardware=machine, law=law)
        told = document(one, rank=plan["rank"], objective=answer["objective"])
        values.append(float(told[answer["objective"]]) if told["verdict"] == VERDICTS[0] else float("inf"))
    return values


def _chips(folders: Sequence[Path]) -> list[Path]:
    return [f for folder in folders for f in sorted(folder.glob("*.yaml")) if read.head(f, ("kind",))["kind"] == "chip"]
