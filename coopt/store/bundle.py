r"""Many small files as one that can be cited: a plain tar with no dates, no owners and its own digests.

    manifest.json          {"kind": "bundle", "version": 1, "files": {name: SHA-256}, ..., "seal": SHA-256 of all that}
    study.yaml, journal, answer.json, inputs/...

The same files give the same bytes on every machine, so the SHA-256 of a bundle names its content. Any `tar` lists it;
reading it here takes plain files with plain names alone, and every byte must be the one that writing would put there.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from coopt.problems import Problem, Refused
from coopt.store.failures import Corrupt, NewerFormat
from coopt.store.files import inside, make_folder, named_errors, safe_name, write_whole
from coopt.store.identity import canonical

VERSION = 1
MANIFEST = "manifest.json"
LARGEST = 1 << 30  # B
_BLOCK = 512


@dataclasses.dataclass(frozen=True)
class Bundle:
    """Files by name, what was said about them, and the SHA-256 (hex) of the whole."""

    files: Mapping[str, bytes]
    about: Mapping[str, Any]
    digest: str

    def unpack(self, folder: Path) -> None:
        """Writes every file below `folder`, never elsewhere."""
        for name, data in self.files.items():
            path = inside(folder, name)
            make_folder(path.parent)
            write_whole(path, data)


def write(path: Path, files: Mapping[str, bytes], **about: Any) -> Bundle:
    """Writes files as one, whole or not at all."""
    digests = {name: hashlib.sha256(files[name]).hexdigest() for name in sorted(files)}
    said = {**about, "kind": "bundle", "version": VERSION, "files": digests}
    data = _packed({MANIFEST: _sealed(said), **{name: files[name] for name in digests}})
    with named_errors(path, wanted=len(data)):
        make_folder(path.parent)
    write_whole(path, data)
    return Bundle(files, said, hashlib.sha256(data).hexdigest())


def read(path: Path) -> Bundle:
    """Reads a bundle and checks every byte of it: `Corrupt`, or `NewerFormat` for one of a later coopt."""
    with named_errors(path, wanted=0):
        if path.stat().st_size > LARGEST:
            raise Corrupt(Problem(file=str(path), expected=f"a bundle of at most {LARGEST >> 30} GiB", got="more"))
        data = path.read_bytes()
    files = _unpacked(path, data)
    try:
        said = json.loads(files.pop(MANIFEST))
        kind, version, digests = said["kind"], said["version"], dict(said["files"])
    except (KeyError, ValueError, TypeError, RecursionError):
        raise Corrupt(Problem(file=str(path), expected=f"a bundle with a {MANIFEST}", got="none that reads")) from None
    if kind != "bundle" or version != VERSION:
        raise NewerFormat(Problem(file=str(path), expected=f"a bundle of version {VERSION}", got=f"{kind} {version}"))
    wrong = [name for name in digests.keys() | files.keys() if digests.get(name) != _digest(files.get(name))]
    said.pop("seal", None)
    if wrong or data != _packed({MANIFEST: _sealed(said), **files}):
        got = f"others: {', '.join(sorted(wrong)[:3])}" if wrong else "a manifest or headers that were changed"
        raise Corrupt(Problem(file=str(path), expected="the bytes that were bundled", got=got))
    return Bundle(files, said, hashlib.sha256(data).hexdigest())


def _sealed(said: Mapping[str, Any]) -> bytes:
    """The manifest with its own SHA-256 in it."""
    return canonical({**said, "seal": hashlib.sha256(canonical(said)).hexdigest()}) + b"\n"


def _digest(data: bytes | None) -> str:
    return "" if data is None else hashlib.sha256(data).hexdigest()


def _packed(files: Mapping[str, bytes]) -> bytes:
    parts = []
    for name, data in files.items():
        parts += [_header(name, len(data)), data, bytes(-len(data) % _BLOCK)]
    return b"".join((*parts, bytes(2 * _BLOCK)))


def _header(name: str, size: int) -> bytes:
    """The block before a plain file in POSIX's ustar form: its name, its size, and nothing of a machine or a day."""
    for part in name.split("/"):
        safe_name(part, field="file")
    encoded = name.encode("ascii")
    fields = (encoded.ljust(100, b"\0"), b"0000644\0", b"0000000\0" * 2, b"%011o\0" % size, b"0" * 11 + b"\0")
    rest = (b"0", bytes(100), b"ustar\x0000", bytes(64), b"0000000\0" * 2, bytes(167))
    total = sum(map(sum, (*fields, *rest))) + 8 * 32
    block = b"".join((*fields, b"%06o\0 " % total, *rest))
    if len(block) != _BLOCK:
        raise Corrupt(Problem(field="file", expected="a name of at most 100 characters", got=name[:120]))
    return block


def _unpacked(path: Path, data: bytes) -> dict[str, bytes]:
    """Names and contents; a block that `_header` would not have made ends it, so nothing a tar could do is done."""
    files: dict[str, bytes] = {}
    at = 0
    while data[at : at + 1] not in (b"", b"\0"):
        block = data[at : at + _BLOCK]
        name, digits, size = block[:100].rstrip(b"\0"), block[124:135], 0
        try:
            size = int(digits, 8)
            sound = block == _header(name.decode("ascii"), size) and name.decode() not in files
        except (ValueError, Refused):
            sound = False
        if not sound or at + _BLOCK + size > len(data):
            raise Corrupt(Problem(file=str(path), field=f"byte {at}", expected="a plain file's header", got="none"))
        files[name.decode()] = data[at + _BLOCK : at + _BLOCK + size]
        at += _BLOCK + size + -size % _BLOCK
    return files
