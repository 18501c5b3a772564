"""What can go wrong between a record and the disk, each said in one sentence with the file and the figures."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from coopt.problems import Problem, Refused


class StoreFailure(Refused):
    """Something between a record and the disk went wrong; nothing that was acknowledged is lost by it."""


class Corrupt(StoreFailure):
    """A complete record does not carry what its checksum says; it is reported and never dropped unasked."""


class NewerFormat(StoreFailure):
    """The file was written by a later coopt; it has not been touched."""


class DiskFull(StoreFailure):
    """The disk, a quota or a limit on file size stopped a write; the file is back to its last good byte."""


class Unwritable(StoreFailure):
    """The system refused a write or could not make it durable; the record is not acknowledged."""


class Busy(StoreFailure):
    """Another live process holds the lock."""


class Repeated(StoreFailure):
    """A trial that is done was about to be done a second time."""


def wrote_nothing(path: Path, error: OSError, *, wanted: int) -> StoreFailure:
    """The failure that says which write of `wanted` bytes did not happen, why, and how many bytes are free."""
    reason = os.strerror(error.errno) if error.errno else str(error)
    if not wanted and error.errno in (errno.ENOENT, errno.EISDIR):  # it was to be read alone
        return Unwritable(Problem(file=str(path), expected="a file that can be read", got=reason))
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return DiskFull(
            Problem(
                file=str(path),
                expected=f"room for {wanted} bytes",
                got=f"{reason} with {free_bytes(path)} bytes free",
                hint="what was written before is kept; free some space (or raise the limit) and go on with `--resume`",
            )
        )
    return Unwritable(
        Problem(
            file=str(path),
            expected="a durable write",
            got=reason,
            hint="what was acknowledged before is kept; put the disk right and go on with `--resume`",
        )
    )


def free_bytes(path: Path) -> int:
    """Bytes an ordinary user may still write on the disk that holds `path`; 0 where nobody can say."""
    folder = path if path.is_dir() else path.parent
    try:
        disk = os.statvfs(folder)
    except OSError:
        return 0
    return disk.f_bavail * disk.f_frsize
