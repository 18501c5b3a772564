"""Blocks to calibrate a machine by when nobody has a study: many shapes, of which the most telling few are timed."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from coopt.spec.nouns import PRECISIONS, RECOMPUTE, Hardware, LayerKind, Layout, Model
from coopt.study.timed import blocks, constants
from coopt.study.timed.blocks import Timed
from coopt.study.timed.calibration import LEAST, NOISE
from coopt.study.timed.choosing import informative

POOL = 160  # shapes among which is chosen
MOST = 48  # blocks that are timed
SURE = 0.02  # log units by which constants may leave predictions off, below which another block tells nothing
SECONDS = {"cpu": (4e-3, 1.6)}  # of a block, forward and backward, by what is known before
SECONDS_ELSEWHERE = (4e-3, 0.05)  # a call of a small program takes a millisecond of a host, and more than a GPU
WIDTHS = (128, 192, 256, 320, 384, 448, 512, 640, 768, 1024, 1536, 2048, 3072, 4096, 6144, 8192)
LENGTHS = (64, 128, 192, 256, 384, 512, 768, 1024, 2048, 4096, 8192)
UNIT = 64  # of a feed-forward's width
HEADS = {"cpu": (64,)}  # sizes of heads
HEADS_ELSEWHERE = (64, 128)
TRAINED = 1 / 8  # of the fastest type's peak, below which nobody trains in a type: float32 on a GPU


def types(hardware: Hardware) -> list[str]:
    """The recipes that a machine trains in, of those that blocks are timed in."""
    peaks = {name: hardware.peak[position] for name, position in (("fp32", 0), ("bf16", 2))}
    return [name for name, peak in peaks.items() if peak > TRAINED * max(peaks.values())]


def pool(hardware: Hardware, *, count: int = POOL, seed: int = 0) -> list[dict[str, Any]]:
    """Jobs of layers whose shapes, precisions and recomputation differ, each of a time that a clock sees well."""
    rng = np.random.default_rng(seed)
    kinds = types(hardware)
    fused = float(hardware.family != "cpu")
    sizes = HEADS.get(hardware.family, HEADS_ELSEWHERE)
    least, most = SECONDS.get(hardware.family, SECONDS_ELSEWHERE)
    drawn: list[dict[str, Any]] = []
    for _ in range(100):
        tried = [_drawn(rng, kinds, sizes, fused) for _ in range(count)]
        for at, ops in blocks.counted(tried):
            _, both = blocks.passes(ops, hardware)
            for position, seconds in zip(at, np.broadcast_to(both, at.shape), strict=True):
                if least <= seconds <= most:
                    drawn.append(tried[int(position)])
        if len(drawn) >= count:
            break
    return list({blocks.key(job): job for job in drawn}.values())[:count]


def _drawn(rng: np.random.Generator, kinds: list[str], sizes: tuple[int, ...], fused: float) -> dict[str, Any]:
    d_model = int(rng.choice(WIDTHS))
    size, *more = sizes
    size = int(rng.choice(sizes)) if more else size
    heads = d_model // size
    divisors = [n for n in range(1, heads + 1) if heads % n == 0]
    kind = LayerKind(
        count=1.0,
        heads=float(heads),
        kv_heads=float(heads if rng.random() < 0.6 else rng.choice(divisors)),
        head_dim=float(size),
        d_ff=float(UNIT * round(d_model * float(rng.choice([2.0, 8 / 3, 3.0, 4.0])) / UNIT)),
        gated=float(rng.random() < 0.5),
    )
    layout = Layout(
        micro_batch=float(rng.choice([1, 2, 4, 8])),
        precision=PRECISIONS[str(rng.choice(kinds))],
        recompute=float(RECOMPUTE.index("full") if rng.random() < 0.3 else 0),
        fused_attention=fused,
    )
    model = Model(d_model=float(d_model), vocab=512.0, kinds=(kind,))
    return blocks.job(model, layout, seq_len=float(rng.choice(LENGTHS)))


def survey(
    hardware: Hardware,
    clock: Callable[[dict[str, Any]], Timed],
    jobs: list[dict[str, Any]],
    *,
    seconds: float = math.inf,
    most: int = MOST,
) -> list[Timed]:
    """Times the jobs that tell most, one after another, until another would tell nothing, or the time is over.

    After each, the constants are fitted anew; the next is the one that makes the predictions of all jobs surest.
    """
    groups, until = blocks.counted(jobs), time.monotonic() + seconds
    known = constants.before(hardware)
    seen = np.full((len(jobs), 2), np.nan)
    weight = np.full(seen.shape, 1.0 / NOISE)
    timed: dict[int, Timed] = {}
    while len(timed) < min(most, len(jobs)) and (len(timed) < LEAST or time.monotonic() < until):
        untried = [i for i in range(len(jobs)) if i not in timed]
        noise = math.hypot(known.residual, NOISE)
        number, unsure = informative(known.slopes(groups), covariance=known.covariance, noise=noise, untried=untried)
        if sum(block.usable for block in timed.values()) > len(constants.SPREAD) and unsure < SURE:
            break
        timed[number] = blocks.believed(clock(jobs[number]), blocks.peak_of(jobs[number], hardware))
        usable = [i for i, block in timed.items() if block.usable]
        if usable:
            seen[usable] = np.log([block.times() for block in blocks.settled([timed[i] for i in usable])])
            known = constants.fit(hardware, groups, seen, weight, start=known.z)
    return list(timed.values())
