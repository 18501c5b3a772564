"""coopt: hardware profiles drive a search over transformer shapes and sharding layouts.

The front door; each name is imported when it is first used, so that `import coopt` costs nothing.

| name | is |
|---|---|
| `load(name)` | a machine, a model or a law from a file: `Hardware`, `Model`, `Law` |
| `count(model, layout, workload)` | what one step must do: `Ops` |
| `estimate(ops, hardware)` | what that takes: `Cost`; with `count`, the only cost expression there is |
| `explain(model, layout, workload, hardware)` | the two side by side, row by row, as a document |
| `sweep(space, hardware, objectives=...)` | the same expression over millions: the best, the front, what does not run |
| `measure(model, layout, seq_len=...)` | one block compiled and timed here by JAX, as a document |
| `calibrate(hardware, measured)` | the machine with constants fitted to such measurements: `Hardware` |
| `loss(law, model, tokens, batch_tokens)` | what quality a model reaches, with its interval; NaN where no law knows |
| `plan(scenario)` | what to deploy when, to train what, as a document |

    >>> import coopt
    >>> from coopt.spec.load import layout
    >>> from coopt.spec.nouns import training
    >>> model, machine = coopt.load("llama3-70b"), coopt.load("dgx-h100", chips=1024)
    >>> cut, filled_in = layout("tp=8,pp=4", hardware=machine, model=model)
    >>> cost = coopt.estimate(coopt.count(model, cut, training(seq_len=8192, batch=512)), machine)
    >>> bool(3.0 < cost.step_time < 7.0), bool(0.25 < cost.mfu < 0.6)
    (True, True)

Documents are plain JSON values: times s, bytes B, FLOP, USD, J, W; None is `not known`. `coopt.report.show(document)`
displays one in a notebook.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_DOORS = {
    "load": "coopt.spec.load",
    "count": "coopt.ops",
    "estimate": "coopt.cost",
    "explain": "coopt.cost",
    "sweep": "coopt.search.sweep",
    "measure": "coopt",  # the room of that name is its own verb: a module that can be called
    "calibrate": "coopt.study.timed.calibrated",
    "loss": "coopt.cost",
    "plan": "coopt.roadmap",
}

__all__ = list(_DOORS)  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name not in _DOORS:
        raise AttributeError(f"module 'coopt' has no attribute {name!r}")
    room = _DOORS[name]
    found = import_module(f"coopt.{name}") if room == "coopt" else getattr(import_module(room), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *_DOORS})
