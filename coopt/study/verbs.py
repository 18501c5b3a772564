"""One function a command: options in, a document out. The work is next door."""

from __future__ import annotations

import time
from typing import Any

from coopt.problems import Problem, Refused
from coopt.study.given.designs import Design, design
from coopt.study.scored import tables


def explain(options: Any) -> dict[str, Any]:
    """Prices one design, row by row."""
    from coopt.cost import explain as priced
    from coopt.study.scored.evidence import card

    one = _design(options)
    told = priced(one.model, one.layout, one.workload, one.hardware)
    phase = one.workload.train
    told["workload"] = {"kind": "train", "seq_len": int(phase.seq_len), "global_batch": int(phase.batch)}
    if options.gradients:
        from coopt.study.told.wishes import gradients

        told["gradients"] = gradients(one)
    return told | card(one, told["step_time"])


def diagnose(options: Any) -> dict[str, Any]:
    """One run beside our prediction of it: by its step time, by a profiler's trace, or by both.

    Raises Refused where neither is given, and for a step time without a design to lay it beside.
    """
    from coopt.study.given.designs import split
    from coopt.study.timed import traced
    from coopt.study.told.diagnosed import diagnose as diagnosed
    from coopt.study.told.diagnosed import seconds

    if not options.step_time and not options.trace:
        raise Refused(Problem(field="step_time", expected="what was seen of the run", got="nothing",
                              hint="write --step_time='8.9 s', --trace=FOLDER, or both"))  # fmt: skip
    seen = traced.diagnose(options) if options.trace else None
    if seen is not None and not options.step_time:
        return seen
    for field in ("model", "hardware"):
        if not getattr(options, field):
            raise Refused(
                Problem(field=field, expected=f"the {field} that ran", got="nothing", hint=f"write --{field}=NAME")
            )
    given = {part.split("=")[0].strip() for part in (options.layout or "").split(",")}
    given |= set(split(options.overrides).get("layout", {}))
    told = diagnosed(_design(options), seconds(options.step_time), given=frozenset(given))
    return told | {"trace": seen} if seen else told


def _design(options: Any) -> Design:
    return design(
        model=options.model,
        hardware=options.hardware,
        chips=options.chips,
        layout=options.layout or "",
        seq_len=options.seq_len,
        global_batch=options.global_batch,
        tokens=options.tokens,
        stack=options.stack,
        overrides=options.overrides,
        watts=options.watts,
        path=options.profile_path,
    )


def predict(options: Any) -> dict[str, Any]:
    """Prices every row of a table."""
    return tables.predict(options.rows, out=options.out, stack=options.stack, path=options.profile_path)


def validate(options: Any) -> dict[str, Any]:
    """Scores the predictions of a table."""
    from coopt.study.scored.validated import validate as scored

    return scored(options.rows, stack=options.stack, path=options.profile_path)


def fit(options: Any) -> dict[str, Any]:
    """Measured steps to constants: of one's own machine with `--from`, else of every family and stack."""
    date = time.strftime("%Y-%m-%d")
    profile = getattr(options, "from")
    if profile is None:
        from coopt.study.scored.evidence import measurements
        from coopt.study.scored.published import fit as published

        return published(options.rows or measurements(), out=options.out, date=date, path=options.profile_path)
    from coopt.study.scored.own import fit as private

    lacking = [name for name in ("rows", "out") if not getattr(options, name)]
    if lacking:
        hint = "write `coopt fit mine.csv --from=dgx-h100 --out=mine`"
        raise Refused(*(Problem(field=name, expected=_FIT[name], got="nothing", hint=hint) for name in lacking))
    return private(options.rows, profile=profile, out=options.out, date=date, stack=options.stack,
                   path=options.profile_path)  # fmt: skip


_FIT = {"rows": "a CSV file of your own steps", "out": "a folder to write the chip and the stack into"}


def compare(options: Any) -> dict[str, Any]:
    """Which of several designs is better, by how much, how sure, and why."""
    from coopt.study.given.designs import parse
    from coopt.study.given.plans import design_of
    from coopt.study.told.compared import compare as compared

    defaults = {
        "model": options.model,
        "chips": options.chips,
        "layout": options.layout,
        "seq_len": options.seq_len,
        "global_batch": options.global_batch,
        "tokens": options.tokens,
        "stack": options.stack,
        "path": options.profile_path,
    }
    designs = []
    for text in options.designs:
        known = {**defaults, **({} if not designs else _same_work(designs[0], options))}
        designs.append(design_of(text, runs=options.runs, **known) if "#" in text else parse(text, **known))
    return compared(designs)


def _same_work(first: Any, options: Any) -> dict[str, Any]:
    """The first design's batch and sequence for the others, unless they were given: both do the same work."""
    phase = first.workload.train
    return {
        "seq_len": options.seq_len or float(phase.seq_len),
        "global_batch": options.global_batch or float(phase.batch),
    }
