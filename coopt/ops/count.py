"""`count`: a model, a layout and a workload become the operations of one training step."""

from __future__ import annotations

import jax

from coopt.ops import ends, parallel
from coopt.ops.attention import attention
from coopt.ops.cut import Cut, cut
from coopt.ops.feedforward import feedforward, remade, routed_tokens
from coopt.ops.memory import memory
from coopt.ops.optimizer import optimizer
from coopt.ops.rows import Rows, elementwise, matmul, never
from coopt.ops.shapes import check_kinds, layers, model_flops, value_dim
from coopt.ops.weights import Weights, chip_weights, stages
from coopt.problems import Problem, Refused
from coopt.spec.nouns import TYPE_BYTES, VERDICTS, LayerKind, Layout, Leaf, Model, Ops, Phase, Row, Workload
from coopt.tree import replace
from coopt.xp import always, choose, floor, logical_or, maximum, where


def count(model: Model, layout: Layout, workload: Workload) -> Ops:
    """What one step must do on the busiest chip, row by row, with memory by part and a verdict on the arithmetic.

    Pure and elementwise in every leaf: `model`, `layout` and `workload` may hold scalars, flat batches or lattice
    axes, NumPy or JAX. Raises `Refused` for kinds of layer or work that are not priced.

    >>> from coopt.spec.nouns import LayerKind, Layout, Model, training
    >>> gpt = Model(d_model=1024., vocab=50304., kinds=(LayerKind(count=24., heads=16., kv_heads=16.,
    ...             head_dim=64., d_ff=4096., gated=0.),))
    >>> ops = count(gpt, Layout(dp=8., micro_batch=4.), training(1024., 256.))
    >>> float(ops.micro_batches), f"{float(ops.model_flops):.3e}"
    (8.0, '5.956e+14')
    """
    check_kinds(model)
    # whole numbers become floats before the first product: an int32 product wraps in silence
    model, layout, workload = jax.tree.map(lambda leaf: leaf * 1.0, (model, layout, workload))
    phase = _training_phase(workload)
    sizes = cut(model, layout, phase)
    split = stages(model, layout)
    weights = chip_weights(model, layout, sizes, split)
    # zero splits over fsdp chips of dp; context parallel chips hold copies of weights too and share the work
    shards = maximum(where(layout.fsdp > 1.5, layout.fsdp, 1.0) * layout.cp, 1.0)
    # where a pipeline runs both ways, two stages are held, and each of them by two chips of a replica
    both = 1.0 + layout.dualpipe
    shards = where(layout.zero < 0.5, 1.0, shards * both)
    expert_shards = where(layout.zero < 0.5, 1.0, sizes.expert_data * both)
    if not always(both, 1.0):
        held = {field: getattr(weights, field) * both for field in ("stage_dense", "stage_expert", "layers")}
        weights = replace(weights, **held)
    rows = _layers(model, layout, sizes)
    rows += _accumulation(layout, sizes, weights) + _offload(model, layout, sizes)
    rows += ends.embedding(model, layout, sizes) + ends.head(model, layout, sizes)
    rows += _further(model, layout, sizes)
    rows += parallel.pipeline(model, layout, sizes)
    rows += parallel.data(layout, sizes, weights, experts=_has_experts(model))
    rows += optimizer(model, layout, sizes, split, weights, shards, expert_shards)
    return Ops(
        rows=rows,
        memory=memory(model, layout, sizes, split, weights, shards=shards, expert_shards=expert_shards),
        chips=layout.tp * layout.cp * layout.pp * layout.dp,
        tokens=phase.batch * phase.seq_len,
        model_flops=model_flops(model, sizes.reach) * phase.batch * phase.seq_len,
        stages=layout.pp,
        chunks=layout.vpp,
        micro_batches=sizes.micro_batches,
        schedule=layout.schedule,
        dualpipe=layout.dualpipe,
        layers=layers(model),
        layers_first=split.first,
        layers_middle=split.middle,
        layers_last=split.last,
        type=layout.precision.linear,
        overlap=parallel.beside(layout, sizes),
        paired=layout.paired,
        late=layout.late,
        scan=layout.traced,
        eager=1.0 - layout.graphs,
        synchronised=_synchronised(model, layout),
        verdict=verdict(model, layout, phase),
    )


def _training_phase(workload: Workload) -> Phase:
    """The one training phase; other kinds of work are refused by name until they are priced."""
    problems = [
        Problem(field="workload", expected="train", got=phase.kind, hint="other phases are not priced yet")
        for phase in workload.phases
        if phase.kind != "train"
    ]
    if problems or len(workload.phases) != 1:
        raise Refused(*(problems or [Problem(field="workload", expected="one training phase")]))
    return workload.phases[0]


def _synchronised(model: Model, layout: Layout) -> Leaf:
    """Share of layers with experts that take as many tokens as come: the host must read how many before it goes on."""
    routed = sum(kind.count for kind in model.kinds if kind.feedforward == "moe")
    return where(layout.capacity > 0.0, 0.0, routed / layers(model)) if _has_experts(model) else 0.0


def _has_experts(model: Model) -> bool:
    return any(kind.feedforward == "moe" for kind in model.kinds)


def _layers(model: Model, layout: Layout, sizes: Cut) -> Rows:
    """Rows of all layer kinds, each weighted by its share of the layers."""
    total = layers(model)
    rows: Rows = ()
    for position, kind in enumerate(model.kinds):
        own = _layer(f"{position}." if len(model.kinds) > 1 else "", model, kind, layout, sizes)
        if len(model.kinds) > 1:
            own = tuple(replace(row, count=row.count * (kind.count / total)) for row in own)
        rows += own
    return rows


def _layer(prefix: str, model: Model, kind: LayerKind, layout: Layout, sizes: Cut) -> Rows:
    """Rows of one layer of one kind, and what its parallel parts send."""
    split_experts = where(layout.ep > 1.5, 1.0, 0.0) if kind.feedforward == "moe" else 0.0
    rows = attention(f"{prefix}attn.", model, kind, layout, sizes)
    rows += parallel.tensor(f"{prefix}attn.", model, layout, sizes, count=1.0)
    rows += parallel.context(f"{prefix}attn.", kind, layout, sizes)
    rows += feedforward(f"{prefix}mlp.", model, kind, layout, sizes)
    rows += parallel.tensor(f"{prefix}mlp.", model, layout, remade(layout, sizes), count=1.0 - split_experts)
    rows += _quantise(f"{prefix}", model, kind, layout, sizes)
    if kind.feedforward == "moe":
        rows += parallel.expert(f"{prefix}mlp.", model, kind, layout, remade(layout, sizes))
    return rows


def _further(model: Model, layout: Layout, sizes: Cut) -> Rows:
    """Rows of the layers that predict tokens beyond the next: a projection of 2 d, a layer and the head once more."""
    if not model.mtp:
        return ()
    d, between = model.d_model, sizes.tokens / sizes.split
    linear = layout.precision.linear
    rows = matmul("mtp.projection", sizes, layout, scope="last", m=between, n=d, k=2.0 * d, type=linear)
    rows += tuple(replace(row, scope="last") for row in _layer("mtp.", model, model.kinds[-1], layout, sizes))
    rows += tuple(replace(row, name=f"mtp.{row.name}") for row in ends.head(model, layout, sizes))
    return tuple(replace(row, count=row.count * float(model.mtp)) for row in rows)


def _quantise(name: str, model: Model, kind: LayerKind, layout: Layout, sizes: Cut) -> Rows:
    """Casting to eight or four bits, with a scale: every operand is read in 16 bits and written along both axes.

    Norms write their output cast; the output of attention and of the activation, routed tokens, and the gradients that
    reach each matmul from behind are read and written once more, since products backward reduce along the other axis.
    """
    tokens, tp, d = sizes.tokens, layout.tp, model.d_model
    width, copies = kind.d_ff / tp, 0.0
    if kind.feedforward == "moe":
        routed = routed_tokens(kind, layout, sizes) / tokens
        width, copies = kind.d_expert * routed / sizes.expert_tensor, routed
        width = width + kind.shared * kind.d_shared / tp
    heads = kind.heads * value_dim(kind) / tp
    inputs = heads + width + copies * d
    between = d / sizes.split
    outputs = (kind.heads + 2.0 * kind.kv_heads) * kind.head_dim / tp + between + (1.0 + kind.gated) * width
    outputs = outputs + copies * d + (between if kind.feedforward == "dense" else 0.0)
    out = 2.0 * choose(layout.precision.linear, TYPE_BYTES)
    return elementwise(
        f"{name}quantise",
        sizes,
        kind="cast",
        read=layout.precision.activation * tokens * inputs,
        written=out * tokens * inputs,
        back_read=layout.precision.activation * tokens * outputs,
        back_written=out * tokens * outputs,
        count=layout.precision.quantise,
        launches=3.0,
        back_launches=4.0,
    )


def _accumulation(layout: Layout, sizes: Cut, weights: Weights) -> Rows:
    """Adding a layer's gradients to those of earlier micro-batches where products do not: a kernel for each matrix."""
    if never(layout.apart, 1.0):
        return ()
    each = weights.layer_dense + weights.layer_expert
    new, kept = layout.precision.activation * each, layout.precision.gradient * each
    again = layout.apart * (1.0 - 1.0 / sizes.micro_batches)  # nothing was left before the first
    return (
        Row(
            name="accumulate", kind="gather", phase="backward", count=again, launches=4.0, read=new + kept, written=kept
        ),
    )


def _offload(model: Model, layout: Layout, sizes: Cut) -> tuple[Row, ...]:
    """Moving kept activations to the host and back: the layer's input under full recompute, about 17 of it else."""
    boundary = layout.precision.activation * sizes.tokens / sizes.split * model.d_model
    moved = layout.offload * boundary * where(sizes.full > 0.5, 1.0, 17.0)
    return tuple(
        Row(
            name=f"offload.{part}",
            kind="host",
            phase=phase,
            group="host",
            count=where(moved > 0.0, 1.0, 0.0),
            payload=moved,
        )
        for part, phase in (("out", "forward"), ("in", "backward"))
    )


def verdict(model: Model, layout: Layout, phase: Phase) -> Leaf:
    """The first thing that does not divide, as a code into VERDICTS; 0 where all of it does."""

    def odd(whole: Leaf, part: Leaf) -> Leaf:
        """True where `part` does not divide `whole`."""
        return whole / part - floor(whole / part + 1e-4) > 1e-4

    tp, cp, pp, dp = layout.tp, layout.cp, layout.pp, layout.dp
    micro_batches = phase.batch / (dp * layout.micro_batch)
    experts = [kind.experts for kind in model.kinds if kind.feedforward == "moe"]
    checks = [
        ("heads", [odd(kind.heads, tp) for kind in model.kinds]),
        ("batch", [odd(phase.batch, dp * layout.micro_batch)]),
        ("layers", [pp * layout.vpp > layers(model) + 0.5]),
        ("sequence", [odd(phase.seq_len, cp * where(layout.sp > 0.5, tp, 1.0))]),
        ("fsdp", [odd(dp, maximum(layout.fsdp, 1.0))]),
        ("experts", [odd(e, layout.ep) for e in experts] + [odd(tp * cp * dp, layout.ep)] if experts else []),
        ("schedule", [_interleaving_fails(pp, layout.vpp, micro_batches), *_meeting_fails(layout, micro_batches)]),
    ]
    code: Leaf = 0.0
    for name, fails in reversed(checks):
        for fail in fails:
            code = where(fail, float(VERDICTS.index(name)), code)
    return code


def _meeting_fails(layout: Layout, micro_batches: Leaf) -> tuple[Leaf, ...]:
    """A bidirectional pipeline needs an even number of stages, each whole, and of micro-batches, two a stage at least.

    Source: github.com/deepseek-ai/DualPipe.
    """
    if never(layout.dualpipe, 1.0):
        return ()
    uneven = [half - floor(half + 1e-4) > 1e-4 for half in (layout.pp / 2.0, micro_batches / 2.0)]
    fails = (*uneven, layout.vpp > 1.5, micro_batches < 2.0 * layout.pp - 0.5)
    return tuple(where(layout.dualpipe > 0.5, one, False) for one in fails)


def _interleaving_fails(pp: Leaf, vpp: Leaf, micro_batches: Leaf) -> Leaf:
    """Interleaving needs a pipeline, and whole rounds of pp micro-batches."""
    rounds = micro_batches / pp
    ragged = rounds - floor(rounds + 1e-4) > 1e-4
    return where(vpp > 1.5, logical_or(pp < 1.5, ragged), False)
