"""Published TPU steps by their compiler's cycles (measurements/tpu_cycles.csv): what the table says holds together."""

import csv
import math

import numpy as np
import pytest
import yaml

from coopt.fit import rows
from coopt.measure import kept
from coopt.measure.statistics import kendall_tau
from coopt.study.scored.evidence import measurements

RULES = ("raw", "alone", "streams")
# s: the batch of the linked recipe at the published 2,909 tokens a second and chip
RECIPES = {"maxtext-054": 4608 * 4096 / (128 * 2909)}


def table(flags: str = "") -> list[dict[str, str]]:
    """The rows compiled with some flags (default, published), or every row."""
    with measurements().with_name("tpu_cycles.csv").open(newline="") as file:
        return [row for row in csv.DictReader(file) if flags in ("", row["flags"])]


def faster(flags: str, *cuts: str) -> list[dict[str, str]]:
    """Of each dense step the row of the faster cut, or of one cut."""
    found: dict[str, dict[str, str]] = {}
    for row in table(flags):
        if row["kind"] == "dense" and row["cut"] in (cuts or ("width", "sequence")) + ("none",):
            found[row["id"]] = min(found.get(row["id"], row), row, key=lambda one: float(one["streams"]))
    return list(found.values())


def errors(found: list[dict[str, str]], rule: str = "streams") -> np.ndarray:
    return np.array([float(row[rule]) / float(row["measured"]) - 1.0 for row in found])


def test_parts_add_up_and_the_measured_time_is_the_published_one():
    published = {row["id"]: row for row in rows.read(measurements())}
    for row in table():
        parts = sum(float(row[part]) for part in ("matmul", "attention", "experts", "other", "collective"))
        assert parts == pytest.approx(float(row["streams"]), rel=1e-5), row["id"]
        seconds = RECIPES.get(row["id"]) or rows.measured_step_time(published[row["id"]])
        assert float(row["measured"]) == pytest.approx(seconds, rel=1e-5)
        assert float(row["ideal"]) < float(row["alone"]) and row["unread"] == "0" and len(row["digest"]) == 64
        # Of a mixture a few fusions hold products whose sizes are not read, and keep the compiler's estimate.
        assert int(row["replaced"]) == int(row["fusions"]) or row["kind"] == "mixture"
        assert (row["cut"] == "none") == (float(published[row["id"]]["tp"] or 1) == 1)
        eight, mixed = published[row["id"]]["precision"] != "bf16", bool(published[row["id"]]["experts"])
        assert row["kind"] == ("mixture" if mixed else published[row["id"]]["precision"] if eight else "dense")


def test_every_single_slice_of_v5e_and_v5p_is_there():
    wanted = {
        row["id"]
        for row in rows.read(measurements())
        if row["chip"] in ("tpu-v5e", "tpu-v5p") and row["n_chips"] == row["scaleup_domain"]
        if not rows.unscorable(row) and not row["experts"] and row["precision"] == "bf16"
    }
    assert {row["id"] for row in table("default")} >= wanted and len(wanted) == 13


def test_flags_have_a_source_and_rows_that_are_scored():
    steps = yaml.safe_load(measurements().with_name("tpu_flags.yaml").read_text())["steps"]
    named = [name for one in steps for name in one["rows"]]
    assert len(named) == len(set(named)) and {row["id"] for row in table("published")} <= set(named)
    for one in steps:
        assert set(one["source"]) == {"title", "url", "date"}
        assert set(one.get("refused", ())) <= set(kept.options(one["flags"])), one["rows"]


def test_the_scores_that_the_documentation_gives(repository):
    """Mean, worst and bias of each rule, as docs/machines-you-do-not-have.md prints them."""
    found = faster("default")
    measured = np.array([float(row["measured"]) for row in found])
    page = (repository / "docs" / "machines-you-do-not-have.md").read_text()
    ideal = np.array([float(row["ideal"]) for row in found])
    predicted = {rule: np.array([float(row[rule]) for row in found]) for rule in RULES}
    predicted["FLOPs / peak x one constant"] = ideal * math.exp(np.mean(np.log(measured / ideal)))
    for rule, seconds in predicted.items():
        miss = seconds / measured - 1.0
        line = f"| {rule} | {np.mean(np.abs(miss)):.1%} | {np.max(np.abs(miss)):.1%} | {np.mean(miss):+.1%} | "
        assert line + f"{kendall_tau(seconds, measured):.3f} |" in page, line
    for cut in ("width", "sequence"):
        miss = errors(faster("default", cut))
        line = f"| streams, along the {cut} | {np.mean(np.abs(miss)):.1%} | {np.max(np.abs(miss)):.1%} |"
        assert line + f" {np.mean(miss):+.1%} |" in page, line
    miss = np.abs(errors(found))
    assert np.mean(miss) < 0.07 and np.max(miss) < 0.15
