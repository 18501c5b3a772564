"""Reads a table of GPU kernels: `nsys stats --report cuda_gpu_kern_sum` or `cuda_gpu_trace`, with `--format csv`."""

from __future__ import annotations

import csv
import math
from pathlib import Path

from coopt.measure.trace import Operation, Trace
from coopt.problems import Problem, Refused

# Column headers of nsys: name, seconds of all its occurrences or of one, and occurrences.
SUMMED, ONE_BY_ONE = ("Name", "Total Time", "Instances"), ("Name", "Duration", "")


def read(file: str | Path) -> Trace:
    """The kernels in a CSV of `nsys stats`, seconds of all of them: it does not say how many steps there were.

    Raises:
      Refused: no such file, or no columns `Name` with `Total Time (ns)` and `Instances`, or with `Duration (ns)`.
    """
    place = Path(file)
    try:
        lines = place.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise Refused(Problem(file=str(place), field="trace", expected="a CSV file", got=str(error)[:120])) from error
    # nsys prints a line about itself before the header, and durations with their unit in it.
    first = next((i for i, line in enumerate(lines) if "Name" in line and ("Time" in line or "Duration" in line)), None)
    header = next(csv.reader([lines[first]])) if first is not None else []
    for wanted in (SUMMED, ONE_BY_ONE):
        columns = [next((c for c in header if word and c.partition(" (")[0] == word), "") for word in wanted]
        if columns[0] and columns[1]:
            return _of_rows(place, csv.DictReader(lines[first:]), columns, first or 0)
    raise Refused(
        Problem(
            file=str(place), field="trace", expected="columns `Name` and `Total Time (ns)` or `Duration (ns)`",
            got=", ".join(header)[:120] or "no header", hint="nsys stats --report cuda_gpu_kern_sum --format csv",
        )
    )  # fmt: skip


def _of_rows(place: Path, rows: csv.DictReader, columns: list[str], before: int) -> Trace:
    name, time, count = columns
    unit = {"ns": 1e-9, "us": 1e-6, "μs": 1e-6, "ms": 1e-3, "s": 1.0}.get(time.partition("(")[2].rstrip(")"), math.nan)
    totals: dict[str, list[float]] = {}
    for row in rows:
        try:
            seconds, often = float(row[time].replace(",", "")) * unit, float(row[count] or 1) if count else 1.0
            if not (math.isfinite(seconds) and seconds >= 0):
                raise ValueError(row[time])
        except (ValueError, AttributeError, TypeError) as error:
            said = Problem(
                file=str(place), line=before + rows.line_num, field=time, expected="a time", got=str(error)[:60]
            )
            raise Refused(said) from error
        total = totals.setdefault(row[name], [0.0, 0.0])
        total[0] += seconds
        total[1] += often
    operations = [Operation(name, "", "", seconds, often) for name, (seconds, often) in totals.items()]
    operations.sort(key=lambda operation: -operation.time)
    return Trace(operations=tuple(operations), runs=1, spans=())
