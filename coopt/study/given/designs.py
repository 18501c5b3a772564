"""What a person asks for becomes nouns: a model on a machine, cut so, doing that; everything filled in is said."""

from __future__ import annotations

import dataclasses
import functools
import math
import re
from collections.abc import Mapping
from typing import Any

from coopt.problems import Problem, Refused
from coopt.spec import load, read
from coopt.spec.nouns import PRECISIONS, Hardware, Layout, Model, Workload, training
from coopt.spec.schema import Mark, validate
from coopt.spec.schema_types import Count, Positive, Strict
from coopt.study.given.power import capped
from coopt.tree import replace

_DESIGN = re.compile(r"(?P<model>[^@]+)@(?P<hardware>[^:/]+)(?::(?P<chips>\d+))?(?:/(?P<layout>.*))?")
TOKENS_A_STEP = 4_194_304  # batch assumed where none is given: 4 Mi tokens, common for models of 7 B and more


@dataclasses.dataclass(frozen=True)
class Design:
    """One design, ready for `count` and `estimate`."""

    name: str
    model: Model
    layout: Layout
    workload: Workload
    hardware: Hardware
    assumed: tuple[str, ...] = ()


def design(
    *,
    model: str,
    hardware: str,
    chips: int | None = None,
    layout: str = "",
    seq_len: float | None = None,
    global_batch: float | None = None,
    tokens: float | None = None,
    stack: str | None = None,
    overrides: Mapping[str, str] | None = None,
    watts: float | None = None,
    path: Any = None,
    name: str = "",
) -> Design:
    """The nouns of one design, with defaults filled in and said; every mistake at once, as Refused."""
    inside = split(overrides or {})
    problems: list[Problem] = []

    def attempt(make, otherwise=None):
        try:
            return make()
        except Refused as refusal:
            problems.extend(refusal.problems)
            return otherwise

    stack = stack or "generic"
    work = attempt(
        lambda: _asked(inside.get("workload", {}), seq_len=seq_len, global_batch=global_batch, tokens=tokens)
    )
    machine = attempt(
        lambda: load.resolve(hardware, chips=chips, stack=stack, overrides=inside.get("hardware", {}), path=path)
    )
    shape = attempt(lambda: load.model(model, path=path, **inside.get("model", {})))
    if machine is not None and watts is not None:
        machine = attempt(functools.partial(capped, machine, watts, path=path))
    cut = None
    if machine is not None and shape is not None:
        text = ",".join(part for part in (layout, *(f"{k}={v}" for k, v in inside.get("layout", {}).items())) if part)
        cut = attempt(lambda: load.layout(text, hardware=machine, model=shape, stack=stack, path=path))
    if problems:
        raise Refused(*problems)
    assert machine is not None and shape is not None and cut is not None and work is not None
    placed, filled = cut
    said = (*(machine.assumed[:1] if watts is not None else ()), *filled)  # a cap comes first
    train, more = _workload(work, shape, placed)
    shape = load.padded(shape, float(placed.tp), stack=stack, path=path)
    return Design(
        name=name or f"{shape.name}@{machine.name}:{machine.chips:g}/{layout}",
        model=shape,
        layout=placed,
        workload=train,
        hardware=machine,
        assumed=tuple(dict.fromkeys((*said, *more, *machine.assumed))),
    )


class _Work(Strict):
    """What a design does: tokens a sequence, sequences a step, tokens of the run, tokens of a packed document."""

    seq_len: Count | None = None
    global_batch: Count | None = None
    tokens: Positive | None = None
    document: Positive = 0.0


def _asked(inside: Mapping[str, str], **flags: float | None) -> _Work:
    """What is asked of a design, by `workload.FIELD=value` and by flags; Refused with every number that cannot be."""
    given = {name: value for name, value in flags.items() if value is not None}
    twice = [Problem(field=f"workload.{name}", expected="each field once", got=inside[name]) for name in given
             if name in inside]  # fmt: skip
    asked, wrong = validate(_Work, given | {name: read.plain(text) for name, text in inside.items()}, {(): Mark("", 0)})
    if twice or wrong:
        raise Refused(*twice, *wrong)
    return asked


def _workload(asked: _Work, model: Model, layout: Layout) -> tuple[Workload, tuple[str, ...]]:
    """What is asked as a workload, with what was filled in said."""
    seq_len, batch, said = asked.seq_len, asked.global_batch, ()
    if seq_len is None:
        seq_len = min(float(model.context) or 4096.0, 8192.0)
        said += (f"seq_len={seq_len:g}: the model's context, at most 8192",)
    if batch is None:
        step = float(layout.dp * layout.micro_batch)
        batch = max(round(TOKENS_A_STEP / seq_len / step), 1) * step
        said += (f"global_batch={batch:g}: about {TOKENS_A_STEP:,} tokens a step in whole micro-batches",)
    tokens = math.nan if asked.tokens is None else asked.tokens
    return training(seq_len, batch, tokens, document=asked.document), said


def split(overrides: Mapping[str, str]) -> dict[str, dict[str, str]]:
    """Dotted overrides by what they reach into.

    >>> split({"layout.tp": "8", "hardware.memory.capacity": "192 GiB"})
    {'layout': {'tp': '8'}, 'hardware': {'memory.capacity': '192 GiB'}}
    """
    inside: dict[str, dict[str, str]] = {}
    for key, value in overrides.items():
        root, _, rest = key.partition(".")
        inside.setdefault(root, {})[rest] = value
    return inside


def of_options(options: Any, *, chips: float, stack: str, precision: str = "") -> tuple[Model, Layout, tuple[str, ...]]:
    """The model and the layout that a command's `--model`, `--layout` and `key=value` name, and what was assumed.

    `precision` is the recipe where the layout names none.
    """
    inside, path = split(options.overrides), options.profile_path
    model = load.model(options.model, path=path, **inside.get("model", {}))
    text = ",".join(filter(None, (options.layout, *(f"{k}={v}" for k, v in inside.get("layout", {}).items()))))
    layout, assumed = load.layout(text, chips=chips, model=model, stack=stack, path=path)
    if precision and any(said.startswith("precision=") for said in assumed):
        layout = replace(layout, precision=PRECISIONS[precision])
        rest = (said for said in assumed if not said.startswith("precision="))
        assumed = (*rest, f"precision={precision}: as blocks are timed here")
    return model, layout, assumed


def parse(text: str, **defaults: Any) -> Design:
    """A design written as `llama3-70b@dgx-h100:1024/tp=8,pp=4`; `defaults` fill what is left out.

    Raises Refused with how to write it.
    """
    found = _DESIGN.fullmatch(text.strip())
    if not found:
        raise Refused(
            Problem(
                field="design",
                expected="model@hardware:chips/layout",
                got=text[:80],
                hint="write `llama3-70b@dgx-h100:1024/tp=8,pp=4`",
            )
        )
    given = {key: value for key, value in found.groupdict().items() if value}
    if "chips" in given:
        given["chips"] = int(given["chips"])
    return design(**{**{k: v for k, v in defaults.items() if v is not None}, **given, "name": text.strip()})
