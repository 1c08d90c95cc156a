"""The targets of the project, and whether a run meets them. A target without its figures is not met."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.cases import PROCESSES, TARGET_CHUNK
from benchmarks.contenders import ALL, FLOOR, OURS
from benchmarks.contenders.events import AIO_PIKA, EVENTS, FASTSTREAM
from benchmarks.contenders.queues import KOMBU, TYPES
from benchmarks.contenders.tasks import PEERS, worker
from benchmarks.idle import Idle
from benchmarks.measuring import Entry, ratios
from benchmarks.task_cases import DELAYED, DRAIN, RESULT, beside

#: "Linear" means that eight times the bytes take at most this many times as long.
LINEAR = 8 * 1.25
#: The largest factor by which delayed tasks may slow others.
_SLOWED = 1.2
_IDLE_CPU, _IDLE_MEMORY, _IMPORT, _READY = 0.5, 45.0, 0.12, 0.6


@dataclass(frozen=True)
class Target:
    """A line: a target, and the measured value.

    Attributes:
        case: The letter of the case.
        text: The target.
        value: The measured value; None if it was not measured.
        spread: The minimum and maximum of the rounds, if there are rounds.
        met: Whether it is met; None if it was not measured.
        note: A remark.
    """

    case: str
    text: str
    value: float | None
    spread: tuple[float, float] | None
    met: bool | None
    note: str = ""

    @property
    def verdict(self) -> str:
        """``met`` as text."""
        return {True: "met", False: "NOT MET", None: "not measured"}[self.met]


class Results:
    """The figures of a run, by case, contender and variant."""

    def __init__(self, entries: Sequence[Entry], idle: Idle | None) -> None:
        self.entries = entries
        self.idle = idle

    def of(self, case: str, contender: str, variant: str = "") -> Entry | None:
        """Return the entry of a contender; None if it was not measured."""
        for entry in self.entries:
            if (entry.case, entry.contender, entry.variant) == (case, contender, variant):
                return entry
        return None

    def family(self, case: str, family: str, variant: str = "") -> Entry | None:
        """Return the best variant of a peer: the one that has the highest median."""
        found = [self.of(case, contender.name, variant) for contender in ALL if contender.family == family]
        measured = [(entry.median, entry) for entry in found if entry is not None and entry.median is not None]
        return max(measured, key=lambda pair: pair[0])[1] if measured else None

    def best_task_peer(self, case: str, name: str | None = None) -> Entry | None:
        """Return the fastest of the peers, or of one peer's variants, that promise what ours does."""
        found = [
            (entry.median, entry)
            for entry in self.entries
            if entry.case == case
            and entry.contender in ([name] if name else PEERS)
            and entry.median is not None
            and ("worker" not in entry.request or worker(entry.contender, entry.request["worker"]).late)
        ]
        return max(found, key=lambda pair: pair[0])[1] if found else None

    def best_event_peer(self, case: str, variant: str, family: str | None = None) -> Entry | None:
        """Return the fastest of the peers, or of one family of them, with a queue of a type."""
        peers = [each.name for each in EVENTS if each.is_peer and family in (None, each.family)]
        found = [self.of(case, name, variant) for name in peers]
        measured = [(entry.median, entry) for entry in found if entry is not None and entry.median is not None]
        return max(measured, key=lambda pair: pair[0])[1] if measured else None


def judge(results: Results) -> list[Target]:
    """Return all targets, in the cases' order."""
    targets = [
        _against(results, "a", "raw-pika", 1.0),
        _against(results, "a", "aio-pika", 1.8),
        *(_against(results, "a", peer, 2.5) for peer in ("celery", "nameko", "faststream")),
        _against(results, "b", "aio-pika", 8),
        *(_against(results, "b", peer, 15) for peer in ("celery", "nameko", "faststream")),
        _least("b", f"≥ 0.40 × {FLOOR}", ratios(results.of("b", OURS), results.of("b", FLOOR)), 0.4),
        _least("c", "≥ 0.6 × (b)", ratios(results.of("c", OURS), results.of("b", OURS)), 0.6),
        *(_against(results, "e", "aio-pika", 2, size) for size in ("1 MB", "8 MB")),
        _linear(results),
        _tail(results),
        *(_tail_against(results, family) for family in dict.fromkeys(c.family for c in ALL if c.is_peer)),
        _processes(results),
        _least(
            "h",
            f"chunksize={TARGET_CHUNK}: ≥ 2.5 × {FLOOR}",
            ratios(results.of("h", OURS, f"chunksize={TARGET_CHUNK}"), results.of("h", FLOOR)),
            2.5,
        ),
    ]
    return targets + _idle(results.idle) + _tasks(results) + _events(results) + _queues(results)


def _least(case: str, text: str, measured: Sequence[float], least: float, note: str = "") -> Target:
    if not measured:
        return Target(case, text, None, None, None, note)
    value = statistics.median(measured)
    return Target(case, text, value, (min(measured), max(measured)), value >= least, note)


def _most(case: str, text: str, measured: Sequence[float], most: float, note: str = "") -> Target:
    if not measured:
        return Target(case, text, None, None, None, note)
    value = statistics.median(measured)
    return Target(case, text, value, (min(measured), max(measured)), value <= most, note)


def _against(results: Results, case: str, family: str, least: float, variant: str = "") -> Target:
    """Compare with a peer; with the better one of its variants, so that none can be said to have been left out."""
    peer = results.family(case, family, variant)
    text = f"{variant + ': ' if variant else ''}≥ {least:g} × {family}"
    note = peer.contender if peer is not None and peer.contender != family else ""
    return _least(case, text, ratios(results.of(case, OURS, variant), peer), least, note)


def _linear(results: Results) -> Target:
    longer = ratios(results.of("e", OURS, "1 MB"), results.of("e", OURS, "8 MB"))
    return _most("e", f"8 MB take ≤ {LINEAR:g} × the time of 1 MB (linear)", longer, LINEAR)


def _tail(results: Results) -> Target:
    ours = results.of("f", OURS, "50 %")
    text = "50 % load: p99 ≤ 3 × p50"
    if ours is not None and ours.rates and not ours.keeps_up:
        return Target("f", text, None, None, False, ours.standing.removeprefix("no, "))
    latencies = [] if ours is None else [latency for latency in ours.latencies if latency is not None]
    return _most("f", text, [latency.p99 / latency.p50 for latency in latencies], 3)


def _tail_against(results: Results, family: str) -> Target:
    """Compare the p99 at our 50 % load; a peer that can't answer at that rate has none."""
    text = f"50 % load: p99 below that of {family}"
    ours = results.of("f", OURS, "50 %")
    peers = [results.of("f", contender.name, "50 %") for contender in ALL if contender.family == family]
    there = [peer for peer in peers if peer is not None and not peer.failures and not peer.unsupported]
    if ours is None or not ours.rates or not there:
        return Target("f", text, None, None, None)
    if not ours.keeps_up:
        return Target("f", text, None, None, False, ours.standing.removeprefix("no, "))
    able = [peer for peer in there if peer.keeps_up]
    if not able:
        return Target("f", text, None, None, True, "it can't keep up with that rate")
    compared = [
        mine.p99 / theirs.p99
        for peer in able
        for mine, theirs in zip(ours.latencies, peer.latencies, strict=False)
        if mine is not None and theirs is not None
    ]
    return _most("f", text, compared, 1.0, "ours / theirs")


def _processes(results: Results) -> Target:
    one, most = (f"{count} process{'es' if count > 1 else ''}" for count in (PROCESSES[0], PROCESSES[-1]))
    text = f"{most} ≥ 14 × one"
    return _least("g", text, ratios(results.of("g", OURS, most), results.of("g", OURS, one)), 14)


def _tasks(results: Results) -> list[Target]:
    compared = [
        ("j", "j", "≥ 2 × {}", 2, ""),
        ("k", "j", "≥ 10 × {} one at a time", 10, "it has no other way with confirms"),
        ("l", "l", "≥ 3 × {}", 3, ""),
    ]
    targets = []
    for case, theirs, text, least, note in compared:
        for name in PEERS:
            peer = results.best_task_peer(theirs, name)
            how = peer.variant if peer is not None and peer.variant else note
            targets.append(_least(case, text.format(name), ratios(results.of(case, OURS), peer), least, how))
    return targets + _delayed(results)


def _events(results: Results) -> list[Target]:
    compared = [
        ("o", "n", f"≥ 10 × {AIO_PIKA} awaiting each confirm", 10.0, AIO_PIKA),
        ("o", "n", f"≥ 10 × {KOMBU} awaiting each confirm, its only way", 10.0, KOMBU),
        ("o", "o", f"≥ {AIO_PIKA} pipelined", 1.0, AIO_PIKA),
        ("p", "p", f"≥ 3 × {FASTSTREAM}", 3.0, FASTSTREAM),
    ]
    targets = []
    for case, theirs, text, least, family in compared:
        for kind in TYPES:
            peer = results.best_event_peer(theirs, kind, family)
            note = peer.contender if peer is not None and peer.contender != family else ""
            targets.append(_least(case, f"{kind}: {text}", ratios(results.of(case, OURS, kind), peer), least, note))
    return targets


def _queues(results: Results) -> list[Target]:
    return [
        _least(case, f"{kind}: ≥ 3 × {KOMBU}", ratios(results.of(case, OURS, kind), results.of(case, KOMBU, kind)), 3)
        for case in "qrs"
        for kind in TYPES
    ]


def _delayed(results: Results) -> list[Target]:
    """Judge whether delayed tasks slow others: by the most of them that were there."""
    counts = sorted(entry.request["delayed"] for entry in results.entries if entry.case == "m")
    most = counts[-1] if counts else DELAYED
    alone, crowded = ([results.of("m", OURS, beside(name, count)) for name in (RESULT, DRAIN)] for count in (0, most))
    targets = []
    for name in ("p50", "p99"):
        pairs = zip(*(entry.latencies if entry else [] for entry in (crowded[0], alone[0])), strict=False)
        slower = [getattr(a, name) / getattr(b, name) for a, b in pairs if a is not None and b is not None]
        targets.append(
            _most("m", f"beside {most} delayed tasks, {RESULT}: {name} ≤ {_SLOWED} × without", slower, _SLOWED)
        )
    text = f"beside {most} delayed tasks, {DRAIN}: time ≤ {_SLOWED} × without"
    return [*targets, _most("m", text, ratios(alone[1], crowded[1]), _SLOWED)]


def _idle(idle: Idle | None) -> list[Target]:
    server: Any = idle.servers.get(OURS) if idle else None
    client: Any = idle.clients.get(OURS) if idle else None
    return [
        _most("i", f"idle server: < {_IDLE_CPU} % of a core", [server.cpu] if server else [], _IDLE_CPU),
        _most("i", f"idle client: < {_IDLE_CPU} % of a core", [client.cpu] if client else [], _IDLE_CPU),
        _most("i", f"idle server: ≤ {_IDLE_MEMORY:g} MB of RSS", [server.memory] if server else [], _IDLE_MEMORY),
        _most("i", f"import amqp_rpc: ≤ {_IMPORT * 1000:g} ms", idle.imports if idle else [], _IMPORT),
        _most("i", f"ready ≤ {_READY:g} s after its start", idle.ready if idle else [], _READY),
    ]
