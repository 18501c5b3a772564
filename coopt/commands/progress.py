"""Progress on stderr: a bar where a person watches, nothing where nobody does."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator

Told = Callable[[str, int, int], None]


@contextlib.contextmanager
def bar() -> Iterator[Told]:
    """While it lasts, `told(sentence, done, total)` moves a bar on stderr; a new sentence begins a new bar."""
    if not sys.stderr.isatty():
        yield lambda sentence, done, total: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as shown:
        tasks: dict[str, object] = {}

        def told(sentence: str, done: int, total: int) -> None:
            if sentence not in tasks:
                tasks[sentence] = shown.add_task(sentence, total=total)
            shown.update(tasks[sentence], completed=done, total=total)  # type: ignore[arg-type]

        yield told
