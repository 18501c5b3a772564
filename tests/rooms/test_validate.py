"""What was held out: chips and families left out of the fit, the reach of every figure, and unmeasured machines."""

from __future__ import annotations

import math

import numpy as np
import pytest

from coopt.fit import constants, rows, score, transfer
from coopt.fit.priors import starts
from coopt.report import table
from coopt.spec import load
from coopt.spec.constants import STACK
from coopt.study.given.designs import design
from coopt.study.scored import heldout, tables
from coopt.study.scored.evidence import card, measurements, sigma
from coopt.study.scored.reach import Figure, reach, verdict
from coopt.study.scored.validated import validate


@pytest.fixture(scope="module")
def shipped():
    return validate(str(measurements()))


# ---------------------------------------------------------------- chips and families left out


@pytest.fixture(scope="module")
def few():
    """Dense steps of two chips of one family and one of another, under two stacks."""
    table = [row for row in rows.read(measurements()) if row["scorable"] == "yes" and not row["experts"]]
    bridge = [row for row in table if row["stack"] == "megatron-bridge"]
    kept = [row for chip in ("h100-sxm", "b200", "gb200") for row in bridge if row["chip"] == chip][::3]
    kept += [row for row in table if row["stack"] == "nemo"][:2]
    designs = [one for _, one in tables.designs(kept)[0]]
    assert {one.hardware.chip for one in designs} >= {"h100-sxm", "b200", "gb200"}
    start = starts(designs, measurements().parent / "priors.yaml")
    return designs, constants.problem(designs, start)


def test_a_chip_left_out_is_priced_by_a_fit_that_never_saw_it(few):
    """The rows of one chip by hand, and no price where its stack ran on nothing else."""
    designs, task = few
    told = transfer.left_out(task, designs, "chip")
    whose = np.array([one.hardware.chip for one in designs])
    stack = np.array([one.hardware.stack for one in designs])
    alone = (stack == "nemo") & (whose == "h100-sxm")
    assert alone.any() and np.isnan(told[alone]).all() and np.isfinite(told[~alone]).all()
    values, _ = constants.solve(task, rows=whose != "b200")
    assert told[whose == "b200"] == pytest.approx(task.step_time(values)[whose == "b200"], rel=1e-9)


def test_a_family_left_out_is_not_helped_by_its_kernels(few):
    """Its constants are then those of no family in particular, not the ones that its kernels gave."""
    designs, task = few
    family = np.array([one.hardware.family for one in designs])
    unknown = {name: value * 0.5 for name, value in zip(task.names, task.start, strict=True) if name[0] == "family"}
    known, not_known = (transfer.left_out(task, designs, "family", unknown=u) for u in (None, unknown))
    assert (not_known[family == "blackwell"] > known[family == "blackwell"]).all()


def test_a_publication_alone_with_its_stack_is_priced_as_generic(few):
    """Its own stack where another publication ran it; the stack of no particular name where none did."""
    designs, task = few
    table = [one.row for one in designs]
    other, _ = tables.designs(table, stack="generic")
    start = dict(zip(task.names, task.start, strict=True))
    start |= {("stack", "generic", which): start["stack", "nemo", which] for which in STACK}
    task = constants.problem(designs, start)
    generic = constants.problem([one for _, one in other], start)
    told = transfer.left_out(task, designs, "source", generic=generic)
    nemo = np.array([one.hardware.stack == "nemo" for one in designs])
    values, _ = constants.solve(task, rows=~nemo)
    assert told[nemo] == pytest.approx(generic.step_time(values)[nemo], rel=1e-9)
    assert np.isfinite(told).all() and {score.publication(row) for row in table if row["stack"] == "nemo"} == {
        "NVIDIA NeMo performance benchmarks"
    }


def test_series_of_sizes_differ_in_size_alone(shipped):
    """The 34 series that the data's own page counts; pairs of anything else that changed stand beside them."""
    kind = score.KINDS["sizes"]
    table = [row for row in rows.read(measurements()) if row["scorable"] == "yes"]
    series: dict[tuple, set[str]] = {}
    for row in table:
        if not row["source"].startswith(score.CAMPAIGN):
            series.setdefault(tuple(row[key] for key in kind.same), set()).add(row["n_chips"])
    assert sum(len(sizes) >= kind.least for sizes in series.values()) == 34
    assert shipped["ratios"]["sizes"]["pairs"] == 112
    assert shipped["ratios"]["sizes, mixed"]["pairs"] == 136


def test_what_is_held_out_is_of_this_table_and_this_model():
    """The digest is the table's, and what ships prices its rows as it did when the rest was held out."""
    known = heldout.known()
    assert known["sha256"] == heldout.digest(measurements()) and len(str(known["date"])) == 10
    found, _ = tables.designs(rows.read(measurements()))
    times, _, _ = tables.price(found)
    told = heldout.columns(measurements(), [one.row for _, one in found], times)
    assert set(told) == {"fold", "chip", "family", "source"}, (
        "run scripts/held_out.py: what ships prices these rows otherwise"
    )
    assert heldout.columns(measurements(), [one.row for _, one in found], 1.01 * times) == {}
    again = heldout.summary(measurements(), date=str(known["date"]), version=known["coopt"])
    assert again == known | {"date": str(known["date"])}, "held_out.yaml is not of held_out.csv"
    for kind in ("chip", "family"):
        measured = np.array([rows.measured_step_time(one.row) for _, one in found])
        again = transfer.summary([one.row for _, one in found], told[kind], measured)
        assert again["rows"] == known[kind]["rows"] and again["mape"] == pytest.approx(known[kind]["mape"], abs=2e-3)


# ---------------------------------------------------------------- what is told of it


def test_an_unmeasured_chip_is_transferred_and_says_by_how_much_it_may_be_off():
    """Its siblings' constants, an interval no narrower than chips left out were missed by, and the figure itself."""
    one = design(model="llama3-70b", hardware="gb300-nvl72", chips=64, layout="tp=4")
    told = card(one, 10.0)
    assert one.hardware.fidelity == told["fidelity"] == "transferred"
    sibling = heldout.known()["sibling"]
    assert told["transfer"]["mape"] == sibling["mape"] and "chips" in told["transfer"]["of"]
    assert math.log(told["interval"][1] / 10.0) >= 1.6448 * sibling["sigma"]
    assert any("left out of the fit" in said for said in told["assumed"])
    far = card(design(model="llama3-70b", hardware="mi355x-8", chips=64, layout="tp=8"), 10.0)
    assert far["transfer"]["of"] == "families"
    assert math.log(far["interval"][1] / 10.0) == pytest.approx(1.6449 * heldout.known()["family"]["sigma"], rel=1e-3)


def test_a_measured_chip_has_its_own_error():
    one = design(model="llama3-70b", hardware="dgx-h100", chips=64, layout="tp=8")
    assert card(one, 10.0)["transfer"] is None and sigma(one.hardware) == float(one.hardware.sigma)


def test_a_chip_with_constants_of_its_own_is_not_transferred(tmp_path):
    (tmp_path / "h200-sxm.yaml").write_text(
        "kind: chip\nname: h200-sxm\ntitle: mine\nextends: h200-sxm\nsources:\n  x: {title: mine, date: 2026-01-02}\n"
        "fitted:\n  stream: {value: 0.8, source: x, kind: measured}\n"
    )
    assert load.resolve("dgx-h200").fidelity == "transferred"
    assert load.resolve("dgx-h200", path=tmp_path).fidelity == "interpolated"


def test_every_figure_has_a_target_and_a_verdict(shipped):
    """The issue's table: macro, pooled, slices, ratios, refused, ranking, memory, left out, coverage."""
    told = {line["figure"]: line for line in shipped["reach"]}
    for name in ("macro over cells: MAPE", "pooled: median", "slice MoE: MAPE", "slice TPU: MAPE",
                 "ratios of sizes: median",
                 "rows refused among the scorable", "vTrain single node: mean regret", "Korthikanti table 5: worst",
                 "memory, activations: MAPE", "memory, peaks: worst underestimate", "chips left out: MAPE",
                 "families left out: MAPE", "90% interval holds"):  # fmt: skip
        assert told[name]["target"] and told[name]["verdict"], name
    assert {line["verdict"] for line in told.values()} <= {"reached", "missed", "not established", "reported"}
    pooled = told["pooled: MAPE"]
    assert pooled["fitted"] == shipped["mape"] < pooled["held_out"] == shipped["held_out"]["mape"]
    assert shipped["refused_share"] <= 0.02 and 0.80 <= shipped["coverage"]["share"] <= 0.98


def test_the_table_is_shown(shipped):
    text = table(shipped)
    for words in ("What is to be reached", "held out", "Chips left out", "Families left out", "90% interval holds"):
        assert words in text
    assert all(len(line) <= 100 for line in text.splitlines())


def test_ten_rows_establish_something():
    at = Figure("a", lambda d: d["v"], lambda d: d["n"], 0.1)
    assert [verdict(at, value, n) for value, n in ((0.05, 9), (0.05, 10), (0.2, 10), (None, 10))] == [
        "not established", "reached", "missed", "not established",
    ]  # fmt: skip
    assert verdict(at._replace(more=True), 0.2, 10) == "reached"
    assert [verdict(at._replace(goal=(0.85, 0.95)), v, 10) for v in (0.8, 0.9, 1.0)] == ["missed", "reached", "missed"]
    assert verdict(at._replace(goal=None), 0.2, 10) == "reported"


def test_a_table_of_ones_own_has_one_column(tmp_path):
    """No row of it was fitted: nothing is held out of it, and figures it has no rows for are left out."""
    kept = [row for row in rows.read(measurements()) if row["stack"] == "llm-foundry"][:12]
    file = tmp_path / "mine.csv"
    file.write_text(
        "\n".join(",".join(f'"{cell}"' for cell in line) for line in (kept[0], *(r.values() for r in kept)))
    )
    told = validate(str(file))
    assert "held_out" not in told and "left_out" not in told and told["scored"] == 12
    figures = {line["figure"] for line in told["reach"]}
    assert "pooled: MAPE" in figures and not any("vTrain" in name or "left out" in name for name in figures)
    assert reach(told) == told["reach"]
