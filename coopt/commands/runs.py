"""Runs as the command line sees them: listed, told again, put right."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from coopt.problems import Problem, Refused
from coopt.store import merge as merged
from coopt.store import saved
from coopt.store.repair import repair as put_right

PAGE = "report.html"


def path_of(run: str, runs: str) -> Path:
    """Where a run is: a path as it stands, a name inside the folder of runs.

    >>> str(path_of("default", "runs")), str(path_of("elsewhere/default", "runs"))
    ('runs/default', 'elsewhere/default')
    """
    return Path(run) if "/" in run or (Path(run) / saved.JOURNAL).is_file() else Path(runs) / run


def runs(options: Any) -> dict[str, Any]:
    """Every run of a folder: its state, how many trials are done, and what is wrong with one that cannot be read.

    With `--changed_by`, those that read that profile, and whether their conclusions still hold.
    """
    readable, errors = [], []
    for run in saved.list_runs(Path(options.runs)):
        readable += [] if isinstance(run, Refused) else [run]
        errors += [problem.__dict__ for problem in run.problems]
    if options.changed_by:
        from coopt.study.changed import changed_by

        found = changed_by(readable, options.changed_by, path=options.profile_path)
    else:
        found = [_told(run) for run in readable]
    return {"command": "runs", "runs": found, **({"errors": errors} if errors else {})}


def bundle(options: Any) -> dict[str, Any]:
    """A finished run as one file that can be cited and derived again elsewhere."""
    from coopt.study.replay import pack

    run = saved.open_run(path_of(options.run, options.runs))
    out = Path(options.out) if options.out else Path(f"{run.name}.coopt.tar")
    made = pack(run, out)
    return {"run": str(run.path), "bundle": str(out), "sha256": made.digest, "files": len(made.files)}


def replay(options: Any) -> dict[str, Any]:
    """Derives a bundled run again; a number that differs is an error that says which and why it may."""
    from coopt.commands import progress
    from coopt.study.replay import because
    from coopt.study.replay import replay as again

    with progress.bar() as told:
        document = again(Path(options.file), told=told)
    first = document["first"]
    if first is None:
        return document
    found = Problem(file=options.file, field=first["field"], expected=f"{first['bundled']}, as bundled",
                    got=str(first["here"]), hint=because(document["changed"]))  # fmt: skip
    return {**document, "errors": [found.__dict__]}


def merge(options: Any) -> dict[str, Any]:
    """Joins two runs of one study into a third."""
    a, b = (path_of(run, options.runs) for run in (options.run, options.other))
    made = merged.merge(a, b, Path(options.runs), options.name or f"{a.name}-{b.name}")
    return {
        "run": str(made.path),
        "only_in_first": made.first,
        "only_in_second": made.second,
        "in_both": made.both,
        "disagreements": [dict(one) for one in made.disagreements],
        "next": f"`coopt resume {made.path}` answers from all of it",
    }


def report(options: Any) -> dict[str, Any]:
    """Writes the page of a run again from the answer the run holds."""
    from coopt.report.html import write_report

    path = path_of(options.run, options.runs)
    run = saved.open_run(path)
    if not (path / saved.ANSWER).is_file():
        raise Refused(
            Problem(
                file=str(path),
                expected="a run that reached its first answer",
                got=f"{len(run.trials.done)} trials done and no {saved.ANSWER}",
                hint=f"`coopt resume {options.run}` goes on with it",
            )
        )
    page = Path(options.out) if options.out else path / PAGE
    write_report({**json.loads(saved.content(path / saved.ANSWER)), "run": str(path)}, page)
    if options.serve:
        _serve(page)
    return {"run": str(path), "report": str(page)}


def _serve(page: Path) -> None:
    """Serves the page to this machine until a signal comes."""
    from coopt.commands.served import server

    with server(page) as one:
        print(f"http://{one.server_address[0]}:{one.server_address[1]}/ until Ctrl-C", file=sys.stderr, flush=True)
        one.serve_forever()


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
