"""The kinds of values that files hold, each with the words that say what is expected, and what every file shares."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from typing import Annotated, Any, Generic, Literal, TypeVar

import pydantic
from pydantic_core import PydanticCustomError, core_schema

from coopt import units
from coopt.problems import Problem, Refused, shown
from coopt.units import flag, within

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Scalar:
    """A kind of value: what is expected, how to write it, and the function that reads it (None: not readable)."""

    expected: str
    hint: str
    read: Callable[[Any], Any]

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> core_schema.CoreSchema:
        """Lets pydantic call `read`; its own coercions are left out."""
        return core_schema.no_info_plain_validator_function(self.validated)

    def validated(self, given: Any) -> Any:
        """The value read, or a pydantic error with the words of the refusal."""
        try:
            value = self.read(given)
        except Refused as refusal:
            problem = refusal.problems[0]
            raise failure(problem.expected, problem.got, problem.hint) from None
        if value is None:
            raise failure(self.expected, shown(given), self.hint)
        return value


def failure(expected: str, got: str, hint: str) -> PydanticCustomError:
    """An error for pydantic that carries the words of a problem."""
    return PydanticCustomError("coopt", "{expected}", {"expected": expected, "got": got, "hint": hint})


def _text(given: Any) -> str | None:
    if isinstance(given, int) and not isinstance(given, bool):
        return str(given)
    if not isinstance(given, str) or not given.strip() or len(given) > 4000:
        return None
    steering = re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", given)
    return None if steering else given


def _notes(given: Any) -> tuple[str, ...] | None:
    items = given if isinstance(given, list) else [given]
    texts = tuple(text for item in items if (text := _text(item)) is not None)
    return texts if len(texts) == len(items) else None


def _name(given: Any) -> str | None:
    return given if isinstance(given, str) and re.fullmatch(r"[a-z0-9][a-z0-9._-]{0,79}", given) else None


def _date(given: Any) -> str | None:
    return str(given) if year(given) is not None else None


def year(given: Any) -> float | None:
    """The decimal year in which a date begins, or None where it is no date.

    >>> year("2022-12-01"), year("2026Q3"), year(2024), year("soon")
    (2022.9166666666667, 2026.5, 2024.0, None)
    """
    match = re.fullmatch(
        r"(19[5-9][0-9]|20[0-9]{2})(?:-?Q([1-4])|-(0[1-9]|1[0-2])(?:-([0-2][0-9]|3[01]))?)?", str(given)
    )
    if not match or isinstance(given, (bool, float)):
        return None
    start, quarter, month, day = (int(part) if part else 0 for part in match.groups())
    months = quarter * 3 - 3 if quarter else max(month, 1) - 1
    return start + (months + (max(day, 1) - 1) / 31) / 12


def measured_in(dimension: str, *, zero: bool = False) -> Scalar:
    """A number with a unit of that dimension; above zero unless `zero`, since what is not known is left out."""
    words, hint = units.describe(dimension)

    def read(given: Any) -> float | None:
        value = units.parse(given, dimension)
        if value == 0 and not zero:
            unknown = "leave a value that is not known out, with the reason under `missing:`"
            raise Refused(Problem(expected=f"{words}, above zero", got=shown(given), hint=unknown))
        return value

    return Scalar(words, hint, read)


def _share(least: float) -> Scalar:
    def read(given: Any) -> float | None:
        value = units.parse(given, "1")
        return value if least <= value <= 1 else None

    return Scalar("a share from 0 to 1" if least == 0 else "a share above 0, at most 1", "write `0.85` or `85 %`", read)


Text = Annotated[str, Scalar("text", "write words; a number in quotes", _text)]
Notes = Annotated[tuple[str, ...], Scalar("a text or a list of texts", "write words; a number in quotes", _notes)]
Name = Annotated[str, Scalar("a name of small letters, digits, `-`, `.`", "write it like `h100-sxm`", _name)]
Date = Annotated[str, Scalar("a date", "write `2026-08-27`, `2026-08`, `2026Q3` or `2026`", _date)]
Flag = Annotated[bool, Scalar("yes or no", "write `yes` or `no`", flag)]
Count = Annotated[float, Scalar("a whole number from 1", "write it like `128`", within(1, 1e15, whole=True))]
Natural = Annotated[float, Scalar("a whole number from 0", "write it like `0`", within(0, 1e15, whole=True))]
Real = Annotated[float, Scalar("a number", "write it like `0.5` or `1e12`", within(-1e40, 1e40))]
Positive = Annotated[float, Scalar("a number above 0", "write it like `0.5` or `1e12`", within(1e-40, 1e40))]
AtLeastOne = Annotated[float, Scalar("a number from 1", "write it like `1` or `3`", within(1, 1e6))]
Share = Annotated[float, _share(0.0)]
Efficiency = Annotated[float, _share(1e-9)]
Bytes = Annotated[float, measured_in("B")]
Bandwidth = Annotated[float, measured_in("B/s")]
Time = Annotated[float, measured_in("s", zero=True)]
Rate = Annotated[float, measured_in("FLOP/s")]
Frequency = Annotated[float, measured_in("Hz")]
Watts = Annotated[float, measured_in("W")]
Dollars = Annotated[float, measured_in("USD")]
DollarsAnHour = Annotated[float, measured_in("USD/h")]
Area = Annotated[float, measured_in("m2")]
JoulesAFlop = Annotated[float, measured_in("J/FLOP")]
JoulesAByte = Annotated[float, measured_in("J/B")]

Kind = Literal["published", "measured", "assumed", "derived", "fitted", "transferred"]
Confidence = Literal["high", "medium", "low"]


class Strict(pydantic.BaseModel):
    """Fields that are not declared are errors; nothing changes after loading."""

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


class Source(Strict):
    """Where numbers come from."""

    title: Text
    date: Date
    url: Text | None = None
    notes: Notes | None = None


class Other(Strict, Generic[T]):
    """What another source says."""

    value: T
    source: Text
    notes: Notes | None = None


class Quantity(Strict, Generic[T]):
    """A value and where it comes from."""

    value: T
    source: Text
    kind: Kind
    low: T | None = None
    high: T | None = None
    disagree: tuple[Other[T], ...] = ()
    basis: Text | None = None
    checked: Flag | None = None  # read again in the source itself
    confidence: Confidence | None = None
    confidential: Flag = False  # used, never printed
    date: Date | None = None
    notes: Notes | None = None

    @pydantic.model_validator(mode="after")
    def _ordered(self) -> Quantity[T]:
        value: Any = self.value
        low, high = (value if bound is None else bound for bound in (self.low, self.high))
        if not low <= value <= high:
            raise failure("low <= value <= high", "another order", "put the smaller number under `low`")
        return self


class File(Strict):
    """What every file says about itself."""

    kind: Text
    name: Name
    title: Text
    aliases: tuple[Text, ...] = ()
    extends: Text | None = None
    sources: dict[str, Source]
    status: Text | None = None
    notes: Notes | None = None
    checked: Text | None = None
    confidence: Confidence | None = None
    missing: dict[str, Text] = {}  # noqa: RUF012 (pydantic copies it)
