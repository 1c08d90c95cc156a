"""The checks of a run's history: figures that must be zero, and figures that are only shown. Pure."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterator

from chaos.history import Call, History, Injected

#: Seconds after its deadline in which a call may end.
LATE = 0.5
#: An idempotent call must succeed if it has so many seconds with a server and without a fault before its deadline, in
#: addition to the seconds that its function takes.
ENOUGH = 3.0
#: Bytes by which a client may have grown: the C library does not return every page.
GROWTH = 24 * 1024 * 1024

Check = Callable[[History], list[Call]]


def late(history: History) -> list[Call]:
    """Return the calls that ended after their deadline."""
    return [call for call in history.calls if call.ended is not None and call.ended > call.deadline + LATE]


def hung(history: History) -> list[Call]:
    """Return the calls that never ended."""
    return [call for call in history.calls if call.ended is None]


def wrong(history: History) -> list[Call]:
    """Return the calls with another call's answer, an unknown answer, or an answer although no function ran."""
    return [
        call
        for call in history.calls
        if call.ended is not None and (not call.right or (call.good and not history.finished[call.number]))
    ]


def twice(history: History) -> list[Call]:
    """Return the calls that are not idempotent and ran more than once."""
    return [call for call in history.calls if not call.idempotent and len(history.runs.get(call.number, ())) > 1]


def denied(history: History) -> list[Call]:
    """Return the calls that ran although their error says that they did not."""
    return [call for call in history.calls if not call.may_have_run and call.number in history.runs]


def given_up(history: History) -> list[Call]:
    """Return the idempotent calls that failed although they had enough time with a server."""
    return [call for call in owed(history) if not call.good]


def given_up_early(history: History) -> list[Call]:
    """Return the idempotent calls that failed with time left: they wait for the server that was just there."""
    return [
        call
        for call in history.calls
        if call.idempotent and not call.good and call.ended is not None and call.ended < call.deadline
    ]


def owed(history: History) -> list[Call]:
    """Return the idempotent calls that had enough time with a server."""
    return [call for call in history.calls if call.idempotent and quiet(history, call) >= ENOUGH + call.seconds]


def struck(history: History) -> list[Call]:
    """Return the calls that were in flight during a fault."""
    spans = [(fault.injected, fault.until) for fault in history.faults]
    return [
        call
        for call in history.calls
        if any(call.began <= end and begin <= (call.ended or call.deadline) for begin, end in spans)
    ]


def dropped(history: History) -> list[Call]:
    """Return the calls that failed in a rolling restart, during which a server was always up."""
    rolling = [fault for fault in history.faults if fault.name == "rolling restart"]
    return [
        call
        for call in history.calls
        if not call.good
        and call.timeout >= ENOUGH + 2 * call.seconds
        and any(fault.injected <= call.began and (call.ended or call.deadline) <= fault.over for fault in rolling)
    ]


def lost_in_peace(history: History) -> list[Call]:
    """Return the calls that were lost, not just slow, without a fault."""
    return [call for call in undisturbed(history) if call.outcome != "CallTimeout"]


#: The figures that must be zero.
CHECKS: dict[str, Check] = {
    f"ended later than deadline + {LATE} s": late,
    "hung": hung,
    "wrong or swapped answers": wrong,
    "not idempotent, executed twice": twice,
    "error says that it did not run, and it ran": denied,
    "idempotent, failed although a server was back": given_up,
    "idempotent, failed before its deadline": given_up_early,
    "failed in a rolling restart": dropped,
    "lost without any fault": lost_in_peace,
}


def quiet(history: History, call: Call) -> float:
    """Return the longest time with a server and without a fault between a call's begin and its deadline."""
    edges = [(fault.injected, fault.until) for fault in history.faults if fault.injected < call.deadline]
    edges = [edge for edge in edges if edge[1] > call.began]
    begins = [call.began, *(until for _, until in edges)]
    ends = [*(injected for injected, _ in edges), call.deadline]
    return max(end - begin for begin, end in zip(begins, ends, strict=True))


def first_good(history: History, fault: Injected) -> float | None:
    """Return the seconds from a fault's end to the first good call of the slowest caller."""
    firsts: dict[tuple[int, bool], float] = {}
    after = fault.undone if fault.outage else fault.injected
    following = min((each.injected for each in history.faults if each.injected > fault.injected), default=float("inf"))
    for call in history.calls:
        if call.good and call.ended is not None and after <= call.ended < following:
            key = (call.client, call.function.endswith("_async"))
            firsts[key] = min(firsts.get(key, float("inf")), call.ended - after)
    return max(firsts.values(), default=None)


def leaks(history: History) -> Iterator[str]:
    """Yield the measures of clients that have grown from the beginning to the end."""
    for client, begin in history.begin.items():
        end = history.end.get(client)
        if end is None:
            yield f"client {client} did not come to its end"
            continue
        for name, value in begin.items():
            if end[name] > value + (GROWTH if name == "memory" else 0):
                yield f"client {client}: {name} {value} at the beginning, {end[name]} at the end"


def outcomes(history: History) -> Counter[str]:
    """Count the calls by outcome; errors with and without ``wait_for_server`` are separate."""
    return Counter(
        call.outcome if call.good else f"{call.outcome}{'' if call.waits else ' (did not wait for a server)'}"
        for call in history.calls
    )


def undisturbed(history: History) -> list[Call]:
    """Return the calls that failed without a fault; the machine may be slow, so their number is only shown."""
    spans = list(itertools.chain((fault.injected - 0.1, fault.over + 0.5) for fault in history.faults))
    return [
        call
        for call in history.calls
        if not call.good
        and call.timeout > 2 * call.seconds + 0.2
        and not any(begin <= (call.ended or call.deadline) and call.began <= end for begin, end in spans)
    ]
