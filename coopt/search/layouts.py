"""All legal layouts of a model on a number of chips, as a space: what must divide is sorted out before it is priced."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from coopt.problems import Problem, Refused
from coopt.search.space import Axis, Candidate, Space, axis, product
from coopt.spec.nouns import Model, Precision, Workload
from coopt.spec.settings import CODES, FIELDS, setting

# What an axis offers when nobody says. Every other field of a `Layout` is an axis where choices are given for it, and
# what the base candidate has where not.
CHOICES: dict[str, tuple] = {
    "micro_batch": (1, 2, 4, 8, 16),
    "vpp": (1, 2, 4, 8),
    "schedule": (0,),
    "zero": (0, 1, 2, 3),
    "recompute": (0, 1, 2),
    "offload": (0.0, 0.5, 1.0),
    "order": (0, 1, 2),
    "fused_attention": (1,),
    "precision": ("bf16",),
}
SEARCHED = tuple(field for field, offered in CHOICES.items() if len(offered) > 1)
TOGETHER = ("vpp", "schedule", "zero", "order")  # mean nothing on one chip
PARALLEL = ("tp", "cp", "pp", "dp", "fsdp", "ep", "sp")
KNOWN = (*FIELDS, "batch")


@dataclasses.dataclass(frozen=True)
class _Sizes:
    """What divisibility is checked against; where an axis of shapes offers several values, one must do."""

    heads: tuple[tuple[int, ...], ...]  # of each kind of layer
    experts: tuple[tuple[int, ...], ...]
    layers: float  # at most
    seq_len: int  # 0: an axis
    batches: tuple[int, ...]


def layout_space(
    model: Model,
    workload: Workload,
    *,
    chips: int | Sequence[int],
    choices: Mapping[str, Sequence] | None = None,
    axes: Sequence[Axis] = (),
    name: str = "layouts",
) -> Space:
    """The space of layouts of `model` on `chips` chips (or several numbers of them); `axes` go outside it.

    `choices` narrows or widens a field: `{"tp": (1, 2, 4, 8), "precision": ("bf16", "fp8"), "batch": (512, 1024)}`.
    Left out, tp, cp, pp, dp, ep and sp take every value that divides; fsdp is all of dp; the rest is `CHOICES`. Where
    the model or the workload is itself an axis, divisibility is left to the verdict of pricing.

    Raises:
      Refused: an unknown field or name; no legal layout, with how many tuples each rule removed.
    """
    choices = dict(choices or {})
    _check(choices)
    sizes = _sizes(model, workload, choices, axes)
    removed: Counter[str] = Counter()
    numbers = [chips] if isinstance(chips, int | float) else list(chips)
    rows = [row for number in numbers for row in _tuples(int(number), sizes, choices, removed)]
    if not rows:
        ruled = "; ".join(f"{rule} removed {count:,}" for rule, count in removed.items())
        wanted = f"a choice with tp x cp x pp x dp = {' or '.join(map(str, numbers))}"
        raise Refused(Problem(field="layout", expected=wanted, got="none", hint=ruled))
    parallel = axis("parallel", [f"layout.{field}" for field in PARALLEL], rows)
    offers = {**CHOICES, **{field: choices[field] for field in FIELDS if field in choices and field not in PARALLEL}}
    if max(numbers) == 1:
        offers |= {field: offers[field][:1] for field in TOGETHER}
    inner = [_plain(field, offered) for field, offered in offers.items()]
    if "batch" in choices:
        inner.append(axis("batch", "workload.phases.0.batch", choices["batch"]))
    inner.sort(key=len, reverse=True)
    base = Candidate(model=model, workload=workload)
    several = [one for one in inner if len(one) != 1]
    fixed = [one for one in inner if len(one) == 1]
    return product((*axes, parallel, *fixed, *several), base, name=name, removed=tuple(removed.items()))


def divisors(number: int) -> list[int]:
    """Every divisor, ascending.

    >>> divisors(12)
    [1, 2, 3, 4, 6, 12]
    """
    small = [d for d in range(1, int(number**0.5) + 1) if number % d == 0]
    return sorted({*small, *(number // d for d in small)})


def _tuples(chips: int, sizes: _Sizes, choices: Mapping[str, Sequence], removed: Counter[str]) -> Iterator[tuple]:
    """Valid (tp, cp, pp, dp, fsdp, ep, sp) with tp cp pp dp = chips; what is not valid is counted by its rule."""
    every = divisors(chips)
    for tp in choices.get("tp", every):
        for cp in choices.get("cp", every):
            for pp in choices.get("pp", every):
                if chips % (tp * cp * pp):
                    continue
                dp = chips // int(tp * cp * pp)
                if "dp" in choices and dp not in choices["dp"]:
                    continue
                for fsdp in choices.get("fsdp", (dp,)):
                    for ep in choices.get("ep", _expert_ways(int(tp * cp * dp), sizes)):
                        # with tp = 1 there is nothing to split: both spellings would be one layout
                        for sp in choices.get("sp", (0, 1) if tp > 1 else (0,)):
                            rule = _rule(sizes, tp=tp, cp=cp, pp=pp, dp=dp, fsdp=fsdp, ep=ep, sp=sp)
                            if rule:
                                removed[rule] += 1
                            else:
                                yield tp, cp, pp, dp, fsdp, ep, sp


def _expert_ways(chips: int, sizes: _Sizes) -> list[int]:
    if not sizes.experts:
        return [1]
    return [ways for ways in divisors(chips) if all(_some_divide(ways, offered) for offered in sizes.experts)]


def _some_divide(ways: int, offered: Sequence[int]) -> bool:
    return any(number % ways == 0 for number in offered)


def _rule(sizes: _Sizes, *, tp, cp, pp, dp, fsdp, ep, sp) -> str:
    """The first rule that a tuple breaks; empty where it breaks none."""
    if not all(_some_divide(tp, offered) for offered in sizes.heads):
        return "tp does not divide the heads"
    if pp > sizes.layers:
        return "more stages than layers"
    if sizes.seq_len and sizes.seq_len % (cp * (tp if sp else 1)):
        return "cp (times tp with sp) does not divide the sequence"
    if sizes.batches and all(batch % dp for batch in sizes.batches):
        return "dp divides no batch"
    if dp % fsdp:
        return "fsdp does not divide dp"
    if not all(_some_divide(ep, offered) for offered in sizes.experts) or (tp * cp * dp) % ep:
        return "ep does not divide the experts, or tp * cp * dp"
    return ""


def _sizes(model: Model, workload: Workload, choices: Mapping[str, Sequence], axes: Sequence[Axis]) -> _Sizes:
    varied = {path: one.values[:, field] for one in axes for field, path in enumerate(one.paths)}

    def offered(position: int, field: str) -> tuple[int, ...]:
        values = varied.get(f"model.kinds.{position}.{field}")
        return tuple(int(one) for one in np.unique(getattr(model.kinds[position], field) if values is None else values))

    kinds = range(len(model.kinds))
    phase = workload.train
    free = "workload.phases.0.batch" in varied
    batches = tuple(int(b) for b in choices.get("batch", () if free else (phase.batch,)))
    return _Sizes(
        heads=tuple(offered(i, "heads") for i in kinds),
        experts=tuple(offered(i, "experts") for i in kinds if model.kinds[i].feedforward == "moe"),
        layers=float(sum(max(offered(i, "count")) for i in kinds)),
        seq_len=0 if "workload.phases.0.seq_len" in varied else int(phase.seq_len),
        batches=batches,
    )


def _plain(field: str, offered: Sequence) -> Axis:
    settings = [setting(field, one) for one in offered]
    if field == "precision":
        fields = [f.name for f in dataclasses.fields(Precision) if "role" not in f.metadata]
        rows = [[getattr(recipe, name) for name in fields] for recipe in settings]
        paths = [f"layout.precision.{name}" for name in fields]
        return axis("precision", paths, rows, labels=[recipe.name for recipe in settings])
    labels = [CODES[field][int(code)] for code in settings] if field in CODES else ()
    return axis(field, f"layout.{field}", settings, labels=labels)


def _check(choices: Mapping[str, Sequence]) -> None:
    """Refuses what no layout can have, all at once: fields, settings of a field, and fields without a choice."""
    problems = []
    for field, offered in choices.items():
        if field not in KNOWN:
            problems.append(Problem(field=f"layout.{field}", expected=f"one of {', '.join(KNOWN)}", got=field))
        elif not len(offered):
            problems.append(Problem(field=f"layout.{field}", expected="at least one choice", got="none"))
        for one in offered if field in FIELDS else ():
            try:
                setting(field, one)
            except Refused as refusal:
                problems += refusal.problems
    if problems:
        raise Refused(*problems)
