"""Looking at runs without touching them: what is there, how far it is, who drives it."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path

from coopt.problems import Problem, Refused
from coopt.store import journal
from coopt.store.files import inside, lock, unlock
from coopt.store.frame import Scan
from coopt.store.identity import Owner
from coopt.store.trials import Trials

STUDY, JOURNAL, LOCK, ANSWER = "study.yaml", "journal", "lock", "answer.json"


@dataclasses.dataclass(frozen=True)
class Saved:
    """A run as it stands on disk, read without touching it."""

    path: Path
    name: str
    study: str
    trials: Trials
    records: int
    torn: int  # bytes of a last record that was never finished
    problems: tuple[Problem, ...]  # damaged records
    driver: Owner | None  # the process that drives it now

    @property
    def finished(self) -> bool:
        """True when the run said that it reached its end."""
        return any(record["kind"] == "finished" for record in self.trials.notes)


def open_run(path: Path) -> Saved:
    """Reads a run as it stands, changing nothing, while others may be at work on it."""
    path = Path(path)
    must_be_run(path)
    found: Scan = journal.read(inside(path, JOURNAL))
    trials = Trials()
    trials.fold(found.records)
    damaged = tuple(journal.problems(path / JOURNAL, found.damage))
    study = content(inside(path, STUDY)).decode()
    return Saved(path, path.name, study, trials, len(found.records), found.torn, damaged, driver(path))


def list_runs(root: Path) -> list[Saved | Refused]:
    """Every run under `root` by name; one that cannot be read stands as the refusal that says why."""
    root = Path(root)
    runs: list[Saved | Refused] = []
    for path in sorted(root.iterdir()) if root.is_dir() else ():
        if not path.name.startswith(".") and os.path.lexists(path / JOURNAL):
            try:
                runs.append(open_run(path))
            except Refused as refusal:
                runs.append(refusal)
    return runs


def driver(path: Path) -> Owner | None:
    """The live process that drives the run, if there is one."""
    try:
        fd = os.open(inside(path, LOCK), os.O_RDWR | os.O_NOFOLLOW)
    except OSError:
        return None
    try:
        if lock(fd, wait=0.0):
            unlock(fd)
            return None
        return holder(fd)
    finally:
        os.close(fd)


def holder(fd: int) -> Owner:
    """The process that wrote its name into a lock file."""
    try:
        return Owner(**json.loads(os.pread(fd, 4096, 0)))
    except (ValueError, TypeError):
        return Owner(pid=0, host="this machine", boot="", born="")  # it has the lock and not yet said its name


def must_be_run(path: Path) -> None:
    """Refuses a path that is no run, naming those beside it."""
    if not (path / JOURNAL).is_file():
        names = sorted(other.parent.name for other in path.parent.glob(f"[!.]*/{JOURNAL}"))
        there = f"there are {', '.join(names[:8])}" if names else "there is none yet"
        raise Refused(Problem(file=str(path), expected="a run's directory", got="no journal in it", hint=there))


def content(path: Path) -> bytes:
    """The bytes of a file of a run."""
    try:
        return path.read_bytes()
    except OSError as error:
        got = os.strerror(error.errno) if error.errno else str(error)
        raise Refused(Problem(file=str(path), expected="a file of the run", got=got)) from None
