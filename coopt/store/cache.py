r"""A cache of bytes by identity that may be lost, damaged or full and is then only slower, never wrong.

    folder/ab/abcd...   "sha256 of key and content\n" content

The key is `identity(...)` of everything the content depends on (device, versions, flags, profile, code): one of them
changed is another key, hence a miss. Nothing read from a cache is executed.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import logging
import os
import re
from pathlib import Path

from coopt.problems import Problem, Refused

_KEY = re.compile(r"[0-9a-f]{64}")
_HEAD = 65  # 64 hex digits and a newline


@dataclasses.dataclass
class Tally:
    """What a cache did for its owner; a report shows it, since a cache that cannot write is only seen as slowness."""

    hits: int = 0
    misses: int = 0
    damaged: int = 0
    writes: int = 0
    failed_writes: int = 0
    last_failure: str = ""


class Cache:
    """A folder of cached bytes; several processes may share it."""

    def __init__(self, folder: Path):
        self.folder = Path(folder)
        self.tally = Tally()

    def get(self, key: str) -> bytes | None:
        """The content under a key, or None: never written, lost, or damaged (noted, and taken away)."""
        path = self._path(key)
        try:
            data = path.read_bytes()
        except OSError:  # absent or unreadable: both are a miss
            self.tally.misses += 1
            return None
        content = data[_HEAD:]
        if data[:_HEAD] == _digest(key, content):
            self.tally.hits += 1
            return content
        self.tally.misses += 1
        self.tally.damaged += 1
        logging.getLogger(__name__).warning("%s: a cached file is damaged and counts as absent", path)
        with contextlib.suppress(OSError):
            os.unlink(path)
        return None

    def put(self, key: str, content: bytes) -> bool:
        """Keeps the content; False, counted in `tally`, when the disk does not take it."""
        path = self._path(key)
        waiting = path.with_name(f".{key[:16]}.{os.getpid()}.{os.urandom(4).hex()}.new")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            waiting.write_bytes(_digest(key, content) + content)
            os.replace(waiting, path)
        except OSError as error:
            with contextlib.suppress(OSError):
                os.unlink(waiting)
            self.tally.failed_writes += 1
            self.tally.last_failure = f"{path}: {os.strerror(error.errno or 0)}"
            if self.tally.failed_writes == 1:
                logging.getLogger(__name__).warning("the cache cannot be written: %s", self.tally.last_failure)
            return False
        self.tally.writes += 1
        return True

    def _path(self, key: str) -> Path:
        if not _KEY.fullmatch(key):
            raise Refused(Problem(field="cache key", expected="64 hex digits of `identity`", got=ascii(key)[:80]))
        return self.folder / key[:2] / key


def _digest(key: str, content: bytes) -> bytes:
    """The first line of a file; the key is in it, so that a file under another's name is not believed."""
    return hashlib.sha256(key.encode() + content).hexdigest().encode() + b"\n"
