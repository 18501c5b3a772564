"""Broken profiles: two hundred mutations of good ones, each refused in words with its file and line (D1)."""

from __future__ import annotations

import random
import re
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from coopt.problems import Refused
from coopt.spec.find import find
from coopt.spec.profiles import check, profile
from coopt.study.given.schema import Study

GOOD = {"chip": "h100-sxm", "system": "dgx-h100", "model": "llama3-70b"}
FAMILY = """\
kind: family
name: own
title: Own
sources:
  s: {title: S, date: 2026-11-23}
fitted:
  matmul_16: {value: 0.74, source: s, kind: assumed}
  kernel: {value: 4 us, source: s, kind: assumed}
"""
STACK = """\
kind: stack
name: own
title: Own
sources:
  s: {title: S, date: 2026-11-23}
practice:
  fused_attention: 1
  sp: with-tp
  zero: 1
  fsdp: dp
  recompute: none
fitted:
  overhead: {value: 0.02, source: s, kind: assumed}
"""
LAW = """\
kind: law
name: own
title: Own
sources:
  s: {title: S, date: 2024}
source: s
form: dense
constants:
  E: {value: 1.8, error: 0.03}
  A: {value: 482}
  alpha: {value: 0.35}
  B: {value: 2085}
  beta: {value: 0.37}
range: {parameters: [44e6, 16e9], tokens: [1e9, 3e11], aspect: [40, 109], vocabulary: [16000, 64000]}
critical_batch: {coefficient: 22.9, exponent: 0.47, source: s}
"""
SPACE = """\
kind: space
name: own
title: Own
sources:
  s: {title: S, date: 2026-11-23}
model:
  vocab: 32768
workload: {kind: train, seq_len: 512, batch: 64, tokens: 1.0e10}
shape:
  d_model: {from: 128, to: 768, step: 64}
  heads: {of: d_model, over: head_dim}
  d_ff: {of: d_model, times: [2, 8/3, 4], multiple: 64}
  head_dim: [32, 64]
limits:
  - {name: aspect, of: d_model, over: layers, least: 16, most: 128}
layout:
  tp: auto
  recompute: [none, full]
"""
TEXTS = {kind: find(kind, name).read_text() for kind, name in GOOD.items()}
TEXTS |= {"family": FAMILY, "stack": STACK, "law": LAW, "space": SPACE}


def replaced(old: str, new: str, line: str = ""):
    """A mutation: the first match of a pattern on the first line that holds `line` becomes `new`."""

    def mutate(text: str) -> str | None:
        lines = text.splitlines(keepends=True)
        for index, found in enumerate(lines):
            if line in found and re.search(old, found):
                lines[index] = re.sub(old, new, found, count=1)
                return "".join(lines)
        return None

    return mutate


def without(field: str):
    """A mutation: a top-level field and all that is under it are gone."""

    def mutate(text: str) -> str | None:
        out = re.sub(rf"(?m)^{field}:.*\n(?:[ \t]+.*\n)*", "", text, count=1)
        return out if out != text else None

    return mutate


def with_line(extra: str):
    """A mutation: one more line at the end."""
    return lambda text: text + extra + "\n"


ANY = {  # kind of mistake -> mutation; tried on every kind of file that has the place
    "unknown field": with_line("colour: green"),
    "misspelled kind": replaced("kind: (chip|system|family|stack|model|law|space)$", r"kind: \1s", line="kind: "),
    "no kind": without("kind"),
    "no name": without("name"),
    "no title": without("title"),
    "a source that is a number": replaced(r"\{title: [^}]+\}", "7", line="{title: "),
    "name with a path": replaced("name: .*", "name: ../x", line="name: "),
    "name in capitals": replaced("name: .*", "name: H100", line="name: "),
    "name that is a list": replaced("name: .*", "name: [a]", line="name: "),
    "empty title": replaced("title: .*", "title: ''", line="title: "),
    "title that steers a terminal": replaced("title: .*", 'title: "a\\\\x1b[2J"', line="title: "),
    "aliases that are a text": with_line("aliases: H100"),
    "status that is a list": with_line("status: [1]"),
    "sources that are a list": lambda text: re.sub(r"(?m)^sources:\n(?:[ \t]+.*\n)*", "sources: [a]\n", text, count=1),
    "a source without date": replaced(r", date: [0-9-]+", "", line="title: "),
    "a source with a day that is none": replaced(r"date: [0-9-]+", "date: 2026-13-01", line="title: "),
    "twice the same field": with_line("title: again"),
    "a tab": with_line("notes:\n\t- x"),
    "an anchor": replaced("title: ", "title: &a ", line="title: "),
    "an alias": with_line("notes: *a"),
    "a tag": replaced("title: ", "title: !!python/name:os.system ", line="title: "),
    "a merge key": with_line("<<: {a: 1}"),
    "an unclosed bracket": with_line("notes: [a"),
    "an unclosed quote": with_line('notes: "a'),
    "a second document": with_line("---\nkind: chip"),
    "a directive": lambda text: "%YAML 1.1\n---\n" + text,
    "not a mapping": lambda text: "- " + text.replace("\n", "\n  "),
    "a list of fields": lambda text: "[a, b]\n",
    "one word": lambda text: "chip\n",
    "nothing": lambda text: "",
    "an octal number": with_line("notes: 010"),
    "an infinity": with_line("notes: .inf"),
    "indentation of its own": with_line("   notes: x"),
    "extends what is not there": with_line("extends: nobody-knows"),
    "extends a path": with_line("extends: ../../etc/passwd"),
    "missing what is no field": with_line("missing: {colour: not published}"),
    "missing without reason": with_line("missing: {status: 3.5}"),
}
QUANTITY = {  # mistakes in one quantity of a chip, a system, a family or a stack
    "no unit": (r"value: ([0-9.]+) [A-Za-z/]+", r"value: \1"),
    "unknown unit": (r"value: ([0-9.]+) [A-Za-z/]+", r"value: \1 furlong"),
    "small letters": (r"value: ([0-9.]+) T?G?[A-Za-z]+", r"value: \1 gb"),
    "other dimension": (r"value: ([0-9.]+) [A-Za-z/]+", r"value: \1 kg"),
    "negative": (r"value: ([0-9.]*[1-9][0-9.]*)", r"value: -\1"),
    "not a number": (r"value: [^,}]+", "value: soon"),
    "nan": (r"value: ([0-9.]+)", "value: nan"),
    "too large": (r"value: ([0-9.]+)", "value: 1e400"),
    "underscores": (r"value: ([0-9.]+)", r"value: 1_000"),
    "a comma for a point": (r"value: ([0-9]+)\.?([0-9]*)", r'value: "\1,\g<2>0"'),
    "empty value": (r"value: [^,}]+", "value: "),
    "no value": (r"value: [^,}]+, ", ""),
    "a list": (r"value: ([^,}]+)", r"value: [\1]"),
    "unknown source": (r"source: [a-z0-9-]+", "source: nobody"),
    "no source": (r", source: [a-z0-9-]+", ""),
    "a source that is a list": (r"source: ([a-z0-9-]+)", r"source: [\1]"),
    "unknown kind": (r"kind: (published|assumed)", "kind: guessed"),
    "no kind": (r", kind: (published|assumed)", ""),
    "unknown key": (r"kind: (published|assumed)", r"kind: \1, colour: green"),
    "misspelled key": ("value: ", "valeu: "),
    "bare": (r"\{value: ([^,]+), source: [^}]+\}", r"\1"),
    "wrong order": (r"kind: (published|assumed)", r"kind: \1, low: 9e30, high: 1e-30"),
}
PLACES = {  # lines with one quantity on them
    "chip": ("  bf16:", "  capacity:", "  tdp:", "  scale_up:"),
    "system": ("    bandwidth:", "    latency:"),
    "family": ("  matmul_16:", "  kernel:"),
    "stack": ("  overhead:",),
}
OTHER = {
    "chip": {
        "a peak of no such type": replaced("bf16:", "bf17:", line="  bf16:"),
        "a sparse peak's name": replaced("fp8:", "fp8_sparse:", line="  fp8:"),
        "half a core": replaced("value: [0-9]+", "value: 1.5", line="cores:"),
        "no cores": replaced("value: [0-9]+", "value: 0", line="cores:"),
        "a tile without n": replaced("n: [0-9]+, ", "", line="tile:"),
        "a tile with a unit": replaced("m: [0-9]+", "m: 128 B", line="tile:"),
        "a quarter that is none": replaced("value: [0-9-]+", "value: 2022Q5", line="available:"),
        "family that is a number": replaced("family: .*", "family: 4.5", line="family:"),
        "memory that is a number": with_line("memory: 80 GiB"),
        "more usable than there is": replaced(
            "capacity:", "usable: {value: 90 GiB, source: aic, kind: published}\n  capacity:", line="  capacity:"
        ),
        "missing and given": with_line("missing: {vector: not published}"),
        "a share as an efficiency": with_line("fitted: {stream: {value: 120 %, source: aic, kind: fitted}}"),
        "no efficiency": with_line("fitted: {stream: {value: 0, source: aic, kind: fitted}}"),
        "a fitted constant of no such name": with_line("fitted: {magic: {value: 1, source: aic, kind: fitted}}"),
    },
    "system": {
        "no chip": without("chip"),
        "no chips": replaced("chips_per_node: .*", "chips_per_node: 0", line="chips_per_node"),
        "chips with a unit": replaced("chips_per_node: .*", "chips_per_node: 8 chips", line="chips_per_node"),
        "a topology of no such name": replaced("topology: .*", "topology: dragonfly", line="topology"),
        "no topology": replaced(".*topology: .*\n", "", line="topology"),
        "a tier without name": replaced("- name: .*", "- size: 8", line="- name:"),
        "sizes out of order": replaced("size: 8", "size: 0", line="size: 8"),
        "no size": replaced(".*size: 8.*\n", "", line="size: 8"),
        "more usable than there are": replaced("size: 8", "size: 8\n    usable: 9", line="size: 8"),
        "maybe reduction": replaced("reduction: .*", "reduction: maybe", line="reduction"),
        "less than no oversubscription": replaced("oversubscription: .*", "oversubscription: 0.5", line="oversub"),
        "tiers as a mapping": lambda text: re.sub(r"(?m)^tiers:.*\n(?:[ \t]+.*\n)*", "tiers: {a: 1}\n", text),
    },
    "stack": {
        "a practice of no such name": replaced("recompute:", "recompote:", line="recompute:"),
        "a recompute of no such name": replaced("recompute: .*", "recompute: some", line="recompute:"),
        "half sharding": replaced("zero: .*", "zero: 0.5", line="zero:"),
        "a share above one": replaced("value: [0-9.]+", "value: 1.2", line="overhead"),
        "fsdp over nothing": replaced("fsdp: .*", "fsdp: 0", line="fsdp:"),
    },
    "model": {
        "no layers": without("layers"),
        "no layer kinds": lambda text: re.sub(r"(?m)^layers:.*\n(?:[ \t]+.*\n)*", "layers: []\n", text),
        "heads that do not divide": replaced("kv_heads: [0-9]+", "kv_heads: 7", line="kv_heads"),
        "a mixer of no such name": replaced("mixer: full", "mixer: half", line="mixer"),
        "a window without its width": replaced("mixer: full", "mixer: window", line="mixer"),
        "mla without ranks": replaced("mixer: full", "mixer: mla", line="mixer"),
        "experts without number": replaced("feedforward: dense", "feedforward: moe", line="feedforward"),
        "no width": replaced(", d_ff: [0-9]+", "", line="d_ff"),
        "no gate said": replaced(", gated: [a-z]+", "", line="gated"),
        "no count": replaced("count: [0-9]+, ", "", line="count"),
        "half a layer": replaced("count: [0-9]+", "count: 0.5", line="count"),
        "a text for a width": replaced("d_model: .*", "d_model: wide", line="d_model"),
        "a width with a unit": replaced("d_model: .*", "d_model: 8 k", line="d_model"),
        "perhaps tied": replaced("tied: .*", "tied: perhaps", line="tied"),
        "a norm of no such name": replaced("norm: .*", "norm: batch", line="norm"),
        "no vocabulary": replaced("vocab: .*", "vocab: 0", line="vocab"),
        "a source that is not there": replaced("source: .*", "source: nobody", line="source: "),
        "no parameters": replaced("parameters: [0-9.e]+", "parameters: 0", line="parameters"),
    },
    "law": {
        "no constant": replaced(".*alpha: .*\n", "", line="alpha"),
        "a constant that is a text": replaced("value: 482", "value: much", line="A:"),
        "a form of no such name": replaced("form: dense", "form: round", line="form"),
        "half a range": replaced(r"\[44e6, 16e9\]", "[44e6]", line="parameters"),
        "a range that is a number": replaced(r"\[44e6, 16e9\]", "44e6", line="parameters"),
        "a critical batch without source": replaced(", source: s", "", line="critical_batch"),
        "a range upside down": replaced(r"\[44e6, 16e9\]", "[16e9, 44e6]", line="parameters"),
        "no range of shapes": replaced(r"aspect: \[40, 109\], ", "", line="aspect"),
        "sparse without constants": replaced("form: dense", "form: sparse", line="form"),
        "a range of no such thing": replaced("tokens:", "tokenz:", line="tokens"),
    },
    "space": {
        "no shape": without("shape"),
        "a shape that is a list": lambda text: re.sub(r"(?m)^shape:.*\n(?:[ \t]+.*\n)*", "shape: [1]\n", text),
        "a range without end": replaced("to: 768, ", "", line="d_model:"),
        "a choice of nothing": replaced(r"\[32, 64\]", "[]", line="head_dim:"),
        "a variable of no form": replaced("over: head_dim", "beside: head_dim", line="heads:"),
        "a quotient by zero": replaced("8/3", "8/0", line="d_ff:"),
        "a limit of nothing": replaced("of: d_model, ", "", line="aspect"),
        "a bound that is a text": replaced("least: 16", "least: some", line="aspect"),
        "a layout of mappings": replaced("tp: auto", "tp: {a: 1}", line="tp:"),
        "another workload": replaced("kind: train", "kind: dream", line="workload"),
        "half a sequence": replaced("seq_len: 512", "seq_len: 0.5", line="workload"),
    },
}


def broken() -> dict[str, tuple[str, str]]:
    """Name of a mistake -> the kind of file and its text; every text differs from the good one."""
    found: dict[str, tuple[str, str]] = {}
    for kind, text in TEXTS.items():
        for name, mutate in {**ANY, **OTHER.get(kind, {})}.items():
            found[f"{kind}: {name}"] = (kind, mutate(text))
        for place in PLACES.get(kind, ()):
            for name, (old, new) in QUANTITY.items():
                found[f"{kind}: {place.strip()} {name}"] = (kind, replaced(old, new, line=place)(text))
    return {name: (kind, text) for name, (kind, text) in found.items() if text is not None and text != TEXTS[kind]}


BROKEN = broken()


@pytest.mark.parametrize("kind", [kind for kind in TEXTS if kind != "space"])
def test_facts_need_sources(tmp_path, kind):
    file = tmp_path / "broken.yaml"
    file.write_text(without("sources")(TEXTS[kind]))
    assert "sources" in {problem.field for problem in check([file])}


@pytest.mark.parametrize("kind", TEXTS)
def test_what_is_broken_here_was_good(tmp_path, kind):
    file = tmp_path / "good.yaml"
    file.write_text(TEXTS[kind])
    assert check([file]) == ()


def test_there_are_two_hundred_of_them():
    assert len(BROKEN) >= 200
    for kind, text in TEXTS.items():
        mine = [name for name in BROKEN if name.startswith(f"{kind}: ")]
        assert len(mine) >= len(ANY) - 4 + len(OTHER.get(kind, {})) - 2, (kind, text)


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_profile_is_refused_in_words(tmp_path, name):
    """D1: file, line, field, what was expected and what was given; nothing but Refused comes out."""
    kind, text = BROKEN[name]
    file = tmp_path / "broken.yaml"
    file.write_text(text)
    with pytest.raises(Refused) as refusal:
        profile(kind, str(file))
    for problem in refusal.value.problems:
        assert problem.file == str(file)
        assert 1 <= problem.line <= text.count("\n") + 2
        assert problem.field and problem.expected and problem.got
        assert "\x1b" not in str(problem)
    if re.match(rf"{kind}: ({'|'.join(place.strip() for place in PLACES.get(kind, ['-']))}) ", name):
        # A value missing altogether is said on the line where its field begins.
        pairs = zip(text.splitlines(), TEXTS[kind].splitlines(), strict=False)
        at = next(line for line, (bad, good) in enumerate(pairs, 1) if bad != good)
        assert {at, at - 1} & {problem.line for problem in refusal.value.problems}


def test_all_mistakes_of_a_file_are_said_at_once(tmp_path):
    text = TEXTS["chip"]
    for place, mistake in (("  bf16:", "no unit"), ("vector:", "unknown source"), ("  tdp:", "other dimension")):
        text = replaced(*QUANTITY[mistake], line=place)(text)
    file = tmp_path / "broken.yaml"
    file.write_text(text + "colour: green\n")
    problems = check([file])
    assert {"peak.bf16", "vector.source", "power.tdp", "colour"} == {problem.field for problem in problems}
    assert [problem.line for problem in problems] == sorted(problem.line for problem in problems)


def test_a_misspelled_field_is_given_its_name(tmp_path):
    file = tmp_path / "broken.yaml"
    file.write_text(TEXTS["chip"].replace("  capacity:", "  capcity:"))
    (problem,) = check([file])
    assert problem.field == "memory.capcity" and "`capacity`" in problem.hint


def test_a_reference_that_leads_nowhere_is_said(tmp_path):
    chip, system = tmp_path / "mine.yaml", tmp_path / "box.yaml"
    own = "title: Own\nextends: "
    chip.write_text(f"kind: chip\nname: mine\n{own}h100-sxm\nfamily: hoper\nsystem: box\n")
    system.write_text(f"kind: system\nname: box\n{own}dgx-h100\nchip: mine\n")
    (family,) = check([chip, system])
    assert (family.field, family.line, family.got) == ("family", 5, "hoper") and "`hopper`" in family.hint
    assert [one.field for one in check([system])] == ["chip"]


def test_how_to_write_it_is_said(tmp_path):
    file = tmp_path / "broken.yaml"
    file.write_text(re.sub(r"capacity: \{.*\}", "capacity: 80", TEXTS["chip"]))
    (problem,) = check([file])
    assert problem.expected == "bytes with its source" and problem.got == "80"
    assert problem.hint == "write {value: 80 GiB, source: KEY, kind: published}"


# ------------------------------------------------------------------------------------------------ random damage

WORDS = st.sampled_from(
    ["", "~", "1", "-1", "0", "1e999", ".nan", "80", "80 GB", "x", "[", "]", "{", "}", "[]", "{}", ":", "- ", "#", "'"]
    + [
        '"',
        "*a",
        "&a ",
        "!!x ",
        "<<: ",
        "? ",
        "| ",
        "\t",
        "\n",
        "value",
        "source",
        "true",
        "1:30",
        "9" * 30,
        "é",
        "\x7f",
    ]
)


def damaged(kind: str, seed: int, word: str) -> str:
    """One random edit: a token, a line or a stretch of the file is replaced, doubled, moved or lost."""
    draw, text = random.Random(seed), TEXTS[kind]
    lines = text.splitlines(keepends=True)
    first, second = sorted(draw.choices(range(len(text)), k=2))
    line, other = draw.randrange(len(lines)), draw.randrange(len(lines))
    tokens = list(re.finditer(r"[^\s:,{}\[\]]+", text))
    token = draw.choice(tokens)
    edits = (
        lambda: text[: token.start()] + word + text[token.end() :],
        lambda: text[:first] + word + text[first:],
        lambda: text[:first] + text[min(second, first + 40) :],
        lambda: "".join(lines[:line] + lines[line + 1 :]),
        lambda: "".join(lines[:line] + [lines[other]] + lines[line:]),
        lambda: "".join(lines[:line] + [" " + lines[line]] + lines[line + 1 :]),
        lambda: text[:first],
    )
    return draw.choice(edits)()


def accepted_or_refused(folder: Path, kind: str, text: str) -> None:
    file = folder / "damaged.yaml"
    file.write_bytes(text.encode("utf-8", "surrogatepass"))
    try:
        fields = profile(kind, str(file)).fields
    except Refused as refusal:
        for problem in refusal.problems:
            assert problem.line >= 1 and problem.file and problem.field, problem
            assert problem.expected and problem.got, problem
        return
    assert fields.name and fields.title
    if kind == "chip":
        memory = fields.memory
        assert all(q is None or 0 < q.value < 1e30 for q in (memory.capacity, memory.bandwidth, fields.vector))


FUZZ = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
CASES = {"kind": st.sampled_from(sorted(TEXTS)), "seed": st.integers(0, 2**32), "word": WORDS}


@settings(FUZZ, max_examples=500)
@given(**CASES)
def test_a_damaged_file_is_accepted_or_refused_in_words(tmp_path, kind, seed, word):
    """D1: 500 damaged files, no traceback; the nightly run takes 10,000."""
    accepted_or_refused(tmp_path, kind, damaged(kind, seed, word))


@pytest.mark.nightly
@settings(FUZZ, max_examples=10_000)
@given(**CASES)
def test_ten_thousand_damaged_files(tmp_path, kind, seed, word):
    """D1, nightly."""
    accepted_or_refused(tmp_path, kind, damaged(kind, seed, word))


TREES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@settings(FUZZ, max_examples=200)
@given(
    kind=st.sampled_from(["chip", "system", "model", "law"]),
    field=st.sampled_from(
        ["peak", "memory", "tiers", "layers", "sources", "missing", "range", "power", "source", "tile"]
    ),
    tree=TREES,
)
def test_any_tree_under_a_field_is_accepted_or_refused(kind, field, tree):
    """D1: the schema itself, with values that no YAML file could hold as well."""
    from coopt.spec.profiles import SCHEMAS
    from coopt.spec.schema import Mark, validate

    data = {"kind": kind, "name": "a", "title": "A", "sources": {"s": {"title": "S", "date": "2026"}}, field: tree}
    fields, problems = validate(SCHEMAS[kind], data, {(): Mark("f.yaml", 1)})
    assert (fields is None) == bool(problems)
    assert all(p.file == "f.yaml" and p.line == 1 and p.field and p.expected and p.got for p in problems), problems


def test_a_list_with_a_wrong_element_is_not_itself_wrong(tmp_path):
    """One sentence for one mistake, with the nearest name also inside a list; a list that is missing is called one."""
    file = tmp_path / "mine.yaml"
    good = "kind: study\nname: mine\ntitle: Mine\nmodel: llama3-8b\nworkload: {seq_len: 512, global_batch: 8}\n"
    file.write_text(f"{good}machines:\n  - {{hardware: host, chipz: 1}}\n")
    (problem,) = check([file], schemas={"study": Study})
    assert (problem.line, problem.field) == (7, "machines.0.chipz") and "chips" in problem.hint
    file.write_text(f"{good}machines: host\n")
    (problem,) = check([file], schemas={"study": Study})
    assert problem.expected == "a list"


def test_a_file_of_another_kind_is_told_so_and_no_more(tmp_path):
    """Not one sentence for each field that the other kind has not."""
    file = tmp_path / "mine.yaml"
    file.write_text(STACK)
    with pytest.raises(Refused, match=r"mine.yaml:1: kind: expected a file of kind: law, got stack$"):
        profile("law", str(file))
