"""Rows of communication: what tensor, context, expert, data and pipeline parallelism send, and how often."""

from __future__ import annotations

from coopt.ops.cut import Cut
from coopt.ops.feedforward import routed_tokens
from coopt.ops.rows import Rows, wire
from coopt.ops.shapes import CHOSEN, RECURRENT, query_key_dim, value_dim
from coopt.ops.weights import Weights
from coopt.spec.nouns import LayerKind, Layout, Leaf, Model
from coopt.xp import maximum, where


def tensor(name: str, model: Model, layout: Layout, cut: Cut, *, count: Leaf) -> Rows:
    """Around one parallel block: an all-reduce each way, or, with sequence parallelism, gather and scatter.

    Payload: the activations of a micro-batch, T d, whole. The backward pass gathers the block's input once more,
    for the weight gradient.
    """
    full = layout.precision.wire * cut.tokens * model.d_model

    def one(part: str, collective: str, phase: str, count: Leaf):
        return wire(
            f"{name}{part}",
            collective=collective,
            group="tensor",
            phase=phase,
            count=count,
            payload=full,
            size=layout.tp,
            stride=cut.stride_tensor,
        )

    sp, plain = count * layout.sp, count * (1.0 - layout.sp)
    return (
        one("tp.gather", "all_gather", "forward", sp),
        one("tp.scatter", "reduce_scatter", "forward", sp),
        one("tp.reduce", "all_reduce", "forward", plain),
        one("tp.gather.again", "all_gather", "recompute", sp * cut.full),
        one("tp.scatter.again", "reduce_scatter", "recompute", sp * cut.full),
        one("tp.reduce.again", "all_reduce", "recompute", plain * cut.full),
        one("tp.gather.dx", "all_gather", "backward", 2.0 * sp),
        one("tp.scatter.dx", "reduce_scatter", "backward", sp),
        one("tp.reduce.dx", "all_reduce", "backward", plain),
    )


def beside(layout: Layout, cut: Cut) -> Leaf:
    """Share of tensor collectives that may run under products: all of them where products are cut for it, those that
    the other product backward does not wait for where the stack starts them beside it.

    Of a block's two linear layers that is the first: its input gradient is summed beside the product of the weight
    gradient, and its input gathered once more beside that of the input gradient (Korthikanti et al. 2022, arXiv
    2205.05198, sections 4.2.2 and 6.2). In passes of one gather or scatter: 2 of 4, 4 of 10 with sequence parallelism.
    """
    free = 1.0 + layout.sp
    every = 2.0 + 3.0 * layout.sp + free * cut.full
    return maximum(layout.overlap, layout.beside * free / every)


def context(name: str, kind: LayerKind, layout: Layout, cut: Cut) -> Rows:
    """Keys and values of the whole sequence reach every chip: gathered forward, scattered back as gradients."""
    heads = kind.heads / layout.tp if kind.mixer == "mla" else maximum(kind.kv_heads / layout.tp, 1.0)
    width = heads * (query_key_dim(kind) + value_dim(kind))
    if kind.mixer == "sparse-mla":  # compressed, one row for all heads
        width = kind.kv_rank + kind.rope_dim
    if kind.mixer in CHOSEN:
        width = width + kind.index_dim
    whole = layout.precision.wire * cut.tokens * layout.cp * width
    if kind.mixer in RECURRENT:  # a state of 32 bits a chip instead, whatever the length
        state = 4.0 * cut.sequences * kind.heads / layout.tp * query_key_dim(kind) * value_dim(kind)
        whole = state * layout.cp

    def one(part: str, collective: str, phase: str, count: Leaf):
        return wire(
            f"{name}cp.{part}",
            collective=collective,
            group="context",
            phase=phase,
            count=count,
            payload=whole,
            size=layout.cp,
            stride=cut.stride_context,
        )

    return (
        one("gather", "all_gather", "forward", 1.0),
        one("gather.again", "all_gather", "recompute", cut.partial),
        one("gather.dx", "all_gather", "backward", 1.0),
        one("scatter.dx", "reduce_scatter", "backward", 1.0),
    )


def expert(name: str, model: Model, kind: LayerKind, layout: Layout, cut: Cut) -> Rows:
    """Dispatch to the experts' chips and combine on the way back, both ways.

    All-to-all: every copy travels. Deduplicated: one copy a unit (see coopt/cost/collectives.py). All-gather: every
    token goes to the whole group, and partial sums are scattered back.
    """
    copies = routed_tokens(kind, layout, cut) * model.d_model
    everyone = copies / kind.top_k * layout.ep
    recipe, gather = layout.precision, where(layout.transport > 1.5, 1.0, 0.0)
    fan = where(abs(layout.transport - 1.0) < 0.5, kind.top_k, 1.0)

    def one(part: str, collective: str, phase: str, count: Leaf, byte: Leaf):
        exchange = collective == "all_to_all"
        return wire(
            f"{name}ep.{part}",
            collective=collective,
            group="expert",
            phase=phase,
            count=count * ((1.0 - gather) if exchange else gather),
            payload=byte * (copies if exchange else everyone),
            size=layout.ep,
            stride=cut.stride_tensor,
            fan=fan if exchange else 1.0,
            parts=kind.groups if exchange else 1.0,
            top_parts=kind.top_groups if exchange else 1.0,
        )

    return (
        one("dispatch", "all_to_all", "forward", 1.0, recipe.dispatch),
        one("combine", "all_to_all", "forward", 1.0, recipe.wire),
        one("again", "all_to_all", "recompute", cut.full, recipe.dispatch + recipe.wire),
        one("dx", "all_to_all", "backward", 2.0, 0.5 * (recipe.dispatch + recipe.wire)),
        one("gather", "all_gather", "forward", 1.0, recipe.dispatch),
        one("scatter", "reduce_scatter", "forward", 1.0, recipe.wire),
        one("gather.again", "all_gather", "recompute", cut.full, recipe.dispatch),
        one("scatter.again", "reduce_scatter", "recompute", cut.full, recipe.wire),
        one("gather.dx", "all_gather", "backward", 1.0, recipe.dispatch),
        one("scatter.dx", "reduce_scatter", "backward", 1.0, recipe.wire),
    )


def pipeline(model: Model, layout: Layout, cut: Cut) -> Rows:
    """Activations to the next stage and gradients back, once a micro-batch and model chunk.

    Each of the tp chips sends its share alone and gathers inside its domain: Narayanan et al. 2021, section 4.1.
    """
    sent = layout.precision.wire * cut.tokens * model.d_model / layout.tp
    count = where(layout.pp > 1.5, layout.vpp, 0.0)
    return tuple(
        wire(
            f"pipeline.{part}",
            collective="p2p",
            group="pipeline",
            phase=phase,
            scope="stage",
            count=count,
            payload=sent,
            size=layout.pp,
            stride=cut.stride_pipeline,
        )
        for part, phase in (("send", "forward"), ("send.dx", "backward"))
    )


def data(layout: Layout, cut: Cut, weights: Weights, *, experts: bool) -> Rows:
    """Gradients summed and weights gathered, dense and expert weights over their own replicas.

    Zero 0: all-reduce of gradients. 1, 2: reduce-scatter, then all-gather of the new weights, once a step. 3: weights
    gathered before use forward and backward and gradients scattered, in every layer and micro-batch; what is left of
    dp beyond fsdp holds copies, whose gradients are reduced once a step, a layer at a time, as they are kept. Where a
    layer is gathered in pieces, each is copied part by part, a launch for every chip of the group (DeepSpeed before
    all_gather_base).
    """
    recipe = layout.precision
    kept = where(layout.zero < 0.5, 1.0, 0.0)
    split = (1.0 - kept) * (1.0 - cut.sharded)
    dense_stride = where(layout.cp > 1.5, cut.stride_context, cut.stride_data)
    shards = where(layout.fsdp > 1.5, layout.fsdp, layout.dp * layout.cp)
    shards = where(shards * 1.5 > layout.dp, layout.dp * layout.cp, shards)  # all of dp: cp takes part as well
    groups = (
        ("", weights.stage_dense, weights.layer_dense, layout.dp * layout.cp, shards, dense_stride),
        (
            "expert.",
            weights.stage_expert,
            weights.layer_expert,
            cut.expert_data,
            cut.expert_data,
            maximum(layout.ep * cut.expert_tensor, 1.0) * cut.stride_tensor,
        ),
    )
    rows = ()
    for name, stage, layer, copies, ways, stride in groups if experts else groups[:1]:
        # a step: part, collective, phase, count, payload, chips, stride
        rest = maximum(copies / ways, 1.0)
        times, each = cut.sharded * weights.layers, recipe.gradient * stage / weights.layers / ways
        for part, group, collective, phase, count, payload, size, apart in (
            ("reduce", "data", "all_reduce", "backward", kept, recipe.reduce * stage, copies, stride),
            ("scatter", "data", "reduce_scatter", "backward", split, recipe.reduce * stage, copies, stride),
            ("gather", "data", "all_gather", "optimizer", split, recipe.gather * stage, copies, stride),
            ("fsdp.copies", "copies", "all_reduce", "backward", times, each, rest, stride * ways),
        ):
            rows += (
                wire(
                    f"data.{name}{part}", collective=collective, group=group, phase=phase, scope="step", count=count,
                    payload=payload, size=size, stride=apart,
                ),
            )  # fmt: skip
        rows += _sharded(f"data.{name}fsdp.", layout, cut, layer=layer, ways=ways, stride=stride)
    return rows


def _sharded(name: str, layout: Layout, cut: Cut, *, layer: Leaf, ways: Leaf, stride: Leaf) -> Rows:
    """What zero 3 sends in every layer and micro-batch: weights gathered before use, gradients scattered.

    A tensor gathered by itself is let go after its use, so that what is recomputed gathers it a third time
    (Rajbhandari et al. 2021, ZeRO-Infinity, arXiv 2104.07857, section 4.1), and its gradient is summed everywhere, a
    scatter and a gather (DeepSpeed of 2021: github.com/deepspeedai/DeepSpeed/issues/1173).
    """
    recipe, pieces = layout.precision, layout.pieces
    alone = where(pieces > 1.5, 1.0, 0.0)
    return tuple(
        wire(
            f"{name}{part}",
            collective=collective,
            group="data",
            phase=phase,
            count=cut.sharded * pieces * times,
            payload=byte * layer / pieces,
            size=ways,
            stride=stride,
            copies=alone * ways,
        )
        for part, collective, phase, byte, times in (
            ("gather", "all_gather", "forward", recipe.gather, 1.0),
            ("gather.dx", "all_gather", "backward", recipe.gather, 1.0 + alone * cut.full),
            ("scatter", "reduce_scatter", "backward", recipe.reduce, 1.0 + alone),
        )
    )
