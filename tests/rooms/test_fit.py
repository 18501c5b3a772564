"""`coopt fit`: rows of one's own become a private profile; the published table becomes what ships."""

from __future__ import annotations

import csv
import math
from pathlib import Path

import numpy as np
import pytest

from coopt.fit import constants, own, rows
from coopt.fit.priors import starts
from coopt.problems import Refused
from coopt.spec import load, profiles
from coopt.spec.constants import STACK
from coopt.study.scored import own as private
from coopt.study.scored import published, tables
from coopt.study.scored.evidence import measurements

DATE = "2026-01-02"


@pytest.fixture(scope="module")
def steps() -> list[dict[str, str]]:
    """Ten published steps of one stack on one chip, as widely apart in size as they come."""
    table = rows.read(measurements())
    table = [row for row in table if row["scorable"] == "yes" and row["precision"] == "bf16"]
    nemo = [row for row in table if row["stack"] == "nemo" and "MaxText" not in row["notes"]]
    once = list({row["model"] + row["n_chips"]: row for row in nemo}.values())
    return once[:: len(once) // 10][:10]


def written(path: Path, table: list[dict[str, str]]) -> str:
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, list(table[0]))
        writer.writeheader()
        writer.writerows(table)
    return str(path)


def ran_on(table, folder: Path, rng, noise: float = 0.02) -> list[dict[str, str]]:
    """The rows with the step times of a hidden machine, whose matmuls are a fifth slower and kernels fused worse."""
    for place, kind, name, fitted in (
        ("chips", "chip", "h100-sxm", "matmul_16: {value: 0.57, source: x, kind: fitted}"),
        ("stacks", "stack", "nemo", "passes: {value: 5, source: x, kind: fitted}"),
    ):
        (folder / place).mkdir(parents=True)
        (folder / place / f"{name}.yaml").write_text(
            f"kind: {kind}\nname: {name}\ntitle: hidden\nextends: {name}\nsources:\n"
            f"  x: {{title: a test, date: {DATE}}}\nfitted:\n  {fitted}\n"
        )
    found, skipped = tables.designs(table, path=folder)
    assert not skipped
    times, _, _ = tables.price(found)
    said = [time * math.exp(noise * rng.standard_normal()) for time in times]
    return [
        {**row, "measured_step_time_s": f"{time:.6g}", "dup_group": ""} for row, time in zip(table, said, strict=True)
    ]


@pytest.fixture(scope="module")
def own_rows(steps, tmp_path_factory):
    """A file of ten steps of the hidden machine, the folder that was fitted to them, and what the fit said."""
    folder = tmp_path_factory.mktemp("own")
    file = written(folder / "mine.csv", ran_on(steps, folder / "hidden", np.random.default_rng(0)))
    return file, folder / "mine", private.fit(file, profile="dgx-h100", out=str(folder / "mine"), date=DATE)


def test_a_private_profile_predicts_rows_it_has_not_seen(own_rows):
    """Error of rows left out falls several times; the files load, and price the rows as the fit did."""
    file, folder, told = own_rows
    assert told["before"]["mape"] > 0.1 and told["left_out"]["mape"] < 0.4 * told["before"]["mape"]
    assert told["after"]["mape"] <= told["left_out"]["mape"] < 0.05 and told["sigma"] < 0.1
    assert not profiles.check(told["files"])
    found, _ = tables.designs(rows.read(file), path=folder)
    times, _, sigma = tables.price(found)
    errors = np.abs(times / [rows.measured_step_time(one.row) for _, one in found] - 1.0)
    assert errors.mean() == pytest.approx(told["after"]["mape"], rel=1e-3)
    assert sigma == pytest.approx(told["sigma"], rel=1e-4)


def test_what_the_rows_do_not_move_is_said_and_not_written(own_rows):
    """Steps in 16 bits say nothing of 4-bit matmuls; what is written has an interval, its rows and their digest."""
    file, folder, told = own_rows
    assert {"h100-sxm matmul_4", "h100-sxm matmul_8"} <= set(told["stayed"])
    moved = {(one["of"], one["constant"]): one for one in told["constants"]}
    assert {("h100-sxm", "matmul_16"), ("nemo", "passes")} <= set(moved)
    for one in moved.values():
        assert one["low"] < one["fitted"] <= one["high"] and one["fitted"] != one["shipped"]
    chip = load.profile("chip", told["files"][0])
    assert set(chip.data["fitted"]) == {which for of, which in moved if of == "h100-sxm"} | {"sigma"}
    (said,) = (one for one in chip.data["sources"].values() if "mine.csv" in one["title"])
    assert "sha256" in said["title"] and "10 rows" in said["title"] and str(said["date"]) == DATE
    machine = load.resolve("dgx-h100", chips=8, stack="nemo", path=folder)
    assert machine.matmul[2] == pytest.approx(moved["h100-sxm", "matmul_16"]["fitted"], rel=1e-5)
    assert machine.matmul[6] == load.resolve("dgx-h100", chips=8, stack="nemo").matmul[6]


def test_a_fit_does_not_write_over_what_it_started_from(own_rows):
    file, folder, _ = own_rows
    with pytest.raises(Refused, match="started from"):
        private.fit(file, profile="dgx-h100", out=str(folder), date=DATE, path=folder)


@pytest.mark.slow
def test_few_rows_are_pooled_with_what_ships(steps, tmp_path, rng):
    """Three rows move the constants less than ten do, and give a wider interval for the next run."""
    table = ran_on(steps, tmp_path / "hidden", rng, noise=0.0)
    told = [
        private.fit(
            written(tmp_path / f"{n}.csv", table[:n]), profile="dgx-h100", out=str(tmp_path / f"{n}"), date=DATE
        )
        for n in (3, 10)
    ]
    few, many = ({one["constant"]: one["fitted"] for one in t["constants"]} for t in told)
    assert abs(math.log(few.get("matmul_16", 0.711) / 0.57)) > abs(math.log(many["matmul_16"] / 0.57))
    assert told[0]["sigma"] > told[1]["sigma"] >= own.REPEAT


@pytest.mark.slow
def test_an_undescribed_stack_gets_its_own_name(steps, tmp_path, rng):
    table = [{**row, "stack": "Our Trainer"} for row in ran_on(steps, tmp_path / "hidden", rng)]
    told = private.fit(written(tmp_path / "a.csv", table), profile="dgx-h100", out=str(tmp_path / "mine"), date=DATE)
    stack = next(Path(file) for file in told["files"] if "stacks" in file)
    assert stack.name == "our-trainer.yaml"
    assert load.resolve("dgx-h100", chips=8, stack="our-trainer", path=tmp_path / "mine").stack == "our-trainer"


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"tp": "3"}, "n_chips"),
        ({"chip": "b200"}, "chip"),
        ({"layers": "-4"}, "layers"),
        ({"layers": ""}, "layers"),
        ({"precision": "fp7"}, "precision"),
        ({"measured_step_time_s": "", "measured_tokens_per_s_per_chip": ""}, "measured_step_time_s"),
        ({"measured_step_time_s": "fast"}, "measured_step_time_s"),
        ({"measured_step_time_s": "0"}, "measured_step_time_s"),
        ({"measured_step_time_s": "nan"}, "measured_step_time_s"),
        ({"measured_tokens_per_s_per_chip": "-3"}, "measured_tokens_per_s_per_chip"),
        ({"precision": "nvfp4"}, "layout"),
        ({"global_batch": "many"}, "global_batch"),
    ],
)
def test_a_bad_row_is_refused_with_its_line(change, field, steps, tmp_path):
    """The third row, which stands on line 4; nothing is written."""
    table = [*steps[:2], {**steps[2], **change}, *steps[3:]]
    with pytest.raises(Refused) as refusal:
        private.fit(written(tmp_path / "a.csv", table), profile="dgx-h100", out=str(tmp_path / "mine"), date=DATE)
    assert (4, field) in {(problem.line, problem.field) for problem in refusal.value.problems}
    assert {problem.file for problem in refusal.value.problems} == {str(tmp_path / "a.csv")}
    assert not (tmp_path / "mine").exists()


def test_a_short_line_is_refused_with_its_line(steps, tmp_path):
    file = Path(written(tmp_path / "a.csv", steps[:4]))
    lines = file.read_text().splitlines()
    file.write_text("\n".join([*lines[:3], lines[3][:60], lines[4]]))
    with pytest.raises(Refused) as refusal:
        private.fit(str(file), profile="dgx-h100", out=str(tmp_path / "mine"), date=DATE)
    assert {problem.line for problem in refusal.value.problems} == {4}
    assert {"chip", "layers", "measured_step_time_s"} <= {problem.field for problem in refusal.value.problems}


def test_two_rows_and_equal_names_are_refused(steps, tmp_path):
    for table, field in (([*steps[:2]], "rows"), ([*steps[:3], steps[0]], "id")):
        with pytest.raises(Refused) as refusal:
            private.fit(written(tmp_path / "a.csv", table), profile="dgx-h100", out=str(tmp_path), date=DATE)
        assert field in {problem.field for problem in refusal.value.problems}


def test_published_steps_become_profiles_that_load(steps, tmp_path):
    """Without --from: every family and stack of the table, the same files with new blocks; --out left out: nothing."""
    file = written(tmp_path / "few.csv", steps)
    dry = published.fit(file, out=None, date=DATE)
    assert dry["files"] == [] and dry["priced"] == 10
    told = published.fit(file, out=tmp_path / "all", date=DATE)
    assert sorted(Path(one).name for one in told["files"]) == ["hopper.yaml", "nemo.yaml"]
    assert not profiles.check(told["files"])
    machine = load.resolve("dgx-h100", chips=8, stack="nemo", path=tmp_path / "all")
    found, _ = tables.designs(rows.read(file), path=tmp_path / "all")
    times, _, _ = tables.price(found)
    measured = np.array([rows.measured_step_time(one.row) for _, one in found])
    assert np.abs(times / measured - 1.0).mean() == pytest.approx(told["after"]["mape"], abs=0.01)
    assert machine.sigma > 0 and "few.csv" in load.profile("family", told["files"][0]).data["sources"]["fit"]["title"]


# ---------------------------------------------------------------- what stacks share, and what a fit follows


@pytest.fixture(scope="module")
def two_stacks():
    """A problem of dense steps on H100 under two stacks, with the stack of no particular name beside them."""
    table = [row for row in rows.read(measurements()) if row["scorable"] == "yes" and row["chip"] == "h100-sxm"]
    dense = [row for row in table if not row["experts"] and not row["notes"].startswith("MaxText")]
    kept = [row for name in ("nemo", "llm-foundry") for row in [r for r in dense if r["stack"] == name][::8]]
    designs = [one for _, one in tables.designs(kept)[0]]
    start = starts(designs, measurements().parent / "priors.yaml")
    generic = {("stack", "generic", which): start["stack", "nemo", which] for which in STACK}
    return constants.problem(designs, start | generic)


def test_slopes_are_those_of_each_constant_alone(two_stacks):
    """Constants of a kind are moved together and read apart, because a row has one family and one stack."""
    told = constants.slopes(two_stacks, two_stacks.start)
    assert not told[:, [name[1] == "generic" for name in two_stacks.names]].any()
    for at in range(len(two_stacks.names)):
        moved = [two_stacks.start * np.exp(side * 0.01 * (np.arange(len(told[0])) == at)) for side in (1, -1)]
        by_hand = np.log(two_stacks.step_time(moved[0]) / two_stacks.step_time(moved[1])) / 0.02
        assert told[:, at] == pytest.approx(by_hand, abs=0.02)


def test_constants_that_are_held_or_unused_stay_where_they_were(two_stacks):
    """Only `free` ones move; a stack that no row runs keeps its prior, with the prior's spread as its error."""
    free = np.array([name[2] == "passes" for name in two_stacks.names])
    values, errors = constants.solve(two_stacks, free=free)
    moved = values != two_stacks.start
    lone = np.array([name[1] == "generic" for name in two_stacks.names])
    assert moved[free & ~lone].all() and not moved[~free | lone].any()
    assert errors[free & lone] == pytest.approx(constants.SPREAD["passes"] / constants.PULL, rel=1e-6)


def test_kernels_older_than_the_chip_are_slower_on_it():
    """FlashAttention-2 on Hopper reaches half of what kernels for Hopper do, and all of it on Ampere."""
    hopper, ampere = (load.resolve(name, chips=8, stack="llm-foundry") for name in ("dgx-h100", "dgx-a100"))
    assert (hopper.ported, ampere.ported) == (0.5, 1.0)
    native = load.resolve("dgx-h100", chips=8, stack="llm-foundry", overrides={"ported.hopper": 1.0})
    assert hopper.attention == pytest.approx(0.5 * native.attention)
    assert hopper.attention_backward == pytest.approx(0.5 * native.attention_backward)


def test_what_nobody_describes_is_read_by_its_years_and_its_chip(steps):
    """An undescribed stack in fp16 fuses no attention; on a TPU it is the one whose steps are compiled whole."""
    row = {**steps[0], "stack": "somebody's", "precision": "fp16"}
    found, _ = tables.designs([row, {**row, "precision": "bf16"}, {**row, "chip": "tpu-v5p", "precision": "bf16"}])
    old, new, tpu = (one for _, one in found)
    assert (old.layout.fused_attention, new.layout.fused_attention) == (0.0, 1.0)
    assert any("fp16" in note for note in old.notes) and not any("fp16" in note for note in new.notes)
    assert (new.hardware.stack, tpu.hardware.stack) == ("generic", "maxtext")


def test_captured_graphs_are_assumed_from_the_release_that_published_them():
    """Mixtures in mxfp8 under Megatron-Bridge, from container 26.06: no older one, no other format, nothing dense."""
    table = {row["id"]: row for row in rows.read(measurements())}
    new = table["mbridge-024"]
    older = {**new, "notes": new["notes"].replace("26.06.01", "26.04.01")}
    eight, dense = {**new, "precision": "fp8"}, {**new, "experts": "", "topk": "", "ep": ""}
    found, _ = tables.designs([new, older, eight, dense])
    assert [one.layout.graphs for _, one in found] == [1.0, 0.0, 0.0, 0.0]
    assert any("captured graphs assumed (container 26.06 or later)" in note for note in found[0][1].notes)
