"""What one coordinator sustains: trials a second that do nothing, through the real scheduler, store and disk.

python scripts/bench_store.py [TRIALS [FOLDER]]   # 20 s for the 2,000 trials of the default
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from pathlib import Path

from coopt.store import create, identity, open_run, resume
from coopt.study.given.scheduler import Crew, carry_out
from coopt.workers import Job, Outcome


class Nothing:
    """An executor whose jobs are done at once."""

    def run(self, *_, **__):
        return Outcome(status="ok", result={"time": 1.5, "cost": 2.5})


def main(trials: int, folder: Path) -> None:
    jobs = {identity({"trial": n}): Job("none:none", {"n": n}, 1.0) for n in range(trials)}
    for name, sync in (("durable", os.fsync), ("without fsync", lambda fd: None)):
        os.fsync, kept = sync, os.fsync
        with create(folder, name.replace(" ", "-"), "a: 1\n") as run:
            began, cpu = time.perf_counter(), time.process_time()
            carry_out(run, jobs, Crew(Nothing(), 1))
            seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
        os.fsync = kept
        print(f"{name}: {trials / seconds:,.0f} trials/s ({1e6 * cpu / trials:.0f} us of processor each)")
    path = folder / "without-fsync"
    size = (path / "journal").stat().st_size
    began = time.process_time()
    with resume(path) as run:
        run.queue(list(jobs))
    opened = time.process_time() - began
    assert len(open_run(path).trials.done) == trials
    print(f"opening {2 * trials + 2:,} records, {size / 1e6:.1f} MB: {opened:.2f} s of processor")


if __name__ == "__main__":
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 2000
    with tempfile.TemporaryDirectory(dir=sys.argv[2] if len(sys.argv) > 2 else ".") as place:
        main(count, Path(place))
