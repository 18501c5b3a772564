"""Joint studies: nothing beats choosing everything at once, and each way of choosing by turns is what it says."""

import importlib.util
from pathlib import Path
from typing import Any

import pytest

from coopt.problems import Refused
from coopt.study.joint import BASELINES, Published, joint, text

STUDIES = sorted(Path(__file__).parents[2].glob("scripts/joint_*.py"))


def thinned(script: Path) -> tuple[dict[str, Any], Published]:
    """The study of a script with fewer shapes, tokens, layouts and cluster sizes."""
    spec = importlib.util.spec_from_file_location(script.stem, script)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    study = module.STUDY
    shape = {**study["space"]["shape"]}
    shape["layers"] = {**shape["layers"], "step": 8}
    shape["d_model"] = {**shape["d_model"], "step": 512}
    machines = [{**one, "chips": one["chips"][-1:]} for one in study["machines"]]
    batch = study["workload"]["global_batch"][-1:]
    work = {**study["workload"], "global_batch": batch, "tokens": {**study["workload"]["tokens"], "factor": 1.3}}
    layout = {**study["layout"], "tp": [1, 2], "pp": [1], "vpp": [1], "micro_batch": [1, 4]}
    return {**study, "space": {**study["space"], "shape": shape}, "machines": machines, "workload": work,
            "layout": layout}, module.PUBLISHED  # fmt: skip


@pytest.mark.parametrize("script", STUDIES[2:3], ids=lambda path: path.stem)
def test_choosing_together_is_never_worse(script):
    check(*thinned(script))


@pytest.mark.slow
@pytest.mark.parametrize("script", STUDIES[:2] + STUDIES[3:], ids=lambda path: path.stem)
def test_choosing_together_is_never_worse_in_any_study(script):
    check(*thinned(script))


def check(study, published) -> None:
    document = joint(study, published)
    ways = {one["way"]: one for one in document["ways"]}
    assert set(ways) == set(BASELINES)
    objective, best = document["objective"], document["best"]
    for one in ways.values():
        if one["plan"] is None:
            continue
        assert one["gain"] >= -1e-9 and 0.0 <= one["p_gain"] <= 1.0
        assert best[objective] == pytest.approx(one["value"] * (1 - one["gain"]))
    assert ways["moved"]["value"] <= (ways["published"]["value"] or float("inf"))
    known = ways["moved"]["plan"]
    assert (known["model"], known["tokens"], known["global_batch"]) == (
        published.model, published.tokens, published.batch
    )  # fmt: skip
    assert ways["hardware-first"]["plan"]["hardware"] == known["hardware"]
    said = text(document)
    assert all(way in said for way in ways) and document["title"] in said


def test_what_no_law_speaks_of_is_refused():
    study, _ = thinned(STUDIES[0])
    with pytest.raises(Refused, match="inside the range"):
        joint(study, Published("llama3-70b", tokens=15e12, batch=2048.0))
    with pytest.raises(Refused, match="law"):
        joint({**study, "law": None}, Published("gpt3-2.7b", tokens=3e11, batch=512.0))
    with pytest.raises(Refused, match="later deadline"):
        joint({**study, "limits": {"run_time": 60.0}}, Published("gpt3-2.7b", tokens=3e11, batch=512.0))
