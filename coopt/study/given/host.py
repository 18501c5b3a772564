"""This host as a profile: what its clock said, written as the file of a chip, and several of it as a system."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from coopt import units
from coopt.spec.nouns import TYPES

SOURCE = "measured"
FAMILY = "cpu"  # of a host without an accelerator, for what no clock says
# A matmul kernel for a CPU works on small tiles of registers; shared out in slices no larger than these.
CPU_TILE = 16
UNKNOWN = "a machine cannot measure this about itself, and it is not guessed"
DEPTHS = (4.0, 256.0)  # reduction lengths between which the measured products may put the half-way point


def chip_name(measured: Mapping[str, Any]) -> str:
    """A name for the profile of a measured host.

    >>> chip_name({"name": "AMD EPYC 7R13 (Milan)", "cores": 2})
    'host-amd-epyc-7r13-milan-x2'
    """
    words = re.sub(r"[^a-z0-9]+", "-", str(measured["name"]).casefold()).strip("-")[:48].strip("-")
    cores = measured.get("cores")
    return "host-" + (words or "device") + (f"-x{int(cores)}" if cores else "")


def chip(measured: Mapping[str, Any], *, date: str) -> dict[str, Any]:
    """The file of kind chip for a host, from what a `host` job of `coopt.measure` answered.

    Peaks are the fastest products measured, so that a share of a peak is a share of what was seen. What a machine
    cannot measure about itself, price and power, is said to be missing.
    """
    versions = measured.get("versions", {})
    said = f"coopt on {measured['name']}, {measured.get('cores') or '?'} cores, jax {versions.get('jax', '?')}"
    peaks = {name: _best(rates) for name, rates in measured["matmul"].items() if rates}
    share, depth = _shape(measured["matmul"])
    cpu = measured.get("platform") == "cpu"
    data: dict[str, Any] = {
        "kind": "chip",
        "name": chip_name(measured),
        "title": f"This host: {measured['name']}",
        "notes": "Measured by coopt in a child process. Every share below is of the fastest product measured.",
        "sources": {SOURCE: {"title": said, "date": date}},
        "peak": {name: _seen(units.show(rate, "FLOP/s", digits=6)) for name, rate in peaks.items()},
        "vector": _seen(units.show(peaks.get("fp32", min(peaks.values())), "FLOP/s", digits=6), kind="assumed"),
        "memory": _memory(measured),
    }
    if cpu:
        data["family"] = FAMILY
        data["tile"] = {"m": CPU_TILE, "n": CPU_TILE, "source": SOURCE, "kind": "assumed"}
    if measured.get("cores"):
        data["cores"] = _seen(int(measured["cores"]))
    data["fitted"] = {
        "matmul_16": _seen(round(share, 4)),
        "depth": _seen(round(depth, 2)),
        "stream": {**_seen(1), "basis": "the bandwidth above is what a stream reaches"},
    }
    if cpu:  # products of attention are products like others here, and a call is not much more than a kernel
        call = {**_seen(units.show(measured["dispatch"]["time"], "s")), "basis": "a call; a kernel costs less"}
        data["fitted"] |= {
            "kernel": call,
            "attention": _seen(0.5, kind="assumed"),
            "attention_depth": _seen(CPU_TILE, kind="assumed"),
        }
    data["missing"] = dict.fromkeys(("power.tdp", "power.idle", "price.hour", "price.chip"), UNKNOWN)
    if measured.get("idle"):
        data["power"] = {"idle": {**_seen(units.show(measured["idle"], "W", digits=4)), "basis": "2 s of its counter"}}
        del data["missing"]["power.idle"]
    return data


def joined(
    chip_file: Mapping[str, Any], *, chips: int, link: float, latency: float, date: str, swept: str = ""
) -> dict[str, Any]:
    """The file of kind system for `chips` such hosts on one switch: described, not attached.

    Args:
      link: B/s one way a host.
      latency: s a step of a collective.
      swept: what collectives were timed on, where both come from those and the devices are attached.
    """
    said = {"source": "study", "kind": "measured" if swept else "assumed"}
    title = (
        f"{chips} devices of this host" if swept else f"{chips} of this host on one switch, described and not attached"
    )
    return {
        "kind": "system",
        "name": f"{chip_file['name']}-mesh-{chips}",
        "title": title,
        "chip": chip_file["name"],
        "chips_per_node": 1,
        "max_chips": chips,
        "sources": {"study": {"title": swept or "the study's own description of a mesh", "date": date}},
        "tiers": [
            {
                "name": "link",
                "size": chips,
                "topology": "switch",
                "bandwidth": {"value": units.show(link, "B/s", digits=6), **said},
                "latency": {"value": units.show(latency, "s", digits=6), **said},
                "efficiency": {"value": 1, **said},
            }
        ],
        "missing": dict.fromkeys(("power.it_per_chip", "price.per_chip"), UNKNOWN if swept else "nobody has built it"),
    }


def told(measured: Mapping[str, Any]) -> dict[str, Any]:
    """The host in a document: rates in SI, null for what is not known."""
    peaks = {name: _best(rates) for name, rates in measured["matmul"].items() if rates}
    return {
        "name": chip_name(measured),
        "processor": measured["name"],
        "platform": measured.get("platform"),
        "cores": measured.get("cores"),
        "matmul": max(peaks.values()),
        **{f"matmul_{name}": rate for name, rate in peaks.items()},
        "memory_bandwidth": measured["bandwidth"]["rate"],
        "dispatch": measured["dispatch"]["time"],
        "memory": measured["memory"],
        "price": None,
        "power": None,
        **({"unused": measured["unused"]} if measured.get("unused") else {}),
    }


def _best(rates: Mapping[str, Mapping[str, Any]]) -> float:
    return max(float(one["rate"]) for one in rates.values())


def _shape(matmul: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> tuple[float, float]:
    """Share of the peak that long reductions reach, and the length at which half of it is reached.

    From square products in the widest format, 1 / rate = (1 + depth / k) / limit by least squares; the share is at
    most 1 since the peak is the fastest product seen.
    """
    rates = next(matmul[name] for name in sorted(matmul, key=TYPES.index))  # a journal sorts names: order says nothing
    sizes = np.array([float(size) for size in rates])
    slowness = np.array([1.0 / float(one["rate"]) for one in rates.values()])
    if len(sizes) < 2:
        return 1.0, DEPTHS[0]
    slope, offset = np.polyfit(1.0 / sizes, slowness, 1)
    depth = float(np.clip(slope / offset if offset > 0 else DEPTHS[1], *DEPTHS))
    limit = np.median((1.0 + depth / sizes) / slowness)
    return float(np.clip(limit * slowness.min(), 0.05, 1.0)), depth


def _memory(measured: Mapping[str, Any]) -> dict[str, Any]:
    free = measured.get("memory_available")
    found = {
        "capacity": _seen(f"{int(measured['memory'])} B"),
        "bandwidth": _seen(units.show(measured["bandwidth"]["rate"], "B/s", digits=6)),
    }
    if free is not None and math.isfinite(free) and free < measured["memory"]:
        found["usable"] = {**_seen(f"{int(free)} B"), "basis": "free when it was measured"}
    return found


def _seen(value: Any, *, kind: str = "measured") -> dict[str, Any]:
    return {"value": value, "source": SOURCE, "kind": kind}
