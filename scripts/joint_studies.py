"""Every joint study again: shape, layout and machine, or chip, chosen at once and by turns.

    python scripts/joint_studies.py            # about 6 minutes of processor time for all ten
    python scripts/joint_studies.py --only=chip-dollars --write

Runs the studies of scripts/joint and prints of each the rows of docs/joint.md: what choosing together saves over every
way of taking turns, with the share of draws in which it does. It should print, among the rest:

    | `chip-dollars` | run_dollars | 86.7% (100%) | 42.5% (100%) | 5.7% (100%) | 5.0% (100%) | 0.5% (76%) |

With --write the head of each file gets the time and the table to expect, and the table of docs/joint.md is replaced.
"""

from __future__ import annotations

import re
import time
from pathlib import Path

from absl import app, flags

from coopt.report.grid import text
from coopt.report.joined import grids
from coopt.spec.profiles import profile
from coopt.study.chips.joint import BASELINES, joint
from coopt.study.given.schema_joint import Joint

ONLY = flags.DEFINE_list("only", [], "studies by name; all when left out")
WRITE = flags.DEFINE_bool("write", False, "write tables into the heads of the files and into docs/joint.md")
HERE = Path(__file__).resolve().parent
PAGE = HERE.parent / "docs" / "joint.md"


def row(name: str, document: dict) -> str:
    """A study's row of the page."""
    told = {one["way"]: one for one in document["ways"]}
    cells = [_cell(told[way]) for way in BASELINES]
    return f"| `{name}` | {document['objective']} | " + " | ".join(cells) + " |"


def _cell(one: dict) -> str:
    if one["plan"] is None:
        return "nothing"
    return "0" if one["interval"] == [0.0, 0.0] else f"{one['gain']:.1%} ({one['p_gain']:.0%})"


def head(file: Path, document: dict, seconds: float) -> None:
    """What to expect, in the comment that a file opens with."""
    before, _, rest = file.read_text().partition("kind: joint\n")
    first = before.splitlines()[0]
    lines = [
        first,
        "#",
        f"#     coopt joint scripts/joint/{file.name}            # about {seconds:.0f} s of processor time",
    ]
    lines += ["#", "# It should print, among the rest:", "#"]
    for one in grids(document):
        lines += [f"#     {line}".rstrip() for line in text(one).splitlines()] + ["#"]
    file.write_text("\n".join(lines[:-1]) + "\nkind: joint\n" + rest)


def main(_) -> None:
    for file in sorted((HERE / "joint").glob("*.yaml")):
        if ONLY.value and file.stem not in ONLY.value:
            continue
        began = time.process_time()
        document = joint(profile("joint", str(file), schema=Joint).fields)
        line = row(file.stem, document)
        print(line, flush=True)
        if WRITE.value:
            head(file, document, time.process_time() - began)
            PAGE.write_text(re.sub(rf"^\| `{file.stem}` \|.*$", line, PAGE.read_text(), flags=re.MULTILINE))


if __name__ == "__main__":
    app.run(main)
