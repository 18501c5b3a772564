"""How work is followed while it goes on: a sentence, how much of it is done, of how much."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[str, int, int], None]


def silent(sentence: str, done: int, total: int) -> None:
    """Progress that nobody watches."""
