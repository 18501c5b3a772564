"""A run as a citable result: one file, derived again elsewhere, joined, corrected (A16, D4, D5)."""

from __future__ import annotations

import argparse
import json
import shutil
import tarfile
from pathlib import Path

import pytest

from coopt.commands import runs as verbs
from coopt.problems import Refused
from coopt.store import Corrupt, NewerFormat, bundle, create, identity, open_run
from coopt.store.merge import merge
from coopt.study import changed, main, replay
from coopt.study.answer import ANSWER
from coopt.study.given import inputs

REPOSITORY = Path(__file__).resolve().parents[2]
CHIP = REPOSITORY / "hw_profiles/chips/h100-sxm.yaml"
# What a `host` job answers; the numbers are nobody's.
HOST = {
    "name": "Test CPU", "platform": "cpu", "device": "cpu", "cores": 2, "versions": {"jax": "0.10.2"},
    "memory": 16 * 2.0**30, "memory_available": 12 * 2.0**30, "dispatch": {"time": 8e-6}, "bandwidth": {"rate": 2e10},
    "matmul": {"fp32": {"256": {"rate": 8.0e10}, "512": {"rate": 9.0e10}, "1024": {"rate": 9.6e10}},
               "bf16": {"512": {"rate": 4.0e10}, "1024": {"rate": 4.2e10}}},
}  # fmt: skip
STUDY = """\
kind: study
name: tiny
title: Two machines, one of them this host
model: gpt2-124m
machines: [{hardware: host}, {hardware: dgx-h100, chips: 8}]
workload: {seq_len: 256, global_batch: [8, 16]}
layout: {micro_batch: [1, 2], precision: [fp32, bf16], fused_attention: [0, 1], recompute: [none], vpp: [1], cp: [1],
         offload: [0], order: [0]}
objective: time_per_token
top: 4
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A finished run whose host was `measured` by a journal: everything else is the real thing."""
    root = tmp_path_factory.mktemp("runs")
    job = {"kind": "host", "budget_s": 3.0}
    with create(root, "given", STUDY, started="2026-01-02T00:00:00+00:00") as given:
        given.claim("a")
        given.finish("a", "ok", result=HOST, job=job, seconds=2.0)
    kept = open_run(root / "given")
    study = main.asked.written(STUDY, file="study.yaml").study
    for name, data in inputs.read(study).items():
        (root / "given" / name).parent.mkdir(parents=True, exist_ok=True)
        (root / "given" / name).write_bytes(data)
    main.again(root / "again", kept, replay.Playback(kept))
    return root / "again" / "given"


@pytest.fixture(scope="module")
def packed(run, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("bundles") / "given.coopt.tar"
    replay.pack(open_run(run), out)
    return out


def told(**given) -> argparse.Namespace:
    return argparse.Namespace(**{"profile_path": None, "changed_by": None, "out": None, "name": None, **given})


def test_a_bundle_is_the_same_bytes_again_and_any_tar_lists_it(run, packed, tmp_path):
    again = replay.pack(open_run(run), tmp_path / "again.tar")
    assert (tmp_path / "again.tar").read_bytes() == packed.read_bytes()
    with tarfile.open(packed) as tar:
        names = tar.getnames()
        assert names[0] == "manifest.json" and set(names[1:]) == set(again.files)
        assert {member.mtime for member in tar} == {0} and {member.type for member in tar} == {tarfile.REGTYPE}
    assert {"study.yaml", "journal", ANSWER, "inputs/hw_profiles/chips/h100-sxm.yaml"} <= set(names)
    assert bundle.read(packed).digest == again.digest and bundle.read(packed).about["versions"]["coopt"]


def test_any_flipped_bit_of_a_bundle_is_refused(tmp_path):
    """A4 for bundles: a bit of every byte that says something, and of every 16th of the padding."""
    path = tmp_path / "small.tar"
    bundle.write(path, {"study.yaml": b"a: 1\n", "inputs/x.yaml": b"b: 2\n"}, run="small")
    data = path.read_bytes()
    for place in (place for place in range(len(data)) if data[place] or place % 16 == 0):
        path.write_bytes(data[:place] + bytes([data[place] ^ (1 << place % 8)]) + data[place + 1 :])
        with pytest.raises(Refused):
            bundle.read(path)
    for cut in range(0, len(data), 97):
        path.write_bytes(data[:cut])
        with pytest.raises(Corrupt):
            bundle.read(path)


@pytest.mark.parametrize(
    "name", ["../x", "/etc/x", "a/../../x", "C:\\x", ".hidden", "a//b", "nul", "a\0b", "x" * 200, "a/ b"]
)
def test_no_member_leads_out_of_the_folder(tmp_path, name):
    """D5: neither a name that we would write, nor one in a tar made by hand."""
    with pytest.raises(Refused):
        bundle.write(tmp_path / "out.tar", {name: b"x"})
    with tarfile.open(tmp_path / "hand.tar", "w", format=tarfile.USTAR_FORMAT) as tar:
        for title in ("manifest.json", name[:90]):
            tar.addfile(tarfile.TarInfo(title))
    with pytest.raises(Refused):
        bundle.read(tmp_path / "hand.tar")


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE, tarfile.CHRTYPE])
def test_only_plain_files_are_read(tmp_path, kind):
    """D5: links, pipes, devices and folders of a tar are refused before anything is written."""
    with tarfile.open(tmp_path / "hand.tar", "w", format=tarfile.USTAR_FORMAT) as tar:
        member = tarfile.TarInfo("study.yaml")
        member.type, member.linkname = kind, "../../etc/passwd"
        tar.addfile(member)
    with pytest.raises(Corrupt, match="plain file"):
        bundle.read(tmp_path / "hand.tar")


def test_a_later_format_and_nonsense_are_refused(tmp_path):
    """A16, D4: a manifest that is no manifest, or of a later coopt; nothing of it is run."""
    from coopt.store.bundle import MANIFEST, _packed

    said = {"kind": "bundle", "version": 2, "files": {}}
    (tmp_path / "later.tar").write_bytes(_packed({MANIFEST: json.dumps(said).encode()}))
    with pytest.raises(NewerFormat):
        bundle.read(tmp_path / "later.tar")
    for text in (b"", b"[]", b"[" * 5000, b"\x80\x04cos\nsystem\n.", b'{"kind": "bundle"}', b'{"files": 7}'):
        (tmp_path / "odd.tar").write_bytes(_packed({MANIFEST: text}))
        with pytest.raises(Refused):
            bundle.read(tmp_path / "odd.tar")


def test_every_derived_number_comes_out_again(packed, tmp_path, monkeypatch):
    """In another folder, with nothing but the bundle: identical; what was measured is counted and not measured."""
    monkeypatch.chdir(tmp_path)
    document = replay.replay(packed)
    assert document["identical"] and document["differing"] == 0 and document["changed"] == []
    assert document["numbers"] > 300 and document["measured_elsewhere"] >= 8
    assert not list(tmp_path.iterdir())


def test_the_first_number_that_differs_is_named_with_what_changed(run, packed, tmp_path):
    """A figure of the answer that its own profiles do not give, under another version and other code."""
    files = dict(bundle.read(packed).files)
    answer = json.loads(files[ANSWER])
    answer["plans"][1]["step_time"] *= 1.001
    files[ANSWER] = json.dumps(answer).encode()
    files["journal"] = _stamped(run, tmp_path, versions={"jax": "0.0.1"}, code={"cost/roofline.py": "0" * 16})
    bundle.write(tmp_path / "other.tar", files, run="given")
    document = verbs.replay(told(file=str(tmp_path / "other.tar")))
    assert document["first"]["field"] == "plans[1].step_time" and document["differing"] == 1
    assert document["largest_difference"] == pytest.approx(0.001, rel=1e-2)
    (error,) = document["errors"]
    assert "jax (0.0.1 there" in error["hint"] and error["field"] == "plans[1].step_time"
    assert "coopt/cost/roofline.py" in {one["what"] for one in document["changed"]}


def _stamped(run: Path, folder: Path, **stamp) -> bytes:
    """The journal of a run with another last stamp."""
    shutil.copytree(run, folder / "copy")
    with main.store.resume(folder / "copy") as opened:
        opened.note("stamp", **stamp)
    return (folder / "copy" / "journal").read_bytes()


def test_a_run_without_an_answer_is_not_bundled(tmp_path):
    with create(tmp_path, "begun", "a: 1\n"):
        pass
    with pytest.raises(Refused, match="reached its answer"):
        replay.pack(open_run(tmp_path / "begun"), tmp_path / "x.tar")


# ---------------------------------------------------------------- a profile is corrected


def test_a_corrected_profile_says_which_conclusions_fall(run, tmp_path):
    """The plans are priced as they were saved, and a profile that slows the winner turns the ranking."""
    saved, answer = open_run(run), json.loads((run / ANSWER).read_text())
    study = inputs.located(main.asked.written(saved.study, file="study.yaml").study)
    before = changed._values(saved, study, answer, inputs.folders(run))
    assert before == pytest.approx([plan["time_per_token"] for plan in answer["plans"]], rel=1e-12)
    assert {plan["hardware"] for plan in answer["plans"]} == {"dgx-h100", "host-test-cpu-x2"}

    (same,) = changed.changed_by([saved], str(CHIP))
    assert same["conclusion"].startswith("holds") and "ranks_now" not in same
    slow = CHIP.read_text().replace("989.4 TFLOP/s", "10 GFLOP/s").replace("67 TFLOP/s", "10 GFLOP/s")
    slow = slow.replace("494.7 TFLOP/s", "10 GFLOP/s").replace("66.9 TFLOP/s", "10 GFLOP/s")
    (tmp_path / "h100-sxm.yaml").write_text(slow)
    (told_of,) = changed.changed_by([saved], str(tmp_path / "h100-sxm.yaml"))
    assert told_of["conclusion"].startswith("no longer holds") and told_of["better_by"] > 0
    assert told_of["winner_changes_by"] > 0 and told_of["ranks_now"][0] > 1
    assert changed.changed_by([saved], "b200") == []
    with pytest.raises(Refused, match="name or file"):
        changed.changed_by([saved], "no-such-chip")
    document = verbs.runs(told(runs=str(run.parent), changed_by=str(tmp_path / "h100-sxm.yaml")))
    assert [one["name"] for one in document["runs"]] == ["given"]


def test_a_run_goes_on_with_the_profiles_it_was_begun_with(tmp_path, monkeypatch):
    """A correction, or a folder of profiles that is gone, changes nothing of a run that exists."""
    own = tmp_path / "own"
    own.mkdir()
    shutil.copy(CHIP, own / "h100-sxm.yaml")
    (own / "mine.yaml").write_text(
        "kind: model\nname: mine\ntitle: Mine\nextends: gpt2-124m\nsources: {s: {title: S, date: 2026}}\n"
    )
    text = STUDY.replace("{hardware: host}, ", "").replace("model: gpt2-124m", f"model: {own / 'mine.yaml'}")
    study = main.asked.written(text, file="study.yaml").study
    found = inputs.read(study, path=own)
    assert {"inputs/models/mine.yaml", "inputs/models/gpt2-124m.yaml"} <= set(found)
    with create(tmp_path / "runs", "mine", text, files=found):
        pass
    shutil.rmtree(own)
    where = {"executor": None, "workers": 2, "ray_address": None, "block_seconds": None}
    document = main.resume(told(run="mine", runs=str(tmp_path / "runs"), **where))
    assert document["plans"] and document["plans"][0]["model"] == "mine"
    assert (tmp_path / "runs/mine/inputs/hw_profiles/chips/h100-sxm.yaml").read_bytes() == CHIP.read_bytes()


# ---------------------------------------------------------------- two runs of one study


def half(root: Path, name: str, trials: range, *, value=lambda n: n * 0.5, study: str = "a: 1\n") -> Path:
    with create(root, name, study, started=f"2026-01-0{len(name)}") as opened:
        for n in trials:
            opened.claim(identity({"trial": n}))
            opened.finish(identity({"trial": n}), "ok", result={"time": value(n)})
    return root / name


def test_two_runs_of_one_study_are_joined(tmp_path):
    """Each trial once; where both did it the first stands, and another outcome is noted."""
    a = half(tmp_path, "a", range(6))
    b = half(tmp_path, "bb", range(4, 10), value=lambda n: n * 0.5 if n != 5 else 9.0)
    before = [(path / "journal").read_bytes() for path in (a, b)]
    made = merge(a, b, tmp_path, "both")
    assert (made.first, made.second, made.both, len(made.disagreements)) == (4, 4, 2, 1)
    saved = open_run(tmp_path / "both")
    times = {record["id"]: record["result"]["time"] for record in saved.trials.done.values()}
    assert times == {identity({"trial": n}): n * 0.5 for n in range(10)} and not saved.trials.begun
    (noted,) = [note for note in saved.trials.notes if note["kind"] == "disagreement"]
    assert noted["kept"]["result"] == {"time": 2.5} and noted["other"]["result"] == {"time": 9}
    assert saved.trials.notes[0]["started"] == "2026-01-01"
    assert [(path / "journal").read_bytes() for path in (a, b)] == before
    with main.store.resume(tmp_path / "both") as opened:
        assert opened.queue([identity({"trial": n}) for n in range(11)]) == [identity({"trial": 10})]


def test_runs_that_cannot_be_joined_are_refused(tmp_path):
    """D5 and the rest: another study, a name that is taken or no name, a damaged journal; nothing is made."""
    a, b = half(tmp_path, "a", range(2)), half(tmp_path, "bb", range(2))
    other = half(tmp_path, "other", range(2), study="a: 2\n")
    with pytest.raises(Refused, match="study"):
        merge(a, other, tmp_path, "both")
    for name in ("a", "../x", "A"):
        with pytest.raises(Refused):
            merge(a, b, tmp_path, name)
    (b / "journal").write_bytes((b / "journal").read_bytes().replace(b"ok", b"no", 1))
    with pytest.raises(Refused, match="repair"):
        merge(a, b, tmp_path, "both")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "bb", "other"]
    document = verbs.merge(told(run="a", other="a", runs=str(tmp_path), name="twice"))
    assert document["in_both"] == 2 and document["disagreements"] == []
