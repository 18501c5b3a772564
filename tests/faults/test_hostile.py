"""What files and children may try: run code (D4), take the machine (D9), have secrets written down (D10)."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
import time
from pathlib import Path

import pytest

from coopt import workers
from coopt.problems import Refused
from coopt.spec import profiles
from coopt.store import Cache, Journal, bundle, create, identity, list_runs, open_run, repair, resume
from coopt.store.frame import encode
from coopt.study import replay
from coopt.study.given import asked
from coopt.study.given.scheduler import settle

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parents[1]


class Bomb:
    """A pickle that leaves a mark when it is read."""

    def __init__(self, mark: Path):
        self.mark = mark

    def __reduce__(self):
        return os.system, (f"touch {self.mark}",)


def payloads(mark: Path) -> list[bytes]:
    """Forty ways to have a reader run `touch mark`: pickles, YAML tags, templates, JSON that names what to call."""
    call = f"__import__('os').system('touch {mark}')"
    tags = ["!!python/object/apply:os.system", "!!python/object/new:os.system", "!!python/name:os.system",
            "!!python/module:os", "!!python/object/apply:subprocess.Popen", "!!python/object/apply:eval",
            "!!ruby/object", "!!java.lang.Runtime", "!!js/function", "!os.system"]  # fmt: skip
    said = {"auto_map": {"AutoConfig": f"{mark}.x"}, "trust_remote_code": True,
            "py/reduce": ["os.system", f"touch {mark}"],
            "__class__": "os.system", "_attn_implementation_internal": call, "$ref": f"file://{mark}"}  # fmt: skip
    texts = [f"{tag} ['touch {mark}']" for tag in tags] + [f"kind: chip\nname: {tag} ['touch {mark}']" for tag in tags]
    texts += [json.dumps({key: value}) for key, value in said.items()]
    texts += [
        call,
        f"{{{{ {call} }}}}",
        f"${{{call}}}",
        f"`touch {mark}`",
        f"$(touch {mark})",
        f"=cmd|'touch {mark}'!A0",
    ]
    pickles = [pickle.dumps(Bomb(mark), protocol) for protocol in range(6)]
    pickles += [b"\x93NUMPY\x01\x00v\x00{'descr': '|O', 'fortran_order': False, 'shape': (1,)}\n" + pickles[2],
                b"\x80\x04cos\nsystem\n."]  # fmt: skip
    return pickles + [text.encode() for text in texts]


def test_no_file_runs_code(tmp_path):
    """D4: forty payloads in each kind of file that is read: profile, study, journal, cache, bundle, measurements."""
    mark = tmp_path / "mark"
    readers = {"journal": 0, "other": 0}
    key = identity("x")
    for number, payload in enumerate(payloads(mark)):
        folder = tmp_path / f"{number}"
        with create(folder, "run", "a: 1\n"):
            pass
        file, journal = folder / "file.yaml", folder / "run" / "journal"
        file.write_bytes(payload)
        assert profiles.check([file])
        for read in (
            lambda file=file: asked.study_data(str(file)),
            lambda file=file: bundle.read(file),
            lambda file=file: Journal(file),
        ):
            with pytest.raises(Refused):
                read()
        with journal.open("ab") as end:
            end.write(payload + b"\n")
        assert open_run(folder / "run").problems or not payload.strip()
        with pytest.raises(Refused):
            resume(folder / "run")
        repair(folder / "run", drop=True)
        assert len(list_runs(folder)) == 1
        text = payload.decode("latin-1")
        with journal.open("ab") as end:
            end.write(encode({"seq": 2, "kind": text, "id": text, "job": {"path": text}}))
        assert open_run(folder / "run").trials.notes[-1]["kind"] == text
        cache = Cache(folder / "cache")
        cache.put(key, payload)
        assert cache.get(key) == payload
        next((folder / "cache").rglob(key)).write_bytes(payload)
        assert cache.get(key) is None
        readers["other"] += 1
    assert readers["other"] >= 40 and not mark.exists()
    pickle.loads(payloads(mark)[0])
    assert mark.exists(), "the payloads do work, in who reads pickles"


# ---------------------------------------------------------------- D9


@pytest.fixture(scope="module")
def executor():
    sys.path.insert(0, str(HERE))
    with workers.process(preload=()) as opened:
        yield opened
    sys.path.remove(str(HERE))


def go(executor, name: str, payload=None, *, deadline_s: float = 60.0, **limits):
    return workers.run(f"hazards:{name}", payload or {}, deadline_s=deadline_s, executor=executor, **limits)


def test_each_cap_is_kept_and_named(executor):
    """D9: memory, time, a file, an answer and a log that are too large; processor time is that of the deadline."""
    memory = go(executor, "python_memory", {"bytes": 4 << 30}, memory_cap=1 << 30)
    assert memory.status == "infeasible-memory" and memory.available == 1 << 30
    began = time.monotonic()
    late = go(executor, "spin", deadline_s=1.0)
    assert late.status == "timeout" and "killed after 1 s" in late.message and time.monotonic() - began < 30.0
    file = go(executor, "large_file", {"bytes": 2 << 30})
    assert file.status == "crashed" and "File too large" in file.message
    answer = go(executor, "large_answer", {"bytes": 80 << 20})
    assert answer.status == "crashed" and "frame limit" in answer.message
    flood = go(executor, "flood", {"lines": 20_000})
    assert flood.ok and len(flood.stderr) <= 4096 and flood.stderr.endswith("the end\n")
    core = go(executor, "limits")
    assert core.result == {"core": 0, "file": 1 << 30}


def test_a_candidate_leaves_at_most_a_megabyte_of_words(executor, tmp_path):
    """D9: 40 MB of log and a megabyte of message are a few kB of journal."""
    with create(tmp_path, "run", "a: 1\n") as run:
        for name, payload in (("flood_and_die", {"lines": 20_000}), ("long_error", {"bytes": 1 << 20})):
            trial = identity(name)
            while run.claim(trial):
                settle(run, trial, go(executor, name, payload))
    assert (tmp_path / "run" / "journal").stat().st_size < 100_000


# ---------------------------------------------------------------- D10

NAMES = ("HF_TOKEN", "AWS_SECRET_ACCESS_KEY", "GITHUB_TOKEN", "OPENAI_API_KEY", "WANDB_API_KEY", "DB_PASSWORD",
         "SSH_AUTH_SOCK_SECRET", "AZURE_CREDENTIAL")  # fmt: skip
TOKENS = {name: f"planted-{number}-{identity(name)[:16]}" for number, name in enumerate(NAMES)}
PROXY = "planted-8-login:planted-9-password"
SAY = """
import os, sys
sys.path[:0] = [{repository!r}, {here!r}]
from pathlib import Path
from coopt import workers
from coopt.store import create, identity
from coopt.study.given.scheduler import settle

with create(Path("runs"), "run", "a: 1\\n") as run, workers.process(preload=()) as executor:
    for name in ("tell_and_die", "tell_and_raise", "tell_and_answer"):
        while run.claim(identity(name)):
            settle(run, identity(name), workers.run("hazards:" + name, {{}}, deadline_s=60.0, executor=executor))
    run.write("measurements.json", str(dict(os.environ)))
    run.note("finished", said=str(dict(os.environ)))
"""


def test_no_planted_token_is_written_down(tmp_path):
    """D10: ten tokens in the environment of children that print all of it, crash, raise and answer with it."""
    environment = {**os.environ, **TOKENS, "HTTPS_PROXY": f"http://{PROXY}@proxy:3128"}
    script = SAY.format(repository=str(REPOSITORY), here=str(HERE))
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    written = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    found = [token for token in (*TOKENS.values(), *PROXY.split(":"), PROXY) if token.encode() in written]
    assert not found, found
    assert written.count(b"(withheld)") >= 20 and b"tell_and_answer" in written


def test_a_run_says_nothing_of_folders_and_nothing_confidential_is_bundled(tmp_path):
    """D10: tokens in the names of folders stay out of a run and its bundle; confidential values out of bundles."""
    secret = "planted-a-0123456789abcdef"
    own = tmp_path / secret
    own.mkdir()
    chip = (REPOSITORY / "hw_profiles/chips/h100-sxm.yaml").read_text()
    (own / "h100-sxm.yaml").write_text(chip)
    command = [sys.executable, "-m", "coopt", "search", "--model=gpt2-124m", "--chips=8",
               f"--profile_path={own}", "--hardware=dgx-h100", "--measure=0", "--top=2", "--name=run",
               "--layout=tp=1,cp=1,pp=1,vpp=1"]  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    run = tmp_path / "runs" / "run"
    replay.pack(open_run(run), tmp_path / "run.tar")
    for path in (*(p for p in run.rglob("*") if p.is_file()), tmp_path / "run.tar"):
        assert secret.encode() not in path.read_bytes(), path
    copy = run / "inputs/hw_profiles/chips/h100-sxm.yaml"
    copy.write_text(chip.replace("kind: published}", "kind: published, confidential: yes}", 1))
    with pytest.raises(Refused, match="confidential"):
        replay.pack(open_run(run), tmp_path / "again.tar")
    assert not (tmp_path / "again.tar").exists()
