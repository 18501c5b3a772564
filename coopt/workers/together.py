"""Jobs that need one another: begun at once, each on its worker, and judged as one."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from coopt.workers.executor import Executor
from coopt.workers.job import Job
from coopt.workers.outcome import Outcome


def together(executor: Executor, jobs: Sequence[Job]) -> Outcome:
    """Runs all jobs at the same time; the first one's outcome, or that of the rank that failed.

    When one dies the others fail for want of it: the one that a signal ended, or that is silent, is named before those
    that only complain of it.
    """
    with ThreadPoolExecutor(len(jobs), thread_name_prefix="together") as threads:
        outcomes = list(threads.map(executor.run, jobs))
    failed = [rank for rank, outcome in enumerate(outcomes) if not outcome.ok]
    if not failed:
        return outcomes[0]
    rank = min(failed, key=lambda rank: (_blame(outcomes[rank]), outcomes[rank].seconds))
    said = f"rank {rank} of {len(outcomes)}: {outcomes[rank].message or outcomes[rank].status}"
    return dataclasses.replace(outcomes[rank], message=said)


def _blame(outcome: Outcome) -> int:
    """0 for what was killed from outside, 1 for a rank that never ended, 2 for one that ended by itself."""
    killed = outcome.signal == "lost" or (outcome.signal.startswith("SIG") and outcome.signal != "SIGABRT")
    return 0 if killed else 1 if outcome.status == "timeout" else 2
