"""Reading YAML: what the text says, where it says it, and everything that is refused (D2, D3, D4)."""

from __future__ import annotations

import resource
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coopt.problems import Refused
from coopt.spec import read

BOMBS = {  # plan D3: each refused within a second of CPU time and 200 MB
    "aliases": "a: &a [x, x, x, x, x, x, x, x, x, x]\n"
    + "".join(f"{n}: &{n} [{', '.join([f'*{p}'] * 10)}]\n" for p, n in zip("abcdefgh", "bcdefghi", strict=True)),
    "self alias": "a: &a [*a]\n",
    "merge keys": "a: &a {x: 1}\nb:\n  <<: *a\n",
    "anchored key": "&a b: 1\n",
    "open brackets": "a: " + "[" * 20_000,
    "balanced brackets": "a: " + "[" * 20_000 + "]" * 20_000,
    "open braces": "{a: " * 20_000,
    "block nesting": "".join(f"{' ' * depth}a:\n" for depth in range(1000)),
    "dashes on one line": "- " * 400_000,
    "question marks": "? " * 400_000,
    "a million keys": "".join(f"k{n}: 1\n" for n in range(100_000)),
    "keys in one line": "{" + ", ".join(f"k{n}: 1" for n in range(90_000)) + "}",
    "too large": "a: " + "x" * 1_100_000,
    "a hundred megabytes": "#" * 100_000_000,
    "long digits": "a: " + "9" * 900_000,
    "tag": "a: !!python/object/apply:os.system ['true']\n",
    "local tag": "a: !x 1\n",
    "directive": "%YAML 1.1\n---\na: no\n",
    "two documents": "a: 1\n---\nb: 1\n",
    "escape beyond unicode": 'a: "\\UFFFFFFFF"\n',
    "control character": "a: \x07\n",
    "tab": "a:\n\tb: 1\n",
    "unclosed": "a: [1, 2\n",
    "unclosed quote": 'a: "b\n',
    "empty": "",
    "only a comment": "# nothing\n",
    "a key that is a list": "[a, b]: 1\n",
    "number of 5,000 digits": "a: " + "1" * 5000,
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_is_refused_at_once(tmp_path, name):
    """D3: refused with file and line within a second of CPU time and 200 MB."""
    file = tmp_path / "bomb.yaml"
    file.write_text(BOMBS[name], encoding="utf-8")
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.process_time()
    with pytest.raises(Refused) as refusal:
        read.read(file)
    assert time.process_time() - start < 1.0
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory < 200_000
    assert all(p.file == str(file) and p.line >= 1 and p.field for p in refusal.value.problems)
    assert read.head(file, ("kind",)).get("kind") is None


@pytest.mark.parametrize(
    "data",
    [b"a: \xff\n", b"a: \x00\n", b"\xef\xbb\xbfa: 1\n", b"\xff\xfea\x00:\x00", b"\xfe\xff\x00a", b"a: \xed\xa0\x80"],
)
def test_bytes_that_are_no_text_are_refused(tmp_path, data):
    file = tmp_path / "bytes.yaml"
    file.write_bytes(data)
    with pytest.raises(Refused) as refusal:
        read.read(file)
    assert refusal.value.problems[0].line == 1


def test_the_line_of_a_wrong_byte_is_said(tmp_path):
    file = tmp_path / "bytes.yaml"
    file.write_bytes(b"a: 1\nb: 2\nc: \xff\n")
    with pytest.raises(Refused, match=r"bytes\.yaml:3: .*0xff"):
        read.read(file)


@pytest.mark.parametrize("name", ["nothing.yaml", ".", "a\0b.yaml"])
def test_what_is_no_file_is_refused(tmp_path, name):
    with pytest.raises(Refused):
        read.read(tmp_path / name if "\0" not in name else name)


def test_a_deep_file_within_the_limits_is_read():
    text = "".join(f"{' ' * depth}a:\n" for depth in range(40)) + " " * 40 + "b"
    data, _ = read.read_text(text)
    for _ in range(40):
        data = data["a"]
    assert data == "b"


def test_positions_are_those_of_the_fields():
    text = "a: 1\nb:\n  c: [x, {d: 2}]\n  'e f': |\n    text\n"
    data, positions = read.read_text(text)
    assert data == {"a": 1, "b": {"c": ["x", {"d": 2}], "e f": "text\n"}}
    assert positions[("b", "c")] == (3, 3)
    assert positions[("b", "c", 1, "d")] == (3, 11)
    assert positions[("b", "e f")] == (4, 3)
    assert positions[()] == (1, 1)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e12", 1e12), ("989e12", 989e12), ("12", 12), ("-3", -3), ("1.5", 1.5), ("no", "no"), ("yes", "yes"),
        ("on", "on"), ("true", True), ("False", False), ("~", None), ("null", None), ("1:30", "1:30"),
        ("2022-12", "2022-12"), ("2026-04-27", "2026-04-27"), ("1_000", "1_000"), ("0x10", "0x10"), ("'12'", "12"),
        ('"no"', "no"), ("8.0.1", "8.0.1"), ("=", "="),
    ],
)  # fmt: skip
def test_scalars_are_those_of_yaml_1_2(text, value):
    """D2: no text becomes a date, an octal number or a time of day behind one's back."""
    found = read.read_text(f"a: {text}")[0]["a"]
    assert found == value and type(found) is type(value)


def test_all_duplicates_are_said_with_both_lines():
    with pytest.raises(Refused) as refusal:
        read.read_text("a: 1\nb: 2\na: 3\nc: {d: 1, d: 2}\n", file="f.yaml")
    assert [(p.line, p.field) for p in refusal.value.problems] == [(3, "a"), (4, "c.d")]
    assert "line 1" in refusal.value.problems[0].hint


@pytest.mark.parametrize("text", ["a: 010", "a: .inf", "a: -.INF", "a: .nan", "a: 1e400", "a: 1e-400", "b: [1, 00]"])
def test_numbers_that_others_read_differently_are_refused(text):
    with pytest.raises(Refused, match="one thing"):
        read.read_text(text)


def test_no_tag_runs_code(tmp_path):
    """D4: a tag is refused before anything is made of it."""
    canary = tmp_path / "canary"
    for tag in ("!!python/object/apply:os.system", "!!python/object/new:os.system", "!!python/name:os.system", "!x"):
        with pytest.raises(Refused):
            read.read_text(f"a: {tag} ['touch {canary}']")
        with pytest.raises(Refused):
            read.read_text(f"{tag} a: 1")
    assert not canary.exists()


def test_a_head_is_read_without_the_rest(tmp_path):
    file = tmp_path / "f.yaml"
    file.write_text("kind: chip\nname: a\naliases: [x, y]\nbroken: [\n")
    assert read.head(file, ("kind", "aliases")) == {"kind": "chip", "aliases": ["x", "y"]}


@settings(max_examples=500, deadline=None)
@given(st.text(alphabet="ab:-[]{}#&*!|>'\"%@`,?<~ \n\t0123456789.e\\é\x85", max_size=60))
def test_any_text_is_data_or_refused(text):
    """D1: no traceback out of the reader, and every refusal has a line."""
    try:
        _, positions = read.read_text(text, file="f.yaml")
        assert all(line >= 1 and column >= 1 for line, column in positions.values())
    except Refused as refusal:
        assert all(p.file == "f.yaml" and p.line >= 1 and p.field for p in refusal.problems)
