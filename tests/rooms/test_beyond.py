"""Spaces too large to price: bounds that hold, proofs that agree with brute force, certificates that cannot be bent."""

from __future__ import annotations

import copy
import dataclasses
import importlib.util
import json
import math
import time
from pathlib import Path

import numpy as np
import pytest

from coopt.problems import Refused
from coopt.search import bound, intervals
from coopt.search.beyond import beyond
from coopt.search.certificate import certificate, described, rebuilt, same_expression, write
from coopt.search.layouts import layout_space
from coopt.search.price import price
from coopt.search.recorded import Recorded, digest, flat_objectives, record, run, task_of
from coopt.search.refine import refine
from coopt.search.shared import price as priced
from coopt.search.shared import share
from coopt.search.space import Candidate, Space, all_digits, axis, digits, flat, product, size
from coopt.search.sweep import sweep
from coopt.spec.nouns import Hardware, Law, LayerKind, Model, Tier, training
from coopt.tree import replace

LAW = Law(name="law", E=1.7, A=406.4, alpha=0.34, B=410.7, beta=0.28, parameters=(1e6, 1e12), tokens=(1e9, 1e14),
          aspect=(16.0, 256.0), critical=(1e-1, 0.6))  # fmt: skip
WIDE = {"layers": range(8, 65), "d_ff": range(2048, 10241, 256), "batch": [64, 96, 128, 192, 256, 384, 512],
        "tokens": [1e10 * 1.1**n for n in range(30)]}  # fmt: skip


def model() -> Model:
    kind = LayerKind(count=24.0, heads=16.0, kv_heads=16.0, head_dim=128.0, d_ff=8192.0)
    return Model(name="m", d_model=2048.0, vocab=51200.0, kinds=(kind,))


def machine(**changed) -> Hardware:
    near = Tier(name="near", size=8.0, bandwidth=300e9, latency=2e-6)
    far = Tier(name="far", size=1e6, bandwidth=25e9, latency=8e-6)
    known = {"peak": (20e12, 156e12, 312e12, 312e12, 0.0, 0.0, 0.0, 0.0), "vector": 78e12, "bandwidth": 2e12,
             "memory": 80e9, "cores": 108.0, "tiers": (near, far), "chips": 64.0, "dollars_hour": 2.0,
             "host_bandwidth": 32e9, "host_memory": 256e9}  # fmt: skip
    return Hardware(**{**known, **changed})


def space(**shape) -> Space:
    """Layouts on 64 chips, and as much of the shapes of WIDE as is asked for."""
    paths = {"layers": "model.kinds.0.count", "d_ff": "model.kinds.0.d_ff", "batch": "workload.phases.0.batch",
             "tokens": "workload.tokens"}  # fmt: skip
    axes = [axis(name, paths[name], list(values)) for name, values in shape.items()]
    few = {"vpp": (1, 2, 4), "micro_batch": (1, 2, 4, 8), "offload": (0.0, 0.5), "order": (0, 1), "cp": (1, 2)}
    return layout_space(model(), training(2048.0, 128.0, 1e11), chips=64, choices=few, axes=axes)


def small() -> Space:
    return space(d_ff=[6144, 8192])


def tiny() -> Space:
    few = {"vpp": (1, 2), "micro_batch": (1, 4), "offload": (0.0,), "order": (0,), "cp": (1,)}
    return layout_space(model(), training(2048.0, 128.0, 1e11), chips=64, choices=few)


def task(space: Space, *names: str, hardware=None, limits=None, **told):
    return task_of(space, hardware or machine(), objectives=names or ("step_time",), limits=limits, law=told.get("law"),
                   expression=told.get("expression", price))  # fmt: skip


SCRIPT = Path(__file__).parents[2] / "scripts" / "check_certificate.py"


@pytest.fixture(scope="module")
def checker():
    said = importlib.util.spec_from_file_location("check_certificate", SCRIPT)
    assert said is not None and said.loader is not None
    found = importlib.util.module_from_spec(said)
    said.loader.exec_module(found)
    return found


@pytest.fixture(scope="module")
def proof():
    return bound.search(task(small()), np.zeros((1, len(small().axes)), dtype=int))


@pytest.fixture(scope="module")
def document(proof):
    return certificate(proof)


def test_the_program_is_the_expression(rng):
    """Bit for bit, on candidates drawn from a space of shapes, layouts and tokens under a law."""
    one = task(space(**WIDE), "run_dollars", "loss", law=LAW)
    program = record(one)
    sizes = [len(axis) for axis in one.space.axes]
    drawn = (rng.random((500, len(sizes))) * sizes).astype(int)
    with np.errstate(all="ignore"):
        expected = one.expression(flat(one.space, drawn), one.names)
    for form in (program, program.merged()):
        for mine, theirs in zip(priced(share(form), one.space, drawn), (expected.verdict, *expected.objectives),
                                strict=True):  # fmt: skip
            np.testing.assert_array_equal(*np.broadcast_arrays(mine, theirs))
    assert program.document() == record(one).document()


def boxes_of(made: bound.Boxed, rng: np.random.Generator, many: int) -> np.ndarray:
    """Random boxes of all sizes, and their nodes."""
    nodes = np.zeros((many, len(made.ranges)), dtype=np.int32)
    for _ in range(120):
        column = int(rng.integers(len(made.ranges)))
        lower = made.ranges[column].halves(nodes[:, column])
        go = (lower >= 0) & (rng.random(many) < 0.7)
        nodes[go, column] = (lower + rng.integers(0, 2, many))[go]
    return nodes


def test_no_candidate_is_below_the_bound_of_its_box(rng):
    """Both forms, limits and reasons: 200 random boxes, 40 random candidates each."""
    limits = {"loss": 2.5}
    one = task(space(**WIDE), "run_dollars", law=LAW, limits=limits)
    middle = [len(axis) // 2 for axis in one.space.axes]
    made = bound.boxed(one, middle)
    nodes = boxes_of(made, rng, 200)
    found, _ = bound.least(made, nodes)
    assert np.isfinite(found).any() and np.isinf(found).any()
    for _ in range(40):
        places = np.stack([r.low[n] + (rng.random(len(n)) * (r.high[n] - r.low[n])).astype(int)
                           for r, n in zip(made.ranges, nodes.T, strict=True)], axis=1)  # fmt: skip
        drawn = np.stack([r.order[p] for r, p in zip(made.ranges, places.T, strict=True)], axis=1)
        assert (bound.price(made, drawn) >= found * (1 - 1e-12)).all()


def test_bounds_in_both_forms_close_on_a_single_candidate(rng):
    made = bound.boxed(task(small()), (0,) * len(small().axes))
    nodes = np.zeros((64, len(made.ranges)), dtype=np.int32)
    for column, one in enumerate(made.ranges):
        while ((lower := one.halves(nodes[:, column])) >= 0).any():
            nodes[:, column] = np.where(lower >= 0, lower + rng.integers(0, 2, 64), nodes[:, column])
    places = [one.order[one.low[n]] for one, n in zip(made.ranges, nodes.T, strict=True)]
    found, _ = bound.least(made, nodes)
    values = bound.price(made, np.stack(places, axis=1))
    np.testing.assert_allclose(found, values, rtol=1e-12)


def test_interval_rules_hold_at_zero_infinity_and_nan(checker):
    """Every rule on intervals of every sign and kind, against points inside: the search's and the checker's."""
    ends = [-math.inf, -3.0, -1e-300, 0.0, 0.5, 2.0, math.inf]
    pairs = [(a, b) for i, a in enumerate(ends) for b in ends[i:]]
    points = lambda pair: [p for p in (*ends, -1.0, 1.0, 1e-3) if pair[0] <= p <= pair[1]]  # noqa: E731
    with np.errstate(all="ignore"):
        for name in ("add", "subtract", "multiply", "divide", "minimum", "maximum", "less", "not_equal"):
            for x in pairs:
                for y in pairs:
                    given = [tuple(np.array([end]) for end in pair) for pair in (x, y)]
                    rule = intervals._rule(name, given, unsure=False, truth=False)
                    low, high = rule(*given)
                    theirs, _ = checker.rule(name, [x, y], False)
                    least, most = theirs(*(np.array(one) for one in given))
                    for p in points(x):
                        for q in points(y):
                            value = getattr(np, name)(np.float64(p), np.float64(q))
                            assert value != value or (low[0] <= value <= high[0]), (name, x, y, p, q)
                            assert value != value or (least[0] <= value <= most[0]), (name, x, y, p, q)


def test_the_optimum_is_that_of_brute_force(proof):
    asked = task(small())
    values = flat_objectives(asked, record(asked), all_digits(small(), np.arange(size(small()))))[:, 0]
    assert proof.gap == 0.0 and proof.value == values.min()
    assert values.min() >= proof.least and proof.bounded + proof.priced < size(small())


def test_limits_are_kept_and_what_they_remove_is_counted():
    limits = {"loss": 2.9, "memory_share": 0.8}
    wide = space(layers=range(16, 49, 8), tokens=[1e10, 1e11, 3e11])
    one = task(wide, "run_dollars", law=LAW, limits=limits)
    found = bound.search(one, np.zeros((1, len(wide.axes)), dtype=int))
    swept = sweep(wide, machine(), law=LAW, objectives=("run_dollars",), limits=limits, pareto=False, keep=1)
    assert found.gap == 0.0 and found.value == pytest.approx(swept.top.values[0, 0], rel=1e-12)
    counted = bound.removed(found)
    assert counted and "loss above limit" in counted
    assert bound.closed(found) <= sum(swept.rejected.values()) and counted.keys() <= {*swept.rejected, "several"}


def test_the_same_seed_gives_the_same_boxes_and_a_budget_leaves_a_gap():
    wide = task(space(**WIDE), "run_dollars", law=LAW, limits={"loss": 2.8})
    start = np.zeros((1, len(wide.space.axes)), dtype=int)
    one, other = (bound.search(wide, start, boxes=1500, seed=7) for _ in range(2))
    assert (one.value, one.least, one.bounded) == (other.value, other.least, other.bounded)
    np.testing.assert_array_equal(one.tree.least[: one.tree.many], other.tree.least[: other.tree.many])
    assert 0.0 < one.gap and one.tree.many < 3000
    assert bound.search(wide, start, seconds=0.0).tree.many == 1


def test_a_certificate_is_checked_by_what_knows_nothing_of_us(proof, document, checker, tmp_path):
    told = checker.check(document)
    assert told.startswith(f"proved; of {size(small()):,} candidates none has a step_time below")
    write(tmp_path / "c.json.gz", document)
    write(tmp_path / "c.json", document)
    assert checker.main([tmp_path / "c.json.gz", str(tmp_path / "c.json")]) == 0
    assert json.loads((tmp_path / "c.json").read_text()) == document
    assert (tmp_path / "c.json").read_text().count("NaN") == 0
    source = SCRIPT.read_text()
    assert len(source.splitlines()) <= 300 and "coopt." not in source.replace("coopt check", "") and "jax" not in source
    assert same_expression(document, price) == []


def test_a_gap_that_is_left_is_stated_and_checked(checker):
    wide = task(space(**WIDE), "run_dollars", law=LAW, limits={"loss": 2.8})
    found = refine(wide.space, machine(), law=LAW, objectives=("run_dollars",), limits={"loss": 2.8}, generations=10,
                   gradients=False)  # fmt: skip
    start = [digits(wide.space, int(found.top.indices[0]))]
    proof = bound.search(wide, np.array(start), boxes=1000)
    told = checker.check(certificate(proof))
    assert told.startswith(f"not proved: a gap of {100 * proof.gap:.3g}%")


def signed(document: dict) -> dict:
    """The document with digests of what it now says."""
    return {**document, "digest": digest({**document, "digest": ""})}


def lower_value(document, rng):
    document["best"]["value"] *= 1.0 - 10.0 ** rng.uniform(-8, -1)


def raise_bound(document, rng):
    document["bound"] = document["best"]["value"] * (1.0 + 10.0 ** rng.uniform(-8, 0))


def other_best(document, rng):
    lengths = [len(one["values"]) for one in document["space"]["axes"]]
    axis = int(rng.choice([a for a, n in enumerate(lengths) if n > 1]))
    document["best"]["choices"][axis] += int(rng.choice([-1, 1])) * lengths[axis]


def enlarge(document, rng):
    least = [i for i, one in enumerate(document["boxes"]) if one[0] == "least"]
    document["boxes"][int(rng.choice(least))][1] *= 10.0 ** rng.uniform(1.5, 6)


def drop(document, rng):
    del document["boxes"][int(rng.integers(len(document["boxes"])))]


def repeat(document, rng):
    place = int(rng.integers(len(document["boxes"])))
    document["boxes"].insert(place, document["boxes"][place])


def nothing_runs(document, rng):
    """The box with the best candidate, said to hold none that runs: the whole space, or all below a random split."""
    stack = [(0, [0] * len(document["space"]["axes"]), [len(one["values"]) for one in document["space"]["axes"]])]
    best, boxes, path, at = document["best"]["choices"], document["boxes"], [], 0
    _, low, high = stack[0]
    while not isinstance(boxes[at][0], str):
        path.append(at)
        axis, cut = boxes[at]
        at = at + 1 if best[axis] < cut else _end(boxes, at + 1)
    path.append(at)
    place = int(rng.choice(path))
    document["boxes"][place : _end(boxes, place)] = [["none", "memory"]]


def _end(boxes, at):
    """The place behind the tree that begins at one."""
    open_ = 1
    while open_:
        open_ += -1 if isinstance(boxes[at][0], str) else 1
        at += 1
    return at


def move_cut(document, rng):
    splits = [i for i, one in enumerate(document["boxes"]) if not isinstance(one[0], str)]
    one = document["boxes"][int(rng.choice(splits))]
    one[1] = int(rng.choice([0, -1, 10**6]))


def add_choice(document, rng):
    """A choice more, which the size counts and no box covers."""
    one = document["space"]["axes"][int(rng.integers(len(document["space"]["axes"])))]
    one["values"].append(list(one["values"][-1]))


def swap(document, rng):
    """Another operation somewhere that the best candidate's value passes through."""
    said = document["program"]
    columns = [one["values"] for one in document["space"]["axes"]]
    leaves = [columns[a][document["best"]["choices"][a]][f] for a, f in said["inputs"]]
    for place in rng.permutation(len(said["nodes"])):
        node = said["nodes"][place]
        other = {"add": "subtract", "multiply": "add", "divide": "multiply", "maximum": "minimum"}.get(node[0])
        if other is not None:
            before, node[0] = node[0], other
            value = run(_program(said), leaves)[1]
            if not abs(value - document["best"]["value"]) < 1e-6 * value:
                return
            node[0] = before


def _program(said) -> Recorded:
    constants = tuple(one if isinstance(one, bool) else float(one) for one in said["constants"])
    nodes = tuple((name, tuple(operands)) for name, *operands in said["nodes"])
    return Recorded(inputs=tuple(map(tuple, said["inputs"])), numbers=constants, nodes=nodes,
                    results=tuple(said["results"]))  # fmt: skip


def change_number(document, rng):
    """A constant that the best candidate's value depends on."""
    last = max(i for i, node in enumerate(document["program"]["nodes"]) if node[0] == "add")
    document["program"]["nodes"].insert(last + 1, ["multiply", *[last + document_first(document)] * 2])
    for node in document["program"]["nodes"][last + 2 :]:
        node[1:] = [one + (one > last + document_first(document)) for one in node[1:]]
    document["program"]["results"] = [document["program"]["results"][0], last + 1 + document_first(document)]
    document["powers"].insert(last + 1 + document_first(document), [])


def document_first(document):
    return len(document["program"]["inputs"]) + len(document["program"]["constants"])


def unknown(document, rng):
    document[str(rng.choice(["format", "space", "program", "boxes", "powers", "best"]))] = None


def infinite_power(document, rng):
    """Powers that are not the inputs' own would be another function."""
    document["powers"][int(rng.integers(len(document["program"]["inputs"])))] = [[0, 3.0], [1, 1.0]]


BENT = (lower_value, raise_bound, other_best, enlarge, drop, repeat, nothing_runs, move_cut, add_choice, swap,
        change_number, unknown, infinite_power)  # fmt: skip


@pytest.mark.parametrize("bend", BENT, ids=lambda one: one.__name__)
def test_bent_certificates_with_right_digests_are_rejected(bend, document, checker):
    """Two of each kind by default; `test_a_thousand_tampered_copies` has the rest."""
    for seed in range(2):
        _rejected(bend, document, checker, seed)


def _rejected(bend, document, checker, seed):
    bent = copy.deepcopy(document)
    bend(bent, np.random.default_rng(seed))
    try:
        bent = signed(bent)
    except (TypeError, KeyError):
        bent["digest"] = ""
    with pytest.raises(Exception):  # noqa: B017, PT011  whatever is wrong, it is not a proof
        checker.check(bent)


def test_any_change_without_a_new_digest_is_rejected(document, checker, tmp_path, rng):
    text = json.dumps(document, separators=(",", ":"))
    for number in range(100):
        place = int(rng.integers(len(text)))
        other = text[:place] + str(rng.choice(list("0123456789[],.-"))) + text[place + 1 :]
        other = other[: int(rng.integers(len(text)))] if number % 4 == 0 else other
        if other == text:
            continue
        (tmp_path / "bent.json").write_text(other)
        assert checker.main([str(tmp_path / "bent.json")]) == 1


@pytest.mark.nightly
@pytest.mark.timeout(3600)
def test_a_thousand_tampered_copies(document, checker):
    for seed in range(2, 80):
        for bend in BENT:
            _rejected(bend, document, checker, seed)


def test_another_expression_is_told_by_its_digest(document):
    bent = copy.deepcopy(document)
    bent["space"]["base"]["hardware"]["bandwidth"] *= 1.001
    assert same_expression(bent, price)[0].field == "program"


def test_trees_survive_json():
    base = Candidate(model=model(), workload=training(2048.0, 64.0), hardware=machine(), law=LAW)
    again = rebuilt(Candidate, json.loads(json.dumps(described(base), allow_nan=False)))
    assert again.model.kinds[0].mixer == "full" and again.hardware.tiers[1].name == "far"
    assert described(again) == described(base) and math.isinf(again.law.vocabulary[1])


def test_ten_to_the_fifteen_has_a_first_answer_at_once_and_a_front():
    """D7: more than 10^15 candidates: exact size, a front from refinement, a bound with its honest gap."""
    wide = space(**WIDE, **{})
    many = product((axis("stream", "hardware.stream", np.linspace(0.5, 0.9, 41)),
                    axis("hide", "hardware.hide_tensor", np.linspace(0.0, 0.9, 91)),
                    axis("kernel", "hardware.kernel", np.linspace(1e-6, 9e-6, 81)),
                    *wide.axes), replace(wide.base, hardware=machine()))  # fmt: skip
    assert size(many) > 10**15
    began = time.perf_counter()
    first = refine(many, law=LAW, objectives=("run_dollars", "loss"), generations=0, seconds=0.0, gradients=False)
    assert first.feasible and time.perf_counter() - began < 60
    found, proof = beyond(many, law=LAW, objectives=("run_dollars", "loss"), limits={"loss": 2.8}, boxes=1000,
                          generations=10, gradients=False)  # fmt: skip
    assert len(found.pareto.indices) > 1 and np.isfinite(found.pareto.values).all()
    assert proof.least <= proof.value == found.top.values[0, 0] and 0 <= proof.gap < 1
    assert all(isinstance(one, int) and 0 <= one < size(many) for one in found.top.indices)


def test_when_nothing_runs_it_is_said_why_and_for_how_many():
    with pytest.raises(Refused, match=r"memory removed .*all [\d,]+ candidates are proved not to"):
        beyond(tiny(), machine(memory=1e6), objectives=("step_time",), generations=2, gradients=False)
    with pytest.raises(Refused, match=r"memory removed .*; [\d,]+ of [\d,]+ candidates are proved not to"):
        beyond(space(**WIDE), machine(memory=1e6), objectives=("step_time",), boxes=500, generations=2, gradients=False)
    with pytest.raises(Refused, match="step_time above limit removed"):
        beyond(tiny(), machine(), objectives=("step_time",), limits={"step_time": 1e-9}, gradients=False)
    with pytest.raises(Refused, match="run_dollars unknown removed"):
        beyond(tiny(), machine(dollars_hour=math.nan), objectives=("run_dollars",), generations=1, gradients=False)


def test_one_candidate_is_a_space_too():
    one = dataclasses.replace(small(), axes=tuple(axis(a.name, a.paths, a.values[:1]) for a in small().axes))
    found, proof = beyond(one, machine(), objectives=("step_time",), generations=1, gradients=False)
    assert size(one) == 1 and proof.gap == 0.0 and list(found.top.indices) == [0]
