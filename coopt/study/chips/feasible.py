"""A design within every limit; where there is none, which limit removes how many, and the nearest design there is."""

from __future__ import annotations

from typing import Any

import numpy as np

from coopt.problems import Problem, Refused
from coopt.search import chips as space
from coopt.search.space import flat
from coopt.spec.silicon import Design
from coopt.study.chips.orders import in_words
from coopt.study.chips.used import Order
from coopt.study.given.objectives import expression

SAMPLES = 4096  # designs at random that limits are counted over


def feasible(order: Order, *, seed: int = 0) -> tuple[Design, list[dict[str, Any]]]:
    """The design farthest within the limits, and how many of a sample each limit removes. Refused where none is."""
    within = space.together(order.base, order.offered, ())
    sizes = [len(one) for one in within.axes]
    sample = (np.random.default_rng(seed).random((SAMPLES, len(sizes))) * sizes).astype(np.int64)
    taken = space.loads(space.design_of(flat(within, sample)), order.process, order.limits)
    counted = [{"limit": name, **numbers} for name, numbers in space.census(taken).items()]
    priced = space.Priced(order.process, order.limits, expression)
    nearest = space.seek(order.base, order.offered, (), priced, "worst", seed=seed)
    assert nearest is not None, "every design has a worst limit"
    if nearest.value <= 1.0:
        return nearest.design, counted
    loads = space.loads(nearest.design, order.process, order.limits)
    removed = ", ".join(f"{row['limit']} {row['removed']:,}" for row in counted if row["removed"])
    exceeded = " and ".join(_exceeded(name, float(share)) for name, share in loads.items() if share > 1.0 + 1e-9)
    told = in_words(nearest.design, order.process)
    raise Refused(
        Problem(field="limits", expected="limits that some design meets",
                got=f"none of {SAMPLES:,} designs at random, nor any on the way from there",
                hint=f"removed by {removed}; the nearest design exceeds {exceeded}: {told}")
    )  # fmt: skip


def _exceeded(name: str, share: float) -> str:
    return f"date by {share - 1.0:.1f} years" if name == "date" else f"{name} by {share - 1.0:.0%}"
