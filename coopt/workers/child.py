"""The side of a job that runs in the child: reads a job, calls, answers; then puts back what the job has changed."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import os
import random
import socket
import sys
import traceback
from collections.abc import Callable
from typing import NoReturn

from coopt.problems import Problem, Refused
from coopt.workers import frames, kernel


def resolve(path: str) -> Callable:
    """The function that `package.module:function` names; a `Refused` says which part of the name does not exist."""
    module, _, name = path.partition(":")
    hint = "write package.module:function"
    if not module or not name:
        raise Refused(Problem(field="callable", expected="package.module:function", got=path, hint=hint))
    try:
        value = importlib.import_module(module)
        for part in name.split("."):
            value = getattr(value, part)
    except (ImportError, AttributeError) as error:
        raise Refused(
            Problem(field="callable", expected="a function that can be imported", got=f"{path} ({error})")
        ) from error
    if not callable(value):
        raise Refused(Problem(field="callable", expected="a function", got=f"{path} is a {type(value).__name__}"))
    return value


def call(path: str, payload: dict, report: Callable[[str], None]) -> dict:
    """Calls the function named by `path` with the payload; passes `report` (for phases) if it takes one."""
    report("import")
    function = resolve(path)
    report("run")
    takes_report = "report" in inspect.signature(function).parameters
    result = function(payload, report=report) if takes_report else function(payload)
    if not isinstance(result, dict):
        raise TypeError(f"{path} returned a {type(result).__name__}; a job answers with a dict")
    return result


def answer(path: str, payload: dict, report: Callable[[str], None]) -> dict:
    """What `call` gave, as a message: a result, a refusal, or an error by type and text."""
    try:
        return {"result": call(path, payload, report)}
    except Refused as refused:
        return {"refused": [dataclasses.asdict(p) for p in refused.problems]}
    except Exception as error:  # the boundary: whatever a job raises is an outcome, told in full to the parent
        return {"error": {"type": type(error).__name__, "message": str(error)[:16384]}}


def main(channel: socket.socket) -> NoReturn:
    """Serves jobs from the channel until the parent closes it. Never returns into the server's own code."""
    status = 1
    try:
        _serve(channel)
        status = 0
    except SystemExit as leaving:  # a job that calls sys.exit ends its child, as it would end a program
        status = leaving.code if isinstance(leaving.code, int) else int(leaving.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(status)


def _serve(channel: socket.socket) -> None:
    while True:
        job, held = frames.receive(channel, descriptors=1)  # `held` keeps the device's lease while the job runs
        if job is None:
            return
        before = _remember()
        kernel.cap_memory(job["memory_cap"])
        said = answer(job["path"], job["payload"], lambda phase: frames.send(channel, {"phase": phase}))
        kernel.cap_memory(None)
        clean = _restore(before)
        for descriptor in held:
            os.close(descriptor)
        try:
            frames.send(channel, said | {"clean": clean})
        except (TypeError, ValueError) as error:  # not JSON, or too large
            frames.send(channel, {"error": {"type": type(error).__name__, "message": str(error)}})
        sys.stderr.flush()


def _remember() -> tuple:
    configuration = dict(sys.modules["jax"].config.values) if "jax" in sys.modules else {}
    return dict(os.environ), os.getcwd(), random.getstate(), configuration


def _restore(before: tuple) -> bool:
    """Puts back what a job may have changed; False where that cannot be, and this process must serve no other job."""
    environment, folder, state, configuration = before
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    random.setstate(state)
    if not configuration:
        return "jax" not in sys.modules  # else the job imported it, and may have configured it
    jax = sys.modules["jax"]
    changed = {name: value for name, value in configuration.items() if jax.config.values.get(name) != value}
    try:
        for name, value in changed.items():
            jax.config.update(name, value)
    except (RuntimeError, ValueError):  # fixed once a backend exists
        return False
    return True
