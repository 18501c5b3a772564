"""Compiled texts kept on disk: a pod's program takes minutes to compile, and reading it again takes none."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

from coopt.measure import host
from coopt.measure.compile import known, memory_of, versions


def compiled(
    lowered: Any, *, target: str, folder: str | None = None, report: Callable[[str], None] = lambda phase: None
) -> dict[str, Any]:
    """What compiling a lowered program gave: `text`, `memory`, `resident` (B), `flops`, `bytes`, `compile_s`.

    The figures of a program that was compiled before, for the same target by the same compiler, are read from
    `folder`; a file that cannot be read is made again.
    """
    name = hashlib.sha256(json.dumps([target, toolchain(), lowered.as_text()]).encode()).hexdigest()[:32]
    path = Path(folder) / f"{name}.json.gz" if folder else None
    if path is not None and (found := _read(path)):
        return found
    report("compile")
    started = time.perf_counter()
    program = lowered.compile()
    seconds = time.perf_counter() - started
    costs = program.cost_analysis() or {}
    costs = costs[0] if isinstance(costs, list) else costs
    made = {
        "text": program.as_text() or "",
        "memory": memory_of(program.memory_analysis()),
        "flops": known(costs.get("flops")),
        "bytes": known(costs.get("bytes accessed")),
        "compile_s": seconds,
        "resident": host.resident(),
        "versions": toolchain(),
    }
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        whole = path.with_suffix(f".{os.getpid()}")
        whole.write_bytes(gzip.compress(json.dumps(made).encode(), 3))
        whole.replace(path)
    return made


def _read(path: Path) -> dict[str, Any] | None:
    try:
        return json.loads(gzip.decompress(path.read_bytes()))
    except (OSError, EOFError, ValueError):
        return None


def toolchain() -> dict[str, str]:
    """Versions that a compiled program depends on; the compiler of TPUs among them where it is installed."""
    try:
        return versions() | {"libtpu": metadata.version("libtpu")}
    except metadata.PackageNotFoundError:
        return versions()
