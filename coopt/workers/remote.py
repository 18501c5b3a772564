"""What a worker on another host does: the same as here. A job comes as text, its outcome goes back as text.

A remote worker holds a `ProcessExecutor` of its own, so that deadlines, leases, memory caps and the names of deaths are
kept beside the job; the driver only finds out that a whole worker is gone, which is `lost` and no fault of the job.
"""

from __future__ import annotations

import dataclasses
import json

from coopt.problems import Problem, Refused
from coopt.workers.job import Job
from coopt.workers.outcome import Outcome
from coopt.workers.processes import ProcessExecutor

LOST = "lost"  # the signal of an outcome whose worker is gone
SLACK = 60.0  # s beyond a job's own limits after which a worker that says nothing counts as lost


def asked(job: Job) -> str:
    """One job as text; refuses, in the caller's own frame, a payload that is not JSON."""
    return json.dumps(dataclasses.asdict(job))


def carried_out(executor: ProcessExecutor, text: str) -> str:
    """Runs a job that came as text, on the worker; its outcome, or what it refused, as text."""
    try:
        return json.dumps({"outcome": dataclasses.asdict(executor.run(Job(**json.loads(text))))})
    except Refused as refused:
        return json.dumps({"refused": [dataclasses.asdict(problem) for problem in refused.problems]})


def heard(text: str) -> Outcome:
    """The outcome that a worker sent; raises what the job refused."""
    said = json.loads(text)
    if "refused" in said:
        raise Refused(*(Problem(**problem) for problem in said["refused"]))
    return Outcome(**said["outcome"])


def lost(why: str) -> Outcome:
    """The outcome of a job whose worker is gone: it is to be done again elsewhere."""
    return Outcome(status="crashed", phase="worker", signal=LOST, message=f"the worker is gone: {why}"[:400])


def absent(extra: str, package: str) -> Refused:
    """The refusal of an executor whose package is not installed."""
    return Refused(
        Problem(field="executor", expected=f"the package {package}", got=f"--executor={extra} without it",
                hint=f'`pip install "coopt[{extra}]"` brings it')
    )  # fmt: skip
