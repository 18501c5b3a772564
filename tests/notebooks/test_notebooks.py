"""Notebooks: stripped of outputs, readable by anyone, and run from top to bottom on the CPU."""

from __future__ import annotations

import os
import re
import time
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
SECONDS = 60.0  # for a notebook on two cores


def name(path: Path) -> str:
    return path.name


@pytest.mark.parametrize("path", NOTEBOOKS, ids=name)
def test_a_notebook_is_stripped_and_valid(path):
    """No outputs, no counts, no metadata of the machine it was written on: differences show what was changed."""
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert set(notebook.metadata) <= {"kernelspec", "language_info"} and notebook.metadata.kernelspec.name == "python3"
    assert notebook.cells[0].cell_type == "markdown" and notebook.cells[0].source.startswith("# ")
    for cell in notebook.cells:
        assert not cell.metadata, cell.source
        if cell.cell_type == "code":
            assert not cell.outputs and cell.execution_count is None, cell.source
            assert not re.search(r"/(home|root|Users|content|tmp)/", cell.source), cell.source


def test_there_is_a_quickstart():
    assert "quickstart.ipynb" in map(name, NOTEBOOKS)


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # of jupyter's own packages, in this process; the kernel's go to its stderr
@pytest.mark.parametrize("path", NOTEBOOKS, ids=name)
def test_a_notebook_runs(path, tmp_path, monkeypatch):
    """Every cell, in a fresh kernel, with nothing but the checkout; every figure is drawn, every table shown."""
    from nbclient import NotebookClient

    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep))
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    monkeypatch.delenv("XLA_FLAGS", raising=False)
    monkeypatch.delenv("MPLBACKEND", raising=False)  # the kernel's own, which draws into the notebook
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(
        notebook, timeout=240, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
    )
    load, began = os.getloadavg()[0], time.monotonic()
    client.execute()
    took = time.monotonic() - began
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert not [output for output in outputs if output.output_type == "error"]
    complaints = [o.text for o in outputs if o.output_type == "stream" and o.name == "stderr"]
    assert not complaints, complaints
    assert sum("image/png" in output.get("data", {}) for output in outputs) >= 2
    assert any("<svg" in output.get("data", {}).get("text/html", "") for output in outputs)
    # A document is shown once, as HTML, and is text where there is none: nothing prints itself on the way.
    shown = [output.data for output in outputs if output.output_type in ("display_data", "execute_result")]
    assert all(len(data["text/plain"]) > 80 for data in shown if "text/html" in data)
    assert not [output for output in outputs if output.output_type == "display_data" and "text/html" in output.data]
    # Scaled by what else this machine was doing.
    assert took < SECONDS * max(1.0, load / 2.0), f"{took:.0f} s at load {load:.1f}"
