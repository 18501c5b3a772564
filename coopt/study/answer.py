"""The answer of a search as one document, and the files of the run that hold it."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any

from coopt.cost import explain
from coopt.cost.explain import MFU_CONVENTION
from coopt.search.certificate import certificate
from coopt.search.space import Candidate
from coopt.spec.nouns import Model
from coopt.store import Run, finite
from coopt.store.saved import ANSWER
from coopt.study import ranking
from coopt.study.given import bench, host, machines
from coopt.study.given.asked import Question
from coopt.study.given.designs import Design
from coopt.study.given.emit import as_yaml
from coopt.study.given.machines import Here
from coopt.study.given.objectives import machine_of
from coopt.study.scored.evidence import card
from coopt.study.screened import screening
from coopt.study.screened.screening import Screened
from coopt.study.timed import afresh, blocks, calibration
from coopt.study.timed.shortlist import Timings

FRONT = 60  # points of a Pareto front in a document


@dataclasses.dataclass(frozen=True)
class Told:
    """Everything a search has found out."""

    asking: Question
    run: Run
    started: str
    here: Here | None
    first: Sequence[Screened]
    final: Sequence[Screened]
    plans: Sequence[Candidate]
    practice: Sequence[str]
    robust: Mapping[str, Any] | None
    timed: Sequence[blocks.Timed]
    decision: Timings
    fresh: Sequence[tuple[Candidate, blocks.Timed]]
    calibrated: calibration.Calibrated | None
    elsewhere: Sequence[Mapping[str, Any]]
    seconds: Mapping[str, float]


def answer(told: Told) -> dict[str, Any]:
    """The document of a search, as `coopt search --format=json` prints it."""
    study = told.asking.study
    again = blocks.settled([*told.timed, *(block for _, block in told.fresh)])
    timed = {blocks.key(block.job): block for block in again if block.usable}  # a fresh timing stands for the first
    seconds = sum(one.result.seconds for one in told.first)
    evaluated = sum(one.result.evaluated for one in told.first)
    return {
        "command": "search",
        "name": told.run.name,
        "run": str(told.run.path),
        "started": told.started,
        "study": study.title,
        "objective": study.objective,
        "bounds": dict(study.limits),
        "host": host.told(told.here.measured) if told.here else None,
        "evaluated": evaluated,
        "feasible": sum(one.result.feasible for one in told.final),
        "rejected": screening.census(told.final),
        "seconds": seconds,
        "candidates_per_second": evaluated / seconds,
        "workload": {"kind": "train", "seq_len": int(study.workload.seq_len)},
        "plans": [
            ranking.document(plan, rank=rank, objective=study.objective, timed=timed)
            for rank, plan in enumerate(told.plans, start=1)
        ],
        "robust": told.robust,
        **_front(told),
        "measured": _measured(told),
        "decision": {"regret": told.decision.regret, "decided": told.decision.decided} if told.timed else None,
        "afresh": afresh.document(told.fresh, told.timed),
        "calibration": calibration.document(told.calibrated),
        "elsewhere": list(told.elsewhere),
        **_best(told, told.plans[0] if told.plans else None, timed),
        "mfu_convention": MFU_CONVENTION,
        "spent": dict(told.seconds),
        "versions": bench.toolchain(),
    }


def _front(told: Told) -> dict[str, Any]:
    """The Pareto front of the machine that the best plan is on, thinned where it is long."""
    study = told.asking.study
    one = _winner(told)
    if one is None:
        return {"pareto": [], "pareto_axes": [], "pareto_points": 0}
    points = screening.front(one, most=FRONT)
    return {
        "pareto": [
            ranking.document(plan, rank=rank, objective=study.objective) for rank, plan in enumerate(points, start=1)
        ],
        "pareto_axes": list(one.result.objectives),
        "pareto_points": len(one.result.pareto.indices),
    }


def _winner(told: Told) -> Screened | None:
    """The sweep that holds the best candidate of all."""
    filled = [one for one in told.final if len(one.result.top.indices)]
    return min(filled, key=lambda one: float(one.result.top.values[0, 0]), default=None)


def _measured(told: Told) -> list[dict[str, Any]]:
    """Every block that was sent to a clock, with what was predicted before and after calibration."""
    if not told.timed:
        return []
    here = machines.clocked(told.asking.study)
    before, after = told.first[here].hardware, told.final[here].hardware
    rows = []
    for rank, block in enumerate(told.timed, start=1):
        phases = block.answer.get("phases", {})
        both, forward = phases.get("forward_backward", {}), phases.get("forward", {})
        early, late = blocks.predicted(block.job, before), blocks.predicted(block.job, after)
        rows.append(
            {
                "rank": rank,
                "name": blocks.name(block.job),
                "predicted_before": early[1],
                "predicted_time": late[1],
                "measured_time": both.get("time"),
                "low": both.get("low"),
                "high": both.get("high"),
                "pace": both.get("pace"),
                "forward": {"predicted_before": early[0], "predicted_time": late[0],
                            "measured_time": forward.get("time")},
                "kind": block.answer.get("kind"),
                "outcome": block.status,
                "message": block.message,
                "check": block.answer.get("check"),
                "spread": both.get("spread"),
                "compile_s": sum(float(part.get("compile_s") or 0) for part in (forward, both)),
                "seconds": block.seconds,
            }
        )  # fmt: skip
    return rows


def _best(told: Told, plan: Candidate | None, timed: Mapping[str, blocks.Timed]) -> dict[str, Any]:
    """What is said of the best plan: its rows, its evidence, and where it sits on an edge."""
    said = [*told.asking.assumed, *told.practice, *_sentences(told)]
    if plan is None:
        return {"explain": None, "boundary_hits": [], "interval": None, "fidelity": None,
                "stack": told.asking.study.stack, "assumed": said, "nearest": []}  # fmt: skip
    machine = machine_of(plan)
    rows = explain(plan.model, plan.layout, plan.workload, machine)
    design = Design(name=plan.model.name, model=plan.model, layout=plan.layout, workload=plan.workload,
                    hardware=machine, assumed=machine.assumed)  # fmt: skip
    evidence = card(design, rows["step_time"])
    winner = _winner(told)
    hits = []
    if winner is not None:
        hits = ranking.boundary_hits(winner, int(winner.result.top.indices[0]), given=told.asking.study.layout)
    return {
        "explain": rows,
        "boundary_hits": hits,
        "interval": evidence["interval"],
        "fidelity": evidence["fidelity"],
        "stack": evidence["stack"],
        "assumed": list(dict.fromkeys((*said, *evidence["assumed"]))),
        "nearest": [*_own(told, plan, timed), *evidence["nearest"]],
    }


def _own(told: Told, plan: Candidate, timed: Mapping[str, blocks.Timed]) -> list[dict[str, Any]]:
    """The plan's own block where it was timed: the nearest measurement there can be."""
    block = timed.get(blocks.key(blocks.of_plan(plan)))
    if block is None or not block.usable:
        return []
    predicted = blocks.predicted(block.job, machine_of(plan))[1]
    what = f"one layer of {plan.model.name}, forward and backward, timed in this run"
    return [{"id": f"{told.run.name}: {blocks.name(block.job)}", "distance": 0.0, "measured": block.times()[1],
             "predicted": predicted, "what": what}]  # fmt: skip


def _sentences(told: Told) -> list[str]:
    """What the answer takes for granted beyond the profiles."""
    study = told.asking.study
    said = [sentence for one in told.final if (sentence := screening.proved(one))]
    if not told.plans:
        said += [
            f"nothing is left: {sentence}" for one in told.final if (sentence := screening.closest(one, study.limits))
        ]
    if study.law is not None:
        said.append(
            "batch costs tokens by the critical-batch law in the law's file"
            if study.batch_penalty == "law"
            else "a batch of any size costs no tokens: --batch_penalty=none"
        )
    elif study.model is None:
        said.append(
            "no law of the loss: shapes are compared by their cost alone, and the cheapest is no better a model"
        )
    if any(block.usable for block in told.timed):
        said.append(
            "a measured step is a measured layer, forward and backward, for every layer of the plan; embedding, head "
            "and optimizer in it are as predicted"
        )
    for machine in study.machines:
        if machine.link is not None:
            said.append(
                f"the mesh of {machine.chips:g} is described, not attached: links of {machine.link / 1e9:g} GB/s one "
                f"way and {(machine.latency or 0) * 1e6:g} us a step are the study's own"
            )
    if told.here is not None:
        said.append("peaks of this host are the fastest products measured, so MFU is a share of those")
    return said


def save(told: Told, document: Mapping[str, Any]) -> None:
    """Writes the answer into the run, and says in its journal that it was reached."""
    run, said = told.run, finite({**document, "run": told.run.name})
    run.write("plans.json", _json({key: said[key] for key in ("objective", "plans", "pareto", "boundary_hits")}))
    if told.asking.study.model is None:
        for model in {plan.model.name: plan.model for plan in told.plans}.values():
            run.write(f"models/{model.name}.yaml", model_file(model, told.asking.study.name, told.started[:10]))
    if told.timed and told.here is not None:
        timed = [block.document() for block in told.timed]
        run.write("measurements.json", _json(finite({"profile": told.here.chip, "blocks": timed})))
    proofs = [one.proof for one in told.final if one.proof is not None and one.proof.gap == 0.0]
    for number, proof in enumerate(proofs, start=1):
        name = "certificate.json" if len(told.final) == 1 else f"certificate-{number}.json"
        run.write(name, json.dumps(certificate(proof), allow_nan=False, separators=(",", ":")) + "\n")
    run.write(ANSWER, _json(said))
    if not any(note["kind"] == "finished" for note in run.trials.notes):
        run.note("finished", plans=len(said["plans"]), evaluated=said["evaluated"])


def model_file(model: Model, study: str, date: str) -> str:
    """A searched shape as the file of a model, so that other commands can name it."""
    kinds = []
    for kind in model.kinds:
        fields = {"count": kind.count, "mixer": kind.mixer, "heads": kind.heads, "kv_heads": kind.kv_heads,
                  "head_dim": kind.head_dim, "feedforward": kind.feedforward, "gated": bool(kind.gated),
                  "bias": bool(kind.bias), "norms": kind.norms}  # fmt: skip
        own = ("d_ff",) if kind.feedforward == "dense" else ("experts", "top_k", "d_expert", "shared", "d_shared")
        fields |= {name: getattr(kind, name) for name in own if getattr(kind, name)}
        fields |= {"window": kind.window} if kind.window else {}
        kinds.append({key: value if isinstance(value, str | bool) else float(value) for key, value in fields.items()})
    norm = "layer" if float(model.norms) > 1.5 else "rms"
    return as_yaml(
        {
            "kind": "model",
            "name": model.name,
            "title": f"A shape found by the study {study}",
            "sources": {"study": {"title": f"the study {study}", "date": date}},
            "source": "study",
            "d_model": float(model.d_model),
            "vocab": float(model.vocab),
            "tied": bool(model.tied),
            "positions": float(model.positions),
            "norm": norm,
            "final_norm": bool(model.norms),
            **({"context": float(model.context)} if model.context else {}),
            "layers": kinds,
        }
    )


def _json(value: Any) -> str:
    return json.dumps(value, allow_nan=False, indent=1, ensure_ascii=False) + "\n"
