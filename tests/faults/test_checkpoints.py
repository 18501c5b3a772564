"""Checkpoints under kills, rot, full disks: a step that is listed restores, and restores what was saved (A14, A15)."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from coopt.problems import Refused
from coopt.store import checkpoint, failures, frame

REPOSITORY = Path(__file__).resolve().parents[2]


def state(step: int) -> dict:
    """Arrays of several types and structures, different at every step."""
    rng = np.random.default_rng(step)
    weights = {"w": rng.normal(size=(64, 33)).astype(np.float32), "b": jnp.asarray(rng.normal(size=5), jnp.bfloat16)}
    return {"layers": [weights, {"n": np.int64(step)}], "mask": np.array([True, False]), "empty": np.zeros((0, 3))}


def same(one, two) -> bool:
    """Equal structure, types and bits."""
    pairs = zip(jax.tree.leaves(one), jax.tree.leaves(two), strict=True)
    return jax.tree.structure(one) == jax.tree.structure(two) and all(
        np.asarray(a).dtype == np.asarray(b).dtype and np.asarray(a).tobytes() == np.asarray(b).tobytes()
        for a, b in pairs
    )


def test_what_is_saved_is_restored_bit_for_bit(tmp_path):
    """Structure, types, values, and what was said beside them; the newest three stay."""
    for step in range(1, 6):
        checkpoint.save(tmp_path, step, state(step), loss=[0.1 * step])
    assert checkpoint.steps(tmp_path) == [3, 4, 5]
    found = checkpoint.restore(tmp_path, like=state(0))
    assert found.step == 5 and same(found.tree, state(5)) and found.about == {"loss": [0.5]} and not found.skipped
    flat = checkpoint.restore(tmp_path).tree
    assert sorted(flat)[0] == "['empty']" and flat["['layers'][1]['n']"] == 5
    assert sorted(os.listdir(tmp_path)) == ["step_00000003", "step_00000004", "step_00000005"]


def test_sharded_arrays_come_back_sharded(tmp_path):
    """An array cut over eight devices is saved whole and placed as `like` is."""
    mesh = jax.make_mesh((8,), ("x",), axis_types=(jax.sharding.AxisType.Auto,))
    cut = jax.device_put(jnp.arange(64.0), jax.NamedSharding(mesh, jax.P("x")))
    checkpoint.save(tmp_path, 1, {"a": cut})
    back = checkpoint.restore(tmp_path, like={"a": jnp.zeros_like(cut)}).tree["a"]
    assert back.sharding == jnp.zeros_like(cut).sharding and bool((back == cut).all())


def test_what_cannot_be_saved_or_fitted_is_refused(tmp_path):
    """A step twice, another structure, another shape, a key, no step at all: a sentence each."""
    with pytest.raises(Refused, match="none"):
        checkpoint.restore(tmp_path)
    checkpoint.save(tmp_path, 1, {"a": np.zeros(3)})
    for attempt, words in (
        (lambda: checkpoint.save(tmp_path, 1, {"a": np.zeros(3)}), "one that is"),
        (lambda: checkpoint.save(tmp_path, 2, {"a": np.zeros(3)}, keep=0), "keep 0"),
        (lambda: checkpoint.save(tmp_path, 2, {"k": jax.random.key(0)}), "key_data"),
        (lambda: checkpoint.restore(tmp_path, like={"b": np.zeros(3)}), "other leaves"),
        (lambda: checkpoint.restore(tmp_path, like={"a": np.zeros(4)}), r"float64\[3\], as saved"),
    ):
        with pytest.raises(Refused, match=words):
            attempt()
    assert checkpoint.steps(tmp_path) == [1] and os.listdir(tmp_path) == ["step_00000001"]


# ------------------------------------------------------------------------------------------------------------- rot


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    """Two good steps, to be copied and spoiled."""
    folder = tmp_path_factory.mktemp("saved")
    for step in (1, 2):
        checkpoint.save(folder, step, state(step))
    return folder


def files(folder: Path) -> list[Path]:
    """Every file of the newest step."""
    return sorted(path for path in (folder / "step_00000002").rglob("*") if path.is_file())


def test_every_flipped_bit_is_found(saved, tmp_path, request):
    """A15: one bit in each of 100 random places: detected, named, and the step before restored."""
    draw = random.Random(request.config.getoption("--seed"))
    shutil.copytree(saved, tmp_path / "c")
    sizes = [path.stat().st_size for path in files(tmp_path / "c")]
    for _ in range(100):
        path = draw.choices(files(tmp_path / "c"), sizes)[0]
        data = path.read_bytes()
        place = draw.randrange(len(data))
        path.write_bytes(data[:place] + bytes([data[place] ^ 1 << draw.randrange(8)]) + data[place + 1 :])
        with pytest.raises(failures.Corrupt, match=path.name):
            checkpoint.verify(tmp_path / "c" / "step_00000002")
        path.write_bytes(data)
    path = max(files(tmp_path / "c"), key=lambda p: p.stat().st_size)
    path.write_bytes(b"\0" + path.read_bytes()[1:])
    found = checkpoint.restore(tmp_path / "c", like=state(0))
    assert found.step == 1 and same(found.tree, state(1)) and path.name in found.skipped[0]


@pytest.mark.parametrize("damage", ["delete", "halve", "zero", "grow", "link", "extra"])
def test_every_damaged_file_is_found(saved, tmp_path, damage):
    """A15: each file of a step deleted, halved, zeroed, grown, replaced by a link, or joined by another."""
    shutil.copytree(saved, tmp_path / "c")
    outside = tmp_path / "outside"
    for path in files(tmp_path / "c"):
        data = path.read_bytes()
        if damage == "extra" and path.name == "manifest":
            continue
        outside.write_bytes(data + b"x")
        if damage in ("delete", "link"):
            path.unlink()
        if damage == "link":
            os.symlink(outside, path)
        elif damage == "extra":
            path.with_name("stranger").write_bytes(data)
        elif damage != "delete":
            path.write_bytes({"halve": data[: len(data) // 2], "zero": bytes(len(data)), "grow": data + b"x"}[damage])
        if data or damage in ("delete", "grow", "link", "extra"):
            with pytest.raises(failures.Corrupt):
                checkpoint.verify(tmp_path / "c" / "step_00000002")
        path.unlink(missing_ok=True)
        path.with_name("stranger").unlink(missing_ok=True)
        path.write_bytes(data)
    checkpoint.verify(tmp_path / "c" / "step_00000002")


def test_nothing_good_left_is_said(saved, tmp_path):
    """A15: with every step damaged the refusal names each."""
    shutil.copytree(saved, tmp_path / "c")
    for step in ("step_00000001", "step_00000002"):
        (tmp_path / "c" / step / "manifest").unlink()
    with pytest.raises(failures.Corrupt, match=r"(?s)step_00000002.*step_00000001"):
        checkpoint.restore(tmp_path / "c")


def test_a_later_format_is_refused_untouched(saved, tmp_path):
    """A16: a manifest of a later version: named, and not skipped as if it were rot."""
    shutil.copytree(saved, tmp_path / "c")
    path = tmp_path / "c" / "step_00000002" / "manifest"
    line = {**frame.scan(path.read_bytes()).records[0], "version": 2}
    path.write_bytes(frame.encode(line))
    with pytest.raises(failures.NewerFormat, match="version 2"):
        checkpoint.restore(tmp_path / "c")
    assert path.read_bytes() == frame.encode(line)


def test_names_in_a_manifest_lead_nowhere(saved, tmp_path):
    """D5: a manifest that names files outside its step: they are missing, and never opened."""
    shutil.copytree(saved, tmp_path / "c")
    path = tmp_path / "c" / "step_00000002" / "manifest"
    line = frame.scan(path.read_bytes()).records[0]
    outside = {name: line["files"].popitem()[1] for name in ("../../../etc/passwd", "/etc/passwd")}
    path.write_bytes(frame.encode({**line, "files": {**line["files"], **outside}}))
    with pytest.raises(failures.Corrupt, match="passwd is missing"):
        checkpoint.verify(path.parent)


# ------------------------------------------------------------------------------------------------ kills, full disks

SAVER = """
import sys
from pathlib import Path
import numpy as np
from coopt.store import checkpoint
folder = Path(sys.argv[1])
step = (checkpoint.restore(folder).step if checkpoint.steps(folder) else 0)
print("restored", step, flush=True)
while True:
    step += 1
    checkpoint.save(folder, step, {"a": np.full(100_000, step, np.float32), "n": np.int64(step)}, keep=2)
    print("saved", step, flush=True)
"""


@pytest.mark.parametrize(
    "kills",
    [pytest.param(10, marks=pytest.mark.slow), pytest.param(100, marks=pytest.mark.nightly)],
)
def test_killed_in_saving_and_in_retention(tmp_path, request, kills):
    """A14: kill -9 in saves of which each also deletes: every listed step restores; at most one interval lost."""
    draw = random.Random(request.config.getoption("--seed"))
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "JAX_PLATFORMS": "cpu"}
    listed_broken, saved, finds = 0, 0, []
    for _ in range(kills):
        command = [sys.executable, "-c", SAVER, tmp_path]
        with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as child:
            assert int(child.stdout.readline().split()[1]) >= saved
            for _ in range(draw.randint(1, 4)):
                saved = int(child.stdout.readline().split()[1])
            time.sleep(draw.uniform(0.0, 0.12))
            child.kill()
            heard = [line.split() for line in child.communicate()[0].splitlines() if line.startswith("saved")]
            saved = int(heard[-1][1]) if heard else saved
        for step in checkpoint.steps(tmp_path):
            try:
                checkpoint.verify(tmp_path / f"step_{step:08d}")
            except failures.Corrupt:
                listed_broken += 1
        begin = time.monotonic()
        found = checkpoint.restore(tmp_path)
        finds.append(time.monotonic() - begin)
        assert found.step >= saved and not found.skipped
        assert (found.tree["['a']"] == found.step).all() and found.tree["['n']"] == found.step
    print(f"{kills} kills, {listed_broken} listed but broken, the newest found in {max(finds):.2f} s at most")
    assert listed_broken == 0 and sorted(finds)[len(finds) // 2] <= 1.0


LOSS = """
import json, sys
from pathlib import Path
import jax, jax.numpy as jnp, numpy as np, optax
from coopt.store import checkpoint
folder, last, die = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
optimizer = optax.adam(1e-2)
w = jax.random.normal(jax.random.key(0), (8, 4))
state, losses, first = (w, optimizer.init(w)), [], 0
if checkpoint.steps(folder):
    found = checkpoint.restore(folder, like=state)
    state, losses, first = found.tree, found.about["losses"], found.step

@jax.jit
def step(state, n):
    w, moments = state
    x = jax.random.normal(jax.random.fold_in(jax.random.key(1), n), (16, 8))
    loss, slope = jax.value_and_grad(lambda w: jnp.mean((jnp.tanh(x @ w) - x[:, :4]) ** 2))(w)
    change, moments = optimizer.update(slope, moments)
    return (optax.apply_updates(w, change), moments), loss

for n in range(first, last):
    state, loss = step(state, n)
    losses = [*losses, float(loss)]
    if n == die:
        import os
        os._exit(9)
    if (n + 1) % 4 == 0:
        checkpoint.save(folder, n + 1, state, losses=losses)
print(json.dumps(losses))
"""


@pytest.mark.slow
def test_the_same_loss_curve_after_a_kill(tmp_path):
    """A14: a training that dies between checkpoints goes on to the same losses, bit for bit."""
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "JAX_PLATFORMS": "cpu"}

    def train(folder: str, die: int) -> subprocess.CompletedProcess:
        command = [sys.executable, "-c", LOSS, tmp_path / folder, "16", str(die)]
        return subprocess.run(command, env=environment, capture_output=True, text=True)

    calm = train("calm", -1)
    assert train("killed", 9).returncode == 9
    again = train("killed", -1)
    assert again.returncode == calm.returncode == 0, again.stderr
    assert json.loads(again.stdout) == json.loads(calm.stdout) and len(json.loads(calm.stdout)) == 16


def test_full_disk_while_saving(tmp_path):
    """A5: a disk that fills up in a save: a sentence with bytes wanted and free, the steps before stay, no debris."""
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", tmp_path], capture_output=True, text=True
    )
    if mounted.returncode:
        pytest.skip(f"a small disk cannot be mounted here: {mounted.stderr.strip()}")
    try:
        rng = np.random.default_rng(0)  # noise, since zeros would be compressed
        checkpoint.save(tmp_path, 1, {"a": rng.normal(size=100_000)})
        with pytest.raises(failures.DiskFull, match=r"room for 2\d{6} bytes"):
            checkpoint.save(tmp_path, 2, {"a": rng.normal(size=310_000)})
        assert os.listdir(tmp_path) == ["step_00000001"]
        assert checkpoint.restore(tmp_path).step == 1
        checkpoint.save(tmp_path, 3, {"a": rng.normal(size=100_000)}, keep=2)
        assert checkpoint.restore(tmp_path).step == 3
    finally:
        subprocess.run(["umount", tmp_path], check=True)
