"""Spaces as data: variables with ranges, choices and ties become axes; tied ones become one axis of valid tuples."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from typing import Any

from coopt.problems import Problem, Refused
from coopt.search.layouts import layout_space
from coopt.search.space import Axis, Candidate, Space, axis, put
from coopt.spec.nouns import LayerKind, Model, Workload, training

MOST = 5_000_000  # tuples of one tied axis
SECTIONS = ("kind", "name", "title", "notes", "sources", "source", "model", "workload", "shape", "limits", "layout")
MODEL = ("d_model", "vocab", "tied", "positions", "norms", "context")
KIND = tuple(name for name in LayerKind.__dataclass_fields__ if name not in ("mixer", "feedforward", "count"))
WORKLOAD = {"batch": "workload.phases.0.batch", "seq_len": "workload.phases.0.seq_len", "tokens": "workload.tokens"}
FORMS = "a number, a list, {from, to, step | factor}, {of, over} or {of, times, multiple}"


def space_from(
    description: Mapping[str, Any],
    *,
    chips: int | Sequence[int] | None = None,
    model: Model | None = None,
    workload: Workload | None = None,
    file: str = "",
) -> Space:
    """The space that a description (a file of `kind: space`, read) stands for, with every legal layout on `chips`.

    `model` and `workload` take the place of the description's own. A variable of `shape` is one of

        d_model: {from: 128, to: 768, step: 64}               a range, ends included; `factor: 2` for 1, 2, 4, ..
        head_dim: [32, 64]                                    choices
        heads: {of: d_model, over: head_dim}                  a quotient; what does not divide is left out
        kv_heads: {of: heads, over: [1, 2, 4]}
        d_ff: {of: d_model, times: [2, 8/3, 4], multiple: 64} a product, rounded up to a multiple

    and `limits` bound products and quotients: `{name: aspect, of: d_model, over: layers, least: 16, most: 128}`.

    Raises:
      Refused: everything that is wrong with the description; a space without a candidate, naming what removed how many.
    """
    shape = dict(description.get("shape", {}))
    limits = list(description.get("limits", ()))
    problems = [
        Problem(file=file, field=name, expected=f"one of {', '.join(SECTIONS)}", got=name)
        for name in description
        if name not in SECTIONS
    ]
    problems += _mistakes(shape, limits, file)
    layout = {name: choices for name, choices in description.get("layout", {}).items() if choices != "auto"}
    said = layout.pop("chips", 1)
    if problems:
        raise Refused(*problems)
    model = model or _model(description.get("model", {}), file)
    workload = workload or training(**{k: float(v) for k, v in description.get("workload", {}).items() if k != "kind"})
    removed: Counter[str] = Counter()
    axes = [_axis(group, shape, limits, removed) for group in _groups(shape, limits)]
    base = Candidate(model=model, workload=workload)
    for one in (one for one in axes if len(one) == 1):
        base = put(base, dict(zip(one.paths, (float(v) for v in one.values[0]), strict=True)))
    axes = sorted((one for one in axes if len(one) != 1), key=len, reverse=True)
    _refuse_empty(axes, removed, file)
    found = layout_space(
        base.model,
        base.workload,
        chips=said if chips is None else chips,
        choices=_listed(layout),
        axes=axes,
        name=str(description.get("name", "")),
    )
    return Space(axes=found.axes, base=found.base, name=found.name, removed=(*removed.items(), *found.removed))


def path(name: str) -> str:
    """The field that a variable sets; `layers` is the count of the first layer kind, a dotted name is its own path.

    >>> path("layers"), path("d_ff"), path("model.kinds.1.experts")
    ('model.kinds.0.count', 'model.kinds.0.d_ff', 'model.kinds.1.experts')
    """
    if name == "layers":
        return "model.kinds.0.count"
    if name in MODEL:
        return f"model.{name}"
    return WORKLOAD.get(name) or (f"model.kinds.0.{name}" if name in KIND else name)


def _axis(group: Sequence[str], shape: Mapping, limits: Sequence[Mapping], removed: Counter[str]) -> Axis:
    """The valid tuples of some tied variables, in the order of their definitions."""
    rows = []
    for row in _tuples(group, shape, [limit for limit in limits if set(_names(limit)) <= set(group)], removed, {}):
        rows.append(row)
        if len(rows) > MOST:
            raise Refused(
                Problem(field=f"shape.{group[0]}", expected=f"at most {MOST:,} tied tuples", got="more",
                        hint=f"{', '.join(group)} are tied to one another; narrow their ranges")
            )  # fmt: skip
    return axis("-".join(group), [path(name) for name in group], rows)


def _tuples(group, shape, limits, removed: Counter[str], known: dict[str, float]) -> Iterator[tuple[float, ...]]:
    if len(known) == len(group):
        yield tuple(known[name] for name in group)
        return
    name = group[len(known)]
    for value in _values(name, shape[name], known, removed):
        now = {**known, name: value}
        broken = next((limit for limit in limits if name in _names(limit) and _breaks(limit, now)), None)
        if broken:
            removed[f"limit {broken.get('name', '/'.join(_names(broken)))}"] += 1
        else:
            yield from _tuples(group, shape, limits, removed, now)


def _values(name: str, form: Any, known: Mapping[str, float], removed: Counter[str]) -> Iterator[float]:
    """The values a variable takes once the variables before it are known."""
    if not isinstance(form, Mapping):
        yield from (_number(one) for one in (form if isinstance(form, list | tuple) else [form]))
        return
    if "of" not in form:
        yield from _range(form)
        return
    whole = known[form["of"]]
    for by in _operands(form.get("over", 1), known):
        for times in _operands(form.get("times", 1), known):
            value = Fraction(whole) * times / by
            multiple = int(form.get("multiple", 1))
            if "over" in form and (value.denominator != 1 or value % multiple or value < 1):
                removed[f"{name}: {form['over']} does not divide {form['of']}"] += 1
            else:
                yield float(math.ceil(value / multiple) * multiple)


def _range(form: Mapping) -> Iterator[float]:
    low, high = _number(form["from"]), _number(form["to"])
    if "factor" in form:
        while low <= high:
            yield low
            low *= _number(form["factor"])
        return
    step = _number(form.get("step", 1))
    for number in range(math.floor((high - low) / step + 1e-9) + 1):
        yield low + number * step


def _operands(form: Any, known: Mapping[str, float]) -> list[Fraction]:
    several = form if isinstance(form, list | tuple) else [form]
    return [Fraction(known[one]) if one in known else Fraction(str(one)) for one in several]


def _breaks(limit: Mapping, known: Mapping[str, float]) -> bool:
    if not set(_names(limit)) <= set(known):
        return False
    value = math.prod(known[name] for name in _listing(limit["of"]))
    value /= math.prod(known[name] for name in _listing(limit.get("over", ())))
    return not _number(limit.get("least", -math.inf)) <= value <= _number(limit.get("most", math.inf))


def _groups(shape: Mapping, limits: Sequence[Mapping]) -> list[list[str]]:
    """Variables that definitions or limits tie together, in the order of the file."""
    ties = [{name, *_uses(form, shape)} for name, form in shape.items()] + [set(_names(limit)) for limit in limits]
    groups: list[set[str]] = []
    for tie in ties:
        joined = tie.union(*(group for group in groups if group & tie))
        groups = [group for group in groups if not group & tie] + [joined]
    return [[name for name in shape if name in group] for group in groups]


def _uses(form: Any, shape: Mapping) -> list[str]:
    """The variables that a definition names."""
    if not isinstance(form, Mapping) or "of" not in form:
        return []
    named = [form["of"], *_listing(form.get("over", ())), *_listing(form.get("times", ()))]
    return [one for one in named if one in shape]


def _mistakes(shape: Mapping, limits: Sequence[Mapping], file: str) -> list[Problem]:
    problems, before = [], set()
    for name, form in shape.items():
        field = f"shape.{name}"
        if path(name) == name and "." not in name:
            known = ", ".join(("layers", *MODEL, *KIND, *WORKLOAD))
            problems.append(Problem(file=file, field=field, expected=f"one of {known}, or a dotted path", got=name))
        if isinstance(form, Mapping) and not ("of" in form or {"from", "to"} <= set(form)):
            problems.append(Problem(file=file, field=field, expected=FORMS, got=str(dict(form))))
        elif isinstance(form, Mapping) and "of" in form:
            later = [one for one in {form["of"], *_uses(form, shape)} if one not in before]
            problems += [
                Problem(file=file, field=field, expected="variables defined above it", got=one) for one in later
            ]
        else:
            problems += _not_numbers(field, form, file)
        before.add(name)
    for number, limit in enumerate(limits):
        problems += [
            Problem(file=file, field=f"limits.{number}", expected="variables of shape", got=name)
            for name in _names(limit)
            if name not in shape
        ]
    return problems


def _not_numbers(field: str, form: Any, file: str) -> list[Problem]:
    several = form.values() if isinstance(form, Mapping) else form if isinstance(form, list | tuple) else [form]
    wrong = [one for one in several if not _is_number(one)]
    problems = [Problem(file=file, field=field, expected="a number", got=repr(one)) for one in wrong]
    if isinstance(form, Mapping) and not wrong:
        step = _number(form.get("step", 1))
        if step <= 0 or _number(form.get("factor", 2)) <= 1:
            problems.append(Problem(file=file, field=field, expected="a step above 0, a factor above 1", got=str(form)))
    return problems


def _refuse_empty(axes: Sequence[Axis], removed: Counter[str], file: str) -> None:
    cut = "; ".join(f"{rule} removed {count:,}" for rule, count in removed.most_common())
    empty = [
        Problem(file=file, field=f"shape.{one.name.replace('-', ', ')}", expected="at least one choice", got="none",
                hint=cut or "a range ends before it begins")
        for one in axes
        if not len(one)
    ]  # fmt: skip
    if empty:
        raise Refused(*empty)


def _model(said: Mapping, file: str) -> Model:
    """The model every candidate starts from; its layer kinds are `layers`, with the fields of `LayerKind`."""
    fields, kinds = dict(said), said.get("layers", [{}])
    fields.pop("layers", None)
    problems = [
        Problem(file=file, field=f"model.{name}", expected=f"one of name, layers, {', '.join(MODEL)}", got=name)
        for name in fields
        if name not in (*MODEL, "name")
    ]
    words = ("mixer", "feedforward")
    for number, kind in enumerate(kinds):
        problems += [
            Problem(file=file, field=f"model.layers.{number}.{name}", expected="a field of a layer kind", got=name)
            for name in kind
            if name not in (*KIND, *words, "count")
        ]
    if problems:
        raise Refused(*problems)
    leaves: list[dict[str, Any]] = [{k: v if k in words else float(v) for k, v in kind.items()} for kind in kinds]
    numbers: dict[str, Any] = {name: float(value) for name, value in fields.items() if name != "name"}
    return Model(name=str(fields.get("name", "")), kinds=tuple(LayerKind(**kind) for kind in leaves), **numbers)


def _listed(layout: Mapping[str, Any]) -> dict[str, list]:
    return {name: list(one) if isinstance(one, list | tuple) else [one] for name, one in layout.items()}


def _listing(names: Any) -> list[str]:
    return list(names) if isinstance(names, list | tuple) else [names]


def _names(limit: Mapping) -> list[str]:
    return [*_listing(limit.get("of", ())), *_listing(limit.get("over", ()))]


def _number(value: Any) -> float:
    return float(Fraction(str(value))) if isinstance(value, str) else float(value)


def _is_number(value: Any) -> bool:
    try:
        return math.isfinite(_number(value))
    except (TypeError, ValueError, ZeroDivisionError):
        return False
