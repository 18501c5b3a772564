"""Known models on machines the reader does not have: the best layout of each, and what a dollar and a megawatt buy."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from coopt.cost import estimate
from coopt.cost.explain import layout_document, plain
from coopt.ops import count
from coopt.problems import Problem, Refused
from coopt.search.layouts import SEARCHED, layout_space
from coopt.search.price import quickest
from coopt.search.space import candidate
from coopt.spec import load
from coopt.spec.nouns import Layout, training
from coopt.study.given.designs import Design, design
from coopt.study.given.schema import Asked, Elsewhere, Trained
from coopt.study.given.spaces import recipe
from coopt.study.scored.evidence import card, interval, sigma
from coopt.tree import replace

DROPPED = ("dp", "schedule")  # of a layout that is written again: the rest says it


@dataclasses.dataclass(frozen=True)
class Site:
    """A machine of so many chips: those that work, and those that are powered and paid for."""

    hardware: str
    chips: int
    powered: int
    said: tuple[str, ...] = ()


def sites(asked: Elsewhere, *, path: Any = None) -> list[Site]:
    """The machines of a question, those that are `like` another sized by its IT megawatts in whole domains."""
    found: list[Site] = []
    for one in asked.machines:
        if one.chips is not None:
            found.append(Site(one.hardware, int(one.chips), int(one.chips)))
            continue
        model = next((site for site in found if site.hardware == one.like), None)
        if model is None:
            before = ", ".join(site.hardware for site in found)
            raise Refused(
                Problem(field="elsewhere.machines.like", expected="a machine before it", got=str(one.like), hint=before)
            )
        found.append(_alike(one, model, path))
    return found


def _alike(one: Asked, model: Site, path: Any) -> Site:
    watts = model.powered * float(load.resolve(model.hardware, chips=model.chips, path=path).watts_all_in)
    system = load.profile("system", one.hardware, path=path)
    tier = system.fields.tiers[0]
    each = float(load.resolve(one.hardware, chips=tier.usable or tier.size, path=path).watts_all_in)
    if not (math.isfinite(watts) and math.isfinite(each)):
        raise Refused(
            Problem(
                field="elsewhere.machines.like",
                expected="two machines whose IT power is known",
                got=f"{one.hardware} like {model.hardware}",
            )
        )
    domains = math.floor(watts / (each * tier.size))
    used = int(domains * (tier.usable or tier.size))
    said = f"{domains} whole {tier.name} domains of {one.hardware} in the {watts / 1e6:.3f} MW of {model.hardware}"
    if tier.usable and tier.usable != tier.size:
        said += f", {tier.usable:g} of {tier.size:g} chips of each at work, all of them powered and paid for"
    return Site(one.hardware, used, int(domains * tier.size), (said,))


def entries(asked: Elsewhere, *, path: Any = None, told: Any = None) -> list[dict[str, Any]]:
    """One entry for each model on each machine; one that no layout fits says so in `verdict`."""
    found = []
    places = sites(asked, path=path)
    total = len(asked.models) * len(places)
    for trained in asked.models:
        for site in places:
            found.append(entry(trained, site, asked, path=path))
            if told is not None:
                told("pricing machines elsewhere", len(found), total)
    return found


def entry(trained: Trained, site: Site, asked: Elsewhere, *, path: Any = None) -> dict[str, Any]:
    """One model on one machine by its fastest layout, with interval and the nearest published runs."""
    said = {"model": trained.model, "hardware": site.hardware, "chips": site.chips}
    layout = fastest(trained, site, asked, path=path)
    if layout is None:
        return {**said, "verdict": "no layout fits", "tokens_per_second": None, "layout": None, "nearest": []}
    text = ",".join(f"{key}={value}" for key, value in layout_document(layout).items() if key not in DROPPED)
    one = design(
        model=trained.model,
        hardware=site.hardware,
        chips=site.chips,
        layout=text,
        seq_len=trained.seq_len,
        global_batch=trained.global_batch,
        stack=asked.stack,
        path=path,
    )
    return {**said, **_figures(one, site)}


def _figures(one: Design, site: Site) -> dict[str, Any]:
    ops = count(one.model, one.layout, one.workload)
    cost = estimate(ops, one.hardware)
    rate = float(cost.tokens_per_second_per_chip) * site.chips
    megawatts = site.powered * float(one.hardware.watts_all_in) / 1e6
    evidence = card(one, float(cost.step_time))
    return {
        "megawatts": plain(megawatts),
        "basis": "IT power, every powered chip with its share of host and network",
        "step_time": plain(cost.step_time),
        "mfu": plain(cost.mfu),
        "tokens_per_second_per_chip": plain(cost.tokens_per_second_per_chip),
        "tokens_per_second": plain(rate),
        "tokens_per_dollar": plain(rate * 3600.0 / (site.powered * float(one.hardware.dollars_hour))),
        "tokens_per_megawatt": plain(rate / megawatts),
        "interval": interval(rate, sigma(one.hardware)),
        "fidelity": evidence["fidelity"],
        "stack": evidence["stack"],
        "assumed": [*site.said, *evidence["assumed"]],
        "nearest": evidence["nearest"],
        "layout": layout_document(one.layout),
        "precision": one.layout.precision.name,
        "design": one.name,
        "verdict": "fits",
    }


def fastest(trained: Trained, site: Site, asked: Elsewhere, *, path: Any = None) -> Layout | None:
    """The layout of least step time among all that fit, every candidate priced in float64; None where none does."""
    model = load.model(trained.model, path=path)
    choices = {name: offered if isinstance(offered, list) else [offered] for name, offered in asked.layout.items()}
    if not any(kind.feedforward == "moe" for kind in model.kinds):
        choices.pop("ep", None)
    choices = load.practised(choices, stack=asked.stack, searched=SEARCHED, path=path)
    hardware = load.resolve(site.hardware, chips=site.chips, stack=asked.stack, path=path)
    work = training(trained.seq_len, trained.global_batch)
    try:
        space = layout_space(model, work, chips=site.chips, choices=choices)
    except Refused:
        return None  # nothing divides: the batch or the heads do not go into so many chips
    at = quickest(dataclasses.replace(space, base=replace(space.base, hardware=hardware)))
    if at is None:
        return None
    layout = candidate(space, at).layout
    return replace(layout, precision=replace(layout.precision, name=recipe(space, at)))
