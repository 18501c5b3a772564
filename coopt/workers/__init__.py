"""Runs callables where they can do no harm: child processes with a deadline kept by the parent, one lease a device.

    with workers.process(preload=("coopt.measure.job",)) as executor:
        outcome = workers.run("coopt.measure.job:run_job", job, deadline_s=60.0, executor=executor)

The room knows callables and bytes; it knows no models.
"""

from coopt.workers.executor import Executor, run
from coopt.workers.inprocess import serial
from coopt.workers.job import Job
from coopt.workers.outcome import STATUSES, Outcome
from coopt.workers.processes import HEAP, process

__all__ = ["HEAP", "STATUSES", "Executor", "Job", "Outcome", "process", "run", "serial"]
