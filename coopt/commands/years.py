"""`coopt plan`: a scenario to a roadmap, on the screen and, where asked, in a file."""

from __future__ import annotations

import functools
from typing import Any

from coopt.commands import progress, written

FIRST = "vera-rubin-10gw"  # the scenario of `coopt plan` alone


def plan(options: Any) -> dict[str, Any]:
    """The roadmap of a scenario; `scenario.capital.limit="50 GUSD"` sets a field of it."""
    from coopt import roadmap
    from coopt.roadmap.machines import machine
    from coopt.spec.find import find

    out = written.target(options.out)
    limit = {} if options.seconds is None else {"time_limit": options.seconds}
    with progress.bar() as told:
        document = roadmap.plan(
            find("scenario", options.scenario or FIRST, path=options.profile_path),
            machines=functools.partial(machine, path=options.profile_path),
            overrides={name.removeprefix("scenario."): text for name, text in options.overrides.items()},
            progress=told,
            **limit,
        )
    return written.write(document, out)
