"""The machines of a study as `Hardware`: profiles by name, and this host from the files that its clock wrote."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from coopt.problems import Problem, Refused
from coopt.spec import load
from coopt.spec.find import several
from coopt.spec.nouns import Hardware
from coopt.store import Run
from coopt.study.given import bench, host
from coopt.study.given.emit import as_yaml
from coopt.study.given.schema import HOST, Machine, Study
from coopt.tree import replace
from coopt.workers import Executor

BUDGET = 3.0  # s to measure a host's rates in


@dataclasses.dataclass(frozen=True)
class Here:
    """This host, measured: what the clock said, and the file of its chip."""

    measured: Mapping[str, Any]
    chip: Mapping[str, Any]


def wants_host(study: Study) -> bool:
    """True where a study is about this very machine."""
    return any(machine.hardware == HOST for machine in study.machines)


def clocked(study: Study) -> int:
    """Which of a study's machines blocks are timed for: this host alone, or else the first mesh of it."""
    here = [number for number, machine in enumerate(study.machines) if machine.hardware == HOST]
    return next((number for number in here if not _several(study.machines[number])), here[0])


def measure_host(run: Run | None, executor: Executor, *, date: str, deadline_s: float = bench.DEADLINE) -> Here:
    """Measures this host in a child process, once a run; Refused when it cannot be measured."""
    job = {"kind": "host", "budget_s": BUDGET}
    found = bench.do(run, executor, job, deadline_s=deadline_s, name="host")
    if found["status"] not in ("ok", "noisy") or not found["result"]:
        raise Refused(
            Problem(field="host", expected="a host that can be measured", got=f"{found['status']}: {found['message']}",
                    hint="a device that another process (a notebook) holds is free when that ends, and `coopt.measure` "
                         "works inside it; --hardware names a machine to search without one")
        )  # fmt: skip
    if said := found["result"].get("unused"):
        logging.getLogger(__name__).warning("%s", said)
    return Here(found["result"], host.chip(found["result"], date=date))


def files(study: Study, chip: Mapping[str, Any], *, date: str) -> dict[str, dict[str, Any]]:
    """The profile files of a host and of the meshes of it that a study describes, by name."""
    told = {str(chip["name"]): dict(chip)}
    for machine in study.machines:
        if machine.hardware == HOST and _several(machine):
            system = host.joined(chip, chips=int(machine.chips or 1), link=machine.link or 0.0,
                                 latency=machine.latency or 0.0, date=date)  # fmt: skip
            told[system["name"]] = system
    return told


def write(folder: Path, profiles: Mapping[str, Mapping[str, Any]], run: Run | None) -> None:
    """Writes profile files into a folder, by the run where there is one: whole, or not at all."""
    for name, data in profiles.items():
        text = as_yaml(dict(data))
        if run is not None:
            run.write(f"{folder.relative_to(run.path)}/{name}.yaml", text)
        else:
            (folder / f"{name}.yaml").write_text(text, encoding="utf-8")


def resolved(
    study: Study, *, chip: Mapping[str, Any] | None, folder: Path | None, fidelity: str = "", path: Any = None
) -> list[Hardware]:
    """The machines of a study in its order; those of this host from the files in `folder`."""
    found, known = [], named(study, path=path)
    for number, machine in enumerate(study.machines):
        if number in known:
            found.append(known[number])
            continue
        assert chip is not None and folder is not None
        name, chips = str(chip["name"]), int(machine.chips or 1)
        joined = _several(machine)
        file = folder / (f"{name}-mesh-{chips}.yaml" if joined else f"{name}.yaml")
        # The folder is looked in for the chip of a mesh alone: a host by itself is no part of the mesh beside it.
        here = load.resolve(str(file), chips=chips, stack=study.stack, overrides=machine.set,
                            path=(folder, *several(path)) if joined else path)  # fmt: skip
        found.append(replace(here, fidelity=fidelity) if fidelity and not joined else here)
    return found


def named(study: Study, *, path: Any = None) -> dict[int, Hardware]:
    """The machines of a study that have profiles, by their place in it."""
    return {
        number: load.resolve(machine.hardware, chips=machine.chips, stack=study.stack, overrides=machine.set, path=path)
        for number, machine in enumerate(study.machines)
        if machine.hardware != HOST
    }


def _several(machine: Machine) -> bool:
    return machine.chips is not None and machine.chips > 1
