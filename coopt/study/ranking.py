"""Plans as a document lists them: ranked, priced in float64 by the one expression, beside what was measured."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

from coopt.cost import estimate, loss
from coopt.cost.explain import layout_document, plain
from coopt.cost.quality import counted_parameters, effective_tokens, max_experts
from coopt.ops import count
from coopt.search.space import Candidate, digits
from coopt.spec.nouns import VERDICTS
from coopt.study.given.objectives import expression, machine_of
from coopt.study.scored.evidence import interval, sigma
from coopt.study.screened.screening import Screened, best, kind_of
from coopt.study.timed import blocks

EDGE = 0.02  # of a law's range, in log units of its width: nearer to an end than this is on the edge
# Fields that are no quantities: a choice at the end of them is a choice, not an edge.
CHOICES = ("tied", "norms", "positions", "gated", "bias", "dropout", "schedule", "sp", "zero", "recompute", "order",
           "fused_attention", "offload")  # fmt: skip
DEGREES = ("tp", "cp", "pp", "dp", "fsdp", "ep")  # end where the devices do, or where a study says so
CROWDED = 0.5  # of the critical batch: beyond it a third of the tokens or more is the price of the batch


def ranked(several: Sequence[Screened], *, top: int) -> list[Candidate]:
    """The best plans over all machines by the objective; each machine has its share of the list.

    Every machine is given a third of an equal part at least: a list of plans for machines that nobody has would hide
    the best one for the machine that is there.
    """
    least = max(1, top // (3 * len(several)))
    found = []
    for number, one in enumerate(several):
        kinds = best(one, key=kind_of(one.family), most=top)
        found += [(value, number, place, plan) for place, (plan, value) in enumerate(kinds)]
    found.sort(key=lambda entry: entry[:3])
    promised = {entry[1:3] for entry in found if entry[2] < least}
    free = [entry for entry in found if entry[1:3] not in promised]
    kept = [entry for entry in found if entry[1:3] in promised] + free[: max(top - len(promised), 0)]
    return [entry[3] for entry in sorted(kept, key=lambda entry: entry[:3])[:top]]


def pool(several: Sequence[Screened], plans: Sequence[Candidate], *, most: int) -> list[Candidate]:
    """The listed plans, then the next best of all machines, `most` in all: what competes for the first places."""

    def key(plan: Candidate) -> Hashable:
        return machine_of(plan).name, float(machine_of(plan).chips), kind_of(several[0].family)(plan)

    listed = {key(plan) for plan in plans}
    others = [plan for plan in ranked(several, top=most) if key(plan) not in listed]
    return [*plans, *others][: max(most, len(plans))]


def document(plan: Candidate, *, rank: int, objective: str, timed: Mapping[str, blocks.Timed] | None = None) -> dict:
    """One entry of `plans` or `pareto`; null for what is not known.

    `timed` holds blocks by the key of their job; a plan whose block is among them has a measured step time.
    """
    ops = count(plan.model, plan.layout, plan.workload)
    cost = estimate(ops, machine_of(plan))
    phase = plan.workload.train
    quality = None
    if plan.law is not None:
        quality = plain(loss(plan.law, plan.model, plan.workload.tokens, phase.batch * phase.seq_len).value)
    seconds = float(cost.step_time)
    clock = _clock(plan, timed or {})
    ranks_by = expression(plan, (objective,)).objectives[0]
    return {
        "rank": rank,
        "model": plan.model.name,
        "hardware": machine_of(plan).name,
        "chips": int(ops.chips),
        "layout": layout_document(plan.layout),
        "step_time": plain(seconds),
        "tokens_per_second_per_chip": plain(cost.tokens_per_second_per_chip),
        "mfu": plain(cost.mfu),
        "memory": plain(cost.memory),
        "dollars_per_token": plain(cost.dollars / ops.tokens),
        "joules_per_token": plain(cost.joules / ops.tokens),
        "loss": quality,
        "measured_time": clock,
        "measured_kind": None if clock is None else "clock",
        "interval": interval(seconds, sigma(machine_of(plan))),
        "verdict": VERDICTS[int(cost.verdict)],
        objective: plain(ranks_by),
        "tokens": plain(plan.workload.tokens),
        "global_batch": int(phase.batch),
        "seq_len": int(phase.seq_len),
        "parameters": plain(counted_parameters(plan.model)),
        "shape": {
            "layers": int(sum(float(kind.count) for kind in plan.model.kinds)),
            "d_model": int(plan.model.d_model),
            "heads": int(plan.model.kinds[0].heads),
            "d_ff": int(plan.model.kinds[0].d_ff),
            "vocab": int(plan.model.vocab),
        },
    }


def _clock(plan: Candidate, timed: Mapping[str, blocks.Timed]) -> float | None:
    """A plan's step time with its layers as they were timed, or None where they were not."""
    if not timed or not blocks.alone(plan) or float(machine_of(plan).chips) > 1.5:
        return None
    block = timed.get(blocks.key(blocks.of_plan(plan)))
    if block is None or not block.usable:
        return None
    return blocks.step_time(plan, block.times()[1])


def boundary_hits(screened: Screened, index: int, *, given: Mapping[str, Any] | None = None) -> list[str]:
    """Where a candidate sits on the end of an axis that could go on, or of the range of its law, a sentence each.

    `given` are the choices of layout that a study fixed: degrees of parallelism end by nature where it says nothing.
    """
    said, plan = [], screened.plan(index)
    chips = float(machine_of(plan).chips)
    for one, digit in zip(screened.space.axes, digits(screened.space, index), strict=True):
        ends: dict[str, list[str]] = {"largest": [], "smallest": []}  # of an axis: tied fields reach theirs together
        for field, path in enumerate(one.paths):
            values, value, name = one.values[:, field], float(one.values[digit, field]), _called(path)
            free = name in DEGREES and (name not in (given or {}) or value >= chips)
            padded = path == "model.vocab" and "layout.tp" in one.paths
            if values.min() == values.max() or name in CHOICES or path.startswith("layout.precision") or free or padded:
                continue
            if value == values.max():
                ends["largest"].append(f"{name} = {value:g}")
            elif value == values.min() and value > 1.0:
                ends["smallest"].append(f"{name} = {value:g}")
        said += [
            f"{', '.join(named)} of the best plan {'is' if len(named) == 1 else 'are'} the {end} the space allows: "
            f"{'more' if end == 'largest' else 'less'} may be better"
            for end, named in ends.items()
            if named
        ]
    return said + _law_edges(plan)


def _called(path: str) -> str:
    """What people call the field at a path: `layers`, `d_ff`, `global_batch`; of a later kind `1.experts`.

    >>> _called("model.kinds.0.count"), _called("workload.phases.0.batch"), _called("model.kinds.1.experts")
    ('layers', 'global_batch', '1.experts')
    """
    *_, number, field = ("", *path.split("."))
    field = {"count": "layers", "batch": "global_batch"}.get(field, field)
    return f"{number}.{field}" if path.startswith("model.kinds.") and number != "0" else field


def _law_edges(plan: Candidate) -> list[str]:
    law = plan.law
    if law is None:
        return []
    layers = sum(float(kind.count) for kind in plan.model.kinds)
    figures = {
        "parameters": (float(counted_parameters(plan.model)), law.parameters),
        "tokens": (float(plan.workload.tokens), law.tokens),
        "aspect (d_model / layers)": (float(plan.model.d_model) / layers, law.aspect),
        "vocabulary": (float(plan.model.vocab), law.vocabulary),
        "experts": (float(max_experts(plan.model)), law.experts),
    }
    said = []
    phase, tokens = plan.workload.train, float(plan.workload.tokens)
    counted = float(effective_tokens(law, tokens, phase.batch * phase.seq_len))
    if tokens / counted - 1.0 > CROWDED:
        said.append(f"global_batch = {float(phase.batch):g} of the best plan is {tokens / counted - 1.0:.2g} of the "
                    f"critical batch: {1.0 - counted / tokens:.0%} of the tokens are its price")  # fmt: skip
    for name, (value, (low, high)) in figures.items():
        if not (low > 0 and math.isfinite(high) and value > 0):
            continue
        share = math.log(value / low) / math.log(high / low)
        if not EDGE < share < 1 - EDGE:
            said.append(f"{name} = {value:.4g} of the best plan is on the edge of what {law.name} was fitted on, "
                        f"{low:.4g} to {high:.4g}")  # fmt: skip
    return said
