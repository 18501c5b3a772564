"""`coopt fit ROWS --from=PROFILE`: rows of one's own become a private chip and a private stack, as files."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from coopt import units
from coopt.cost.quality import Z90
from coopt.fit import own, rows, score
from coopt.fit.constants import BOUNDS, Name
from coopt.fit.write import TIMES
from coopt.problems import Problem, Refused
from coopt.spec import load
from coopt.spec.find import fold
from coopt.spec.machine import Machine, machine
from coopt.spec.profiles import Profile
from coopt.spec.resolve import family_constants, stack_constants
from coopt.store.files import write_whole
from coopt.study.given.emit import as_yaml
from coopt.study.scored import mistakes, tables
from coopt.study.scored.heldout import digest


def fit(file: str, *, profile: str, out: str, date: str, stack: str | None = None, path: Any = None) -> dict[str, Any]:
    """Pools the rows of a file with the constants that ship, writes the files that hold the outcome, and scores both.

    `out` is a folder for `--profile_path`: its chip and stacks hide those of the same name. Only constants that the
    rows moved are written; the others go on following what ships. Raises Refused with every bad row.
    """
    table, lines = rows.read(file), mistakes.lines(file)
    files = machine(profile, path=path)
    mistakes.refuse(file, table, lines, files.chip)
    found, skipped = tables.designs(table, stack=stack, path=path, on=profile)
    problems = [Problem(file, lines[at], "", hint=why) for at, why in skipped.items()]
    if not problems:
        problems = mistakes.unpriced(file, lines, found)
    if len(table) < own.LEAST:
        problems.append(Problem(file, 0, "rows", f"at least {own.LEAST} measured steps", str(len(table))))
    if problems:
        raise Refused(*problems)
    designs = [one for _, one in found]
    behind = {one.hardware.stack: machine(profile, stack=one.hardware.stack, path=path) for one in designs}
    called = _called(designs, stack)
    places = _places(Path(out), files.chip, {called[name]: one.stack for name, one in behind.items()})
    pooled = own.pool(designs, _starts(designs[0].hardware.family, files, behind))
    source = {
        "title": f"{Path(file).name} (sha256 {digest(Path(file))[:16]}), {len(designs)} rows of measured steps",
        "date": date,
    }
    written = [str(place) for place, base in places.items() if _write(place, base, pooled, source)]
    return _document(file, found, pooled) | {"files": written, "source": source["title"]}


def _called(designs: Sequence[rows.Design], stack: str | None) -> dict[str, str]:
    """The name of each stack's private file: the rows' own word for it, where no file describes it yet."""
    words: dict[str, set[str]] = {}
    for one in designs:
        words.setdefault(one.hardware.stack, set()).add(stack or one.row.get("stack") or one.hardware.stack)
    described = {fold(name) for name in load.names("stack")}
    told = {}
    for known, said in words.items():
        word = fold(next(iter(said)))
        new = len(said) == 1 and word not in described and re.fullmatch("[a-z0-9][a-z0-9.-]*", word)
        told[known] = word if new else known
    return told


def _starts(family: str, files: Machine, behind: Mapping[str, Machine]) -> dict[Name, float]:
    start = {("family", family, which): value for which, value in family_constants(files).items()}
    for stack, one in behind.items():
        start |= {("stack", stack, which): value for which, value in stack_constants(one).items()}
    return start


def _places(out: Path, chip: Profile, stacks: Mapping[str, Profile]) -> dict[Path, Profile]:
    """The files to write, each with the one that it extends; none of them is one that was read."""
    places = {out / "chips" / f"{chip.name}.yaml": chip}
    places |= {out / "stacks" / f"{name}.yaml": base for name, base in stacks.items()}
    for file, base in places.items():
        if file.resolve() == base.path.resolve():
            hint = "leave its folder out of --profile_path, or name another --out"
            raise Refused(Problem(str(file), 0, "out", "a file that is not the one started from", "the same", hint))
    return places


def _write(file: Path, base: Profile, pooled: own.Pooled, source: Mapping[str, str]) -> bool:
    """Writes a chip or a stack whose constants moved, over the file that it extends; False where none did."""
    fitted = _fitted(pooled, "family" if base.kind == "chip" else "stack", base.name)
    if base.kind == "chip":
        fitted["sigma"] = {"value": _rounded(pooled.sigma), "source": "rows", "kind": "fitted",
                           "basis": "rows left out one at a time"}  # fmt: skip
    if not fitted:
        return False
    data = {
        "kind": base.kind,
        "name": file.stem,
        "title": f"{base.title}, with constants of one's own rows",
        "extends": base.name if _shipped(base) else str(base.path.resolve()),
        "sources": {"rows": dict(source)},
        "fitted": fitted,
    }
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise Refused(Problem(str(file), 0, "out", "a folder that can be written", str(error))) from None
    write_whole(file, as_yaml(data).encode())
    return True


def _shipped(base: Profile) -> bool:
    try:
        return load.find(base.kind, base.name).resolve() == base.path.resolve()
    except Refused:
        return False


def _fitted(pooled: own.Pooled, kind: str, whose: str) -> dict[str, Any]:
    """The quantities of the constants that moved, with their 90% intervals and where they started."""
    told = {}
    for at, name in enumerate(pooled.names):
        if pooled.moved[at] and name[0] == kind and (kind == "family" or name[1] == whose):
            value, low, high = _interval(pooled, at)
            shown = {key: _shown(name[2], number) for key, number in (("value", value), ("low", low), ("high", high))}
            basis = f"ships as {_shown(name[2], float(pooled.start[at]))}"
            told[name[2]] = {**shown, "source": "rows", "kind": "fitted", "basis": basis}
    return told


def _interval(pooled: own.Pooled, at: int) -> tuple[float, float, float]:
    value, error = float(pooled.value[at]), float(pooled.error[at])
    low, high = BOUNDS[pooled.names[at][2]]
    return value, max(value * math.exp(-Z90 * error), low), min(value * math.exp(Z90 * error), high)


def _rounded(value: float) -> float:
    return float(f"{value:.6g}")


def _shown(which: str, value: float) -> str | float:
    return units.show(value, "s", digits=6) if which in TIMES else _rounded(value)


def _document(file: str, found: Sequence[tuple[int, rows.Design]], pooled: own.Pooled) -> dict[str, Any]:
    table = [one.row for _, one in found]
    measured = np.array([rows.measured_step_time(row) for row in table])
    before, _, _ = tables.price(found)
    weight = score.weights(table)
    constants, stayed = [], []
    for at, (kind, whose, which) in enumerate(pooled.names):
        value, low, high = _interval(pooled, at)
        owner = whose if kind == "stack" else found[0][1].hardware.chip
        if pooled.moved[at]:
            constants.append({"of": owner, "constant": which, "shipped": float(pooled.start[at]), "fitted": value,
                              "low": low, "high": high})  # fmt: skip
        else:
            stayed.append(f"{owner} {which}")
    return {
        "command": "fit",
        "rows": file,
        "priced": len(table),
        "hardware": found[0][1].hardware.name,
        "before": score.errors(before, measured, weight),
        "left_out": score.errors(pooled.left_out, measured, weight),
        "after": score.errors(pooled.after, measured, weight),
        "sigma": pooled.sigma,
        "constants": constants,
        "stayed": stayed,
        "steps": [
            {"id": row.get("id") or str(at + 1), "measured": seen, "before": old, "left_out": new}
            for (at, _), row, seen, old, new in zip(
                found, table, measured.tolist(), before.tolist(), pooled.left_out.tolist(), strict=True
            )
        ],
        "assumed": sorted({note for _, one in found for note in one.notes}),
    }
