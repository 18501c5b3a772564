"""The loader: every shipped file, names and folders, files over files, machines and layouts in SI."""

from __future__ import annotations

import dataclasses
import math
import shutil
import subprocess
import sys
import typing
from pathlib import Path

import pytest

from coopt.problems import Refused
from coopt.spec import load, nouns, schema_fitted, schema_hardware, schema_models
from coopt.spec.constants import FAMILY
from coopt.spec.find import FOLDERS, entries, find, fold, shipped
from coopt.spec.profiles import SCHEMAS, check, facts, hardware_table, profile
from coopt.spec.schema import at, inner

SHIPPED = {kind: entries(kind) for kind in SCHEMAS}
FILES = [
    pytest.param(kind, entry.path, id=f"{kind}:{entry.name}") for kind, found in SHIPPED.items() for entry in found
]


# ------------------------------------------------------------------------------------------------ what ships


@pytest.mark.parametrize(("kind", "path"), FILES)
def test_every_shipped_file_loads_and_is_called_what_it_is(kind, path):
    assert check([path]) == ()
    given = profile(kind, str(path))
    assert given.name == path.stem
    assert all(fact.source or not fact.kind for fact in facts(given))


def test_every_shipped_file_has_a_kind_that_is_looked_for():
    """A file in the wrong folder would be shipped and never found."""
    listed = {entry.path.resolve() for kind in FOLDERS for entry in entries(kind)}
    files = [f for top in ("hw_profiles", "models") for f in (shipped() / top).rglob("*.yaml")]
    assert files and all(file.resolve() in listed for file in files)


@pytest.mark.parametrize("kind", SCHEMAS)
def test_no_two_shipped_files_answer_to_one_name(kind):
    owners: dict[str, str] = {}
    for entry in SHIPPED[kind]:
        for name in {fold(word) for word in (entry.name, *entry.aliases)}:
            assert owners.setdefault(name, entry.name) == entry.name


@pytest.mark.parametrize("entry", SHIPPED["system"], ids=lambda entry: entry.name)
def test_every_shipped_system_is_a_machine_or_says_what_it_lacks(entry):
    try:
        machine = load.resolve(entry.name)
    except Refused as refusal:
        assert all(p.file and p.line > 1 and p.field and "pricing needs" in p.expected for p in refusal.problems)
        return
    assert machine.name == entry.name and machine.chip == entry.chip
    assert 1e12 < max(machine.peak) < 1e17 and 1e10 < machine.bandwidth < 1e17 and 1e9 < machine.memory < 1e13
    assert all(0 < share <= 1 for share in (*machine.matmul, machine.attention, machine.stream))
    sizes = [tier.size for tier in machine.tiers]
    assert sizes == sorted(sizes)
    assert machine.fidelity in ("measured", "interpolated", "transferred")


@pytest.mark.parametrize("entry", SHIPPED["chip"], ids=lambda entry: entry.name)
def test_what_a_shipped_chip_lacks_has_a_reason(entry):
    """Unknown is absent with a reason: peaks, memory and price are given or named under `missing:`."""
    fields = profile("chip", entry.name).fields
    for field in ("memory.capacity", "memory.bandwidth", "price.chip", "vector", "cores"):
        value = fields
        for key in field.split("."):
            value = getattr(value, key)
        said = [key for key in fields.missing if field == key or field.startswith(f"{key}.")]
        assert (value is None) == bool(said), field


@pytest.mark.parametrize("entry", SHIPPED["model"], ids=lambda entry: entry.name)
def test_every_shipped_model_is_a_model(entry):
    model = load.model(entry.name)
    assert model.d_model > 0 and model.vocab > 0 and 1 <= len(model.kinds) <= 6
    assert all(isinstance(leaf, float) for kind in model.kinds for leaf in (kind.count, kind.heads, kind.norms))


def test_the_words_of_the_schemas_are_those_of_the_nouns():
    practice = schema_fitted.Practice

    def words(schema, *place):
        return set(typing.get_args(inner(at(schema, place))))

    assert words(schema_models.Layers, "mixer") == set(nouns.MIXERS)
    assert words(schema_models.Layers, "feedforward") == set(nouns.FEEDFORWARDS)
    assert words(practice, "recompute") == set(nouns.RECOMPUTE)
    assert words(practice, "schedule") == set(nouns.SCHEDULES)
    assert words(practice, "order") == set(nouns.ORDERS)
    assert words(practice, "precision") == set(nouns.PRECISIONS)
    assert set(nouns.TYPES) <= set(schema_hardware.Peak.model_fields)
    leaves = {field.name for field in dataclasses.fields(nouns.LayerKind)}
    assert leaves == set(schema_models.Layers.model_fields) - {"notes"}


# --------------------------------------------------------------------------------------------- names and folders


@pytest.mark.parametrize("name", ["h100-sxm", "H100", "h100_sxm", "H100 SXM5 80GB", "h100 sxm5_80gb", "H100-SXM"])
def test_names_and_aliases_find_the_same_file(name):
    assert find("chip", name).stem == "h100-sxm"


@pytest.mark.parametrize(
    "name",
    ["h1000", "../h100-sxm", "/etc/passwd", "h100-sxm/", "", "x" * 300, "x" * 300 + ".yaml", "h100\0", "[a-z]*"],
)
def test_unknown_names_are_refused(name):
    """D5: a name is never a way to another folder."""
    with pytest.raises(Refused) as refusal:
        find("chip", name)
    assert refusal.value.problems[0].field == "chip"


def test_close_names_are_offered():
    with pytest.raises(Refused, match="did you mean.*dgx-h100"):
        load.resolve("dgx-h10")


def test_a_name_may_be_a_file(tmp_path):
    file = tmp_path / "mine.yaml"
    shutil.copy(find("chip", "h100-sxm"), file)
    assert load.resolve(str(file), chips=1).chip == "h100-sxm"
    with pytest.raises(Refused, match="expected a file"):
        load.resolve(str(tmp_path / "other.yaml"))


def own_chip(folder: Path, text: str = "", name: str = "mine", extends: str = "h100-sxm") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{name}.yaml"
    head = f"kind: chip\nname: {name}\ntitle: Mine\nextends: {extends}\nsources:\n  own: {{title: Own, date: 2026}}\n"
    file.write_text(head + text)
    return file


@pytest.mark.parametrize("inside", ["hw_profiles/chips", "chips", "."])
def test_own_folders_come_first_however_they_are_laid_out(tmp_path, monkeypatch, inside):
    own_chip(tmp_path / inside, "memory: {bandwidth: {value: 5 TB/s, source: own, kind: measured}}\n", name="h100-sxm")
    assert load.resolve("dgx-h100", path=tmp_path).bandwidth == 5e12
    assert load.resolve("dgx-h100").bandwidth == 3.35e12
    monkeypatch.setenv("COOPT_PATH", str(tmp_path))
    assert load.resolve("dgx-h100").bandwidth == 5e12
    assert load.resolve("dgx-h100").peak[2] == 989.4e12


def test_a_folder_that_does_not_exist_is_refused(tmp_path, monkeypatch):
    with pytest.raises(Refused, match="profile_path"):
        load.names("chip", path=tmp_path / "typo")
    monkeypatch.setenv("COOPT_PATH", str(tmp_path / "typo"))
    with pytest.raises(Refused, match="COOPT_PATH"):
        load.names("chip")


def test_an_alias_of_two_files_is_refused(tmp_path):
    for name in ("one", "two"):
        own_chip(tmp_path, "aliases: [twin]\n", name=name)
    with pytest.raises(Refused, match="one, two"):
        find("chip", "twin", path=tmp_path)


def test_a_broken_file_is_listed_and_says_why(tmp_path):
    (tmp_path / "chips").mkdir()
    (tmp_path / "chips" / "broken.yaml").write_text("kind: [\n")
    rows = {row.name: row for row in hardware_table(path=tmp_path)}
    assert rows["broken"].problems[0].line == 2
    assert rows["h100-sxm"].peak == 989.4e12 and not rows["h100-sxm"].problems


def test_the_wheel_layout_is_found(tmp_path):
    """Inside a wheel the data lie in `coopt/_data`, and there is no checkout beside the package."""
    package = Path(load.__file__).parents[1]
    shutil.copytree(package, tmp_path / "coopt", ignore=shutil.ignore_patterns("__pycache__"))
    for folder in ("hw_profiles", "models"):
        shutil.copytree(shipped() / folder, tmp_path / "coopt" / "_data" / folder)
    code = "from coopt.spec.find import find, shipped; print(find('chip', 'H100')); assert shipped().name == '_data'"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env={"PYTHONPATH": str(tmp_path)}, capture_output=True, text=True
    )
    assert done.stdout.strip() == str(tmp_path / "coopt/_data/hw_profiles/chips/h100-sxm.yaml"), done.stderr


def test_listing_does_not_wait_for_jax():
    code = "import sys; from coopt.spec import profiles; profiles.profile('chip', 'H100'); print('jax' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=shipped())
    assert done.stdout.strip() == "False", done.stderr


# -------------------------------------------------------------------------------------------- files over files


def test_a_file_over_another_changes_what_it_gives(tmp_path):
    own_chip(
        tmp_path,
        "memory: {bandwidth: {value: 3.0 TB/s, source: own, kind: measured}}\nmissing: {price.hour: not for rent}\n",
    )
    mine, theirs = profile("chip", "mine", path=tmp_path), profile("chip", "h100-sxm")
    assert mine.fields.memory.bandwidth.value == 3.0e12
    assert mine.fields.memory.capacity == theirs.fields.memory.capacity
    assert mine.fields.price.hour is None and mine.fields.price.chip == theirs.fields.price.chip
    assert mine.fields.aliases == () and mine.title == "Mine"
    assert mine.marks["memory", "capacity"].file == str(theirs.path)
    assert mine.marks["memory", "bandwidth"].file == str(mine.path)


def test_a_source_key_used_twice_never_moves_a_number(tmp_path):
    theirs = profile("chip", "h100-sxm")
    key = theirs.data["memory"]["bandwidth"]["source"]
    file = own_chip(tmp_path)
    file.write_text(file.read_text().replace("  own:", f"  {key}:"))
    mine = profile("chip", "mine", path=tmp_path)
    said = {fact.field: fact.source for fact in facts(mine)}
    assert said["memory.bandwidth"] == theirs.data["sources"][key]["title"] != "Own"


def test_a_mistake_in_the_extended_file_is_said_there(tmp_path):
    base = own_chip(tmp_path, "memory: {bandwidth: {value: 3.0, source: own, kind: measured}}\n", name="base")
    own_chip(tmp_path, name="child", extends="base")
    with pytest.raises(Refused) as refusal:
        profile("chip", "child", path=tmp_path)
    assert [(p.file, p.line, p.field) for p in refusal.value.problems] == [(str(base), 7, "memory.bandwidth")]


def test_files_that_extend_each_other_are_refused(tmp_path):
    own_chip(tmp_path, name="one", extends="two")
    own_chip(tmp_path, name="two", extends="three")
    own_chip(tmp_path, name="three", extends="one")
    with pytest.raises(Refused, match="extends"):
        profile("chip", "one", path=tmp_path)
    own_chip(tmp_path, name="self", extends="self")
    with pytest.raises(Refused, match="extends"):
        profile("chip", "self", path=tmp_path)


def test_extending_what_is_not_there_is_refused_with_its_line(tmp_path):
    own_chip(tmp_path, extends="h100-sxn")
    with pytest.raises(Refused, match=r"mine\.yaml:4: extends: .*did you mean `h100-sxm`"):
        profile("chip", "mine", path=tmp_path)


def test_confidential_values_are_used_and_never_told(tmp_path):
    secret = "price: {chip: {value: 12345 USD, source: own, kind: measured, confidential: true, basis: 12345 once}}\n"
    secret += "memory: {bandwidth: {value: 3.21 TB/s, source: own, kind: measured, confidential: true}}\n"
    own_chip(tmp_path, secret)
    assert load.resolve("mine", chips=1, path=tmp_path).bandwidth == 3.21e12
    told = str(facts(profile("chip", "mine", path=tmp_path))) + str(hardware_table(path=tmp_path))
    told += str(load.resolve("mine", chips=1, path=tmp_path).assumed)
    assert "12345" not in told and "3.21" not in told
    own_chip(tmp_path, secret.replace("USD", "usd").replace("3.21 TB/s", "3.21"))
    with pytest.raises(Refused) as refusal:
        profile("chip", "mine", path=tmp_path)
    assert len(refusal.value.problems) == 2
    assert "12345" not in str(refusal.value) and "3.21" not in str(refusal.value)


# ------------------------------------------------------------------------------------------------------ machines


def test_a_machine_is_in_si_and_says_what_it_assumes():
    machine = load.resolve("dgx-h100", chips=1024)
    assert machine.chips == 1024.0 and machine.chip == "h100-sxm" and machine.family == "hopper"
    assert machine.peak[nouns.TYPES.index("fp8")] == 1978.9e12 and machine.peak[nouns.TYPES.index("nvfp4")] == 0.0
    assert machine.memory == 80 * 2**30
    assert machine.tiers[0].bandwidth == 450e9 and machine.tiers[0].size == 8.0
    assert machine.tiers[1].bandwidth == 50e9 and math.isinf(machine.tiers[1].size)
    family = profile("family", "hopper").fields.fitted
    assert machine.matmul[nouns.TYPES.index("bf16")] == family.matmul_16.value
    assert machine.matmul[nouns.TYPES.index("fp8")] == family.matmul_8.value
    links = profile("system", "dgx-h100").fields.tiers
    assert machine.tiers[0].efficiency == (links[0].efficiency or family.scale_up).value
    assert machine.tiers[1].efficiency == (links[1].efficiency or family.scale_out).value
    assert machine.dollars_hour == profile("chip", "h100-sxm").fields.price.hour.value
    assert machine.watts_all_in == profile("system", "dgx-h100").fields.power.it_per_chip.value
    assert any("tiers.nvlink.latency" in said for said in machine.assumed)


def test_a_chip_alone_is_taken_as_part_of_a_system_and_that_is_said():
    machine = load.resolve("H100", chips=16)
    assert machine.chip == "h100-sxm" and machine.tiers
    assert any("is a chip" in said and machine.name in said for said in machine.assumed)


def test_a_name_of_both_is_the_system():
    both = {e.name for e in SHIPPED["system"]} & {e.name for e in SHIPPED["chip"]}
    assert "tpu-v4" in both
    assert not any("is a chip" in said for said in load.resolve("tpu-v4").assumed)


def test_an_unknown_stack_is_the_generic_one_and_that_is_said():
    machine = load.resolve("dgx-h100", chips=8, stack="nobody's")
    assert machine.stack == "generic" and any("nobody's" in said for said in machine.assumed)


def test_torus_tiers_have_axes():
    machine = load.resolve("tpu-v5p", chips=64)
    assert machine.tiers[0].axes == 3.0
    assert load.resolve("tpu-v5e", chips=64).tiers[0].axes == 2.0
    assert load.resolve("dgx-h100", chips=64).tiers[0].axes == 0.0


@pytest.mark.parametrize("chips", [0, -8, 1.5, math.nan, math.inf, "many", True])
def test_a_number_of_chips_that_cannot_be_is_refused(chips):
    if chips is True:
        assert load.resolve("dgx-h100", chips=chips).chips == 1.0
        return
    with pytest.raises(Refused, match="chips"):
        load.resolve("dgx-h100", chips=chips)


def own_system(folder: Path, tiers: str, more: str = "") -> None:
    (folder / "own.yaml").write_text(
        "kind: system\nname: own\ntitle: Own\nchip: h100-sxm\nchips_per_node: 8\n"
        f"sources: {{s: {{title: S, date: 2026}}}}\n{more}{tiers}"
    )


LINK = "bandwidth: {value: 100 GB/s, source: s, kind: assumed}, latency: {value: 1 us, source: s, kind: assumed}"


def test_more_chips_than_there_can_be_are_refused(tmp_path):
    own_system(tmp_path, f"tiers: [{{name: torus, size: 64, topology: torus3d, {LINK}}}]\n")
    assert load.resolve("own", chips=64, path=tmp_path).tiers[0].size == 64.0
    with pytest.raises(Refused, match="at most 64 chips"):
        load.resolve("own", chips=65, path=tmp_path)
    own_system(tmp_path, f"tiers: [{{name: net, topology: switch, {LINK}}}]\n", more="max_chips: 16\n")
    with pytest.raises(Refused, match="at most 16 chips"):
        load.resolve("own", chips=17, path=tmp_path)


def test_usable_chips_of_a_domain_are_what_counts(tmp_path):
    tiers = f"tiers: [{{name: rack, size: 72, usable: 64, topology: switch, {LINK}}}, "
    own_system(tmp_path, tiers + f"{{name: net, topology: switch, {LINK}}}]\n")
    machine = load.resolve("own", chips=640, path=tmp_path)
    assert machine.tiers[0].size == 64.0
    assert any("64 of the 72" in said for said in machine.assumed)


def test_every_field_that_pricing_lacks_is_named(tmp_path):
    own_chip(tmp_path, "missing: {memory: secret, peak.bf16: sparse only, peak.fp16: sparse only}\n")
    with pytest.raises(Refused) as refusal:
        load.resolve("mine", chips=1, path=tmp_path)
    assert [p.field for p in refusal.value.problems] == ["peak.bf16", "memory.capacity", "memory.bandwidth"]
    assert all(p.file.endswith("mine.yaml") and p.line == 7 for p in refusal.value.problems)
    assert "secret" in str(refusal.value) and "989.4 TFLOP/s" in str(refusal.value)
    filled = {"peak.bf16": "900 TFLOP/s", "memory.capacity": "80 GB", "memory.bandwidth": "3 TB/s"}
    machine = load.resolve("mine", chips=1, path=tmp_path, overrides=filled)
    assert machine.memory == 80e9
    assert {f"{field} is set to {value}" for field, value in filled.items()} <= set(machine.assumed)


def test_what_a_system_says_of_its_links_comes_before_its_family(tmp_path):
    own = "efficiency: {value: 0.31, source: s, kind: measured}, saturation: {value: 3 MB, source: s, kind: measured}"
    tiers = (
        f"tiers: [{{name: rack, size: 8, topology: switch, {LINK}, {own}}}, {{name: net, topology: switch, {LINK}}}]"
    )
    own_system(tmp_path, tiers + "\n")
    near, far = load.resolve("own", chips=16, path=tmp_path).tiers
    assert (near.efficiency, near.saturation) == (0.31, 3e6)
    assert far.efficiency == profile("family", "hopper").fields.fitted.scale_out.value


def test_what_a_stack_does_not_give_is_said(tmp_path):
    (tmp_path / "bare.yaml").write_text("kind: stack\nname: bare\ntitle: B\nsources: {s: {title: S, date: 2026}}\n")
    machine = load.resolve("dgx-h100", stack="bare", path=tmp_path)
    assert machine.stack == "bare"
    assert any("no constants of the stack bare" in said and "dispatch" in said for said in machine.assumed)


def test_many_chips_need_a_network(tmp_path):
    own_chip(tmp_path)
    assert load.resolve("mine", path=tmp_path).chips == 1.0
    with pytest.raises(Refused, match="tiers"):
        load.resolve("mine", chips=8, path=tmp_path)
    own_system(tmp_path, "tiers: [{name: net, topology: switch}]\n")
    with pytest.raises(Refused) as refusal:
        load.resolve("own", chips=8, path=tmp_path)
    assert {p.field for p in refusal.value.problems} == {"tiers.0.bandwidth", "tiers.0.latency"}


def test_prices_and_powers_that_no_file_gives_are_not_known(tmp_path):
    own_chip(tmp_path, "missing: {price: none, power: none}\n")
    machine = load.resolve("mine", chips=1, path=tmp_path)
    assert all(math.isnan(x) for x in (machine.dollars_hour, machine.watts, machine.dollars, machine.watts_all_in))


def test_constants_of_the_very_chip_come_before_its_family(tmp_path):
    own_chip(tmp_path, "fitted: {stream: {value: 0.91, source: own, kind: measured}}\n")
    machine = load.resolve("mine", chips=1, path=tmp_path)
    assert machine.stream == 0.91 and machine.depth == load.resolve("H100", chips=1).depth


def test_fidelity_is_that_of_the_worst_constant(tmp_path):
    words = {"kernel": "3 us", "depth": "99", "attention_depth": "900"}
    given = [f"{key}: {{value: {words.get(key, 0.5)}, source: own, kind: fitted}}" for key in FAMILY]
    own_chip(tmp_path, f"family: nobody\nfitted: {{{', '.join(given)}}}\n")
    assert load.resolve("mine", chips=1, path=tmp_path).fidelity == "interpolated"
    own_chip(tmp_path, f"family: nobody\nfitted: {{{', '.join(given).replace('fitted', 'measured')}}}\n")
    assert load.resolve("mine", chips=1, path=tmp_path).fidelity == "measured"
    own_chip(tmp_path, f"family: nobody\nfitted: {{{', '.join(given[1:])}}}\n")
    assert load.resolve("mine", chips=1, path=tmp_path).fidelity == "transferred"


def test_a_chip_without_family_says_which_constants_are_taken(tmp_path):
    own_chip(tmp_path, "family: nobody\n")
    machine = load.resolve("mine", chips=1, path=tmp_path)
    assert any("no fitted constants of the family nobody" in said and "stream" in said for said in machine.assumed)


@pytest.mark.parametrize("name, field", [("dgx-h100", "d_model"), ("chinchilla-besiroglu", "chips")])
def test_a_setting_of_something_else_is_refused(name, field):
    with pytest.raises(Refused, match=f"{field}: expected .*{name} is a (machine|law)"):
        load.load(name, **{field: 8})


# ----------------------------------------------------------------------------------------------------- overrides


def test_fields_are_set_wherever_they_stand():
    machine = load.resolve(
        "dgx-h100",
        chips=8,
        overrides={
            "memory.bandwidth": "6 TB/s",
            "fitted.stream": 0.9,
            "fitted.overhead": "3 %",
            "tiers.nvlink.bandwidth": "900 GB/s",
            "tiers.0.size": "16",
            "system.power.it_per_chip": "2 kW",
            "price.hour": "3 USD/h",
            "cores": "140",
        },
    )
    assert (machine.bandwidth, machine.stream, machine.overhead) == (6e12, 0.9, 0.03)
    assert (machine.tiers[0].bandwidth, machine.tiers[0].size, machine.cores) == (900e9, 16.0, 140.0)
    assert (machine.watts_all_in, machine.dollars_hour) == (2000.0, 3.0)
    assert "memory.bandwidth is set to 6 TB/s" in machine.assumed
    assert load.resolve("dgx-h100", chips=8).bandwidth == 3.35e12


def test_every_wrong_override_is_said():
    wrong = {"memory.bandwith": "6 TB/s", "memory.capacity": "80", "fitted.stream": 1.5, "name": "x", "tiers.x.size": 8}
    with pytest.raises(Refused) as refusal:
        load.resolve("dgx-h100", chips=8, overrides=wrong)
    said = {p.field: p for p in refusal.value.problems}
    assert set(said) == set(wrong)
    assert "memory.bandwidth" in said["memory.bandwith"].hint and "80 GiB" in said["memory.capacity"].hint
    assert all(p.file == "" and p.line == 0 for p in said.values())


# -------------------------------------------------------------------------------------------------------- models


def test_a_model_is_a_table_of_layer_kinds():
    model = load.model("llama3-70b")
    (kind,) = model.kinds
    assert (model.d_model, model.vocab, model.tied, model.norms) == (8192.0, 128256.0, 0.0, 1.0)
    assert (kind.count, kind.heads, kind.kv_heads, kind.d_ff, kind.gated, kind.norms) == (80, 64, 8, 28672, 1.0, 2.0)
    assert (kind.mixer, kind.feedforward) == ("full", "dense")


def test_a_model_with_layer_norms_counts_scale_and_bias():
    model = load.model("gpt3-175b")
    assert model.norms == 2.0 and model.kinds[0].norms == 4.0 and model.positions == 2048.0


def test_fields_of_a_model_are_set():
    model = load.model("llama3-70b", d_model="4096", count=40, **{"layers.0.heads": 32})
    assert (model.d_model, model.kinds[0].count, model.kinds[0].heads) == (4096.0, 40.0, 32.0)
    with pytest.raises(Refused) as refusal:
        load.model("llama3-70b", d_modle=1, **{"layers.3.heads": 1})
    assert [p.field for p in refusal.value.problems] == ["d_modle", "layers.3.heads"]
    with pytest.raises(Refused, match="kv_heads that divides heads"):
        load.model("llama3-70b", heads=63)


def test_a_law_keeps_its_range_and_its_errors(tmp_path):
    (tmp_path / "own.yaml").write_text(
        "kind: law\nname: own\ntitle: Own\nsources: {s: {title: S, date: 2024}}\nsource: s\nform: dense\n"
        "constants: {E: {value: 1.8, error: 0.03}, A: {value: 482}, alpha: {value: 0.35}, B: {value: 2085},"
        " beta: {value: 0.37}}\nrange: {parameters: [44e6, 16e9], tokens: [1e9, null], aspect: [null, null],"
        " vocabulary: [1e4, 1e5]}\n"
        "critical_batch: {coefficient: 22.9, exponent: 0.47, source: s}\n"
    )
    law = load.law("own", path=tmp_path)
    assert (law.E, law.A, law.beta, law.source) == (1.8, 482.0, 0.37, "S")
    assert law.errors == (0.03, 0.0, 0.0, 0.0, 0.0)
    assert law.parameters == (44e6, 16e9) and law.tokens == (1e9, math.inf) and law.aspect == (0.0, math.inf)
    assert law.critical == (22.9, 0.47)


def test_one_door_opens_all():
    assert isinstance(load.load("llama3-70b"), nouns.Model)
    assert load.load("dgx-h100", chips=16).chips == 16.0
    assert load.load("H100", chips=1).chip == "h100-sxm"
    assert isinstance(load.load(str(find("model", "llama3-70b"))), nouns.Model)
    with pytest.raises(Refused, match="did you mean"):
        load.load("llama3-71b")


# ------------------------------------------------------------------------------------------------------- layouts


def test_a_layout_is_filled_by_the_stack_and_every_field_is_said():
    cut, said = load.layout("tp=8, pp=4", chips=1024)
    assert (cut.tp, cut.pp, cut.cp, cut.dp, cut.fsdp, cut.sp, cut.zero) == (8, 4, 1, 32, 32, 1, 1)
    filled = {sentence.split("=")[0] for sentence in said}
    practice = profile("stack", "generic").data["practice"]
    assert {"fused_attention", "zero", "recompute", "sp", "fsdp"} <= set(practice)
    assert filled == set(practice) - {"vocab_multiple"}
    own = dict.fromkeys(set(practice) - {"vocab_multiple", "fsdp", "precision", "schedule", "order"}, 0)
    own |= {
        "imbalance": 1,
        "recompute": "full",
        "tp": 1,
        "precision": "bf16",
        "schedule": "1f1b",
        "order": "tp-cp-dp-pp",
    }
    cut, said = load.layout(own, chips=8)
    assert (cut.dp, cut.fsdp, cut.recompute) == (8.0, 1.0, 2.0) and said == ()


def test_names_stand_for_codes():
    given = "recompute=selective,schedule=zero-bubble,order=pp-tp-cp-dp,precision=fp8,fsdp=dp,zero=3,offload=0.5"
    cut, _ = load.layout(given, chips=4)
    assert (cut.recompute, cut.schedule, cut.order) == (1.0, 2.0, 2.0)
    assert cut.precision.name == "fp8" and cut.fsdp == cut.dp == 4.0 and cut.zero == 3.0 and cut.offload == 0.5


@pytest.mark.parametrize("chips", [100, 3])
def test_a_layout_that_does_not_fit_is_no_error_here(chips):
    """The count gives the verdict `chips`; dp is rounded down and never zero."""
    cut, _ = load.layout("tp=8,pp=3", chips=chips)
    assert cut.dp == max(1, chips // 24) and cut.tp * cut.pp * cut.dp != chips


def test_every_wrong_field_of_a_layout_is_said():
    with pytest.raises(Refused) as refusal:
        load.layout({"pt": 8, "pp": 0, "tp": 1.5, "recompute": "ful", "precision": "fp7", "zero": 4, "sp": 2}, chips=8)
    said = {p.field: p for p in refusal.value.problems}
    assert set(said) == {f"layout.{key}" for key in ("pt", "pp", "tp", "recompute", "precision", "zero", "sp")}
    assert "`tp`" in said["layout.pt"].hint and "`full`" in said["layout.recompute"].hint
    for text in ("tp", "tp=8,tp=4", "=8", "tp=", "tp==8"):
        with pytest.raises(Refused):
            load.layout(text, chips=8)


def test_layouts_take_the_machine_and_the_model_into_account():
    machine = load.resolve("dgx-h100", chips=64, stack="jax")
    cut, said = load.layout("tp=2", hardware=machine, model=load.model("mixtral-8x7b"))
    assert cut.dp == 32.0 and cut.fused_attention == 0.0
    assert any("stack jax" in sentence for sentence in said) and any("ep=1" in sentence for sentence in said)


def test_the_vocabulary_is_padded_as_the_stack_pads_it():
    model = load.model("gpt3-175b")
    assert load.padded(model, 8, stack="megatron-lm").vocab == 51200.0
    assert load.padded(model, 8, stack="jax").vocab == math.ceil(50257 / 8) * 8


def test_a_stack_that_sums_gradients_in_16_bits_says_so():
    cut, said = load.layout("tp=2", chips=8, stack="megatron-lm")
    assert cut.precision.reduce == 2.0 and "precision.reduce=2: practice of the stack megatron-lm" in said
    assert load.padded(load.model("gpt3-175b"), 8, stack="megatron-lm").kinds[0].dropout == 1.0
    assert load.padded(load.model("llama3-70b"), 8, stack="megatron-lm").kinds[0].dropout == 0.0
