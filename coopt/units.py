"""One closed grammar for numbers with units, and its inverse.

    quantity = number [unit]        number = 3.35, 80, 2e-6       unit = symbol {"/" symbol}, such as TB/s or pJ/b

`GB` is 1e9 bytes and `GiB` 2^30; `b` is a bit and `B` a byte; `OP` counts as `FLOP`. A number alone is refused where
a unit is due, for nobody can know which one was meant.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from fractions import Fraction
from types import MappingProxyType
from typing import Any

from coopt.problems import Problem, Refused

_BASES = ("B", "s", "FLOP", "J", "USD", "m", "g")
_DECIMAL = {"f": -15, "p": -12, "n": -9, "u": -6, "µ": -6, "μ": -6, "m": -3, "c": -2, "": 0}
_DECIMAL |= {"k": 3, "M": 6, "G": 9, "T": 12, "P": 15, "E": 18, "Z": 21, "Y": 24}
_BINARY = {"Ki": 10, "Mi": 20, "Gi": 30, "Ti": 40, "Pi": 50}
_SYMBOLS = {  # symbol: size in bases, exponents of the bases, prefixes it takes
    "B": (1, {"B": 1}, "kMGTPE*"), "b": (Fraction(1, 8), {"B": 1}, "kMGTPE*"),
    "s": (1, {"s": 1}, "pnuµμm"), "min": (60, {"s": 1}, ""), "h": (3600, {"s": 1}, ""),
    "d": (86400, {"s": 1}, ""), "yr": (31557600, {"s": 1}, ""), "Hz": (1, {"s": -1}, "kMG"),
    "FLOP": (1, {"FLOP": 1}, "kMGTPEZY"), "OP": (1, {"FLOP": 1}, "kMGTPEZY"),
    "J": (1, {"J": 1}, "fpnuµμmkMGT"), "W": (1, {"J": 1, "s": -1}, "nuµμmkMGT"), "Wh": (3600, {"J": 1}, "kMGT"),
    "USD": (1, {"USD": 1}, "kMGT"), "g": (1, {"g": 1}, "mk"), "t": (10**6, {"g": 1}, "kM"),
    "m": (1, {"m": 1}, "nuµμmck"), "m2": (1, {"m": 2}, "nuµμmck"),
}  # fmt: skip
_EXAMPLES = {  # dimension: what it is, how it is written
    "B": ("bytes", "80 GiB` or `80 GB"), "B/s": ("bytes per second", "3.35 TB/s` or `400 Gb/s"),
    "s": ("a time", "2 us"), "FLOP/s": ("FLOP per second", "989.4 TFLOP/s"), "FLOP": ("FLOP", "3e24 FLOP"),
    "W": ("watts", "700 W"), "J": ("joules", "3 kWh"), "USD": ("US dollars", "33600 USD"),
    "USD/h": ("US dollars per hour", "2.10 USD/h"), "USD/J": ("US dollars per energy", "0.08 USD/kWh"),
    "Hz": ("a frequency", "1.83 GHz"), "m2": ("an area", "814 mm2"), "m": ("a length", "2 m"),
    "J/FLOP": ("joules per FLOP", "0.5 pJ/FLOP"), "J/B": ("joules per byte", "4 pJ/b"),
    "g/J": ("grams per energy", "380 g/kWh"), "1": ("a number without unit", "0.85` or `85 %"),
}  # fmt: skip
_SCALES = {  # units to print in, largest first; dimensions not named here print in themselves
    "B": ("PB", "TB", "GB", "MB", "kB", "B"), "B/s": ("PB/s", "TB/s", "GB/s", "MB/s", "kB/s", "B/s"),
    "s": ("d", "h", "min", "s", "ms", "us", "ns"), "W": ("GW", "MW", "kW", "W", "mW"),
    "FLOP/s": ("EFLOP/s", "PFLOP/s", "TFLOP/s", "GFLOP/s", "MFLOP/s", "FLOP/s"),
    "FLOP": ("YFLOP", "ZFLOP", "EFLOP", "PFLOP", "TFLOP", "GFLOP", "FLOP"), "J": ("TJ", "GJ", "MJ", "kJ", "J", "mJ"),
    "Hz": ("GHz", "MHz", "kHz", "Hz"), "m2": ("m2", "mm2"), "m": ("m", "mm", "um"),
    "J/FLOP": ("J/FLOP", "nJ/FLOP", "pJ/FLOP", "fJ/FLOP"), "J/B": ("J/B", "nJ/B", "pJ/B", "fJ/B"),
    "USD/J": ("USD/kWh",), "g/J": ("g/kWh",),
}  # fmt: skip
_NUMBER = re.compile(r"[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")


def _spellings():
    table = {}
    for symbol, (size, bases, prefixes) in _SYMBOLS.items():
        exponents = tuple(bases.get(b, 0) for b in _BASES)
        power = 2 if symbol == "m2" else 1
        for prefix in ["", *prefixes.rstrip("*")]:
            table[prefix + symbol] = (Fraction(size) * Fraction(10) ** (_DECIMAL[prefix] * power), exponents)
        for prefix, bits in _BINARY.items() if prefixes.endswith("*") else ():
            table[prefix + symbol] = (Fraction(size) * 2**bits, exponents)
    return MappingProxyType(table)


_UNITS = _spellings()


def _unit(text):
    """Size in bases and exponents of a unit expression, or None; `1` and an empty text have no dimension."""
    size, exponents = Fraction(1), (0,) * len(_BASES)
    for place, symbol in enumerate(part.strip() for part in text.split("/")):
        if symbol == "%" and text == "%":
            return Fraction(1, 100), exponents
        if symbol not in _UNITS:
            return (size, exponents) if text in ("", "1") else None
        sign = -1 if place else 1
        one, powers = _UNITS[symbol]
        size *= one**sign
        exponents = tuple(e + sign * p for e, p in zip(exponents, powers, strict=True))
    return size, exponents


def number(text: str) -> float | None:
    """The finite number that a text spells, or None: no underscores, no leading zeros, no `inf` and no `nan`.

    >>> number("989e12"), number("010"), number("1e400"), number("1_000")
    (989000000000000.0, None, None, None)
    """
    if not _NUMBER.fullmatch(text) or re.match(r"[+-]?0[0-9]", text):
        return None
    value = float(text)
    vanished = value == 0 and re.search("[1-9]", re.split("[eE]", text)[0])
    return None if math.isinf(value) or vanished else value


def describe(dimension: str) -> tuple[str, str]:
    """What a dimension is in words, and how such a number is written: `("watts", "write `700 W`")`."""
    words, example = _EXAMPLES.get(dimension, (f"a number in {dimension}", f"1 {dimension}"))
    return words, f"write it like `{example}`"


def parse(text: str | float, dimension: str, *, least: float = 0.0) -> float:
    """The number that a text means, in `dimension` (`B`, `B/s`, `FLOP/s`, `W`, `USD/h`, `m2`, ...; `1` has no unit).

    Refuses other dimensions, a missing unit, unknown spellings, infinities, not-a-number and anything below `least`.

    >>> parse("400 Gb/s", "B/s"), parse("80 GiB", "B"), parse("1979 TOP/s", "FLOP/s"), parse("2.10 USD/h", "USD/h")
    (50000000000.0, 85899345920.0, 1979000000000000.0, 2.1)
    """
    words, hint = describe(dimension)

    def refused(why: str) -> Refused:
        return Refused(Problem(expected=words, got=f"{str(text)[:60]}{why}", hint=hint))

    wanted = _unit(dimension)
    if wanted is None:
        raise ValueError(f"no such dimension: {dimension!r}")
    if isinstance(text, bool) or not isinstance(text, (str, int, float)):
        raise refused(f" ({type(text).__name__})")
    spelled = text.strip() if isinstance(text, str) else repr(text)
    start = _NUMBER.match(spelled)
    if start is None or (value := number(start.group())) is None or len(spelled) > 80:
        raise refused(" (not a finite number)" if len(spelled) <= 80 else " (too long)")
    rest = spelled[start.end() :].strip()
    given = _unit(rest)
    if given is None:
        raise refused(f" (unknown unit `{rest[:20]}`; capitals matter: GB bytes, Gb bits, GiB 2^30 bytes)")
    if given[1] != wanted[1]:
        raise refused(" (no unit)" if not rest else f" (`{rest}` is another quantity)")
    exact = Fraction(start.group()) * given[0] / wanted[0] if value else Fraction(0)
    if abs(exact) > 10**300 or float(exact) < least:
        raise refused(" (too large)" if exact > 0 else f" (below {least:g})")
    return float(exact)


def show(value: float, dimension: str, *, digits: int = 4) -> str:
    """A value in human units that `parse` reads back, to `digits` significant digits; NaN is `not known`.

    >>> show(3.35e12, "B/s"), show(80 * 2**30, "B"), show(2e-6, "s"), show(0.85, "1")
    ('3.35 TB/s', '80 GiB', '2 us', '0.85')
    """
    if math.isnan(value):
        return "not known"
    units = _SCALES.get(dimension, (dimension,))
    if dimension == "B" and value >= 2**20 and value % 2**20 == 0 and value % 10**6:
        units = ("TiB", "GiB", "MiB") if value % 2**30 == 0 else ("MiB",)
    sizes = {unit: parse("1" if unit == "1" else f"1 {unit}", dimension) for unit in units}
    unit, size = next(((u, s) for u, s in sizes.items() if abs(value) >= s), (units[-1], sizes[units[-1]]))
    written = f"{value / size:.{digits}g}"
    return written if unit == "1" else f"{written} {unit}"


def flag(given: Any) -> bool | None:
    """Yes or no, however it is spelled, or None."""
    words = {"yes": True, "no": False, "true": True, "false": False, "1": True, "0": False}
    return words.get(str(given).lower()) if isinstance(given, (bool, int, str)) else None


def within(least: float, most: float, *, whole: bool = False, zero: bool = False) -> Callable[[Any], float | None]:
    """A reader of numbers from `least` to `most`, or 0 where `zero`; it gives None for anything else.

    >>> within(1, 8, whole=True)(8), within(1, 8, whole=True)(1.5), within(1, 8)(True)
    (8.0, None, None)
    """

    def read(given: Any) -> float | None:
        if isinstance(given, bool) or not isinstance(given, (int, float)):
            return None
        fits = least <= given <= most or (zero and given == 0)
        return float(given) if fits and (not whole or given == int(given)) else None

    return read
