"""A table of measured runs: its cells, and designs in batches that price at once.

The columns are those of measurements/training.csv; `coopt.fit.runs` says what a row means.
"""

from __future__ import annotations

import csv
import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from coopt.problems import Problem, Refused
from coopt.spec.nouns import Hardware, Layout, Model, Workload

Table = list[dict[str, str]]
REQUIRED = ("chip", "n_chips", "layers", "d_model", "heads", "d_ff", "vocab", "seq_len", "global_batch", "tp", "pp")


@dataclasses.dataclass(frozen=True)
class Design:
    """One row, ready to price."""

    row: Mapping[str, str]
    model: Model
    layout: Layout
    workload: Workload
    hardware: Hardware
    notes: tuple[str, ...]


def read(path: str | Path) -> Table:
    """The rows of a CSV file as dictionaries of text; an unreadable file or missing column is `Refused`."""
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:  # spreadsheets begin with a byte order mark
            reader = csv.DictReader(file)
            columns, rows = reader.fieldnames or (), list(reader)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise Refused(Problem(file=str(path), expected="a readable CSV table", got=str(error))) from None
    missing = [name for name in REQUIRED if name not in columns]
    if not rows and not missing:
        raise Refused(Problem(file=str(path), line=1, expected="at least one row below the names", got="none"))
    if missing:
        raise Refused(
            *(
                Problem(
                    file=str(path),
                    line=1,
                    field=name,
                    expected="a column of this name",
                    hint="the columns are those of measurements/training.csv",
                )
                for name in missing
            )
        )
    return rows


def measured_step_time(row: Mapping[str, str]) -> float:
    """Seconds a step as published: the time, else batch tokens over tokens/s, else the derived time; NaN if none.

    >>> measured_step_time({"measured_step_time_s": "", "global_batch": "256", "seq_len": "4096", "n_chips": "64",
    ...                     "measured_tokens_per_s_per_chip": "1024"})
    16.0
    """
    time = number(row, "measured_step_time_s")
    if math.isnan(time):
        tokens = number(row, "global_batch") * number(row, "seq_len")
        time = tokens / (number(row, "n_chips") * number(row, "measured_tokens_per_s_per_chip"))
    return number(row, "derived_step_time_s") if math.isnan(time) else time


def number(row: Mapping[str, str], column: str, default: float = math.nan) -> float:
    """A column as a float; the default where it is empty or absent; `Refused` where it is no number."""
    text = (row.get(column) or "").strip()
    if not text:
        return default
    try:
        return float(text)
    except ValueError:
        raise Refused(
            Problem(field=f"{row.get('id', '?')}.{column}", expected="a number or an empty cell", got=text)
        ) from None


def unscorable(row: Mapping[str, str]) -> str:
    """Why a row cannot be priced and scored; empty where it can."""
    said = (row.get("scorable") or "").strip()
    if said and said != "yes":
        return said.removeprefix("no: ")
    missing = [name for name in REQUIRED if not (row.get(name) or "").strip()]
    if missing:
        return "missing " + ",".join(missing)
    return ""


def stack(row: Mapping[str, str]) -> str:
    """The framework that a row ran: its column, or MaxText where the notes name it (a publisher's suite has several).

    >>> stack({"stack": "nemo", "notes": "MaxText/JAX on H100; per-device batch 2"})
    'maxtext'
    """
    return "maxtext" if "MaxText" in row.get("notes", "") else (row.get("stack") or "").strip()


def stack_trees(trees: Sequence[Any]) -> Any:
    """Trees of equal structure as one tree whose leaves have shape (n,)."""
    return jax.tree.map(lambda *leaves: np.asarray(leaves, dtype=np.float64), *trees)


def batches(designs: Iterable[Design], *, key: Callable[[Design], Any] = lambda d: None):
    """Designs grouped by structure (layer kinds, tiers), so that each group is one flat batch: (indices, stacked).

    Yields the positions of the group's designs and one `(model, layout, workload, hardware)` with leaves `(n,)`.
    """
    groups: dict[Any, list[int]] = {}
    designs = list(designs)
    for position, design in enumerate(designs):
        shape = jax.tree.structure((design.model, design.layout, design.workload, design.hardware))
        groups.setdefault((shape, key(design)), []).append(position)
    for positions in groups.values():
        chosen = [designs[p] for p in positions]
        parts = [(d.model, d.layout, d.workload, d.hardware) for d in chosen]
        yield positions, stack_trees(parts)
