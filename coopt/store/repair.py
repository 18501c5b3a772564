"""Puts a damaged journal right: every good record stays, what is not one is set aside and named."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

from coopt.problems import Problem
from coopt.store import journal
from coopt.store.failures import Busy, Corrupt
from coopt.store.files import lock, named_errors, sync_folder, write_whole
from coopt.store.frame import Damage, Record, Scan, encode, scan
from coopt.store.saved import JOURNAL, driver


@dataclasses.dataclass(frozen=True)
class Repair:
    """What a repair keeps and drops; `original` is where the damaged bytes are kept (None: nothing was changed)."""

    path: Path
    kept: int
    damage: tuple[Damage, ...]
    torn: int
    original: Path | None = None

    def __str__(self) -> str:
        """The sentences, one a line."""
        lines = [f"{self.path}: {self.kept} records are good"]
        for bad in self.damage:
            fate = "kept, its newline put right" if bad.whole is not None else "dropped"
            lines.append(f"record {bad.record} at byte {bad.byte}, {bad.length} bytes: {bad.reason}: {fate}")
        if any(bad.record == 0 and bad.whole is None for bad in self.damage):
            lines.append(f"record 0 is written anew as version {journal.VERSION}, which the others are taken to be")
        if self.torn:
            lines.append(f"{self.torn} bytes of a record that was never finished: dropped")
        if self.original is not None:
            lines.append(f"the damaged file is kept as {self.original.name}")
        return "\n".join(lines)


def repair(path: Path, *, drop: bool) -> Repair:
    """Says what is wrong with a journal (or a run's), and with `drop` writes it anew without it.

    A damaged record becomes a record of kind `dropped` under its own number; a trial whose outcome was in it is done
    again. Raises `Busy` while the run is driven, `Corrupt` when no record in the file is good, `NewerFormat` when a
    later coopt wrote it.
    """
    path = Path(path)
    path = path / JOURNAL if path.is_dir() else path
    if not drop:
        return _look(path, journal.read(path))
    if who := driver(path.parent):
        raise Busy(Problem(file=str(path), expected="a run that nobody drives", got=f"{who} driving it"))
    with named_errors(path, wanted=0):
        fd = os.open(path, os.O_RDWR | os.O_NOFOLLOW)
    try:
        if not lock(fd, wait=10.0):
            raise Busy(Problem(file=str(path), expected="the journal's lock", got="another live process holding it"))
        found = journal.read(path)
        looked = _look(path, found)
        if not found.damage and not found.torn:
            return looked
        data = b"".join(map(encode, _mended(found)))
        again = scan(data)
        if again.damage or again.torn:
            raise Corrupt(*journal.problems(path, again.damage))
        original = _set_aside(path)
        write_whole(path, data)
        return dataclasses.replace(looked, original=original)
    finally:
        os.close(fd)


def _look(path: Path, found: Scan) -> Repair:
    kept = len(found.records) + sum(bad.whole is not None for bad in found.damage)
    if not kept:
        raise Corrupt(Problem(file=str(path), expected="a journal", got="no good record in it"))
    return Repair(path=path, kept=kept, damage=found.damage, torn=found.torn)


def _mended(found: Scan) -> list[Record]:
    """The records with every hole filled, so that numbers follow one another."""
    records = {record["seq"]: record for record in found.records}
    for bad in found.damage:
        if bad.whole is not None:
            records[bad.record] = bad.whole
            continue
        for number in range(bad.record, bad.following):
            about = {"byte": bad.byte, "bytes": bad.length, "reason": bad.reason}
            records[number] = {"seq": number, "kind": "dropped", **about} if number else journal.header(repaired=about)
    return [records[number] for number in sorted(records)]


def _set_aside(path: Path) -> Path:
    number = 1
    while os.path.lexists(aside := path.with_name(f"{path.name}.damaged-{number}")):
        number += 1
    with named_errors(path, wanted=0):
        os.link(path, aside)
        sync_folder(path.parent)
    return aside
