"""The records of a run: calls, executions, faults, and the measures of the clients."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from chaos.record import CALLS, EXECUTIONS, FAULTS, records


@dataclass
class Call:
    """A call as its client saw it."""

    number: int
    client: int
    thread: int
    function: str
    idempotent: bool
    waits: bool
    timeout: float
    seconds: float
    began: float
    #: The time of its end, and its outcome; None if it never ended.
    ended: float | None = None
    outcome: str = "hung"
    right: bool = True
    may_have_run: bool = True
    said: str = ""

    @property
    def deadline(self) -> float:
        """The time by which it had to end."""
        return self.began + self.timeout

    @property
    def good(self) -> bool:
        """The function itself answered, with its result or its error."""
        return self.outcome in {"result", "RemoteError"}


@dataclass(frozen=True)
class Injected:
    """A fault as it was injected."""

    name: str
    injected: float
    #: The times when it was undone, when the first server consumed again, and when all did.
    undone: float
    served: float
    over: float
    back: bool
    outage: bool

    @property
    def until(self) -> float:
        """The end of the time without a server; for a fault that leaves other servers, its own time."""
        return self.served if self.outage else self.injected


@dataclass
class History:
    """The complete records."""

    calls: list[Call]
    faults: list[Injected]
    #: For each call: the processes that started it, and the number of finished executions.
    runs: dict[int, list[int]]
    finished: Counter[int]
    begin: dict[int, dict[str, int]] = field(default_factory=dict)
    end: dict[int, dict[str, int]] = field(default_factory=dict)
    counters: Counter[str] = field(default_factory=Counter)

    @classmethod
    def read(cls, folder: Path) -> History:
        """Read the records of a run's folder."""
        calls: dict[int, Call] = {}
        found = cls([], [], defaultdict(list), Counter())
        for each in records(folder / CALLS):
            if "at" in each:
                measures = found.begin if each["at"] == "begin" else found.end
                measures[each["client"]] = {k: each[k] for k in ("threads", "sockets", "files", "pending", "memory")}
            elif "counters" in each:
                found.counters.update(each["counters"])
            elif "function" in each:
                number = each.pop("call")
                calls[number] = Call(number=number, **each)
            else:
                _end(calls[each["call"]], each)
        found.calls = sorted(calls.values(), key=lambda call: call.began)
        found.faults = [Injected(each.pop("fault"), **each) for each in records(folder / FAULTS)]
        for each in records(folder / EXECUTIONS):
            if "began" in each:
                found.runs[each["call"]].append(each["pid"])
            else:
                found.finished[each["call"]] += 1
        return found

    def on(self, call: Call) -> str:
        """Return the faults that were active during a call, as hints at a cause."""
        ended = call.ended if call.ended is not None else call.deadline
        said = [
            f"{fault.name} ({call.began - fault.injected:+.2f} s from its begin, {call.began - fault.undone:+.2f} s "
            "from its end)"
            for fault in self.faults
            if fault.injected - 1 <= ended and call.began <= fault.over + 1
        ]
        return "; ".join(said) or "no fault"


def _end(call: Call, fields: dict[str, Any]) -> None:
    call.ended = fields["ended"]
    call.outcome, call.right = fields["outcome"], fields["right"]
    call.may_have_run, call.said = fields["may_have_run"], fields["said"]
