"""Designs within every limit; where there are none, which limit removes how many, and the nearest design there is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from coopt.problems import Problem, Refused
from coopt.search import chips as space
from coopt.study.orders import in_words, one_of
from coopt.study.question import Bench


def feasible(bench: Bench) -> tuple[np.ndarray, list[dict[str, Any]]]:
    """Points within every limit, and how many designs of the sample each limit removes.

    Where the sample has none, it walks toward the limits; Refused when even that finds nothing within them.
    """
    question = bench.question
    points = space.sample(bench.offered, question.samples, seed=question.seed)
    points = np.concatenate([space.nearest_point(bench.bought, bench.offered)[None, :], points])

    def taken(some: np.ndarray) -> Mapping[str, np.ndarray]:
        return space.loads(space.designs(some, bench.offered, bench.base), bench.process, question.limits)

    loads = taken(points)
    counted = [{"limit": name, **numbers} for name, numbers in space.census(loads).items()]
    over = space.worst(loads)
    if (over <= 1.0).any():
        return points[over <= 1.0], counted
    nearest = points[int(np.argmin(over))]
    near = space.walk(nearest, bench.offered, lambda some: space.worst(taken(some)))[None, :]
    short = {name: float(np.max(share)) for name, share in taken(near).items() if np.max(share) > 1.0 + 1e-9}
    if not short:
        return near, counted
    removed = ", ".join(f"{row['limit']} {row['removed']:,}" for row in counted if row["removed"])
    exceeded = " and ".join(_exceeded(name, share) for name, share in short.items())
    told = in_words(one_of(space.designs(near, bench.offered, bench.base), 0), bench.process)
    raise Refused(
        Problem(field="limits", expected="limits that some design meets",
                got=f"none of {len(points):,} designs, nor any on the way from the nearest",
                hint=f"removed by {removed}; the nearest design exceeds {exceeded}: {told}")
    )  # fmt: skip


def _exceeded(name: str, share: float) -> str:
    return f"date by {share - 1.0:.1f} years" if name == "date" else f"{name} by {share - 1.0:.0%}"
