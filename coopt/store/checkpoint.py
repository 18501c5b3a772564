"""Arrays on disk by Orbax, believed only when our own manifest says that every byte is the one that was written.

    folder/step_00000012/arrays/...      Orbax's files
                         manifest        one checked line: names, sizes and SHA-256 of those files; written last
    folder/.saving-..., folder/todelete  a step on its way in, a step on its way out: never listed

Orbax restores flipped bits in silence and deletes in place; here a step appears by one rename and goes by one rename,
so a step that is listed is whole, and restoring checks it and falls back to the step before.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import logging
import os
import re
import shutil
from pathlib import Path
from typing import Any

from coopt.problems import Problem, Refused
from coopt.store.failures import Corrupt, NewerFormat
from coopt.store.files import make_folder, named_errors, sync_folder, write_whole
from coopt.store.frame import Record, encode, scan

VERSION = 1
_STEP = re.compile(r"step_(\d{8,})")
_SYSTEM_ERROR = re.compile(r"os_error_code='(\d+)'")
_LEAVING = "todelete"


@dataclasses.dataclass(frozen=True)
class Restored:
    """The newest step whose every byte is right; `skipped` says what was wrong with newer ones."""

    step: int
    tree: Any
    about: dict[str, Any]
    skipped: tuple[str, ...] = ()


def save(folder: Path, step: int, tree: Any, *, keep: int = 3, **about: Any) -> Path:
    """Saves a pytree of arrays as `step`, durable when this returns, and keeps the newest `keep` steps.

    `about` (JSON) is stored beside it. One process writes to a folder at a time. Raises `Refused` for a step that
    exists, `DiskFull` or `Unwritable` when the disk refuses (the steps before stay).
    """
    folder = Path(folder)
    if keep < 1 or step < 0:
        raise Refused(Problem(field="checkpoint", expected="step >= 0 and keep >= 1", got=f"step {step}, keep {keep}"))
    target = folder / f"step_{step:08d}"
    if target.exists():
        raise Refused(Problem(file=str(target), expected="a step that is not saved yet", got="one that is"))
    leaves = _flat(tree)
    with named_errors(folder, wanted=0):
        make_folder(folder)
        _sweep(folder)
        saving = folder / f".saving-{step:08d}"
        saving.mkdir()
    try:
        with named_errors(target, wanted=sum(array.nbytes for _, array in leaves)):
            _write_arrays(saving / "arrays", [array for _, array in leaves])
            files = _sync_files(saving / "arrays")
        shapes = [[name, array.dtype.name, array.shape] for name, array in leaves]
        line = {"seq": 0, "kind": "manifest", "version": VERSION, "step": step, "leaves": shapes, "files": files}
        write_whole(saving / "manifest", encode({**line, "about": about}))
        with named_errors(target, wanted=0):
            os.rename(saving, target)
            sync_folder(folder)
    except BaseException:
        shutil.rmtree(saving, ignore_errors=True)
        raise
    for old in steps(folder)[:-keep]:
        _remove(folder, old)
    return target


def steps(folder: Path) -> list[int]:
    """The steps that are saved, oldest first."""
    folder = Path(folder)
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    return sorted(int(found[1]) for found in map(_STEP.fullmatch, names) if found)


def restore(folder: Path, *, like: Any = None) -> Restored:
    """The newest step that verifies, as NumPy arrays in the structure of `like` (None: a dict by path of leaf).

    A leaf of `like` that is a JAX array gives its sharding to what takes its place. Raises `Corrupt` naming every
    step and what is wrong with it when none verifies, `Refused` when there is none or `like` has another structure.
    """
    folder = Path(folder)
    skipped: list[Problem] = []
    for step in reversed(steps(folder)):
        path = folder / f"step_{step:08d}"
        try:
            manifest = verify(path)
            arrays = _read_arrays(path / "arrays", manifest["leaves"])
        except Corrupt as error:
            skipped += error.problems
            logging.getLogger(__name__).warning("%s; falling back to the step before", error)
            continue
        return Restored(step, _shaped(path, manifest, arrays, like), manifest["about"], tuple(map(str, skipped)))
    if skipped:
        raise Corrupt(*skipped)
    raise Refused(Problem(file=str(folder), expected="a saved step", got="none"))


def verify(path: Path) -> Record:
    """The manifest of a step, once every file is there with its size and SHA-256, and no other; else `Corrupt`."""
    manifest = _manifest(path)
    wanted: dict[str, list[Any]] = manifest["files"]
    there = {str(file.relative_to(path / "arrays")): file for file in _walk(path / "arrays")}
    wrong = [f"{name} is missing" for name in sorted(wanted.keys() - there.keys())]
    wrong += [f"{name} was not saved with it" for name in sorted(there.keys() - wanted.keys())]
    for name in sorted(wanted.keys() & there.keys()):
        size, digest = wanted[name]
        if there[name].is_symlink() or there[name].stat().st_size != size:
            wrong.append(f"{name} is not a file of {size} bytes")
        elif _digest(there[name]) != digest:
            wrong.append(f"{name} does not have the SHA-256 it was saved with")
    if wrong:
        raise Corrupt(*(Problem(file=str(path), expected="the bytes that were saved", got=text) for text in wrong))
    return manifest


def _manifest(path: Path) -> Record:
    try:
        found = scan((path / "manifest").read_bytes())
    except OSError as error:
        raise Corrupt(Problem(file=str(path / "manifest"), got=os.strerror(error.errno or 0))) from None
    if found.damage or found.torn or len(found.records) != 1 or found.records[0].get("kind") != "manifest":
        raise Corrupt(Problem(file=str(path / "manifest"), expected="one line that fits its checksum"))
    if found.records[0]["version"] != VERSION:
        got = f"version {found.records[0]['version']}"
        hint = "a later coopt wrote it; it has not been touched"
        raise NewerFormat(Problem(file=str(path), expected=f"version {VERSION}", got=got, hint=hint))
    return found.records[0]


def _flat(tree: Any) -> list[tuple[str, Any]]:
    """Every leaf as a NumPy array, with its path in the tree."""
    import jax
    import numpy as np

    flat = []
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        name = jax.tree_util.keystr(path)
        if isinstance(leaf, jax.Array) and jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            hint = "save `jax.random.key_data(key)` and wrap it again"
            raise Refused(Problem(field=name, expected="an array", got="a key", hint=hint))
        array = np.asarray(leaf)
        if array.dtype.kind in "OSUMm":
            raise Refused(Problem(field=name, expected="an array of numbers", got=str(array.dtype)))
        flat.append((name, array))
    return flat


def _shaped(path: Path, manifest: Record, arrays: list[Any], like: Any) -> Any:
    import jax

    names = [name for name, _, _ in manifest["leaves"]]
    if like is None:
        return dict(zip(names, arrays, strict=True))
    leaves, treedef = jax.tree_util.tree_flatten_with_path(like)
    asked = [jax.tree_util.keystr(place) for place, _ in leaves]
    if asked != names:
        odd = sorted(set(asked) ^ set(names))[:5]
        raise Refused(Problem(file=str(path), expected="the structure that was saved", got=f"other leaves: {odd}"))
    placed = []
    for name, array, (_, leaf) in zip(names, arrays, leaves, strict=True):
        if hasattr(leaf, "shape") and (array.shape, array.dtype) != (leaf.shape, leaf.dtype):
            got, wanted = f"{leaf.dtype}{list(leaf.shape)}", f"{array.dtype}{list(array.shape)}"
            raise Refused(Problem(file=str(path), field=name, expected=f"{wanted}, as saved", got=got))
        placed.append(jax.device_put(array, leaf.sharding) if isinstance(leaf, jax.Array) else array)
    return jax.tree_util.tree_unflatten(treedef, placed)


def _write_arrays(path: Path, arrays: list[Any]) -> None:
    import orbax.checkpoint as ocp

    stored = {_leaf(number): array for number, array in enumerate(arrays) if array.size}  # Orbax refuses empty ones
    if not stored:
        path.mkdir()
        return
    with contextlib.closing(ocp.PyTreeCheckpointer()) as checkpointer:
        try:
            checkpointer.save(path.resolve(), stored)
        except ValueError as error:  # how TensorStore passes on what the system said
            code = _SYSTEM_ERROR.search(str(error))
            if code is None:
                raise
            raise OSError(int(code[1]), os.strerror(int(code[1]))) from None


def _read_arrays(path: Path, leaves: list[Any]) -> list[Any]:
    import numpy as np
    import orbax.checkpoint as ocp

    arrays = [np.zeros(shape, np.dtype(dtype)) for _, dtype, shape in leaves]
    wanted = {_leaf(n): ocp.RestoreArgs(restore_type=np.ndarray) for n, array in enumerate(arrays) if array.size}
    if wanted:
        with contextlib.closing(ocp.PyTreeCheckpointer()) as checkpointer:
            stored = checkpointer.restore(path.resolve(), restore_args=wanted)
        arrays = [stored.get(_leaf(number), array) for number, array in enumerate(arrays)]
    return arrays


def _leaf(number: int) -> str:
    return f"leaf_{number:05d}"


def _walk(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_symlink() or not path.is_dir())


def _sync_files(folder: Path) -> dict[str, list[Any]]:
    """Makes every file and folder durable; name: [size, SHA-256]."""
    files = {}
    for path in _walk(folder):
        fd = os.open(path, os.O_RDONLY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
        files[str(path.relative_to(folder))] = [path.stat().st_size, _digest(path)]
    for inner in [*(path for path in folder.rglob("*") if path.is_dir()), folder]:
        sync_folder(inner)
    return files


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _remove(folder: Path, step: int) -> None:
    """Takes a step out of the list by one rename, and only then its files."""
    leaving = folder / _LEAVING / f"step_{step:08d}"
    with named_errors(folder, wanted=0):
        leaving.parent.mkdir(exist_ok=True)
        shutil.rmtree(leaving, ignore_errors=True)
        os.rename(folder / leaving.name, leaving)
        sync_folder(folder)
    shutil.rmtree(folder / _LEAVING, ignore_errors=True)


def _sweep(folder: Path) -> None:
    """Clears steps on their way in or out that a kill left behind."""
    for left in folder.glob(".saving-*"):
        shutil.rmtree(left, ignore_errors=True)
    shutil.rmtree(folder / _LEAVING, ignore_errors=True)
