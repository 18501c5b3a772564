"""Where a document goes when `--out` names a file: a page (`.html`) or JSON (`.json`)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from coopt.commands import say
from coopt.problems import Problem, Refused
from coopt.store.files import writable, write_whole


def target(out: str | None) -> Path | None:
    """The file that `--out` names; Refused before anything is computed where it could not be written."""
    path = writable(out)
    if path is not None and path.suffix not in (".html", ".json"):
        raise Refused(Problem(field="out", expected="a file that ends in .html or .json", got=str(out)))
    return path


def write(document: dict[str, Any], path: Path | None) -> dict[str, Any]:
    """The document, written where there is a path."""
    from coopt.report.html import write_report

    if path is not None and path.suffix == ".html":
        write_report(document, path)
    elif path is not None:
        write_whole(path, (say.as_json(document) + "\n").encode())
    return document


def validate(options: Any) -> dict[str, Any]:
    """Scores the predictions of a table."""
    from coopt.study import verbs

    out = target(options.out)
    return write(verbs.validate(options), out)
