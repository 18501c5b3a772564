"""A table of measured runs becomes designs: one model, layout and workload a row, in batches that price at once.

The columns are those of tests/data/training.csv. An empty cell means `not published`; what is then assumed is what
the row's software stack does by default (hw_profiles/stacks), and the row's note says so.
"""

from __future__ import annotations

import csv
import dataclasses
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from coopt.problems import Problem, Refused
from coopt.spec.nouns import (
    PRECISIONS,
    RECOMPUTE,
    TRANSPORTS,
    Hardware,
    LayerKind,
    Layout,
    Model,
    Precision,
    Workload,
    training,
)
from coopt.tree import replace

Table = list[dict[str, str]]
REQUIRED = ("chip", "n_chips", "layers", "d_model", "heads", "d_ff", "vocab", "seq_len", "global_batch", "tp", "pp")
# MLA sizes are not among the columns: DeepSeek-V2/V3 and Kimi share them. Source: the models' config.json.
MLA = {"kv_rank": 512.0, "rope_dim": 64.0, "head_dim": 128.0, "v_dim": 128.0}
MLA_QUERY_RANK = 1536.0


@dataclasses.dataclass(frozen=True)
class Design:
    """One row, ready to price."""

    row: Mapping[str, str]
    model: Model
    layout: Layout
    workload: Workload
    hardware: Hardware
    notes: tuple[str, ...]


def read(path: str | Path) -> Table:
    """The rows of a CSV file as dictionaries of text; an unreadable file or missing column is `Refused`."""
    try:
        with open(path, newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise Refused(Problem(file=str(path), expected="a readable CSV table", got=str(error))) from None
    missing = [name for name in REQUIRED if not rows or name not in rows[0]]
    if missing:
        raise Refused(
            *(
                Problem(
                    file=str(path),
                    line=1,
                    field=name,
                    expected="a column of this name",
                    hint="the columns are those of tests/data/training.csv",
                )
                for name in missing
            )
        )
    return rows


def measured_step_time(row: Mapping[str, str]) -> float:
    """Seconds a step as published: the time, else batch tokens over tokens/s, else the derived time; NaN if none.

    >>> measured_step_time({"measured_step_time_s": "", "global_batch": "256", "seq_len": "4096", "n_chips": "64",
    ...                     "measured_tokens_per_s_per_chip": "1024"})
    16.0
    """
    time = number(row, "measured_step_time_s")
    if math.isnan(time):
        tokens = number(row, "global_batch") * number(row, "seq_len")
        time = tokens / (number(row, "n_chips") * number(row, "measured_tokens_per_s_per_chip"))
    return number(row, "derived_step_time_s") if math.isnan(time) else time


def number(row: Mapping[str, str], column: str, default: float = math.nan) -> float:
    """A column as a float; the default where it is empty or absent; `Refused` where it is no number."""
    text = (row.get(column) or "").strip()
    if not text:
        return default
    try:
        return float(text)
    except ValueError:
        raise Refused(
            Problem(field=f"{row.get('id', '?')}.{column}", expected="a number or an empty cell", got=text)
        ) from None


def unscorable(row: Mapping[str, str]) -> str:
    """Why a row cannot be priced and scored; empty where it can."""
    said = (row.get("scorable") or "").strip()
    if said and said != "yes":
        return said.removeprefix("no: ")
    missing = [name for name in REQUIRED if not (row.get(name) or "").strip()]
    if missing:
        return "missing " + ",".join(missing)
    return ""


def stack(row: Mapping[str, str]) -> str:
    """The framework that a row ran: its column, or MaxText where the notes name it (a publisher's suite has several).

    >>> stack({"stack": "nemo", "notes": "MaxText/JAX on H100; per-device batch 2"})
    'maxtext'
    """
    return "maxtext" if "MaxText" in row.get("notes", "") else (row.get("stack") or "").strip()


def model(row: Mapping[str, str], practice: Mapping[str, Any]) -> Model:
    """The model of a row: shape columns, with the vocabulary padded as the stack pads it."""
    layers, d_model, heads = number(row, "layers"), number(row, "d_model"), number(row, "heads")
    gated = 1.0 if row.get("mlp_gated") == "yes" else 0.0
    step = float(practice.get("vocab_multiple", 1)) * number(row, "tp")
    vocab = math.ceil(number(row, "vocab") / step) * step
    kind = LayerKind(
        count=layers,
        heads=heads,
        kv_heads=number(row, "kv_heads", heads),
        head_dim=number(row, "head_dim", d_model / heads),
        d_ff=number(row, "d_ff"),
        gated=gated,
        bias=1.0 - gated,
        norms=2.0 * (2.0 - gated),
        dropout=(1.0 - gated) * float(practice.get("dropout", 0)),
    )
    return Model(
        name=row.get("model", ""),
        d_model=d_model,
        vocab=vocab,
        tied=1.0 - gated,
        norms=2.0 - gated,
        mtp=_further(row),
        kinds=_kinds(row, kind),
    )


def _further(row: Mapping[str, str]) -> int:
    """Layers of multi-token prediction that the row's FLOPs include, as its notes say."""
    said = re.search(r"(\d+) MTP layer", row.get("notes", ""))
    return int(said[1]) if said else 0


def _kinds(row: Mapping[str, str], dense: LayerKind) -> tuple[LayerKind, ...]:
    """The table of layer kinds: windows on some layers, experts on most."""
    attention = row.get("attn_type", "")
    experts = number(row, "experts", 0.0)
    plain = dense
    if attention == "mla":
        lite = dense.heads < 64
        dense = replace(dense, mixer="mla", kv_heads=dense.heads, q_rank=0.0 if lite else MLA_QUERY_RANK, **MLA)
    kinds = (dense,)
    if experts > 0:
        first = number(row, "dense_layers", 0.0)
        wide = number(row, "moe_d_ff", plain.d_ff)
        sparse = replace(
            dense,
            feedforward="moe",
            count=dense.count - first,
            experts=experts,
            top_k=number(row, "topk"),
            d_expert=wide,
            shared=number(row, "shared_experts", 0.0),
            d_shared=wide,
        )
        kinds = (replace(dense, count=first), sparse) if first > 0 else (sparse,)
    if "swa128" in attention:  # every second layer sees 128 tokens
        kinds = tuple(
            part
            for kind in kinds
            for part in (
                replace(kind, count=kind.count / 2),
                replace(kind, count=kind.count / 2, mixer="window", window=128.0),
            )
        )
    if "chunked 8192" in attention:  # three of four layers
        kinds = tuple(
            part
            for kind in kinds
            for part in (
                replace(kind, count=kind.count / 4),
                replace(kind, count=kind.count * 3 / 4, mixer="window", window=8192.0),
            )
        )
    return kinds


def layout(row: Mapping[str, str], practice: Mapping[str, Any]) -> tuple[Layout, tuple[str, ...]]:
    """The layout of a row, and a sentence for each cell that was empty."""
    notes = []

    def cell(column: str, default: float, said: str) -> float:
        value = number(row, column)
        if math.isnan(value):
            notes.append(f"{column} assumed {said}")
            return default
        return value

    tp, pp = number(row, "tp"), number(row, "pp")
    cp, ep = cell("cp", 1.0, "1"), number(row, "ep", 1.0)
    dp = number(row, "n_chips") / (tp * cp * pp)
    name = _precision(row, notes)
    zero = cell("zero", float(practice.get("zero", 1)), f"{practice.get('zero', 1)} (stack's default)")
    kept = (row.get("recompute_kind") or "").strip()
    # published `offload` policies keep a few tensors of a layer on the host and recompute the rest
    offload = 1.0 if kept == "offload" else 0.0
    if not kept:
        kept = str(practice.get("recompute", "none"))
        notes.append(f"recompute assumed {kept} (stack's default)")
    sp = {"yes": 1.0, "no": 0.0}.get(row.get("sp", ""), 1.0 if practice.get("sp") == "with-tp" and tp > 1 else 0.0)
    fused = float(practice.get("fused_attention", 1))
    if fused < 0.5 and PRECISIONS[name].quantise > 0.5:
        fused = 1.0
        notes.append("fused attention assumed: eight-bit recipes come with it")
    plain = "Megatron-Core" in row.get("notes", "")
    if plain:
        notes.append("overlap assumed 0 (plain Megatron-Core)")
    shards = number(row, "fsdp_group", dp)
    micro_batch = cell("micro_batch", max(number(row, "global_batch") / dp, 1.0), "the whole batch of a replica")
    return Layout(
        tp=tp,
        cp=cp,
        pp=pp,
        dp=dp,
        fsdp=min(shards, dp) if zero > 0 else 1.0,
        ep=ep,
        vpp=_chunks(row, practice, notes),
        micro_batch=micro_batch,
        sp=sp,
        zero=zero,
        recompute=float(RECOMPUTE.index("full" if kept == "offload" else kept)),
        fused_attention=fused,
        fused_loss=float(practice.get("fused_loss", 1)),
        traced=float(practice.get("traced", 0)),
        offload=offload,
        overlap=0.0 if plain else float(practice.get("overlap", 0)),
        scan=float(practice.get("scan", 0)),
        pieces=float(practice.get("pieces", 1)),
        **_experts(row, practice, notes),
        precision=_recipe(row, PRECISIONS[name], practice),
    ), tuple(notes)


def _precision(row: Mapping[str, str], notes: list[str]) -> str:
    """The recipe of a row: the column, else the first word of the published `dtype` column, else bf16."""
    name = (row.get("precision") or "").strip()
    if name in PRECISIONS:
        return name
    told = (row.get("dtype") or "").strip()
    name = told.split()[0] if told.split() and told.split()[0] in PRECISIONS else "bf16"
    notes.append(f"precision assumed {name} ({'published: ' + told if told else 'not published'})")
    return name


def _recipe(row: Mapping[str, str], recipe: Precision, practice: Mapping[str, Any]) -> Precision:
    """The recipe with gradients summed and kept as the stack, or the row's notes, say."""
    wide = "fp32 gradient accumulation" in row.get("notes", "")
    told = {key: 4.0 if wide else float(practice[key]) for key in ("reduce", "gradient") if key in practice}
    return replace(recipe, **told)


def _experts(row: Mapping[str, str], practice: Mapping[str, Any], notes: list[str]) -> dict[str, float]:
    """How tokens reach experts: as the stack does by default, or at a fixed capacity where the notes say `tokendrop`.

    A fixed capacity has static shapes, so that the whole step is replayed from a captured graph.
    """
    if number(row, "experts", 0.0) < 1:
        return {}
    if "tokendrop" not in row.get("notes", ""):
        forced = "forced balanced" in row.get("notes", "")
        return {
            "transport": float(TRANSPORTS.index(practice.get("transport", "all-to-all"))),
            "imbalance": 1.0 if forced else float(practice.get("imbalance", 1.0)),
        }
    notes.append("capacity 1 and captured graphs assumed (tokendrop)")
    return {"capacity": 1.0, "graphs": 1.0}


def _chunks(row: Mapping[str, str], practice: Mapping[str, Any], notes: list[str]) -> float:
    """Model chunks a stage: as published, else one layer each where the stack interleaves and everything divides."""
    vpp, pp, layers = number(row, "vpp"), number(row, "pp"), number(row, "layers")
    if not math.isnan(vpp):
        return vpp
    if pp < 2 or practice.get("vpp") != "layers":
        return 1.0
    rounds = number(row, "global_batch") / (number(row, "n_chips") / (number(row, "tp") * number(row, "cp", 1.0)))
    chunks = layers / pp if layers % pp == 0 and rounds / number(row, "micro_batch", 1.0) % 1 == 0 else 1.0
    notes.append(f"vpp assumed {chunks:g} (stack's default: one layer a chunk where it divides)")
    return chunks


def stack_trees(trees: Sequence[Any]) -> Any:
    """Trees of equal structure as one tree whose leaves have shape (n,)."""
    return jax.tree.map(lambda *leaves: np.asarray(leaves, dtype=np.float64), *trees)


def batches(designs: Iterable[Design], *, key: Callable[[Design], Any] = lambda d: None):
    """Designs grouped by structure (layer kinds, tiers), so that each group is one flat batch: (indices, stacked).

    Yields the positions of the group's designs and one `(model, layout, workload, hardware)` with leaves `(n,)`.
    """
    groups: dict[Any, list[int]] = {}
    designs = list(designs)
    for position, design in enumerate(designs):
        shape = jax.tree.structure((design.model, design.layout, design.workload, design.hardware))
        groups.setdefault((shape, key(design)), []).append(position)
    for positions in groups.values():
        chosen = [designs[p] for p in positions]
        parts = [(d.model, d.layout, d.workload, d.hardware) for d in chosen]
        yield positions, stack_trees(parts)


def workload(row: Mapping[str, str]) -> Workload:
    """The training phase of a row."""
    return training(number(row, "seq_len"), number(row, "global_batch"))
