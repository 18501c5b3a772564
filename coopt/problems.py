"""What is wrong with an input, said so that it can be put right.

Everything a user can get wrong ends as one `Refused` holding every `Problem` found; the command line prints one
sentence for each and exits 1. A traceback is always our own mistake.
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Iterable
from typing import Any


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
        self.problems = tuple(dict.fromkeys(problems))
        super().__init__("\n".join(map(str, self.problems)))


def near(word: str, known: Iterable[str], *, otherwise: int = 12) -> str:
    """A hint: the closest known spellings, or the first few there are."""
    names = list(known)
    by_fold = {name.casefold(): name for name in names}
    close = difflib.get_close_matches(str(word).casefold(), by_fold, n=3, cutoff=0.6 if len(str(word)) > 3 else 0.5)
    if close:
        return "did you mean " + " or ".join(f"`{by_fold[c]}`" for c in close) + "?"
    more = ", ..." if len(names) > otherwise else ""
    return f"known: {', '.join(names[:otherwise])}{more}" if names else ""


def shown(given: Any) -> str:
    """A given value in a few words."""
    if isinstance(given, (dict, list, tuple)):
        return f"a {'mapping' if isinstance(given, dict) else 'list'} of {len(given)}"
    return "nothing" if given is None else ascii_safe(str(given))[:60] or "an empty text"


def ascii_safe(text: str) -> str:
    """The text with control characters spelled out, so that a terminal is never steered by a file."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
