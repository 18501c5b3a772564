"""Units: the closed grammar against pint, the spellings that trap (D2), and printing that reads back."""

from __future__ import annotations

import math

import pint
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coopt import units
from coopt.problems import Refused
from coopt.spec.read import read_text

# ------------------------------------------------------------------------------------------ pint as the oracle

CASES = {  # dimension: unit -> the same in pint
    "B": ["B", "kB", "MB", "GB", "TB", "PB", "EB", "KiB", "MiB", "GiB", "TiB", "b", "kb", "Mb", "Gb", "Tb", "Gib"],
    "B/s": ["B/s", "GB/s", "TB/s", "Gb/s", "Tb/s", "GiB/s", "MiB/s", "kB/ms", "GB/min", "TB/h"],
    "s": ["s", "ms", "us", "µs", "ns", "ps", "min", "h", "d", "yr"],
    "FLOP/s": ["FLOP/s", "GFLOP/s", "TFLOP/s", "PFLOP/s", "EFLOP/s", "TOP/s", "POP/s", "GFLOP/ms"],
    "FLOP": ["FLOP", "EFLOP", "ZFLOP", "YFLOP", "OP"],
    "W": ["W", "mW", "kW", "MW", "GW", "TW", "J/s"],
    "J": ["J", "pJ", "fJ", "kJ", "Wh", "kWh", "MWh", "GWh"],
    "USD": ["USD", "kUSD", "MUSD", "GUSD"],
    "USD/h": ["USD/h", "USD/s", "USD/yr", "kUSD/d"],
    "USD/J": ["USD/kWh", "USD/MWh"],
    "Hz": ["Hz", "kHz", "MHz", "GHz"],
    "m": ["m", "mm", "cm", "um", "nm", "km"],
    "m2": ["m2", "mm2", "cm2", "um2"],
    "J/FLOP": ["pJ/FLOP", "fJ/FLOP", "J/FLOP"],
    "J/B": ["pJ/b", "pJ/B", "nJ/B"],
    "g/J": ["g/kWh", "kg/MWh", "t/GWh"],
}


@pytest.fixture(scope="module")
def registry():
    oracle = pint.UnitRegistry()
    oracle.define("FLOP = [operations]")
    oracle.define("OP = FLOP")
    oracle.define("USD = [money]")
    return oracle


def in_pint(registry, unit):
    """One of a unit, spelled for pint: there `b` is a barn, `t` an old ton and a power is written with `**`."""
    words = {"t": "metric_ton", "yr": "year", "d": "day", "h": "hour", "min": "minute"}
    quantity = registry.Quantity(1.0)
    for place, part in enumerate(unit.split("/")):
        spelled = words.get(part, part)
        if spelled.endswith("b"):
            spelled = spelled[:-1] + "bit"
        if spelled.endswith("Wh"):
            spelled = spelled[:-1] + " hour"
        if spelled.endswith("m2"):
            spelled = spelled[:-1] + " ** 2"
        one = registry.Quantity(1.0, spelled)
        quantity = quantity / one if place else quantity * one
    return quantity


@pytest.mark.parametrize(("dimension", "unit"), [(d, u) for d, known in CASES.items() for u in known])
def test_every_unit_is_what_pint_says(registry, dimension, unit):
    expected = 3.25 * in_pint(registry, unit).to(in_pint(registry, dimension).units).magnitude
    assert units.parse(f"3.25 {unit}", dimension) == pytest.approx(expected, rel=1e-12)


def test_bytes_are_not_bits_and_powers_of_ten_not_of_two():
    assert units.parse("80 GB", "B") == 80e9
    assert units.parse("80 GiB", "B") == 80 * 2**30
    assert units.parse("400 Gb/s", "B/s") == 50e9
    assert units.parse("400 GB/s", "B/s") == 400e9


# ---------------------------------------------------------------------------------- 60 spellings (plan D2)

REFUSED = None
SPELLINGS = [  # as it stands in a file, the dimension, its value in SI or a refusal
    ("80 GB", "B", 80e9), ("80GB", "B", 80e9), ("80 GiB", "B", 85899345920.0), ("80GiB", "B", 85899345920.0),
    ('"80 GB"', "B", 80e9), ("80.0 GB", "B", 80e9), ("8e1 GB", "B", 80e9), ("8E+1 GB", "B", 80e9),
    ("+80 GB", "B", 80e9), (".5 TB", "B", 5e11), ("5. TB", "B", 5e12), ("3.35 TB/s", "B/s", 3.35e12),
    ("3.35TB/s", "B/s", 3.35e12), ("3.35 TB / s", "B/s", 3.35e12), ("989.4 TFLOP/s", "FLOP/s", 989.4e12),
    ("1979 TOP/s", "FLOP/s", 1979e12), ("2 us", "s", 2e-6), ("2 µs", "s", 2e-6), ("2 μs", "s", 2e-6),
    ("0 us", "s", 0.0), ("2.10 USD/h", "USD/h", 2.1), ("0.5 kW", "W", 500.0), ("85 %", "1", 0.85),
    ("0.85", "1", 0.85), ("1e12", "1", 1e12), ("989e12", "1", 989e12), ("1.0e12", "1", 1e12), ("-0.0", "1", 0.0),
    ("80", "B", REFUSED), ("80.0", "B", REFUSED), ("1e12", "B/s", REFUSED), ("80 gb", "B", REFUSED),
    ("80 Gb/s", "B", REFUSED), ("80 GB/s", "B", REFUSED), ("80 GB", "B/s", REFUSED), ("400 Gbps", "B/s", REFUSED),
    ("400 GBps", "B/s", REFUSED), ("3.35 TB/sec", "B/s", REFUSED), ("989 TFLOPS", "FLOP/s", REFUSED),
    ("989 TFLOP", "FLOP/s", REFUSED), ("80 G", "B", REFUSED), ("80 bytes", "B", REFUSED), ("GB", "B", REFUSED),
    ("80 80 GB", "B", REFUSED), ("80,5 GB", "B", REFUSED), ("1_000 GB", "B", REFUSED), ("1 000 GB", "B", REFUSED),
    ("0x50 GB", "B", REFUSED), ("080 GB", "B", REFUSED), ("-80 GB", "B", REFUSED), ("-1", "1", REFUSED),
    ("1e400 GB", "B", REFUSED), ("1e-400 GB", "B", REFUSED), ("nan GB", "B", REFUSED), ("inf GB", "B", REFUSED),
    ("$100", "USD", REFUSED), ("700 watts", "W", REFUSED), ("700 Ｗ", "W", REFUSED), ("٧٠٠ W", "W", REFUSED),
    ("80 GB # seen", "B", 80e9), ("85%", "1", 0.85), ("1:30", "s", REFUSED), ("no", "B", REFUSED),
    ("010", "1", REFUSED), (".nan", "1", REFUSED), (".inf", "1", REFUSED), ("-.inf", "1", REFUSED),
    ("1e400", "1", REFUSED), ("1_000", "1", REFUSED), ("0x10", "1", REFUSED), ("0o17", "1", REFUSED),
    ("true", "1", REFUSED), ("~", "1", REFUSED), ("", "1", REFUSED), ("[1]", "1", REFUSED),
]  # fmt: skip


@pytest.mark.parametrize(("spelled", "dimension", "value"), SPELLINGS)
def test_a_spelling_means_one_thing_or_is_refused(spelled, dimension, value):
    """D2: the right value in SI or an error that says how to write it, never a silent change."""
    assert len(SPELLINGS) >= 60
    if value is REFUSED:
        with pytest.raises(Refused) as refusal:
            units.parse(read_text(f"field: {spelled}")[0]["field"], dimension)
        problem = refusal.value.problems[0]
        assert problem.expected and problem.got and problem.hint
    else:
        assert units.parse(read_text(f"field: {spelled}")[0]["field"], dimension) == value


def test_a_number_alone_is_refused_with_a_way_to_write_it():
    with pytest.raises(Refused, match="80 GiB"):
        units.parse(80, "B")


@pytest.mark.parametrize("given", [None, True, [], {}, float("nan"), float("inf"), 10**400])
def test_what_is_no_number_is_refused(given):
    with pytest.raises(Refused):
        units.parse(given, "1")


def test_the_least_value_can_be_set():
    assert units.parse("-3", "1", least=-math.inf) == -3.0
    with pytest.raises(Refused):
        units.parse("0.5", "1", least=1.0)


def test_a_long_exponent_costs_nothing():
    """A number of ten bytes must not become one of a billion digits on the way."""
    with pytest.raises(Refused):
        units.parse("1e999999999 GB", "B")


# ------------------------------------------------------------------------------------------ printing reads back


@settings(max_examples=300, deadline=None)
@given(value=st.floats(1e-15, 1e27), dimension=st.sampled_from(sorted(CASES)), digits=st.integers(3, 17))
def test_what_is_shown_is_read_back(value, dimension, digits):
    back = units.parse(units.show(value, dimension, digits=digits), dimension)
    assert back == pytest.approx(value, rel=max(0.51 * 10 ** (1 - digits), 4e-16))


@given(st.integers(1, 2**40))
def test_whole_numbers_of_mebibytes_are_shown_exactly(mebibytes):
    value = float(mebibytes * 2**20)
    assert units.parse(units.show(value, "B", digits=17), "B") == value


def test_what_is_not_known_is_said():
    assert units.show(math.nan, "W") == "not known"


@given(st.text(max_size=30))
@settings(max_examples=300, deadline=None)
def test_any_text_is_a_number_or_refused(text):
    for dimension in ("B/s", "1"):
        try:
            assert 0 <= units.parse(text, dimension) < math.inf
        except Refused as refusal:
            assert refusal.problems[0].expected
