"""The command line's shell: what it reads, what it prints, and how it ends, from another process."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from coopt.commands import say
from coopt.commands.parse import Usage, help_text, parse
from coopt.commands.table import COMMANDS, EVERYWHERE, FLAGS
from coopt.problems import Problem, Refused


def coopt(*words: str, cwd: Path | None = None, seconds: float = 120) -> subprocess.CompletedProcess[str]:
    """`coopt words`, as a user runs it."""
    return subprocess.run(
        [sys.executable, "-m", "coopt", *words],
        cwd=cwd, env=environment(), capture_output=True, text=True, timeout=seconds, stdin=subprocess.DEVNULL,
    )  # fmt: skip


def environment() -> dict[str, str]:
    """The environment, with the checkout importable from any folder."""
    here = str(Path(__file__).resolve().parents[2])
    return {**os.environ, "PYTHONPATH": os.pathsep.join([here, *filter(None, [os.environ.get("PYTHONPATH")])])}


def with_verb(tmp_path: Path, body: str, *words: str, wait_for: str = "") -> subprocess.Popen[str]:
    """A process that runs the shell around a verb of the test's own, in the place of `coopt runs`."""
    script = tmp_path / "shell.py"
    script.write_text(
        "import sys, time, os, signal\n"
        "from coopt import cli\n"
        "from coopt.commands.table import COMMANDS\n"
        "from coopt.problems import Problem, Refused\n"
        f"def verb(options):\n{textwrap.indent(textwrap.dedent(body), '    ')}\n"
        "sys.modules['verbs'] = sys.modules['__main__']\n"
        "row = dict(run='verbs:verb', show='coopt.commands.say:as_text', jax='--debug' in sys.argv)\n"
        "COMMANDS['runs'] = COMMANDS['runs']._replace(**row)\n"
        "cli.run()\n"
    )
    process = subprocess.Popen(
        [sys.executable, str(script), "runs", *words],
        env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path,
    )  # fmt: skip
    if wait_for:
        assert process.stderr is not None
        assert wait_for in process.stderr.readline()
    return process


def outcome(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    """Exit code, stdout and stderr."""
    out, err = process.communicate(timeout=60)
    return process.returncode, out, err


# ---------------------------------------------------------------- help and usage


def test_help_answers_in_half_a_second():
    """Scaled by what starting an interpreter costs on this machine at this moment."""
    pace, took = [], []
    for _ in range(5):
        start = time.perf_counter()
        subprocess.run([sys.executable, "-c", "import argparse, json, absl.app"], check=True)
        pace.append(time.perf_counter() - start)
        start = time.perf_counter()
        assert coopt("--help").returncode == 0
        took.append(time.perf_counter() - start)
    assert min(took) < max(0.5, 2.5 * min(pace)), (took, pace)


@pytest.mark.parametrize("words", [("--help",), ("explain", "--help"), ("search", "-h"), ("runs", "--format=yaml")])
def test_nothing_heavy_is_imported_before_a_verb(words):
    script = (
        f"import sys\nfrom coopt import cli\nsys.argv = ['coopt', *{words!r}]\n"
        "try:\n    cli.run()\nfinally:\n"
        "    heavy = {'jax', 'numpy', 'pydantic', 'matplotlib', 'scipy', 'rich', 'ruamel'} & set(sys.modules)\n"
        "    assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment())
    assert done.returncode == (2 if "--format=yaml" in words else 0), done.stderr
    assert "AssertionError" not in done.stderr, done.stderr


def test_help_names_every_command_and_every_flag():
    assert all(f"\n  {verb} " in help_text() for verb in COMMANDS)
    shown = coopt("search", "--help").stdout
    assert all(f"--{name}" in shown for name in (*COMMANDS["search"].flags, *EVERYWHERE))


def test_version(tmp_path):
    done = coopt("--version", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()[0].isdigit()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "coopt --help"),
        (("exlain",), "did you mean explain?"),
        (("explain", "--modle=x"), "did you mean --model?"),
        (("--modle", "x", "explain"), "did you mean --model?"),
        (("explain", "--model=x"), "--hardware"),
        (("explain", "--model=x", "--hardware=y", "--chips=12.5"), "whole number"),
        (("explain", "--model=x", "--hardware=y", "--chips=-8"), "from 1, got"),
        (("explain", "--model=x", "--hardware=y", "--chips=inf"), "from 1, got"),
        (("explain", "--model=x", "--hardware=y", "--workload=dance"), "train"),
        (("explain", "--model=x", "--hardware=y", "stray"), "stray"),
        (("explain", "--model=x", "--hardware=y", "layuot.tp=8"), "did you mean layout"),
        (("explain", "--model=x", "--hardware=y", "layout.tp=8", "layout.tp=4"), "twice"),
        (("explain", "--model=x", "--hardware=y", "stack.fitted.hide=0.5"), "does not know 'stack.fitted.hide'"),
        (("compare", "x@y", "x@z", "layout.tp=8"), "does not know 'layout.tp'"),  # each design has its own
        (("hardware", "--chips=8"), "no flag --chips"),
        (("resume",), "run"),
        (("search", "--loss<=cheap"), "number"),
        (("search", "--executor=process", "--workers=0"), "a whole number from 1, got '0'"),  # nobody would do the work
        (("search", "--block_seconds=0"), "a number above 0, got '0'"),
        (("explain", "--model=x", "--hardware=y", "--chips=1.5"), "a whole number from 1, got '1.5'"),
        (("codesign", "--power=nan"), "a number above 0, got 'nan'"),
        (("runs", "--format=yaml"), "json"),
        (("runs", "--verbosity=loud"), "verbosity"),
    ],
)
def test_usage_mistakes_end_with_2_and_a_sentence(words, said):
    done = coopt(*words)
    assert done.returncode == 2, (done.returncode, done.stderr)
    assert said in done.stderr and "Traceback" not in done.stderr
    assert done.stdout == ""


def test_a_usage_mistake_is_a_json_document_where_json_was_asked_for():
    done = coopt("explain", "--format=json", "--modle=x")
    assert done.returncode == 2
    (error,) = json.loads(done.stdout)["errors"]
    assert set(error) == {"file", "line", "field", "expected", "got", "hint"} and "--model" in error["hint"]


# ---------------------------------------------------------------- what is read


def test_flags_and_settings_stand_before_or_after_the_command():
    wanted = dict(model="a", hardware="b", chips=1024, seq_len=4096, overrides={"layout.tp": "8"}, command="explain")
    for words in (
        ["explain", "--model=a", "--hardware=b", "--chips=1024", "--seq_len=4096", "layout.tp=8"],
        ["--model", "a", "--hardware", "b", "explain", "--chips", "1024", "--seq-len=4_096", "layout.tp=8"],
        ["layout.tp=8", "model=a", "--chips=1024", "explain", "hardware=b", "seq_len=4096"],
        ["--model=a", "layout.tp=8", "--verbosity", "0", "explain", "chips=1024", "seq_len=4096", "--hardware=b"],
    ):
        options = vars(parse(words))
        assert {key: options[key] for key in wanted} == wanted, words


def test_values_with_equals_signs_are_not_settings():
    options = parse(["explain", "--model", "search", "--hardware=b", "--layout", "tp=8,pp=4"])
    assert (options.model, options.layout, options.command) == ("search", "tp=8,pp=4", "explain")
    designs = ["llama3-70b@dgx-h100:1024/tp=8,pp=4", "run#1"]
    assert parse(["compare", *designs]).designs == designs
    assert parse(["check", "--", "a=b.yaml"]).files == ["a=b.yaml"]


def test_loss_at_most_and_yes_or_no_settings():
    assert parse(["search", "--loss<=2.4"]).loss == parse(["search", "--loss=2.4"]).loss == 2.4
    assert parse(["search", "resume=yes"]).resume and not parse(["search", "resume=no"]).resume
    assert parse(["search", "hardware.memory.capacity=192 GiB"]).overrides == {"hardware.memory.capacity": "192 GiB"}


def test_every_example_and_default_of_the_table_is_read():
    for verb, command in COMMANDS.items():
        options = parse(command.example.split()[1:])
        assert options.command == verb
        for name in (*command.flags, *EVERYWHERE):
            takes, default = FLAGS[name].takes, FLAGS[name].default
            assert FLAGS[name].help and (default is None or not isinstance(takes, tuple) or default in takes)
            assert hasattr(options, name)


@pytest.mark.parametrize("verb", COMMANDS)
def test_every_verb_of_the_table_exists(verb):
    """Each command leads to a function of one argument, and so does what shows its document."""
    import importlib
    import inspect

    for address in (COMMANDS[verb].run, COMMANDS[verb].show):
        module, _, name = address.partition(":")
        function = getattr(importlib.import_module(module), name)
        assert len([p for p in inspect.signature(function).parameters.values() if p.default is p.empty]) == 1


# ---------------------------------------------------------------- what is printed, and how it ends


def test_json_is_one_document_whatever_the_verb_prints(tmp_path):
    """What is not a finite number is null; a verb's own printing goes to stderr."""
    body = "print('chatter'); import numpy\nreturn {'a': float('nan'), 'b': numpy.arange(2), 'c': [float('inf'), 1.5]}"
    code, out, err = outcome(with_verb(tmp_path, body, "--format=json"))
    assert code == 0 and json.loads(out) == {"a": None, "b": [0, 1], "c": [None, 1.5]} and "chatter" in err


def test_the_driver_is_on_the_cpu_in_float64_and_tells_no_child(tmp_path):
    """One owner per accelerator: what the driver chooses for itself, a child that times does not inherit."""
    body = """
        import jax
        kept = [name for name in os.environ if name.startswith('JAX_')]
        return {'x64': jax.numpy.zeros(2).dtype.name, 'platform': jax.devices()[0].platform, 'kept': kept}
    """
    os_environ = {name: value for name, value in os.environ.items() if not name.startswith("JAX_")}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "environ", os_environ)
        code, out, _ = outcome(with_verb(tmp_path, body, "--debug", "--format=json"))
    assert code == 0 and json.loads(out) == {"x64": "float64", "platform": "cpu", "kept": []}


def test_a_refusal_is_every_sentence_once_and_1(tmp_path):
    body = "raise Refused(Problem(file='a.yaml', line=3, field='x', got='1'), Problem(file='b.yaml', line=9, got='2'))"
    code, out, err = outcome(with_verb(tmp_path, body))
    assert (code, out, err.splitlines()) == (1, "", ["a.yaml:3: x: got 1", "b.yaml:9: got 2"])
    code, out, err = outcome(with_verb(tmp_path, body, "--format=json"))
    assert code == 1 and [error["line"] for error in json.loads(out)["errors"]] == [3, 9]


def test_errors_in_a_document_end_with_1(tmp_path):
    body = "return {'errors': [{'file': 'a.yaml', 'line': 2, 'hint': 'write a name'}]}"
    code, out, err = outcome(with_verb(tmp_path, body))
    assert (code, err.strip()) == (1, "a.yaml:2: write a name")


def test_a_bug_is_a_sentence_and_a_traceback_only_on_request(tmp_path):
    body = "raise KeyError('no such\\nthing')"
    code, out, err = outcome(with_verb(tmp_path, body))
    assert code == 1 and "Traceback" not in err and "KeyError" in err and "--debug" in err and err.count("\n") == 1
    code, out, err = outcome(with_verb(tmp_path, body, "--debug"))
    assert code == 1 and "Traceback" in err
    code, out, err = outcome(with_verb(tmp_path, body, "--format=json"))
    assert code == 1 and "KeyError" in json.loads(out)["errors"][0]["hint"]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 75)])
@pytest.mark.parametrize("how", ["plain", "wrapped"])
def test_signals_end_with_their_code_and_one_line(tmp_path, number, code, how):
    """A13: also where a library turns the interruption into an exception of its own."""
    body = {
        "plain": "print('up', flush=True); time.sleep(60)",
        "wrapped": """
            print('up', flush=True)
            try:
                time.sleep(60)
            except BaseException as inside:
                raise RuntimeError('a callback failed') from inside
        """,
    }[how]
    process = with_verb(tmp_path, body, wait_for="up")
    start = time.monotonic()
    process.send_signal(number)
    ended, out, err = outcome(process)
    assert ended == code and out == "" and "Traceback" not in err and len(err.splitlines()) == 1, (ended, err)
    assert time.monotonic() - start < 5


def test_a_second_signal_ends_it_at_once(tmp_path):
    """A13: whatever is still tidying up."""
    body = """
        try:
            print('up', flush=True)
            time.sleep(60)
        finally:
            print('tidying', flush=True)
            time.sleep(60)
    """
    process = with_verb(tmp_path, body, wait_for="up")
    process.send_signal(signal.SIGTERM)
    assert process.stderr is not None and "tidying" in process.stderr.readline()
    process.send_signal(signal.SIGTERM)
    assert outcome(process)[0] == 75


def test_a_reader_that_left_is_no_error(tmp_path):
    process = with_verb(tmp_path, "return {str(i): 'x' * 80 for i in range(20000)}")
    assert process.stdout is not None and process.stderr is not None
    with process.stdout, process.stderr:
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == "" and process.wait(60) == 0


def test_documents_hold_nothing_strange():
    with pytest.raises(TypeError, match="object"):
        say.as_json({"a": object()})
    assert say.errors([Problem(hint="h")])["errors"][0]["hint"] == "h"
    assert "not known" in say.as_text({"price": None})


def test_usage_keeps_the_verb():
    with pytest.raises(Usage) as mistake:
        parse(["runs", "--nmae=x"])
    assert mistake.value.verb == "runs"


# ---------------------------------------------------------------- real files


def test_an_unknown_name_is_refused_with_the_nearest(tmp_path):
    done = coopt("hardware", "dgx-h10", cwd=tmp_path)
    assert done.returncode == 1 and "dgx-h100" in done.stderr and "Traceback" not in done.stderr


def test_hardware_lists_and_shows_sources(tmp_path):
    listed = json.loads(coopt("hardware", "--format=json", cwd=tmp_path).stdout)
    assert "dgx-h100" in json.dumps(listed)
    shown = json.loads(coopt("hardware", "h100-sxm", "--format=json", cwd=tmp_path).stdout)
    (bandwidth,) = [field for field in shown["fields"] if field["field"] == "memory.bandwidth"]
    assert bandwidth["value"] == "3.35 TB/s" and bandwidth["source"] and bandwidth["date"]
    assert "3.35 TB/s" in coopt("hardware", "h100-sxm", cwd=tmp_path).stdout


def test_models_lists_and_shows_sources(tmp_path):
    assert "llama3-70b" in coopt("models", cwd=tmp_path).stdout
    assert "128256" in coopt("models", "llama3-70b", "--format=json", cwd=tmp_path).stdout


def test_check_names_file_and_line(tmp_path):
    """D1: two broken files, every mistake of both."""
    (tmp_path / "a.yaml").write_text("kind: model\nname: a\nd_model: -3\nlayres: []\n")
    (tmp_path / "b.yaml").write_text("kind: chip\nname: b\nmemory: {capacity: 80}\n")
    done = coopt("check", "a.yaml", "b.yaml", "--format=json", cwd=tmp_path)
    assert done.returncode == 1, done.stderr
    errors = json.loads(done.stdout)["errors"]
    places = {(Path(error["file"]).name, error["line"]) for error in errors}
    assert {("a.yaml", 3), ("a.yaml", 4), ("b.yaml", 3)} <= places, places
    assert "Traceback" not in done.stderr


def test_check_passes_what_ships(repository):
    done = coopt("check", str(repository / "models"), str(repository / "hw_profiles"))
    assert done.returncode == 0, done.stderr


def test_a_missing_file_is_refused(tmp_path):
    done = coopt("check", "nowhere.yaml", cwd=tmp_path)
    assert done.returncode == 1 and "nowhere.yaml" in done.stderr and "Traceback" not in done.stderr


def test_no_runs_yet(tmp_path):
    done = coopt("runs", "--format=json", cwd=tmp_path)
    assert done.returncode == 0 and json.loads(done.stdout)["runs"] == []


def test_a_run_that_is_not_there_is_refused(tmp_path):
    for verb in ("report", "resume"):
        done = coopt(verb, "nothing", cwd=tmp_path)
        assert done.returncode == 1 and "nothing" in done.stderr and "Traceback" not in done.stderr, done.stderr


@pytest.mark.parametrize("words", [("search", "--help"), ("models", "llama3-8b")])
def test_a_terminal_of_few_letters_loses_them_and_no_more(words, monkeypatch, tmp_path):
    monkeypatch.setenv("PYTHONIOENCODING", "ascii")
    done = coopt(*words, cwd=tmp_path)
    assert done.returncode == 0 and "?" in done.stdout and not done.stderr


@pytest.mark.parametrize("words", [("measure",), ("calibrate",), ("predict", "rows.csv"), ("plan",), ("codesign",)])
def test_what_could_not_be_written_is_refused_before_the_work(words, tmp_path):
    """Neither minutes of timing nor a plan of years is lost to a folder that is not there."""
    done = coopt(*words, f"--out={tmp_path}/nowhere/answer.json", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (1, "") and "out: expected a file in a folder that exists" in done.stderr


def test_names_are_looked_up_before_the_machine_is_measured(monkeypatch):
    """Seconds of timing do not come before a sentence about a name."""
    from coopt.commands import watched
    from coopt.study.given import bench

    monkeypatch.setattr(bench, "opened", lambda *_: pytest.fail("a machine was measured for nothing"))
    for words in (["measure", "--model=nobody"], ["measure", "nobody.yaml"], ["calibrate", "--hardware=nobody"]):
        with pytest.raises(Refused, match="nobody"):
            getattr(watched, words[0])(parse(words))


def test_validate_writes_what_out_names(tmp_path):
    table = ("id,chip,n_chips,layers,d_model,heads,d_ff,vocab,seq_len,global_batch,tp,pp,measured_step_time_s\n"
             "a,h100-sxm,8,32,4096,32,14336,128256,4096,64,8,1,7.5\n")  # fmt: skip
    (tmp_path / "rows.csv").write_text("\ufeff" + table, encoding="utf-8")  # as spreadsheets save it
    done = coopt("validate", "rows.csv", "--out=score.json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (point,) = json.loads((tmp_path / "score.json").read_text())["points"]
    assert point["id"] == "a"
    (tmp_path / "rows.csv").write_text(table.splitlines()[0])
    assert "at least one row" in coopt("validate", "rows.csv", cwd=tmp_path).stderr
