"""How sure an order is: plans priced again under constants drawn from the intervals that their files give.

Constants belong to chip families and software stacks, those of the loss to its law; a draw moves each of them once, for
all plans and machines that share it, so that what plans have in common cancels. Nothing else is drawn: prices, links
and peaks are as published.
"""

from __future__ import annotations

import dataclasses
import math
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from coopt.cost.quality import Z90, counted_parameters
from coopt.problems import Refused
from coopt.search.price import quality
from coopt.search.space import Candidate, put
from coopt.spec import load, process
from coopt.spec.constants import FAMILY, STACK
from coopt.spec.nouns import Hardware, Law
from coopt.spec.silicon import Process
from coopt.study.given.objectives import expression, machine_of, unit
from coopt.tree import replace

SAMPLES = 400
POOL = 48  # plans that compete for the first places; more would change no listed probability by a percent
UNKNOWN = 0.2  # standard deviation of the log of a constant that has no interval: about what fitted ones have
FIRST = 5
EQUAL = 1e-12  # relative: a limit that the first plan just keeps to is kept in every draw

Key = tuple[str, str, str]  # ("family" | "chip" | "stack" | "law", whose, constant)


def spreads(hardware: Hardware, *, path: Any = None) -> dict[str, tuple[Key, float, bool]]:
    """For each constant of a machine: whose it is, the standard deviation of its logarithm, whether a file gives it.

    An interval `low` to `high` of a file is the central 90%, log-normal: sigma = log(high / low) / (2 x 1.645).
    """
    found = {}
    for names, files in (
        (FAMILY, (("chip", hardware.chip), ("family", hardware.family))),
        (STACK, (("stack", hardware.stack),)),
    ):
        given = [(kind, whose, _fitted(kind, whose, path)) for kind, whose in files]
        for name in names:
            kind, whose, fields = next((one for one in given if getattr(one[2], name, None) is not None), given[-1])
            quantity: Any = getattr(fields, name, None)
            low, high = (getattr(quantity, end, None) for end in ("low", "high"))
            known = bool(low and high)
            sigma = math.log(high / low) / (2.0 * Z90) if low and high else UNKNOWN
            found[name if name not in found else f"stack {name}"] = (kind, whose, name), sigma, known
    return found


def _fitted(kind: str, whose: str, path: Any) -> Any:
    try:
        return load.profile(kind, whose, path=path).fields.fitted if whose else None
    except Refused:
        return None


def drawn(hardware: Hardware, *, samples: int, seed: int, path: Any = None) -> Hardware:
    """The machine under `samples` draws of its constants; leaves that they move have shape `(samples,)`.

    The draw of a constant depends on its owner and on the seed alone, so that machines of one family move together.
    """
    factors = {
        name: np.exp(sigma * _normal(key, seed, samples))
        for name, (key, sigma, _) in spreads(hardware, path=path).items()
    }

    def share(value: Any, name: str) -> Any:
        return np.minimum(value * factors[name], 1.0)

    wide = ("matmul_16",) * 4 + ("matmul_8",) * 2 + ("matmul_4", "matmul_8")  # by type, as `constants.applied` has it
    attention = factors["attention"] * factors["stack attention"]
    tiers = tuple(
        replace(tier, efficiency=share(tier.efficiency, "scale_up" if position == 0 else "scale_out"))
        for position, tier in enumerate(hardware.tiers)
    )
    return replace(
        hardware,
        matmul=tuple(share(value, name) for value, name in zip(hardware.matmul, wide, strict=True)),
        depth=hardware.depth * factors["depth"],
        attention=np.minimum(hardware.attention * attention, 1.0),
        attention_backward=np.minimum(hardware.attention_backward * attention, 1.0),
        attention_depth=hardware.attention_depth * factors["attention_depth"],
        stream=share(hardware.stream, "stream"),
        kernel=hardware.kernel * factors["kernel"],
        tiers=tiers,
        dispatch=hardware.dispatch * factors["dispatch"],
        passes=hardware.passes * factors["passes"],
        hide_tensor=share(hardware.hide_tensor, "hide"),
        hide_data=share(hardware.hide_data, "hide"),
    )


def drawn_law(plans: Sequence[Candidate], *, samples: int, seed: int) -> Law:
    """The law of some plans under draws of its constants by the standard errors of its file, as `loss` reads them.

    E of a dense law moves by its error, a term by its exponent's, about the middle of the fitted range: its constant
    moves with the exponent. Of a sparse law the file has how far shapes lie from it: each shape moves by itself.
    """
    law = plans[0].law
    assert law is not None, "plans have a law where a loss is asked for"
    e, a, alpha, b, beta = np.nan_to_num([float(one) for one in law.errors])

    def z(name: str) -> np.ndarray:
        return _normal(("law", law.name, name), seed, samples)

    if law.form == "sparse":
        shapes = [f"{float(counted_parameters(one.model)):.9g} {float(one.workload.tokens):.9g}" for one in plans]
        more_n, more_d = a * z("A") / max(float(law.A), 1e-9), b * z("B") / max(float(law.B), 1e-9)
        return replace(law, E=law.E + e * np.stack([z(one) for one in shapes]), A=law.A * (1.0 + more_n),
                       B=law.B * (1.0 + more_d),
                       sparsity=(law.sparsity[0] * (1.0 + more_n), *law.sparsity[1:]))  # fmt: skip
    to_n, to_d = alpha * z("alpha"), beta * z("beta")
    return replace(law, E=law.E + e * z("E"), alpha=law.alpha + to_n, A=law.A * np.exp(to_n * _middle(law.parameters)),
                   beta=law.beta + to_d, B=law.B * np.exp(to_d * _middle(law.tokens)))  # fmt: skip


def _middle(ends: tuple[Any, Any]) -> float:
    """The logarithm of the middle of a range; 0 where it has no end."""
    middle = 0.5 * (math.log(max(float(ends[0]), 1.0)) + math.log(float(ends[1])))
    return middle if math.isfinite(middle) else 0.0


def _normal(key: Key, seed: int, samples: int) -> np.ndarray:
    return np.random.default_rng([seed, zlib.crc32("/".join(key).encode())]).standard_normal(samples)


def processes(made_with: Process, *, samples: int, seed: int, path: Any = None) -> Process:
    """A process under `samples` draws of every number that its file gives an interval; shares stay below 1.

    Capacities are left alone, as those of profiles are: a plan that just fits is not held to fail in half of the draws.
    """
    leaves = {}
    for place, (value, low, high) in process.intervals(made_with.name, path=path).items():
        if place.endswith((".usable", ".capacity")):
            continue
        sigma = math.log(high / low) / (2.0 * Z90) if low > 0.0 else UNKNOWN
        draws = value * np.exp(sigma * _normal(("process", made_with.name, place), seed, samples))
        leaves[place] = np.minimum(draws, 1.0) if high <= 1.0 and not place.endswith("defects") else draws
    return put(made_with, leaves)


def priced(
    plans: Sequence[Candidate],
    objective: str,
    *,
    limits: Mapping[str, Any] | None = None,
    samples: int = SAMPLES,
    seed: int = 0,
    path: Any = None,
    under: Hardware | None = None,
) -> np.ndarray:
    """The objective of every plan in every draw, `(plans, samples)`; infinite where it does not fit or breaks a limit.

    Plans of one structure on one machine are one call of the expression, plans along one axis and draws along another.
    `under` is the machine of all plans, drawn already. A limit on the loss moves with the loss of the first plan: plans
    are held to the quality of the first.
    """
    limits, first = {**(limits or {})}, plans[0]
    asked = first.law is not None and (objective == "loss" or "loss" in limits)
    if asked and "loss" in limits:
        moved = quality(replace(first, law=drawn_law([first], samples=samples, seed=seed))) - quality(first)
        limits["loss"] = limits["loss"] + np.reshape(moved, -1)
    groups: dict[Any, list[int]] = {}
    for position, plan in enumerate(plans):
        machine = machine_of(plan)
        key = machine.name, machine.stack, float(machine.chips), jax.tree.structure(plan)
        groups.setdefault(key, []).append(position)
    found = np.empty((len(plans), samples))
    for positions in groups.values():
        one = [replace(plans[position], hardware=None) for position in positions]
        many = jax.tree.map(lambda *leaves: np.asarray(leaves, float)[:, None], *one)
        here = under or drawn(machine_of(plans[positions[0]]), samples=samples, seed=seed, path=path)
        if asked:
            many = replace(many, law=drawn_law(one, samples=samples, seed=seed))
        with np.errstate(all="ignore"):
            score = expression(replace(many, hardware=here), (objective, *limits))
            value, *bounded = score.objectives
            fits = np.asarray(score.verdict) < 0.5
            for known, bound in zip(bounded, limits.values(), strict=True):
                fits = fits & (known <= bound * (1.0 + EQUAL))
            found[positions] = np.where(fits & np.isfinite(value), value, np.inf)
    return found


@dataclasses.dataclass(frozen=True, eq=False)
class Robust:
    """Of each plan in the pool: how often it is the best, among the first five, and its central 90%."""

    best: np.ndarray
    first: np.ndarray
    low: np.ndarray
    high: np.ndarray


def robust(values: np.ndarray) -> Robust:
    """Shares of the draws `(plans, samples)` in which a plan is best and in which it is among the best five.

    Of equals the earlier is the better, so that the shares of `best` add to 1.

    >>> found = robust(np.array([[1.0, 3.0, 1.0, 1.0], [2.0, 2.0, 2.0, 2.0]]))
    >>> found.best.tolist(), found.first.tolist()
    ([0.75, 0.25], [1.0, 1.0])
    """
    places = np.argsort(np.argsort(values, axis=0, kind="stable"), axis=0, kind="stable")
    fits = np.isfinite(values)
    ends = np.quantile(values, (0.05, 0.95), axis=1, method="nearest")
    return Robust(
        best=((places == 0) & fits).mean(axis=1),
        first=((places < FIRST) & fits).mean(axis=1),
        low=ends[0],
        high=ends[1],
    )


def document(
    pool: Sequence[Candidate],
    objective: str,
    *,
    limits: Mapping[str, float] | None = None,
    listed: int,
    seed: int = 0,
    path: Any = None,
) -> dict[str, Any] | None:
    """How sure the order of the first `listed` plans of a pool is, for the answer of a search; None without plans."""
    if not pool:
        return None
    values = priced(pool, objective, limits=limits, seed=seed, path=path)
    found = robust(values)
    loose = sorted(
        {
            f"{kind} {whose}: {name}"
            for plan in {machine_of(plan).name: plan for plan in pool}.values()
            for (kind, whose, name), _, known in spreads(machine_of(plan), path=path).values()
            if not known
        }
    )
    return {
        "samples": values.shape[1],
        "seed": seed,
        "pool": len(pool),
        "unit": unit(objective),
        "first": FIRST,
        "unknown_sigma": UNKNOWN,
        "without_interval": loose,
        "plans": [
            {"rank": position + 1, "best": float(found.best[position]), "first": float(found.first[position]),
             "low": _plain(found.low[position]), "high": _plain(found.high[position])}
            for position in range(min(listed, len(pool)))
        ],
    }  # fmt: skip


def _plain(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
