"""Schemas of what is fitted: the constants of a family of chips, and a software stack's constants and practice."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Annotated, Any, Literal

from coopt.spec.schema_types import (
    AtLeastOne,
    Bytes,
    Count,
    Efficiency,
    File,
    Flag,
    Name,
    Natural,
    Positive,
    Quantity,
    Scalar,
    Share,
    Strict,
    Text,
    Time,
    flag,
)


def _count_or(word: str) -> Callable[[Any], str | float | None]:
    def read(given: Any) -> str | float | None:
        if given == word:
            return given
        return float(given) if isinstance(given, int) and not isinstance(given, bool) and given >= 1 else None

    return read


def _sequence_parallel(given: Any) -> str | float | None:
    said = flag(given)
    return given if given == "with-tp" else None if said is None else float(said)


def _month(given: Any) -> str | None:
    return given if isinstance(given, str) and re.fullmatch(r"20\d\d-(0[1-9]|1[0-2])", given) else None


Chunks = Annotated[
    str | float, Scalar("`layers` or a whole number", "`layers` is one layer a chunk", _count_or("layers"))
]
Month = Annotated[str, Scalar("a month, yyyy-mm", "the month of a publication", _month)]
Shards = Annotated[
    str | float, Scalar("`dp` or a whole number", "write `dp` for all of data parallel", _count_or("dp"))
]
SequenceParallel = Annotated[
    str | float, Scalar("`with-tp`, 0 or 1", "`with-tp` is 1 where tp > 1", _sequence_parallel)
]


class Fitted(Strict):
    """What a family of chips delivers: shares of peaks for large work, and the sizes at which half is reached."""

    matmul_16: Quantity[Efficiency] | None = None
    matmul_8: Quantity[Efficiency] | None = None
    matmul_4: Quantity[Efficiency] | None = None
    depth: Quantity[Positive] | None = None
    batched: Quantity[Positive] | None = None  # rate of many products side by side over one alone
    backward_32: Quantity[Positive] | None = None  # rate of products in a backward pass over those forward, 32 bits
    backward_16: Quantity[Positive] | None = None
    attention: Quantity[Efficiency] | None = None
    attention_depth: Quantity[Positive] | None = None
    stream: Quantity[Efficiency] | None = None
    kernel: Quantity[Time] | None = None
    passes: Quantity[Positive] | None = None  # of the stack it was calibrated with, before the stack's own
    passes_back: Quantity[Positive] | None = None
    scale_up: Quantity[Efficiency] | None = None
    scale_out: Quantity[Efficiency] | None = None
    sigma: Quantity[Positive] | None = None  # standard deviation of log(measured / predicted)


class Family(File):
    """kind: family. The constants fitted to a family of chips."""

    kind: Literal["family"]
    vendor: Text | None = None
    chips: tuple[Name, ...] | None = None  # those whose steps it was fitted to; the others are `transferred`
    fitted: Fitted


class Practice(Strict):
    """Layout fields that a stack sets when they are left out."""

    apart: Flag | None = None
    beside: Flag | None = None
    cp: Count | None = None
    dualpipe: Flag | None = None
    dropout: Flag | None = None  # of models with plain (ungated) feed-forwards
    ep: Count | None = None
    fsdp: Shards | None = None
    fused_attention: Flag | None = None
    fused_loss: Flag | None = None
    gradient: Count | None = None  # B an element of a gradient kept
    graphs: Share | None = None
    imbalance: AtLeastOne | None = None
    late: Flag | None = None
    micro_batch: Count | None = None
    offload: Share | None = None
    optimizer: Literal["adamw", "muon", "adafactor"] | None = None
    overlap: Flag | None = None
    paired: Flag | None = None
    pieces: Count | None = None
    order: Literal["tp-cp-dp-pp", "tp-cp-pp-dp", "pp-tp-cp-dp"] | None = None
    pp: Count | None = None
    precision: Literal["fp32", "bf16", "fp16", "fp8", "fp8-cached", "mxfp8", "nvfp4", "int8"] | None = None
    recompute: Literal["none", "selective", "full"] | None = None
    recompute_act: Flag | None = None
    recompute_mlp: Flag | None = None
    recompute_norm: Flag | None = None
    recompute_up: Flag | None = None
    reduce: Count | None = None  # B an element of a reduced gradient
    schedule: Literal["1f1b", "gpipe", "zero-bubble"] | None = None
    sp: SequenceParallel | None = None
    tp: Count | None = None
    traced: Flag | None = None
    transport: Literal["all-to-all", "deduplicated", "all-gather"] | None = None
    vocab_multiple: Count | None = None  # times tp
    vpp: Chunks | None = None
    zero: Natural | None = None


class StackFitted(Strict):
    """The few constants of a software stack."""

    dispatch: Quantity[Time] | None = None
    hide: Quantity[Share] | None = None
    attention: Quantity[Positive] | None = None
    passes: Quantity[Positive] | None = None
    overhead: Quantity[Share] | None = None
    jitter: Quantity[Share] | None = None
    margin: Quantity[AtLeastOne] | None = None
    reserved: Quantity[Bytes] | None = None
    sigma: Quantity[Positive] | None = None


class Stack(File):
    """kind: stack."""

    kind: Literal["stack"]
    later: Name | None = None  # the stack that this name stands for on chips with 8-bit floats
    joint_since: Month | None = None  # of publication: before, `apart` and not `beside`
    captured: Text | None = None  # release from which mixtures in mxfp8 and nvfp4 replay whole steps
    practice: Practice = Practice()
    ported: dict[Name, Quantity[Efficiency]] = {}  # noqa: RUF012  # by family: rate of attention kernels older than it
    fitted: StackFitted = StackFitted()
