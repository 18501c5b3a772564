"""What can be wrong with a table of one's own steps: every bad cell by line and column, all at once."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence

from coopt.cost import estimate
from coopt.fit import rows
from coopt.ops import count
from coopt.problems import Problem, Refused
from coopt.spec.find import fold
from coopt.spec.nouns import PRECISIONS, VERDICTS
from coopt.spec.profiles import Profile

POSITIVE = (*rows.REQUIRED[1:], "cp", "ep", "vpp", "micro_batch")  # of a row, where given; the first is the chip
MEASURED = ("measured_step_time_s", "measured_tokens_per_s_per_chip")


def lines(file: str) -> list[int]:
    """The line on which each row of a table begins."""
    found = []
    with open(file, newline="", encoding="utf-8-sig") as text:
        reader = csv.reader(text)
        start = 1
        for row in reader:
            if row:
                found.append(start)
            start = reader.line_num + 1
    return found[1:]


def refuse(file: str, table: Sequence[Mapping[str, str]], lines: Sequence[int], chip: Profile) -> None:
    """Raises Refused with every cell that cannot be, each with its line and column."""
    names = {fold(name) for name in (chip.name, *chip.data.get("aliases", ()))}
    seen: dict[str, int] = {}
    problems = []
    for line, cells in zip(lines, table, strict=True):
        row = {name: cells.get(name) or "" for name in cells if name}  # a short line has no text in its last cells

        def wrong(field: str, expected: str, got: str, hint: str = "", line: int = line) -> None:
            problems.append(Problem(file, line, field, expected, got or "nothing", hint))

        sizes = {name: _number(row, name) for name in (*POSITIVE, *MEASURED)}
        for name, value in sizes.items():
            if not (value > 0 and math.isfinite(value)) and (name in rows.REQUIRED or row.get(name, "").strip()):
                wrong(name, "a number above zero", row.get(name, ""))
        if not any(row.get(name, "").strip() for name in MEASURED):
            wrong(MEASURED[0], "a measured step time in s, or tokens/s a chip", "", f"or give {MEASURED[1]}")
        if fold(row["chip"]) not in names:
            wrong("chip", f"{chip.name}, which --from names", row["chip"], "fit the rows of another chip by themselves")
        ways = sizes["tp"] * sizes["pp"] * (1.0 if math.isnan(sizes["cp"]) else sizes["cp"])
        if sizes["n_chips"] > 0 and ways > 0 and sizes["n_chips"] % ways:
            wrong("n_chips", f"a multiple of tp x cp x pp = {ways:g}", row["n_chips"])
        recipe = (row.get("precision") or "").strip()
        if recipe and recipe not in PRECISIONS:
            wrong("precision", "one of " + ", ".join(PRECISIONS), recipe)
        if row.get("id") and row["id"] in seen:
            wrong("id", "an id of its own", f"{row['id']}, as on line {seen[row['id']]}")
        seen.setdefault(row.get("id", ""), line)
    if problems:
        raise Refused(*problems)


def _number(row: Mapping[str, str], name: str) -> float:
    try:
        return rows.number(row, name)
    except Refused:
        return -1.0  # is no number: refused as one that is not above zero


def unpriced(file: str, lines: Sequence[int], found: Sequence[tuple[int, rows.Design]]) -> list[Problem]:
    """Rows that ran and cannot have: whatever does not divide, a format the chip has not."""
    problems = []
    for at, one in found:
        verdict = VERDICTS[int(estimate(count(one.model, one.layout, one.workload), one.hardware).verdict)]
        # What ran did fit: our count of memory, or of what divides into schedules, is then the one that is wrong.
        if verdict in ("type", "heads", "batch", "experts", "chips", "fsdp"):
            problems.append(Problem(file, lines[at], "layout", "a run that can be", f"a verdict of `{verdict}`"))
    return problems
