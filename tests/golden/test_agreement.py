"""What docs/agreement.md says, asserted: tolerances may only tighten."""

import numpy as np
import pytest

from coopt.study.scored.evidence import measurements
from coopt.study.scored.validated import validate

# figure: at most
TOLERANCES = {"mape": 0.056, "median_ape": 0.038, "macro_mape": 0.042}
SLICES = {"MoE": 0.112, "EP > 8": 0.15, "fp8 and mxfp8": 0.0795, "CP > 1": 0.0445, "TPU": 0.068}
RATIOS = {"chips": 0.025, "precisions": 0.047, "sizes": 0.0065, "sizes, mixed": 0.0115}
CELLS = {
    "Korthikanti et al. 2022, Table 5 (iteration time) | a100-80gb | dense": 0.0166,
    "Narayanan et al. SC21, Table 1 (weak scaling, Selene) | a100-80gb | dense": 0.0193,
    "Narayanan et al. SC21, Table 2 (PTD-P rows) | a100-80gb | dense": 0.0082,
    "Narayanan et al. SC21, Table 2 (ZeRO-3 rows) | a100-80gb | dense": 0.060,
    "NVIDIA DGX Cloud benchmarking recipes v25.04.02 | h100-sxm | dense": 0.060,
    "NVIDIA DGX Cloud benchmarking recipes v25.04.02 | h100-sxm | MoE": 0.054,
    "SimuMax B200 release v1.2 summary (measured columns) | b200 | dense": 0.036,
    "vTrain (MICRO24) measured ground truth, single-node | a100-80gb | dense": 0.056,
    "MaxText TPU v4 config README | tpu-v4 | dense": 0.018,
}


@pytest.fixture(scope="module")
def scored():
    return validate(str(measurements()))


def test_a_thousand_rows_and_more_are_scored(scored):
    assert scored["scored"] >= 1200 and scored["scored"] + sum(scored["skipped"].values()) == scored["rows"] == 1249


@pytest.mark.parametrize("figure", TOLERANCES)
def test_errors_do_not_grow(scored, figure):
    assert scored[figure] <= TOLERANCES[figure]


def test_there_is_no_bias(scored):
    assert abs(scored["bias"]) <= 0.007 and abs(scored["macro"]["bias"]) <= 0.005


@pytest.mark.parametrize("cell", CELLS)
def test_cells_do_not_get_worse(scored, cell):
    assert scored["by_cell"][cell]["mape"] <= CELLS[cell]


def test_no_cell_of_five_rows_is_far_off(scored):
    assert scored["macro"]["cells"] >= 22 and scored["macro"]["worst_mape"] <= 0.132


@pytest.mark.parametrize("name", SLICES)
def test_slices_do_not_get_worse(scored, name):
    assert scored["by_slice"][name]["mape"] <= SLICES[name]


@pytest.mark.parametrize("name", RATIOS)
def test_ratios_do_not_get_worse(scored, name):
    assert scored["ratios"][name]["median"] <= RATIOS[name]
    assert name.startswith("sizes") or scored["ratios"][name]["order_right"] >= 0.95


def test_the_largest_error_of_eight_well_described_runs(scored):
    assert scored["by_source"]["Korthikanti et al. 2022, Table 5 (iteration time)"]["max_ape"] <= 0.035


def test_the_best_layout_of_a_group_is_often_found(scored):
    assert scored["vtrain"]["groups"] == 68
    assert scored["vtrain"]["top1_hit"] >= 0.86 and scored["vtrain"]["mean_regret"] <= 0.009


def test_published_peaks_of_memory_are_met(scored):
    """E4: peaks measured on B200, none under by more than a hundredth."""
    from coopt.fit import rows
    from coopt.study.scored.tables import designs, price

    found, _ = designs(rows.read(measurements()))
    _, memory, _ = price(found)
    errors = [
        wanted / 2**30 / seen - 1.0
        for (_, one), wanted in zip(found, memory, strict=True)
        if (seen := rows.number(one.row, "measured_memory_gib")) == seen
    ]
    assert len(errors) == 18
    assert min(errors) > -0.012 and sum(abs(error) for error in errors) / 18 < 0.02


# Runs that nothing was fitted to (measurements/unseen.csv): error of the step time, at most.
UNSEEN = {
    "deepseek-v3": 0.065,
    "deepseek-v2": 0.13,
    "llama3-405b-8k-8192": 0.04,
    "llama3-405b-8k-16384": 0.015,
    "llama3-405b-128k-16384": 0.095,
    "palm-540b": 0.015,
    "nemotron4-340b-6144": 0.13,
    "titan-8b-128-compile": 0.04,
    "titan-70b-256": 0.085,
    "ironwood-405b-bf16": 0.055,
}


def test_runs_that_are_not_in_the_table_are_not_missed_by_more():
    from coopt.fit import rows
    from coopt.study.scored.tables import designs, price

    found, skipped = designs(rows.read(measurements().with_name("unseen.csv")))
    times, memory, _ = price(found)
    assert not skipped and len(found) == 45
    errors = {
        one.row["id"]: abs(time / rows.measured_step_time(one.row) - 1.0)
        for (_, one), time in zip(found, times, strict=True)
    }
    assert all(errors[run] <= most for run, most in UNSEEN.items()), errors
    assert np.mean(list(errors.values())) <= 0.161 and np.median(list(errors.values())) <= 0.14
    # what ran in 80 GiB is said to want 82 of them, where it was 166
    wanted = {one.row["id"]: bytes_ / 2**30 for (_, one), bytes_ in zip(found, memory, strict=True)}
    assert 75.0 < wanted["deepseek-v3"] < 83.0
