"""The house itself: which way imports go, how large rooms are, what no room does, and that what is written is true."""

from __future__ import annotations

import ast
import importlib
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = sorted(path for path in (ROOT / "coopt").rglob("*.py") if "_data" not in path.parts)
SCRIPTS = sorted((ROOT / "scripts").glob("*.py"))
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())

FILE_LINES, FUNCTION_LINES = 400, 60
OUTSIDE = {
    "problems": set(),
    "ops": {"jax", "numpy"},
    "cost": {"jax", "numpy"},
    "search": {"jax", "numpy"},
    "measure": {"absl", "flax", "jax", "jaxlib", "numpy", "optax", "orbax", "scipy"},
    "store": {"jax", "numpy", "orbax"},
    "workers": {"jax", "numpy", "ray", "submitit"},
    "roadmap": {"highspy", "jax", "numpy", "pydantic", "scipy"},
    "report": {"jinja2", "markupsafe", "matplotlib", "numpy", "rich"},
    "commands": {"absl", "rich"},
    "cli": {"absl", "jax"},
}


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def room(path: Path) -> str:
    return path.relative_to(ROOT / "coopt").parts[0].removesuffix(".py")


def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(), name(path))


def imported(path: Path) -> set[str]:
    """Top-level names of everything a file imports, wherever in it."""
    found = set()
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name(path)}:{node.lineno}: write the import out: `from coopt.room import file`"
            found.add((node.module or "").partition(".")[0])
    return found


# ---------------------------------------------------------------- which way imports go


def test_import_contracts_hold():
    """The floors, the walls, and the packages a room may not know (pyproject.toml, [tool.importlinter])."""
    command = "from importlinter.cli import lint_imports_command as lint; lint()"
    done = subprocess.run([sys.executable, "-c", command, "--no-cache"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("path", PACKAGE, ids=name)
def test_rooms_import_only_what_they_may(path):
    """Where the contracts forbid, this allows: anything new from outside is a decision, written in OUTSIDE."""
    allowed = OUTSIDE.get(room(path))
    outside = imported(path) - set(sys.stdlib_module_names) - {"coopt", "__future__"}
    assert allowed is None or outside <= allowed, f"{name(path)} imports {sorted(outside - allowed)}"


def test_the_front_door_is_lazy_and_every_name_leads_somewhere():
    import coopt

    for exported in coopt.__all__:
        assert callable(getattr(coopt, exported)), exported
        assert exported in dir(coopt)
    with pytest.raises(AttributeError, match="nonsense"):
        coopt.nonsense  # noqa: B018
    check = "import sys, coopt; assert not {'jax', 'numpy', 'pydantic'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", check], cwd=ROOT, check=True)


# ---------------------------------------------------------------- size and words


@pytest.mark.parametrize("path", PACKAGE, ids=name)
def test_files_and_functions_are_small(path):
    lines = path.read_text().count("\n")
    assert lines <= FILE_LINES, f"{name(path)} has {lines} lines: split it by what it is about"
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            assert length <= FUNCTION_LINES, f"{name(path)}:{node.lineno}: {node.name} has {length} lines"


@pytest.mark.parametrize("path", PACKAGE, ids=name)
def test_what_no_room_does(path):
    """D4 and the house rules: no code from data, no pickles, no name that hides what a file is about."""
    assert not re.search(r"(^|_)(utils?|helpers?|common|manager|misc)(_|$)", path.stem), f"rename {name(path)}"
    forbidden = {"pickle", "cloudpickle", "dill", "marshal", "shelve", "torch", "ortools", "yaml"}
    assert not imported(path) & forbidden, f"{name(path)} imports {imported(path) & forbidden}"
    for node in ast.walk(tree(path)):
        where = f"{name(path)}:{getattr(node, 'lineno', 0)}"
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id not in ("eval", "exec", "__import__"), f"{where}: {node.func.id}"
        if isinstance(node, ast.keyword) and node.arg == "allow_pickle":
            assert isinstance(node.value, ast.Constant) and node.value.value is False, f"{where}: allow_pickle"
        if isinstance(node, ast.ExceptHandler):
            assert node.type is not None, f"{where}: a bare except hides everything"
        if isinstance(node, ast.Global):
            raise AssertionError(f"{where}: global state")
    for comment in re.findall(r"#.*", path.read_text()):
        assert not re.search(r"\b(TODO|FIXME|XXX|HACK)\b", comment), f"{name(path)}: {comment}"


def test_every_package_file_says_what_it_is():
    silent = [name(path) for path in PACKAGE if path.stat().st_size and not ast.get_docstring(tree(path))]
    assert not silent, f"no docstring at the top of {silent}"


def test_docstring_examples_are_run():
    """`pytest` collects `coopt/` with --doctest-modules; every room that computes has at least one."""
    options = PYPROJECT["tool"]["pytest"]["ini_options"]
    assert "--doctest-modules" in options["addopts"] and "coopt" in options["testpaths"]
    rooms = {room(path) for path in PACKAGE if ">>> " in path.read_text()}
    assert {"ops", "cost", "search", "measure", "spec", "store", "roadmap", "report", "fit", "commands"} <= rooms


# ---------------------------------------------------------------- what is written is true


def test_readme_is_under_two_screens():
    lines = (ROOT / "README.md").read_text().splitlines()
    assert len(lines) <= 120 and "<!--" not in "\n".join(lines)


def test_contributing_is_four_commands():
    (block,) = re.findall(r"```bash\n(.*?)```", (ROOT / "CONTRIBUTING.md").read_text(), re.DOTALL)
    assert len(block.strip().splitlines()) == 4


@pytest.mark.parametrize("path", SCRIPTS, ids=name)
def test_headers_of_scripts_can_be_run(path):
    """A script opens with its command, its time and what it prints; the command's flags are flags it defines."""
    header = ast.get_docstring(tree(path)) or ""
    lines = [line.strip() for line in header.replace("\\\n", " ").splitlines()]
    typed = [line for line in lines if re.match(r"python3? scripts/", line)]
    assert typed, f"{name(path)}: its docstring shows no `python {name(path)} ...`"
    assert re.search(r"\b(s|seconds?|minutes?|min|hours?)\b", header), f"{name(path)}: its docstring says no time"
    defined = set(re.findall(r"""(?:DEFINE_\w+|add_argument)\(\s*["'](?:--)?(\w+)""", path.read_text()))
    for command in typed:
        words = shlex.split(command.split("  #")[0])
        assert ROOT / words[1] == path, f"{name(path)} shows a command of another script"
        flags = {word[2:].partition("=")[0] for word in words[2:] if word.startswith("--")}
        assert flags <= defined, f"{name(path)} has no flag {sorted(flags - defined)}"


def test_packaging_names_what_is_there():
    for folder in PYPROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["force-include"]:
        assert (ROOT / folder).is_file() or any((ROOT / folder).rglob("*")), folder
    for requirement in PYPROJECT["project"]["dependencies"]:
        assert "<" not in requirement and "==" not in requirement, f"no upper pins: {requirement}"


def test_ci_runs_every_mark_and_is_a_shell_script():
    ci = (ROOT / ".ci" / "run").read_text()
    subprocess.run(["bash", "-n", str(ROOT / ".ci" / "run")], check=True)
    for mark in PYPROJECT["tool"]["pytest"]["ini_options"]["markers"]:
        assert mark.partition(":")[0] in ci, mark


def test_marks_are_told_apart_by_one_expression():
    """What `pytest` alone leaves out is exactly the declared marks."""
    options = PYPROJECT["tool"]["pytest"]["ini_options"]
    (left_out,) = [option for option in options["addopts"] if option.startswith("-m=")]
    marks = {mark.partition(":")[0] for mark in options["markers"]}
    assert set(re.findall(r"not (\w+)", left_out)) == marks


def test_modules_import_alone():
    """No import cycle: the top of every floor imports in a fresh interpreter."""
    for module in ("coopt.cli", "coopt.report.tables", "coopt.study.verbs", "coopt.roadmap", "coopt.measure"):
        importlib.import_module(module)


IDS = r"\b[A-E]\d{1,2}\b"


@pytest.mark.parametrize("path", sorted((ROOT / "tests" / "faults").glob("test_*.py")), ids=lambda path: path.stem)
def test_every_fault_test_carries_the_id_of_its_promise(path):
    """In its docstring or its file's: and each id stands in the table of promises."""
    told = (ROOT / "docs" / "reliability.md").read_text()
    for low, high in re.findall(r"([A-E]\d+)-[A-E](\d+)", told):
        told += "".join(f" {low[0]}{number}" for number in range(int(low[1:]), int(high) + 1))
    known, ours = set(re.findall(IDS, told)), set(re.findall(IDS, ast.get_docstring(tree(path)) or ""))
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
            found = ours | set(re.findall(IDS, ast.get_docstring(node) or ""))
            assert found, f"{name(path)}: {node.name} names no promise of docs/reliability.md"
            assert found <= known, f"docs/reliability.md has no {sorted(found - known)}"
