"""Where each array of a block lies: a mesh from a `Layout`, and a partition from each array's logical axes.

One block lives on one pipeline stage, so its mesh holds tp * cp * dp chips. The axes, outermost first:

    replica, replica_expert, fsdp, fsdp_expert     the dp replicas: copies, then shards of the weights
    context                                        cp, cuts the sequence
    tensor                                         tp, cuts heads, widths and vocabulary; closest chips

Experts lie on the `_expert` parts of the data axes, fsdp's first; ep > dp is refused.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from coopt.problems import Problem, Refused
from coopt.spec.nouns import LayerKind, Layout, Model

AXES = ("replica", "replica_expert", "fsdp", "fsdp_expert", "context", "tensor")
DATA = AXES[:4]
EXPERT = ("replica_expert", "fsdp_expert")

Rules = Mapping[str, tuple[str, ...]]  # logical axis -> mesh axes that cut it


def mesh_shape(layout: Layout) -> dict[str, int]:
    """Chips along each mesh axis of one pipeline stage; refuses a layout whose factors do not divide each other.

    >>> mesh_shape(Layout(tp=2.0, dp=4.0, fsdp=4.0, ep=2.0))
    {'replica': 1, 'replica_expert': 1, 'fsdp': 2, 'fsdp_expert': 2, 'context': 1, 'tensor': 2}
    """
    names = ("tp", "cp", "dp", "fsdp", "ep")
    raw = {name: getattr(layout, name) for name in names}
    bad = [
        Problem(field=f"layout.{name}", expected="a whole number from 1", got=f"{value}")
        for name, value in raw.items()
        if value != int(value) or value < 1
    ]
    if bad:
        raise Refused(*bad)
    tp, cp, dp, fsdp, ep = (int(raw[name]) for name in names)
    if dp % fsdp:
        raise Refused(Problem(field="layout.fsdp", expected=f"a divisor of dp = {dp}", got=str(fsdp)))
    inside = math.gcd(ep, fsdp)
    outside = ep // inside
    if (dp // fsdp) % outside:
        hint = "experts across tensor or context chips are not built"
        raise Refused(Problem(field="layout.ep", expected=f"a divisor of dp = {dp}", got=str(ep), hint=hint))
    sizes = (dp // fsdp // outside, outside, fsdp // inside, inside, cp, tp)
    return dict(zip(AXES, sizes, strict=True))


def rules_of(layout: Layout, kind: LayerKind | None) -> Rules:
    """The mesh axes that cut each logical axis of weights and activations."""
    tp = int(layout.tp)
    shards = ("fsdp", "fsdp_expert") if int(layout.zero) == 3 else ()
    # Fewer key-value heads than tensor chips: each chip keeps a copy of all, as Megatron does.
    split_kv = kind is None or kind.mixer == "mla" or int(kind.kv_heads) % tp == 0
    return {
        "batch": DATA,
        "sequence": ("context",),
        "residual": ("context", "tensor") if layout.sp else ("context",),
        "width": (),  # of the residual stream: a whole step of JAX cuts it where the sequence is not cut
        "embed": shards,
        "heads": ("tensor",),
        "kv_heads": ("tensor",) if split_kv else (),
        "ff": ("tensor",),
        "vocab": ("tensor",),
        "experts": EXPERT,
        "expert_embed": ("fsdp",) if int(layout.zero) == 3 else (),
        "expert_batch": ("replica", "fsdp"),  # the other data axes hold experts once tokens are dispatched
    }


def spec_of(logical: tuple[str | None, ...], rules: Rules) -> PartitionSpec:
    """The partition of an array with these logical axes.

    >>> spec_of(("embed", "heads", None), {"embed": ("fsdp",), "heads": ("tensor",)})
    P('fsdp', 'tensor', None)
    """
    cuts = (rules[name] if name else () for name in logical)
    return PartitionSpec(*(axes[0] if len(axes) == 1 else (axes or None) for axes in cuts))


def shard_shape(
    shape: tuple[int, ...], logical: tuple[str | None, ...], rules: Rules, sizes: Mapping[str, int]
) -> tuple[int, ...]:
    """The part of an array that one chip holds; refuses an axis that does not divide, by name.

    >>> shard_shape((8, 6), ("embed", "heads"), {"embed": ("fsdp",), "heads": ("tensor",)}, {"fsdp": 4, "tensor": 2})
    (2, 3)
    """
    problems, part = [], []
    for size, name in zip(shape, logical, strict=True):
        axes = rules[name] if name else ()
        pieces = math.prod(sizes[axis] for axis in axes)
        if size % pieces:
            cut = " x ".join(f"{axis} {sizes[axis]}" for axis in axes if sizes[axis] > 1)
            problems.append(Problem(field=str(name), expected=f"a multiple of {pieces} ({cut})", got=str(size)))
        part.append(size // pieces)
    if problems:
        raise Refused(*problems)
    return tuple(part)


def mesh_of(sizes: Mapping[str, int], devices: list) -> Mesh:
    """A mesh of these devices, nearest chips innermost; refuses a number of devices that is not the layout's."""
    wanted = math.prod(sizes.values())
    if len(devices) < wanted:
        raise Refused(
            Problem(
                field="target",
                expected=f"{wanted} devices (tp * cp * dp of the layout)",
                got=f"{len(devices)}",
                hint=f"measure one chip's share, or compile for a target with {wanted}, such as cpu:{wanted}",
            )
        )
    grid = _on_torus(tuple(sizes.values()), devices) if wanted == len(devices) else None
    if grid is None:
        grid = np.array(devices[:wanted]).reshape(tuple(sizes.values()))
    return Mesh(grid, tuple(sizes), axis_types=(AxisType.Auto,) * len(sizes))


def _on_torus(sizes: tuple[int, ...], devices: list) -> np.ndarray | None:
    """A whole torus cut along its own axes, each axis of the mesh on as few of them as can be; None where it cannot."""
    if getattr(devices[0], "coords", None) is None or getattr(devices[-1], "slice_index", 0):
        return None
    try:
        return mesh_utils.create_device_mesh(sizes, devices)
    except (NotImplementedError, ValueError):
        return None


def constrain_on(mesh: Mesh, rules: Rules):
    """The `Constrain` of the blocks: says where an activation lies; nothing on a single chip."""
    if mesh.size == 1:
        return lambda x, *axes: x

    def constrain(x: jax.Array, *axes: str | None) -> jax.Array:
        return jax.lax.with_sharding_constraint(x, NamedSharding(mesh, spec_of(axes, rules)))

    return constrain


def refuse_indivisible(model: Model, kind: LayerKind | None, layout: Layout, seq_len: int) -> None:
    """Raises `Refused` for shapes that the layout cannot cut, naming each axis."""
    tp, cp = int(layout.tp), int(layout.cp)
    split = tp * cp if layout.sp else cp
    checks = [("seq_len", seq_len, split, "cp * tp with sequence parallelism" if layout.sp else "cp")]
    if kind is not None:
        checks.append(("heads", int(kind.heads), tp, "tp"))
        width = "d_expert" if kind.feedforward == "moe" else "d_ff"
        checks.append((width, int(getattr(kind, width)), tp, "tp"))
        if kind.feedforward == "moe":
            checks.append(("experts", int(kind.experts), int(layout.ep), "ep"))
        if kind.mixer != "mla" and int(kind.kv_heads) % tp and tp % int(kind.kv_heads):
            checks.append(("kv_heads", int(kind.kv_heads), tp, "tp"))
    if int(layout.zero) == 3:
        checks.append(("d_model", int(model.d_model), int(layout.fsdp), "fsdp"))
    problems = [
        Problem(field=name, expected=f"a multiple of {pieces} ({why})", got=str(size))
        for name, size, pieces, why in checks
        if size % pieces
    ]
    if problems:
        raise Refused(*problems)
