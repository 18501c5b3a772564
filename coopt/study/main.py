"""The main job: profile the host, screen, compile and time, calibrate, screen again, answer. Every step is resumable.

The journal of the run holds what cannot be had again for nothing: the host's rates and the times of blocks. All the
rest follows from these and from the study, so that a run that was killed goes on from its last finished trial.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from coopt import store
from coopt.problems import Problem, Refused
from coopt.search.space import Candidate
from coopt.search.sweep import Result
from coopt.spec import load
from coopt.spec.find import several
from coopt.spec.nouns import Hardware, Law
from coopt.store import Run
from coopt.study import elsewhere, ranking
from coopt.study.answer import Told, answer, save
from coopt.study.given import asked, bench, inputs, machines, spaces
from coopt.study.given.asked import Question
from coopt.study.given.emit import as_yaml
from coopt.study.given.machines import Here
from coopt.study.given.progress import Progress, silent
from coopt.study.given.scheduler import Crew
from coopt.study.given.schema import Study
from coopt.study.given.spaces import Family
from coopt.study.screened import parts, robust, screening
from coopt.study.screened.screening import Screened
from coopt.study.timed import afresh, blocks, calibration
from coopt.study.timed.shortlist import MORE, Timings, shortlist, time_blocks
from coopt.workers import Executor

Opened = Callable[..., contextlib.AbstractContextManager[Executor]]


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
    started = datetime.now(UTC).isoformat(timespec="seconds")
    read = inputs.read(asking.study, path=options.profile_path)
    with store.create(Path(options.runs), asking.run, as_yaml(asking.data), files=read, started=started) as run:
        return _drive(run, asking, _Aim.of(options, told))


def resume(options: Any, *, told: Progress = silent) -> dict[str, Any]:
    """`coopt resume RUN`: goes on with a run by its own study."""
    path = Path(options.run)
    if "/" not in options.run and not (path / "journal").is_file():
        path = Path(options.runs) / options.run
    with store.resume(path) as run:
        asking = asked.written(run.study, file=str(path / "study.yaml"))
        return _drive(run, asking, _Aim.of(options, told))


@dataclasses.dataclass(frozen=True)
class _Aim:
    """What the caller wants of the driving, beyond the study."""

    told: Progress
    deadline_s: float
    path: Any
    opened: Opened = bench.opened
    how: bench.How = bench.How()

    @classmethod
    def of(cls, options: Any, told: Progress) -> _Aim:
        """From the options of a command."""
        how = bench.How(options.executor, int(options.workers), options.ray_address, Path(options.runs))
        opened = functools.partial(bench.opened, how=how, again=True)
        return cls(told, options.block_seconds or bench.DEADLINE, options.profile_path, opened, how)


def again(root: Path, kept: store.Saved, executor: Executor, *, told: Progress = silent) -> dict[str, Any]:
    """The document of a saved run derived once more, as a run in `root`; `executor` answers what was measured."""
    asking = asked.written(kept.study, file=str(kept.path / "study.yaml"))
    files = {name: kept.path.joinpath(name).read_bytes() for name in inputs.kept(kept.path)}
    started = str(_header(kept).get("started", ""))
    with store.create(root, kept.name, kept.study, files=files, started=started) as run:
        aim = _Aim(told, bench.DEADLINE, None, lambda _: contextlib.nullcontext(executor))
        return _drive(run, asking, aim)


def _header(run: Run | store.Saved) -> dict[str, Any]:
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
            attempt(lambda chips=chips: spaces.space(study, family, chips=float(chips), path=path))
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
    inputs.stamp(run)
    study, spent = inputs.located(asking.study), _Clock()
    aim = dataclasses.replace(aim, path=(*inputs.folders(run.path), *several(aim.path)))
    started = str(_header(run).get("started", ""))
    date = started[:10] or time.strftime("%Y-%m-%d")
    family = spaces.family(study, path=aim.path)
    law = spaces.law_of(study, path=aim.path)
    with aim.opened(machines.wants_host(study)) as executor, contextlib.closing(_crew(executor, aim)) as crew:
        with spent("elsewhere"):
            far = elsewhere.entries(study.elsewhere, path=aim.path, told=aim.told) if study.elsewhere else []
        here = None
        if machines.wants_host(study):
            with spent("host"):
                aim.told("measuring this host", 0, 1)
                here = machines.measure_host(run, executor, date=date, deadline_s=aim.deadline_s)
                aim.told("measuring this host", 1, 1)
        hardware = _machines(run, study, here, "measured", date, aim)
        sweeper = functools.partial(parts.sweep_in_parts, run=run, crew=crew) if aim.how.executor else None
        with spent("screen"):
            first = _screened(study, family, hardware, law, aim, "screening", sweeper, front=not study.measure)
        with spent("measure"):
            timings = _timed(run, executor, study, first, aim) if study.measure else Timings()
            timed = blocks.settled(timings.timed) if study.measure else []
        with spent("calibrate"):
            found = calibration.calibrate(first[machines.clocked(study)].hardware, timed) if timed else None
        final = first
        if found is not None and here is not None:
            said = f"{found.blocks} blocks timed in the run {run.name}"
            calibrated = Here(here.measured, calibration.profile(here.chip, found, date=date, blocks=said))
            hardware = _machines(run, study, calibrated, "calibrated", date, aim, fidelity="interpolated")
        if study.measure:
            with spent("screen again"):
                again = "screening again, calibrated"
                final = _screened(study, family, hardware, law, aim, again, sweeper, front=True)
        plans = ranking.ranked(final, top=int(study.top))
        with spent("time afresh"):
            fresh = _afresh(run, executor, study, final, timed, aim) if timed else []
    with spent("answer"):
        reached = Told(
            asking=asking,
            run=run,
            started=started,
            here=here,
            first=first,
            final=final,
            plans=plans,
            practice=spaces.practice(study, family, plans[0], path=aim.path) if plans else (),
            robust=_robust(run, study, final, plans, aim),
            timed=timed,
            decision=timings,
            fresh=fresh,
            calibrated=found,
            elsewhere=far,
            seconds=spent.seconds,
        )
        document = answer(reached)
        save(reached, document)
    return document


def _robust(run: Run, study: Study, final: list[Screened], plans: list[Candidate], aim: _Aim) -> dict[str, Any] | None:
    """How sure the order of the plans is under the intervals of every constant, this run's own profiles first."""
    own = (run.path / name for name in ("calibrated", "measured"))
    path = (*(folder for folder in own if folder.is_dir()), *several(aim.path))
    pool = ranking.pool(final, plans, most=robust.POOL)
    return robust.document(
        pool, study.objective, limits=study.limits, listed=len(plans), seed=int(study.seed), path=path
    )


def _crew(executor: Executor, aim: _Aim) -> Crew:
    return Crew(executor, 1 if aim.how.executor == "serial" else aim.how.workers)


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
    study: Study,
    family: Family,
    hardware: list[Hardware],
    law: Law | None,
    aim: _Aim,
    said: str,
    sweeper: Callable[..., Result] | None,
    *,
    front: bool,
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
                sweeper=sweeper,
                path=aim.path,
            )
        )  # fmt: skip
    return found


def _timed(run: Run, executor: Executor, study: Study, first: list[Screened], aim: _Aim) -> Timings:
    """Compiles and times the blocks that the decision needs, at most as many as the study asks for."""
    wanted = int(study.measure)
    screened = first[machines.clocked(study)]
    most, key = wanted * MORE, lambda plan: blocks.key(blocks.of_plan(plan))
    plans: list[tuple[Candidate, float]] = []
    for one in screening.of_each_recipe(study, screened, distinct=most, key=key, path=aim.path):
        plans += itertools.islice((found for found in screening.best(one, key=key) if blocks.alone(found[0])), most)
    plans.sort(key=lambda found: found[1])
    listed = shortlist(plans, hardware=screened.hardware, objective=study.objective, own=study.block)
    usable = 0

    def clock(job: dict[str, Any]) -> blocks.Timed:
        nonlocal usable
        aim.told("compiling and timing blocks", usable, wanted)
        record = bench.do(run, executor, job, deadline_s=aim.deadline_s, name=blocks.name(job))
        timed = blocks.of_record(job, record)
        usable += timed.usable
        return timed

    found = time_blocks(listed, clock, wanted=wanted)
    aim.told("compiling and timing blocks", usable, usable)
    return found


def _afresh(
    run: Run, executor: Executor, study: Study, final: list[Screened], timed: Sequence[blocks.Timed], aim: _Aim
) -> list[tuple[Candidate, blocks.Timed]]:
    """The winner's and the runner-up's blocks timed once more, in processes that have timed nothing before."""
    distinct = screening.best(final[machines.clocked(study)], key=lambda plan: blocks.key(blocks.of_plan(plan)))
    known = {blocks.key(block.job) for block in timed}
    asked_of = afresh.best((plan for plan, _ in distinct), study.block, known=known)
    found = []
    with contextlib.nullcontext(executor) if aim.how.executor else aim.opened(False, reuse=1) as other:
        for number, (plan, job) in enumerate(asked_of):
            aim.told("timing the best blocks afresh", number, len(asked_of))
            record = bench.do(run, other, job, deadline_s=aim.deadline_s, name=f"{blocks.name(job)}, afresh")
            found.append((plan, blocks.of_record(job, record)))
    aim.told("timing the best blocks afresh", len(found), len(found))
    return found
