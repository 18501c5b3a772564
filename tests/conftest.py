"""What every test stands on: the CPU backend with eight devices, float64, one seed, no folder of the user's."""

from __future__ import annotations

import os
import random
from pathlib import Path

# Before anything imports jax. An accelerator is used only by tests marked `device`, in child processes of theirs.
os.environ["JAX_PLATFORMS"] = os.environ.get("COOPT_TEST_PLATFORMS", "cpu")
os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ["MPLBACKEND"] = "agg"
os.environ["COLUMNS"] = "120"
os.environ.pop("COOPT_PATH", None)

import jax
import numpy as np
import pytest

# As the command line does: sweeps and oracles are in float64.
jax.config.update("jax_enable_x64", True)

REPOSITORY = Path(__file__).resolve().parent.parent


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--seed=N`: other random cases than the usual ones; every test that draws takes the `rng` fixture."""
    parser.addoption("--seed", type=int, default=0, help="seed of the random cases (default 0)")


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """At most two workers when whole folders run, none for a named file: starting one costs an import of jax."""
    named = [argument for argument in config.args if argument.split("::")[0].endswith(".py")]
    if named and len(named) < 3:
        return 0
    return min(2, len(os.sched_getaffinity(0)))


@pytest.fixture(autouse=True)
def _seeded(request: pytest.FixtureRequest) -> None:
    """The global generators start every test alike, in any order and on any worker."""
    seed = request.config.getoption("--seed")
    random.seed(seed)
    np.random.seed(seed)


@pytest.fixture
def rng(request: pytest.FixtureRequest) -> np.random.Generator:
    """Random numbers of `--seed`."""
    return np.random.default_rng(request.config.getoption("--seed"))


@pytest.fixture
def x64():
    """Float64 in JAX, whatever a test before it left."""
    with jax.enable_x64(True):
        yield


@pytest.fixture
def x32():
    """Float32 in JAX, as on an accelerator."""
    with jax.enable_x64(False):
        yield


@pytest.fixture
def repository() -> Path:
    """The root of the checkout."""
    return REPOSITORY


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder, made current; `runs/` in it is where searches write."""
    monkeypatch.chdir(tmp_path)
    return tmp_path / "runs"
