"""The records of a run, read back: calls, what ran, faults, and what the clients held."""

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
    #: When it ended, and with what; None where it never did.
    ended: float | None = None
    outcome: str = "hung"
    right: bool = True
    may_have_run: bool = True
    said: str = ""

    @property
    def deadline(self) -> float:
        """When it had to have ended."""
        return self.began + self.timeout

    @property
    def good(self) -> bool:
        """Whether the function's own answer came, be it a result or what it raises."""
        return self.outcome in {"result", "RemoteError"}


@dataclass(frozen=True)
class Injected:
    """A fault as it was injected."""

    name: str
    injected: float
    #: When it was undone, when a server was seen to consume, and when all were.
    undone: float
    served: float
    over: float
    back: bool
    outage: bool

    @property
    def until(self) -> float:
        """Until when no server may have been there; where others served meanwhile, only its moment counts."""
        return self.served if self.outage else self.injected


@dataclass
class History:
    """All that was recorded."""

    calls: list[Call]
    faults: list[Injected]
    #: The processes that began each call, and how many runs came to their end.
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
        """Return the faults that were on while a call was, for whoever looks for a cause."""
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
