"""A cluster in one process: coopt's own scheduler and store, on a disk and under a clock that a seed decides.

Real: `coopt.study.given.scheduler.steps`, `coopt.store.Run`, journal, locks, files (in memory, where there is
/dev/shm). Simulated: workers and their messages (delayed, doubled, lost, with their worker or without), coordinators
that die between or inside calls that change the disk, power that fails (what was not fsynced is cut anywhere or
zeroed), which process is alive, and time. One seed is one history, step by step.
"""

from __future__ import annotations

import dataclasses
import fcntl
import heapq
import json
import os
import random
from pathlib import Path

import pytest

from coopt.store import create, identity, open_run, resume
from coopt.store import run as run_module
from coopt.store import trials as trials_module
from coopt.store.identity import Owner
from coopt.study.given.scheduler import PAUSE, steps
from coopt.workers import Job, Outcome

CALLS = ("write", "fsync", "ftruncate")
LOSSES = 3  # of workers and of coordinators together that a sound trial may suffer here; the fifth would condemn it


class Died(BaseException):
    """The coordinator is gone: nothing of it runs any more."""


@dataclasses.dataclass
class Faults:
    """How often things go wrong: shares of trials, messages, steps."""

    poison: float = 0.1  # trials that kill every worker
    lost: float = 0.1  # jobs whose worker goes away with its host
    doubled: float = 0.15  # outcomes that are told twice
    slow: float = 0.2  # jobs that take fifty times as long
    dies: float = 0.06  # steps at which a coordinator dies, or begins to die inside its next calls
    power: float = 0.3  # of those deaths, power failures: every coordinator goes, and what was not fsynced


class World:
    """One history of so many trials, workers and coordinators."""

    def __init__(self, folder: Path, seed: int, *, trials: int, workers: int, coordinators: int, faults: Faults):
        self.draw, self.faults, self.folder = random.Random(seed), faults, folder
        self.workers, self.coordinators = workers, coordinators
        self.now, self.born, self.told = 0.0, 0, 0
        self.ids = [identity({"trial": n}) for n in range(trials)]
        self.poison = {t for t in self.ids if self.draw.random() < faults.poison}
        self.jobs = {trial: Job("none:none", {"n": n}, 1.0) for n, trial in enumerate(self.ids)}
        self.losses = dict.fromkeys(self.ids, 0)
        self.alive: set[int] = set()
        self.acting: Owner | None = None
        # (when, number, trial, outcome) by the coordinator they are for; 0: it is dead, and any other may hear them
        self.messages: dict[int, list[tuple[float, int, str, Outcome]]] = {0: []}
        self.acknowledged: dict[str, str] = {}
        self.seen: dict[str, dict] = {}
        self.read = self.durable = self.deaths = self.outages = self.steps = 0
        self.countdown = 0  # calls left to a coordinator that is about to die; -1: it is dead
        self.dying = False
        self.run = None  # of the coordinator that acts
        self.claiming: set[str] = set()  # a trial whose `started` it is writing: told to the disk, not yet held
        self.asleep: dict[int, float] = {}  # coordinators that heard nothing, and when they look again

    # ------------------------------------------------------------ what the program sees of a machine

    def installed(self, patch: pytest.MonkeyPatch) -> None:
        """Puts the simulated processes and disk in the place of the real ones."""
        patch.setattr(run_module, "this_process", lambda: self.acting)
        patch.setattr(trials_module, "this_process", lambda: self.acting)
        patch.setattr(trials_module, "alive", lambda owner, elsewhere: owner.pid in self.alive)
        for name in CALLS:
            patch.setattr(os, name, self._call(name, getattr(os, name)))

    def _call(self, name: str, real):
        def call(fd, *arguments):
            if os.fstat(fd).st_ino != self.inode:
                return real(fd, *arguments)
            if self.countdown < 0:
                raise Died
            if name == "write":
                record = json.loads(arguments[0][18:])
                self.claiming = {record["id"]} if record["kind"] == "started" else set()
            if self.countdown:
                self.countdown -= 1
            if self.countdown == 0 and self.dying and not self._may_die(self.run):
                self.dying = False  # it took, since its death was drawn, a trial that has lost enough
            if self.countdown == 0 and self.dying:
                self.dying, self.countdown = False, -1
                if name == "write":  # torn
                    real(fd, arguments[0][: self.draw.randrange(len(arguments[0]) + 1)])
                raise Died
            if name == "fsync":
                self.durable = os.fstat(fd).st_size
                return None
            result = real(fd, *arguments)
            if name == "ftruncate":
                self.durable = min(self.durable, os.fstat(fd).st_size)
            return result

        return call

    # ------------------------------------------------------------ workers, as the scheduler sees them

    @property
    def width(self) -> int:
        """Workers a coordinator has."""
        return self.workers

    def start(self, trial: str, job: Job) -> None:
        """A worker takes the trial; what it will say, and when, is drawn now."""
        draw, faults = self.draw, self.faults
        seconds = draw.expovariate(1.0) * (50.0 if draw.random() < faults.slow else 1.0)
        copies = 2 if draw.random() < faults.doubled else 1
        if trial in self.poison:
            outcome = Outcome(status="crashed", phase="run", signal="SIGSEGV")
        elif draw.random() < faults.lost and self.losses[trial] + copies <= LOSSES:
            self.losses[trial] += copies  # each copy may come when the trial is on its next worker
            outcome = Outcome(status="crashed", phase="worker", signal="lost")
        else:
            outcome = Outcome(status="ok", result=dict(value(job.payload["n"])))
        for _ in range(copies):
            self.told += 1
            box = self.messages.setdefault(self.acting.pid, [])
            heapq.heappush(box, (self.now + seconds + draw.expovariate(2.0), self.told, trial, outcome))

    def next(self) -> tuple[str, Outcome] | None:
        """The message that comes next, at its time; None when no worker has anything left to say."""
        boxes = [box for box in (self.messages[0], self.messages.get(self.acting.pid)) if box]
        if not boxes:
            self.asleep[self.acting.pid] = self.now + PAUSE
            return None
        when, _, trial, outcome = heapq.heappop(min(boxes, key=lambda box: box[0][:2]))
        self.now = max(self.now, when)
        return trial, outcome

    # ------------------------------------------------------------ the history

    def live(self) -> None:
        """From an empty folder to a run in which every coordinator has seen everything done."""
        self.inode = -1
        self.acting = self._person()
        create(self.folder, "run", "a: 1\n").close()
        self.alive.clear()
        self.journal = self.folder / "run" / "journal"
        self.inode = self.journal.stat().st_ino
        self.durable = self.journal.stat().st_size
        living: list = []
        for _ in range(10_000_000):
            while len(living) < self.coordinators:
                self._arrive(living)
            coordinator = self._awake(living)
            self.acting, self.run, going = coordinator
            self.claiming.clear()
            try:
                next(going)
            except StopIteration:
                for _, run, _ in living:  # the others would see the same
                    run.close()
                return
            except Died:
                self._die(living, coordinator)
                continue
            self.steps += 1
            self.check()
            if self.draw.random() < self.faults.dies and self._may_die(self.run):
                if self.draw.random() < 0.4:
                    self._die(living, coordinator)
                else:
                    self.dying, self.countdown = True, self.draw.randrange(1, 6)
        raise AssertionError("the history does not end")

    def _awake(self, living: list):
        """A coordinator that has something to do; when none has, time passes until one looks again."""
        until = [self.asleep.get(owner.pid, 0.0) for owner, _, _ in living]
        self.now = max(self.now, min(until))
        return self.draw.choice([one for one, at in zip(living, until, strict=True) if at <= self.now])

    def _arrive(self, living: list) -> None:
        self.acting = self._person()
        run = resume(self.folder / "run", join=True)
        real = run.finish

        def finish(trial: str, status: str, **result) -> bool:
            first = real(trial, status, **result)
            if first:
                self.acknowledged[trial] = status
            return first

        run.finish = finish
        living.append((self.acting, run, steps(run, self.jobs, self)))

    def _person(self) -> Owner:
        self.born += 1
        self.alive.add(self.born)
        return Owner(pid=self.born, host="simulated", boot="", born=str(self.born))

    def _at_stake(self, run) -> set[str]:
        """The trials that a coordinator's death is charged to: those it holds, and one that it is claiming."""
        return (run.trials.held | (self.claiming if run is self.run else set())) - run.trials.done.keys()

    def _may_die(self, run) -> bool:
        """No trial may be charged so often that it would be condemned."""
        return all(self.losses[trial] < LOSSES for trial in self._at_stake(run))

    def _die(self, living: list, first) -> None:
        self.deaths += 1
        gone = [first]
        if self.draw.random() < self.faults.power and all(self._may_die(run) for _, run, _ in living):
            self.outages += 1
            gone = list(living)
        for owner, run, going in gone:
            for message in self.messages.pop(owner.pid, ()):
                heapq.heappush(self.messages[0], message)
            living.remove((owner, run, going))
            self.alive.discard(owner.pid)
            for trial in self._at_stake(run):
                self.losses[trial] += 1
            self.countdown = -1
            run.close()
            try:
                going.close()
            except Died:
                pass
        self.countdown, self.dying = 0, False
        if not living:
            self.messages[0].clear()
            self._outage()
        self.check()

    def _outage(self) -> None:
        """What was written and not fsynced is there in part, or as zeros, or not at all."""
        size = self.journal.stat().st_size
        if size <= self.durable:
            return
        with open(self.journal, "r+b") as file:
            file.truncate(self.draw.randint(self.durable, size))
            if self.draw.random() < 0.3:
                end = file.seek(0, os.SEEK_END)
                file.truncate(self.durable)
                file.truncate(end)
        self.read, self.seen = 0, {}  # what was not acknowledged may be gone, and be done again

    # ------------------------------------------------------------ what must hold

    def check(self) -> None:
        """After each step: nothing acknowledged is missing, nothing is done twice, the lock is nobody's."""
        with open(self.journal, "rb") as file:
            file.seek(self.read)
            for line in file:
                if not line.endswith(b"\n"):
                    break
                self.read += len(line)
                record = json.loads(line[18:])
                if record["kind"] == "done":
                    assert self.seen.setdefault(record["id"], record) is record, f"{record['id']} is done twice"
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        assert self.acknowledged.keys() <= self.seen.keys(), "an acknowledged trial is lost"

    def end(self) -> list:
        """At the end: every trial done, as it should be; the front."""
        saved = open_run(self.folder / "run")
        assert not saved.problems and not saved.trials.begun, "a trial was left running"
        assert set(saved.trials.done) == set(self.ids)
        for trial, record in saved.trials.done.items():
            assert record["status"] == ("crashed" if trial in self.poison else "ok"), record
            assert trial in self.poison or record["result"] == value(self.jobs[trial].payload["n"])
        return front({trial: r["result"] for trial, r in saved.trials.done.items() if r["status"] == "ok"})


def value(n: int) -> dict[str, int]:
    """What a trial comes to: a function of its number."""
    time = n * 7919 % 1009
    return {"time": time, "cost": 1009 - time + n * 37 % 400}


def front(results: dict[str, dict]) -> list:
    """What nobody beats in both."""
    rows = sorted((r["time"], r["cost"], trial) for trial, r in results.items())
    best, kept = float("inf"), []
    for time, cost, trial in rows:
        if cost < best:
            best = cost
            kept.append((time, cost, trial))
    return kept


def history(folder: Path, seed: int, *, trials: int, workers: int, coordinators: int, faults: Faults) -> World:
    """One seed's history, checked on the way and at its end."""
    with pytest.MonkeyPatch.context() as patch:
        world = World(folder, seed, trials=trials, workers=workers, coordinators=coordinators, faults=faults)
        world.installed(patch)
        world.live()
    expected = {t: value(world.jobs[t].payload["n"]) for t in world.ids if t not in world.poison}
    assert world.end() == front(expected)
    return world
