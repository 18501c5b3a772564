"""An append-only journal that several processes of one machine may share: what it acknowledged, it keeps.

One record is one write of one checked line (`frame.py`), made under `flock` and fsynced before `write` returns. A
write that fails is taken back with `ftruncate`; one that was cut short by a kill or a power loss is taken back by the
next process that opens the file to append, which says so. Record 0 carries the version of the format; records are
ordered by number, never by a clock. The promise holds on a local POSIX disk.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import os
import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from coopt.problems import Problem
from coopt.store.failures import Busy, Corrupt, NewerFormat, Repeated, Unwritable, wrote_nothing
from coopt.store.files import lock, named_errors, sync_folder, unlock, write_all
from coopt.store.frame import Damage, Record, Scan, encode, scan

VERSION = 1
READABLE = (1,)
_PART_OF_HEADER = re.compile(rb"\0*|[0-9a-f]{0,8}|[0-9a-f]{8} [0-9a-f]{0,8}|[0-9a-f]{8} [0-9a-f]{8} (\{.*)?", re.DOTALL)


@dataclasses.dataclass(frozen=True)
class Recovery:
    """What opening a journal took back: a last record that was never finished, hence never acknowledged."""

    kept: int
    dropped: int

    def __str__(self) -> str:
        """The sentence.

        >>> print(Recovery(kept=12, dropped=31))
        recovered 12 records, dropped 31 bytes of a record that was never finished
        """
        return f"recovered {self.kept} records, dropped {self.dropped} bytes of a record that was never finished"


def header(**about: Any) -> Record:
    """Record 0."""
    return {"seq": 0, "kind": "journal", "version": VERSION, **about}


def create(path: Path, records: Sequence[Mapping[str, Any]] = (), **about: Any) -> None:
    """Makes a new journal of a header and some records, durable when this returns; a file that exists is refused."""
    lines = (header(**about), *({**record, "seq": number} for number, record in enumerate(records, start=1)))
    line = b"".join(map(encode, lines))
    with named_errors(path, wanted=len(line)):
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o644)
        try:
            write_all(fd, line)
            os.fsync(fd)
        finally:
            os.close(fd)
        sync_folder(path.parent)


def read(path: Path) -> Scan:
    """What a journal holds now, without its lock and without a change: good records, damage, an unfinished tail.

    Raises `NewerFormat` when a later coopt wrote it and `Unwritable` when it cannot be read.
    """
    with named_errors(path, wanted=0):
        found = scan(path.read_bytes())
    _check_version(path, found.records)
    return found


def problems(path: Path, damage: tuple[Damage, ...]) -> list[Problem]:
    """One sentence for each damaged place: file, record, byte, and how to go on."""
    return [
        Problem(
            file=str(path),
            field=f"record {bad.record} at byte {bad.byte}",
            expected="a record that fits its checksum and its turn",
            got=f"{bad.length} bytes: {bad.reason}" if bad.length else bad.reason,
            hint=f"`coopt repair {path.parent}` keeps every other record",
        )
        for bad in damage
    ]


def _check_version(path: Path, records: list[Record]) -> None:
    if not records or records[0]["seq"] != 0:
        return
    version = records[0].get("version")
    if records[0].get("kind") != "journal" or version not in READABLE:
        raise NewerFormat(
            Problem(
                file=str(path),
                field="version",
                expected=f"a journal of version {' or '.join(map(str, READABLE))}",
                got=f"version {version}",
                hint="a later coopt wrote it; the file has not been touched",
            )
        )


class Journal:
    """A journal open for appending; a context manager.

    `with journal.locked() as news:` holds the lock, gives the records that were not seen before (all of them the
    first time) and allows `write`. `append` is the two in one.
    """

    def __init__(self, path: Path, *, wait: float = 60.0):
        self.path = Path(path)
        self.recovered: Recovery | None = None
        self._wait = wait
        self._thread = threading.RLock()
        self._owner = os.getpid()
        self._unseen: list[Record] = []
        self._done: set[str] = set()
        # Offset behind the last record read or written, and number of the next: one value, set by one assignment,
        # since the exception of a signal may come between any two.
        self._at = (0, 0)
        self._failed = ""
        with named_errors(self.path, wanted=0):
            self._fd = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_NOFOLLOW)
        try:
            with self._exclusive():
                self._catch_up()
                if self._at[1] == 0:  # cut inside record 0: nothing was ever acknowledged
                    self._write(header())
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the file; the kernel gives back a lock still held."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def append(self, kind: str, **fields: Any) -> Record:
        """Writes one record, durable when this returns, and gives it back with its number.

        Raises `Repeated` for a `done` of an id that is done, `DiskFull` or `Unwritable` when the disk refuses, and
        `Corrupt` when another process's record does not fit its checksum.
        """
        with self.locked(keep_unseen=True):
            return self.write(kind, **fields)

    @contextlib.contextmanager
    def locked(self, *, keep_unseen: bool = False) -> Iterator[list[Record]]:
        """Holds the lock over a decision: the records not seen before, then as many `write`s as it takes."""
        with self._exclusive():
            self._catch_up()
            if keep_unseen:
                yield []
                return
            news, self._unseen = self._unseen, []
            yield news

    def write(self, kind: str, **fields: Any) -> Record:
        """Writes one record inside `locked`."""
        return self._write({"seq": self._at[1], "kind": kind, **fields})

    @contextlib.contextmanager
    def _exclusive(self) -> Iterator[None]:
        with self._thread:
            if os.getpid() != self._owner:
                raise RuntimeError("a journal is not carried over a fork: open it again in the child")
            if self._failed:
                raise Unwritable(Problem(file=str(self.path), expected="a durable write", got=self._failed))
            with named_errors(self.path, wanted=0):
                held = lock(self._fd, wait=self._wait)
            if not held:
                raise Busy(
                    Problem(
                        file=str(self.path),
                        expected=f"the journal's lock within {self._wait:g} s",
                        got="another live process holding it",
                    )
                )
            try:
                self._same_file()
                yield
            finally:
                if self._fd >= 0:
                    unlock(self._fd)

    def _same_file(self) -> None:
        """A repair puts a new file in the old one's place; what is appended to the old one would be lost."""
        with named_errors(self.path, wanted=0):
            now, ours = os.stat(self.path), os.fstat(self._fd)
        if (now.st_ino, now.st_dev) != (ours.st_ino, ours.st_dev):
            raise Busy(Problem(file=str(self.path), got="a journal that was repaired meanwhile", hint="open it again"))

    def _catch_up(self) -> None:
        end, number = self._at
        with named_errors(self.path, wanted=0):
            size = os.fstat(self._fd).st_size
            data = _read(self._fd, end, size)
        if size < end:
            raise Corrupt(Problem(file=str(self.path), expected=f"at least the {end} bytes read before", got=str(size)))
        if not data:
            return
        found = scan(data, first=number)
        if number == 0:
            _check_version(self.path, found.records)
        if found.damage:
            shifted = tuple(dataclasses.replace(bad, byte=bad.byte + end) for bad in found.damage)
            raise Corrupt(*problems(self.path, shifted))
        if found.torn:
            self._drop_tail(data[found.end :], kept=number + len(found.records))
        self._done.update(id for record in found.records if (id := _done_id(record)))
        unseen = self._unseen + found.records
        self._at = (end + found.end, number + len(found.records))
        self._unseen = unseen

    def _drop_tail(self, tail: bytes, *, kept: int) -> None:
        if kept == 0 and not _PART_OF_HEADER.fullmatch(tail):
            raise Corrupt(
                Problem(file=str(self.path), expected="a journal", got=f"{len(tail)} bytes that do not begin like one")
            )
        with named_errors(self.path, wanted=0):
            os.ftruncate(self._fd, os.fstat(self._fd).st_size - len(tail))
            os.fsync(self._fd)
        self.recovered = Recovery(kept=kept, dropped=len(tail))
        logging.getLogger(__name__).warning("%s: %s", self.path, self.recovered)

    def _write(self, record: Record) -> Record:
        if _done_id(record) in self._done:
            raise Repeated(
                Problem(file=str(self.path), field=str(record["id"]), expected="a trial that is not done", got="done")
            )
        line = encode(record)
        try:
            write_all(self._fd, line)
            self._sync()
        except BaseException as error:  # a signal's exception too: what is not acknowledged does not stay
            self._take_back()
            if isinstance(error, OSError):
                raise wrote_nothing(self.path, error, wanted=len(line)) from None
            raise
        record = json.loads(line[line.index(b"{") :])  # as whoever reads it will have it
        self._done.add(_done_id(record) or "")
        self._at = (self._at[0] + len(line), record["seq"] + 1)
        return record

    def _sync(self) -> None:
        try:
            os.fsync(self._fd)
        except OSError as error:
            # The kernel may have dropped the pages: a second fsync would succeed and mean nothing.
            self._failed = f"fsync failed ({os.strerror(error.errno or 0)}); open the run again once the disk is right"
            raise

    def _take_back(self) -> None:
        try:
            os.ftruncate(self._fd, self._at[0])
        except OSError as error:
            self._failed = f"a failed write could not be taken back ({os.strerror(error.errno or 0)})"


def _done_id(record: Record) -> str | None:
    """The trial that the record says is done."""
    name = record.get("id") if record.get("kind") == "done" else None
    return name if isinstance(name, str) else None


def _read(fd: int, start: int, end: int) -> bytes:
    parts = []
    while start < end:
        part = os.pread(fd, end - start, start)
        if not part:
            break
        parts.append(part)
        start += len(part)
    return b"".join(parts)
