"""Runs as the command line sees them: listed, told again, put right."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from coopt.problems import Problem, Refused
from coopt.store import saved
from coopt.store.repair import repair as put_right

ANSWER, PAGE = "answer.json", "report.html"


def path_of(run: str, runs: str) -> Path:
    """Where a run is: a path as it stands, a name inside the folder of runs.

    >>> str(path_of("default", "runs")), str(path_of("elsewhere/default", "runs"))
    ('runs/default', 'elsewhere/default')
    """
    return Path(run) if "/" in run or (Path(run) / saved.JOURNAL).is_file() else Path(runs) / run


def runs(options: Any) -> dict[str, Any]:
    """Every run of a folder: its state, how many trials are done, and what is wrong with one that cannot be read."""
    found, errors = [], []
    for run in saved.list_runs(Path(options.runs)):
        if isinstance(run, Refused):
            errors += [problem.__dict__ for problem in run.problems]
        else:
            found.append(_told(run))
            errors += [problem.__dict__ for problem in run.problems]
    return {"command": "runs", "runs": found, **({"errors": errors} if errors else {})}


def report(options: Any) -> dict[str, Any]:
    """Writes the page of a run again from the answer the run holds."""
    from coopt.report.html import write_report

    path = path_of(options.run, options.runs)
    run = saved.open_run(path)
    if not (path / ANSWER).is_file():
        raise Refused(
            Problem(
                file=str(path),
                expected="a run that reached its first answer",
                got=f"{len(run.trials.done)} trials done and no {ANSWER}",
                hint=f"`coopt resume {options.run}` goes on with it",
            )
        )
    page = Path(options.out) if options.out else path / PAGE
    write_report(json.loads(saved.content(path / ANSWER)), page)
    return {"run": str(path), "report": str(page)}


def repair(options: Any) -> dict[str, Any]:
    """Says what is damaged in a run's journal; with `--drop`, writes it anew without that and keeps the old file."""
    said = put_right(path_of(options.run, options.runs), drop=options.drop)
    lines = str(said).splitlines()
    if (said.damage or said.torn) and not options.drop:
        lines.append(f"nothing was changed; `coopt repair {options.run} --drop` does it")
    return {"run": str(said.path.parent), "kept": said.kept, "damaged": len(said.damage), "said": lines}


def _told(run: saved.Saved) -> dict[str, Any]:
    """One line of the list."""
    state = "finished" if run.finished else f"running ({run.driver})" if run.driver else "stopped"
    first = next((record for record in run.trials.notes if record["kind"] == "journal"), {})
    return {
        "name": run.name,
        "started": first.get("started"),
        "state": state,
        "done": len(run.trials.done),
        "damaged": len(run.problems),
        "path": str(run.path),
    }
