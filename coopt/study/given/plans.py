"""A plan of a saved run, as a design again: `RUN#RANK`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from coopt.problems import Problem, Refused
from coopt.store.saved import ANSWER
from coopt.study.given.designs import Design, design


def design_of(text: str, *, runs: str = "runs", **defaults: Any) -> Design:
    """The design of plan RANK of a run, written `RUN#RANK`; `defaults` fill what the plan leaves out.

    Raises Refused for a run or a rank that is not there, and for plans whose model has no file (a searched shape).
    """
    run, _, rank = text.partition("#")
    folder = Path(run) if (Path(run) / ANSWER).exists() else Path(runs) / run
    try:
        answer = json.loads((folder / ANSWER).read_text())
    except (OSError, ValueError):
        raise Refused(
            Problem(
                file=str(folder / ANSWER),
                field="designs",
                expected="a finished run",
                got=text,
                hint="`coopt runs` lists them",
            )
        ) from None
    plans = {str(plan["rank"]): plan for plan in answer.get("plans", ())}
    if rank not in plans:
        raise Refused(
            Problem(
                file=str(folder / ANSWER),
                field="designs",
                expected=f"a rank from 1 to {len(plans)}",
                got=rank or "nothing",
                hint=f"write `{run}#1`",
            )
        )
    plan = plans[rank]
    cut = ",".join(f"{key}={value}" for key, value in plan["layout"].items() if key != "dp")
    work = answer.get("workload") or {}
    given = {
        "model": plan["model"],
        "hardware": plan["hardware"],
        "chips": plan["chips"],
        "layout": cut,
        "seq_len": work.get("seq_len"),
        "global_batch": plan.get("global_batch") or work.get("global_batch"),
    }
    filled = {**defaults, **{key: value for key, value in given.items() if value is not None}}
    # searched shapes and the measured profile are files of the run
    own = tuple(str(folder / name) for name in ("models", "calibrated") if (folder / name).is_dir())
    filled["path"] = (*own, *(defaults.get("path") or ())) or None
    return design(**{key: value for key, value in filled.items() if key != "name"}, name=text)
