"""One function a command: options in, a document out. The work is next door."""

from __future__ import annotations

from typing import Any

from coopt.study import tables
from coopt.study.designs import design


def explain(options: Any) -> dict[str, Any]:
    """Prices one design, row by row."""
    from coopt.cost import explain as priced
    from coopt.study.evidence import card

    one = design(
        model=options.model, hardware=options.hardware, chips=options.chips, layout=options.layout or "",
        seq_len=options.seq_len, global_batch=options.global_batch, tokens=options.tokens, stack=options.stack,
        overrides=options.overrides, path=options.profile_path,
    )  # fmt: skip
    told = priced(one.model, one.layout, one.workload, one.hardware)
    phase = one.workload.train
    told["workload"] = {"kind": "train", "seq_len": int(phase.seq_len), "global_batch": int(phase.batch)}
    return told | card(one, told["step_time"])


def predict(options: Any) -> dict[str, Any]:
    """Prices every row of a table."""
    return tables.predict(options.rows, out=options.out, stack=options.stack, path=options.profile_path)


def validate(options: Any) -> dict[str, Any]:
    """Scores the predictions of a table."""
    return tables.validate(options.rows, stack=options.stack, path=options.profile_path)
