"""The main job: profile the host, screen, compile and time, calibrate, screen again, answer. Every step is resumable.

The journal of the run holds what cannot be had again for nothing: the host's rates and the times of blocks. All the
rest follows from these and from the study, so that a run that was killed goes on from its last finished trial.
"""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from coopt import store
from coopt.problems import Problem, Refused
from coopt.spec import load
from coopt.spec.nouns import Hardware, Law
from coopt.store import Run
from coopt.study import asked, bench, blocks, calibration, elsewhere, machines, ranking, robust, screening, spaces
from coopt.study.answer import Told, answer, save
from coopt.study.asked import Question
from coopt.study.emit import as_yaml
from coopt.study.machines import Here
from coopt.study.schema import Study
from coopt.study.screening import Screened
from coopt.study.spaces import Family
from coopt.workers import Executor

MORE = 2  # times as many blocks as asked for are tried, where some have no usable time

Progress = Callable[[str, int, int], None]


def silent(sentence: str, done: int, total: int) -> None:
    """Progress that nobody watches."""


def search(options: Any, *, told: Progress = silent) -> dict[str, Any]:
    """`coopt search`: the document of a study, its run written beside it; `--resume` goes on with the run.

    Raises Refused for a study that cannot be, and for a run of that name that exists, unless it is to be resumed.
    """
    asking = asked.question(options)
    path = Path(options.runs) / asking.run
    _rehearse(asking.study, options.profile_path)
    if options.resume:
        with store.resume(path) as run:
            _same(run, asking)
            return _drive(run, asking, _Aim.of(options, told))
    about = {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "profile_path": [str(folder) for folder in options.profile_path or ()],
    }
    with store.create(Path(options.runs), asking.run, as_yaml(asking.data), **about) as run:
        return _drive(run, asking, _Aim.of(options, told))


def resume(options: Any, *, told: Progress = silent) -> dict[str, Any]:
    """`coopt resume RUN`: goes on with a run by its own study."""
    path = Path(options.run)
    if "/" not in options.run and not (path / "journal").is_file():
        path = Path(options.runs) / options.run
    with store.resume(path) as run:
        asking = asked.written(run.study, file=str(path / "study.yaml"))
        return _drive(run, asking, _Aim.of(options, told, profile_path=_header(run).get("profile_path")))


@dataclasses.dataclass(frozen=True)
class _Aim:
    """What the caller wants of the driving, beyond the study."""

    told: Progress
    deadline_s: float
    path: Any

    @classmethod
    def of(cls, options: Any, told: Progress, profile_path: Any = None) -> _Aim:
        """From the options of a command."""
        return cls(
            told, options.block_seconds or bench.DEADLINE, options.profile_path or tuple(profile_path or ()) or None
        )


def _header(run: Run) -> dict[str, Any]:
    return next((record for record in run.trials.notes if record["kind"] == "journal"), {})


def _rehearse(study: Study, path: Any) -> None:
    """Refuses, before anything is measured or written, a study whose parts are not there or do not fit together."""
    problems: list[Problem] = []

    def attempt(make: Callable[[], Any]) -> Any:
        try:
            return make()
        except Refused as refusal:
            problems.extend(refusal.problems)

    family = attempt(lambda: spaces.family(study, path=path))
    attempt(lambda: spaces.law_of(study, path=path))
    known = attempt(lambda: machines.named(study, path=path)) or {}
    for number, machine in enumerate(study.machines):
        chips = known[number].chips if number in known else machine.chips or 1.0
        if family is not None and not problems:
            attempt(lambda chips=chips: spaces.space(study, family, chips=float(chips)))
    far = study.elsewhere
    if far is not None:
        attempt(lambda: elsewhere.sites(far, path=path))
        for trained in far.models:
            attempt(lambda trained=trained: load.model(trained.model, path=path))
    if problems:
        raise Refused(*dict.fromkeys(problems))


def _same(run: Run, asking: Question) -> None:
    """Refuses to go on with a run by another study than its own."""
    if asked.written(run.study, file=str(run.path / "study.yaml")).study != asking.study:
        raise Refused(
            Problem(
                file=str(run.path / "study.yaml"),
                field="study",
                expected="the study that this run was begun with",
                got="another",
                hint=f"`coopt resume {run.path}` goes on with it as it is; `--name=OTHER` begins another",
            )
        )


def _drive(run: Run, asking: Question, aim: _Aim) -> dict[str, Any]:
    """From a study to its answer; what the journal holds is not done again."""
    study, spent = asking.study, _Clock()
    started = str(_header(run).get("started", ""))
    date = started[:10] or time.strftime("%Y-%m-%d")
    family = spaces.family(study, path=aim.path)
    law = spaces.law_of(study, path=aim.path)
    with bench.opened(machines.wants_host(study)) as executor:
        with spent("elsewhere"):
            far = elsewhere.entries(study.elsewhere, path=aim.path, told=aim.told) if study.elsewhere else []
        here = None
        if machines.wants_host(study):
            with spent("host"):
                aim.told("measuring this host", 0, 1)
                here = machines.measure_host(run, executor, date=date, deadline_s=aim.deadline_s)
                aim.told("measuring this host", 1, 1)
        hardware = _machines(run, study, here, "measured", date, aim)
        with spent("screen"):
            first = _screened(study, family, hardware, law, aim, "screening", front=not study.measure)
        with spent("measure"):
            timed = _timed(run, executor, study, first, aim) if study.measure else []
    with spent("calibrate"):
        found = calibration.calibrate(first[machines.clocked(study)].hardware, timed) if timed else None
    final = first
    if found is not None and here is not None:
        said = f"{found.blocks} blocks timed in the run {run.name}"
        chip = calibration.profile(here.chip, found, date=date, blocks=said)
        hardware = _machines(run, study, Here(here.measured, chip), "calibrated", date, aim, fidelity="interpolated")
    if study.measure:
        with spent("screen again"):
            final = _screened(study, family, hardware, law, aim, "screening again, calibrated", front=True)
    with spent("answer"):
        plans = ranking.ranked(final, top=int(study.top))
        own = tuple(folder for name in ("calibrated", "measured") if (folder := run.path / name).is_dir())
        reached = Told(
            asking=asking,
            run=run,
            started=started,
            here=here,
            first=first,
            final=final,
            plans=plans,
            robust=robust.document(
                ranking.pool(final, plans, most=robust.POOL),
                study.objective,
                limits=study.limits,
                listed=len(plans),
                seed=int(study.seed),
                path=(*own, *_folders(aim.path)),
            ),
            timed=timed,
            calibrated=found,
            elsewhere=far,
            seconds=spent.seconds,
        )
        document = answer(reached)
        save(reached, document)
    return document


def _folders(path: Any) -> tuple[Any, ...]:
    return (path,) if isinstance(path, str | Path) else tuple(path or ())


class _Clock:
    """Seconds by phase, in the order in which they were spent."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextlib.contextmanager
    def __call__(self, phase: str) -> Iterator[None]:
        began = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[phase] = time.perf_counter() - began


def _machines(run: Run, study: Study, here: Here | None, folder: str, date: str, aim: _Aim, fidelity: str = ""):
    """The machines of the study, those of this host written into `folder` of the run and read back from there."""
    place = run.path / folder
    if here is not None:
        machines.write(place, machines.files(study, here.chip, date=date), run)
    chip = here.chip if here else None
    return machines.resolved(study, chip=chip, folder=place, fidelity=fidelity, path=aim.path)


def _screened(
    study: Study, family: Family, hardware: list[Hardware], law: Law | None, aim: _Aim, said: str, *, front: bool
) -> list[Screened]:
    """Every machine's sweep."""
    found = []
    for number, machine in enumerate(hardware):
        blocked = study.measure and number == machines.clocked(study)
        sentence = f"{said}: {machine.name} x {float(machine.chips):g}"
        found.append(
            screening.screen(
                study, family, machine, law,
                distinct=int(study.measure * MORE if blocked else study.top),
                key=(lambda plan: blocks.key(blocks.of_plan(plan))) if blocked else screening.kind_of(family),
                pareto=front,
                progress=lambda done, total, sentence=sentence: aim.told(sentence, done, total),
            )
        )  # fmt: skip
    return found


def _timed(run: Run, executor: Executor | None, study: Study, first: list[Screened], aim: _Aim) -> list[blocks.Timed]:
    """Compiles and times the best blocks, one after another, until as many as asked for have usable times."""
    wanted = int(study.measure)
    chosen: dict[str, dict[str, Any]] = {}
    for plan, _ in screening.best(first[machines.clocked(study)], key=lambda plan: blocks.key(blocks.of_plan(plan))):
        if blocks.alone(plan):
            chosen[blocks.key(blocks.of_plan(plan))] = blocks.of_plan(plan)
        if len(chosen) == wanted * MORE:
            break
    timed: list[blocks.Timed] = []
    for job in chosen.values():
        usable = sum(block.usable for block in timed)
        if usable == wanted:
            break
        aim.told("compiling and timing blocks", usable, wanted)
        record = bench.do(run, executor, job, deadline_s=aim.deadline_s, name=blocks.name(job))
        seconds = float("nan") if record["seconds"] is None else record["seconds"]
        timed.append(blocks.Timed(job, record["status"], record["result"] or {}, seconds, record["message"]))
    aim.told("compiling and timing blocks", sum(block.usable for block in timed), wanted)
    return timed
