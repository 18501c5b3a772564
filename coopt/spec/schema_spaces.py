"""Schema of search spaces: the outer form of a file. Whether its variables make candidates, the search says."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from coopt.spec.schema_types import Count, File, Positive, Real, Scalar, Source, Strict, Text


def _ratio(given: Any) -> bool:
    """A number, or a quotient such as `8/3`."""
    if isinstance(given, str):
        return re.fullmatch(r"[1-9][0-9]{0,8}/[1-9][0-9]{0,8}", given) is not None
    return isinstance(given, (int, float)) and not isinstance(given, bool) and abs(given) < 1e40


def _operand(given: Any) -> bool:
    """A number, the name of a variable, or a list of either."""
    if isinstance(given, list):
        return bool(given) and all(not isinstance(one, list) and _operand(one) for one in given)
    return _ratio(given) or (isinstance(given, str) and re.fullmatch(r"[A-Za-z_][\w.]*", given) is not None)


def _form(given: Any) -> Any:
    if isinstance(given, list):
        return given if given and all(_ratio(one) for one in given) else None
    if not isinstance(given, dict):
        return given if _ratio(given) else None
    steps = {"from", "to"} <= set(given) <= {"from", "to", "step", "factor"} and all(map(_ratio, given.values()))
    tied = {"of"} < set(given) <= {"of", "over", "times", "multiple"} and all(map(_operand, given.values()))
    return given if steps or tied else None


def _choices(given: Any) -> Any:
    plain = (str, int, float)
    if isinstance(given, list):
        return given if given and all(isinstance(one, plain) for one in given) else None
    return given if isinstance(given, plain) else None


Form = Annotated[
    Any,
    Scalar(
        "a number, a list, {from, to, step | factor}, {of, over} or {of, times, multiple}",
        "write it like `{from: 128, to: 768, step: 64}`",
        _form,
    ),
]
Operand = Annotated[
    Any,
    Scalar("a variable, a number or a list of them", "write it like `d_model`", lambda v: v if _operand(v) else None),
]
Choices = Annotated[Any, Scalar("`auto`, a value or a list of values", "write it like `[1, 2, 4]`", _choices)]


class Limit(Strict):
    """A product or a quotient of variables that stays between two bounds."""

    name: Text | None = None
    of: Operand
    over: Operand | None = None
    times: Operand | None = None
    least: Real | None = None
    most: Real | None = None


class SpaceWorkload(Strict):
    """What every candidate is asked."""

    kind: Literal["train"] = "train"
    seq_len: Count | None = None
    batch: Count | None = None
    tokens: Positive | None = None


class Space(File):
    """kind: space."""

    kind: Literal["space"]
    sources: dict[str, Source] = {}  # noqa: RUF012  (a space is a question, and has no facts that need one)
    source: Text | None = None
    model: dict[str, Any] = {}  # noqa: RUF012
    workload: SpaceWorkload = SpaceWorkload()
    shape: dict[str, Form]
    limits: tuple[Limit, ...] = ()
    layout: dict[str, Choices] = {}  # noqa: RUF012
