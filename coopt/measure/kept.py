"""What compiled programs said, kept on disk: a pod's takes minutes to compile, and reading it again takes none."""

from __future__ import annotations

import dataclasses
import gzip
import hashlib
import json
import logging
import os
import re
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from coopt.problems import Problem, Refused

ENVIRONMENT = ("LIBTPU_INIT_ARGS", "XLA_FLAGS")  # what else tells a compiler what to do


@dataclasses.dataclass(frozen=True)
class Shelf:
    """Where programs' figures are kept, and all that they depend on besides a program's own text."""

    target: str = ""
    versions: Mapping[str, str] = dataclasses.field(default_factory=dict)
    options: Mapping[str, str] = dataclasses.field(default_factory=dict)  # of the compiler
    folder: str | None = None  # None: nothing is kept


NONE = Shelf()


def shelf_of(job: Mapping[str, Any], target: str, versions: Mapping[str, str]) -> Shelf:
    """The shelf of a job by its fields `texts` (a folder), `flags` (of the compiler) and `chip` (a described GPU)."""
    chip = json.dumps(job["chip"], sort_keys=True) if job.get("chip") else ""
    return Shelf(target + chip, versions, options(str(job.get("flags") or "")), job.get("texts"))


def read(shelf: Shelf, text: str) -> dict[str, Any] | None:
    """What was kept of a lowered program; None where it is new, or its file is damaged, which is said."""
    try:
        return json.loads(gzip.decompress(_file(shelf, text).read_bytes())) if shelf.folder else None
    except FileNotFoundError:
        return None
    except (OSError, EOFError, ValueError, zlib.error) as error:
        logging.getLogger(__name__).warning("%s is damaged and compiled anew: %s", _file(shelf, text), error)
        return None


def write(shelf: Shelf, text: str, made: Mapping[str, Any]) -> None:
    """Keeps the figures of a program."""
    if shelf.folder:
        put(_file(shelf, text), gzip.compress(json.dumps(made).encode(), 3))


def put(path: Path, data: bytes) -> None:
    """Writes a file whole or not at all; a disk that takes none is said, and costs no more than compiling again."""
    whole = path.with_suffix(f".{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        whole.write_bytes(data)
        whole.replace(path)
    except OSError as error:
        logging.getLogger(__name__).warning("what was compiled could not be kept: %s", error)


def _file(shelf: Shelf, text: str) -> Path:
    said = [shelf.target, shelf.versions, text]
    flags = {name: os.environ[name] for name in ENVIRONMENT if os.environ.get(name)} | dict(shelf.options)
    digest = hashlib.sha256(json.dumps([*said, sorted(flags.items())] if flags else said).encode()).hexdigest()
    return Path(str(shelf.folder)) / f"{digest[:32]}.json.gz"


def options(flags: str) -> dict[str, str]:
    """Options of a compiler from the way its flags are written on a command line; a later one wins.

    >>> options("--xla_enable_async_all_gather=true --xla_tpu_scoped_vmem_limit_kib=81920 --xla_a")
    {'xla_enable_async_all_gather': 'true', 'xla_tpu_scoped_vmem_limit_kib': '81920', 'xla_a': 'true'}
    """
    words = flags.split()
    if bad := [word for word in words if not re.fullmatch(r"--\w+(=\S*)?", word)]:
        expected = "flags of XLA, such as --xla_enable_async_all_gather=true"
        raise Refused(*(Problem(field="flags", expected=expected, got=word[:60]) for word in bad))
    return {name: value or "true" for name, _, value in (word[2:].partition("=") for word in words)}
