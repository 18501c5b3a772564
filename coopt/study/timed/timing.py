"""`coopt measure`: blocks timed on this host without a run."""

from __future__ import annotations

import json
import logging
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from coopt.problems import Problem, Refused
from coopt.store.files import writable, write_whole
from coopt.store.identity import finite
from coopt.study.given import asked, bench, host, machines, scheduler, spaces
from coopt.study.given.designs import of_options
from coopt.study.given.progress import Progress, silent
from coopt.study.screened import screening
from coopt.study.timed import blocks, joined, targets
from coopt.workers import Job

BLOCKS = 8
PROGRAM = 4.0  # s of timing a program of the user's own gets
SEQ_LEN = 256.0

READ: dict[str, tuple[Callable[[Any], Any], str]] = {  # a flag, whether it is read beside the others, and where it is
    "study": (lambda o: o.on == "local" and not (o.model or o.program or o.peers), "the only thing to measure"),
    "model": (lambda o: not o.program, "measured instead of --program"),
    "block": (lambda o: o.model and not o.peers and o.part != "step", "for the layers of a --model on one device"),
    "layout": (lambda o: o.model, "with --model"),
    "seq_len": (lambda o: o.model, "with --model"),
    "overrides": (lambda o: o.model, "with --model"),
    "peers": (lambda o: o.on == "local" and not o.program, "for a --model on this host"),
    "chips": (lambda o: o.peers, "with --peers; --on says how many chips another target has"),
    "part": (lambda o: o.on != "local" and not o.program, "for a --model, with --on=cpu:8 or another target"),
    "xla_flags": (lambda o: o.on != "local", "with --on=tpu:v5e:2x4 or another target; here XLA reads XLA_FLAGS"),
    "seconds": (lambda o: o.on == "local" and not o.peers, "on this host; --block_seconds bounds a compilation"),
}


def measure(options: Any, *, told: Progress = silent) -> dict[str, Any]:
    """Times blocks in child processes: of `--model` and `--layout`, of a study, or of the default study.

    With a model, every kind of its layers as one device runs it. With a study, the best blocks of its screening. With
    `--program`, that program alone. `--on` names another target, which is compiled for (`coopt.study.timed.targets`).
    `--out` writes what `coopt calibrate` reads, after every block; blocks in it that were timed by the same code and
    versions on the same machine are not timed again. Raises Refused for a model or a layout that cannot be built.
    """
    _refuse_unread(options)
    writable(options.out)
    if options.on != "local":
        return targets.measure(options, told=told)
    if options.program:
        return _program(options, told)
    if options.peers:
        return _written(joined.measure(options, told=told), options.out)
    date, until = time.strftime("%Y-%m-%d"), _until(options.seconds)
    deadline = options.block_seconds or bench.DEADLINE
    timed: list[blocks.Timed] = []
    before = _finished(options.out)
    asking = _of_model(options) if options.model else asked.study_data(options.study, options.profile_path)

    def document(left_out: int) -> dict[str, Any]:
        return {
            "command": "measure",
            "host": host.told(here.measured),
            "blocks": [block.document() | {"trial": bench.trial_of(block.job)} for block in timed],
            "left_out": left_out,
            "versions": bench.toolchain(),
            "profile": dict(here.chip),
        }

    with bench.opened(True) as executor:
        told("measuring this host", 0, 1)
        here = machines.measure_host(None, executor, date=date, deadline_s=deadline)
        told("measuring this host", 1, 1)
        jobs = asking if isinstance(asking, list) else _of_study(options, asking, here, date)
        for number, job in enumerate(jobs):
            if timed and time.monotonic() > until:
                break
            told("compiling and timing blocks", number, len(jobs))
            if (kept := before.get(bench.trial_of(job))) is not None:
                timed.append(kept)
                continue
            block = blocks.of_record(job, bench.do(None, executor, job, deadline_s=deadline))
            timed.append(blocks.believed(block, host.told(here.measured)["matmul"]))
            _written(finite(document(len(jobs) - len(timed))), options.out)
        told("compiling and timing blocks", len(timed), len(jobs))
    return _written(finite(document(len(jobs) - len(timed))), options.out)


def _refuse_unread(options: Any) -> None:
    """Refuses flags that would be passed over in silence, each with where it belongs."""
    given = {name: getattr(options, name) for name in READ}
    lost = [name for name, value in given.items() if value and not READ[name][0](options)]
    if lost:
        raise Refused(*(Problem(field=name, expected=READ[name][1], got=str(given[name])[:80]) for name in lost))


def _finished(out: str | None) -> dict[str, blocks.Timed]:
    """The usable blocks of an earlier, perhaps interrupted, measurement by their trial; none where there was none."""
    try:
        said = json.loads(Path(out).read_text(encoding="utf-8"))["blocks"] if out else []
        found = {one["trial"]: blocks.of_document(one) for one in said if "trial" in one}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        logging.getLogger(__name__).warning("%s holds no measurements (%.80r): every block is timed anew", out, error)
        return {}
    return {trial: block for trial, block in found.items() if block.usable}


def _program(options: Any, told: Progress) -> dict[str, Any]:
    """A program of the user's own, timed in a child; what becomes of it is an outcome, never an exception."""
    deadline = options.block_seconds or bench.DEADLINE
    job = {"kind": "program", "program": options.program, "budget_s": min(options.seconds or PROGRAM, deadline)}
    with bench.opened(True) as executor:
        told("compiling and timing the program", 0, 1)
        record = scheduler.record(executor.run(Job(bench.JOB, job, deadline, lease=bench.DEVICE)))
        told("compiling and timing the program", 1, 1)
    answer = record["result"] or {}
    if said := answer.get("unused"):
        logging.getLogger(__name__).warning("%s", said)
    step = answer.get("phases", {}).get("step", {})
    document = {
        "command": "measure",
        "program": options.program,
        "outcome": record["status"],
        "message": record["message"],
        **scheduler.ended(record),
        **{name: answer.get(name) for name in ("time", "low", "high", "spread", "flops", "bytes", "memory", "device")},
        **{name: step.get(name) for name in ("samples", "estimator", "compile_s", "foreign", "collectives")},
        "flags": answer.get("flags", []),
        "assumed": answer.get("assumed", []),
        "scopes": step.get("scopes", []),
        "versions": bench.toolchain(),
    }
    return _written(finite(document), options.out)


def _written(document: dict[str, Any], out: str | None) -> dict[str, Any]:
    if out:
        write_whole(Path(out), (json.dumps(document, indent=1, allow_nan=False) + "\n").encode())
        document["out"] = out
    return document


def _until(seconds: float | None) -> float:
    return float("inf") if seconds is None else time.monotonic() + seconds


def _of_model(options: Any) -> list[dict[str, Any]]:
    """One job for each kind of layer of a model, in float32 unless a layout says otherwise."""
    model, layout, _ = of_options(options, chips=1.0, stack="jax", precision="fp32")
    seq_len = options.seq_len or min(float(model.context) or SEQ_LEN, SEQ_LEN)
    asking = {"seq_len": seq_len, "own": options.block or ""}
    return [blocks.job(model, layout, layer=layer, **asking) for layer in range(len(model.kinds))]


def _of_study(options: Any, data: dict[str, Any], here: machines.Here, date: str) -> list[dict[str, Any]]:
    """The best blocks of a study on this host."""
    path = options.profile_path
    data = {**data, "machines": [{"hardware": "host"}], "measure": data.get("measure") or BLOCKS}
    study = asked.checked_study(data)
    with tempfile.TemporaryDirectory() as folder:
        machines.write(Path(folder), machines.files(study, here.chip, date=date), None)
        (hardware,) = machines.resolved(study, chip=here.chip, folder=Path(folder), path=path)
    found = screening.screen(
        study,
        spaces.family(study, path=path),
        hardware,
        spaces.law_of(study, path=path),
        distinct=int(study.measure),
        key=_block_of,
        path=path,
    )
    plans = (plan for plan, _ in screening.best(found, key=_block_of) if blocks.alone(plan))
    return [blocks.of_plan(plan, study.block) for plan, _ in zip(plans, range(int(study.measure)), strict=False)]


def _block_of(plan: Any) -> str:
    return blocks.key(blocks.of_plan(plan))
