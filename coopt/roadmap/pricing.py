"""The pricer that plans are made with: the best legal layout of a model on a system, by the one cost expression."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any

from coopt.cost import estimate, loss
from coopt.cost.quality import Z90
from coopt.ops import count
from coopt.problems import Problem, Refused
from coopt.roadmap.options import Option, Pricer, Task
from coopt.search.layouts import SEARCHED, layout_space
from coopt.search.price import quickest
from coopt.search.space import candidate, settings
from coopt.spec import load, nouns
from coopt.spec.find import Folders
from coopt.tree import replace

# What the layouts of a run of years are chosen from: a narrower choice than a search's own, for there are many runs.
EXPERT_WAYS = (1, 8, 32, 64, 128)
CHOICES: Mapping[str, Sequence] = {
    "tp": (1, 2, 4, 8, 16, 32, 64),
    "cp": (1, 2, 4, 8),
    "micro_batch": (1, 2, 4),
    "vpp": (1, 2, 4),
    "zero": (1, 3),
    "recompute": (0, 1, 2),
    "offload": (0.0,),
    "order": (0,),
}


def searched(
    *, law: str, extrapolate: bool, precision: Sequence[str], stack: str = "generic", path: Folders = None
) -> Pricer:
    """A pricer over layouts: for each task, system and number of chips the layout with the most tokens a second.

    Every candidate of `CHOICES` is priced in float64; `precision` are the recipes to choose from, all taken to
    reach the same loss. With `extrapolate` the law is asked beyond the range it was fitted on, and the option says so.
    """
    judged = load.law(law, path=path)
    shape = functools.cache(functools.partial(_shape, path=path))
    fast = functools.cache(functools.partial(_fastest, precision=tuple(precision), stack=stack, path=path))

    def pricer(task: Task, system: str, chips: int) -> Option | None:
        model = shape(task.model, task.width, task.layers)
        found = fast(_Work(model=model, batch=task.batch, seq_len=task.seq_len), system, chips)
        if found is None:
            return None
        value, inside = _loss(judged, model, task, extrapolate=extrapolate)
        said = () if inside or value is None else (_beyond(judged),)
        return dataclasses.replace(found, loss=value, loss_in_range=inside, assumed=(*found.assumed, *said))

    return pricer


@dataclasses.dataclass(frozen=True)
class _Work:
    """What speed depends on; equal works are the same object."""

    model: nouns.Model
    batch: float
    seq_len: float


def _shape(name: str, width: float, layers: float, *, path: Folders) -> nouns.Model:
    return grown(load.model(name, path=path), width=width, layers=layers)


def grown(model: nouns.Model, *, width: float, layers: float) -> nouns.Model:
    """A model with d_model, heads and feed-forward widths times `width`, and the layers of each kind times `layers`.

    Layers are rounded to whole ones; a width that leaves a fraction of a head or of a column is refused. Head size,
    vocabulary and experts stay.

    >>> from coopt.spec.load import model
    >>> big = grown(model("llama3-70b"), width=2, layers=1.5)
    >>> big.d_model, big.kinds[0].heads, big.kinds[0].count
    (16384.0, 128.0, 120.0)
    """
    if width == 1.0 and layers == 1.0:
        return model
    widths = ("heads", "kv_heads", "d_ff", "d_expert", "d_shared")
    kinds = tuple(
        replace(kind, count=float(round(kind.count * layers)), **{f: getattr(kind, f) * width for f in widths})
        for kind in model.kinds
    )
    values = [model.d_model * width, *(getattr(kind, field) for kind in kinds for field in widths)]
    if any(value != int(value) for value in values):
        hint = "choose a width that leaves whole heads and columns, such as 1.5 or 2"
        raise Refused(Problem(field="scale.width", expected="whole heads and widths", got=f"{width:g}", hint=hint))
    name = f"{model.name} x {width:g} wide, x {layers:g} deep"
    return replace(model, name=name, d_model=model.d_model * width, kinds=kinds)


def _fastest(
    work: _Work, system: str, chips: int, *, precision: tuple[str, ...], stack: str, path: Folders
) -> Option | None:
    """The layout with the smallest step time among all that fit; None where none does."""
    hardware = load.resolve(system, chips=float(chips), stack=stack, path=path)
    workload = nouns.training(work.seq_len, work.batch / work.seq_len)
    choices = {**CHOICES, "precision": precision}
    if any(kind.feedforward == "moe" for kind in work.model.kinds):
        choices["ep"] = EXPERT_WAYS
    choices = load.practised(choices, stack=stack, searched=SEARCHED, path=path)
    try:
        space = layout_space(work.model, workload, chips=chips, choices=choices)
    except Refused:
        return None  # no legal layout: the batch or the heads do not divide among so many chips
    space = dataclasses.replace(space, base=replace(space.base, hardware=hardware))
    at = quickest(space)
    if at is None:
        return None
    chosen = candidate(space, at)
    cost = estimate(count(chosen.model, chosen.layout, chosen.workload), hardware)
    speed = float(cost.tokens_per_second_per_chip)
    return Option(
        tokens_per_second_per_chip=speed,
        step_time=float(cost.step_time),
        mfu=float(cost.mfu),
        layout=_said(settings(space, at)),
        goodput=_known(cost.goodput),
        interval=_interval(speed, hardware),
        fidelity=hardware.fidelity,
        stack=hardware.stack,
        assumed=hardware.assumed,
    )


def _said(chosen: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a layout under their own names."""
    names = {path: path.removeprefix("layout.") for path in chosen if not path.startswith("layout.precision")}
    said = {names[path]: value for path, value in chosen.items() if path in names}
    return {name: int(v) if isinstance(v, float) and v == int(v) else v for name, v in said.items()}


def _interval(speed: float, hardware: nouns.Hardware) -> tuple[float, float]:
    """A 90 % interval of the speed: exp(+-1.64 sigma) where an error was measured; half to double where none was."""
    sigma = _known(hardware.sigma)
    factor = 2.0 if sigma is None else math.exp(Z90 * sigma)
    return speed / factor, speed * factor


def _known(value: Any) -> float | None:
    return float(value) if math.isfinite(value) else None


def _loss(law: nouns.Law, model: nouns.Model, task: Task, *, extrapolate: bool) -> tuple[float | None, bool]:
    inside = loss(law, model, task.tokens, task.batch)
    if float(inside.in_range) > 0.5:
        return float(inside.value), True
    if not extrapolate:
        return None, False
    return _known(loss(_unbounded(law), model, task.tokens, task.batch).value), False


def _unbounded(law: nouns.Law) -> nouns.Law:
    """The law asked anywhere; whether it prices mixtures or dense models stays as it is."""
    anywhere = (0.0, 1e30)
    return replace(law, parameters=anywhere, tokens=anywhere, aspect=anywhere, vocabulary=anywhere)


def _beyond(law: nouns.Law) -> str:
    return (
        f"losses are {law.name} far beyond its fit (up to {law.parameters[1]:.3g} parameters and"
        f" {law.tokens[1]:.3g} tokens): they order models, no more"
    )
