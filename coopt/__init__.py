"""coopt: hardware profiles drive a search over transformer shapes and sharding layouts.

The front door; each name is imported when it is first used, so that `import coopt` costs nothing.

| name | is |
|---|---|
| `load(name)` | a profile, a model or a law, from a file, resolved |
| `count(model, layout, workload)` | what one step must do: `Ops` |
| `estimate(ops, hardware)` | what that takes: `Cost`; with `count`, the only cost expression there is |
| `explain(...)` | the two side by side, row by row |
| `sweep(...)` | the same expression over millions of candidates |
| `measure(...)` | blocks compiled and timed by JAX |
| `calibrate(...)` | measurements to a profile |
| `loss(law, model, tokens, batch)` | what quality a model reaches |
| `plan(...)` | what to deploy when, to train what |
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
    "measure": "coopt",  # the room of that name is its own verb
    "calibrate": "coopt.fit.calibrate",
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
