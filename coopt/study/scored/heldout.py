"""What no fit has seen: every published row under constants fitted without its fold, chip, family and publication.

Made by scripts/held_out.py, kept in measurements/held_out.csv (a row a row) and held_out.yaml (date, digests, and the
errors that a prediction on a chip without measurements is told with); read wherever a held-out figure is shown.
"""

from __future__ import annotations

import csv
import functools
import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from coopt.fit import constants, rows, score, transfer
from coopt.fit.priors import starts
from coopt.spec import load, read
from coopt.spec.constants import FAMILY, STACK
from coopt.spec.find import shipped
from coopt.study.given.emit import as_yaml
from coopt.study.scored import tables

COLUMNS = ("shipped", "fold", "chip", "family", "source")  # s a step: as priced by what ships; left out by the others
SAME = 1e-3  # relative: a prediction that moved by more is of another version


def folder() -> Path:
    """The published measurements that ship with coopt."""
    return shipped() / "measurements"


def compute(table: Path, priors: Path) -> dict[str, np.ndarray]:
    """The columns for every row of a table that can be scored, with their ids; about 35 fits."""
    found, other = (_measured(table, stack) for stack in (None, tables.GENERIC))
    designs = [one for _, one in found]
    start = starts(designs, priors)
    shares = load.profile("stack", tables.GENERIC).fields.fitted  # no row runs it: it stays what it is
    start |= {("stack", tables.GENERIC, which): getattr(shares, which).value for which in STACK}
    task = constants.problem(designs, start)
    generic = constants.problem([one for _, one in other], start)
    middle, _ = read.read(priors)
    unknown = {name: float(middle["otherwise"][name[2]]) for name in start if name[0] == "family" and name[2] in FAMILY}
    return {
        "id": np.array([one.row["id"] for one in designs]),
        "measured": task.measured,
        "shipped": tables.price(found)[0],
        "fold": constants.held_out(task, [constants.fold(one.row) for one in designs]),
        "chip": transfer.left_out(task, designs, "chip"),
        "family": transfer.left_out(task, designs, "family", unknown=unknown),
        "source": transfer.left_out(task, designs, "source", generic=generic),
    }


def _measured(table: Path, stack: str | None) -> list[tuple[int, rows.Design]]:
    """The rows with a measurement as designs, under their own stacks or one that all are taken for."""
    found, _ = tables.designs(rows.read(table), stack=stack)
    return [(at, one) for at, one in found if np.isfinite(rows.measured_step_time(one.row))]


def write(table: Path, told: Mapping[str, np.ndarray], *, date: str, version: str) -> None:
    """Writes both files beside the table."""
    with open(table.with_name("held_out.csv"), "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("id", *COLUMNS))
        for at, name in enumerate(told["id"]):
            writer.writerow((name, *(f"{told[c][at]:.6g}" if np.isfinite(told[c][at]) else "" for c in COLUMNS)))
    text = as_yaml(summary(table, date=date, version=version))
    table.with_name("held_out.yaml").write_text(text, encoding="utf-8")


def summary(table: Path, *, date: str, version: str) -> dict[str, Any]:
    """The errors of held_out.csv, as held_out.yaml has them: by what was left out, and of chips with a sibling left."""
    known = {row["id"]: row for row in rows.read(table)}
    with open(table.with_name("held_out.csv"), newline="", encoding="utf-8") as file:
        held = list(csv.DictReader(file))
    kept = [known[row["id"]] for row in held]
    measured = np.array([rows.measured_step_time(row) for row in kept])
    families = {chip: load.profile("chip", chip).fields.family for chip in {row["chip"] for row in kept}}
    document: dict[str, Any] = {
        "date": date,
        "coopt": version,
        "table": table.name,
        "sha256": digest(table),
        "said": "errors of step times on a chip, or of a family or a publication, none of whose steps was fitted",
    }
    owner: dict[str, Callable[[Mapping[str, str]], str]] = {
        "chip": lambda row: row["chip"],
        "family": lambda row: families[row["chip"]],
        "source": score.publication,
    }
    document["holds"] = {}
    for kind, of in owner.items():
        times = np.array([rows.number(row, kind) for row in held])
        found = [i for i, time in enumerate(times) if np.isfinite(time)]
        document[kind] = _errors(found, kept, times, measured)
        document[f"by_{kind}"] = {
            whose: _errors([i for i in found if of(kept[i]) == whose], kept, times, measured)
            for whose in dict.fromkeys(of(kept[i]) for i in found)
        }
        document["holds"][kind] = _holds(found, kept, times, measured, of)
    # One campaign has most of the rows: publications have one vote each.
    document["source"]["macro_mape"] = round(float(np.mean([one["mape"] for one in document["by_source"].values()])), 4)
    # A new chip of a measured family is like a chip left out whose family kept another, not like all chips left out.
    relatives = [{row["chip"] for row in kept if families[row["chip"]] == families[one["chip"]]} for one in kept]
    times = np.array([rows.number(row, "chip") for row in held])
    found = [i for i, chips in enumerate(relatives) if len(chips) > 1 and np.isfinite(times[i])]
    document["sibling"] = _errors(found, kept, times, measured)
    document["holds"]["sibling"] = _holds(found, kept, times, measured, owner["chip"])
    return document


def _errors(at: Sequence[int], kept: Sequence[Mapping[str, str]], times: np.ndarray, measured: np.ndarray):
    told = transfer.summary([kept[i] for i in at], times[at], measured[at])
    return {key: round(value, 4) for key, value in told.items() if value is not None}


def _holds(
    at: Sequence[int], kept: Sequence[Mapping[str, str]], times: np.ndarray, measured: np.ndarray,
    of: Callable[[Mapping[str, str]], str],
) -> float:  # fmt: skip
    some = [kept[i] for i in at]
    return round(transfer.holds(some, np.abs(np.log(times[at] / measured[at])), [of(row) for row in some]), 4)


def digest(path: Path) -> str:
    """SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


@functools.lru_cache(maxsize=1)
def known() -> dict[str, Any]:
    """held_out.yaml as it ships; empty where there is none."""
    file = folder() / "held_out.yaml"
    return read.read(file)[0] if file.is_file() else {}


def columns(table: str | Path, kept: Sequence[Mapping[str, str]], shipped_times: np.ndarray) -> dict[str, np.ndarray]:
    """The held-out step times of the rows of a table, NaN where one has none.

    Empty where the table is not the one that was held out, or where what ships now prices its rows otherwise.
    """
    file = folder() / "held_out.csv"
    if not file.is_file() or known().get("sha256") != digest(Path(table)):
        return {}
    with open(file, newline="", encoding="utf-8") as text:
        held = {row["id"]: row for row in csv.DictReader(text)}
    nothing = dict.fromkeys(COLUMNS, "")
    told = {c: np.array([rows.number(held.get(row.get("id", ""), nothing), c) for row in kept]) for c in COLUMNS}
    same = np.abs(told.pop("shipped") / shipped_times - 1.0) < SAME
    return told if same.all() else {}
