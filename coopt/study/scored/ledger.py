"""The ledger: predictions written down before anybody measures, a dated file each time, never changed afterwards.

A line ends in its own SHA-256, over the texts of its other columns; `digests.txt` lists every file with its own.
A file that git tracks is frozen; the ones of the day may be written again until then: the cost model's, and beside it
`DATE-MACHINE.csv`, steps timed by a compiler.
"""

from __future__ import annotations

import csv
import dataclasses
import hashlib
import io
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from coopt import __version__
from coopt.cost import estimate
from coopt.cost.explain import layout_document
from coopt.ops import count
from coopt.problems import Problem, Refused
from coopt.spec.nouns import VERDICTS
from coopt.study.given.designs import Design, parse
from coopt.study.scored.evidence import card

COLUMNS = (
    "id",
    "model",
    "hardware",
    "chips",
    "layout",
    "seq_len",
    "global_batch",
    "step_time",  # s
    "low",  # s, the 90% interval
    "high",
    "tokens_per_second_per_chip",
    "mfu",
    "fidelity",
    "stack",
    "assumed",
    "date",
    "coopt",
    "sha256",
)
DIGESTS = "digests.txt"


@dataclasses.dataclass(frozen=True)
class Timed:
    """The step of a design by other means than the cost model: seconds, their 90% interval, and how they came about."""

    time: float
    low: float
    high: float
    by: str  # takes the place of fidelity
    said: tuple[str, ...] = ()


def line(one: Design, *, date: str, version: str = __version__, timed: Timed | None = None) -> dict[str, str]:
    """One prediction with everything that it stands on; Refused where the design does not run."""
    ops = count(one.model, one.layout, one.workload)
    cost = estimate(ops, one.hardware)
    verdict = VERDICTS[int(cost.verdict)]
    if verdict != "fits" or abs(float(ops.chips) - float(one.hardware.chips)) > 0.5:
        raise Refused(Problem(field=one.name, expected="a design that runs", got=f"a verdict of `{verdict}`"))
    found = card(one, float(cost.step_time))
    timed = timed or Timed(
        float(cost.step_time), *found["interval"], by=found["fidelity"], said=tuple(found["assumed"])
    )  # fmt: skip
    faster = float(cost.step_time) / timed.time
    phase = one.workload.train
    told = {
        "id": f"{one.hardware.name}-{one.model.name}-{one.layout.precision.name}",
        "model": one.model.name,
        "hardware": one.hardware.name,
        "chips": f"{float(one.hardware.chips):g}",
        "layout": ",".join(f"{key}={value}" for key, value in layout_document(one.layout).items()),
        "seq_len": f"{float(phase.seq_len):g}",
        "global_batch": f"{float(phase.batch):g}",
        "step_time": _figure(timed.time),
        "low": _figure(timed.low),
        "high": _figure(timed.high),
        "tokens_per_second_per_chip": _figure(cost.tokens_per_second_per_chip * faster),
        "mfu": _figure(cost.mfu * faster),
        "fidelity": timed.by,
        "stack": found["stack"],
        "assumed": "; ".join(timed.said),
        "date": date,
        "coopt": version,
    }
    return told | {"sha256": digest(told)}


def _figure(value) -> str:
    return f"{float(value):.5g}"


def digest(told: Mapping[str, str]) -> str:
    """SHA-256 of a line: its texts but the digest, in the order of the columns, each ended by a line feed."""
    text = "".join(f"{told[name]}\n" for name in COLUMNS[:-1])
    return hashlib.sha256(text.encode()).hexdigest()


def write(folder: Path, questions: Sequence[tuple[str, int]], *, date: str) -> Path:
    """Answers designs with their global batch into FOLDER/DATE.csv, and lists its digest; Refused once it is frozen."""
    return keep(folder / f"{date}.csv", [line(parse(text, global_batch=batch), date=date) for text, batch in questions])


def keep(path: Path, told: Sequence[Mapping[str, str]]) -> Path:
    """Writes lines to a file of the ledger and lists its digest; Refused once it is frozen."""
    folder = path.parent
    if path.exists() and frozen(path):
        hint = "a ledger's file is never changed: tomorrow's is another"
        raise Refused(Problem(str(path), 0, "", "a file that git does not track", "one that it does", hint))
    twice = {one["id"] for one in told if sum(other["id"] == one["id"] for other in told) > 1}
    if twice:
        raise Refused(Problem(field="id", expected="one prediction an id", got=", ".join(sorted(twice))))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerows([COLUMNS, *([one[name] for name in COLUMNS] for one in told)])
    path.write_text(text.getvalue(), encoding="utf-8")
    listed = {**_listed(folder), path.name: hashlib.sha256(path.read_bytes()).hexdigest()}
    (folder / DIGESTS).write_text("".join(f"{sha}  {name}\n" for name, sha in sorted(listed.items())))
    return path


def frozen(path: Path) -> bool:
    """True where git tracks the file, and where git cannot say."""
    try:
        done = subprocess.run(
            ["git", "ls-files", "--error-unmatch", path.name], cwd=path.parent, capture_output=True, check=False
        )
    except OSError:
        return True
    return done.returncode != 1  # 0: tracked, 1: not, 128: no repository


def _listed(folder: Path) -> dict[str, str]:
    file = folder / DIGESTS
    lines = file.read_text().splitlines() if file.is_file() else []
    return {name: sha for sha, name in (text.split("  ", 1) for text in lines)}


def problems(folder: Path) -> list[Problem]:
    """What is not as it was frozen: files changed, missing or not listed, and lines, each with its number."""
    listed, found = _listed(folder), []
    files = {path.name: path for path in sorted(folder.glob("*.csv"))}
    for name in sorted({*listed, *files}):
        if name not in files:
            found.append(Problem(str(folder / DIGESTS), 0, name, "a file that is there", "none"))
            continue
        if listed.get(name) != hashlib.sha256(files[name].read_bytes()).hexdigest():
            found.append(Problem(str(files[name]), 0, "", "the digest that is listed", listed.get(name, "none listed")))
        with open(files[name], newline="", encoding="utf-8") as text:
            reader = csv.DictReader(text)
            for row in reader:
                whole = set(row) == set(COLUMNS) and None not in row.values()
                if not whole or digest(row) != row["sha256"]:
                    found.append(Problem(str(files[name]), reader.line_num, "sha256", "the line as it was frozen",
                                         row.get("id") or "another"))  # fmt: skip
    return found
