"""The cache may be lost, damaged, full or shared: it is then slower, never wrong."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from coopt.problems import Refused
from coopt.store import Cache, identity

REPOSITORY = Path(__file__).resolve().parents[2]
KEY = identity("key")


def kept(folder: Path) -> Path:
    """The one file of a cache that holds one content."""
    Cache(folder).put(KEY, b"content " * 40)
    (path,) = (path for path in folder.rglob("*") if path.is_file())
    return path


def test_every_damage_is_a_miss(tmp_path):
    """B9: each bit flipped, every truncation, zeros, nothing, another key's file: a miss, counted, taken away."""
    path = kept(tmp_path)
    data = path.read_bytes()
    spoiled = [data[:cut] for cut in range(len(data))] + [bytes(len(data)), data + b"x"]
    for byte in range(len(data)):
        spoiled.append(data[:byte] + bytes([data[byte] ^ 1 << byte % 8]) + data[byte + 1 :])
    for bad in spoiled:
        path.write_bytes(bad)
        cache = Cache(tmp_path)
        assert cache.get(KEY) is None and cache.tally.damaged == 1 and not path.exists()
        path.write_bytes(data)
    cache = Cache(tmp_path)
    assert cache.get(KEY) == b"content " * 40 and (cache.tally.hits, cache.tally.misses) == (1, 0)
    assert cache.get(identity("other")) is None and (cache.tally.misses, cache.tally.damaged) == (1, 0)


def test_the_file_of_another_key_is_not_taken(tmp_path):
    """B9: a file that was moved or copied to another key's name does not answer for it."""
    path = kept(tmp_path)
    other = tmp_path / identity("other")[:2] / identity("other")
    other.parent.mkdir(exist_ok=True)
    other.write_bytes(path.read_bytes())
    assert Cache(tmp_path).get(identity("other")) is None


def test_a_failed_write_is_counted(tmp_path, caplog):
    """B9: a folder that cannot be made: no error, and the tally and one line of log say so."""
    (tmp_path / "file").write_bytes(b"")
    cache = Cache(tmp_path / "file")
    assert not cache.put(KEY, b"x") and not cache.put(KEY, b"x") and cache.get(KEY) is None
    assert cache.tally.failed_writes == 2 and "Not a directory" in cache.tally.last_failure
    assert caplog.text.count("cannot be written") == 1


def test_a_full_disk_leaves_no_half_content(tmp_path):
    """B9: a limit on file size at every 50 bytes: whole, or absent and counted."""
    script = """
import resource, sys
from pathlib import Path
from coopt.store import Cache, identity
hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
cache = Cache(Path(sys.argv[1]))
for limit in range(0, 1200, 50):
    key = identity(limit)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    whole = cache.put(key, b"x" * 800)
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    assert cache.get(key) == (b"x" * 800 if whole else None)
assert 0 < cache.tally.failed_writes < 24 and cache.tally.damaged == 0
assert not list(Path(sys.argv[1]).rglob("*.new"))
"""
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run([sys.executable, "-c", script, tmp_path], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_writers_at_once(tmp_path):
    """B9: four processes write and read the same keys: every answer whole and right."""
    script = """
import sys
from pathlib import Path
from coopt.store import Cache, identity
cache = Cache(Path(sys.argv[1]))
for n in range(400):
    key = identity(n % 20)
    found = cache.get(key)
    assert found in (None, b"%d" % (n % 20) * 999)
    cache.put(key, b"%d" % (n % 20) * 999)
assert cache.tally.damaged == 0
"""
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    children = [subprocess.Popen([sys.executable, "-c", script, tmp_path], env=environment) for _ in range(4)]
    assert [child.wait(timeout=60) for child in children] == [0] * 4


def test_a_key_is_an_identity(tmp_path):
    """D5: a key is a hash; a path is refused."""
    for key in ("", "../x", "a" * 63, "A" * 64, "/" * 64, KEY + "\n"):
        for use in (Cache(tmp_path).get, lambda k: Cache(tmp_path).put(k, b"x")):
            with pytest.raises(Refused):
                use(key)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "field",
    ["device", "jax", "jaxlib", "libtpu", "XLA_FLAGS", "clock", "profile", "code", "shape", "layout", "dtype", "mode"],
)
def test_any_change_is_a_miss(tmp_path, field):
    """B10: one of the fields changed is another key."""
    fields = dict.fromkeys(
        [
            "device",
            "jax",
            "jaxlib",
            "libtpu",
            "XLA_FLAGS",
            "clock",
            "profile",
            "code",
            "shape",
            "layout",
            "dtype",
            "mode",
        ],
        "1",
    )
    Cache(tmp_path).put(identity(fields), b"x")
    assert Cache(tmp_path).get(identity(dict(fields))) == b"x"
    assert Cache(tmp_path).get(identity({**fields, field: "2"})) is None
