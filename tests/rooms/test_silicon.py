"""A chip from its free parameters: known chips come out right, every variable moves something, caps move clocks."""

from __future__ import annotations

import dataclasses
import functools
import importlib.util
import math
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from coopt.cost import estimate
from coopt.cost.bill import good, gross_dies
from coopt.cost.operate import clock_at, full_load, operate
from coopt.cost.roofline import attention_time, blocked_time, matmul_time
from coopt.cost.silicon import build, silicon
from coopt.fit.silicon import FIGURES, PRIORS, fit, known, left_out
from coopt.ops import count
from coopt.problems import Refused
from coopt.spec import load, process
from coopt.spec.find import names
from coopt.spec.nouns import Hardware, Row, training
from coopt.spec.silicon import Design, Node
from coopt.tree import replace

ROOT = Path(__file__).resolve().parents[2]
CHIPS = 1024


@pytest.fixture(scope="module")
def made_with():
    return process.process()


@pytest.fixture(scope="module")
def b200(made_with) -> Design:
    return process.design("b200", made_with)


@functools.cache
def step(precision: str = "bf16", model: str = "llama3-70b", more: str = ""):
    """The operations of a step of a model on 1,024 chips: tensor, pipeline and data parallel at once."""
    machine, shape = load.resolve("gb200-nvl72", chips=1152), load.model(model)
    cut, _ = load.layout(f"tp=8,pp=4,precision={precision}{more}", hardware=machine, model=shape)
    return count(shape, replace(cut, dp=CHIPS / 32.0, fsdp=CHIPS / 32.0), training(8192.0, 512.0))


# ---------------------------------------------------------------- files


def test_every_design_that_ships_is_a_machine(made_with):
    assert set(names("design")) >= {"a100", "h100", "b200", "tpu-v4", "tpu-v5p"}
    for name in names("design"):
        machine = build(process.design(name, made_with), made_with)
        leaves = jax.tree.leaves(replace(machine, joules_flop=(), joules_byte=0.0, joules_wire=0.0, tiers=()))
        assert np.isfinite(leaves).all(), name
        assert machine.watts_idle < machine.watts < machine.watts_all_in


def test_mistakes_in_designs_are_said(tmp_path, made_with):
    text = (ROOT / "hw_profiles" / "designs" / "h100.yaml").read_text()
    (tmp_path / "odd.yaml").write_text(text.replace("name: h100", "name: odd").replace("value: hbm3,", "value: hbm9,"))
    with pytest.raises(Refused, match=r"odd.yaml:\d+: memory: expected one of hbm2, .*got hbm9"):
        process.design(str(tmp_path / "odd.yaml"), made_with)
    (tmp_path / "bare.yaml").write_text(text.replace("edge: {value: 22.627417", "edge: {value: -3"))
    with pytest.raises(Refused, match="edge"):
        process.design(str(tmp_path / "bare.yaml"), made_with)


def test_a_process_of_ones_own_changes_one_number(tmp_path, made_with):
    """`extends` keeps every other fact: dearer HBM, nothing else."""
    shipped = (ROOT / "hw_profiles" / "process" / "leading-edge.yaml").read_text()
    (tmp_path / "shock.yaml").write_text(
        shipped.replace("name: leading-edge", "name: shock").replace("test: {value: 508 USD", "test: {value: 1508 USD")
    )
    shock = process.process(str(tmp_path / "shock.yaml"))
    one = process.design("h100", made_with)
    assert float(silicon(one, shock).parts - silicon(one, made_with).parts) == pytest.approx(1000.0)


# ---------------------------------------------------------------- known chips, one parameter set


@pytest.fixture(scope="module")
def predicted(made_with):
    chips = known(made_with)
    return chips, left_out(made_with, chips), fit(made_with, chips)


def test_the_fitted_constants_are_those_of_the_file(made_with, predicted):
    """What the file calls fitted is what the fit gives, to three digits."""
    _, _, found = predicted
    for name in PRIORS:
        section, field = name.split(".")
        written = getattr(getattr(made_with, section), field)
        assert getattr(getattr(found, section), field) == pytest.approx(written, rel=0.005), name


def test_known_chips_come_out_in_their_published_ranges(made_with):
    """Fitted to all, every figure that somebody published lies in its range, or within a tenth of the one value."""
    for chip in known(made_with):
        made = silicon(chip.design, made_with)
        for figure, bounds in chip.figures.items():
            said = float(getattr(made, FIGURES[figure]))
            assert chip.inside(figure, said) or not bounds[3], (chip.name, figure, said, bounds)


def test_chips_left_out_come_out_too(predicted):
    """The misses are known by name, and small: see docs/silicon.md."""
    chips, alone, _ = predicted
    told = {(c.name, figure) for c in chips for figure in c.figures if not c.inside(figure, alone[c.name][figure])}
    assert told == {("b200", "area"), ("h100", "tdp"), ("tpu-v5p", "tdp")}
    assert alone["b200"]["area"] == pytest.approx(1600e-6, rel=0.12)
    assert alone["h100"]["tdp"] == pytest.approx(700.0, rel=0.12)


def test_the_table_in_the_docs_is_the_one_that_is_computed(predicted):
    spec = importlib.util.spec_from_file_location("fit_silicon", ROOT / "scripts" / "fit_silicon.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    chips, alone, fitted = predicted
    lines, _ = script.table(chips, alone, fitted)
    assert "\n".join(lines) in (ROOT / "docs" / "silicon.md").read_text()


@pytest.mark.parametrize("name", ["h100", "h200", "b200"])
def test_memory_is_the_main_cost_and_area_is_not(made_with, name):
    """HBM was 52 to 63 % of what AI chips' parts cost in 2024 and 2025, logic 13 % (Epoch AI)."""
    made = silicon(process.design(name, made_with), made_with)
    shares = {part: float(getattr(made, f"dollars_{part}") / made.parts) for part in ("memory", "dies", "package")}
    assert shares["memory"] == max(shares.values()) and 0.42 < shares["memory"] < 0.65
    assert 0.08 < shares["dies"] < 0.18
    dearer = replace(made_with, memories=tuple(replace(m, price=1.1 * m.price) for m in made_with.memories))
    larger = replace(made_with, nodes=tuple(replace(n, wafer=1.1 * n.wafer) for n in made_with.nodes))
    one = process.design(name, made_with)
    assert silicon(one, dearer).parts - made.parts > 2.0 * (silicon(one, larger).parts - made.parts)


@pytest.mark.parametrize(
    ("name", "system"), [("a100", "dgx-a100"), ("h100", "dgx-h100"), ("b200", "gb200-nvl72"), ("tpu-v5p", "tpu-v5p")]
)
def test_a_built_chip_prices_like_its_profile(made_with, name, system):
    """One set of delivered shares for all: step times within a third of those with each family's own fit."""
    ops, machine = step(), load.resolve(system, chips=1152)
    ratio = float(estimate(ops, build(process.design(name, made_with), made_with)).step_time)
    ratio /= float(estimate(ops, machine).step_time)
    assert 0.65 < ratio < 1.4


def test_prices_and_power_of_bought_chips_are_those_of_the_market(made_with):
    """Not fitted: 40,000 to 45,000 USD and 1.95 to 2.21 USD/h for a B200, 1,830 W of IT in its rack."""
    machine = build(process.design("b200", made_with), made_with)
    made = silicon(process.design("b200", made_with), made_with)
    assert 36e3 < made.price < 46e3 and 1.7 < machine.dollars_hour < 2.4 and 1600 < machine.watts_all_in < 2000
    assert 0.9 < made.interposer / 2739e-6 < 1.1  # published for Blackwell


# ---------------------------------------------------------------- formulas


def test_dies_and_yield_by_hand(made_with):
    """The worked figures of the facts: 800 mm2 on N5: 58.8 gross, 0.43 good, at 16,988 USD a wafer 672 USD a die."""
    node = Node(defects=1100.0)
    assert gross_dies(800e-6, made_with.package) == pytest.approx(58.8, abs=0.1)
    assert good(800e-6, 0.0, node, made_with.package) == pytest.approx(0.43, abs=0.005)
    each = 16988 / (gross_dies(800e-6, made_with.package) * good(800e-6, 0.0, node, made_with.package))
    assert each == pytest.approx(672, rel=0.01)
    assert good(800e-6, 0.1, node, made_with.package) > good(800e-6, 0.0, node, made_with.package)


def test_a_unit_wider_than_a_head_wastes_the_rest():
    """Head size 128 on 256 x 256: half of the array stands idle; on 64 x 64 nothing does."""
    row = Row(kind="attention", m=8192.0, n=4096.0, k=128.0, batch=64.0, flops=4 * 8192.0 * 4096 * 128 * 64)
    chip = Hardware(peak=(1e15,) * 8, bandwidth=1e15)
    assert attention_time(replace(chip, edge=256.0), row) / attention_time(chip, row) == pytest.approx(2.0, rel=0.01)
    assert attention_time(replace(chip, edge=64.0), row) / attention_time(chip, row) == pytest.approx(1.0, rel=0.01)


def test_blocked_products_read_again_what_does_not_fit():
    """2 m n k / sqrt(S) elements, and never less than every operand once."""
    side = 8192.0
    row = Row(kind="matmul", m=side, n=side, k=side, flops=2 * side**3, read=4 * side**2, written=2 * side**2)
    chip = Hardware(peak=(1e18,) * 8, bandwidth=1e12, stream=1.0)
    once = blocked_time(chip, row) * 1e12
    assert once == pytest.approx(6 * side**2)
    small = 2**20
    moved = blocked_time(replace(chip, spill=small**-0.5), row) * 1e12
    elements = 2 * side**3 / math.sqrt(small / 2)
    assert moved == pytest.approx(math.hypot(2 * elements, once), rel=1e-6)
    assert matmul_time(replace(chip, spill=small**-0.5), row) > 2 * matmul_time(chip, row)


def test_chips_that_were_fitted_are_priced_as_before():
    """The new parts are zero in every profile, and zero adds nothing."""
    for system in ("dgx-h100", "gb200-nvl72", "tpu-v5p"):
        machine = load.resolve(system, chips=64)
        assert (machine.edge, machine.spill, machine.score, machine.pointwise) == (0.0, 0.0, 0.0, 0.0)
    rows = (
        Row(kind="attention", m=64.0, n=64.0, k=64.0, batch=2.0, flops=1e9, read=1e6, written=1e6),
        Row(kind="elementwise", read=1e5, written=1e5),
    )
    from coopt.cost.roofline import compute_time, memory_time

    machine = load.resolve("dgx-h100", chips=8)
    assert compute_time(machine, rows[1]) == pytest.approx(
        memory_time(machine, rows[1]) * machine.passes + machine.kernel, rel=1e-12
    )


# ---------------------------------------------------------------- every variable moves something

# A variable, what it is changed to, and what it must move: a row of the step, or what the chip is or costs.
MOVES = {
    "units": (1.2, "row"), "edge": (2.0, "row"), "lanes": (0.5, "row"), "exponentials": (0.5, "row"),
    "sram": (0.25, "row"), "clock": (0.9, "row"), "stacks": (1.25, "row"), "memory": (None, "row"),
    "scale_up": (0.5, "row"), "link": (None, "row"), "domain": (0.1, "row"), "torus": (None, "row"),
    "scale_out": (0.5, "row"), "eight": (0.5, "row"), "four": (0.5, "row"),
    "node": (None, "chip"), "dies": (0.5, "chip"), "spare": (2.0, "chip"), "own": (None, "chip"),
    "margin": (0.8, "chip"), "volume": (0.5, "chip"), "start": (1.0005, "chip"),
}  # fmt: skip


def test_the_list_of_variables_is_whole():
    assert set(MOVES) == {f.name for f in dataclasses.fields(Design) if "role" not in f.metadata}


@pytest.mark.parametrize("name", MOVES)
def test_every_variable_moves_something(made_with, b200, name):
    """A search deletes whatever moves nothing: each variable moves a row by 1 % at least, or watts, dollars, date."""
    factor, moved = MOVES[name]
    b200 = replace(b200, own=1.0)
    other = replace(
        b200, **{name: getattr(b200, name) * factor if factor else {"own": 0.0, "node": 2.0}.get(name, 1.0)}
    )
    before, after = build(b200, made_with), build(other, made_with)
    if moved == "chip":
        told = [(m.watts, m.dollars, m.date) for m in (before, after)]
        assert any(abs(a / b - 1.0) > 1e-4 for a, b in zip(*told, strict=True)), told
        return
    precision = {"eight": "fp8", "four": "nvfp4"}.get(name, "bf16")
    ops = step(precision)
    old, new = estimate(ops, before), estimate(ops, after)
    changes = [abs(float(b / a) - 1.0) for a, b in zip(old.once, new.once, strict=True) if float(a) > 1e-9]
    assert max(changes) > 0.01, f"{name} moves no row by more than {max(changes):.2%}"
    assert abs(float(new.step_time / old.step_time) - 1.0) > 1e-5


@pytest.mark.parametrize("name", ["units", "lanes", "exponentials", "sram", "clock", "stacks", "scale_up", "scale_out"])
def test_more_of_it_is_never_slower_and_never_free(made_with, b200, name):
    more = replace(b200, **{name: getattr(b200, name) * 1.2})
    ops = step()
    assert estimate(ops, build(more, made_with)).step_time < estimate(ops, build(b200, made_with)).step_time
    assert build(more, made_with).dollars_hour > build(b200, made_with).dollars_hour


def test_exponentials_and_lanes_bound_what_they_should(made_with, b200):
    ops = step("fp8")
    names_of = [row.name for row in ops.rows]

    def slower(**changes):
        old, new = (estimate(ops, build(d, made_with)).once for d in (b200, replace(b200, **changes)))
        return {n for n, a, b in zip(names_of, old, new, strict=False) if float(a) > 1e-9 and float(b / a) > 1.05}

    few = slower(exponentials=b200.exponentials / 4)
    assert few and all("flash" in name for name in few)
    few = slower(lanes=b200.lanes / 8)
    assert {"attn.norm", "quantise.dx"} <= few and not any(name.startswith("mlp.up") for name in few)


def test_edge_is_a_choice_with_two_sides(made_with, b200):
    """Same multipliers in larger units: less area and fewer watts, and slower tiles, heads and fills."""
    wide = replace(b200, units=b200.units / 64, edge=b200.edge * 8)
    assert silicon(wide, made_with).area < 0.95 * silicon(b200, made_with).area
    assert silicon(wide, made_with).clocked < 0.95 * silicon(b200, made_with).clocked
    slow = estimate(step(), build(wide, made_with)).step_time / estimate(step(), build(b200, made_with)).step_time
    assert slow > 1.05


def test_clock_and_voltage_are_one(made_with, b200):
    """Doubling the clock more than doubles the watts of logic; the same work takes more joules."""
    fast = replace(b200, clock=1.3 * b200.clock)
    slow, quick = silicon(b200, made_with), silicon(fast, made_with)
    assert quick.voltage > slow.voltage and quick.clocked / slow.clocked > 1.3**1.5
    assert quick.area == slow.area


def test_domain_asks_for_switches_and_levels(made_with, b200):
    told = [build(replace(b200, domain=chips), made_with) for chips in (72.0, 144.0)]
    assert told[1].watts_all_in > told[0].watts_all_in and told[1].dollars > told[0].dollars
    assert told[1].tiers[0].latency > told[0].tiers[0].latency
    ring = build(replace(b200, torus=3.0), made_with)
    assert ring.dollars < told[0].dollars and ring.tiers[0].axes == 3.0


# ---------------------------------------------------------------- many chips at once, and slopes


def test_arrays_of_designs_are_many_chips(made_with, b200):
    """One call, a lattice of designs beside operations that are arrays themselves, equals the loop."""
    clocks, nodes = np.array([1.2e9, 1.6e9, 2.0e9])[:, None], np.array([1.0, 2.0, 3.0])[None, :]
    many = estimate(step(), build(replace(b200, clock=clocks, node=nodes), made_with))
    for i in range(3):
        for j in range(3):
            one = build(replace(b200, clock=float(clocks[i, 0]), node=float(nodes[0, j])), made_with)
            cost = estimate(step(), one)
            assert np.broadcast_to(many.dollars, (3, 3))[i, j] == pytest.approx(float(cost.dollars), rel=1e-12)
            assert np.broadcast_to(many.step_time, (3, 3))[i, j] == pytest.approx(float(cost.step_time), rel=1e-12)


SMOOTH = (
    "units",
    "edge",
    "lanes",
    "exponentials",
    "sram",
    "clock",
    "spare",
    "stacks",
    "scale_up",
    "scale_out",
    "margin",
)


def test_gradients_toward_a_design_are_slopes(made_with, b200):
    """d log(dollars a step) / d log(variable): finite, and equal to central differences, through build and estimate."""
    ops, b200 = step(), replace(b200, own=1.0)

    def log_dollars(logs):
        changed = {name: getattr(b200, name) * jnp.exp(logs[i]) for i, name in enumerate(SMOOTH)}
        return jnp.log(estimate(ops, build(replace(b200, **changed), made_with)).dollars)

    with jax.enable_x64(True):
        slope = np.asarray(jax.jacfwd(log_dollars)(jnp.zeros(len(SMOOTH))))
    for i, name in enumerate(SMOOTH):
        ends = [
            float(estimate(ops, build(replace(b200, **{name: getattr(b200, name) * f}), made_with)).dollars)
            for f in (math.exp(1e-4), math.exp(-1e-4))
        ]
        assert slope[i] == pytest.approx((math.log(ends[0]) - math.log(ends[1])) / 2e-4, rel=2e-3, abs=1e-6), name


# ---------------------------------------------------------------- power caps


def test_a_cap_sets_clock_and_voltage(made_with, b200):
    machine = build(b200, made_with)
    caps = np.array([500.0, 700.0, 900.0, 5000.0])
    held = operate(machine, caps)
    np.testing.assert_allclose(held.watts[:3], caps[:3], rtol=1e-9)
    assert held.watts[3] == pytest.approx(machine.watts) and held.peak[2][3] == pytest.approx(machine.peak[2])
    assert np.all(np.diff(held.peak[2]) > 0) and np.all(np.diff(held.watts_all_in) > 0)
    assert held.bandwidth == machine.bandwidth
    # a cap on a capped machine is the lower cap
    twice = operate(operate(machine, 900.0), 700.0)
    assert twice.peak[2] == pytest.approx(held.peak[2][1], rel=1e-9) and twice.watts == pytest.approx(700.0)


def test_a_cap_is_the_same_as_a_slower_design(made_with, b200):
    """The curve that `build` hands on is its own: capping to the watts of a slower clock gives that clock."""
    slower = silicon(replace(b200, clock=0.8 * b200.clock), made_with)
    held = operate(build(b200, made_with), slower.watts)
    assert held.peak[2] / build(b200, made_with).peak[2] == pytest.approx(0.8, rel=1e-6)


def test_caps_have_slopes():
    machine = Hardware(watts=1000.0, clocked=0.6, leaking=0.1, slope=0.44, peak=(1e15,) * 8)

    def rate(cap):
        return operate(machine, cap).peak[2]

    with jax.enable_x64(True):
        slope = jax.grad(rate)(jnp.asarray(800.0))
    assert float(slope) == pytest.approx((rate(800.001) - rate(799.999)) / 0.002, rel=1e-5)
    assert clock_at(machine, full_load(machine, 0.5)) == pytest.approx(0.5)


def test_what_gb200_operators_do_is_inside_the_interval():
    """960 of 1,200 W, with about an eighth more chips a megawatt: the cap with the most tokens a megawatt lies
    below it or above it, depending on what inside the published ranges the chip's watts are.
    """
    ops = step()
    curve, caps = process.operating(), np.arange(600.0, 1201.0, 20.0)
    best = []
    for pick in (1, 2):
        machine = load.resolve("gb200-nvl72", chips=1152)
        machine = replace(machine, **{name: given[pick] for name, given in curve.items()})
        held = operate(machine, caps)
        best.append(caps[np.argmax(1.0 / (estimate(ops, held).step_time * held.watts_all_in))])
    assert min(best) <= 960.0 <= max(best) and min(best) < max(best)
    machine = load.resolve("gb200-nvl72", chips=1152)
    machine = replace(machine, **{name: given[0] for name, given in curve.items()})
    assert machine.watts_all_in / operate(machine, 960.0).watts_all_in == pytest.approx(1.14, abs=0.02)


def test_explain_under_a_cap():
    """`--watts`: slower, fewer joules for the chip, said among the assumptions; impossible caps are refused."""
    from coopt.commands.parse import parse
    from coopt.study.verbs import explain

    typed = ["explain", "--model=llama3-8b", "--hardware=gb200-nvl72", "--chips=64", "--layout=tp=2"]
    free, held = (explain(parse([*typed, *more])) for more in ([], ["--watts=960"]))
    assert 1.02 < held["step_time"] / free["step_time"] < 1.4
    assert any("960 W" in said and "rated clock" in said for said in held["assumed"])
    with pytest.raises(Refused, match=r"from \d+ to 1200 W a chip, got 2000 W"):
        explain(parse([*typed, "--watts=2000"]))
    with pytest.raises(Refused, match="cannot run"):
        explain(parse([*typed, "--watts=10"]))
