"""What ships and what the user adds: hardware and models listed, shown with their sources, checked."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from coopt.problems import Problem, Refused, near
from coopt.spec import profiles, read
from coopt.spec.find import Folders, entries, kind_of, spellings

_HARDWARE = ("system", "chip", "family", "stack", "design", "process")  # in the order in which a name is looked for


def hardware(options: Any) -> dict[str, Any]:
    """Every chip, system and stack, or every field of one with its source."""
    if options.name:
        return _shown(_HARDWARE, options.name, options.profile_path)
    rows, errors = [], []
    for row in profiles.hardware_table(path=options.profile_path):
        errors += [dataclasses.asdict(problem) for problem in row.problems]
        told = {key: value for key, value in dataclasses.asdict(row).items() if key not in ("problems", "missing")}
        rows.append({**told, "not_known": len(row.missing)})
    rows += [
        {"kind": kind, "name": entry.name, "title": entry.title}
        for kind in ("family", "stack")
        for entry in entries(kind, path=options.profile_path)
    ]
    return _with({"command": "hardware", "hardware": rows}, errors)


def models(options: Any) -> dict[str, Any]:
    """Every model, or every field of one with its source; parameters are those its publisher gives."""
    if options.name:
        return _shown(("model",), options.name, options.profile_path)
    rows, errors = [], []
    for entry in entries("model", path=options.profile_path):
        try:
            rows.append(_model(profiles.profile("model", str(entry.path), path=options.profile_path)))
        except Refused as refusal:
            errors += [dataclasses.asdict(problem) for problem in refusal.problems]
    return _with({"command": "models", "models": rows}, errors)


def check(options: Any) -> dict[str, Any]:
    """Every mistake in some files, or in every YAML file of some folders; what a certificate does not prove."""
    from coopt.roadmap.scenario_schema import Scenario
    from coopt.study.given.schema import Study
    from coopt.study.given.schema_joint import Joint

    schemas = {"scenario": Scenario, "study": Study, "joint": Joint}
    proofs = [Path(one) for one in options.files if one.endswith((".json", ".json.gz"))]
    files, problems = _files(one for one in options.files if Path(one) not in proofs)
    problems += profiles.check(files, path=options.profile_path, schemas=schemas)
    told: list[str] = []
    if proofs:
        from coopt.commands.certificates import checked

        for one in proofs:
            sentence, wrong = checked(one)
            told += [sentence] * bool(sentence)
            problems += wrong
    document = {"files": len(files) + len(proofs), "errors": [dataclasses.asdict(problem) for problem in problems]}
    return {**document, "proved": told} if told else document


def _shown(kinds: tuple[str, ...], name: str, path: Folders) -> dict[str, Any]:
    """Every field of the profile with that name, in whichever of the kinds it is found first."""
    kind = _kind(kinds, name, path)
    found = profiles.profile(kind, name, path=path)
    facts = profiles.facts(found)
    return {
        "command": "models" if kind == "model" else "hardware",
        "kind": found.kind,
        "name": found.name,
        "title": found.title,
        "file": str(found.path),
        "fields": [dataclasses.asdict(fact) for fact in facts],
    }


def _kind(kinds: tuple[str, ...], name: str, path: Folders) -> str:
    if name.endswith((".yaml", ".yml")):
        said = read.head(Path(name), ("kind",)).get("kind")
        return said if said in kinds else kinds[0]
    if kind := kind_of(name, kinds, path=path):
        return kind
    hint, field = near(name, spellings(kinds, path=path)), "model" if kinds == ("model",) else "hardware"
    raise Refused(Problem(field=field, expected=f"a known {' or '.join(kinds)}", got=name[:80], hint=hint))


def _model(found: profiles.Profile) -> dict[str, Any]:
    fields = found.fields
    return {
        "name": found.name,
        "title": found.title,
        "layers": sum(layer.count for layer in fields.layers),
        "d_model": fields.d_model,
        "vocab": fields.vocab,
        "context": fields.context,
        "parameters": fields.published.parameters,
        "active": fields.published.active or fields.published.parameters,
        "source": found.data["sources"][fields.source]["title"],
    }


def _files(given: Iterable[str]) -> tuple[list[Path], list[Problem]]:
    """The files named, and those of the folders named."""
    files, problems = [], []
    for path in map(Path, given):
        inside = sorted((*path.rglob("*.yaml"), *path.rglob("*.yml"))) if path.is_dir() else [path]
        if not inside:
            problems.append(Problem(file=str(path), expected="a folder with YAML files in it", got="none"))
        files += inside
    return files, problems


def _with(document: dict[str, Any], errors: list[dict[str, Any]]) -> dict[str, Any]:
    return {**document, "errors": errors} if errors else document
