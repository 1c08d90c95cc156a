"""The figures of a run as lines of text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from chaos.history import Call, History
from chaos.verdict import CHECKS, first_good, outcomes, owed, struck, undisturbed

#: The most failed calls that are shown in detail, for each kind of failure.
MOST_DETAILS = 10


def lines(history: History) -> Iterator[str]:
    """Yield the lines of the table."""
    span = max((call.began for call in history.calls), default=0) - min((c.began for c in history.calls), default=0)
    yield f"   {'calls made':56} {len(history.calls):7}   ({len(history.calls) / (span or 1):.0f}/s)"
    for outcome, count in outcomes(history).most_common():
        yield f"     {outcome:54} {count:7}"
    for name, check in CHECKS.items():
        yield f"   {name + ' (must be 0)':56} {len(check(history)):7}"
    repeated = sum(call.idempotent and len(history.runs.get(call.number, ())) > 1 for call in history.calls)
    doubtful = sum(call.may_have_run and not call.good and call.number not in history.runs for call in history.calls)
    met = struck(history)
    through = set(map(id, owed(history)))
    yield f"   {'in flight during a fault':56} {len(met):7}"
    yield f"   {'of these: idempotent, with enough time to succeed':56} {sum(id(call) in through for call in met):7}"
    yield f"   {'of these: not idempotent':56} {sum(not call.idempotent for call in met):7}"
    yield f"   {'idempotent, executed more than once':56} {repeated:7}"
    yield f"   {'error says that it may have run, and it did not':56} {doubtful:7}"
    yield f"   {'failed without any fault':56} {len(undisturbed(history)):7}"
    yield f"   clients' counters: {dict(history.counters)}"
    yield "   seconds from a fault's end to the first good call (of the slowest caller):"
    for name in dict.fromkeys(fault.name for fault in history.faults):
        firsts = [first_good(history, fault) for fault in history.faults if fault.name == name]
        yield f"     {name:54} {', '.join('never' if first is None else f'{first:.2f}' for first in firsts):>7}"
    for client, begin in sorted(history.begin.items()):
        end = history.end.get(client, {})
        said = (f"{name} {_size(name, begin[name])} → {_size(name, end.get(name, -1))}" for name in begin)
        yield f"   client {client} at rest, before → after: {', '.join(said)}"


def details(history: History, failed: Mapping[str, list[Call]]) -> Iterator[str]:
    """Yield the details of calls that broke a promise."""
    for name, calls in failed.items():
        yield f"-- {name}: {len(calls)}"
        for call in calls[:MOST_DETAILS]:
            ended = "never ended" if call.ended is None else f"ended {call.ended - call.began:.2f} s after its begin"
            yield (
                f"   call {call.number} of thread {call.thread} at {call.began:.2f}: {call.function} of "
                f"{call.seconds} s, timeout {call.timeout:g}, {'waits' if call.waits else 'does not wait'}; {ended}: "
                f"{call.outcome} (may_have_run {call.may_have_run}) {call.said!r}"
            )
            yield f"      ran on {history.runs.get(call.number, [])}; {history.on(call)}"


def _size(name: str, value: int) -> str:
    return f"{value / 1024 / 1024:.1f} MiB" if name == "memory" else str(value)
