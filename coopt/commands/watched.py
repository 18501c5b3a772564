"""The commands that take minutes, with a bar on stderr; a search and its rest with the run's page as well."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from coopt.commands import progress
from coopt.commands.runs import PAGE


def search(options: Any) -> dict[str, Any]:
    """The main job, told as a page in the run's folder; with `--adversary`, the search against the model."""
    from coopt.study import against, main

    if options.adversary:
        with progress.bar() as told:
            return against.adversary(options, told=told)
    return _reported(main.search, options)


def resume(options: Any) -> dict[str, Any]:
    """The rest of a run that was stopped or killed, told as a page."""
    from coopt.study import main

    return _reported(main.resume, options)


def measure(options: Any) -> dict[str, Any]:
    """Blocks, or a program, compiled and timed."""
    from coopt.study.timed import timing

    with progress.bar() as told:
        return timing.measure(options, told=told)


def calibrate(options: Any) -> dict[str, Any]:
    """Measurements, or the blocks that tell most, to a profile."""
    from coopt.study.timed import profiled

    with progress.bar() as told:
        return profiled.calibrate(options, told=told)


def _reported(verb: Callable[..., dict[str, Any]], options: Any) -> dict[str, Any]:
    with progress.bar() as told:
        document = verb(options, told=told)
        told("writing the report", 0, 1)
        from coopt.report.html import write_report

        began = time.perf_counter()
        page = write_report(document, Path(document["run"]) / PAGE)
        told("writing the report", 1, 1)
    return {**document, "report": str(page), "spent": {**document["spent"], "report": time.perf_counter() - began}}
