"""What is wrong with an input, said so that it can be put right.

Everything a user can get wrong ends as one `Refused` holding every `Problem` found; the command line prints one
sentence for each and exits 1. A traceback is always our own mistake.
"""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class Problem:
    """One mistake: where, what was expected, what was given, how to write it."""

    file: str = ""
    line: int = 0  # 1 is the first; 0: no line (a flag, a whole file)
    field: str = ""
    expected: str = ""
    got: str = ""
    hint: str = ""

    def __str__(self) -> str:
        """The sentence.

        >>> print(Problem(file="a.yaml", line=3, field="memory.capacity", expected="bytes", got="80",
        ...               hint="write `80 GiB` or `80 GB`"))
        a.yaml:3: memory.capacity: expected bytes, got 80; write `80 GiB` or `80 GB`
        """
        where = f"{self.file}:{self.line}" if self.file and self.line else self.file
        said = [f"expected {self.expected}"] if self.expected else []
        said += [f"got {self.got}"] if self.got else []
        text = ", ".join(said) + (f"; {self.hint}" if self.hint and said else self.hint)
        return ": ".join(part for part in (where, self.field, text) if part)


class Refused(Exception):
    """An input cannot be used; `problems` says everything that is wrong with it, not only the first thing."""

    def __init__(self, *problems: Problem):
        super().__init__("\n".join(str(p) for p in problems))
        self.problems = problems
