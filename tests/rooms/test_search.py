"""Spaces: exact sizes, indices, layouts that divide, descriptions as data, and what is said when nothing is left."""

from __future__ import annotations

import math
import time

import jax
import numpy as np
import pytest
from ruamel.yaml import YAML

from coopt.cost import estimate
from coopt.ops import count
from coopt.problems import Refused
from coopt.search.describe import space_from
from coopt.search.elasticity import changes, elasticities, enough
from coopt.search.layouts import divisors, layout_space
from coopt.search.nearest import nearest
from coopt.search.price import Score
from coopt.search.programs import inputs, run, stage
from coopt.search.recorded import columns, record, task_of
from coopt.search.recorded import run as replayed
from coopt.search.space import (
    Candidate,
    Space,
    all_digits,
    axis,
    candidate,
    digits,
    flat,
    get,
    index,
    lattice,
    lattice_leaves,
    product,
    put,
    settings,
    size,
)
from coopt.search.sweep import sweep
from coopt.search.terms import Tape
from coopt.spec import load
from coopt.spec.nouns import Hardware, LayerKind, Model, Tier, training
from coopt.spec.settings import FIELDS, setting
from coopt.tree import replace
from coopt.xp import choose, log, maximum, where


def gpt(**changed) -> Model:
    kind = LayerKind(**{"count": 24.0, "heads": 16.0, "kv_heads": 16.0, "head_dim": 64.0, "d_ff": 4096.0, **changed})
    return Model(name="gpt", d_model=1024.0, vocab=51200.0, kinds=(kind,))


def machine(**changed) -> Hardware:
    near = Tier(name="near", size=8.0, bandwidth=300e9, latency=2e-6)
    far = Tier(name="far", size=1e6, bandwidth=25e9, latency=8e-6)
    known = {"peak": (20e12, 156e12, 312e12, 312e12, 0.0, 0.0, 0.0, 0.0), "vector": 78e12, "bandwidth": 2e12,
             "memory": 80e9, "cache": 40e6, "cores": 108.0, "tiers": (near, far), "chips": 16.0}  # fmt: skip
    return Hardware(**{**known, **changed})


def giant() -> Space:
    """10^40: as many choices on each of 40 fields as there are fingers."""
    fields = [f"layout.{f}" for f in ("tp", "cp", "pp", "dp", "fsdp", "ep", "vpp", "micro_batch")]
    fields += [
        f"model.kinds.0.{f}" for f in ("count", "heads", "kv_heads", "head_dim", "d_ff", "window", "bias", "norms")
    ]
    fields += [f"layout.precision.{f}" for f in ("linear", "attention", "head", "activation", "weight", "gradient",
                                                 "state", "gather", "reduce", "wire", "dispatch", "cache")]  # fmt: skip
    fields += [
        f"hardware.{f}" for f in ("bandwidth", "memory", "cache", "cores", "depth", "kernel", "vector", "stream")
    ]
    fields += ["model.d_model", "model.vocab", "workload.phases.0.batch", "workload.tokens"]
    base = Candidate(model=gpt(), workload=training(2048.0, 64.0), hardware=machine())
    return product([axis(f, f, range(1, 11)) for f in fields], base)


def test_a_space_of_ten_to_the_forty_is_counted_and_opened_at_once():
    """D7: an exact size, the first and the last candidate, and a sample, without building anything."""
    began = time.perf_counter()
    space = giant()
    assert size(space) == 10**40
    assert candidate(space, 0).layout.tp == 1.0
    last = candidate(space, 10**40 - 1)
    assert (last.layout.tp, last.workload.train.batch, last.workload.tokens) == (10.0, 10.0, 10.0)
    place = 1234567890 * 10**30 + 987
    assert index(space, digits(space, place)) == place
    assert "".join(str(d) for d in digits(space, place)) == f"{place:040d}"
    sample = flat(space, all_digits(space, [0, place, 10**40 - 1]))
    assert sample.layout.tp.tolist() == [1.0, 2.0, 10.0]
    assert time.perf_counter() - began < 5.0
    with pytest.raises(Refused, match="refine|fix some axes"):
        sweep(space)
    with pytest.raises(IndexError):
        candidate(space, 10**40)


def test_lattice_and_flat_name_the_same_candidates(rng):
    space = product(
        [axis("a", ("layout.tp", "layout.pp"), [(1, 8), (2, 4), (4, 2)]), axis("b", "model.d_model", [512, 1024]),
         axis("c", "layout.zero", [0, 1, 2, 3])], Candidate())  # fmt: skip
    leaves = lattice(space)
    assert leaves.layout.tp.shape == (3, 1, 1) and leaves.model.d_model.shape == (1, 2, 1)
    assert leaves.layout.dp == 1.0
    every = flat(space, all_digits(space, np.arange(size(space))))
    for lattice_leaf, flat_leaf in zip(jax.tree.leaves(leaves), jax.tree.leaves(every), strict=True):
        whole = np.broadcast_to(lattice_leaf, (3, 2, 4)).reshape(-1)
        np.testing.assert_array_equal(whole, np.broadcast_to(flat_leaf, (24,)))
    assert settings(space, 13) == {"layout.tp": 2.0, "layout.pp": 4.0, "model.d_model": 1024.0, "layout.zero": 1.0}


def test_axes_that_cannot_be_are_refused_together():
    axes = [axis("a", "layout.tp", [1]), axis("b", "layout.tp", [2]), axis("c", "layout.colour", [1]),
            axis("d", "model.kinds.0.mixer", [1]), axis("e", "layout.pp", [])]  # fmt: skip
    with pytest.raises(Refused) as refused:
        product(axes, Candidate(model=gpt()), removed=[("more stages than layers", 7)])
    text = str(refused.value)
    assert [p.field for p in refused.value.problems] == ["axes.b", "axes.c", "axes.d", "axes.e"]
    assert "layout.colour" in text and "more stages than layers removed 7" in text


@pytest.mark.parametrize("number", [1, 2, 12, 97, 4096, 1536])
def test_divisors(number):
    assert divisors(number) == [d for d in range(1, number + 1) if number % d == 0]


def test_layouts_use_every_chip_and_divide():
    model, work = gpt(), training(2048.0, 64.0)
    space = layout_space(model, work, chips=16)
    (parallel,) = (one for one in space.axes if one.name == "parallel")
    tp, cp, pp, dp, fsdp, ep, sp = parallel.values.T
    assert (tp * cp * pp * dp == 16).all() and (16 % tp == 0).all() and (pp <= 24).all() and (64 % dp == 0).all()
    assert (fsdp == dp).all() and (ep == 1).all() and (sp[tp == 1] == 0).all()
    assert len(np.unique(parallel.values, axis=0)) == len(parallel)
    every = {(t, c, p) for t in divisors(16) for c in divisors(16 // t) for p in divisors(16 // t // c)}
    assert {(t, c, p) for t, c, p in zip(tp, cp, pp, strict=True)} == every  # nothing legal is missing
    assert size(space) == math.prod(len(one) for one in space.axes)


def test_layouts_say_what_they_left_out():
    space = layout_space(gpt(heads=12.0), training(2048.0, 24.0), chips=64)
    said = dict(space.removed)
    assert said["tp does not divide the heads"] > 0 and said["dp divides no batch"] > 0
    with pytest.raises(Refused, match=r"tp x cp x pp x dp = .*tp does not divide the heads removed 2"):
        layout_space(gpt(heads=12.0), training(2048.0, 64.0), chips=16, choices={"tp": [16]})
    with pytest.raises(Refused) as refused:
        layout_space(gpt(), training(2048.0, 64.0), chips=16, choices={"tpp": [1], "recompute": ["some"], "zero": []})
    assert {p.field for p in refused.value.problems} == {"layout.tpp", "layout.recompute", "layout.zero"}


OFFERED = {"dp": (8, 16), "precision": ("bf16", "fp8"), "imbalance": (1, 1.2), "capacity": (0, 1.25)} | dict.fromkeys(
    ("zero", "schedule", "recompute", "order", "transport", "optimizer", "sp", "overlap", "late", "beside", "apart",
     "paired", "dualpipe", "recompute_norm", "recompute_act", "recompute_up", "recompute_mlp", "graphs", "offload",
     "fused_attention", "fused_loss", "traced"), (0, 1)
)  # fmt: skip


@pytest.mark.parametrize("field", FIELDS)
def test_every_field_of_a_layout_can_be_set_and_searched_by_name(field):
    """The list is the noun's own: a field that is added to `Layout` fails here until it has words."""
    offered = OFFERED.get(field, (1, 2))
    cut = {"tp": (2,), "dp": (8,)} if field not in ("tp", "cp", "pp", "dp") else {}
    space = layout_space(gpt(), training(2048.0, 64.0), chips=16, choices={**cut, field: offered})
    path = f"layout.{field}.linear" if field == "precision" else f"layout.{field}"
    found = {value for one in space.axes if path in one.paths for value in one.values[:, one.paths.index(path)]}
    wanted = [setting(field, one) for one in offered]
    assert found == {one.linear if field == "precision" else one for one in wanted}
    told = load.layout({field: offered[-1]}, chips=16)[0]
    assert getattr(told, field) == setting(field, offered[-1])
    with pytest.raises(Refused, match=rf"layout\.{field}: expected"):
        layout_space(gpt(), training(2048.0, 64.0), chips=16, choices={field: ["nothing"]})


def test_an_unknown_field_lists_the_known_ones():
    with pytest.raises(Refused) as refused:
        layout_space(gpt(), training(2048.0, 64.0), chips=16, choices={"zzz": [1]})
    assert all(field in str(refused.value) for field in FIELDS)


def test_several_numbers_of_chips_and_experts():
    kind = LayerKind(feedforward="moe", count=8.0, heads=8.0, kv_heads=8.0, experts=12.0, top_k=2.0, d_expert=512.0)
    model = Model(d_model=512.0, vocab=1000.0, kinds=(kind,))
    space = layout_space(model, training(1024.0, 64.0), chips=[4, 8])
    parallel = next(one for one in space.axes if one.name == "parallel").values
    assert set(parallel[:, :4].prod(axis=1)) == {4.0, 8.0}
    assert set(parallel[:, 5]) == {1.0, 2.0, 4.0}  # ep divides 12 experts and tp * cp * dp


def test_when_nothing_fits_the_nearest_is_named():
    """D7: all infeasible says what removed how many, and what would do."""
    few = {"offload": [0.0], "order": [0], "vpp": [1], "micro_batch": [1, 2], "precision": ["bf16", "fp8"]}
    space = layout_space(gpt(), training(2048.0, 64.0), chips=16, choices=few)
    tiny = machine(memory=1e6)  # which has no fp8
    found = sweep(space, tiny, objectives=("step_time",))
    assert found.feasible == 0 and sum(found.rejected.values()) == found.evaluated == size(space)
    assert found.rejected["memory"] > 0
    assert len(found.top.indices) == len(found.pareto.indices) == 0
    closest = nearest(space, tiny)
    assert closest.values[0, 0] > 1.0 and settings(space, int(closest.indices[0]))["precision"] == "bf16"
    enough = sweep(space, machine(memory=1e6 * closest.values[0, 0] * (1 + 1e-9)), objectives=("step_time",))
    assert enough.feasible >= 1 and int(closest.indices[0]) in enough.pareto.indices


def test_progress_is_told_and_stopping_stops():
    space = layout_space(gpt(), training(2048.0, 64.0), chips=16)
    told = []
    found = sweep(space, machine(), objectives=("step_time",), chunk=1000, progress=lambda *done: told.append(done))
    assert told[-1] == (size(space), size(space)) and len(told) > 3
    assert [done for done, _ in told] == sorted(done for done, _ in told)

    def stop(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sweep(space, machine(), objectives=("step_time",), progress=stop)
    assert found.candidates_per_second > 0


def test_chips_are_an_axis_of_hardware_too():
    """One sweep over several machines: a price that differs."""
    base = Candidate(model=gpt(), workload=training(2048.0, 64.0), hardware=machine())
    small = layout_space(gpt(), training(2048.0, 64.0), chips=16, choices={"offload": [0.0]})
    machines = axis("machine", ("hardware.bandwidth", "hardware.dollars_hour"), [(2e12, 2.0), (3e12, 1.0)])
    space = product((machines, *small.axes), base)
    found = sweep(space, objectives=("dollars_per_token",), keep=1)
    assert settings(space, int(found.top.indices[0]))["hardware.dollars_hour"] == 1.0


def test_terms_are_numpy_small_and_recorded_large():
    """Both halves of the staged expression together are the plain expression."""

    def formula(a, b, c, d):
        grown = where(a > 1.5, a * b, log(maximum(c, 0.5))) ** 2
        return (grown + abs(b - d) / choose(a, (1.0, c + 0.5, 3.0))) * where((a > 0.5) & (d > 2.5), 1.0, 0.25)

    axes = [
        axis(name, f"layout.{name}", np.arange(n)) for name, n in zip("tp cp pp dp".split(), (3, 4, 5, 7), strict=True)
    ]

    def priced(candidate, names):
        layout = candidate.layout
        aside = layout.dp * layout.tp  # a result that nothing larger needs
        unread = layout.dp**3
        return Score(verdict=0.0, objectives=(formula(layout.tp, layout.cp, layout.pp, layout.dp), aside, unread)[:2])

    space = product(axes, Candidate())
    leaves = lattice_leaves(space)
    plain = priced(put(space.base, leaves), ()).objectives
    recorded = record(task_of(space, objectives=("formula", "aside"), expression=priced))
    given = columns(space, recorded, leaves)
    code, *found = replayed(recorded, given)
    assert code == 0.0
    for one, other in zip(found, plain, strict=True):
        np.testing.assert_array_equal(one, other)
    dp = recorded.inputs.index((3, 0))
    assert ("power", dp) not in {(name, operands[0]) for name, operands in recorded.nodes}
    for eager in (-1, 3, 12, 10**6):
        staged = stage(recorded, axes={0: 3, 1: 4, 2: 5, 3: 7}, eager=eager)
        with jax.enable_x64(True):
            constant, made, small = run(staged.programs, *inputs(staged, given))
        np.testing.assert_allclose(np.asarray(made), plain[0], rtol=1e-13)
        np.testing.assert_allclose(np.asarray(small), plain[1])
        assert float(constant) == 0.0
    assert not staged.programs[-1].steps  # everything was small: nothing is left to compile


def test_a_branch_on_a_term_is_refused():
    tape = Tape()
    with pytest.raises(TypeError, match="where"):
        bool(tape.term(1.0) > 0.5)


DESCRIPTION = {
    "kind": "space",
    "name": "small",
    "model": {"vocab": 1000, "tied": 1, "layers": [{"norms": 2}]},
    "workload": {"seq_len": 512, "batch": 8},
    "shape": {
        "layers": {"from": 2, "to": 8, "step": 2},
        "d_model": {"from": 64, "to": 256, "factor": 2},
        "head_dim": [32, 64],
        "heads": {"of": "d_model", "over": "head_dim"},
        "kv_heads": {"of": "heads", "over": [1, 2]},
        "d_ff": {"of": "d_model", "times": ["8/3"], "multiple": 64},
        "gated": [0, 1],
        "batch": [8, 16],
    },
    "limits": [{"name": "aspect", "of": "d_model", "over": "layers", "least": 16, "most": 64}],
    "layout": {"micro_batch": [1, 2], "recompute": "none", "fused_attention": "auto"},
}


def test_a_description_becomes_the_tuples_that_a_loop_finds():
    space = space_from(DESCRIPTION)
    shape = next(one for one in space.axes if one.name.startswith("layers"))
    found = {tuple(row) for row in shape.values}
    expected = {
        (layers, d, e, d // e, d // e // kv, math.ceil(d * 8 / 3 / 64) * 64)
        for layers in (2, 4, 6, 8) for d in (64, 128, 256) for e in (32, 64) for kv in (1, 2)
        if (d // e) % kv == 0 and 16 <= d / layers <= 64
    }  # fmt: skip
    assert found == expected and len(found) == len(shape)
    assert dict(space.removed)["limit aspect"] > 0
    names = {one.name: len(one) for one in space.axes}
    assert (names["gated"], names["batch"], names["micro_batch"], names["recompute"]) == (2, 2, 2, 1)
    one = candidate(space, size(space) - 1)
    assert one.model.vocab == 1000.0 and one.model.kinds[0].d_ff % 64 == 0


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"colour": 1}, "colour"),
        ({"shape": {"wide": [1]}}, "shape.wide"),
        ({"shape": {"heads": {"of": "d_model", "over": 64}, "d_model": [64]}}, "defined above"),
        ({"shape": {"layers": ["four"]}}, "a number"),
        ({"shape": {"layers": {"from": 4}}}, "from, to"),
        ({"shape": {"layers": {"from": 4, "to": 8, "step": 0}}}, "a step above 0"),
        ({"shape": {"layers": {"from": 4, "to": 2}}, "limits": []}, "ends before it begins"),
        ({"limits": [{"of": "depth", "most": 3}]}, "variables of shape"),
        ({"limits": [{"name": "aspect", "of": "d_model", "over": "layers", "least": 1e6}]}, "limit aspect removed"),
        ({"layout": {"tpp": [1]}}, "layout.tpp"),
        ({"model": {"width": 3}}, "model.width"),
        ({"model": {"layers": [{"hats": 3}]}}, "model.layers.0.hats"),
    ],
)
def test_a_wrong_description_is_refused_with_a_sentence(change, said):
    with pytest.raises(Refused, match=said):
        space_from({**DESCRIPTION, **change}, file="space.yaml")


def test_the_shipped_space_is_a_million_candidates_and_every_shape_in_it_is_whole(repository):
    text = (repository / "models" / "spaces" / "gpt-small.yaml").read_text()
    description = YAML(typ="safe", pure=True).load(text)
    one, eight = space_from(description, chips=1), space_from(description, chips=8)
    assert size(one) + size(eight) >= 1_000_000
    columns = dict(zip(one.axes[0].paths, one.axes[0].values.T, strict=True))
    d_model, layers = columns["model.d_model"], columns["model.kinds.0.count"]
    heads, kv_heads = columns["model.kinds.0.heads"], columns["model.kinds.0.kv_heads"]
    assert (heads * columns["model.kinds.0.head_dim"] == d_model).all() and (heads % kv_heads == 0).all()
    assert (layers >= 4).all() and (layers <= 24).all() and (d_model / layers >= 16).all()
    found = sweep(one, machine(chips=1.0), objectives=("time_per_token",))
    assert found.feasible > 1000 and found.evaluated == size(one)


def layouts_to_differentiate():
    """A dense model over two tiers, and a mixture with a pipeline and experts apart."""
    yield gpt(), replace(Candidate().layout, tp=4.0, pp=2.0, dp=2.0, zero=3.0, fsdp=2.0)
    experts = gpt(feedforward="moe", experts=8.0, top_k=2.0, d_expert=1024.0)
    yield experts, replace(Candidate().layout, pp=2.0, dp=8.0, ep=8.0, vpp=2.0, recompute=2.0)


def test_experts_may_be_an_axis_and_their_law_still_speaks(repository):
    """The shipped mixtures: experts, top-k and widths tied as the law's; ep offers what divides some number of them."""
    text = (repository / "models" / "spaces" / "moe-small.yaml").read_text()
    space = space_from(YAML(typ="safe", pure=True).load(text), chips=16)
    columns = {path: one.values[:, field] for one in space.axes for field, path in enumerate(one.paths)}
    assert set(columns["layout.ep"]) == {1.0, 2.0, 4.0, 8.0, 16.0}
    top_k, experts = columns["model.kinds.0.top_k"], columns["model.kinds.0.experts"]
    assert (experts == 64 * top_k).all() and set(top_k) == {1.0, 2.0, 4.0, 8.0, 16.0}
    assert (columns["model.kinds.0.d_expert"] * top_k == 4 * columns["model.d_model"]).all()
    found = sweep(space, machine(), law=load.law("moe-krajewski"), objectives=("time_per_token", "loss"),
                  limits={"loss": 3.2}, keep=1)  # fmt: skip
    assert found.feasible > 1000 and found.unknown == () and found.top.values[0, 1] <= 3.2
    best = settings(space, int(found.top.indices[0]))
    assert best["model.kinds.0.experts"] >= 64


def test_a_tp_that_divides_no_offered_number_of_heads_is_left_out():
    heads = axis("heads", "model.kinds.0.heads", [6, 8])
    space = layout_space(gpt(), training(2048.0, 64.0), chips=16, axes=[heads])
    parallel = next(one for one in space.axes if one.name == "parallel").values
    assert set(parallel[:, 0]) == {1.0, 2.0, 4.0, 8.0}  # 16 divides neither
    assert dict(space.removed)["tp does not divide the heads"] > 0


@pytest.mark.parametrize("which", [0, 1], ids=["dense", "mixture"])
def test_elasticities_are_finite_differences(which):
    """Exact by reading the tape backwards and equal to central differences; all rates less all times add to -1."""
    model, layout = list(layouts_to_differentiate())[which]
    ops, hardware = count(model, layout, training(2048.0, 64.0)), machine(hide_tensor=0.2)
    for objective in ("step_time", "memory"):
        exact = elasticities(ops, hardware, objective=objective)
        up, down = (changes(ops, hardware, by=by, objective=objective) for by in (1e-5, -1e-5))
        difference = jax.tree.map(lambda a, b: (a - b) / 2e-5, up, down)
        kink = "tiers.0.size"  # a group fills it exactly: a little less and it spills over
        exact, difference = (put(one, {kink: 0.0}) for one in (exact, difference))
        np.testing.assert_allclose(jax.tree.leaves(exact), jax.tree.leaves(difference), atol=2e-5)
    exact = elasticities(ops, hardware)
    assert exact.peak[2] < 0 and exact.peak[0] == 0.0 and exact.dollars_hour == 0.0
    rates = exact.bandwidth + sum(exact.peak) + sum(tier.bandwidth for tier in exact.tiers)
    times = exact.kernel + exact.dispatch + sum(tier.latency for tier in exact.tiers)
    assert rates - times == pytest.approx(-1.0, abs=1e-9)


def test_enough_of_a_rate_is_where_the_rest_is_worth_little():
    """At the factor found the step is within five percent of that of an unlimited rate; a little below it is not."""
    model, layout = next(layouts_to_differentiate())
    ops, hardware = count(model, layout, training(2048.0, 64.0)), machine()
    paths = ["peak.2", "bandwidth", "tiers.0.bandwidth", "peak.0"]

    def step(path, factor):
        return float(estimate(ops, put(hardware, {path: get(hardware, path) * factor})).step_time)

    found = enough(ops, hardware, paths, within=0.05)
    for path, (factor, gain) in zip(paths[:3], found[:3], strict=True):
        least = step(path, 1e8)
        assert gain == pytest.approx(1 - least / step(path, 1.0), rel=1e-6)
        assert step(path, factor) == pytest.approx(1.05 * least, rel=1e-5)
    assert all(gain > 0.0 for _, gain in found[:3])
    assert found[3] == (0.0, 0.0)  # a type that the recipe does not use


def test_changes_need_no_derivative():
    work = training(2048.0, 64.0)
    layout = replace(Candidate().layout, tp=4.0, dp=4.0)
    ops = count(gpt(), layout, work)
    told = changes(ops, machine(), by=0.1)
    assert -0.1 < told.peak[2] < 0 and told.bandwidth < 0 < told.tiers[0].latency
    assert told.dollars_hour == 0.0
