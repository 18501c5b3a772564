"""The documentation is true: what it shows can be typed, what it runs runs, what it names exists and holds."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

import coopt
from coopt.commands.parse import Usage, parse
from coopt.commands.table import COMMANDS
from coopt.spec import load, profiles
from coopt.spec.nouns import VERDICTS, training

ROOT = Path(__file__).resolve().parents[2]
DOCS = sorted((ROOT / "docs").glob("*.md"))
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "notebooks" / "README.md", *DOCS]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.DOTALL | re.MULTILINE)


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def fenced(page: Path, *languages: str) -> list[str]:
    """The fenced blocks of a page in some languages, or in all."""
    return [body for language, body in FENCE.findall(page.read_text()) if not languages or language in languages]


def typed(page: Path) -> list[list[str]]:
    """The words of every `coopt ...` line in the fenced blocks of a page."""
    found = []
    for line in (line for block in fenced(page) for line in block.replace("\\\n", " ").splitlines()):
        for part in re.split(r"&&|\|\||;| \| ", line.split("  #")[0].removeprefix("$ ")):
            if part.strip().startswith("coopt "):
                found.append(shlex.split(part.split(" >")[0])[1:])
    return found


# ---------------------------------------------------------------- what is shown can be typed


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_command_shown_is_read(page):
    for words in typed(page):
        if words[0] in ("--help", "--version") or words[-1] == "--help":
            continue
        try:
            parse(words)
        except Usage as mistake:
            raise AssertionError(f"{name(page)}: coopt {' '.join(words)}: {mistake}") from None
    for verb in re.findall(r"`coopt ([a-z]+)", FENCE.sub("", page.read_text())):
        assert verb in COMMANDS, f"{name(page)}: `coopt {verb}`"


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_names_in_commands_are_names_of_files(page):
    """`--model`, `--hardware` and designs name what ships; what a page makes up is called mine or my-something."""
    for words in typed(page):
        told = " ".join(words)
        if "mine" in told or "my-" in told or "NAME" in told:
            continue
        models = re.findall(r"--model=(\S+)", told) + re.findall(r"(?:^| )([\w.-]+)@", told)
        machines = re.findall(r"--hardware=(\S+)", told) + re.findall(r"@([\w.-]+)", told)
        for model in models:
            load.find("model", model)
        for machine in machines:
            if machine not in ("CHIP", "host"):
                load.resolve(machine)


def test_every_command_has_its_example():
    """command-line.md shows each command of the table, with an example that is more than its name."""
    page = ROOT / "docs" / "command-line.md"
    shown = [words[0] for words in typed(page) if words]
    assert set(COMMANDS) <= set(shown), set(COMMANDS) - set(shown)
    headings = re.findall(r"^## `coopt (\w+)`", page.read_text(), re.MULTILINE)
    assert sorted(headings) == sorted(COMMANDS)


# ---------------------------------------------------------------- what is run runs


@pytest.mark.parametrize("page", [page for page in PAGES if fenced(page, "python")], ids=name)
def test_python_on_a_page_runs(page, tmp_path, monkeypatch, capsys):
    """The blocks of a page, in order, in one namespace; README's single line is given the nouns that it names."""
    monkeypatch.chdir(tmp_path)
    machine, model = coopt.load("dgx-h100", chips=64), coopt.load("llama3-8b")
    namespace = {"model": model, "hardware": machine, "workload": training(8192.0, 256.0), "__name__": "page"}
    namespace["layout"] = load.layout("tp=2", hardware=machine, model=model)[0]
    for number, block in enumerate(fenced(page, "python")):
        exec(compile(block, f"{name(page)}[{number}]", "exec"), namespace)


@pytest.mark.parametrize("page", [page for page in PAGES if fenced(page, "yaml")], ids=name)
def test_yaml_on_a_page_is_right(page, tmp_path):
    """Every profile shown passes `coopt check`, beside the others of its page, and a system of them can be priced."""
    files = []
    for block in fenced(page, "yaml"):
        kind, called = (re.search(rf"^{key}: *(\S+)", block, re.MULTILINE)[1] for key in ("kind", "name"))
        files.append(tmp_path / f"{kind}s" / f"{called}.yaml")
        files[-1].parent.mkdir(exist_ok=True)
        files[-1].write_text(block)
    problems = profiles.check([str(file) for file in files], path=tmp_path)
    assert not problems, "\n".join(map(str, problems))
    for file in files:
        if file.parent.name == "systems":
            machine = load.resolve(file.stem, chips=64, path=tmp_path)
            model = coopt.load("llama3-8b")
            cut, _ = load.layout("tp=2", hardware=machine, model=model)
            assert coopt.estimate(coopt.count(model, cut, training(8192.0, 256.0)), machine).step_time > 0


# ---------------------------------------------------------------- what is named exists


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_to_a_page_and_to_a_heading(page):
    text = page.read_text()
    links = re.findall(r"\]\(([^)#\s]*)(?:#([^)\s]+))?\)", text)
    for target, anchor in links + [(target, "") for target in re.findall(r'(?:src|href)="([^"#]+)"', text)]:
        if re.match(r"[a-z]+:", target):
            continue
        there = (page.parent / target) if target else page
        assert there.exists(), f"{name(page)}: {target}"
        if anchor:
            headings = re.findall(r"^#+ (.+)$", there.read_text(), re.MULTILINE)
            slugs = {re.sub(r"[^\w\- ]", "", heading).strip().lower().replace(" ", "-") for heading in headings}
            assert anchor in slugs, f"{name(page)}: #{anchor}"


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_files_and_tests_that_are_named_exist(page):
    text = page.read_text()
    for path in re.findall(
        r"`((?:coopt|tests|scripts|docs|hw_profiles|models|measurements|notebooks)/[\w./-]*)`", text
    ):
        assert (ROOT / path).exists(), f"{name(page)}: {path}"
    every = "\n".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    for test in re.findall(r"`(test_\w+)`", text):
        assert f"def {test}(" in every or any((ROOT / "tests").rglob(f"{test}.py")), f"{name(page)}: {test}"


def test_every_page_is_in_the_index():
    index = (ROOT / "docs" / "index.md").read_text()
    missing = [page.name for page in DOCS if page.name != "index.md" and f"]({page.name})" not in index]
    assert not missing, f"docs/index.md says nothing of {missing}"


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_no_page_names_the_machine_it_was_written_on(page):
    assert not re.search(r"(^|[\s`(=])/(work|root|home|tmp)/", page.read_text()), name(page)


# ---------------------------------------------------------------- the front door is as it is told


def test_the_front_door_is_told_whole():
    """The table of docs/index.md, the docstring of coopt and what it exports are one list."""
    index = (ROOT / "docs" / "index.md").read_text()
    assert re.findall(r"^\| `coopt\.(\w+)` \|", index, re.MULTILINE) == coopt.__all__
    assert re.findall(r"^\| `(\w+)\(", coopt.__doc__ or "", re.MULTILINE) == coopt.__all__


def test_measure_is_a_room_and_a_verb():
    """B1: in a child, in this process, and late; each is an outcome, and three of them calibrate a machine."""
    from coopt.measure.job import run_job
    from coopt.problems import Refused
    from coopt.spec.nouns import PRECISIONS, Layout

    assert callable(coopt.measure) and callable(run_job)
    layout = Layout(zero=0.0, fused_attention=0.0, precision=PRECISIONS["fp32"])
    small = {"d_model": 64, "heads": 2, "kv_heads": 2, "head_dim": 32, "d_ff": 128}
    model = coopt.load("gpt2-124m", **small)
    child = coopt.measure(model, layout, seq_len=32, budget_s=0.05)
    assert child["isolation"] == "process" and child["outcome"] in ("ok", "noisy"), child["message"]
    sound = 0 < child["forward"]["time"] < child["time"] and child["low"] <= child["time"] <= child["high"]
    assert sound or child["outcome"] == "noisy"  # a busy machine: the answer says that it cannot be true
    here = [coopt.measure(model, layout, seq_len=size, budget_s=0.05, isolation="none") for size in (16, 64)]
    assert {one["isolation"] for one in here} == {"none"}
    with pytest.raises(Refused, match="isolation"):
        coopt.measure(model, layout, seq_len=32, isolation="perhaps")
    machine = coopt.load("epyc-9654", stack="jax")
    if all(one["outcome"] in ("ok", "noisy") for one in here):
        fitted = coopt.calibrate(machine, [child, *here])
        assert fitted.fidelity == "interpolated" and fitted.sigma > 0
        assert "fitted to 3 timed blocks" in fitted.assumed[-1] and fitted.matmul != machine.matmul
    with pytest.raises(Refused, match="at least 3 blocks"):
        coopt.calibrate(machine, [child])


def test_a_held_accelerator_is_noticed(monkeypatch):
    """A kernel that holds an accelerator measures in-process: a child would find the device taken."""
    import jax

    from coopt.measure import holds_accelerator

    jax.devices()
    assert not holds_accelerator()
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert holds_accelerator()


# ---------------------------------------------------------------- what how-to-choose.md claims


@pytest.fixture(scope="module")
def priced():
    """Step time (s) and memory (B) of a layout of llama3-70b on 1,024 H100, as the page prices them."""
    machine, model = coopt.load("dgx-h100", chips=1024), coopt.load("llama3-70b")

    def price(text: str) -> tuple[float, float, str]:
        cut, _ = load.layout(text, hardware=machine, model=model)
        cost = coopt.estimate(coopt.count(model, cut, training(8192.0, 512.0)), machine)
        return float(cost.step_time), float(cost.memory), VERDICTS[int(cost.verdict)]

    return price


def table(page: Path, heading: str) -> list[list[str]]:
    """The rows of the first table that has a column of that name, as cells."""
    lines = page.read_text().splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("|") and heading in line)
    rows = []
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in line.strip("|").split("|")])
    return rows


def test_the_table_of_layouts_is_roughly_true(priced):
    """Within a fifth: the page says that its figures move, not that they are wrong."""
    for cells in table(ROOT / "docs" / "how-to-choose.md", "pipeline idle"):
        time, memory, verdict = priced(cells[0].strip("`"))
        assert verdict == "fits", cells
        assert float(cells[1]) == pytest.approx(time, rel=0.2), cells
        assert float(cells[3]) == pytest.approx(memory / 2**30, rel=0.2), cells


def test_advice_on_layouts_holds(priced):
    base = priced("tp=8,pp=4")
    assert priced("tp=16,pp=4")[0] > 1.1 * base[0], "tp beyond the fast domain is slower"
    assert priced("tp=8,pp=4,vpp=5")[0] < base[0] < priced("tp=8,pp=4,micro_batch=2")[0], "idle stages cost"
    assert priced("tp=8,zero=3")[0] > 1.3 * priced("tp=8")[0], "gathering weights for every micro-batch costs"
    full = priced("tp=8,pp=4,recompute=full")
    assert 1.2 < full[0] / base[0] < 1.45 and full[1] < 0.6 * base[1], "full recompute: a third more, half the memory"
    assert priced("tp=2,pp=2")[2] == "memory", "the design that is said not to fit"


def test_what_does_not_fit_says_what_would():
    design = "coopt explain --model=llama3-70b --hardware=dgx-h100 --chips=1024 --layout=tp=2,pp=2 --global_batch=512"
    assert design in (ROOT / "docs" / "how-to-choose.md").read_text()
    machine, model = coopt.load("dgx-h100", chips=1024), coopt.load("llama3-70b")
    cut, _ = load.layout("tp=2,pp=2", hardware=machine, model=model)
    (limit,) = coopt.explain(model, cut, training(8192.0, 512.0), machine)["limits"]
    assert limit["wanted"] > limit["available"] and limit["smallest_change"]


def test_objectives_that_are_told_are_those_there_are():
    from coopt.study.given.schema import OBJECTIVES

    told = {
        word
        for cells in table(ROOT / "docs" / "how-to-choose.md", "minimises")
        for word in re.findall(r"`(\w+)`", cells[0])
    }
    assert told == set(OBJECTIVES)
