"""`coopt codesign` and `coopt joint`: what is typed becomes a question, and the answer goes where it is wanted."""

from __future__ import annotations

import math
from typing import Any

from coopt.commands import written
from coopt.problems import Problem, Refused

COUNTED = ("chips", "volume", "seq_len", "global_batch")


def codesign(options: Any) -> dict[str, Any]:
    """The chip to order; Refused with every mistake at once."""
    from coopt.search.chips import LIMITS
    from coopt.study.chips import question
    from coopt.study.chips.codesign import codesign

    out = written.target(options.out)
    typed = {name: getattr(options, name) for name in (*LIMITS, *COUNTED) if getattr(options, name) is not None}
    given = {name: typed[name] for name in COUNTED if name in typed}
    given |= {"batch": given.pop("global_batch")} if "global_batch" in given else {}
    given |= {name: getattr(options, name) for name in ("model", "vendor", "objective") if getattr(options, name)}
    if options.precision is not None:
        given["precision"] = tuple(options.precision.split(","))
    if options.mix:
        given["mix"] = mixed(options.mix)
    limits = {name: typed[name] * (1e-6 if name == "area" else 1.0) for name in LIMITS if name in typed}
    asked = question.Question(limits=limits, seed=options.seed, path=options.profile_path, **given)
    return written.write(codesign(asked), out)


def joint(options: Any) -> dict[str, Any]:
    """What choosing shape, layout and machine together is worth in a study; Refused with all that is wrong with it."""
    from coopt.spec.profiles import profile
    from coopt.study.chips.joint import joint
    from coopt.study.given.schema_joint import Joint

    out = written.target(options.out)
    if not options.study.endswith((".yaml", ".yml")):
        raise Refused(
            Problem(field="study", expected="a joint study's file", got=options.study[:80], hint="write `mine.yaml`")
        )
    study = profile("joint", options.study, path=options.profile_path, schema=Joint).fields
    if options.seed:
        study = study.model_copy(update={"seed": float(options.seed)})
    return written.write(joint(study, path=options.profile_path), out)


def mixed(text: str) -> dict[str, float]:
    """A mix as it is typed.

    >>> mixed("today:2,no-fp4")
    {'today': 2.0, 'no-fp4': 1.0}
    """
    told = {}
    for part in text.split(","):
        name, _, weight = part.strip().partition(":")
        try:
            told[name] = float(weight or 1.0)
        except ValueError:
            told[name] = math.nan
        if not 0 <= told[name] < math.inf:
            raise Refused(Problem(field=f"mix.{name[:40]}", expected="a weight from 0", got=weight[:40],
                                  hint="write it like `today:2,no-fp4:1`"))  # fmt: skip
    if not sum(told.values()) > 0:
        raise Refused(Problem(field="mix", expected="a future with a weight above 0", got=text[:80]))
    return told
