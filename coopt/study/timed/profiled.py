"""`coopt calibrate`: what timed blocks and operations say of a profile, timed here and now where none are named."""

from __future__ import annotations

import json
import math
import re
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from coopt import units
from coopt.problems import Problem, Refused
from coopt.spec import load
from coopt.spec.nouns import Hardware
from coopt.store.files import writable, write_whole
from coopt.store.identity import finite
from coopt.study.given import bench, host, machines
from coopt.study.given.emit import as_yaml
from coopt.study.given.progress import Progress, silent
from coopt.study.timed import afresh, blocks, calibration, compiled, energy, operations, survey

MEASUREMENTS = "measurements.json"
SURVEY = 300.0  # s in which operations and blocks are timed for a calibration
SWEEP = 48  # operations timed alone before the blocks
SWEEP_SHARE = 0.2  # of that time


def calibrate(options: Any, *, told: Progress = silent) -> dict[str, Any]:
    """Fits a profile to measured blocks: of runs, of files that `coopt measure --out` wrote, or timed here and now.

    Where nothing is named, this host is measured, and then the most telling of many blocks are timed on it for at most
    `--seconds`, and kept beside the profile; with `--hardware` the fit begins at the constants of that profile.
    The profile is the measured host's own, or the chip `--hardware`, and is written to `--out`, or beside what was
    measured. Raises Refused for files that hold no blocks, and for fewer than three that were timed.
    """
    writable(options.out)
    if options.measured or getattr(options, "from"):
        given = {"seconds": options.seconds, "on": "" if options.on == "local" else options.on}
        expected = "where blocks are timed now: without files of measurements and --from"
        if lost := [Problem(field=name, expected=expected, got=str(v)) for name, v in given.items() if v]:
            raise Refused(*lost)
    if getattr(options, "from"):
        return compiled.calibrate(options)
    sources = [_read(name, options.runs) for name in options.measured] or [_surveyed(options, told)]
    timed = [blocks.of_document(said) for _, source in sources for said in source["blocks"]]
    chip = _chip(options, sources)
    date = time.strftime("%Y-%m-%d")
    hardware = _hardware(chip, options.profile_path)
    swept = [row for _, source in sources for row in source.get("operations", ())]
    found = calibration.calibrate(hardware, timed, swept)
    if found is None:
        raise Refused(
            Problem(
                field="measured",
                expected=f"at least {calibration.LEAST} blocks with usable times",
                got=str(sum(block.usable for block in timed)),
                hint="`coopt measure --out=more.json` times some; several files can be given",
            )
        )
    data = calibration.profile(chip, found, date=date, blocks=f"{found.blocks} blocks {_origin(options)}")
    spent = energy.fitted(timed, _hardware(data, options.profile_path), idle=_idle(sources))
    data = energy.profile(data, spent) if spent else data
    out = Path(options.out) if options.out else sources[0][0].parent / f"{data['name']}-calibrated.yaml"
    write_whole(out, as_yaml(data).encode())
    said, wires = calibration.document(found) or {}, operations.links(swept)
    if wires is not None:
        title = f"coopt, {wires['collectives']:g} collectives swept on {options.on}"
        system = host.joined(data, chips=int(wires["devices"]), link=wires["bandwidth"], latency=wires["latency"],
                             date=date, swept=title)  # fmt: skip
        write_whole(out.with_stem(f"{out.stem}-links"), as_yaml(system).encode())
    return {
        "command": "calibrate",
        "profile": str(out),
        "name": data["name"],
        **said,
        "links": wires,
        "energy": spent,
        "assumed": list(hardware.assumed),
    }


def _origin(options: Any) -> str:
    """Where the blocks of a calibration came from, in words."""
    return f"of {', '.join(options.measured)}" if options.measured else "that were timed for it"


def _surveyed(options: Any, told: Progress) -> tuple[Path, dict[str, Any]]:
    """The most telling blocks, timed on this host now, as a file of measurements would say it."""
    deadline = options.block_seconds or bench.DEADLINE
    named = load.profile("chip", options.hardware, path=options.profile_path).data if options.hardware else None
    if not re.fullmatch(r"local|cpu:[1-9]\d{0,3}", options.on):
        hint = "`--from=tpu:v6e` calibrates by a compiler alone"
        raise Refused(Problem(field="on", expected="local, or cpu:8 for fake devices", got=options.on, hint=hint))
    with bench.opened(True, again=True) as executor:
        told("measuring this host", 0, 1)
        here = machines.measure_host(None, executor, date=time.strftime("%Y-%m-%d"), deadline_s=deadline)
        told("measuring this host", 1, 1)
        hardware = _hardware(named or here.chip, options.profile_path)
        done, counters = 0, 0 if hardware.family == "cpu" else energy.ASKED

        def clock(job: dict[str, Any]) -> blocks.Timed:
            nonlocal done
            told("timing the most telling blocks", done, survey.MOST)
            done += 1
            # No candidates: nobody takes their results. Joules of the first ones, on boards with a counter.
            asked = {**job, "check": 0} | ({"energy": 1} if done <= counters else {})
            return blocks.of_record(job, bench.do(None, executor, asked, deadline_s=deadline))

        jobs = survey.pool(hardware)
        timed = survey.survey(hardware, clock, jobs, seconds=options.seconds or SURVEY)
        told("timing the most telling blocks", done, done)
    told("sweeping operations", 0, 1)
    swept = _swept(hardware, options, deadline)
    told("sweeping operations", 1, 1)
    with bench.opened(True, again=True) as executor:  # another process, which timings within one cannot speak for
        for job in [afresh.job(block.job) for block in timed if block.usable][: afresh.TELLING]:
            timed.append(blocks.of_record(job, bench.do(None, executor, job, deadline_s=deadline)))
    name = host.chip_name(here.measured)
    file = Path(options.out).with_suffix(".json") if options.out else Path(f"{name}-measured.json")
    found = {"blocks": [block.document() for block in timed], "operations": swept, "profile": dict(here.chip)}
    found = finite(found)
    write_whole(file, (json.dumps(found, indent=1, allow_nan=False) + "\n").encode())
    return file, found


def _swept(hardware: Hardware, options: Any, deadline_s: float) -> list[dict[str, Any]]:
    """Single operations in every type the device has, and collectives where it has neighbours, or is said to."""
    kinds, rows = survey.types(hardware), []
    with bench.opened(True) as executor:  # the number of fake devices is fixed when a process first asks for one
        for kind in kinds:
            job = {"kind": "sweep", "precision": kind, "points": SWEEP // len(kinds), "target": options.on,
                   "budget_s": SWEEP_SHARE * (options.seconds or SURVEY) / len(kinds)}  # fmt: skip
            rows += (bench.do(None, executor, job, deadline_s=deadline_s)["result"] or {}).get("rows", [])
    return rows


def _read(name: str, runs: str) -> tuple[Path, dict[str, Any]]:
    """Measurements by the name of a run or of a file, with the file they stand in."""
    path = Path(name)
    if not path.is_file():
        folder = path if (path / "journal").is_file() else Path(runs) / name
        path = folder / MEASUREMENTS
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(data, dict) or not isinstance(data.get("blocks"), list):
            raise ValueError("no list of blocks in it")
        for said in data["blocks"]:
            blocks.of_document(said)
    except OSError:
        raise Refused(
            Problem(field="measured", expected="a run with timed blocks, or a file of `coopt measure --out`",
                    got=name[:80], hint="`coopt runs` lists the runs")
        ) from None  # fmt: skip
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise Refused(Problem(file=str(path), field="measured", expected="measurements", got=str(error)[:80])) from None
    return path, data


def _idle(sources: Sequence[tuple[Path, Mapping[str, Any]]]) -> float:
    """Watts of the board that blocks were timed on, with nothing running; NaN where its counter was not asked."""
    said = [(source.get("profile") or {}).get("power", {}).get("idle") for _, source in sources]
    return next((units.parse(one["value"], "W") for one in said if one), math.nan)


def _chip(options: Any, sources: Sequence[tuple[Path, Mapping[str, Any]]]) -> dict[str, Any]:
    """The file of the chip that blocks were timed on."""
    if options.hardware:
        return load.profile("chip", options.hardware, path=options.profile_path).data
    for _, source in sources:
        if isinstance(source.get("profile"), dict):
            return source["profile"]
    raise Refused(
        Problem(field="hardware", expected="the chip these blocks were timed on", got="nothing",
                hint="name its profile with --hardware")
    )  # fmt: skip


def _hardware(chip: Mapping[str, Any], path: Any) -> Any:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / f"{chip['name']}.yaml"
        file.write_text(as_yaml(dict(chip)), encoding="utf-8")
        return load.resolve(str(file), chips=1, stack="jax", path=path)
