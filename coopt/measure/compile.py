"""Lowers and compiles a program ahead of time, and reads what the compiler says about it."""

from __future__ import annotations

import dataclasses
import math
import platform
import time
from collections.abc import Callable
from importlib import metadata
from typing import Any

import flax
import jax
import jaxlib

from coopt.measure import hlo, kept, load


@dataclasses.dataclass(frozen=True)
class Compiled:
    """A compiled program with the compiler's own figures, each for one device; NaN is unknown, never zero."""

    program: Any  # None: its figures were read from where they are kept
    lower_s: float
    compile_s: float
    flops: float
    bytes: float  # of main memory, after fusion
    memory: dict[str, float]  # B: arguments, outputs, temporary, aliased, code, total
    collectives: tuple[hlo.Collective, ...]
    products: int
    loops: int  # where there is one, flops and bytes count its body once
    digest: str
    resident: float  # B that the process which compiled it held at most
    text: str  # of the module


def compile_program(
    function: Callable,
    arguments: tuple,
    *,
    out_shardings: Any = None,
    donate: tuple[int, ...] = (),
    shelf: kept.Shelf = kept.NONE,
    report: Callable[[str], None] = lambda phase: None,
) -> Compiled:
    """Compiles a function for abstract arguments (`jax.ShapeDtypeStruct` with shardings); no array is made.

    What was compiled before is read from the `shelf`, where there is one: figures and text, and no program to run.
    """
    options = {} if out_shardings is None else {"out_shardings": out_shardings}
    options |= {"donate_argnums": donate} if donate else {}
    report("lower")
    started = time.perf_counter()
    lowered = jax.jit(function, **options).lower(*arguments)
    lower_s = time.perf_counter() - started
    key = lowered.as_text() if shelf.folder else ""
    program, made = None, kept.read(shelf, key)
    if made is None:
        report("compile")
        started = time.perf_counter()
        program = lowered.compile(compiler_options=dict(shelf.options) or None)
        made = _figures(program) | {"compile_s": time.perf_counter() - started, "versions": dict(shelf.versions)}
        kept.write(shelf, key, made)
    text = made["text"]
    return Compiled(
        program=program,
        lower_s=lower_s,
        **{name: made[name] for name in ("compile_s", "flops", "bytes", "memory", "resident", "text")},
        collectives=hlo.collectives(text),
        products=hlo.products(text),
        loops=hlo.loops(text),
        digest=hlo.digest(text),
    )


def _figures(program: Any) -> dict[str, Any]:
    costs = program.cost_analysis() or {}
    costs = costs[0] if isinstance(costs, list) else costs
    return {
        "text": program.as_text() or "",
        "memory": memory_of(program.memory_analysis()),
        "flops": known(costs.get("flops")),
        "bytes": known(costs.get("bytes accessed")),
        "resident": load.resident(),
    }


def said(compiled: Compiled) -> dict[str, Any]:
    """The compiler's figures as plain values."""
    told = {
        f.name: getattr(compiled, f.name) for f in dataclasses.fields(compiled) if f.name not in ("program", "text")
    }
    return told | {"collectives": [dataclasses.asdict(c) for c in compiled.collectives], "memory": compiled.memory}


def known(value: Any) -> float:
    """A compiler's figure, or NaN: XLA writes what it does not know as -1, 0, or nothing.

    >>> known(-1.0), known(None), known(2.0)
    (nan, nan, 2.0)
    """
    return float(value) if value is not None and value > 0 else math.nan


def memory_of(analysis: Any) -> dict[str, float]:
    """Bytes by kind from `memory_analysis()`; an empty dict where the compiler gives none."""
    if analysis is None:
        return {}
    parts = {
        "arguments": float(analysis.argument_size_in_bytes),
        "outputs": float(analysis.output_size_in_bytes),
        "temporary": float(analysis.temp_size_in_bytes),
        "aliased": float(analysis.alias_size_in_bytes),
        "code": float(analysis.generated_code_size_in_bytes),
    }
    parts["total"] = parts["arguments"] + parts["outputs"] + parts["temporary"] - parts["aliased"] + parts["code"]
    return parts if parts["total"] > 0 else {}


def versions() -> dict[str, str]:
    """What a measurement depends on besides its inputs."""
    return {
        "jax": jax.__version__,
        "jaxlib": jaxlib.__version__,
        "flax": flax.__version__,
        "python": platform.python_version(),
    }


def toolchain() -> dict[str, str]:
    """Versions that a compiled program depends on; the compiler of TPUs among them where it is installed."""
    try:
        return versions() | {"libtpu": metadata.version("libtpu")}
    except metadata.PackageNotFoundError:
        return versions()
