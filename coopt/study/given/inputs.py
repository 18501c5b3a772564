"""The profiles a run was begun with, kept in the run, so that it means the same tomorrow and on another machine.

    RUN/inputs/hw_profiles/chips/h100-sxm.yaml    the files themselves, as folders of profiles are laid out
        inputs/extended/...                       a file that one of the same name extends

A run is priced from these copies: a profile that is corrected later changes no run that exists, and
`coopt runs --changed_by=PROFILE` says which conclusions would come out otherwise.
"""

from __future__ import annotations

import functools
import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import coopt
from coopt.problems import Problem, Refused
from coopt.spec.find import FOLDERS
from coopt.spec.machine import machine, stack_profile
from coopt.spec.profiles import chain
from coopt.spec.read import read as load_file
from coopt.spec.settings import flag
from coopt.store import Run
from coopt.study.given import bench, host
from coopt.study.given.schema import HOST, Study

FOLDER = "inputs"
EXTENDED = f"{FOLDER}/extended"


def read(study: Study, *, path: Any = None) -> dict[str, bytes]:
    """Every profile that a study reads, by its name inside a run."""
    return {name: file.read_bytes() for name, file in files(study, path=path).items()}


def stamp(run: Run) -> None:
    """Notes what computes this run from here on, coopt's code and the versions under it, unless it is noted already."""
    now = {"code": code(), "versions": bench.toolchain()}
    last = stamped(run.trials.notes)
    if {key: last.get(key) for key in now} != now:
        run.note("stamp", **now)


def stamped(notes: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """The last note that `stamp` made, or nothing."""
    return next((note for note in reversed(notes) if note["kind"] == "stamp"), {})


def folders(run: Path) -> tuple[Path, ...]:
    """Where a run's own profiles lie: put before the folders that a user gives."""
    return tuple(folder for name in (FOLDER, EXTENDED) if (folder := run / name).is_dir())


def kept(run: Path) -> list[str]:
    """Names of the profiles that a run keeps."""
    return sorted(str(file.relative_to(run)) for file in (run / FOLDER).rglob("*.yaml"))


def confidential(file: Path) -> bool:
    """True where a profile holds a value that its owner marked as confidential."""

    def found(tree: Any) -> bool:
        if isinstance(tree, dict):
            return bool(flag(tree.get("confidential"))) or any(map(found, tree.values()))
        return isinstance(tree, list) and any(map(found, tree))

    return found(load_file(file)[0])


def files(study: Study, *, path: Any = None) -> dict[str, Path]:
    """Every profile, model, law and space that a study reads: name inside the run, file."""
    found: dict[str, Path] = {}
    for kind, name in _named(study, path):
        for depth, file in enumerate(chain(kind, name, path=path)):
            plain = f"{FOLDERS[kind]}/{_plain(file)}.yaml"
            at = f"{FOLDER}/{plain}"
            if depth and found.get(at, file) != file:
                at = f"{EXTENDED}/{plain}"
            if found.setdefault(at, file) != file:
                hint = "give one of them another name"
                raise Refused(Problem(file=str(file), field=kind, expected="one file of a name", got=str(found[at]),
                                      hint=hint))  # fmt: skip
    return found


def located(study: Study) -> Study:
    """The study with names of files in place of their paths: what it reads lies in `folders`."""
    return study.model_copy(
        update={
            **{field: _name(value) for field in ("model", "space", "law", "stack") if (value := getattr(study, field))},
            "machines": tuple(one.model_copy(update={"hardware": _name(one.hardware)}) for one in study.machines),
            "elsewhere": study.elsewhere and study.elsewhere.model_copy(
                update={
                    "models": tuple(m.model_copy(update={"model": _name(m.model)}) for m in study.elsewhere.models),
                    "machines": tuple(
                        m.model_copy(update={"hardware": _name(m.hardware), "like": _name(m.like)})
                        for m in study.elsewhere.machines
                    ),
                    "stack": _name(study.elsewhere.stack),
                }
            ),
        }
    )  # fmt: skip


@functools.lru_cache(maxsize=1)  # a pure function of the installed package
def code() -> dict[str, str]:
    """The first 16 digits of the SHA-256 of each of coopt's own files."""
    package = Path(coopt.__file__).parent
    return {
        str(file.relative_to(package)): hashlib.sha256(file.read_bytes()).hexdigest()[:16]
        for file in sorted(package.rglob("*.py"))
    }


def _named(study: Study, path: Any) -> Iterator[tuple[str, str]]:
    """Kind and file (or name) of everything that a study names, and of what those name."""
    far = study.elsewhere
    if study.model is not None:
        yield "model", study.model
    if isinstance(study.space, str):
        yield "space", study.space
    if study.law is not None:
        yield "law", study.law
    machines = {(one.hardware, study.stack) for one in study.machines if one.hardware != HOST}
    if len(machines) < len(study.machines):
        yield "family", host.FAMILY
        yield "stack", str(stack_profile(study.stack, path)[0].path)
    if far is not None:
        machines |= {(one.hardware, far.stack) for one in far.machines}
        for trained in far.models:
            yield "model", trained.model
    for name, stack in sorted(machines):
        for kind, one in machine(name, stack=stack, path=path).profiles.items():
            yield kind, str(one.path)


def _plain(file: Path) -> str:
    """A file's name that every system can hold."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", file.stem).strip("-.")[:80] or "unnamed"


def _name(given: Any) -> Any:
    """What a file is called in a run, where a path is given."""
    return _plain(Path(given)) if isinstance(given, str) and given.endswith((".yaml", ".yml")) else given
