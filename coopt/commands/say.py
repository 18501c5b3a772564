"""What the command line prints: one JSON document, or plain text made from the same document."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterable, Mapping
from typing import Any

from coopt.problems import Problem


def as_json(document: Mapping[str, Any]) -> str:
    """One JSON document; what is not a finite number is null.

    >>> print(as_json({"time": float("nan"), "mfu": 0.5}))
    {
      "time": null,
      "mfu": 0.5
    }
    """
    return json.dumps(_plain(document), allow_nan=False, indent=2, ensure_ascii=False)


def errors(problems: Iterable[Problem]) -> dict[str, list[dict[str, Any]]]:
    """The document of a refusal.

    >>> errors([Problem(file="a.yaml", line=3, field="name", expected="a name")])["errors"][0]["line"]
    3
    """
    return {"errors": [dataclasses.asdict(problem) for problem in problems]}


def measured(document: Mapping[str, Any]) -> str:
    """A `measure` document: of blocks in tables, of a program of the user's own or of peers field by field."""
    if "on" not in document and "host" not in document:
        return as_text(document)
    from coopt.report import measured as tables

    return tables.shown(document)


def as_text(document: Mapping[str, Any]) -> str:
    """A document in words: scalars as `key  value`, lists of records as tables.

    >>> print(as_text({"run": "a", "plans": [{"rank": 1, "tp": 8}, {"rank": 2, "tp": 4}]}))
    run  a
    <BLANKLINE>
    plans
      rank  tp
      1     8
      2     4
    """
    document = _plain(document)
    single = {key: value for key, value in document.items() if not isinstance(value, list | dict) or not value}
    nested = {key: value for key, value in document.items() if key not in single}
    blocks = ["\n".join(_aligned([(key, _cell(value)) for key, value in single.items()]))] if single else []
    for key, value in nested.items():
        lines = (
            _aligned([(name, _cell(part)) for name, part in value.items()]) if isinstance(value, dict) else _list(value)
        )
        blocks.append("\n".join([key, *(f"  {line}" for line in lines)]))
    return "\n\n".join(blocks)


def _list(values: list) -> list[str]:
    """Records with common keys as a table, anything else one a line."""
    if not all(isinstance(value, dict) for value in values):
        return [_cell(value) for value in values]
    columns = list(dict.fromkeys(key for value in values for key in value))
    return _aligned([tuple(columns), *(tuple(_cell(value.get(key)) for key in columns) for value in values)])


def _aligned(rows: list[tuple[str, ...]]) -> list[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))] if rows else []
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def _cell(value: Any) -> str:
    if value is None:
        return "not known"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, dict):
        return ", ".join(f"{key}={_cell(part)}" for key, part in value.items())
    if isinstance(value, list):
        return ", ".join(map(_cell, value))
    return str(value)


def _plain(value: Any) -> Any:
    """Dictionaries, lists, words and finite numbers alone; NumPy's and JAX's arrays become lists."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, Mapping):
        return {str(key): _plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(part) for part in value]
    if hasattr(value, "tolist"):
        return _plain(value.tolist())
    if hasattr(value, "__fspath__"):
        return str(value)
    raise TypeError(f"a document holds words, numbers, lists and mappings, not {type(value).__name__}")
