"""When nothing fits: the layout that comes closest, so that an answer is never just `no`."""

from __future__ import annotations

from coopt.search.price import Score, price
from coopt.search.space import Candidate, Space
from coopt.search.sweep import Ranked, sweep
from coopt.spec.nouns import VERDICTS, Hardware
from coopt.xp import where

MEMORY = VERDICTS.index("memory")


def nearest(space: Space, hardware: Hardware, *, keep: int = 1) -> Ranked:
    """The candidates that miss by least when memory is what they miss, by the share of memory they want.

    A value of 1.25 says that a chip with a quarter more memory would do. Empty where no candidate divides up at all:
    then the counts in `Result.rejected` say what to loosen.
    """
    found = sweep(space, hardware, objectives=("memory_share",), keep=keep, pareto=False, expression=whatever_memory)
    return found.top


def whatever_memory(candidate: Candidate, objectives: tuple[str, ...]) -> Score:
    """The same price, with too little memory forgiven."""
    score = price(candidate, objectives)
    return Score(verdict=where(score.verdict == MEMORY, 0, score.verdict), objectives=score.objectives)
