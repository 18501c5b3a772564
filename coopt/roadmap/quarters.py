"""Quarters as people write them and as programmes count them."""

from __future__ import annotations

import math
import re

HOURS = 365.25 * 24 / 4  # h in a quarter
SECONDS = HOURS * 3600.0  # s in a quarter

_FORM = re.compile(r"(\d{4})Q([1-4])\Z")


def number(quarter: str) -> int:
    """The position of a quarter on a line of quarters: 4 * year + (quarter - 1).

    >>> number("2026Q3") - number("2025Q4")
    3

    Raises ValueError where the text is not a quarter such as `2026Q3`.
    """
    form = _FORM.match(quarter)
    if form is None:
        raise ValueError(f"not a quarter such as 2026Q3: {quarter!r}")
    return 4 * int(form[1]) + int(form[2]) - 1


def name(position: int) -> str:
    """The quarter at a position: the inverse of `number`.

    >>> name(number("2026Q3") + 2)
    '2027Q1'
    """
    return f"{position // 4}Q{position % 4 + 1}"


def span(first: str, last: str) -> tuple[str, ...]:
    """All quarters from the first to the last, both counted.

    >>> span("2026Q3", "2027Q1")
    ('2026Q3', '2026Q4', '2027Q1')
    """
    return tuple(name(p) for p in range(number(first), number(last) + 1))


def at(date: float) -> int:
    """The position of the quarter that holds a date given as a decimal year.

    A month written as a year (2026-08 is 2026 + 7/12) falls into its own quarter in spite of rounding.

    >>> name(at(2026 + 7 / 12))
    '2026Q3'
    """
    return math.floor(4.0 * date + 1e-6)
