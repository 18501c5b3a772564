"""The files behind a machine's name, and fields of them set for one question."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import pydantic

from coopt.problems import Problem, Refused, near
from coopt.spec import read
from coopt.spec.find import Folders, entries, find, kind_of, names, spellings
from coopt.spec.profiles import Profile, checked, profile
from coopt.spec.read import Place
from coopt.spec.schema import Mark, at, inner, is_quantity


@dataclasses.dataclass(frozen=True)
class Machine:
    """The files that one `Hardware` is made of, and what was assumed in choosing them."""

    chip: Profile
    system: Profile | None
    family: Profile | None
    stack: Profile
    assumed: tuple[str, ...]

    @property
    def profiles(self) -> dict[str, Profile]:
        """The files that there are, in the order in which a field is looked for."""
        found = {"chip": self.chip, "system": self.system, "family": self.family, "stack": self.stack}
        return {kind: file for kind, file in found.items() if file is not None}


def machine(name: str, *, stack: str = "generic", path: Folders = None) -> Machine:
    """The files behind the name of a system or a chip."""
    system, chip, said = _system_and_chip(name, path)
    family = None
    if chip.fields.family:
        # A family that no file describes is no mistake of the user's: its constants are then assumed, and said.
        known = chip.fields.family in names("family", path=path)
        family = profile("family", chip.fields.family, path=path) if known else None
    constants, stack_said = stack_profile(stack, path)
    return Machine(chip, system, family, constants, (*said, *stack_said))


def stack_profile(name: str, path: Folders = None) -> tuple[Profile, tuple[str, ...]]:
    """The stack of that name, or the generic one and a sentence that says so."""
    try:
        return profile("stack", name, path=path), ()
    except Refused as refusal:
        if refusal.problems[0].file:
            raise
    return profile("stack", "generic", path=path), (f"no stack is called `{name}`: the generic one is assumed",)


def _system_and_chip(name: str, path: Folders) -> tuple[Profile | None, Profile, tuple[str, ...]]:
    kind = _kind(name, path)
    if kind == "system":
        system = profile("system", name, path=path)
        return system, profile("chip", system.fields.chip, path=path), ()
    chip = profile("chip", name, path=path)
    with_it = [entry.name for entry in entries("system", path=path) if entry.chip == chip.name]
    usual = chip.fields.system if chip.fields.system in with_it else next(iter(with_it), None)
    if usual is None:
        return None, chip, ()
    others = f", the first of {len(with_it)}," if len(with_it) > 1 and usual != chip.fields.system else ""
    said = f"{chip.name} is a chip: it is taken{others} as part of the system {usual}"
    return profile("system", usual, path=path), chip, (said,)


def _kind(name: str, path: Folders) -> str:
    """Whether a name or a file is a system or a chip."""
    if name.endswith((".yaml", ".yml")):
        return str(read.head(find("chip", name, path=path), ("kind",)).get("kind", "chip"))
    kinds = ("system", "chip")
    if kind := kind_of(name, kinds, path=path):
        return kind
    hint = near(name, spellings(kinds, path=path))
    raise Refused(Problem(field="hardware", expected="a system or a chip", got=name[:80], hint=hint))


def overridden(files: Machine, overrides: Mapping[str, Any]) -> Machine:
    """The same machine with some fields of its files set: `{"memory.bandwidth": "6 TB/s", "tiers.nvlink.size": 16}`.

    A field is looked for in the chip, then the system, the family and the stack, unless it begins with one of these
    words. Raises Refused for unknown fields and for values that their field does not take.
    """
    changed: dict[str, dict[str, Any]] = {}
    problems: list[Problem] = []
    for field, value in overrides.items():
        found = _where(files, str(field))
        if found is None:
            known = [spelled for file in files.profiles.values() for spelled in _spellings(type(file.fields), ())]
            hint = near(str(field), dict.fromkeys(known))
            problems.append(Problem(field=str(field)[:80], expected="a field of the machine", got="none", hint=hint))
            continue
        kind, place = found
        data = changed.setdefault(kind, copy.deepcopy(files.profiles[kind].data))
        _put(data, place, value, is_quantity(at(type(files.profiles[kind].fields), place)))
    new: dict[str, Profile] = {}
    for kind, data in changed.items():
        try:
            new[kind] = _revalidated(files.profiles[kind], data)
        except Refused as refusal:
            problems += refusal.problems
    if problems:
        raise Refused(*problems)
    said = tuple(f"{field} is set to {value}" for field, value in overrides.items())
    return dataclasses.replace(files, **new, assumed=(*files.assumed, *said))


def _where(files: Machine, field: str) -> tuple[str, Place] | None:
    """The file and the place that an override means, or None."""
    first, _, rest = field.partition(".")
    kinds = [first] if first in files.profiles and rest else list(files.profiles)
    words = (rest if first in files.profiles and rest else field).split(".")
    for kind in kinds:
        file = files.profiles[kind]
        place: Place = tuple(words)
        if kind == "system" and words[0] == "tiers" and len(words) > 1:
            tiers = {tier.name: index for index, tier in enumerate(file.fields.tiers)}
            tiers |= {str(index): index for index in range(len(file.fields.tiers))}
            if words[1] not in tiers:
                continue
            place = ("tiers", tiers[words[1]], *words[2:])
        annotation = at(type(file.fields), place)
        section = isinstance(annotation, type) and issubclass(annotation, pydantic.BaseModel)
        if annotation is not None and words[0] not in _FIXED and (is_quantity(annotation) or not section):
            return kind, place
    return None


_FIXED = ("kind", "name", "extends", "sources", "missing", "aliases", "practice")


def _spellings(schema: Any, place: tuple[str, ...]) -> Iterator[str]:
    """Every field of a schema that an override may set."""
    for key, field in schema.model_fields.items() if not place or len(place) < 4 else ():
        annotation = inner(field.rebuild_annotation())
        here = (*place, key)
        section = isinstance(annotation, type) and issubclass(annotation, pydantic.BaseModel)
        if here[0] in _FIXED:
            continue
        if section and not is_quantity(annotation):
            yield from _spellings(annotation, here)
        else:
            yield ".".join(here)


def _put(data: dict[str, Any], place: Place, value: Any, quantity: bool) -> None:
    """Sets one field; a quantity is written with its unit and cites the override."""
    field = ".".join(map(str, place))
    value = read.plain(value) if isinstance(value, str) else value
    if quantity and not isinstance(value, Mapping):
        data["sources"]["override"] = {"title": "set for this question", "date": "2026"}
        value = {"value": value, "source": "override", "kind": "assumed"}
    missing = data.get("missing") or {}
    for said in [said for said in missing if field == said or field.startswith(f"{said}.")]:
        del missing[said]
    target: Any = data
    for key in place[:-1]:
        target = target[key] if isinstance(key, int) else target.setdefault(key, {})
    target[place[-1]] = value


def _revalidated(file: Profile, data: dict[str, Any]) -> Profile:
    """The changed file, its problems said of the flags that changed it rather than of a line."""
    try:
        return checked(file.kind, data, {(): Mark("", 0)}, file.path)
    except Refused as refusal:
        raise Refused(*(dataclasses.replace(p, file="", line=0) for p in refusal.problems)) from None
