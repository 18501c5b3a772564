"""A frozen prediction stays as it was: line by line, file by file, and in every commit."""

from __future__ import annotations

import csv
import hashlib
import subprocess
from pathlib import Path

import pytest

from coopt.problems import Refused
from coopt.study.scored import ledger

LEDGER = Path(__file__).resolve().parents[2] / "docs" / "ledger"
DATE = "2026-01-02"
QUESTIONS = [("llama3-8b@gb300-nvl72:64/micro_batch=1", 128), ("llama3-70b@mi355x-8:64/tp=8,precision=fp8", 128)]


def test_frozen_lines_are_as_they_were():
    assert not ledger.problems(LEDGER), "\n".join(map(str, ledger.problems(LEDGER)))


def test_no_commit_has_changed_a_frozen_file():
    """Added once, never modified, moved or deleted, neither in history nor in the working tree."""
    for words in (
        ["log", "--format=%h", "--no-renames", "--diff-filter=MD"],
        ["diff", "--name-only", "--diff-filter=MD", "HEAD"],
    ):
        try:
            done = subprocess.run(
                ["git", *words, "--", "*.csv"], cwd=LEDGER, capture_output=True, text=True, check=False
            )
        except OSError:
            pytest.skip("no git")
        if done.returncode:
            pytest.skip("no repository")
        assert not done.stdout.split(), f"git {words[0]}: {done.stdout}"


@pytest.fixture
def folder(tmp_path):
    """A repository with a ledger of one file that is not in git yet."""
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    ledger.write(tmp_path, QUESTIONS, date=DATE)
    return tmp_path


def commit(folder: Path) -> None:
    who = ["-c", "user.name=t", "-c", "user.email=t@t"]
    subprocess.run(["git", "add", "-A"], cwd=folder, check=True)
    subprocess.run(["git", *who, "commit", "-qm", "t"], cwd=folder, check=True)


def rows(folder: Path) -> list[dict[str, str]]:
    with open(folder / f"{DATE}.csv", newline="") as file:
        return list(csv.DictReader(file))


def test_a_line_says_what_it_stands_on(folder):
    one, other = rows(folder)
    assert float(one["low"]) < float(one["step_time"]) < float(one["high"])
    assert one["date"] == DATE and one["coopt"] and one["fidelity"] == "transferred"
    assert "never compared with a run" in one["assumed"] and "precision=fp8" in other["layout"]
    assert one["sha256"] == ledger.digest(one) != other["sha256"] and not ledger.problems(folder)


@pytest.mark.parametrize("column", ["step_time", "low", "assumed", "date", "coopt", "layout", "sha256"])
def test_a_changed_line_is_found(folder, column):
    """Whatever was changed, and even where the file's digest was put right again."""
    path = folder / f"{DATE}.csv"
    changed = rows(folder)
    changed[1][column] = "0" + changed[1][column]
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, ledger.COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(changed)
    assert [problem.line for problem in ledger.problems(folder)] == [0, 3]
    (folder / ledger.DIGESTS).write_text(f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n")
    assert [problem.line for problem in ledger.problems(folder)] == [3]


def test_a_missing_and_an_unlisted_file_are_found(folder):
    (folder / f"{DATE}.csv").rename(folder / "2026-01-03.csv")
    assert {Path(problem.file).name for problem in ledger.problems(folder)} == {"2026-01-03.csv", ledger.DIGESTS}


def test_todays_file_may_be_written_again_until_it_is_in_git(folder):
    before = rows(folder)
    ledger.write(folder, QUESTIONS[:1], date=DATE)
    assert rows(folder) == before[:1] and not ledger.problems(folder)
    commit(folder)
    with pytest.raises(Refused, match="never changed"):
        ledger.write(folder, QUESTIONS, date=DATE)
    assert rows(folder) == before[:1]
    ledger.write(folder, QUESTIONS, date="2026-01-03")
    assert len((folder / ledger.DIGESTS).read_text().splitlines()) == 2 and not ledger.problems(folder)


def test_a_step_timed_by_other_means_stands_in_a_file_of_its_own(folder):
    commit(folder)
    design = ledger.parse(QUESTIONS[0][0], global_batch=128)
    timed = ledger.Timed(2.0, 1.5, 2.5, by="compiler cycles", said=("libtpu 1",))
    told, own = (ledger.line(design, date=DATE, timed=by) for by in (timed, None))
    ledger.keep(folder / f"{DATE}-cycles.csv", [told])
    assert not ledger.problems(folder) and len((folder / ledger.DIGESTS).read_text().splitlines()) == 2
    assert (told["step_time"], told["low"], told["high"], told["fidelity"]) == ("2", "1.5", "2.5", "compiler cycles")
    assert float(told["mfu"]) * 2.0 == pytest.approx(float(own["mfu"]) * float(own["step_time"]), rel=1e-3)
    assert told["layout"] == own["layout"] and told["assumed"] == "libtpu 1"


def test_a_design_that_does_not_run_is_not_predicted(tmp_path):
    with pytest.raises(Refused, match="runs"):
        ledger.write(tmp_path, [("llama3-70b@gb300-nvl72:1/tp=1", 1)], date=DATE)
    assert not list(tmp_path.iterdir())


def test_the_questions_of_the_script_can_be_answered(monkeypatch):
    """Every design runs, and covers the machines that nobody has published."""
    import importlib.util

    spec = importlib.util.spec_from_file_location("ledger_script", LEDGER.parents[1] / "scripts" / "ledger.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    told = [ledger.line(ledger.parse(text, global_batch=batch), date=DATE) for text, batch in script.questions()]
    assert len({one["id"] for one in told}) == len(told) >= 40
    assert {one["fidelity"] for one in told} == {"transferred"}
    assert all(0.02 < float(one["mfu"]) < 0.8 for one in told)
