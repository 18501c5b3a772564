"""The adversary: a search against the cost model, for the candidates on which it disagrees most with what must be true.

Two witnesses that share no line with the model. `floor` is the longest of three times that no machine can undercut:
FLOPs at the peak, bytes that do not fit the cache at the full bandwidth, gradients over the fastest link. `replay`
runs a pipeline micro-batch by micro-batch, event by event, with the model's times of a layer. A candidate below its
floor is a flaw of the model; one far above it, or away from its replay, is a place to look.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from coopt.cost import estimate
from coopt.ops import count
from coopt.search.price import Score
from coopt.search.refine import refine
from coopt.search.space import Candidate, Space, candidate, digits, index
from coopt.spec.nouns import TYPE_BYTES, Cost, Hardware, Leaf, Ops
from coopt.xp import choose, maximum, minimum, where

ONE_F_ONE_B, GPIPE = 0.0, 1.0


@dataclasses.dataclass(frozen=True)
class Disagreement:
    """One candidate: the model's seconds, the witness's, and which witness it was."""

    index: int
    witness: str  # floor | replay
    model: float
    other: float

    @property
    def factor(self) -> float:
        """Model over witness: below 1 at a floor is a flaw."""
        return self.model / self.other


def floor(one: Candidate) -> Leaf:
    """Seconds of a step that no schedule and no kernel can undercut, for dense and mixture models; elementwise.

        max(6 (W + attention) tokens / (chips peak), m 2 W_chip bytes / bandwidth, gradient bytes / fastest link)

    W are the matmul weights a token uses; weights of the mean stage are read forward and backward by every micro-batch
    unless all of them stay in the cache; of the gradients (n - 1) / n leave a chip at least once.
    """
    model, layout, hardware, phase = one.model, one.layout, one.hardware, one.workload.train
    assert hardware is not None
    chips = layout.tp * layout.cp * layout.pp * layout.dp
    tokens = phase.batch * phase.seq_len
    used: Leaf = model.d_model * model.vocab
    held: Leaf = 0.0  # by all chips of one replica, a layer's matmul weights
    products: Leaf = 0.0
    for kind in model.kinds:
        attention = model.d_model * kind.head_dim * (2.0 * kind.heads + 2.0 * kind.kv_heads)
        width = kind.d_ff if kind.feedforward == "dense" else kind.top_k * kind.d_expert + kind.shared * kind.d_shared
        used = used + kind.count * (attention + (2.0 + kind.gated) * model.d_model * width)
        kept = kind.d_ff / layout.tp if kind.feedforward == "dense" else kind.shared * kind.d_shared / layout.tp
        held = held + kind.count * (attention / layout.tp + (2.0 + kind.gated) * model.d_model * kept)
        keys = phase.seq_len / 2.0
        if kind.mixer == "window":
            keys = minimum(keys, kind.window)
        products = products + kind.count * 2.0 * keys * kind.heads * kind.head_dim
    operand = choose(layout.precision.linear, TYPE_BYTES)
    compute = 6.0 * (used + products) * tokens / (chips * fastest(hardware))
    own = held / layout.pp * operand
    passes = 2.0 * phase.batch / (layout.dp * layout.micro_batch)
    memory = where(own > hardware.cache, passes * own / hardware.bandwidth, 0.0)
    copies = layout.dp * layout.cp
    link = maximum(0.0, 0.0)
    for tier in hardware.tiers:
        link = maximum(link, tier.bandwidth)
    wire = held / layout.pp * layout.precision.reduce * (copies - 1.0) / copies / maximum(link, 1.0)
    return maximum(compute, maximum(memory, wire))


def fastest(hardware: Hardware) -> Leaf:
    """The largest peak of the machine: no recipe is quicker."""
    most: Leaf = 1.0
    for peak in hardware.peak:
        most = maximum(most, peak)
    return most


def above_floor(one: Candidate, names: tuple[str, ...]) -> Score:
    """The model's step over its floor, and its inverse: small is a flaw, small is waste."""
    assert one.hardware is not None
    cost = estimate(count(one.model, one.layout, one.workload), one.hardware)
    ratio = cost.step_time / floor(one)
    known = {"flaw": ratio, "waste": 1.0 / ratio}
    return Score(verdict=cost.verdict, objectives=tuple(known[name] for name in names))


def worst(space: Space, hardware: Hardware, *, keep: int = 5, seed: int = 0, generations: int = 30,
          replays: int = 200) -> list[Disagreement]:  # fmt: skip
    """The candidates of a space on which model and witnesses disagree most, `keep` of each kind, worst first.

    Evolution looks for candidates near or below their floor and for those far above it; for replays, which take
    milliseconds each, a climb from random candidates along single axes.
    """
    found = []
    for name in ("flaw", "waste"):
        told = refine(space, hardware, objectives=(name,), expression=above_floor, keep=20 * keep, seed=seed,
                      generations=generations, gradients=False)  # fmt: skip
        found += _distinct([_at(space, int(one), hardware, "floor") for one in told.top.indices], keep)
    return found + climb(space, hardware, keep=keep, seed=seed, replays=replays)


def _distinct(found: Sequence[Disagreement | None], keep: int) -> list[Disagreement]:
    """The first of those that differ in their times: many spellings of a layout are one."""
    return list({(f"{one.model:.6e}", f"{one.other:.6e}"): one for one in reversed(found) if one}.values())[::-1][:keep]


def climb(space: Space, hardware: Hardware, *, keep: int, seed: int, replays: int) -> list[Disagreement]:
    """The candidates whose pipelines the model times furthest from their replay, among those climbed past."""
    rng, seen = np.random.default_rng(seed), {}
    sizes = np.array([len(one) for one in space.axes])
    held: Disagreement | None = None
    tried = 0
    while len(seen) < replays and tried < 50 * replays:
        tried += 1
        place = (rng.random(len(sizes)) * sizes).astype(int)
        if held is not None and rng.random() < 0.7:
            moved, place = int(rng.integers(len(sizes))), np.array(digits(space, held.index))
            place[moved] = int(rng.integers(sizes[moved]))
        which = index(space, place.tolist())
        if which in seen or (one := _at(space, which, hardware, "replay")) is None:
            continue
        seen[which] = one
        if held is None or abs(np.log(one.factor)) > abs(np.log(held.factor)):
            held = one
    ordered = sorted(seen.values(), key=lambda one: (-abs(np.log(one.factor)), one.index))
    return _distinct(ordered, keep)


def replay(
    *, forward: Sequence[float], backward: Sequence[float], send: float, micro_batches: int, chunks: int = 1,
    schedule: float = ONE_F_ONE_B,
) -> float:  # fmt: skip
    """Seconds until the last of `micro_batches` is through a pipeline and back: each event waits for what it needs.

    `forward` and `backward` are seconds of each chunk of the model, in its order; chunk n is on stage n modulo the
    stages. A stage does one thing at a time in the order of its schedule: one forward, one backward (interleaved over
    `chunks` as Megatron does), or all forward first. What a chunk needs has left its neighbour and been `send` seconds
    on its way, which occupies neither.

    >>> replay(forward=[1.0, 1.0], backward=[2.0, 2.0], send=0.0, micro_batches=4)
    15.0
    """
    stages = len(forward) // chunks
    orders = [_order(stage, stages, micro_batches, chunks, schedule) for stage in range(stages)]
    done: dict[tuple[str, int, int], float] = {}  # (pass, place along the model, micro-batch)
    free, next_ = [0.0] * stages, [0] * stages
    last = stages * chunks - 1
    while any(next_[stage] < len(orders[stage]) for stage in range(stages)):
        moved = False
        for stage in range(stages):
            while next_[stage] < len(orders[stage]):
                way, chunk, batch = orders[stage][next_[stage]]
                place = chunk * stages + stage
                need = ("F", place - 1, batch) if way == "F" else ("B", place + 1, batch)
                if (way == "F" and place == 0) or (way == "B" and place == last):
                    ready = 0.0 if way == "F" else done.get(("F", last, batch))
                else:
                    ready = done.get(need)
                    ready = None if ready is None else ready + (send if stages > 1 else 0.0)
                if ready is None:
                    break
                free[stage] = max(free[stage], ready) + (forward[place] if way == "F" else backward[place])
                done[way, place, batch] = free[stage]
                next_[stage] += 1
                moved = True
        assert moved, "a schedule that waits for itself"
    return max(free)


def _order(stage: int, stages: int, batches: int, chunks: int, schedule: float) -> list[tuple[str, int, int]]:
    """What a stage does, in order: (pass, chunk, micro-batch)."""
    if chunks == 1:
        ahead = [("F", 0, batch) for batch in range(batches)]
        back = [("B", 0, batch) for batch in range(batches)]
        warm = batches if schedule == GPIPE else min(stages - stage - 1, batches)
    else:  # in rounds of `stages` micro-batches, one chunk after another
        turns = [(turn // stages % chunks, turn // (stages * chunks) * stages + turn % stages)
                 for turn in range(batches * chunks)]  # fmt: skip
        ahead = [("F", chunk, batch) for chunk, batch in turns]
        back = [("B", chunks - 1 - chunk, batch) for chunk, batch in turns]
        every = batches == stages or schedule == GPIPE
        warm = len(ahead) if every else min((stages - stage - 1) * 2 + (chunks - 1) * stages, len(ahead))
    found = ahead[:warm]
    for forward, backward in zip(ahead[warm:], back, strict=False):
        found += [forward, backward]
    return found + back[len(ahead) - warm :]


def replayed(ops: Ops, cost: Cost) -> tuple[float, float]:
    """The model's seconds in the pipeline, and those of its replay with the model's own times of layers and ends."""
    times: dict[str, tuple[float, float]] = dict.fromkeys(("layer", "first", "last"), (0.0, 0.0))
    model = send = 0.0
    for row, shown, busy, once in zip(ops.rows, cost.time, cost.busy, cost.once, strict=False):
        if row.scope == "step":
            continue
        model += float(shown)
        exposed = float(row.count) * float(once) * (float(shown) / float(busy) if float(busy) > 0 else 1.0)
        if row.scope == "stage":
            send += float(row.count) * float(once) / 2.0
            continue
        ahead, back = times[row.scope]
        times[row.scope] = (ahead + exposed, back) if row.phase == "forward" else (ahead, back + exposed)
    model += float(cost.time[cost.names.index("bubble")])
    stages, chunks = int(ops.stages), int(ops.chunks)
    layers, ways = _spread(int(ops.layers), stages * chunks), []
    for way in (0, 1):
        seconds = [one * times["layer"][way] for one in layers]
        seconds[0] += times["first"][way]
        seconds[-1] += times["last"][way]
        ways.append(seconds)
    other = replay(forward=ways[0], backward=ways[1], send=send / chunks, micro_batches=int(ops.micro_batches),
                   chunks=chunks, schedule=float(ops.schedule))  # fmt: skip
    return model, other


def _spread(layers: int, places: int) -> list[int]:
    """Layers of each chunk: as equal as may be, the larger ones away from both ends."""
    least, more = divmod(layers, places)
    order = [*range(1, places - 1), 0, places - 1][:places]
    return [least + (place in order[:more]) for place in range(places)]


def witnessed(one: Candidate, witness: str) -> tuple[float, float] | None:
    """The model's seconds of a candidate and a witness's; None where the replay has nothing to say: no pipeline, a
    candidate that does not run, a schedule it does not know, or more events than are worth it.
    """
    assert one.hardware is not None
    ops = count(one.model, one.layout, one.workload)
    if witness == "floor":
        return float(estimate(ops, one.hardware).step_time), float(floor(one))
    events = float(ops.stages) * float(ops.micro_batches) * float(ops.chunks)
    if float(ops.stages) < 2 or float(ops.schedule) > 1.5 or events > 20_000 or float(ops.verdict) > 0:
        return None
    cost = estimate(ops, one.hardware)
    return None if float(cost.verdict) > 0 else replayed(ops, cost)


def _at(space: Space, which: int, hardware: Hardware, witness: str) -> Disagreement | None:
    told = witnessed(dataclasses.replace(candidate(space, which), hardware=hardware), witness)
    return None if told is None else Disagreement(index=which, witness=witness, model=told[0], other=told[1])
