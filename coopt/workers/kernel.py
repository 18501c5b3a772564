"""The kernel services that isolation rests on. On Linux all of them; elsewhere process groups alone.

macOS has no parent-death signal and no subreaper: there a fork server still dies with its parent, because the socket
between them closes, but a grandchild that leaves its process group is not found.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import sys

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
FILE_LIMIT = 1 << 30  # B that a job may write to one file


def die_with(parent: int) -> None:
    """Asks for SIGKILL when the parent process dies, and exits at once if it is dead already."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)


def adopt_orphans() -> None:
    """Makes descendants whose parents died children of this process, so that none escapes."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def children() -> list[int]:
    """Process ids of this process's children, adopted ones included."""
    try:
        with open(f"/proc/self/task/{os.getpid()}/children") as file:
            return [int(word) for word in file.read().split()]
    except OSError:  # no /proc: not Linux
        return []


def kill_group(pid: int) -> None:
    """SIGKILL to the process group led by `pid`; to `pid` alone while it does not lead one yet."""
    for kill in (os.killpg, os.kill):
        try:
            kill(pid, signal.SIGKILL)
            return
        except ProcessLookupError:
            continue
        except PermissionError:  # macOS: the group holds only zombies
            return


def cap_memory(limit: int | None) -> None:
    """Limits the private writable memory of this process (B); None lifts the limit.

    RLIMIT_DATA, not RLIMIT_AS: address space that allocators reserve and never touch would count in the latter.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (hard if limit is None else limit, hard))


def cap_files() -> None:
    """Limits every file that this process and its children write to FILE_LIMIT, and lets them leave no core."""
    for what, limit in ((resource.RLIMIT_FSIZE, FILE_LIMIT), (resource.RLIMIT_CORE, 0)):
        _, hard = resource.getrlimit(what)
        limit = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
        resource.setrlimit(what, (limit, limit))


def available_memory() -> float:
    """Bytes of memory that a new program could use now; NaN where the kernel does not say."""
    try:
        with open("/proc/meminfo") as file:
            for line in file:
                if line.startswith("MemAvailable:"):
                    return float(line.split()[1]) * 1024.0
    except OSError:
        pass
    return float("nan")


def resident(pid: int) -> float:
    """Bytes of resident memory of a process; NaN where the kernel does not say."""
    try:
        with open(f"/proc/{pid}/statm") as file:
            return float(file.read().split()[1]) * resource.getpagesize()
    except OSError:
        return float("nan")
