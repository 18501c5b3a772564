"""The files that ship are the published facts: names, counts, units, links, and what is not known (plan C: data).

`tests/data/facts_*.csv` hold the figures as they were found, each with its source; nothing here asks the resolver what
a profile means, so that a wrong file and a wrong reader cannot agree.
"""

from __future__ import annotations

import csv
import math
import re
from pathlib import Path

import pytest

from coopt import units
from coopt.problems import Refused
from coopt.spec import read
from coopt.spec.find import find, names
from coopt.spec.profiles import check, profile
from coopt.spec.schema_types import Quantity

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT / "tests" / "data"
FOLDERS = {"chip": "chips", "system": "systems", "family": "families", "stack": "stacks"}


def table(name: str) -> list[dict[str, str]]:
    """The rows of a table of facts."""
    with (DATA / f"facts_{name}.csv").open(encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def field(kind: str, name: str, path: str):
    """One field of a profile, None where it is not given."""
    value = profile(kind, name).fields
    for part in path.split("."):
        value = value[int(part)] if part.isdigit() else getattr(value, part, None)
    return value


def said(quantity: Quantity) -> list[float]:
    """Everything that the sources of a quantity say."""
    bounds = [b for b in (quantity.low, quantity.high) if b is not None]
    return [quantity.value, *(other.value for other in quantity.disagree), *bounds]


def quantities(value) -> list[Quantity]:
    """Every quantity inside some fields."""
    if isinstance(value, Quantity):
        return [value]
    if isinstance(value, (tuple, list)):
        return [q for part in value for q in quantities(part)]
    if isinstance(value, dict):
        return [q for part in value.values() for q in quantities(part)]
    parts = getattr(type(value), "model_fields", {})
    return [q for part in parts for q in quantities(getattr(value, part))]


# --- what ships --------------------------------------------------------------------------------------------------


def test_enough_is_shipped():
    """At least 30 chips, 14 systems, 25 models, every stack that measurements name, a law of each form."""
    assert len(names("chip")) >= 30
    assert len(names("system")) >= 14
    assert len(names("model")) >= 25
    stacks = {
        "megatron-lm",
        "megatron-deepspeed",
        "megatron-bridge",
        "nemo",
        "maxtext",
        "llm-foundry",
        "generic",
        "jax",
    }
    assert stacks <= set(names("stack"))
    assert {profile("law", name).fields.form for name in names("law")} >= {"dense", "sparse"}


def test_every_file_is_right():
    """No file that ships has a problem."""
    files = [f for folder in FOLDERS.values() for f in sorted((ROOT / "hw_profiles" / folder).glob("*.yaml"))]
    files += sorted((ROOT / "models").glob("*.yaml")) + sorted((ROOT / "models" / "laws").glob("*.yaml"))
    assert len(files) > 100
    assert [str(problem) for problem in check(files)] == []


def test_a_file_is_called_what_it_says():
    """`hw_profiles/chips/h100-sxm.yaml` holds h100-sxm, every alias means one chip, every chip has its family."""
    for kind, folder in FOLDERS.items():
        for file in (ROOT / "hw_profiles" / folder).glob("*.yaml"):
            head = read.head(file, ("kind", "name", "aliases"))
            assert (head["kind"], head["name"]) == (kind, file.stem)
            for alias in head.get("aliases", []):
                assert find(kind, str(alias)) == file, f"{alias} means another {kind} than {file.stem}"
    for chip in names("chip"):
        assert field("chip", chip, "family") in names("family"), chip
    for system in names("system"):
        assert field("system", system, "chip") in names("chip"), system


@pytest.mark.parametrize("row", table("names"), ids=lambda row: f"{row['kind']}:{row['name']}")
def test_names_and_aliases_resolve(row):
    """Every name and alias of the list of names finds its file, however it is spelled."""
    file = find(row["kind"], row["name"])
    assert file.stem == row["name"]
    if row["kind"] == "chip":
        for alias in row["aliases"].split("|"):
            assert find("chip", alias) == file
            assert find("chip", alias.upper()) == file
    wired = re.search(r"(\d+) x ([a-z0-9-]+)", row["aliases"]) if row["kind"] == "system" else None
    if wired:
        assert field("system", row["name"], "tiers.0.size") == float(wired[1])
        assert field("system", row["name"], "chip") == wired[2]


# --- models ------------------------------------------------------------------------------------------------------


def flag(layers: dict, key: str) -> bool:
    """A yes or no of a plain mapping."""
    return str(layers.get(key, "no")).lower() in ("yes", "true", "1")


def attention_weights(d: int, layers: dict) -> int:
    """Weights of the four projections, or of the latent ones of MLA, from the plain fields."""
    heads, size = layers["heads"], layers["head_dim"]
    if layers["mixer"] != "mla":
        return d * heads * size * 2 + 2 * d * layers.get("kv_heads", heads) * size
    rope, v, kv, q = layers["rope_dim"], layers["v_dim"], layers["kv_rank"], layers.get("q_rank", 0)
    query = d * q + q * heads * (size + rope) if q else d * heads * (size + rope)
    return query + d * (kv + rope) + kv * heads * (size + v) + heads * v * d


def feedforward_weights(d: int, layers: dict) -> tuple[int, int]:
    """All weights of the feed-forward, and those that one token visits."""
    matrices = 3 if flag(layers, "gated") else 2
    if layers["feedforward"] == "dense":
        return (matrices * d * layers["d_ff"],) * 2
    one = matrices * d * layers["d_expert"]
    always = layers.get("shared", 0) * matrices * d * layers.get("d_shared", 0) + d * layers["experts"]
    return layers["experts"] * one + always, layers["top_k"] * one + always


def biases(d: int, layers: dict) -> int:
    """Bias vectors of a layer that has them."""
    if not flag(layers, "bias"):
        return 0
    wide = layers["heads"] * layers["head_dim"] + 2 * layers["kv_heads"] * layers["head_dim"] + d
    if layers["feedforward"] == "dense":
        return wide + layers["d_ff"] * (2 if flag(layers, "gated") else 1) + d
    return wide + layers["experts"] * (layers["d_expert"] * (2 if flag(layers, "gated") else 1) + d + 1)


def counted(model: dict) -> tuple[int, int, int]:
    """Weights of matmuls and embeddings, those a token visits, and every parameter."""
    d, tables = model["d_model"], model["vocab"] * model["d_model"] * (1 if flag(model, "tied") else 2)
    all_weights, visited, rest = tables, tables, model.get("positions", 0) * d
    vectors = 2 if model["norm"] == "layer" else 1
    for layers in model["layers"]:
        mixer, (held, used) = attention_weights(d, layers), feedforward_weights(d, layers)
        all_weights += layers["count"] * (mixer + held)
        visited += layers["count"] * (mixer + used)
        rest += layers["count"] * (layers.get("norms", 2 * vectors) * d + biases(d, layers))
    return all_weights, visited, all_weights + rest + vectors * d


@pytest.mark.parametrize("row", table("models"), ids=lambda row: row["name"])
def test_parameter_counts(row):
    """Counts from the shape equal the published ones: weights within 0.1 %, all parameters within 0.6 %."""
    model, _ = read.read(find("model", row["name"]))
    weights, visited, everything = counted(model)
    assert weights == pytest.approx(float(row["counted_params"]), rel=1e-3)
    assert visited == pytest.approx(float(row["counted_active"]), rel=1e-3)
    assert everything == pytest.approx(float(row["published_params"]), rel=6e-3)
    assert model["published"]["parameters"] == pytest.approx(float(row["published_params"]))
    if row["published_active_params"]:
        assert model["published"]["active"] == pytest.approx(float(row["published_active_params"]))
    assert sum(layers["count"] for layers in model["layers"]) == int(row["layers"])
    assert model["context"] == int(row["context"])


def test_every_published_count():
    """Models beyond the table as well: within 1 % of what their publisher says (5 % of a rounded number)."""
    checked = 0
    for name in names("model"):
        model, _ = read.read(find("model", name))
        published = model.get("published", {}).get("parameters")
        if published:
            rounded = len(f"{published:.15g}".rstrip("0").replace(".", "")) <= 4
            assert counted(model)[2] == pytest.approx(published, rel=0.05 if rounded else 0.01), name
            checked += 1
    assert checked >= 50


def test_layers_that_differ_stand_apart():
    """Windows, dense first layers and alternate experts are kinds of their own, never an average."""

    def kinds(name):
        layers = read.read(find("model", name))[0]["layers"]
        return [(k["count"], k["mixer"], k["feedforward"], k.get("window")) for k in layers]

    assert kinds("gpt-oss-20b") == [(12, "window", "moe", 128), (12, "full", "moe", None)]
    assert kinds("gemma3-27b") == [(52, "window", "dense", 1024), (10, "full", "dense", None)]
    assert kinds("deepseek-v3") == [(3, "mla", "dense", None), (58, "mla", "moe", None)]
    assert {k[2] for k in kinds("llama4-maverick")} == {"dense", "moe"}
    assert sum(k[0] for k in kinds("llama4-maverick") if k[2] == "moe") == 24


# --- the traps of hardware figures -------------------------------------------------------------------------------

SCALE = {"TFLOP/s": 1e12, "TB/s": 1e12, "GB/s": 1e9}


@pytest.mark.parametrize("row", table("chips"), ids=lambda row: f"{row['chip']}:{row['field']}")
def test_figures_as_found(row):
    """The first figure of each cell as it was found stands in the profile, as the value or beside it."""
    found = field("chip", row["chip"], row["field"])
    if found is None and row["field"] == "peak.fp8":
        found = field("chip", row["chip"], "peak.mxfp8")
    assert found is not None, f"{row['chip']} has no {row['field']}"
    if row["field"] == "memory.capacity":
        sizes = [float(row["number"]) * unit for unit in (1e9, 2**30)]
        # What a program sees of stacks sold as 288 GB is less, and in GiB.
        near = [s for s in said(found) for size in sizes if 0.92 * sizes[0] <= s <= 1.005 * size]
        assert near, (row["as_found"], said(found))
    else:
        wanted = float(row["number"]) * SCALE[row["unit"]]
        assert any(v == pytest.approx(wanted, rel=2e-3) for v in said(found)), (row["as_found"], said(found))


SPARSE = {  # headline figures that count zeros, or adaptive compression: never the value of a peak
    ("a100-80gb", "bf16"): 624e12,
    ("h100-sxm", "bf16"): 1979e12,
    ("h100-sxm", "fp8"): 3958e12,
    ("h200-sxm", "bf16"): 1979e12,
    ("gh200", "bf16"): 1979e12,
    ("l40s", "bf16"): 733e12,
    ("b200", "bf16"): 4500e12,
    ("b200", "nvfp4"): 18000e12,
    ("gb200", "bf16"): 5000e12,
    ("vr200", "nvfp4"): 50000e12,
    ("mi300x", "bf16"): 2614.9e12,
    ("trainium2", "fp8"): 2563e12,
    ("trainium3", "bf16"): 2517e12,
}


@pytest.mark.parametrize("chip,kind", SPARSE)
def test_peaks_are_dense(chip, kind):
    """Vendors headline sparse peaks; ours are dense."""
    assert field("chip", chip, f"peak.{kind}").value < 0.9 * SPARSE[chip, kind]


def test_halved_formats_never_lose():
    """A dense 8-bit rate lies between once and five times the 16-bit one, a 4-bit one is no slower than 8 bits."""
    for chip in names("chip"):
        peak = profile("chip", chip).fields.peak
        sixteen, eight = peak.bf16 or peak.fp16, peak.fp8 or peak.mxfp8
        if sixteen and eight:
            assert 1.0 <= eight.value / sixteen.value < 5.0, chip
        four = peak.nvfp4 or peak.mxfp4
        if eight and four:
            assert four.value >= eight.value, chip


BOTH_WAYS = {  # vendors' figures that add both directions
    "a100-80gb": 600e9, "h100-sxm": 900e9, "h200-sxm": 900e9, "b200": 1800e9, "gb200": 1800e9, "gb300": 1800e9,
    "vr200": 3600e9, "tpu-v5p": 1200e9, "tpu-v6e": 800e9, "tpu-v7x": 1200e9, "trainium2": 1280e9, "mi250x": 800e9,
    "maia-200": 2800e9,
}  # fmt: skip


@pytest.mark.parametrize("chip", BOTH_WAYS)
def test_links_are_one_way(chip):
    """NVLink and ICI are often sold both ways; a chip's links here are one way, and so are its system's."""
    assert field("chip", chip, "links.scale_up").value == pytest.approx(BOTH_WAYS[chip] / 2)
    for system in names("system"):
        fields = profile("system", system).fields
        if fields.chip == chip and fields.tiers[0].bandwidth:
            assert fields.tiers[0].bandwidth.value == pytest.approx(BOTH_WAYS[chip] / 2), system


def test_first_tier_is_the_chips_own_links():
    """A system's nearest tier carries what the chip's links carry, and the network no more than them."""
    for name in names("system"):
        fields = profile("system", name).fields
        links = profile("chip", fields.chip).fields.links.scale_up
        if links and fields.tiers and fields.tiers[0].bandwidth:
            assert fields.tiers[0].bandwidth.value == pytest.approx(links.value), name
        speeds = [tier.bandwidth.value for tier in fields.tiers if tier.bandwidth]
        assert speeds == sorted(speeds, reverse=True), name


def test_bytes_are_not_gibibytes():
    """The "80 GB" of Hopper and Ampere are GiB; the 96 GB of an H20 are not; no unit is left out."""
    for chip in ("a100-80gb", "h100-sxm"):
        assert field("chip", chip, "memory.capacity").value == 80 * 2**30
    assert field("chip", "h20", "memory.capacity").value == 96e9
    assert field("chip", "tpu-v5p", "memory.capacity").value == 95 * 2**30
    assert 96e9 in said(field("chip", "tpu-v5p", "memory.capacity"))
    for file in (ROOT / "hw_profiles" / "chips").glob("*.yaml"):
        for line in file.read_text(encoding="utf-8").splitlines():
            if re.match(r"\s*(capacity|cache):? ?{value", line):
                assert re.search(r"value: [\d.]+ [GMT]i?B\b", line), f"{file.name}: {line}"


def test_one_rack_by_two_names():
    """NVL144 counts dies: it is NVL72 in packages. Rubin Ultra's NVL576 likewise."""
    assert find("system", "Vera Rubin NVL144") == find("system", "vr-nvl72")
    assert field("system", "vr-nvl72", "tiers.0.size") == 72
    assert find("system", "NVL576").stem == "rubin-ultra-nvl144"
    assert field("system", "rubin-ultra-nvl144", "tiers.0.size") == 144


def test_a_superchip_is_two():
    """GB200 sheets quote one CPU and two GPUs; ours is one GPU."""
    assert field("chip", "gb200", "peak.bf16").value == 2500e12
    assert field("chip", "gb200", "memory.capacity").value < 200e9
    assert field("chip", "gb200", "power.tdp").value == 1200
    assert field("system", "gb200-nvl72", "tiers.0.usable") == 64  # jobs use 64 of the 72


def test_a_gigawatt_says_which():
    """IT power and facility power stand apart, and a site's peak is 1.1 to 1.8 times its IT power."""
    both = 0
    for name in names("system"):
        power = profile("system", name).fields.power
        if power.it_per_chip and power.facility_per_chip:
            low, high = min(said(power.facility_per_chip)), max(said(power.facility_per_chip))
            assert high <= 1.8 * power.it_per_chip.value, name
            assert high >= 1.05 * power.it_per_chip.value, name
            assert low > 0.9 * min(said(power.it_per_chip)), name
            both += 1
        tdp = profile("chip", profile("system", name).fields.chip).fields.power.tdp
        if power.it_per_chip and tdp:
            assert power.it_per_chip.value > tdp.value, f"{name}: a chip draws more than its share of a rack"
    assert both >= 10
    text = (ROOT / "hw_profiles" / "fleets" / "vera-rubin-10gw.yaml").read_text(encoding="utf-8")
    added = re.findall(r"20\d\dQ[1-4]: (\d+) MW", text)
    assert "basis: IT" in text and "never definitive" in text
    assert sum(map(int, added)) == 10_000


def test_unknown_is_absent_never_zero():
    """No quantity of a chip or a system is zero, and what a chip lacks has a reason."""
    for kind in ("chip", "system"):
        for name in names(kind):
            fields = profile(kind, name).fields
            for quantity in quantities(fields):
                if isinstance(quantity.value, float):
                    assert quantity.value > 0, (name, quantity)
    needed = ("peak.bf16", "memory.capacity", "memory.bandwidth", "links.scale_up", "links.scale_out", "power.tdp",
              "price.chip", "price.hour", "available", "cores")  # fmt: skip
    for name in names("chip"):
        reasons = profile("chip", name).fields.missing
        for wanted in needed:
            excused = wanted in reasons or wanted.split(".")[0] in reasons
            if wanted == "peak.bf16":
                excused = excused or field("chip", name, "peak.fp16") is not None
            given = field("chip", name, wanted)
            assert given is not None or excused or wanted.startswith(("price", "links")), f"{name}: {wanted}"
            assert not (given is not None and wanted in reasons), f"{name}: {wanted} is given and said to be missing"


def test_announced_chips_say_why_they_lack():
    """Chips that are announced load, list and say why a field is not there."""
    for name in ("rubin-ultra", "feynman", "trainium4", "jalapeno", "tpu-8t", "tpu-8i", "rubin-cpx", "sn50"):
        reasons = profile("chip", name).fields.missing
        assert reasons, name
        assert all(len(reason) > 3 for reason in reasons.values()), name


DISAGREE = [
    ("chip", "h100-sxm", "memory.bandwidth", (3.35e12, 3.0e12)),
    ("chip", "h100-sxm", "price.hour", (1.30, 6.88, 12.29)),
    ("chip", "b200", "memory.bandwidth", (7.7e12, 8.0e12)),
    ("chip", "b300", "peak.nvfp4", (14000e12, 13500e12)),
    ("chip", "vr200", "memory.bandwidth", (22e12, 13e12)),
    ("chip", "vr200", "power.tdp", (1800, 2300)),
    ("chip", "tpu-v3", "links.scale_up", (328e9, 400e9, 280e9)),
    ("chip", "tpu-v4", "power.tdp", (192, 340)),
    ("chip", "trainium2", "memory.bandwidth", (2.9e12, 3.0e12)),
    ("chip", "gaudi3", "peak.bf16", (1678e12, 1835e12)),
    ("chip", "mi455x", "memory.bandwidth", (23.3e12, 19.6e12)),
    ("chip", "mi355x", "links.scale_up", (537.6e9, 576e9)),
    ("system", "gb200-nvl72", "power.it_per_chip", (2090, 1830)),
    ("system", "gb200-nvl72", "power.facility_per_chip", (2930, 2100)),
    ("system", "tpu-v5e", "tiers.0.bandwidth", (200e9, 180e9)),
    ("system", "tpu-v5p", "tiers.0.bandwidth", (600e9, 540e9)),
    ("system", "vr-nvl72", "price.per_chip", (161000, 108000, 198000)),
]


@pytest.mark.parametrize("kind,name,path,values", DISAGREE, ids=lambda v: v if isinstance(v, str) else "")
def test_disagreement_is_kept(kind, name, path, values):
    """Where sources disagree both stand."""
    found = said(field(kind, name, path))
    for value in values:
        assert any(v == pytest.approx(value) for v in found), (value, found)


def test_cores_and_clocks_make_the_peak():
    """Cores times rate times clock is the 16-bit peak: 312 TFLOP/s = 108 x 1024 x 2 x 1.41e9, and so on."""
    for row in table("microarch"):
        fields = profile("chip", row["chip"]).fields
        assert fields.cores.value == float(row["cores"]), row["chip"]
        assert fields.clock.value == pytest.approx(float(row["clock_ghz"]) * 1e9, rel=0.006), row["chip"]
        product = re.search(r"= ([\dx. ]+) x ([\d.]+e9)", row["notes"])
        if product:
            made = math.prod(float(f) for f in product[1].split(" x ")) * float(product[2])
            assert made == pytest.approx(fields.peak.bf16.value, rel=0.01), row["chip"]


def test_every_number_has_a_dated_source():
    """Each source cited is there, with a title and a date; what was typed from memory says so."""
    seen = 0
    for kind in ("chip", "system", "family", "stack"):
        for name in names(kind):
            fields = profile(kind, name).fields
            for quantity in quantities(fields):
                source = fields.sources[quantity.source]
                assert source.title and source.date
                seen += 1
    assert seen > 1000


# --- laws --------------------------------------------------------------------------------------------------------


def test_chinchilla_as_refitted():
    """The constants of Besiroglu et al. with their standard errors, and a range in which they were fitted."""
    law = profile("law", "chinchilla-besiroglu").fields
    got = {name: getattr(law.constants, name).value for name in ("E", "A", "alpha", "B", "beta")}
    assert got == {"E": 1.8172, "A": 482.01, "alpha": 0.3478, "B": 2085.43, "beta": 0.3658}
    errors = [getattr(law.constants, name).error for name in got]
    assert errors == [0.03, 124.6, 0.02, 1293, 0.02]
    n, d = 70e9, 1.4e12  # about the loss that the refit gives for Chinchilla itself
    value = got["E"] + got["A"] * n ** -got["alpha"] + got["B"] * d ** -got["beta"]
    assert value == pytest.approx(1.9739, abs=1e-4)
    assert law.range.parameters[1] < 17e9 and law.range.tokens[1] < 320e9
    assert 1e6 > law.range.vocabulary[1] and law.range.aspect[1] < 200


def test_sparse_law_reproduces_its_paper():
    """Two predictions printed by Krajewski et al., with N all parameters but embeddings: 43 times the active ones."""
    law = profile("law", "moe-krajewski").fields
    c, s = law.constants, {key: constant.value for key, constant in law.sparsity.items()}
    assert list(s) == ["g", "gamma"]
    for active, tokens, granularity, loss in ((7e9, 137.6e9, 32, 2.076), (1e12, 7.94e12, 64, 1.367)):
        n = active * (4 + 64 * 8) / 12
        width = c.A.value + s["g"] * granularity ** -s["gamma"]
        value = c.E.value + width * n**-c.alpha.value + c.B.value * tokens**-c.beta.value
        assert value == pytest.approx(loss, abs=0.02)
    assert law.range.experts == (64, 1024)


# steps to one loss by batch (sequences of 512 tokens): the logs of Zhang et al., 302M and 1.2B models
STEPS = {
    "302M": {256: 46000, 512: 23400, 1024: 13300, 2048: 7224, 4096: 4980, 8192: 3400},
    "1.2B": {256: 176000, 512: 94000, 1024: 46500, 2048: 25000, 4096: 15360, 8192: 8900},
}


@pytest.mark.parametrize("model", STEPS)
def test_critical_batch_follows_the_measured_steps(model):
    """Tokens needed grow as 1 + B / B_crit with the file's B_crit = c D^e, within 15 % up to 8,192 sequences."""
    batch = profile("law", "chinchilla-besiroglu").fields.critical_batch
    steps = STEPS[model]
    tokens = 256 * 512 * steps[256]
    critical = batch.coefficient * tokens**batch.exponent / 512
    for size, count in steps.items():
        grown = count * size / (steps[256] * 256)
        assert grown == pytest.approx((1 + size / critical) / (1 + 256 / critical), rel=0.15), size


def test_both_laws_price_a_batch():
    """A batch costs tokens under every law that ships: a billion tokens a step is beyond critical for a long run."""
    for name in names("law"):
        batch = profile("law", name).fields.critical_batch
        assert 1e9 > 5 * batch.coefficient * 15e12**batch.exponent, name


# --- the reader of this file ---------------------------------------------------------------------------------------


def test_a_wrong_figure_would_be_seen(tmp_path):
    """These tests can fail: a capacity in bare numbers, a sparse peak and a missing source are refused or noticed."""
    text = find("chip", "h100-sxm").read_text(encoding="utf-8")
    wrong = tmp_path / "h100-sxm.yaml"
    wrong.write_text(text.replace("80 GiB", "80", 1), encoding="utf-8")
    with pytest.raises(Refused, match="memory.capacity"):
        profile("chip", str(wrong))
    wrong.write_text(text.replace("989.4 TFLOP/s", "1979 TFLOP/s"), encoding="utf-8")
    doubled = profile("chip", str(wrong)).fields.peak.bf16
    assert doubled.value > 0.9 * SPARSE["h100-sxm", "bf16"]
    wrong.write_text(text.replace("source: aic", "source: nobody", 1), encoding="utf-8")
    with pytest.raises(Refused, match="nobody"):
        profile("chip", str(wrong))
    assert units.parse("80 GiB", "B") - units.parse("80 GB", "B") > 5e9
