"""What was asked, as a study: a file, or the embedded default one, or the few words of a command line."""

from __future__ import annotations

import copy
import dataclasses
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from coopt.problems import Problem, Refused
from coopt.spec import load, read
from coopt.spec.profiles import checked, profile
from coopt.spec.schema import Mark
from coopt.study.given.designs import TOKENS_A_STEP, split
from coopt.study.given.schema import HOST, OBJECTIVES, Study

DEFAULT = Path(__file__).with_name("default.yaml")
LAW = "chinchilla-besiroglu"
# Layouts of a model on this host: on a CPU, which has no kernel of attention, and as an accelerator trains.
LAYOUT = {"precision": ["fp32", "bf16"], "fused_attention": [0], "micro_batch": [1, 2, 4]}
ACCELERATED = {"precision": ["bf16"], "fused_attention": [1], "micro_batch": [1, 2, 4, 8]}
BLOCKS = 8  # compiled and timed where a study on this host does not say how many


@dataclasses.dataclass(frozen=True)
class Question:
    """A study as plain data, as its schema reads it, and what was filled in."""

    data: dict[str, Any]
    study: Study
    assumed: tuple[str, ...] = ()
    run: str = ""  # the name its run is given


def question(options: Any) -> Question:
    """The study that the options of `coopt search` ask for; Refused with everything that is wrong with it."""
    inside = split(options.overrides)
    said: tuple[str, ...] = ()
    if options.model and not options.study:
        data, said = _few_words(options)
    else:
        data = study_data(options.study, options.profile_path)
    _flags(data, options, given=bool(options.study))
    _overrides(data, inside)
    study = checked_study(data)
    return Question(data, study, said, options.name or study.name)


def written(text: str, *, file: str) -> Question:
    """The study that a run holds, as it was asked."""
    data, positions = read.read_text(text, file=file)
    marks = {place: Mark(file, *position) for place, position in positions.items()}
    return Question(data, checked("study", data, marks, Path(file), schema=Study).fields)


def study_data(name: str | None, path: Any = None) -> dict[str, Any]:
    """The plain data of a study's file, or of the default study; Refused with everything that is wrong with it."""
    return _file(name, path) if name else copy.deepcopy(read.read(DEFAULT)[0])


def _file(name: str, path: Any) -> dict[str, Any]:
    if not name.endswith((".yaml", ".yml")):
        raise Refused(Problem(field="study", expected="a study's file", got=name[:80], hint="write `mine.yaml`"))
    return copy.deepcopy(profile("study", name, path=path, schema=Study).data)


def _few_words(options: Any) -> tuple[dict[str, Any], tuple[str, ...]]:
    """A study of one model, from flags alone; what they leave out is filled in and said."""
    from coopt.measure.host import attached  # needs jax, which asking for help does not

    model = load.model(options.model, path=options.profile_path)
    hardware = options.hardware or HOST
    stack = options.stack or ("jax" if hardware == HOST else "generic")
    seq_len = options.seq_len
    said: tuple[str, ...] = ()
    accelerated = hardware == HOST and attached()
    layout = (ACCELERATED if accelerated else LAYOUT) if hardware == HOST else {}
    if accelerated:
        said += ("bf16 with fused attention: an accelerator is attached",)
    if seq_len is None:
        most = 8192.0 if hardware != HOST else 4096.0 if accelerated else 512.0
        seq_len = min(float(model.context) or 4096.0, most)
        said += (f"seq_len={seq_len:g}: the model's context, at most {most:g}",)
    batch = options.global_batch
    if batch is None:
        batch = 32.0 if hardware == HOST else max(2.0 ** round(math.log2(TOKENS_A_STEP / seq_len)), 1.0)
        said += (f"global_batch={batch:g}: about {batch * seq_len:,.0f} tokens a step",)
    if hardware != HOST and options.chips is None:
        options.chips = int(load.resolve(hardware, path=options.profile_path).chips)
        said += (f"chips={options.chips}: one node of {hardware}",)
    machine: dict[str, Any] = {"hardware": hardware}
    data: dict[str, Any] = {
        "kind": "study",
        "name": _slug(f"{model.name}-{Path(hardware).stem}" + (f"-{options.chips}" if options.chips else "")),
        "title": f"Layouts of {model.name} on {options.chips or 1} x {hardware}",
        "model": options.model,
        "machines": [machine],
        "workload": {"seq_len": int(seq_len), "global_batch": float(batch)},
        "layout": copy.deepcopy(layout),
        "stack": stack,
        "objective": "step_time",
        "measure": BLOCKS if hardware == HOST else 0,
    }
    return data, said


def _flags(data: dict[str, Any], options: Any, *, given: bool) -> None:
    """Puts what flags say in the place of what the study says."""
    if options.model and given:
        data.pop("space", None)
        data["model"] = options.model
    if options.hardware:
        data["machines"] = [{"hardware": options.hardware}]
        if options.hardware != HOST:
            data["measure"] = 0
            data["stack"] = "generic" if data.get("stack") == "jax" else data.get("stack", "generic")
    if options.chips is not None:
        for machine in data["machines"]:
            machine["chips"] = options.chips
    work = data.setdefault("workload", {})
    for name in ("seq_len", "global_batch", "tokens"):
        if getattr(options, name) is not None:
            work[name] = getattr(options, name)
    if work.get("tokens") is not None and not data.get("law"):
        data["law"] = LAW
    if options.layout:
        data["layout"] = {**data.get("layout", {}), **_fixed(options.layout)}
    for name in ("stack", "measure", "objective", "top"):
        if getattr(options, name) is not None:
            data[name] = getattr(options, name)
    if options.batch_penalty != "law":
        data["batch_penalty"] = options.batch_penalty
    if options.seed:
        data["seed"] = options.seed
    if options.loss is not None:
        data["limits"] = {**data.get("limits", {}), "loss": options.loss}
        data.setdefault("law", LAW)


def _fixed(text: str) -> dict[str, list[Any]]:
    """A layout as it is written on the command line, each field a choice of one."""
    load.layout(text)  # says what is wrong with it
    pairs = (part.split("=", 1) for part in text.split(",") if part.strip())
    return {key.strip(): [_named(key.strip(), value.strip())] for key, value in pairs}


def _named(key: str, value: str) -> Any:
    if key in ("precision", "recompute", "schedule", "order"):
        return value
    return {"yes": 1, "no": 0, "true": 1, "false": 0}.get(value.lower(), read.plain(value))


def _overrides(data: dict[str, Any], inside: Mapping[str, Mapping[str, str]]) -> None:
    """`key=value` that reaches inside: fields of the study, of its model, its machines, its layout."""
    for field, text in inside.get("study", {}).items():
        _put(data, field.split("."), read.plain(text))
    for field, text in inside.get("workload", {}).items():
        _put(data, ["workload", field], read.plain(text))
    for field, text in inside.get("layout", {}).items():
        data["layout"] = {**data.get("layout", {}), **_fixed(f"{field}={text}")}
    if inside.get("model"):
        data["set"] = {**data.get("set", {}), **{field: read.plain(v) for field, v in inside["model"].items()}}
    if inside.get("hardware"):
        for machine in data["machines"]:
            machine["set"] = {**machine.get("set", {}), **inside["hardware"]}


def _put(study: dict[str, Any], keys: list[str], value: Any) -> None:
    """Sets one field; a way that leads through a list names its place in it."""
    data: Any = study
    for key, following in zip(keys, [*keys[1:], None], strict=True):
        known = range(len(data)) if isinstance(data, list) else ()
        place: Any = int(key) if key.isdigit() and int(key) in known else key
        if not isinstance(data, dict) and place is key:
            raise Refused(Problem(field=f"study.{'.'.join(keys)}", expected="a field of the study", got=key))
        if following is None:
            data[place] = value
            return
        if isinstance(data, dict):
            data.setdefault(place, {})
        data = data[place]


def checked_study(data: dict[str, Any]) -> Study:
    """The study; problems are said of fields, for flags stand on no line."""
    try:
        return checked("study", data, {(): Mark("", 0)}, Path("study"), schema=Study).fields
    except Refused as refusal:
        problems = [dataclasses.replace(problem, file="", line=0) for problem in refusal.problems]
        hint = f"one of {', '.join(OBJECTIVES)}"
        raise Refused(
            *(dataclasses.replace(p, hint=p.hint or hint) if p.field == "objective" else p for p in problems)
        ) from None


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9._-]+", "-", text.casefold()).strip("-._")[:80] or "study"
