"""Joint studies: nothing beats choosing everything at once, and each way of choosing by turns is what it says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from coopt.commands.chips import joint as command
from coopt.commands.parse import parse
from coopt.problems import Refused
from coopt.report.tables import kind, table
from coopt.search import chips as space
from coopt.spec import process, read
from coopt.spec.silicon import Design
from coopt.study.chips import used
from coopt.study.chips.joint import BASELINES, joint
from coopt.study.given.schema_joint import Joint

STUDIES = sorted(Path(__file__).parents[2].glob("scripts/joint/*.yaml"))
LISTED, CHIPS = ([one for one in STUDIES if one.stem.startswith("chip-") == wanted] for wanted in (False, True))


def thinned(file: Path) -> dict:
    """A study with fewer shapes, tokens, layouts and cluster sizes."""
    study, _ = read.read(file)
    shape = study["space"]["shape"]
    shape["layers"]["step"], shape["d_model"]["step"] = 8, 1024 if "chip" in study else 512
    for name, form in shape.items():
        if name == "d_ff" and isinstance(form["times"], list):
            form["times"] = form["times"][:2]
    for one in [study["chip"]] if "chip" in study else study["machines"]:
        one["chips"] = one["chips"][-1:]
    work = study["workload"]
    work["global_batch"], work["tokens"]["factor"] = work["global_batch"][-1:], 1.3
    study["layout"] |= {"tp": [1, 2], "pp": [1], "vpp": [1], "micro_batch": [1, 4]}
    return study


def asked(study: dict) -> Joint:
    return Joint.model_validate(study)


@pytest.fixture
def short(monkeypatch):
    """A search of chips that ends early: what is promised is promised of any."""
    for name, effort in {"EFFORT": 4, "AGAIN": 1, "ROUNDS": 2}.items():
        monkeypatch.setattr(used, name, effort)


@pytest.mark.parametrize("file", [LISTED[2], CHIPS[0]], ids=lambda path: path.stem)
def test_choosing_together_is_never_worse(file, short):
    check(thinned(file))


@pytest.mark.slow
@pytest.mark.parametrize("file", [*LISTED[:2], *LISTED[3:], *CHIPS[1:]], ids=lambda path: path.stem)
def test_choosing_together_is_never_worse_in_any_study(file, short):
    check(thinned(file))


def test_there_are_five_studies_of_each_kind_and_each_says_what_to_expect():
    """Listed machines, and free chips; every file opens with its command, its time and its table."""
    assert len(LISTED) >= 5 and len(CHIPS) >= 5
    for file in STUDIES:
        head = file.read_text().split("kind: joint")[0]
        assert f"coopt joint scripts/joint/{file.name}" in head and "processor time" in head, file
        assert all(way in head for way in ("together", *BASELINES)), file


def check(study) -> None:
    document = joint(asked(study))
    ways = {one["way"]: one for one in document["ways"]}
    assert set(ways) == set(BASELINES)
    objective, best = document["objective"], document["best"]
    for one in ways.values():
        if one["plan"] is None:
            continue
        assert one["gain"] >= -1e-9 and 0.0 <= one["p_gain"] <= 1.0
        assert best[objective] == pytest.approx(one["value"] * (1 - one["gain"]))
        same = one["plan"] == best
        assert same == (one["interval"] == [0.0, 0.0]), "only the same choice is sure to gain nothing"
    assert ways["moved"]["value"] <= (ways["published"]["value"] or float("inf"))
    known, published = ways["moved"]["plan"], study["published"]
    assert (known["tokens"], known["global_batch"]) == (float(published["tokens"]), published["global_batch"])
    assert ways["hardware-first"]["plan"]["hardware"] == known["hardware"]
    if "chip" in study:
        inside(study, [best, *(one["plan"] for one in ways.values() if one["way"] != "published")])
    assert kind(document) == "joint"
    said = table(document)
    assert max(map(len, said.splitlines())) <= 100
    assert all(way in said for way in ways) and document["title"] in " ".join(said.split())


def inside(study, plans) -> None:
    """Chips that were sought keep the limits of the study and of physics; `chip` is the design that was priced."""
    made_with, limits = process.process(), asked(study).chip.limits.given()
    for plan in plans:
        told = {name: value for name, value in plan["chip"].items() if name in Design.__dataclass_fields__}
        for field, names in (("node", "nodes"), ("memory", "memories"), ("link", "links")):
            told[field] = float(made_with.names[names].index(told[field]))
        design = Design(**told)
        if design.own:
            taken = space.loads(design, made_with, limits)
            assert all(np.max(share) <= 1.0 + 1e-9 for share in taken.values()), taken


def test_what_no_law_speaks_of_is_refused():
    study = thinned(LISTED[0])
    with pytest.raises(Refused, match="inside the range"):
        joint(asked({**study, "published": {"model": "llama3-70b", "tokens": 15e12, "global_batch": 2048}}))
    with pytest.raises(Refused, match="later deadline"):
        joint(asked({**study, "limits": {"run_time": 60.0}}))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"law": None}, "a law to compare|`law:`"),
        ({"machines": [{"hardware": "host"}]}, "machines by name"),
        ({"chip": {"designs": ["h100"], "chips": [64]}}, "either `machines:` or `chip:`"),
        ({"published": {"model": "mpt-1b"}}, "published.tokens"),
        ({"objective": "joy"}, "objective"),
    ],
)
def test_mistakes_are_said_with_their_place(change, said, tmp_path):
    import yaml

    file = tmp_path / "mine.yaml"
    file.write_text(yaml.safe_dump({key: value for key, value in {**thinned(LISTED[0]), **change}.items() if value}))
    with pytest.raises(Refused, match=said):
        command(parse(["joint", str(file)]))


def test_a_name_is_no_file():
    with pytest.raises(Refused, match="a joint study's file"):
        command(parse(["joint", "dollars"]))
