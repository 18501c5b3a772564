"""A machine from its files: chip, system, family and stack become one `Hardware`, and what was assumed is said."""

from __future__ import annotations

import dataclasses
import math
import numbers
from collections.abc import Mapping
from typing import Any

from coopt.problems import Problem, Refused
from coopt.spec import nouns
from coopt.spec.constants import BACKWARD, SATURATION, applied
from coopt.spec.find import Folders
from coopt.spec.machine import Machine, machine, overridden
from coopt.spec.profiles import Profile
from coopt.spec.read import Place
from coopt.spec.schema import Mark, at, wanted
from coopt.spec.schema_types import year
from coopt.tree import replace

_FIDELITY = ("measured", "interpolated", "transferred")
# Share of full load that an idle chip draws: an H100 idles at about 70 to 120 of 700 W, a TPU v4 at 90 of 192 W.
IDLE = 0.15
_STACK_LEAVES = ("overhead", "jitter", "margin", "reserved")
_NOUN = {field.name: field.default for field in dataclasses.fields(nouns.Hardware)}
# What a family or a stack without a constant of its own is given, and said: the middle of those that were fitted.
_DEFAULTS = {
    "matmul_16": 0.7,
    "matmul_8": 0.6,
    "matmul_4": 0.5,
    "depth": 150.0,
    "attention": 0.5,
    "attention_depth": 1000.0,
    "stream": 0.8,
    "kernel": 3e-6,
    "scale_up": 0.75,
    "scale_out": 0.75,
}
_STACK_DEFAULTS = {"dispatch": 5e-6, "hide": 0.5, "attention": 1.0, "passes": 1.5}


def resolve(
    name: str,
    *,
    chips: float | None = None,
    stack: str = "generic",
    overrides: Mapping[str, Any] | None = None,
    path: Folders = None,
) -> nouns.Hardware:
    """The machine that a system or a chip stands for, with `chips` of them under a software stack.

    `overrides` sets fields of its files (`{"memory.bandwidth": "6 TB/s", "fitted.stream": 0.9}`). Raises Refused
    for unknown names, for fields that pricing needs and no file gives, and for more chips than a system can have.

    >>> machine = resolve("dgx-h100", chips=1024)
    >>> machine.bandwidth, machine.peak[2], [tier.name for tier in machine.tiers]
    (3350000000000.0, 989400000000000.0, ['nvlink', 'infiniband'])
    """
    files = overridden(machine(name, stack=stack, path=path), overrides or {})
    count, said = _chips(files, chips)
    _refuse_gaps(files, count)
    fitted, fitted_said, fidelity = _fitted(files)
    rates, rates_said = _rates(files.chip)
    tiers, tiers_said = _tiers(files, count)
    economy, economy_said = _economy(files)
    constants, shares = files.stack.fields.fitted, stack_constants(files)
    stack_said = _kinds(files.stack, "fitted") + _unsaid(files.stack, shares)
    system = files.system or files.chip
    family = files.chip.fields.family or ""
    bare = nouns.Hardware(
        name=system.name,
        chip=files.chip.name,
        family=family,
        stack=files.stack.name,
        fidelity=fidelity,
        assumed=tuple(
            dict.fromkeys((*files.assumed, *said, *rates_said, *fitted_said, *tiers_said, *economy_said, *stack_said))
        ),
        chips=count,
        tiers=tiers,
        **rates,
        **{key: q.value for key in _STACK_LEAVES if (q := getattr(constants, key)) is not None},
        **economy,
        ported=_value(files.stack.fields.ported.get(family), 1.0) * _value(files.chip.fields.attention, 1.0),
        sigma=_value(constants.sigma, fitted["sigma"]),
    )
    # A chip that was calibrated with a stack says itself what its kernels of attention reach, what pointwise ones move,
    # and how products fare in it.
    own: dict[str, Any] = {key: fitted[key] for key in ("passes", "passes_back", "batched") if key in fitted}
    wide, half = (fitted.get(f"backward_{bits}", 1.0) for bits in (32, 16))
    own["backward"] = (wide, wide, half, half, *bare.backward[4:])
    if "passes" in fitted:
        own |= {"attention": fitted["attention"], "attention_backward": BACKWARD * fitted["attention"]}
    return _with_own_links(replace(applied(bare, fitted, shares), **own), files)


def family_constants(files: Machine) -> dict[str, float]:
    """The constants of the chip: its own, else its family's, else the middle of those that were fitted."""
    values = _fitted(files)[0]
    return {key: values[key] for key in _DEFAULTS}


def stack_constants(files: Machine) -> dict[str, float]:
    """The constants of the stack: its own, else the middle of those that were fitted."""
    given = files.stack.fields.fitted
    return {key: _value(getattr(given, key), otherwise) for key, otherwise in _STACK_DEFAULTS.items()}


def _unsaid(stack: Profile, shares: Mapping[str, float]) -> tuple[str, ...]:
    lacking = [
        f"{key} (taken as {value:g})" for key, value in shares.items() if getattr(stack.fields.fitted, key) is None
    ]
    return (f"no constants of the stack {stack.name} for: {', '.join(lacking)}",) if lacking else ()


def _with_own_links(hardware: nouns.Hardware, files: Machine) -> nouns.Hardware:
    """The machine with what its system's file says of links put before what its family says."""
    given = files.system.fields.tiers if files.system else ()
    tiers = tuple(
        replace(
            tier,
            efficiency=_value(own.efficiency, tier.efficiency),
            saturation=_value(own.saturation, tier.saturation),
        )
        for tier, own in zip(hardware.tiers, given, strict=False)
    )
    return replace(hardware, tiers=tiers)


def _chips(files: Machine, chips: float | None) -> tuple[float, tuple[str, ...]]:
    """The number of chips, or the refusal of one that cannot be."""
    if chips is None:
        count = files.system.fields.chips_per_node if files.system else 1.0
        return count, (f"the number of chips is not given: {count:g}, one node",)
    if not isinstance(chips, numbers.Real) or not 1 <= chips < 1e9 or chips != int(chips):
        raise Refused(
            Problem(field="chips", expected="a whole number from 1", got=str(chips), hint="write `chips=1024`")
        )
    system = files.system
    if system:
        last = system.fields.tiers[-1] if system.fields.tiers else None
        most = min(m for m in (system.fields.max_chips, last and last.size, math.inf) if m)
        if chips > most:
            place = (
                ("max_chips",) if most == system.fields.max_chips else ("tiers", len(system.fields.tiers) - 1, "size")
            )
            mark = system.marks.get(place, Mark(str(system.path), 1))
            expected = f"at most {most:g} chips in one {system.name}"
            hint = "a last tier without `size:` takes any number"
            raise Refused(Problem(mark.file, mark.line, "chips", expected, f"{chips:g}", hint))
    return float(chips), ()


def _refuse_gaps(files: Machine, chips: float) -> None:
    """Refuses a machine that lacks what pricing needs, naming every field."""
    chip, gaps = files.chip, []
    peak = chip.fields.peak
    if not (peak.bf16 or peak.fp16):
        gaps.append((chip, ("peak", "bf16"), ""))
    for key in ("capacity", "bandwidth"):
        if getattr(chip.fields.memory, key) is None:
            gaps.append((chip, ("memory", key), ""))
    if chips > 1 and files.system is None:
        gaps.append((chip, ("tiers",), f"no system file has `chip: {chip.name}`; write one, or price 1 chip"))
    elif chips > 1 and files.system and not files.system.fields.tiers:
        gaps.append((files.system, ("tiers",), "add `tiers:`, nearest first"))
    for index, tier in enumerate(files.system.fields.tiers if files.system and chips > 1 else ()):
        gaps += [(files.system, ("tiers", index, k), "") for k in ("bandwidth", "latency") if getattr(tier, k) is None]
    if gaps:
        raise Refused(*(_gap(*gap) for gap in gaps))


def _gap(file: Profile, place: Place, hint: str) -> Problem:
    field = ".".join(map(str, place))
    missing = {k: v for k, v in file.fields.missing.items() if field == k or field.startswith(f"{k}.")}
    known = ("missing", next(iter(missing))) if missing else place
    while known and known not in file.marks:
        known = known[:-1]
    mark = file.marks.get(known, Mark(str(file.path), 1))
    expected, how = wanted(at(type(file.fields), place)) if at(type(file.fields), place) else ("tiers", "")
    got = f"not known ({next(iter(missing.values()))})" if missing else "nothing"
    example = how.removeprefix("write {value: ").partition(", source")[0] if how.startswith("write {") else "..."
    return Problem(
        file=mark.file,
        line=mark.line,
        field=field,
        expected=f"{expected.removesuffix(' with its source')}, which pricing needs",
        got=got,
        hint=hint or f"give it in the file, or as the override `{field}={example}`",
    )


def _value(quantity: Any, otherwise: float = nouns.NAN) -> float:
    return otherwise if quantity is None else quantity.value


def _rates(chip: Profile) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Rates and capacities of the chip, and what was assumed for those that pricing can do without."""
    fields, said = chip.fields, _kinds(chip, "")
    peak = tuple(_value(getattr(fields.peak, kind), 0.0) for kind in nouns.TYPES)
    memory = fields.memory.usable or fields.memory.capacity
    if fields.memory.usable is None:
        said += (f"{chip.name}: all of the memory's capacity is taken as usable",)
    vector = _value(fields.vector or fields.peak.fp32, 0.0)
    if not vector:
        vector = max(peak[2], peak[3]) / 16
        said += (f"{chip.name}: vector rate not known, taken as a sixteenth of the 16-bit peak",)
    rates = {
        "peak": peak,
        "vector": vector,
        "bandwidth": fields.memory.bandwidth.value,
        "memory": memory.value,
        "cache": _value(fields.cache, 0.0),
        "cores": _value(fields.cores, 1.0),
        "stolen": _value(fields.links.cores, 0.0) / _value(fields.cores, 1.0),
        "host_bandwidth": _value(fields.host.bandwidth, 0.0),
    }
    if fields.cache is None:
        said += (f"{chip.name}: size of the cache not known, taken as none",)
    if fields.cores is None:
        said += (f"{chip.name}: number of cores not known, taken as one",)
    if fields.tile:
        tile = {"tile_m": fields.tile.m, "tile_n": fields.tile.n, "tile_k": fields.tile.k}
        rates |= {key: size for key, size in tile.items() if size}
    else:
        said += (f"{chip.name}: matmul tile not known, taken as {_NOUN['tile_m']:g} x {_NOUN['tile_n']:g}",)
    return rates, said


def _kinds(file: Profile, section: str) -> tuple[str, ...]:
    """One sentence naming the fields of a file that its author assumed or carried over from another machine."""
    found: dict[str, list[str]] = {"assumed": [], "transferred": []}

    def walk(value: Any, place: tuple[str, ...]) -> None:
        if isinstance(value, dict):
            if value.get("kind") in found and place and value.get("source") != "override":
                found[value["kind"]].append(".".join(place))
            for key, part in value.items():
                walk(part, (*place, key))
        elif isinstance(value, list):
            for index, part in enumerate(value):
                walk(part, (*place, str(part.get("name", index)) if isinstance(part, dict) else str(index)))

    walk(file.data.get(section, {}) if section else {k: v for k, v in file.data.items() if k != "fitted"}, ())
    return tuple(f"{file.name}: {kind} in its file: {', '.join(fields)}" for kind, fields in found.items() if fields)


def _fitted(files: Machine) -> tuple[dict[str, float], tuple[str, ...], str]:
    """The fitted constants (chip before family before defaults), what was assumed, and how far they can be trusted."""
    own, family = files.chip.fields.fitted, files.family.fields.fitted if files.family else None
    given = {key: getattr(own, key) or getattr(family, key, None) for key in type(own).model_fields}
    values = {**_DEFAULTS, "sigma": nouns.NAN}
    values |= {key: quantity.value for key, quantity in given.items() if quantity is not None}
    said = _kinds(files.chip, "fitted") + (_kinds(files.family, "fitted") if files.family else ())
    peak = files.chip.fields.peak
    idle = set() if peak.fp8 or peak.mxfp8 or peak.int8 else {"matmul_8"}
    idle |= set() if peak.nvfp4 else {"matmul_4"}
    lacking = [key for key in _DEFAULTS if given.get(key) is None and key not in idle]
    if lacking:
        whose = (
            f"the family {files.chip.fields.family}" if files.chip.fields.family else "the chip, which has no family"
        )
        said += (f"no fitted constants of {whose} for: {', '.join(f'{k} (taken as {values[k]:g})' for k in lacking)}",)
    ranks = {"measured": 0, "fitted": 1, "derived": 1}
    worst = max((ranks.get(quantity.kind, 2) for key in _DEFAULTS if (quantity := given.get(key))), default=2)
    chips = files.family.fields.chips if files.family else None
    # A sibling's constants are not this chip's, whatever they were fitted to; its own file may have some.
    foreign = chips is not None and files.chip.name not in chips and not any(getattr(own, key) for key in _DEFAULTS)
    if foreign:
        said += (f"{files.chip.name} was never compared with a run: constants of {', '.join(chips or ())}",)
    compared = own.sigma is not None  # a file with its own error was compared with what ran on that very machine
    return values, said, _FIDELITY[1 if compared else 2 if lacking or foreign else worst]


def _tiers(files: Machine, chips: float) -> tuple[tuple[nouns.Tier, ...], tuple[str, ...]]:
    """The network, nearest first; a last tier without size takes any number of chips."""
    system = files.system
    if system is None:
        return (), ()
    tiers, said = [], _kinds(system, "")
    for tier in system.fields.tiers:
        if tier.bandwidth is None or tier.latency is None:
            break  # one chip alone: the network is not asked for
        if tier.usable and tier.usable != tier.size:
            said += (f"{system.name}: {tier.usable:g} of the {tier.size:g} chips of a {tier.name} domain are used",)
        if tier.wrap is False:
            said += (f"{system.name}: the axes of {tier.name} do not close; they are priced as if they did",)
        tiers.append(
            nouns.Tier(
                name=tier.name,
                size=tier.usable or tier.size or math.inf,
                bandwidth=tier.bandwidth.value,
                latency=tier.latency.value,
                efficiency=_value(tier.efficiency, 1.0),
                saturation=_value(tier.saturation, SATURATION),
                oversubscription=tier.oversubscription,
                reduction=float(tier.reduction),
                ring=float(tier.ring),
                axes={"switch": 0.0, "torus2d": 2.0, "torus3d": 3.0}[tier.topology],
            )
        )
    return tuple(tiers), said


def _economy(files: Machine) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Power, money, dates and failures, and what was assumed; NaN where no file says."""
    chip, system = files.chip.fields, files.system.fields if files.system else None
    flop = chip.energy.flop
    dates = [year(q.value) or nouns.NAN for q in (chip.available, system and system.available) if q]
    found = {
        "watts_idle": _value(chip.power.idle, IDLE * _value(chip.power.tdp)),
        "watts": _value(chip.power.tdp),
        "joules_flop": tuple(_value(flop.get(kind)) for kind in nouns.TYPES),
        "joules_byte": _value(chip.energy.byte),
        "joules_wire": _value(chip.energy.wire),
        "dollars_hour": _value(chip.price.hour),
        "date": max(dates, default=nouns.NAN),
        "host_memory": _value(chip.host.memory, 0.0),
    }
    said = ()
    if chip.power.idle is None and chip.power.tdp is not None:
        said = (f"{files.chip.name}: idle power not known, taken as {IDLE:.0%} of full load",)
    if system is None:
        return found, said
    interval = _value(system.failures.interval)
    found |= {
        "watts_all_in": _value(system.power.it_per_chip),
        "dollars": _value(system.price.per_chip),
        "dollars_hour": _value(system.price.hour, found["dollars_hour"]),
        "failure_rate": 1.0 / interval if interval else nouns.NAN,
        "restart": _value(system.failures.restart),
        "checkpoint": _value(system.failures.checkpoint),
        "repair": _value(system.failures.repair, 0.0),
        "blast": _value(system.failures.blast, system.tiers[0].size or 1.0 if system.tiers else 1.0),
        "spares": _value(system.failures.spares, 0.0),
    }
    if interval and system.failures.repair is None:
        said += (f"{system.name}: time of a repair not known; chips that fail are taken to be replaced at once",)
    if system.host.memory and chip.host.memory is None:
        found["host_memory"] = system.host.memory.value / system.chips_per_node
    return found, said
