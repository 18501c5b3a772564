"""What each field of a layout may be set to, by name or by number: the one list that layouts and searches read."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from coopt.problems import Problem, Refused, near, shown
from coopt.spec import nouns
from coopt.units import flag, within

FIELDS = tuple(field.name for field in dataclasses.fields(nouns.Layout))
CODES = {
    "schedule": nouns.SCHEDULES,
    "recompute": nouns.RECOMPUTE,
    "order": nouns.ORDERS,
    "transport": nouns.TRANSPORTS,
    "optimizer": nouns.OPTIMIZERS,
}
_COUNTS = ("tp", "cp", "pp", "dp", "fsdp", "ep", "vpp", "micro_batch", "pieces")
_FLAGS = (
    "sp", "dualpipe", "fused_attention", "fused_loss", "traced", "overlap", "paired", "late", "beside", "apart",
    "recompute_norm", "recompute_act", "recompute_up", "recompute_mlp",
)  # fmt: skip


def setting(key: str, given: Any) -> Any:
    """One field of a layout, as the number (or recipe) that `Layout` holds: names of codes and recipes are taken.

    >>> setting("transport", "deduplicated"), setting("pieces", 7)
    (1.0, 7.0)
    """
    if key not in FIELDS:
        hint = near(key, FIELDS, otherwise=len(FIELDS))
        raise Refused(Problem(field=f"layout.{key[:60]}", expected="a field of a layout", got=key[:60], hint=hint))
    if key == "precision":
        return given if isinstance(given, nouns.Precision) else _recipe(given)
    given = given.item() if hasattr(given, "item") else given  # a NumPy number
    if key == "fsdp" and given == "dp":
        return given
    if key in CODES and isinstance(given, str):
        names = CODES[key]
        wanted, value = "one of " + ", ".join(names), float(names.index(given)) if given in names else None
    else:
        wanted, accept = _ACCEPTS[key]
        value = accept(given)
    if value is None:
        hint = near(given, CODES[key]) if key in CODES and isinstance(given, str) else ""
        raise Refused(Problem(field=f"layout.{key}", expected=wanted, got=shown(given), hint=hint))
    return value


def _recipe(given: Any) -> nouns.Precision:
    if given not in nouns.PRECISIONS:
        expected, hint = "a precision recipe", near(str(given), nouns.PRECISIONS)
        raise Refused(Problem(field="layout.precision", expected=expected, got=shown(given), hint=hint))
    return nouns.PRECISIONS[given]


def _yes(given: Any) -> float | None:
    said = flag(int(given) if isinstance(given, float) and given in (0.0, 1.0) else given)
    return None if said is None else float(said)


_ACCEPTS: Mapping[str, tuple[str, Callable[[Any], float | None]]] = {
    **{key: ("a whole number from 1", within(1, 1e9, whole=True)) for key in _COUNTS},
    **{key: (f"one of {', '.join(names)}", within(0, len(names) - 1, whole=True)) for key, names in CODES.items()},
    "zero": ("0, 1, 2 or 3", within(0, 3, whole=True)),
    **dict.fromkeys(_FLAGS, ("0 or 1", _yes)),
    "offload": ("a share from 0 to 1", within(0, 1)),
    "graphs": ("a share from 0 to 1", within(0, 1)),
    "capacity": ("0 or a factor of the mean from 1", within(1, 1e6, zero=True)),
    "imbalance": ("a factor of the mean from 1", within(1, 1e6)),
}
