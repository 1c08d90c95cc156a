"""The records of a run: tasks, their executions, dead letters and faults.

An event is one task here for each subscription that it matches, accepted when the event was.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

from chaos.history import Injected
from chaos.record import FAULTS, records
from chaos.tasks.kinds import KINDS, Kind
from chaos.tasks.ledger import rows
from chaos.tasks.outcomes import ACCEPTED

SUCCESS = "success"


@dataclass(frozen=True)
class Run:
    """One execution; it has no end if its worker died."""

    pid: int
    attempt: int
    began: float
    ended: float | None
    outcome: str | None


@dataclass(frozen=True)
class DeadLetter:
    """One dead letter."""

    queue: str
    reason: str
    attempt: int
    crashes: int


@dataclass
class Task:
    """A task as its producer recorded it, with its executions and dead letters."""

    key: int
    kind: Kind
    delay: float
    fails: int
    after: float
    timeout: float
    began: float
    ended: float | None
    outcome: str
    id: str | None
    said: str
    runs: list[Run] = field(default_factory=list)
    dead: list[DeadLetter] = field(default_factory=list)

    @property
    def accepted(self) -> bool:
        """`enqueue` or `publish` returned."""
        return self.outcome == ACCEPTED

    @property
    def due(self) -> float:
        """The earliest time at which it may start."""
        return self.began + self.delay

    @property
    def succeeded(self) -> float | None:
        """The time of its first recorded success; None without one."""
        return min((run.ended for run in self.runs if run.outcome == SUCCESS and run.ended is not None), default=None)


@dataclass
class TaskHistory:
    """The complete records."""

    tasks: dict[int, Task]
    faults: list[Injected]
    #: The time of death of each worker that a task killed, by process id.
    deaths: dict[int, float]

    @classmethod
    def read(cls, folder: Path) -> TaskHistory:
        """Read the records of a run's folder."""
        tasks: dict[int, Task] = {}
        for row in rows(folder, "tasks"):
            kind, outcome = KINDS[row.pop("kind")], row.pop("outcome")
            tasks[row["key"]] = Task(**row, kind=kind, outcome=outcome or "never returned")
        runs: defaultdict[int, list[Run]] = defaultdict(list)
        deaths: dict[int, float] = {}
        for row in rows(folder, "runs"):
            key = row.pop("key")
            del row["number"]
            runs[key].append(Run(**row))
            if key in tasks and tasks[key].kind.function == "die" and row["ended"] is None:
                deaths[row["pid"]] = row["began"]
        for row in rows(folder, "dead"):
            key = row.pop("key")
            del row["id"]
            if key in tasks:
                tasks[key].dead.append(DeadLetter(**row))
        for key, task in tasks.items():
            task.runs = sorted(runs[key], key=lambda run: run.began)
        faults = [Injected(each.pop("fault"), **each) for each in records(folder / FAULTS)]
        return cls(tasks, faults, deaths)

    def part(self, name: str) -> TaskHistory:
        """Return the history of one of `PARTS`."""
        tasks = {key: task for key, task in self.tasks.items() if task.kind.part == name}
        return TaskHistory(tasks, self.faults, self.deaths)

    def missing(self) -> list[Task]:
        """Return the accepted tasks that have not finished, which should be dead letters."""
        return [task for task in self.tasks.values() if task.accepted and task.succeeded is None]

    def on(self, begin: float, end: float) -> list[str]:
        """Return the names and times of the faults between two times, the latest one last."""
        return [
            f"{fault.name} at {fault.injected:.2f}"
            for fault in self.faults
            if fault.injected <= end and begin <= fault.over
        ]
