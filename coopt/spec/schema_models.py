"""Schemas of models and quality laws."""

from __future__ import annotations

from typing import Literal

import pydantic

from coopt.spec.schema_types import (
    Count,
    File,
    Flag,
    Kind,
    Natural,
    Notes,
    Positive,
    Real,
    Strict,
    Text,
    failure,
)


class Layers(Strict):
    """One kind of layer, and how many there are."""

    count: Count
    mixer: Literal["full", "window", "mla", "linear", "delta", "sparse", "sparse-mla"]
    feedforward: Literal["dense", "moe"]
    heads: Count
    kv_heads: Count | None = None  # as many as heads when left out
    head_dim: Count
    window: Count | None = None
    q_rank: Natural | None = None
    kv_rank: Count | None = None
    rope_dim: Natural | None = None
    v_dim: Count | None = None
    index_heads: Count | None = None
    index_dim: Count | None = None
    d_ff: Count | None = None
    gated: Flag | None = None
    experts: Count | None = None
    top_k: Count | None = None
    d_expert: Count | None = None
    groups: Count | None = None
    top_groups: Count | None = None
    shared: Natural | None = None
    d_shared: Count | None = None
    bias: Flag = False
    dropout: Flag = False
    norms: Natural | None = None  # vectors of length d_model; 2 norms when left out
    notes: Notes | None = None

    @pydantic.model_validator(mode="after")
    def _complete(self) -> Layers:
        needs = {
            "window": ("window",),
            "sparse": ("window", "index_heads", "index_dim"),
            "mla": ("kv_rank", "rope_dim", "v_dim"),
            "sparse-mla": ("kv_rank", "rope_dim", "v_dim", "window", "index_heads", "index_dim"),
        }
        needed = list(needs.get(self.mixer, ()))
        needed += ["d_ff"] if self.feedforward == "dense" else ["experts", "top_k", "d_expert"]
        needed += ["d_shared"] if self.shared else []
        lacking = [name for name in (*needed, "gated") if getattr(self, name) is None]
        if lacking:
            said = f"{self.mixer} and {self.feedforward} layers with " + ", ".join((*needed, "gated"))
            raise failure(said, f"none of {', '.join(lacking)}", f"add `{lacking[0]}:`")
        if self.kv_heads and self.heads % self.kv_heads:
            raise failure("kv_heads that divides heads", f"{self.kv_heads:g} of {self.heads:g}", "")
        if self.experts and self.top_k and self.top_k > self.experts:
            raise failure("top_k <= experts", f"{self.top_k:g} of {self.experts:g}", "")
        if (self.top_groups or 1) > (self.groups or 1) or (self.experts or 0) % (self.groups or 1):
            got = f"{self.top_groups or 1:g} of {self.groups or 1:g} groups of {self.experts or 0:g} experts"
            raise failure("groups that divide the experts, and top_groups <= groups", got, "")
        return self


class Published(Strict):
    """Counts that the publisher gives, against which ours are tested."""

    parameters: Positive | None = None
    active: Positive | None = None
    source: Text | None = None
    notes: Notes | None = None


class Model(File):
    """kind: model."""

    kind: Literal["model"]
    source: Text
    d_model: Count
    vocab: Count
    tied: Flag
    positions: Natural = 0.0  # learned position vectors
    norm: Literal["rms", "layer"]
    final_norm: Flag = True
    context: Count | None = None
    layers: tuple[Layers, ...] = pydantic.Field(min_length=1, max_length=6)
    published: Published = Published()


class Constant(Strict):
    """A fitted constant and its standard error."""

    value: Real
    error: Real | None = None
    source: Text | None = None
    kind: Kind | None = None
    notes: Notes | None = None


class Constants(Strict):
    """L = E + A N^-alpha + B D^-beta."""

    E: Constant
    A: Constant
    alpha: Constant
    B: Constant
    beta: Constant


Range = tuple[Real | None, Real | None]


class Ranges(Strict):
    """What the law was fitted on: least and largest; an open end is written `null`, never left out."""

    parameters: Range
    tokens: Range
    aspect: Range  # d_model / layers
    vocabulary: Range
    experts: Range | None = None  # a sparse law's
    source: Text | None = None
    notes: Notes | None = None


class CriticalBatch(Strict):
    """Critical batch in tokens = coefficient * tokens ** exponent."""

    coefficient: Positive
    exponent: Real
    source: Text
    kind: Kind | None = None
    notes: Notes | None = None


class Law(File):
    """kind: law."""

    kind: Literal["law"]
    source: Text
    form: Literal["dense", "sparse"]
    constants: Constants
    range: Ranges
    critical_batch: CriticalBatch | None = None
    sparsity: dict[str, Constant] = {}  # noqa: RUF012

    @pydantic.model_validator(mode="after")
    def _bounded(self) -> Law:
        if self.form == "sparse" and not (self.sparsity and self.range.experts):
            raise failure("`sparsity` and `range.experts` of a sparse law", "one without", "add them")
        for name in ("parameters", "tokens", "aspect", "vocabulary", "experts"):
            low, high = getattr(self.range, name) or (None, None)
            if low is not None and high is not None and low > high:
                raise failure(f"range.{name}, least first", f"[{low:g}, {high:g}]", "")
        return self
