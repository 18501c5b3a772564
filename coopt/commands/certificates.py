"""Certificates as the command line checks them: by the independent script, and against this project's expression."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from pathlib import Path

from coopt.problems import Problem
from coopt.spec.find import shipped


def checked(path: Path) -> tuple[str, list[Problem]]:
    """What a certificate proves, or what is wrong with it.

    `scripts/check_certificate.py` runs by itself, in a process that imports nothing of coopt; then the expression is
    recorded anew over the certificate's space, which shows that what was bounded is the cost model and nothing else.
    """
    from coopt.search.certificate import same_expression
    from coopt.study.given.objectives import expression

    script = shipped() / "scripts" / "check_certificate.py"
    done = subprocess.run([sys.executable, "-I", str(script), str(path)], capture_output=True, text=True, check=False)
    said = done.stdout.strip().removeprefix(f"{path}: ") or done.stderr.strip()[-300:]
    if done.returncode:
        return "", [Problem(file=str(path), expected="a certificate that holds", got=said[:300])]
    with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
        problems = same_expression(json.loads(file.read()), expression)
    if problems:
        return "", [Problem(file=str(path), field=one.field, expected=one.expected, got=one.got, hint=one.hint)
                    for one in problems]  # fmt: skip
    return f"{path}: {said}", []
