"""Names that stay inside their folder, writes that are whole or absent, locks that die with their holder."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

from coopt.problems import Problem, Refused
from coopt.store.failures import wrote_nothing

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_UNFINISHED = re.compile(r"\..+\.(\d{1,10})-[0-9a-f]{8}\.new")  # as `unfinished` makes them
_LONGEST = 100
# Names some systems keep for devices; a run made here should open there.
_DEVICES = {"con", "prn", "aux", "nul", *(f"{port}{n}" for port in ("com", "lpt") for n in range(1, 10))}


def safe_name(name: str, *, field: str = "name") -> str:
    """The name, if it is one plain file name on every system; otherwise `Refused`.

    >>> safe_name("gpt-small.2")
    'gpt-small.2'
    """
    plain = isinstance(name, str) and len(name) <= _LONGEST and _NAME.fullmatch(name) and not name.endswith(".")
    if plain and name.split(".")[0].casefold() not in _DEVICES:
        return name
    shown = ascii(name) if len(str(name)) <= 60 else f"{ascii(name)[:60]}... ({len(name)} characters)"
    raise Refused(
        Problem(
            field=field,
            expected=f"letters, digits, `.`, `_` and `-`, a letter or digit first, at most {_LONGEST}",
            got=shown,
            hint="a name is one name, never a path",
        )
    )


def inside(folder: Path, name: str) -> Path:
    """The path of the file `name` in `folder`; `Refused` when it would lie, or lead, anywhere else."""
    path = folder.joinpath(*(safe_name(part, field="file") for part in name.split("/")))
    root = folder.resolve()
    if not path.resolve().is_relative_to(root):
        raise Refused(
            Problem(file=str(path), field="file", expected=f"a file inside {root}", got=f"a link to {path.resolve()}")
        )
    return path


def write_whole(path: Path, data: bytes) -> None:
    """Writes a file so that after any crash it is the old one or the new one, and the new one once this returns."""
    waiting = unfinished(path)
    try:
        fd = os.open(waiting, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o644)
        try:
            write_all(fd, data)
            os.fsync(fd)
        finally:
            os.close(fd)
        os.replace(waiting, path)
        sync_folder(path.parent)
    except OSError as error:
        with contextlib.suppress(OSError):
            os.unlink(waiting)
        raise wrote_nothing(path, error, wanted=len(data)) from None


def writable(out: str | None) -> Path | None:
    """The file that `--out` names, if any; Refused, before hours of work, where none could be written."""
    if out is None:
        return None
    path = Path(out)
    if path.is_dir() or not path.parent.is_dir() or not os.access(path.parent, os.W_OK):
        raise Refused(Problem(field="out", expected="a file in a folder that exists and can be written", got=out))
    return path


def unfinished(path: Path) -> Path:
    """A name beside `path`, this process's own, for what is to become it by one rename."""
    return path.with_name(f".{path.name}.{os.getpid()}-{os.urandom(4).hex()}.new")


def sweep(folder: Path) -> None:
    """Clears what processes that are gone left unfinished in a folder."""
    for left in folder.glob(".*.new"):
        named = _UNFINISHED.fullmatch(left.name)
        if named and not _exists(int(named[1])):
            with contextlib.suppress(OSError):
                shutil.rmtree(left) if left.is_dir() and not left.is_symlink() else left.unlink()


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass
    return True


def write_all(fd: int, data: bytes) -> None:
    """Writes every byte; the first call takes them all unless the disk is full, and then the next one says so."""
    done = os.write(fd, data)
    while done < len(data):
        done += os.write(fd, data[done:])


def sync_folder(folder: Path) -> None:
    """Makes the names in a folder durable: a file whose name is lost is lost."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def make_folder(folder: Path) -> None:
    """Makes a folder and those above it, each durable in the one that holds it."""
    if folder.is_dir():
        return
    make_folder(folder.parent)
    folder.mkdir(exist_ok=True)
    sync_folder(folder.parent)


def lock(fd: int, *, wait: float) -> bool:
    """Takes the exclusive lock of an open file within `wait` seconds; the kernel frees it when the holder dies."""
    deadline = time.monotonic() + wait
    pause = 0.0002
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() >= deadline:
                return False
        time.sleep(pause)
        pause = min(2 * pause, 0.005)


def unlock(fd: int) -> None:
    """Gives the lock back."""
    fcntl.flock(fd, fcntl.LOCK_UN)


@contextlib.contextmanager
def named_errors(path: Path, *, wanted: int) -> Iterator[None]:
    """Turns the system's errors on `path` into a sentence that names it."""
    try:
        yield
    except OSError as error:
        raise wrote_nothing(path, error, wanted=wanted) from None
