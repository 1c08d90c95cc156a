"""The tables that the bench prints, in Markdown."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Iterator, Sequence

from benchmarks.cases import TITLES, WITH_EVENTS, WITH_QUEUES, WITH_TASKS
from benchmarks.contenders import ALL, FLOOR, OURS, SIGNED
from benchmarks.contenders.queues import KOMBU
from benchmarks.idle import Idle
from benchmarks.measuring import Entry, ratios
from benchmarks.targets import Results, Target

_PEERS = [contender.name for contender in ALL if contender.is_peer]


def show(results: Results) -> None:
    """Print what was measured, case by case."""
    for case, title in TITLES.items():
        entries = [entry for entry in results.entries if entry.case == case]
        if entries:
            print(f"({case}) {title}\n")
        if case == "f":
            _latencies(entries)
        elif case == "e":
            for variant in dict.fromkeys(entry.variant for entry in entries):
                _rates(results, [entry for entry in entries if entry.variant == variant])
        elif case in "gh" and entries:
            _own(entries)
        elif entries:
            others = {WITH_TASKS: _tasks, WITH_EVENTS: _events, WITH_QUEUES: _queues}
            next((table for letters, table in others.items() if case in letters), _rates)(results, entries)
    if results.idle is not None:
        _idle(results.idle)


def show_targets(targets: Sequence[Target]) -> None:
    """Print each target, and whether it was met."""
    rows = []
    for target in targets:
        value = "–" if target.value is None else f"{target.value:.3g}"
        spread = "–" if target.spread is None else f"{target.spread[0]:.3g}–{target.spread[1]:.3g}"
        note = f" ({target.note})" if target.note else ""
        rows.append([f"({target.case}) {target.text}", value, spread, target.verdict + note])
    print("Targets, as medians of the ratios of each round; against a peer's variants, the faster one\n")
    _print(["target", "measured", "min–max", ""], rows)


def best_peer(results: Results, case: str, variant: str = "") -> Entry | None:
    """Return the peer with the highest median in a case."""
    found = [results.of(case, name, variant) for name in _PEERS]
    measured = [(entry.median, entry) for entry in found if entry is not None and entry.median is not None]
    return max(measured, key=lambda pair: pair[0])[1] if measured else None


def _rates(results: Results, entries: Sequence[Entry]) -> None:
    first = entries[0]
    # In C there are no tasks: the floor with as many calls in flight stands for it.
    floor = results.of("b" if first.case == "d" else first.case, FLOOR, first.variant)
    best = best_peer(results, first.case, first.variant)
    size = first.request["size"] if first.case == "e" else 0
    unit = "MB/s" if size else "calls/s"
    scale = size / 1e6 if size else 1.0
    head = [first.variant or "", unit, "min–max", f"× {FLOOR}", f"× {best.contender}" if best else "× best peer"]
    rows = [
        [
            entry.contender,
            *_figures(entry, scale),
            _ratio(ratios(entry, floor)),
            _ratio(ratios(entry, best)),
        ]
        for entry in entries
        if not entry.unsupported
    ]
    _print(head, rows)
    signed, ours = results.of(first.case, SIGNED), results.of(first.case, OURS)
    if signed is not None and ours is not None:
        print(f"Signed messages: {_ratio(ratios(signed, ours))} × {OURS}\n")


def _own(entries: Sequence[Entry]) -> None:
    """Print a case of ours alone: ratios to its first line, or to the floor where that is in it."""
    floor = next((entry for entry in entries if entry.contender == FLOOR), None)
    base = floor or entries[0]
    rows = [[entry.label, *_figures(entry, 1.0), _ratio(ratios(entry, base))] for entry in entries]
    _print(["", "calls/s", "min–max", f"× {base.contender if floor else base.variant}"], rows)


def _tasks(results: Results, entries: Sequence[Entry]) -> None:
    """Print a case with tasks; latencies only where there are some."""
    timed = any(entry.percentile("p50") is not None for entry in entries)
    peer = results.best_task_peer("j" if entries[0].case == "k" else entries[0].case)
    head = ["", "tasks/s", "min–max"]
    rows = [[entry.label, *_figures(entry, 1.0)] for entry in entries]
    if peer is not None:
        head.append(f"× {peer.label}")
        for entry, row in zip(entries, rows, strict=True):
            row.append(_ratio(ratios(entry, peer)))
    if timed:
        head += ["p50 ms", "p99 ms"]
        for entry, row in zip(entries, rows, strict=True):
            values = [entry.percentile(name) for name in ("p50", "p99")]
            row += ["–" if value is None else f"{value:.2f}" for value in values]
    _print(head, rows)


def _events(results: Results, entries: Sequence[Entry]) -> None:
    """Print a case with events: each beside the fastest peer with a queue of the same type."""
    rows = []
    for entry in entries:
        peer = results.best_event_peer(entry.case, entry.variant)
        rows.append([entry.label, *_figures(entry, 1.0), _ratio(ratios(entry, peer)), peer.contender if peer else "–"])
    what = "delivered/s" if entries[0].case == "p" else "events/s"
    _print(["", what, "min–max", "× best peer, same type", "which"], rows)


def _queues(results: Results, entries: Sequence[Entry]) -> None:
    """Print a case with queues: each beside kombu's with a queue of the same type."""
    rows = []
    for entry in entries:
        peer = results.of(entry.case, KOMBU, entry.request["queue_type"])
        rows.append([entry.label, *_figures(entry, 1.0), _ratio(ratios(entry, peer))])
    _print(["", "items/s", "min–max", f"× {KOMBU}, same type"], rows)


def _latencies(entries: Sequence[Entry]) -> None:
    for variant in dict.fromkeys(entry.variant for entry in entries):
        rows = []
        same = [entry for entry in entries if entry.variant == variant]
        for entry in same:
            if entry.unsupported:
                continue
            percentiles = [entry.percentile(name) for name in ("p50", "p99", "p999")]
            figures = [f"{value:.2f}" if value is not None and entry.keeps_up else "–" for value in percentiles]
            rows.append([entry.contender, *figures, entry.standing])
        _print([f"{variant}: {same[0].request['rate']:.0f} calls/s", "p50 ms", "p99 ms", "p99.9 ms", "keeps up"], rows)


def _idle(idle: Idle) -> None:
    print(f"(i) {TITLES['i']}\n")
    rows = []
    for name, server in idle.servers.items():
        client, later = idle.clients.get(name), idle.later.get(name)
        rows.append(
            [
                name,
                f"{server.cpu:.2f}",
                f"{server.memory:.0f}",
                "–" if later is None else f"{later:.0f}",
                *(("–", "–") if client is None else (f"{client.cpu:.2f}", f"{client.memory:.0f}")),
            ]
        )
    _print(["", "server CPU %", "server MB", "after all cases", "client CPU %", "client MB"], rows)
    print(f"import {OURS}: {_seconds(idle.imports)}; amqp-rpc serve is ready after {_seconds(idle.ready)}\n")


def _seconds(values: Sequence[float]) -> str:
    if not values:
        return "not measured"
    return f"{statistics.median(values):.3f} s ({min(values):.3f}–{max(values):.3f})"


def _figures(entry: Entry, scale: float) -> Iterator[str]:
    measured = [rate * scale for rate in entry.measured]
    if not measured:
        yield from (f"failed: {entry.failures[-1]}" if entry.failures else "–", "–")
        return
    digits = 0 if max(measured) >= 100 else 3 if max(measured) < 1 else 1
    yield f"{statistics.median(measured):.{digits}f}"
    yield f"{min(measured):.{digits}f}–{max(measured):.{digits}f}"


def _ratio(values: Sequence[float]) -> str:
    return f"{statistics.median(values):.2f}" if values else "–"


def _print(head: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    print(f"| {' | '.join(head)} |")
    print(f"| --- |{' ---: |' * (len(head) - 1)}")
    for row in rows:
        print(f"| {' | '.join(row)} |")
    print()
