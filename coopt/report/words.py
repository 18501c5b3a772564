"""How a value of a document is said: numbers with units, names made harmless, `not known` for null.

Documents come from JSON, so a value may be anything; these functions never raise on one. Names in them may come
from a file a stranger wrote: `plain` takes every character away that a terminal or a page would obey.
"""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

NOT_KNOWN = "not known"
LONGEST = 240  # characters of one name; the rest of a longer one is cut, and the cut is shown

_HIDDEN = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}  # control, format (bidi), surrogate, private, unassigned, lines
_SI = ((1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"), (1.0, ""))
_SMALL = ((1.0, ""), (1e-3, "m"), (1e-6, "µ"), (1e-9, "n"), (1e-12, "p"))
_BINARY = ((2.0**50, "PiB"), (2.0**40, "TiB"), (2.0**30, "GiB"), (2.0**20, "MiB"), (2.0**10, "KiB"), (1.0, "B"))
_CLOCK = ((86400.0, "d"), (3600.0, "h"), (60.0, "min"), (1.0, "s"), (1e-3, "ms"), (1e-6, "µs"), (1e-9, "ns"))


def plain(value: Any) -> str:
    r"""The value as one line of text in which nothing is live: no control, escape or direction character.

    >>> plain("a\x1b[31mred\nline")
    'a�[31mred line'
    """
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return NOT_KNOWN
    text = value if isinstance(value, str) else str(value)
    text = "".join(" " if c in "\n\r\t" else "\ufffd" if unicodedata.category(c) in _HIDDEN else c for c in text)
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"


def figure(value: Any) -> float | None:
    """The value as a finite float, or None when it is not one.

    >>> figure(3), figure(None), figure(float("nan")), figure("4"), figure(True)
    (3.0, None, None, None, None)
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def digits(value: float, *, significant: int = 3) -> str:
    """A float with so many significant digits, thousands separated, no exponent from 1e-3 up to 1e9.

    >>> digits(0.01234), digits(1234567.0), digits(2.0), digits(3.2e-7)
    ('0.0123', '1,234,567', '2', '3.2e-07')
    """
    if value == 0:
        return "0"
    size = abs(value)
    if size >= 1e9 or size < 1e-3:
        return f"{value:.{significant}g}"
    if size >= 10 ** (significant - 1):
        return f"{value:,.0f}"
    places = significant - 1 - math.floor(math.log10(size))
    text = f"{value:,.{places}f}"
    return text.rstrip("0").rstrip(".") if value == int(value) else text


def _scaled(value: Any, ladder: Sequence[tuple[float, str]], unit: str = "", *, significant: int = 3) -> str:
    number = figure(value)
    if number is None:
        return NOT_KNOWN if value is None or isinstance(value, float | bool | int) else plain(value)
    size = abs(number)
    # 0.9995 of a step is already the next one: 999.9 ms reads as 1 s, 1,001 MiB as 0.978 GiB.
    nearly = 0.976 if ladder is _BINARY else 0.9995
    scale, prefix = next(((s, p) for s, p in ladder if size >= nearly * s), ladder[-1])
    if size == 0:
        scale, prefix = next(((s, p) for s, p in ladder if s == 1.0), ladder[-1])
    name = prefix + unit
    return f"{digits(number / scale, significant=significant)} {name}".rstrip()


def count(value: Any) -> str:
    """A count in full.

    >>> count(1048576)
    '1,048,576'
    """
    number = figure(value)
    if number is None:
        return NOT_KNOWN if not isinstance(value, str) else plain(value)
    return f"{number:,.0f}" if number == int(number) or abs(number) >= 100 else digits(number)


def fixed(value: Any, form: str) -> str:
    """A number in a format of Python's.

    >>> fixed(2.34567, ".3f"), fixed(None, ".3f")
    ('2.346', 'not known')
    """
    number = figure(value)
    return NOT_KNOWN if number is None else format(number, form)


def large(value: Any, unit: str = "") -> str:
    """A number with an SI prefix and three digits.

    >>> large(3.35e12, "B/s"), large(912000.0), large(None)
    ('3.35 TB/s', '912 k', 'not known')
    """
    return _scaled(value, _SI, unit)


def small(value: Any, unit: str = "") -> str:
    """A number with an SI prefix below one where it needs one.

    >>> small(0.0042, "J"), small(12.0, "J")
    ('4.20 mJ', '12 J')
    """
    number = figure(value)
    return _scaled(value, _SI if number is not None and abs(number) >= 1e3 else _SMALL, unit)


def seconds(value: Any) -> str:
    """A time in the unit in which it has one to three digits before the point; minutes begin at ten.

    >>> seconds(0.01234), seconds(7.3e-6), seconds(90), seconds(5400), seconds(0), seconds(None)
    ('12.3 ms', '7.30 µs', '90 s', '1.50 h', '0 s', 'not known')
    """
    number = figure(value)
    return _scaled(value, _CLOCK[3:] if number is not None and abs(number) < 600 else _CLOCK)


def memory(value: Any) -> str:
    """Bytes in binary units.

    >>> memory(80 * 2**30)
    '80 GiB'
    """
    return _scaled(value, _BINARY)


def percent(value: Any, *, places: int = 1) -> str:
    """A fraction as a percentage.

    >>> percent(0.4567), percent(None)
    ('45.7%', 'not known')
    """
    number = _hundredfold(value)
    return NOT_KNOWN if number is None else f"{number:.{places}f}%"


def signed(value: Any, *, places: int = 1) -> str:
    """A fraction as a percentage with its sign.

    >>> signed(0.05), signed(-0.1)
    ('+5.0%', '-10.0%')
    """
    number = _hundredfold(value)
    return NOT_KNOWN if number is None else f"{number:+.{places}f}%"


def _hundredfold(value: Any) -> float | None:
    number = figure(value)
    return None if number is None else figure(100 * number)


def dollars(value: Any) -> str:
    """United States dollars.

    >>> dollars(2.5e9), dollars(0.031)
    ('2.50 B USD', '0.0310 USD')
    """
    ladder = ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k"), (1.0, ""))
    number = figure(value)
    if number is None:
        return NOT_KNOWN
    return f"{digits(number)} USD" if abs(number) < 1 else _scaled(number, ladder, " USD").replace("  ", " ")


def span(value: Any) -> tuple[float, float] | None:
    """Both ends of an interval, given as a pair or as {low, high}.

    >>> span([1, 2]), span({"low": 1, "high": 2}), span(None)
    ((1.0, 2.0), (1.0, 2.0), None)
    """
    if isinstance(value, Mapping):
        value = (value.get("low"), value.get("high"))
    if not isinstance(value, Sequence) or isinstance(value, str) or len(value) != 2:
        return None
    low, high = figure(value[0]), figure(value[1])
    return None if low is None or high is None else (low, high)


def interval(value: Any, say: Any = seconds) -> str:
    """An interval in the words of `say`.

    >>> interval([0.011, 0.014])
    '11 ms to 14 ms'
    """
    ends = span(value)
    return NOT_KNOWN if ends is None else f"{say(ends[0])} to {say(ends[1])}"


DEGREES = ("tp", "cp", "pp", "dp", "fsdp", "ep", "vpp")
_MODULES = ("recompute_norm", "recompute_act", "recompute_up", "recompute_mlp")
_USUAL = {"sp": (0, False), "zero": (), "recompute": ("none", 0), "schedule": ("1f1b", 0), "offload": (0,)}
_USUAL |= dict.fromkeys(("dualpipe", "paired", *_MODULES), (0,))


def settings(value: Any) -> dict[str, str]:
    """A layout's fields in the spelling of `--layout`, with what is at its default left out.

    >>> settings({"tp": 8, "dp": 32, "cp": 1, "sp": 1, "precision": {"name": "bf16"}})
    {'tp': '8', 'dp': '32', 'sp': '1', 'precision': 'bf16'}
    """
    held = mapped(value)
    said = {name: held[name] for name in DEGREES if held.get(name) not in (None, 1)} or {"dp": held.get("dp", 1)}
    if held.get("micro_batch") is not None:
        said["micro_batch"] = held["micro_batch"]
    said |= {n: held[n] for n, idle in _USUAL.items() if held.get(n) is not None and held[n] not in idle}
    precision = held.get("precision")
    if precision is not None:
        said["precision"] = precision.get("name") if isinstance(precision, Mapping) else precision
    return {name: _setting(part) for name, part in said.items()}


def layout(value: Any, *, joint: str = ",") -> str:
    """A layout in one line.

    >>> layout({"tp": 8, "pp": 4, "dp": 32, "cp": 1, "micro_batch": 1, "sp": 1, "recompute": "full"})
    'tp=8,pp=4,dp=32,micro_batch=1,sp=1,recompute=full'
    >>> layout({"tp": 1, "dp": 1})
    'dp=1'
    """
    if not isinstance(value, Mapping):
        return plain(value).replace(",", joint)
    return joint.join(f"{name}={part}" for name, part in settings(value).items())


def _setting(value: Any) -> str:
    number = figure(value)
    if number is None:
        return plain(int(value) if isinstance(value, bool) else value)
    return f"{number:g}"


def shape(value: Any) -> str:
    """A model's name, or its shape in letters where it has none.

    >>> shape({"layers": 12, "d_model": 768})
    '12 x 768'
    """
    if not isinstance(value, Mapping):
        return plain(value)
    if value.get("name"):
        return plain(value["name"])
    return " x ".join(count(value[k]) for k in ("layers", "d_model") if value.get(k) is not None) or NOT_KNOWN


def sentence(value: Any) -> str:
    """The text with a capital and a full stop; a first word that is an identifier stays as it is.

    >>> sentence("price is not known"), sentence("vpp=5: the default")
    ('Price is not known.', 'vpp=5: the default.')
    """
    text = plain(value).strip()
    if not text:
        return text
    first = text.split()[0].rstrip(",:;")
    text = text[0].upper() + text[1:] if first.isalpha() and first.islower() else text
    return text + ("" if text[-1] in ".!?" else ".")


def listed(value: Any) -> list[Any]:
    """The value as a list: null is empty, one thing is a list of one."""
    if value is None:
        return []
    return list(value) if isinstance(value, Sequence) and not isinstance(value, str) else [value]


def mapped(value: Any) -> Mapping[str, Any]:
    """The value as a mapping: anything else is empty."""
    return value if isinstance(value, Mapping) else {}


def entries(document: Any, key: str) -> list[Mapping[str, Any]]:
    """A list of a document, as mappings."""
    return [mapped(entry) for entry in listed(mapped(document).get(key))]


def first(document: Any, key: str) -> Mapping[str, Any]:
    """The first of such a list; empty where there is none."""
    return next(iter(entries(document, key)), {})
