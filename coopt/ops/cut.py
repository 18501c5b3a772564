"""The sizes a layout leaves on one chip: worked out once, read by every room of rows."""

from __future__ import annotations

from coopt.spec.nouns import Layout, Leaf, Model, Phase
from coopt.tree import struct
from coopt.xp import choose, maximum, minimum, where


@struct
class Cut:
    """One micro-batch on one chip."""

    seq_len: Leaf = 0.0
    reach: Leaf = 0.0  # tokens of a sequence that may see each other: those of one document
    sequences: Leaf = 0.0  # a micro-batch
    tokens: Leaf = 0.0  # a micro-batch on one chip, before tensor parallelism splits them
    split: Leaf = 1.0  # tp where sequence parallel, else 1: divides what lies between matmuls
    micro_batches: Leaf = 1.0
    full: Leaf = 0.0  # 1 where everything is recomputed
    partial: Leaf = 0.0  # 1 where attention is recomputed (selective or full)
    pointwise: Leaf = 0.0  # 1 where what lies between products is
    last: Leaf = 0.0  # 1 where the last product of a layer is, whose result nobody reads
    norm: Leaf = 0.0  # 1 where a trainer makes norms again by hand, and so on
    act: Leaf = 0.0
    up: Leaf = 0.0
    mlp: Leaf = 0.0
    sharded: Leaf = 0.0  # 1 where weights are gathered when used (zero 3)
    stride_tensor: Leaf = 1.0
    stride_context: Leaf = 1.0
    stride_data: Leaf = 1.0
    stride_pipeline: Leaf = 1.0
    expert_tensor: Leaf = 1.0  # ways one expert is split
    expert_data: Leaf = 1.0  # replicas of one expert
    vocab: Leaf = 0.0  # columns of the head on one chip


def cut(model: Model, layout: Layout, phase: Phase) -> Cut:
    """Sizes on one chip for one micro-batch of a training phase."""
    tp, cp, pp, dp = layout.tp, layout.cp, layout.pp, layout.dp
    order = layout.order
    # Groups are numbered with the closest chips first; a stride is the product of the axes inside.
    stride_tensor = choose(order, (1.0, 1.0, pp))
    stride_context = stride_tensor * tp
    stride_data = choose(order, (tp * cp, tp * cp * pp, pp * tp * cp))
    stride_pipeline = choose(order, (tp * cp * dp, tp * cp, 1.0))
    expert_tensor = where(layout.ep > 1.5, 1.0, tp)
    full, partial = where(layout.recompute > 1.5, 1.0, 0.0), where(layout.recompute > 0.5, 1.0, 0.0)
    by_hand = 1.0 - layout.traced  # what a traced program makes again is up to its compiler
    return Cut(
        seq_len=phase.seq_len,
        reach=where(phase.document > 0.0, minimum(phase.document, phase.seq_len), phase.seq_len),
        sequences=layout.micro_batch,
        tokens=layout.micro_batch * phase.seq_len / cp,
        split=where(layout.sp > 0.5, tp, 1.0),
        micro_batches=phase.batch / (dp * layout.micro_batch),
        full=full,
        partial=partial,
        # A compiler makes again what it did not keep, products first, and only what is read.
        pointwise=where(layout.traced > 0.5, partial, full),
        last=where(layout.traced > 0.5, 0.0, full),
        norm=by_hand * layout.recompute_norm,
        act=by_hand * layout.recompute_act,
        up=by_hand * layout.recompute_up,
        mlp=by_hand * layout.recompute_mlp,
        sharded=where(layout.zero > 2.5, 1.0, 0.0),
        stride_tensor=stride_tensor,
        stride_context=stride_context,
        stride_data=stride_data,
        stride_pipeline=stride_pipeline,
        expert_tensor=expert_tensor,
        expert_data=maximum(tp * cp * dp / (layout.ep * expert_tensor), 1.0),
        vocab=model.vocab / tp,
    )
