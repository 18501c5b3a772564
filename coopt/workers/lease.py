"""One owner per accelerator: a lease is a locked file, released by the kernel whatever becomes of its holder."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import re
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from coopt.problems import Problem, Refused
from coopt.workers.job import Job
from coopt.workers.outcome import Outcome

POLL = 0.02  # s between two tries for a lease that another holds
PATIENCE = 5.0  # s of waiting after which whoever waits is told why


class LeaseTimeout(Exception):
    """Somebody else kept the device for longer than we were told to wait."""

    def __init__(self, name: str, wait_s: float):
        super().__init__(f"{name} stayed leased for {wait_s:g} s")

    def outcome(self) -> Outcome:
        """What became of the job that waited."""
        return Outcome(status="timeout", phase="lease", message=str(self))


def path_of(name: str) -> Path:
    """The file that stands for a device; the same for all processes of this user on this host."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,63}", name):
        raise Refused(
            Problem(field="lease", expected="a device name of letters, digits and . _ : -", got=repr(name)[:80])
        )
    return Path(tempfile.gettempdir()) / f"coopt-{os.getuid()}-{name}.lease"


def leased(job: Job) -> contextlib.AbstractContextManager[int | None]:
    """The lease that a job wants, or nothing where it wants none."""
    return hold(job.lease, wait_s=job.lease_wait_s) if job.lease else contextlib.nullcontext()


@contextlib.contextmanager
def hold(name: str, *, wait_s: float) -> Iterator[int]:
    """Holds a device's lease and yields the descriptor of its lock; raises `LeaseTimeout` after `wait_s` seconds.

    A child that keeps a copy of the descriptor keeps the device, also when its parent has been killed.
    """
    began = time.monotonic()
    until, tell = began + wait_s, began + min(PATIENCE, wait_s)
    descriptor = os.open(path_of(name), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                now = time.monotonic()
                if now >= until:
                    raise LeaseTimeout(name, wait_s) from None
                if now >= tell:
                    tell = until
                    logging.getLogger(__name__).warning(
                        "another process of coopt times on %s: waiting for it up to %g s", name, wait_s
                    )
                time.sleep(POLL)
        yield descriptor
    finally:
        os.close(descriptor)
