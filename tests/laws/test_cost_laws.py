"""Laws of the cost expression, over thousands of random machines, models and layouts (plan E1, E2, E6, E10, D8).

Each law is tried on a batch of cases at once: the expression is elementwise. A violation prints one whole case.
"""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction

import hypothesis
import jax
import numpy as np
import pytest

from coopt.cost import estimate
from coopt.ops import count
from coopt.ops.shapes import matmul_weights, model_flops, parameters
from coopt.spec.nouns import TYPES, VERDICTS, Cost, Hardware, LayerKind, Layout, Model, Tier, training
from coopt.tree import replace
from tests.laws import strategies
from tests.laws.strategies import SHAPES, Case, Draw, cases, told

ROUNDING = 1e-9
QUICK = 400  # cases a shape and law; nightly has 10,000


def price(case: Case) -> Cost:
    """One evaluation of the cost expression."""
    return estimate(count(case.model, case.layout, case.workload), case.hardware)


def wide(values, case: Case) -> np.ndarray:
    """A leaf of natural shape as one number a case."""
    return np.broadcast_to(np.asarray(values, float), (case.size,))


def holds(case: Case, right, *figures: tuple[str, object]) -> None:
    """Fails with the simplest case that breaks the law, and the figures that show it."""
    right = np.broadcast_to(np.asarray(right), (case.size,))
    if right.all():
        return
    wrong = np.flatnonzero(~right)
    first = min(
        wrong, key=lambda i: float(case.layout.tp[i] * case.layout.pp[i] * case.layout.cp[i] * case.layout.dp[i])
    )
    said = "; ".join(f"{name} {wide(value, case)[first]:.12g}" for name, value in figures)
    raise AssertionError(
        f"{len(wrong)} of {case.size} cases break the law, such as: {said}\n{told(case.at(int(first)))}"
    )


# --- E1: more of anything good, or less of anything bad, is never slower ----------------------------------------------

Change = Callable[[Hardware, np.ndarray], Hardware]


def _field(name: str) -> Change:
    return lambda machine, factor: replace(machine, **{name: getattr(machine, name) * factor})


def _share(name: str) -> Change:
    """A share comes nearer to one."""
    return lambda machine, factor: replace(machine, **{name: 1.0 - (1.0 - getattr(machine, name)) / factor})


def _less(name: str) -> Change:
    return lambda machine, factor: replace(machine, **{name: getattr(machine, name) / factor})


def _tier(position: int, name: str, change: Callable) -> Change:
    def changed(machine: Hardware, factor: np.ndarray) -> Hardware:
        tiers = list(machine.tiers)
        tiers[position] = replace(tiers[position], **{name: change(getattr(tiers[position], name), factor)})
        return replace(machine, tiers=tuple(tiers))

    return changed


def _peaks(machine: Hardware, factor: np.ndarray) -> Hardware:
    return replace(machine, peak=tuple(peak * factor for peak in machine.peak))


def _matmul(machine: Hardware, factor: np.ndarray) -> Hardware:
    return replace(machine, matmul=tuple(1.0 - (1.0 - share) / factor for share in machine.matmul))


def _backward(machine: Hardware, factor: np.ndarray) -> Hardware:
    return replace(machine, backward=tuple(rate * factor for rate in machine.backward))


BETTER: dict[str, Change] = {
    "FLOP/s": _peaks,
    "memory bandwidth": _field("bandwidth"),
    "memory": _field("memory"),
    "host bandwidth": _field("host_bandwidth"),
    "matmul share": _matmul,
    "attention share": _share("attention"),
    "attention share backward": _share("attention_backward"),
    "memory share": _share("stream"),
    "matmul depth": _less("depth"),
    "batches of products": _field("batched"),
    "products backward": _backward,
    "attention depth": _less("attention_depth"),
    "launch": _less("kernel"),
    "dispatch": _less("dispatch"),
    "fused passes": _less("passes"),
    "hiding of activations": _share("hide_tensor"),
    "hiding of gradients": _share("hide_data"),
    "cores taken": _less("stolen"),
    "overhead": _less("overhead"),
    "jitter": _less("jitter"),
    "inner bandwidth": _tier(0, "bandwidth", lambda value, factor: value * factor),
    "outer bandwidth": _tier(1, "bandwidth", lambda value, factor: value * factor),
    "inner efficiency": _tier(0, "efficiency", lambda value, factor: 1.0 - (1.0 - value) / factor),
    "outer latency": _tier(1, "latency", lambda value, factor: value / factor),
    "inner latency": _tier(0, "latency", lambda value, factor: value / factor),
    "saturation": _tier(1, "saturation", lambda value, factor: value / factor),
    "oversubscription": _tier(1, "oversubscription", lambda value, factor: np.maximum(value / factor, 1.0)),
    "trees": _tier(1, "ring", lambda value, factor: np.zeros_like(factor)),
    "reduction in switches": _tier(0, "reduction", lambda value, factor: np.ones_like(factor)),
}


def never_slower(seed: int, n: int, shape: str, name: str) -> None:
    drawn = cases(np.random.default_rng(seed), n, shape)
    factor = np.random.default_rng(seed + 1).choice([1.001, 1.5, 4.0, 100.0], n)
    better = Case(drawn.model, drawn.layout, drawn.workload, BETTER[name](drawn.hardware, factor))
    before, after = price(drawn), price(better)
    slow, fast = wide(before.step_time, drawn), wide(after.step_time, drawn)
    holds(drawn, fast <= slow * (1 + ROUNDING), ("before", slow), (f"with better {name} by", factor), ("after", fast))
    was, now = wide(before.verdict, drawn), wide(after.verdict, drawn)
    holds(drawn, (was > 0.5) | (now < 0.5), ("verdict", was), ("after", now))


@pytest.mark.parametrize("name", BETTER)
def test_a_better_machine_is_never_slower(name, request):
    """E1: more bandwidth, FLOP/s, memory or links, or less latency: never slower, and nothing stops fitting."""
    seed = request.config.getoption("--seed")
    shape = SHAPES[list(BETTER).index(name) % len(SHAPES)]
    never_slower(seed, QUICK, shape, name)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("type", ["fp32", "bf16"])
def test_slow_products_backward_slow_products_of_their_type_alone(type, shape, request):
    """A fourth of the rate backward, of one type: its products there take four times as long, and no row else moves."""
    case = cases(np.random.default_rng(request.config.getoption("--seed")), QUICK, shape)
    code = TYPES.index(type)
    rates = tuple(0.25 if position == code else 1.0 for position in range(len(TYPES)))
    ops = count(case.model, case.layout, case.workload)
    before = estimate(ops, case.hardware).once
    after = estimate(ops, replace(case.hardware, backward=rates)).once
    moved = 0
    for row, was, now in zip(ops.rows, before, after, strict=False):
        own = (row.kind == "matmul" and row.phase == "backward") & (wide(row.type, case) == code)
        launch = wide(row.launches * case.hardware.kernel, case)
        longer = np.where(own, 4.0 * (wide(was, case) - launch) + launch, wide(was, case))
        holds(case, np.isclose(wide(now, case), longer, rtol=ROUNDING), (f"{row.name} before", was), ("after", now))
        moved += np.count_nonzero(own)
    assert moved > 0


@pytest.mark.nightly
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", BETTER)
def test_a_better_machine_is_never_slower_at_length(name, shape, request):
    """E1, 10,000 pairs a property and kind of model."""
    never_slower(request.config.getoption("--seed") + 7, 10_000, shape, name)


@pytest.mark.parametrize(("shape", "faster"), [("llama", 1.0), ("moe", 8.0)])
def test_a_larger_domain_is_never_slower(shape, faster, request):
    """E1: more chips inside the faster tier, whose links are faster and whose steps are shorter.

    Three exceptions, listed. A collective starts anew in every tier that it crosses, so that a message of a few
    kilobytes loses by a second tier more than its bytes gain: here the inner tier starts at no cost. What went over the
    outer link moves to one that is in use already: here nothing hides beside anything. An all-to-all sends over both
    links at a time, tokens once a unit, and over one link, once a chip, where one domain holds all: with links that are
    as fast inside as outside that is up to 43% slower. Here they are eight times as fast (NVLink, InfiniBand: 9 to 18).
    """
    drawn = cases(np.random.default_rng(request.config.getoption("--seed")), QUICK, shape)
    drawn = replace_case(
        drawn,
        hardware=replace(drawn.hardware, hide_data=0.0, hide_tensor=0.0),
        layout=replace(drawn.layout, overlap=0.0, beside=0.0),
    )
    inner, outer = drawn.hardware.tiers
    # a switched domain: what a torus gives a group depends on the axes it spans, which a larger torus spreads thinner;
    # its switches add up as well, or an all-reduce would lose what those of the outer tier save
    inner = replace(inner, axes=0.0, oversubscription=1.0, efficiency=1.0, latency=0.0, saturation=0.0, reduction=1.0)
    inner = replace(inner, bandwidth=np.maximum(inner.bandwidth, faster * outer.bandwidth))
    small = replace_case(drawn, hardware=replace(drawn.hardware, tiers=(inner, outer)))
    before = price(small).step_time
    for factor in (2.0, 8.0, 64.0):
        larger = replace(drawn.hardware, tiers=(replace(inner, size=inner.size * factor), outer))
        after = price(replace_case(drawn, hardware=larger)).step_time
        holds(small, after <= before * (1 + ROUNDING), ("before", before), ("after", after), ("factor", factor))


# --- E1: more work is never less -------------------------------------------------------------------------------------


def _longer(case: Case) -> Case:
    phase = case.workload.train
    return replace_case(case, workload=training(2.0 * phase.seq_len, phase.batch))


def _more(case: Case) -> Case:
    phase = case.workload.train
    step = case.layout.dp * case.layout.micro_batch * case.layout.pp
    return replace_case(case, workload=training(phase.seq_len, phase.batch + step))


def _deeper(case: Case) -> Case:
    kinds = tuple(replace(kind, count=kind.count + 1.0) for kind in case.model.kinds)
    return replace_case(case, model=replace(case.model, kinds=kinds))


def _wider(case: Case) -> Case:
    kinds = tuple(replace(kind, d_ff=2.0 * kind.d_ff, d_expert=2.0 * kind.d_expert) for kind in case.model.kinds)
    return replace_case(case, model=replace(case.model, kinds=kinds))


def _headed(case: Case) -> Case:
    kinds = tuple(replace(kind, heads=2.0 * kind.heads) for kind in case.model.kinds)
    return replace_case(case, model=replace(case.model, kinds=kinds))


def _vocab(case: Case) -> Case:
    return replace_case(case, model=replace(case.model, vocab=2.0 * case.model.vocab))


def _broader(case: Case) -> Case:
    return replace_case(case, model=replace(case.model, d_model=2.0 * case.model.d_model))


def replace_case(case: Case, **changes) -> Case:
    return Case(
        **{name: changes.get(name, getattr(case, name)) for name in ("model", "layout", "workload", "hardware")}
    )


MORE = {
    "sequence": _longer,
    "batch": _more,
    "layers": _deeper,
    "feed-forward": _wider,
    "heads": _headed,
    "vocabulary": _vocab,
    "width": _broader,
}


@pytest.mark.parametrize("name", MORE)
@pytest.mark.parametrize("shape", ["gpt", "moe", "mixed"])
def test_more_work_is_never_faster_nor_smaller(name, shape, request):
    """E1: more layers, batch, sequence, width: never faster, and never fewer bytes of memory."""
    drawn = cases(np.random.default_rng(request.config.getoption("--seed") + 2), QUICK, shape)
    before, after = price(drawn), price(MORE[name](drawn))
    holds(
        drawn, after.step_time >= before.step_time * (1 - ROUNDING), ("s", before.step_time), ("then", after.step_time)
    )
    holds(drawn, after.memory >= before.memory * (1 - ROUNDING), ("B", before.memory), ("then", after.memory))


@pytest.mark.parametrize("changed, values", [("recompute", (0.0, 1.0, 2.0)), ("zero", (0.0, 1.0, 2.0, 3.0))])
def test_saving_memory_saves_memory(changed, values, request):
    """Each further stage of recompute keeps fewer activations, each of zero fewer weights; recompute costs time."""
    drawn = cases(np.random.default_rng(request.config.getoption("--seed") + 3), QUICK, "gpt")
    layout = replace(drawn.layout, fsdp=drawn.layout.dp, offload=0.0)
    costs = [price(replace_case(drawn, layout=replace(layout, **{changed: value}))) for value in values]
    part = {"recompute": ("activations",), "zero": ("parameters", "gradients", "optimizer")}[changed]
    bytes_of = [sum(getattr(cost.parts, name) for name in part) for cost in costs]
    for less, more in zip(bytes_of[1:], bytes_of, strict=False):
        if changed == "recompute":  # the one layer that is being recomputed is whole: it needs two layers to save
            continue
        holds(drawn, less <= more * (1 + ROUNDING), ("bytes", more), ("then", less))
    if changed == "recompute":
        for slow, fast in zip(costs[1:], costs, strict=False):
            holds(
                drawn,
                slow.step_time >= fast.step_time * (1 - ROUNDING),
                ("s", fast.step_time),
                ("then", slow.step_time),
            )


# --- E2: nothing is faster than light ------------------------------------------------------------------------------


def bounds(case: Case) -> dict[str, np.ndarray]:
    """Seconds that no machine of these peaks can beat, from the shapes alone and in float64; nothing of coopt's.

    FLOPs of the weights each token meets, of the head and of causal attention, forward and twice backward, at the
    peaks of their types; optimizer state in and out once; links at their full rate, each traffic by itself.
    """
    model, cut, phase, chip = case.model, case.layout, case.workload.train, case.hardware

    def peak(code):
        return np.choose(np.asarray(code, int), [np.broadcast_to(p, (case.size,)) for p in chip.peak])

    chips = cut.tp * cut.cp * cut.pp * cut.dp
    tokens, d = phase.batch * phase.seq_len, model.d_model
    linear = attention = dense = expert = routed = 0.0
    layers = sum(kind.count for kind in model.kinds)
    for kind in model.kinds:
        latent, chosen = kind.mixer.endswith("mla"), kind.mixer.startswith("sparse")
        qk = kind.head_dim + (kind.rope_dim if latent else 0.0)
        v = kind.v_dim if latent else kind.head_dim
        scored, valued = (kind.kv_rank + kind.rope_dim, kind.kv_rank) if kind.mixer == "sparse-mla" else (qk, v)
        if latent:
            out = kind.heads * qk
            query = np.where(kind.q_rank > 0, kind.q_rank * (d + out), d * out)
            mixer = query + d * (kind.kv_rank + kind.rope_dim) + kind.kv_rank * kind.heads * (kind.head_dim + v)
            mixer = mixer + kind.heads * v * d
        else:
            mixer = d * kind.head_dim * 2.0 * (kind.heads + kind.kv_heads)
        keys = (phase.seq_len + 1.0) / 2.0
        if kind.mixer in ("linear", "delta"):
            v = np.where(kind.v_dim > 0, kind.v_dim, kind.head_dim)
            mixer = d * (2.0 * kind.kv_heads * qk + 3.0 * kind.heads * v + 2.0 * kind.heads)
            scored, valued = (kind.kv_heads / kind.heads * qk if kind.mixer == "linear" else 3.0 * qk), v
            keys = np.minimum(128.0 if kind.mixer == "linear" else 64.0, phase.seq_len) / 2.0
            attention = attention + kind.count * 12.0 * kind.heads * qk * v
        if kind.mixer == "window" or chosen:
            seen = np.minimum(np.broadcast_to(kind.window, (case.size,)), phase.seq_len)
            keys = (seen * (seen + 1) / 2 + (phase.seq_len - seen) * seen) / phase.seq_len
        # the expression takes s/2 keys where a causal mask has (s+1)/2: the smaller bounds both
        keys = np.minimum(keys, keys * phase.seq_len / (phase.seq_len + 1.0))
        attention = attention + kind.count * 6.0 * keys * kind.heads * (scored + valued)
        if chosen:
            source = np.where(kind.q_rank > 0, kind.q_rank, d) if latent else d
            # what feeds the indexer gets no gradient: two products of its weights and not three
            index = source * kind.index_heads * kind.index_dim + d * (kind.index_heads + kind.index_dim)
            mixer = mixer + index * 2.0 / 3.0
            attention = attention + kind.count * phase.seq_len * kind.index_heads * kind.index_dim
        one = (2.0 + kind.gated) * d
        if kind.feedforward == "moe":
            linear = linear + kind.count * (mixer + one * (kind.top_k * kind.d_expert + kind.shared * kind.d_shared))
            dense = dense + kind.count * (mixer + one * kind.shared * kind.d_shared + d * kind.experts)
            expert = expert + kind.count * kind.experts * one * kind.d_expert
            # deduplicated, at least a quarter of the one copy that crosses; gathered, a copy to all others
            copies = np.choose(np.asarray(cut.transport, int), [kind.top_k, 0.25, np.broadcast_to(1.0, case.size)])
            routed = routed + kind.count * copies
        else:
            linear = linear + kind.count * (mixer + one * kind.d_ff)
            dense = dense + kind.count * (mixer + one * kind.d_ff)
    recipe, a_chip = cut.precision, tokens / chips
    compute = a_chip * (
        6.0 * linear / peak(recipe.linear)
        + attention / peak(recipe.attention)
        + 6.0 * model.vocab * d / peak(recipe.head)
    )
    ways = cut.tp * cut.pp
    copies = cut.dp * cut.cp
    shared = np.where(cut.zero < 0.5, 1.0, copies)
    state = 2.0 * recipe.state * (dense + expert / copies * shared / np.maximum(cut.ep, 1.0)) / ways / shared
    link = np.max([np.broadcast_to(tier.bandwidth, (case.size,)) for tier in chip.tiers], axis=0)
    passes = tokens / (cut.cp * cut.dp)  # tokens through one pipeline
    wires = {
        "tensor links": passes * d * recipe.wire * (layers / cut.pp) * 2.0 * (cut.tp - 1.0) / cut.tp,
        "data links": recipe.reduce * dense / ways * (copies - 1.0) / copies,
        "pipeline links": passes * d * recipe.wire / cut.tp * np.where(cut.pp > 1.5, 1.0, 0.0),
        "expert links": passes / cut.tp * d * recipe.dispatch * routed / cut.pp * (cut.ep - 1.0) / cut.ep,
    }
    return {"FLOPs": compute, "bytes": state / chip.bandwidth, **{name: sent / link for name, sent in wires.items()}}


@pytest.mark.parametrize("shape", SHAPES)
def test_nothing_is_faster_than_light(shape, request):
    """E2: never below FLOPs over peak, bytes that cannot be cached over bandwidth, or wire bytes over the links."""
    drawn = cases(np.random.default_rng(request.config.getoption("--seed") + 4), 2 * QUICK, shape)
    time = price(drawn).step_time
    for name, least in bounds(drawn).items():
        holds(drawn, time >= least * (1 - 1e-9), ("predicted", time), (f"bound by {name}", least))


def test_the_bound_is_worth_something(request):
    """The bound is no formality: perfect machines come within a factor of two of it, somewhere."""
    drawn = cases(np.random.default_rng(5), QUICK, "llama")
    cut = replace(
        drawn.layout, pp=np.ones(drawn.size), vpp=np.ones(drawn.size), recompute=0.0, precision=Layout().precision
    )
    perfect = replace(
        drawn.hardware,
        matmul=(1.0,) * 8, attention=1.0, attention_backward=1.0, stream=1.0, depth=0.0, attention_depth=0.0,
        kernel=0.0, dispatch=0.0, passes=1.0, overhead=0.0, jitter=0.0, cores=1.0, tile_m=1.0, tile_n=1.0, tile_k=1.0,
        tiers=tuple(replace(tier, bandwidth=1e30, latency=0.0, saturation=0.0) for tier in drawn.hardware.tiers),
        bandwidth=1e20, host_bandwidth=1e30,
    )  # fmt: skip
    layers = replace(drawn.model, kinds=(replace(drawn.model.kinds[0]),))
    sharp = Case(layers, replace(cut, fused_attention=1.0, offload=0.0), drawn.workload, perfect)
    ratio = wide(price(sharp).step_time, sharp) / bounds(sharp)["FLOPs"]
    assert ratio.min() == pytest.approx(1.0, abs=1e-3)
    assert np.median(ratio) < 1.2


def test_utilisation_is_a_share(request):
    """E2 once more: MFU lies between 0 and 1 where the recipe's products all have the linear type."""
    drawn = cases(np.random.default_rng(6), QUICK, "llama")
    cut = replace(drawn.layout, precision=Layout().precision)
    share = price(replace_case(drawn, layout=cut)).mfu
    holds(drawn, (share > 0) & (share <= 1), ("mfu", share))


# --- E10: the rows are the step -------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", SHAPES)
def test_rows_add_to_the_step(shape, request):
    """E10: exposed times add to the step time within 1e-9; no row is negative; none shows more than it lasts."""
    drawn = cases(np.random.default_rng(request.config.getoption("--seed") + 8), QUICK, shape)
    cost = price(drawn)
    total = sum(wide(time, drawn) for time in cost.time)
    holds(drawn, np.abs(total / cost.step_time - 1.0) <= 1e-9, ("rows", total), ("step", cost.step_time))
    for name, time, busy in zip(cost.names, cost.time, cost.busy, strict=True):
        holds(drawn, np.asarray(time) >= 0.0, (name, time))
        holds(drawn, np.asarray(time) <= np.asarray(busy) * (1 + ROUNDING) + 1e-30, (name, time), ("busy", busy))


@pytest.mark.parametrize("shape", SHAPES)
def test_nothing_is_ever_not_a_number(shape, request):
    """D8: finite times, memory and verdicts wherever the chip has the type."""
    drawn = cases(np.random.default_rng(request.config.getoption("--seed") + 9), QUICK, shape)
    cost = price(drawn)
    for name in ("step_time", "tokens_per_second_per_chip", "mfu", "memory", "slack", "verdict", "goodput"):
        holds(drawn, np.isfinite(getattr(cost, name)), (name, getattr(cost, name)))
    holds(drawn, np.asarray(cost.step_time) > 0, ("step", cost.step_time))
    holds(drawn, np.isin(cost.verdict, range(len(VERDICTS))), ("verdict", cost.verdict))


def test_a_missing_type_is_a_verdict_and_no_number_is_lost():
    """A chip without FP8 refuses an FP8 recipe by verdict; times stay finite, so that a batch has no holes."""
    drawn = cases(np.random.default_rng(10), 50, "llama")
    chip = replace(drawn.hardware, peak=(1e14, 1e14, 1e14, 1e14, 0.0, 0.0, 0.0, 0.0))
    cost = price(replace_case(drawn, hardware=chip))
    needs = drawn.layout.precision.linear > 3.5
    assert needs.any()
    assert np.all(np.isfinite(wide(cost.step_time, drawn)))
    others = [VERDICTS.index(name) for name in ("fits", "memory", "offload")]
    assert not np.isin(wide(cost.verdict, drawn)[needs], others).any()


# --- E6: symmetry ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("collective", ["all_reduce", "all_gather", "reduce_scatter"])
def test_two_by_eight_is_eight_by_two(collective, rng):
    """E6: on tiers of equal links, splitting a group (2, 8) or (8, 2) takes the same time; 500 pairs."""
    from coopt.cost.collectives import collective_time
    from coopt.spec.nouns import Row

    draw = Draw(rng, 500)
    same = {
        "bandwidth": draw.across(1e9, 1e12),
        "latency": draw.across(1e-7, 1e-5),
        "saturation": draw.across(1e3, 1e8),
    }
    same |= {"efficiency": draw.between(0.2, 1.0)}
    row = Row(kind="collective", collective=collective, payload=draw.across(1e3, 1e10), size=16.0)
    times = []
    for inside in (2.0, 8.0):
        tiers = (Tier(size=inside, **same), Tier(size=float("inf"), **same))
        times.append(collective_time(Hardware(tiers=tiers), row))
    np.testing.assert_allclose(times[0], times[1], rtol=1e-9)


@pytest.mark.parametrize("shape", ["llama", "moe"])
def test_order_of_axes_is_no_matter_on_one_tier(shape, request):
    """E6: where all chips are equally near, which axis is innermost changes nothing."""
    drawn = cases(np.random.default_rng(request.config.getoption("--seed") + 11), QUICK, shape, tiers=1)
    times = [
        price(replace_case(drawn, layout=replace(drawn.layout, order=np.full(drawn.size, order)))).step_time
        for order in (0.0, 1.0, 2.0)
    ]
    for other in times[1:]:
        holds(drawn, np.abs(other / times[0] - 1.0) < 1e-9, ("order 0", times[0]), ("other", other))


def test_a_kind_in_two_lines_is_the_same_model(request):
    """E6: twelve layers of one kind equal five and seven of it, on one stage and on many."""
    drawn = cases(np.random.default_rng(request.config.getoption("--seed") + 12), QUICK, "llama")
    (kind,) = drawn.model.kinds
    share = np.floor(kind.count * 0.4)
    split = replace(drawn.model, kinds=(replace(kind, count=share), replace(kind, count=kind.count - share)))
    once, twice = price(drawn), price(replace_case(drawn, model=split))
    for name in ("step_time", "memory", "mfu"):
        a, b = getattr(once, name), getattr(twice, name)
        holds(drawn, np.abs(a / b - 1.0) < 1e-9, (name, a), ("in two lines", b))


def test_units_are_no_matter(request):
    """E6: a second half as long doubles every rate and time alike: the step has half as many of... the same seconds."""
    drawn = cases(np.random.default_rng(request.config.getoption("--seed") + 13), QUICK, "mixed")
    h, k = drawn.hardware, 1e3
    tiers = tuple(replace(t, bandwidth=t.bandwidth / k, latency=t.latency * k) for t in h.tiers)
    slow = replace(
        h, peak=tuple(p / k for p in h.peak), bandwidth=h.bandwidth / k, host_bandwidth=h.host_bandwidth / k,
        kernel=h.kernel * k, dispatch=h.dispatch * k, tiers=tiers,
    )  # fmt: skip
    seconds, milliseconds = price(drawn).step_time, price(replace_case(drawn, hardware=slow)).step_time
    holds(drawn, np.abs(milliseconds / seconds / k - 1.0) < 1e-9, ("s", seconds), ("ms", milliseconds))


# --- D8: counts are exact --------------------------------------------------------------------------------------------


def exact(kind: dict[str, int], shape: str) -> tuple[int, int, Fraction]:
    """Parameters, active matmul weights and FLOPs a token in whole numbers, as Python has them."""
    k, d, v, s = kind, kind["d_model"], kind["vocab"], kind["seq_len"]
    mixer = d * k["head_dim"] * 2 * (k["heads"] + k["kv_heads"])
    up = 2 + k["gated"]
    if shape == "moe":
        active = k["top_k"] * up * d * k["d_expert"] + k["shared"] * up * d * k["d_shared"] + d * k["experts"]
        held = k["experts"] * up * d * k["d_expert"] + k["shared"] * up * d * k["d_shared"] + d * k["experts"]
    else:
        active = held = up * d * k["d_ff"]
    norms = 2 * d
    total = v * d * (1 if k["tied"] else 2) + d + k["layers"] * (mixer + held + norms)
    weights = v * d + k["layers"] * (mixer + active)
    attention = Fraction(k["layers"] * 6 * s * k["heads"] * 2 * k["head_dim"], 2)
    return total, weights, 6 * weights + attention


@pytest.mark.parametrize("shape", ["dense", "moe"])
def test_counts_equal_exact_arithmetic(shape, rng):
    """D8: 10,000 models of up to 1e14 parameters and 1e30 FLOPs a step against whole numbers: within 1e-12."""
    n = 10_000

    def whole(low, high):
        return [int(x) for x in np.exp(rng.uniform(np.log(low), np.log(high + 1), n))]

    columns = {
        "layers": whole(1, 1000), "d_model": whole(64, 100_000), "heads": whole(1, 1024), "kv_heads": whole(1, 64),
        "head_dim": whole(16, 512), "d_ff": whole(64, 400_000), "gated": [int(x) for x in rng.integers(0, 2, n)],
        "vocab": whole(256, 2_000_000), "tied": [int(x) for x in rng.integers(0, 2, n)],
        "seq_len": whole(128, 4_000_000),
        "experts": whole(8, 4096), "top_k": whole(1, 8), "d_expert": whole(64, 32_768), "shared": whole(1, 4),
        "d_shared": whole(64, 32_768),
    }  # fmt: skip
    leaf = {name: np.asarray(values, float) for name, values in columns.items()}
    feedforward = {"feedforward": "moe"} if shape == "moe" else {}
    names = ("heads", "kv_heads", "head_dim", "d_ff", "gated", "experts", "top_k", "d_expert", "shared", "d_shared")
    kind = LayerKind(count=leaf["layers"], **{name: leaf[name] for name in names}, **feedforward)
    model = Model(d_model=leaf["d_model"], vocab=leaf["vocab"], tied=leaf["tied"], kinds=(kind,))
    said = parameters(model), matmul_weights(model), model_flops(model, leaf["seq_len"])
    rows = [exact({name: values[i] for name, values in columns.items()}, shape) for i in range(n)]
    assert max(row[0] for row in rows) > 1e12
    for position in range(3):
        truth = np.array([float(row[position]) for row in rows])
        np.testing.assert_allclose(said[position], truth, rtol=1e-12)


def test_whole_numbers_do_not_wrap(x32):
    """D8: sizes given as whole numbers, in float32 as on an accelerator, are floats before the first product."""
    kind = LayerKind(count=126, heads=128, kv_heads=8, head_dim=128, d_ff=53248, gated=1)
    model = Model(d_model=16384, vocab=262144, kinds=(kind,))
    flops = jax.jit(lambda m, cut, work: count(m, cut, work).model_flops)(model, Layout(), training(8192, 2048))
    floats = jax.tree.map(float, model)
    assert float(flops) == pytest.approx(float(count(floats, Layout(), training(8192.0, 2048.0)).model_flops), rel=1e-5)


# --- other laws -----------------------------------------------------------------------------------------------------


def test_more_chips_never_fail_less(rng):
    """More chips never raise the mean time between interruptions, and goodput falls with them; 1,000 pairs."""
    from coopt.cost.machine import goodput

    draw = Draw(rng, 1000)
    chip = Hardware(
        failure_rate=draw.across(1e-10, 1e-6), restart=draw.across(1.0, 1e4), checkpoint=draw.across(0.1, 1e3)
    )
    few, many = draw.whole(1, 10_000), draw.whole(10_001, 1_000_000)
    assert np.all(goodput(chip, many) < goodput(chip, few))
    assert np.all((goodput(chip, few) > 0) & (goodput(chip, few) <= 1))
    assert np.all(goodput(replace(chip, restart=chip.restart * 2), few) < goodput(chip, few))


def test_spares_cost_dollars_and_save_goodput(rng):
    """A larger blast radius never helps, more spares never hurt and are paid for; units in repair stay a share."""
    from coopt.cost.machine import dollars, goodput, idle

    draw, n = Draw(rng, 1000), 1000
    chip = Hardware(
        failure_rate=draw.across(1e-10, 1e-6), restart=draw.across(1.0, 1e4), checkpoint=draw.across(0.1, 1e3),
        repair=draw.across(1e3, 1e6), blast=draw.among(1.0, 8.0, 72.0), spares=draw.among(0.0, 0.001, 0.02, 0.2),
        dollars_hour=2.0,
    )  # fmt: skip
    chips = draw.whole(1, 100000)
    more = replace(chip, spares=chip.spares + draw.across(1e-4, 0.5))
    assert np.all(goodput(more, chips) >= goodput(chip, chips) * (1 - ROUNDING))
    assert np.all(dollars(more, chips=chips, step_time=1.0) > dollars(chip, chips=chips, step_time=1.0))
    assert np.all(goodput(replace(chip, blast=chip.blast * 2), chips) <= goodput(chip, chips) * (1 + ROUNDING))
    assert np.all((idle(chip, chips) >= 0.0) & (idle(chip, chips) <= 1.0))
    alone = replace(chip, spares=np.zeros(n), blast=np.ones(n))
    assert np.allclose(idle(alone, chips), np.minimum(alone.failure_rate * alone.repair, 1.0))


def test_spares_are_bounded_by_what_poisson_lacks():
    """Against the sum over Poisson's probabilities: never less is idle than in truth, and nearly it without spares."""
    from coopt.cost.machine import idle

    for down, units, spare in ((0.3, 10, 0), (0.3, 10, 1), (3.4, 100, 2), (3.4, 100, 5), (40.0, 2000, 60)):
        many = np.arange(0, 400)
        odds = np.exp(many * np.log(down) - down - np.cumsum(np.log(np.maximum(many, 1))))
        truth = float(np.sum(odds * np.maximum(many - spare, 0))) / units
        rack = Hardware(failure_rate=down / (72.0 * units), repair=1.0, blast=72.0, spares=spare / units)
        told = float(idle(rack, 72.0 * units))
        assert truth <= told * (1 + ROUNDING) and told - truth < 1.0 / units


@hypothesis.settings(
    max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(hypothesis.HealthCheck)
)
@hypothesis.given(strategies.one())
def test_one_case_at_a_time(case):
    """E1, E2, E10 on scalars, where a failing case shrinks: rows add up, a faster machine is not slower."""
    cost = price(case)
    assert sum(cost.time) == pytest.approx(cost.step_time, rel=1e-9)
    fast = replace(
        case.hardware, peak=tuple(2.0 * p for p in case.hardware.peak), bandwidth=2.0 * case.hardware.bandwidth
    )
    assert price(replace_case(case, hardware=fast)).step_time <= cost.step_time * (1 + ROUNDING)
    batch = Case(*jax.tree.map(lambda leaf: np.full(1, leaf), (case.model, case.layout, case.workload, case.hardware)))
    for name, least in bounds(batch).items():
        assert cost.step_time >= least[0] * (1 - 1e-9) if np.ndim(least) else True, name
