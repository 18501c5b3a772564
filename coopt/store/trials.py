"""What the records of a run say about its trials. Derived, never stored: the same records give the same answer.

A trial is *done* once, for ever. A *crash* is a worker that died under a driver that lived to say so: after two the
trial is done with status `crashed`. A driver that died, or a worker that was *lost* with its host, says nothing about
the trial it held (preemption and kill -9 look the same), so such an orphan goes back in the queue, behind everything
fresh; only after five in the same trial is it held to be the cause.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence

from coopt.store.frame import Record
from coopt.store.identity import Owner, alive, this_process

CRASHES = 2  # workers lost in one trial before it is called `crashed`
ORPHANED = 5  # drivers and hosts lost in one trial before the same


@dataclasses.dataclass
class Trials:
    """The fold of a run's records; `fold` goes on from where it stands."""

    done: dict[str, Record] = dataclasses.field(default_factory=dict)
    begun: dict[str, Record] = dataclasses.field(default_factory=dict)  # id: its last `started`, while not done
    crashes: dict[str, int] = dataclasses.field(default_factory=dict)
    orphaned: dict[str, int] = dataclasses.field(default_factory=dict)
    notes: list[Record] = dataclasses.field(default_factory=list)  # every record that is not about a trial
    alone: bool = False  # we hold the driver's lock: no other host is at work, and of this process only `held` is
    held: set[str] = dataclasses.field(default_factory=set)

    def fold(self, records: Iterable[Record]) -> None:
        """Takes in further records, in their order."""
        for record in records:
            kind, trial = record["kind"], record.get("id", "")
            if kind == "started":
                if trial in self.begun:
                    self.orphaned[trial] = self.orphaned.get(trial, 0) + 1
                self.begun[trial] = record
            elif kind == "done":
                self.done[trial] = record
                for counts in (self.begun, self.crashes, self.orphaned):
                    counts.pop(trial, None)
            elif kind == "released":
                self.begun.pop(trial, None)
            elif kind in ("crash", "lost"):
                self.begun.pop(trial, None)
                counts = self.crashes if kind == "crash" else self.orphaned
                counts[trial] = counts.get(trial, 0) + 1
            else:
                self.notes.append(record)

    def running(self, trial: str) -> bool:
        """True while the process that started the trial may still finish it."""
        record = self.begun.get(trial)
        if record is None:
            return False
        owner = owner_of(record)
        if self.alone and owner == this_process():
            return trial in self.held
        return alive(owner, elsewhere=not self.alone)

    def losses(self, trial: str) -> int:
        """Workers and drivers lost in the trial so far."""
        return self.crashes.get(trial, 0) + self.orphaned.get(trial, 0) + (trial in self.begun)

    def blame(self, trial: str) -> str:
        """Why the trial must not be started again, or '' when it may (its last owner is taken to be dead)."""
        if self.crashes.get(trial, 0) >= CRASHES:
            return f"its worker died {self.crashes[trial]} times"
        drivers = self.orphaned.get(trial, 0) + (trial in self.begun)
        return f"{drivers} drivers or hosts died while it ran" if drivers >= ORPHANED else ""

    def queue(self, ids: Sequence[str]) -> list[str]:
        """The trials among `ids` that may be started now: fresh ones as given, then those that lost an owner."""
        ready = [trial for trial in ids if trial not in self.done and not self.running(trial)]
        return sorted(ready, key=self.losses)


def owner_of(record: Record) -> Owner:
    """The process that a `started` record names."""
    return Owner(**{field.name: record[field.name] for field in dataclasses.fields(Owner)})
