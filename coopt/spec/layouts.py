"""A layout as a person writes it, filled by what the stack does by itself; every filled field is said."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from coopt.problems import Problem, Refused
from coopt.spec import nouns, read
from coopt.spec.find import Folders
from coopt.spec.machine import stack_profile
from coopt.spec.settings import FIELDS, setting
from coopt.tree import replace

CUT = ("sp", "fsdp", "vpp")  # left to how the rest is cut; how many chunks a stack cuts depends on the batch as well
ROUTED = ("transport", "capacity", "imbalance")  # of tokens to experts: nothing to say of a model without any


def layout(
    given: Mapping[str, Any] | str,
    *,
    chips: float | None = None,
    model: nouns.Model | None = None,
    hardware: nouns.Hardware | None = None,
    stack: str | None = None,
    path: Folders = None,
) -> tuple[nouns.Layout, tuple[str, ...]]:
    """The layout that `tp=8,pp=4,recompute=full` means on `chips` chips, and a sentence for each field filled in.

    Left-out fields are the stack's practice, or 1; dp = chips / (tp cp pp), rounded down, so that a layout that does
    not fit the chips is a verdict of the count and not an error here. Codes take names, precision a recipe's name.
    Raises Refused for unknown fields and for values that no such field takes.

    >>> cut, said = layout("tp=8,pp=4", chips=1024)
    >>> cut.dp, cut.fsdp, cut.sp
    (32.0, 32.0, 1.0)
    >>> said[0]
    'fused_attention=1: practice of the stack generic'
    """
    fields, problems = {}, []
    for key, value in _parts(given):
        try:
            fields[key] = setting(key, read.plain(value) if isinstance(value, str) else value)
        except Refused as refusal:
            problems += refusal.problems
    if problems:
        raise Refused(*problems)
    chips = chips or (hardware.chips if hardware else 1.0)
    mixed = model is not None and any(kind.feedforward == "moe" for kind in model.kinds)
    practice, said = _practice(stack or (hardware.stack if hardware else "generic"), path)
    for key, (value, who) in practice.items():
        if key not in fields and key in FIELDS and key not in CUT:
            fields[key] = setting(key, value)
            if key not in ROUTED or model is None or mixed:
                said += (f"{key}={_spelled(value)}: {who}",)
    fields, reduced = _reduced(fields, practice)
    said += reduced
    tp, cp, pp = (fields.get(key, 1.0) for key in ("tp", "cp", "pp"))
    fields.setdefault("dp", float(max(1, math.floor(chips / (tp * cp * pp)))))
    said += _sequence_parallel(fields, practice) + _shards(fields, practice)
    if fields.get("dualpipe") and "paired" not in fields:
        fields["paired"] = 1.0
        said += ("paired=1: what a pipeline that runs both ways is for",)
    if mixed and "ep" not in fields:
        said += ("ep=1: not given; every chip of a tensor group holds its share of all experts",)
    return nouns.Layout(**fields), said


def practised(
    choices: Mapping[str, Sequence[Any]], *, stack: str, searched: Collection[str], path: Folders = None
) -> dict[str, list[Any]]:
    """The choices of a search with the stack's practice in every field that has none and is not `searched` by itself,
    and with gradients summed as the stack sums them in every recipe: what is found is priced as `layout` has it.

    >>> practised({"tp": [1, 8]}, stack="maxtext", searched=("zero", "recompute"))["traced"]
    [1.0]
    """
    practice, _ = _practice(stack, path)
    own = {
        key: [setting(key, value)]
        for key, (value, _) in practice.items()
        if key in FIELDS and key not in (*searched, *CUT)
    }
    found: dict[str, list[Any]] = {**own, **{key: list(offered) for key, offered in choices.items()}}
    # a name that is none is the search's to refuse, with all else that it refuses
    known = nouns.PRECISIONS
    recipes = [
        known[one] if isinstance(one, str) and one in known else one for one in found.get("precision", ("bf16",))
    ]
    return {**found, "precision": [_summed(one, practice) for one in recipes]}


def _summed(recipe: Any, practice: Mapping[str, tuple[Any, str]]) -> Any:
    return _reduced({"precision": recipe}, practice)[0]["precision"] if isinstance(recipe, nouns.Precision) else recipe


def padded(model: nouns.Model, tp: float = 1.0, *, stack: str = "generic", path: Folders = None) -> nouns.Model:
    """The model as a stack trains it: the vocabulary a multiple of the stack's `vocab_multiple` times tp.

    Where dropout is the stack's practice, layers without gates, which are of the years of dropout, have it too.

    >>> padded(nouns.Model(vocab=50257.0), 8.0, stack="megatron-lm").vocab
    51200.0
    """
    practice, _ = _practice(stack, path)
    multiple = float(practice.get("vocab_multiple", (1.0, ""))[0]) * tp
    kinds = model.kinds
    if practice.get("dropout", (False, ""))[0]:
        kinds = tuple(replace(kind, dropout=1.0 - kind.gated) for kind in kinds)
    return replace(model, vocab=math.ceil(model.vocab / multiple) * multiple, kinds=kinds)


def _parts(given: Mapping[str, Any] | str) -> list[tuple[str, Any]]:
    """Pairs of field and value; every part that is no such pair, or comes twice, is refused."""
    if isinstance(given, Mapping):
        return [(str(key), value) for key, value in given.items()]
    pairs, problems = [], []
    for part in (part.strip() for part in given.split(",")):
        key, equals, value = (word.strip() for word in part.partition("="))
        if not equals and part:
            problems.append(Problem(field="layout", expected="field=value", got=part[:60], hint="write `tp=8,pp=4`"))
        elif key in dict(pairs):
            problems.append(Problem(field=f"layout.{key}", expected="each field once", got=part[:60]))
        elif part:
            pairs.append((key, value))
    if problems:
        raise Refused(*problems)
    return pairs


def _practice(stack: str, path: Folders) -> tuple[dict[str, tuple[Any, str]], tuple[str, ...]]:
    """What a stack does by itself, field by field, each with the words that say so."""
    found, said = stack_profile(stack, path)
    given = found.fields.practice
    who = f"practice of the stack {found.name}"
    return {key: (value, who) for key in type(given).model_fields if (value := getattr(given, key)) is not None}, said


def _reduced(fields: dict[str, Any], practice: Mapping[str, tuple[Any, str]]) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Gradients are summed and kept in the types that the stack sums and keeps them in."""
    told = {key: practice[key] for key in ("reduce", "gradient") if key in practice}
    if not told:
        return fields, ()
    recipe = replace(
        fields.get("precision", nouns.Layout().precision), **{key: value for key, (value, _) in told.items()}
    )
    return {**fields, "precision": recipe}, tuple(f"precision.{k}={value:g}: {who}" for k, (value, who) in told.items())


def _sequence_parallel(fields: dict[str, Any], practice: Mapping[str, tuple[Any, str]]) -> tuple[str, ...]:
    if "sp" in fields or "sp" not in practice:
        return ()
    value, who = practice["sp"]
    fields["sp"] = float(fields.get("tp", 1.0) > 1) if value == "with-tp" else float(value)
    return (f"sp={fields['sp']:g}: {who}" + (" (1 where tp > 1)" if value == "with-tp" else ""),)


def _shards(fields: dict[str, Any], practice: Mapping[str, tuple[Any, str]]) -> tuple[str, ...]:
    """Shards of the optimizer's state: all of dp where the stack splits it, or where `fsdp=dp` is asked for."""
    if "fsdp" in fields:
        fields["fsdp"] = fields["dp"] if fields["fsdp"] == "dp" else fields["fsdp"]
        return ()
    if fields.get("zero", nouns.Layout().zero) < 1:
        return ()
    value, who = practice.get("fsdp", ("dp", "state is split (zero >= 1), over all of dp"))
    fields["fsdp"] = fields["dp"] if value == "dp" else min(float(value), fields["dp"])
    return (f"fsdp={fields['fsdp']:g}: {who}",)


def _spelled(value: Any) -> str:
    return f"{float(value):g}" if isinstance(value, (bool, int, float)) else str(value)
