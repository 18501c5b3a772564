"""Jobs of the executors' tests, for workers to run."""

import os
import signal
import time
from pathlib import Path


def square(payload):
    """Its number squared; leaves a mark in a folder, and may kill the worker that called it, or its child, once."""
    if folder := payload.get("marks"):
        Path(folder, f"{payload['n']}-{os.urandom(4).hex()}").touch()
    if payload.get("poison"):
        os.kill(os.getpid(), signal.SIGSEGV)
    time.sleep(payload.get("pause", 0.0))
    return {"value": payload["n"] ** 2}


def above(payload):
    """Kills, the first time, the process that holds the fork server: the worker with its host."""
    marks = Path(payload["marks"])
    first = not list(marks.glob(f"{payload['n']}-*"))
    (marks / f"{payload['n']}-{os.urandom(4).hex()}").touch()
    if first and payload["kill"]:
        server = int(Path(f"/proc/{os.getpid()}/stat").read_text().rpartition(")")[2].split()[1])
        seat = int(Path(f"/proc/{server}/stat").read_text().rpartition(")")[2].split()[1])
        os.kill(seat, signal.SIGKILL)
        time.sleep(60)
    return {"value": payload["n"] ** 2, "pid": os.getpid()}


def refused(payload):
    from coopt.problems import Problem, Refused

    raise Refused(Problem(field="tp", expected="a divisor of 8", got="3"))
