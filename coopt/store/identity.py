"""Canonical JSON, the hash that names a trial, and who this process is."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import os
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from coopt.problems import Problem, Refused


def canonical(value: Any) -> bytes:
    """The one JSON text of a value: keys sorted, no spaces, ASCII; non-finite numbers are refused.

    >>> canonical({"tp": 8.0, "layout": (1, 2)})
    b'{"layout":[1,2],"tp":8}'
    """
    text = json.dumps(plain(value), sort_keys=True, separators=(",", ":"), allow_nan=False)
    return text.encode("ascii")


def identity(*parts: Any) -> str:
    """SHA-256 (hex) of the canonical JSON of the parts: the name of a trial, a measurement, a compilation.

    Equal numbers are equal whatever their type (8, 8.0, a NumPy scalar); order of keys does not matter, order of
    parts and of lists does.

    >>> identity({"tp": 8}, "h100")[:12]
    'bf7e6f243a84'
    >>> identity({"tp": 8}, "h100") == identity({"tp": 8.0}, "h100") != identity({"tp": 4}, "h100")
    True
    """
    return hashlib.sha256(canonical(parts)).hexdigest()


def plain(value: Any, where: str = "value") -> Any:
    """JSON's own types out of NumPy's and Python's; a float that is a whole number becomes that integer.

    Raises `Refused`, naming the place, for a number that is not finite, a key that is not text, or any other type.
    """
    if value is None or isinstance(value, str | bool):
        return value
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return _number(float(value), where)
    if isinstance(value, Mapping):
        return {_key(key, where): plain(item, f"{where}.{key}") for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item, f"{where}[{i}]") for i, item in enumerate(value)]
    if hasattr(value, "tolist"):  # a NumPy or JAX scalar or array
        return plain(value.tolist(), where)
    raise _refused(where, "text, a number, a list or a mapping", type(value).__name__, "")


def finite(value: Any) -> Any:
    """The same value with every number that is not finite replaced by None (JSON's null): what a record may hold.

    >>> finite({"price": float("nan"), "times": [1.0, float("inf")]})
    {'price': None, 'times': [1.0, None]}
    """
    if isinstance(value, Mapping):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    if hasattr(value, "tolist"):
        return finite(value.tolist())
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _number(value: float, where: str) -> float | int:
    if not math.isfinite(value):
        raise _refused(where, "a finite number", str(value), "write null for what is not known")
    return int(value) if value.is_integer() and abs(value) < 2**53 else value


def _key(key: Any, where: str) -> str:
    if not isinstance(key, str):
        raise _refused(where, "keys that are text", repr(key), "")
    return key


def _refused(where: str, expected: str, got: str, hint: str) -> Refused:
    return Refused(Problem(field=where, expected=expected, got=got, hint=hint))


@dataclasses.dataclass(frozen=True)
class Owner:
    """One process on one boot of one host; `born` tells it from a later process with the same number."""

    pid: int
    host: str
    boot: str
    born: str

    def __str__(self) -> str:
        """The owner as a person needs it.

        >>> print(Owner(pid=12, host="node7", boot="", born=""))
        process 12 on node7
        """
        return f"process {self.pid} on {self.host}"


def this_process() -> Owner:
    """The owner that this process is."""
    return Owner(pid=os.getpid(), host=socket.gethostname(), boot=_boot(), born=_born(os.getpid()) or "")


def alive(owner: Owner, *, elsewhere: bool) -> bool:
    """True while that very process may still be running; `elsewhere` is the answer for one of another host."""
    if owner.host != socket.gethostname():
        return elsewhere
    if owner.boot != _boot():
        return False
    try:
        os.kill(owner.pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # it runs, as another user
    born = _born(owner.pid)
    return born is not None and (not owner.born or born == owner.born)


def _boot() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""  # not Linux: the process number alone must do


def _born(pid: int) -> str | None:
    """Start time of a process in clock ticks since the boot; None when it is a zombie or gone; '' when unknown."""
    if not os.path.isdir("/proc/self"):
        return ""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else fields[19]
