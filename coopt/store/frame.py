r"""One record as one line of bytes, and a file of such lines as records and damage. Pure: bytes in, values out.

    line = length crc32 json "\n"        length: bytes of json; both numbers 8 lower-case hex digits

The length finds the end of a record even where a flipped bit made or unmade a newline, so that one damaged record
never takes its neighbour with it. Only a tail without a newline may be a write that was cut short (`torn`); a
complete line that does not fit its checksum, its number or its length is `damage`.
"""

from __future__ import annotations

import dataclasses
import json
import zlib
from collections.abc import Iterator
from typing import Any

from coopt.store.identity import canonical

Record = dict[str, Any]
_HEAD = 18  # "llllllll cccccccc "
_BATCH = 512  # records decoded by one call: faster, and they share the strings of their keys
_TORN = "torn"


@dataclasses.dataclass(frozen=True)
class Damage:
    """A stretch of bytes that is not the record it should be."""

    record: int  # number of the first record affected; record 0 is the header
    byte: int  # offset where the bad line starts
    length: int  # bytes up to the next good record; 0: lines are missing here
    following: int  # number of the next good record
    reason: str
    whole: Record | None = None  # the record, where only its newline is bad


@dataclasses.dataclass(frozen=True)
class Scan:
    """What a stretch of bytes holds."""

    records: list[Record]
    end: int  # offset behind the last good record
    torn: int = 0  # bytes of a last record that was never finished
    damage: tuple[Damage, ...] = ()


def encode(record: Record) -> bytes:
    r"""The line of one record.

    >>> encode({"seq": 0})
    b'00000009 bc928d2c {"seq":0}\n'
    """
    body = canonical(record)
    return b"%08x %08x %s\n" % (len(body), zlib.crc32(body), body)


def scan(data: bytes, *, first: int = 0) -> Scan:
    """Reads lines; `first` is the number the first record must carry.

    >>> good = encode({"seq": 0}) + encode({"seq": 1})
    >>> cut = scan(good + b"00000009 0aa")
    >>> [record["seq"] for record in cut.records], cut.torn
    ([0, 1], 12)
    >>> scan(good.replace(b":1}", b":3}")).damage[0].record
    1
    """
    records: list[Record] = []
    damage: list[Damage] = []
    at, end, torn, number = 0, 0, 0, first
    while at < len(data):
        bodies, stop, reason = _bodies(data, at)
        fresh, fault = _decode(bodies, number)
        if fault:
            stop = at + sum(_HEAD + len(body) + 1 for body in bodies[: len(fresh)])
            reason = fault
        records += fresh
        number += len(fresh)
        end = stop if fresh else end
        if not reason:
            break
        if reason == _TORN:
            torn = len(data) - stop
            break
        damage.append(_damage(data, stop, number, reason))
        at, number = stop + damage[-1].length, damage[-1].following
    return Scan(records, end, torn, tuple(damage))


def _body_at(data: bytes, start: int) -> bytes | None:
    """The checked JSON of the record that starts at `start`, whatever follows it; None when there is none."""
    try:
        length = int(data[start : start + 8], 16)
    except ValueError:
        return None
    body = data[start + _HEAD : start + _HEAD + length]
    if len(body) != length or data[start : start + _HEAD] != b"%08x %08x " % (length, zlib.crc32(body)):
        return None
    return body


def _bodies(data: bytes, at: int) -> tuple[list[bytes], int, str]:
    """Checked bodies from `at` on, the offset where they stop, and why: '' at the end of the data."""
    bodies: list[bytes] = []
    size = len(data)
    while at < size:
        body = _body_at(data, at)
        if body is None:
            return bodies, at, "the line does not fit its checksum" if data.find(b"\n", at) >= 0 else _TORN
        behind = at + _HEAD + len(body)
        if behind == size:
            return bodies, at, _TORN
        if data[behind] != 10:
            return bodies, at, "the record is whole but its newline is not"
        bodies.append(body)
        at = behind + 1
    return bodies, at, ""


def _decode(bodies: list[bytes], number: int) -> tuple[list[Record], str]:
    """The records of checked bodies up to the first that is no record, or not the one whose turn it is."""
    records: list[Record] = []
    for low in range(0, len(bodies), _BATCH):
        batch = bodies[low : low + _BATCH]
        try:
            values = json.loads(b"[" + b",".join(batch) + b"]")
        except ValueError:
            values = []
        if len(values) != len(batch):
            values = [_value(body) for body in batch]
        for value in values:
            if not isinstance(value, dict):
                return records, "the line is no JSON object"
            if value.get("seq") != number:
                return records, f"the line carries number {value.get('seq')}: lines are missing, doubled or moved"
            records.append(value)
            number += 1
    return records, ""


def _damage(data: bytes, bad: int, number: int, reason: str) -> Damage:
    """How far the damage at offset `bad`, where record `number` should start, reaches."""
    body = _body_at(data, bad)
    value = _value(body) if body is not None else None
    if body is not None and _number(value) == number:  # only its newline is bad
        return Damage(number, bad, _HEAD + len(body) + 1, number + 1, reason, value)
    if _number(value) > number:
        return Damage(number, bad, 0, _number(value), reason)
    for start in _line_starts(data, bad):
        found = _number(_value(_body_at(data, start)))
        if found >= number:
            return Damage(number, bad, start - bad, found, reason)
    return Damage(number, bad, len(data) - bad, number + 1, reason)


def _line_starts(data: bytes, bad: int) -> Iterator[int]:
    found = data.find(b"\n", bad)
    while found >= 0:
        yield found + 1
        found = data.find(b"\n", found + 1)


def _value(body: bytes | None) -> Any:
    try:
        return json.loads(body or b"")
    except ValueError:
        return None


def _number(value: Any) -> int:
    number = value.get("seq") if isinstance(value, dict) else None
    return number if isinstance(number, int) else -1
