"""`coopt plan`: a scenario to a roadmap, on the screen and, where asked, in a file."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

from coopt.commands import progress, say
from coopt.problems import Problem, Refused

FIRST = "vera-rubin-10gw"  # the scenario of `coopt plan` alone


def plan(options: Any) -> dict[str, Any]:
    """The roadmap of a scenario; `scenario.capital.limit="50 GUSD"` sets a field of it."""
    from coopt import roadmap
    from coopt.roadmap.machines import machine
    from coopt.spec.find import find

    strange = [name for name in options.overrides if not name.startswith("scenario.")]
    if strange:
        raise Refused(
            *(Problem(field=name, expected="scenario.FIELD", got=options.overrides[name]) for name in strange)
        )
    limit = {} if options.seconds is None else {"time_limit": options.seconds}
    with progress.bar() as told:
        document = roadmap.plan(
            find("scenario", options.scenario or FIRST, path=options.profile_path),
            machines=functools.partial(machine, path=options.profile_path),
            overrides={name.removeprefix("scenario."): text for name, text in options.overrides.items()},
            progress=told,
            **limit,
        )
    if options.out:
        write(document, Path(options.out))
    return document


def write(document: dict[str, Any], path: Path) -> None:
    """A document as a page (`.html`) or as JSON (`.json`)."""
    from coopt.report.html import write_report
    from coopt.store.files import write_whole

    if path.suffix == ".html":
        write_report(document, path)
    elif path.suffix == ".json":
        write_whole(path, (say.as_json(document) + "\n").encode())
    else:
        raise Refused(Problem(field="out", expected="a file that ends in .html or .json", got=str(path)))
