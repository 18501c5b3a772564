"""Operations compiled alone: what a compiler estimates for one, with nothing fused to it.

A norm, an activation or its gradient fused to a product makes the compiler's estimate read operands again and again;
the product by itself is what the matrix units do.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from coopt.measure import kept, topology
from coopt.measure.compile import toolchain
from coopt.measure.schedule import Product, schedule
from coopt.measure.sweep import Operation, program_of
from coopt.problems import Problem, Refused

TYPES = {"f32": jnp.float32, "bf16": jnp.bfloat16, "f16": jnp.float16, "f8e4m3fn": jnp.float8_e4m3fn, "s8": jnp.int8,
         "s32": jnp.int32}  # fmt: skip


def products_job(job: dict, report: Callable[[str], None]) -> dict:
    """A `products` job: cycles of each of the `sizes` (m, n, k) in bfloat16 on one device of a TPU.

    Also those of elementwise operations as `coopt.measure.sweep` names them, each [name, rows, columns]; attention
    kernels and collectives have no estimate.
    """
    target = topology.acquire(str(job.get("target")))
    given = job.get("sizes")
    if target.platform != "tpu" or not isinstance(given, list) or not given:
        expected, got = "a TPU slice, and a list of [m, n, k]", f"{target.name}, {given!r}"[:60]
        raise Refused(Problem(field="target, sizes", expected=expected, got=got))
    wanted = [Product(int(m), int(n), int(k), ("bf16", "bf16", "bf16")) for m, n, k in given]
    found = alone(wanted, target.devices[0], folder=job.get("texts"), report=report)
    passes = [Operation(str(name), "elementwise", int(m), int(n)) for name, m, n in job.get("elementwise") or ()]
    report("elementwise")
    return {
        "outcome": "ok",
        "device": target.devices[0].device_kind,
        "devices_a_chip": 1 + max(getattr(d, "core_on_chip", 0) for d in target.devices),
        "libtpu": toolchain().get("libtpu", ""),
        "cycles": [found[product] for product in wanted],
        "elementwise": [_estimate(*program_of(one, "bf16"), target.devices[0]) for one in passes],
    }


def alone(
    products: Iterable[Product],
    device: Any,
    *,
    folder: str | None = None,
    report: Callable[[str], None] = lambda phase: None,
) -> dict[Product, float]:
    """Cycles of each product on one device of a described slice; NaN where the compiler gives none.

    What was compiled before for this chip by this compiler is read from `folder`.
    """
    wanted = list(dict.fromkeys(products))
    path = Path(folder) / _file(device) if folder else None
    known = _read(path) if path else {}
    for number, product in enumerate(wanted):
        if _key(product) in known:
            continue
        report(f"product {number + 1}/{len(wanted)}")
        known[_key(product)] = _cycles(product, device)
        if path:
            kept.put(path, json.dumps(known, indent=0).encode())
    return {product: math.nan if (c := known[_key(product)]) is None else c for product in wanted}


def _cycles(product: Product, device: Any) -> float | None:
    if not set(product.types) <= set(TYPES):
        return None
    left, right, out = (TYPES[name] for name in product.types)
    shapes = [(product.m, product.k), (product.k, product.n)]
    return _estimate(lambda a, b: jax.lax.dot(a, b, preferred_element_type=out), shapes, device, (left, right))


def _estimate(function: Callable, shapes: Sequence[tuple[int, ...]], device: Any, types: Any = None) -> float | None:
    """Cycles of a function of arrays on one device, as its compiler estimates them; None where it does not.

    Of a function with products, theirs alone: what is left beside them is the compiler's own copying.
    """
    place = jax.sharding.SingleDeviceSharding(device)
    types = types or [jnp.bfloat16] * len(shapes)
    given = [jax.ShapeDtypeStruct(shape, kind, sharding=place) for shape, kind in zip(shapes, types, strict=True)]
    rows = schedule(jax.jit(function).lower(*given).compile().as_text() or "").rows
    rows = [row for row in rows if row.kind == "matmul"] or rows
    total = sum(row.times * row.cycles for row in rows)
    return total if rows and math.isfinite(total) else None


def _key(product: Product) -> str:
    return f"{product.m} {product.n} {product.k} {' '.join(product.types)}"


def _file(device: Any) -> str:
    said = " ".join((device.device_kind, *toolchain().values()))
    return "products-" + re.sub(r"[^\w.]+", "-", said) + ".json"


def _read(path: Path) -> dict[str, float | None]:
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):  # nothing yet, or damaged: compiled again
        return {}
    return found if isinstance(found, dict) else {}
