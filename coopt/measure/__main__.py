"""`python -m coopt.measure < job.json > measurement.json`: the door for machines that have JAX and little else."""

from __future__ import annotations

import dataclasses
import json
import sys

from coopt.measure.job import run_job
from coopt.problems import Problem, Refused


def main() -> int:
    """Reads one job, writes one measurement; 1 and `errors` when the job is refused."""
    try:
        try:
            job = json.load(sys.stdin)
        except ValueError as error:
            raise Refused(Problem(field="stdin", expected="a JSON object", got=str(error))) from error
        if not isinstance(job, dict):
            raise Refused(Problem(field="stdin", expected="a JSON object", got=type(job).__name__))
        answer = run_job(job, report=lambda phase: print(phase, file=sys.stderr, flush=True))
    except Refused as refused:
        json.dump({"errors": [dataclasses.asdict(p) for p in refused.problems]}, sys.stdout)
        return 1
    json.dump(answer, sys.stdout, allow_nan=False)
    return 0


if __name__ == "__main__":
    sys.exit(main())
