"""A row of measured runs as a run: its model, layout and workload, and a sentence for each cell that was empty.

An empty cell means `not published`; what is then assumed is what the row's software stack does by default
(hw_profiles/stacks).
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from coopt.fit.rows import number
from coopt.spec.nouns import (
    PRECISIONS,
    RECOMPUTE,
    SCHEDULES,
    TRANSPORTS,
    LayerKind,
    Layout,
    Model,
    Precision,
    Workload,
    training,
)
from coopt.tree import replace

# MLA sizes are not among the columns: DeepSeek-V2/V3 and Kimi share them. Source: the models' config.json.
MLA = {"kv_rank": 512.0, "rope_dim": 64.0, "head_dim": 128.0, "v_dim": 128.0}
MLA_QUERY_RANK = 1536.0
# Nor is how far a token may go: groups of so many experts, and of how many of them a token's are.
GROUPS = {256.0: (8.0, 4.0), 160.0: (8.0, 3.0)}  # DeepSeek-V3 and V2, config.json: n_group, topk_group


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
        groups, most = _groups(row)
        sparse = replace(
            dense,
            feedforward="moe",
            count=dense.count - first,
            experts=experts,
            top_k=number(row, "topk"),
            d_expert=wide,
            shared=number(row, "shared_experts", 0.0),
            d_shared=wide,
            groups=groups,
            top_groups=most,
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


def _groups(row: Mapping[str, str]) -> tuple[float, float]:
    """Groups of experts, and of how many of them a token's are: by the notes (`4 of 8 groups`), or as published."""
    said = re.search(r"(\d+) of (\d+) groups", row.get("notes", ""))
    if said:
        return float(said[2]), float(said[1])
    known = GROUPS.get(number(row, "experts", 0.0)) if row.get("attn_type") == "mla" else None
    return known or (1.0, 1.0)


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
        **_said(row, notes),
        fused_attention=fused,
        fused_loss=float(practice.get("fused_loss", 1)),
        traced=float(practice.get("traced", 0)),
        offload=offload,
        overlap=0.0 if plain else float("AsyncTP" in row.get("notes", "") or practice.get("overlap", 0)),
        late=float(practice.get("late", 0)),
        **_backward(row, practice, notes),
        pieces=float(practice.get("pieces", 1)),
        **_experts(row, practice, notes),
        precision=_recipe(row, PRECISIONS[name], practice),
    ), tuple(notes)


# What notes say in words, as fields of a layout.
SAID = {
    "DualPipe": {"dualpipe": 1.0, "paired": 1.0},
    "zero-bubble": {"schedule": float(SCHEDULES.index("zero-bubble"))},
    "1F1B overlap": {"paired": 1.0},  # expert collectives under another micro-batch
    "norms recomputed": {"recompute_norm": 1.0},
    "activation functions recomputed": {"recompute_act": 1.0},
    "up-projections recomputed": {"recompute_up": 1.0},
}


def _said(row: Mapping[str, str], notes: list[str]) -> dict[str, float]:
    """Fields of a layout that the row's notes give in the words of `SAID`."""
    found = [words for words in SAID if words in row.get("notes", "")]
    notes.extend(f"{words}, by the notes" for words in found)
    return {field: value for words in found for field, value in SAID[words].items()}


def _backward(row: Mapping[str, str], practice: Mapping[str, Any], notes: list[str]) -> dict[str, float]:
    """What runs at the same time backward: the stack's practice, or none of it where a run is older than that.

    The arXiv number of a publication tells its month.
    """
    since = practice.get("joint_since")
    month = re.search(r"arXiv (\d\d)(\d\d)\.", row.get("url_or_repo_path", ""))
    if since and month and f"20{month[1]}-{month[2]}" < since:
        notes.append(f"beside assumed 0, apart 1 (published before {since})")
        return {"beside": 0.0, "apart": 1.0}
    return {key: float(practice.get(key, 0)) for key in ("beside", "apart")}


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
        release = re.search(r"container (\d\d\.\d\d)", row.get("notes", ""))
        since = practice.get("captured") if row.get("precision") in ("mxfp8", "nvfp4") else None
        captured = bool(since and release and release[1] >= since)
        if captured:
            notes.append(f"captured graphs assumed (container {since} or later)")
        forced = "forced balanced" in row.get("notes", "")
        return {
            "transport": float(TRANSPORTS.index(_transport(row, practice))),
            "imbalance": 1.0 if forced else float(practice.get("imbalance", 1.0)),
            "graphs": 1.0 if captured else 0.0,
        }
    notes.append("capacity 1 and captured graphs assumed (tokendrop)")
    return {"capacity": 1.0, "graphs": 1.0}


def _transport(row: Mapping[str, str], practice: Mapping[str, Any]) -> str:
    """How tokens travel: by the library that the notes name, else as the stack has it."""
    once = any(name in row.get("notes", "") for name in ("DeepEP", "HybridEP"))
    return "deduplicated" if once else practice.get("transport", "all-to-all")


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


def workload(row: Mapping[str, str]) -> Workload:
    """The training phase of a row."""
    return training(number(row, "seq_len"), number(row, "global_batch"))
