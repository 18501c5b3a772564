"""A run is a directory: the study as given, the journal, and the files it leads to. Several processes may share it.

    runs/<name>/study.yaml   what was asked, byte for byte
                journal      what happened (`journal.py`)
                lock         held by the driver while it lives
                ...          plans, measurements, profiles, report.html: whole files or none

The journal is the truth; everything else about a run is derived from it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from coopt.problems import Problem, Refused
from coopt.store import journal
from coopt.store.failures import Busy, StoreFailure
from coopt.store.files import (
    inside,
    lock,
    make_folder,
    named_errors,
    safe_name,
    sweep,
    sync_folder,
    unfinished,
    write_whole,
)
from coopt.store.frame import Record
from coopt.store.identity import this_process
from coopt.store.saved import JOURNAL, LOCK, STUDY, content, driver, holder, must_be_run
from coopt.store.secrets import scrubber
from coopt.store.trials import Trials, owner_of


class Run:
    """A run open for work; a context manager. What it held when it ends, it gives back to the queue.

    One process opens a run once; its threads share the object.
    """

    def __init__(self, path: Path, *, join: bool = False):
        self.path = Path(path)
        self.name = self.path.name
        self.trials = Trials(alone=not join)
        self._clean = scrubber()
        self._lock = -1 if join else _take_lock(inside(self.path, LOCK))
        try:
            for folder in (self.path.parent, self.path, *filter(Path.is_dir, self.path.iterdir())):
                sweep(folder)
            self._journal = journal.Journal(inside(self.path, JOURNAL))
        except BaseException:
            self._unlock()
            raise
        self.recovered = self._journal.recovered
        self.refresh()

    def __enter__(self) -> Run:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        try:
            # An error that is already on its way says more than one met while giving back.
            with contextlib.suppress(*((StoreFailure,) if kind else ())):
                for trial in sorted(self.trials.held - self.trials.done.keys()):
                    self.release(trial, reason="the process ended")
        finally:
            self.close()

    def close(self) -> None:
        """Closes the journal and frees the lock, giving nothing back: an owner that is gone is found out."""
        self._journal.close()
        self._unlock()

    @property
    def study(self) -> str:
        """The study as it was given."""
        return self.read(STUDY).decode()

    def refresh(self) -> Trials:
        """Takes in what other processes have recorded."""
        with self._journal.locked() as news:
            self.trials.fold(news)
        return self.trials

    def note(self, kind: str, **fields: Any) -> Record:
        """Records something that is not a trial; durable when this returns."""
        return self._write(kind, **fields)

    def queue(self, ids: Sequence[str]) -> list[str]:
        """The trials among `ids` that may be started now: fresh ones as given, then those that lost an owner."""
        return self.refresh().queue(ids)

    def claim(self, trial: str, **about: Any) -> bool:
        """Starts a trial: True when it is ours to do, False when it is done, runs elsewhere, or is poison."""
        with self._journal.locked() as news:
            self.trials.fold(news)
            if trial in self.trials.done or self.trials.running(trial):
                return False
            if reason := self.trials.blame(trial):
                self._fold("done", id=trial, status="crashed", detail=reason)
                return False
            self.trials.held.add(trial)  # first: a signal that comes behind the next line must find it here
            self._fold("started", **{**about, "id": trial, **dataclasses.asdict(this_process())})
            return True

    def finish(self, trial: str, status: str, **result: Any) -> bool:
        """Records the outcome of a trial, once for ever; False when it was done already (kept as a `late` note)."""
        with self._journal.locked() as news:
            self.trials.fold(news)
            late = trial in self.trials.done
            self._fold("late" if late else "done", **{**result, "id": trial, "status": status})
            self.trials.held.discard(trial)
            return not late

    def release(self, trial: str, *, reason: str) -> None:
        """Gives a trial back that was begun and not finished, through no fault of its own."""
        self._give_back("released", trial, reason=reason)

    def crashed(self, trial: str, *, detail: str, lost: bool = False) -> bool:
        """Records that the trial's worker died; True when it goes back in the queue, False when it is out.

        `lost`: with its whole host, which says less against the trial than a death under it.
        """
        return self._give_back("lost" if lost else "crash", trial, detail=detail)

    def file(self, name: str) -> Path:
        """Where the run's file `name` is; never outside the run's directory."""
        return inside(self.path, name)

    def write(self, name: str, data: bytes | str) -> Path:
        """Writes a file of the run: whole and durable when this returns, or as it was."""
        path = self.file(name)
        if path.parent != self.path:
            with named_errors(path, wanted=0):
                make_folder(path.parent)
        write_whole(path, self._clean(data.encode() if isinstance(data, str) else data))
        return path

    def read(self, name: str) -> bytes:
        """Reads a file of the run."""
        return content(self.file(name))

    def _write(self, kind: str, **fields: Any) -> Record:
        with self._journal.locked() as news:
            self.trials.fold(news)
            return self._fold(kind, **fields)

    def _fold(self, kind: str, **fields: Any) -> Record:
        record = self._journal.write(kind, **self._clean(fields))
        self.trials.fold([record])
        return record

    def _give_back(self, kind: str, trial: str, **why: str) -> bool:
        with self._journal.locked() as news:
            self.trials.fold(news)
            begun = self.trials.begun.get(trial)
            ours = trial in self.trials.held or (begun is not None and owner_of(begun) == this_process())
            if trial in self.trials.done or not ours:
                return trial not in self.trials.done
            self._fold(kind, id=trial, **why)
            self.trials.held.discard(trial)
            reason = self.trials.blame(trial)
            if reason:
                self._fold("done", id=trial, status="crashed", detail=f"{reason}; the last time: {why.get('detail')}")
            return not reason

    def _unlock(self) -> None:
        fd, self._lock = self._lock, -1
        if fd >= 0:
            os.close(fd)


def create(
    root: Path,
    name: str,
    study: str | bytes,
    *,
    files: Mapping[str, bytes] | None = None,
    records: Sequence[Mapping[str, Any]] = (),
    **about: Any,
) -> Run:
    """Makes the run `root/name`, with these files and records, and opens it. It comes into being whole, or not at all.

    Raises `Refused` when a run of that name (or of one that differs in case alone) exists.
    """
    root = Path(root)
    path = root / safe_name(name)
    with named_errors(root, wanted=0):
        make_folder(root)
        _refuse_twins(root, name)
        making = unfinished(path)
        making.mkdir()
    try:
        write_whole(making / STUDY, study.encode() if isinstance(study, str) else study)
        for name, data in (files or {}).items():
            with named_errors(path, wanted=len(data)):
                make_folder(inside(making, name).parent)
            write_whole(inside(making, name), data)
        journal.create(making / JOURNAL, records, **about)
        with named_errors(path, wanted=0):
            try:
                os.rename(making, path)
            except OSError:
                if os.path.lexists(path):
                    raise _exists(path) from None
                raise
            sync_folder(root)
    except BaseException:
        shutil.rmtree(making, ignore_errors=True)
        raise
    return Run(path)


def resume(path: Path, *, join: bool = False) -> Run:
    """Opens a run to go on with it; `join` shares it with the driver that has it. Refused when there is none."""
    must_be_run(Path(path))
    return Run(path, join=join)


def _take_lock(path: Path) -> int:
    with named_errors(path, wanted=0):
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
    try:
        if not lock(fd, wait=0.3):  # a driver killed a moment ago may not be gone yet, and `driver` looks
            raise Busy(
                Problem(
                    file=str(path.parent),
                    expected="a run that nobody drives",
                    got=f"{holder(fd)} driving it",
                    hint="wait for it, share the work with `--join`, or start another with `--name`",
                )
            )
        with named_errors(path, wanted=0):
            os.ftruncate(fd, 0)
            os.pwrite(fd, json.dumps(dataclasses.asdict(this_process())).encode(), 0)
    except BaseException:
        os.close(fd)
        raise
    return fd


def _exists(path: Path) -> Refused:
    who = driver(path)
    return Refused(
        Problem(
            file=str(path),
            field="name",
            expected="a name that is free",
            got=f"a run that {who} is driving" if who else "a run that exists",
            hint=f"`--resume` goes on with it, `--name=OTHER` begins another; `{path.name}` is never overwritten",
        )
    )


def _refuse_twins(root: Path, name: str) -> None:
    for other in root.iterdir():
        if other.name.casefold() == name.casefold():
            raise _exists(other)
