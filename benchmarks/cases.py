"""The cases of calls, and the titles of all cases. Their letters are those of the targets."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import product

from benchmarks.contenders import FLOOR, OURS, PREFETCH, SIGNED, Contender
from benchmarks.measuring import Entry

TITLES = {
    "a": "one call at a time",
    "b": f"{PREFETCH} calls in flight from one client",
    "c": "16 threads calling",
    "d": f"asyncio, {PREFETCH} tasks calling",
    "e": "echo of larger bodies, one at a time",
    "f": "open loop: latency at a fixed rate",
    "g": "server processes with a handler that sleeps 20 ms",
    "h": "map(chunksize=…) over a tiny function",
    "i": "idle",
    "j": "enqueue, one task at a time, confirmed",
    "k": "enqueue_many",
    "l": "one worker process drains tasks that do nothing",
    "m": "tasks beside many that are delayed",
    "n": "publish, one event at a time, confirmed",
    "o": "publish many events, confirmed",
    "p": "fan-out: each event to ten subscribers",
    "q": "put into a queue, one item at a time, confirmed",
    "r": "take from a queue that is full of items, each acknowledged",
    "s": "put an item and take it, one at a time",
}
#: Cases of calls; what they ask for is here.
OF_CALLS = "abcdefghi"
#: Cases with tasks; what they ask for is in `task_cases`.
WITH_TASKS = "jklm"
#: Cases with events; what they ask for is in `event_cases`.
WITH_EVENTS = "nop"
#: Cases with queues between processes; what they ask for is in `queue_cases`.
WITH_QUEUES = "qrs"
#: Cases of calls that are measured in the same rounds, because they are compared with each other.
GROUPS = ["abcd", "e", "f", "g", "h"]

#: The size of the echoed body in bytes, except in the case of larger bodies.
SIZE = 100
THREADS = 16
SIZES = {"100 B": 100, "10 KB": 10_000, "1 MB": 1_000_000, "8 MB": 8_000_000}
#: A rate that every contender can answer, and parts of our capacity.
LOW_RATE = 300
LOADS = {"25 %": 0.25, "50 %": 0.5, "75 %": 0.75}
PROCESSES = [1, 2, 4, 8, 16]
CHUNKS = [10, 100, 1000]
#: The one of the chunk sizes that the target is about.
TARGET_CHUNK = 100

_NAMES = {"a": "one", "b": "many", "c": "threads", "d": "tasks"}


def naps(processes: int) -> str:
    """Return the name of the service with so many processes."""
    return f"naps-{processes}"


def entries(case: str, contenders: Iterable[Contender], *, seconds: float, capacity: float) -> list[Entry]:
    """Return the entries of a case: one for each figure that is measured.

    Args:
        case: Its letter.
        contenders: The available contenders.
        seconds: How long each is measured in each round.
        capacity: The calls per second that ours answers; for the open loop.
    """
    names = [contender.name for contender in contenders if contender.name != SIGNED or case == "b"]
    basic = {"seconds": seconds, "size": SIZE, "in_flight": PREFETCH, "threads": THREADS}
    match case:
        case "a" | "b" | "c" | "d":
            return [Entry(case, name, {**basic, "case": _NAMES[case]}) for name in names]
        case "e":
            sizes = product(SIZES.items(), names)
            return [Entry("e", name, {**basic, "case": "one", "size": size}, label) for (label, size), name in sizes]
        case "f":
            rates = {f"{LOW_RATE}/s": float(LOW_RATE)} | {load: part * capacity for load, part in LOADS.items()}
            # low rates first: a contender that can't keep up is not tried at higher ones
            return [
                Entry("f", name, {**basic, "case": "open", "rate": rate}, label)
                for (label, rate), name in product(rates.items(), names)
            ]
        case "g" if OURS in names:
            return [
                Entry(
                    "g",
                    OURS,
                    # enough in flight that no process waits for the client
                    {**basic, "case": "naps", "service": naps(count), "in_flight": 4 * count},
                    f"{count} process{'es' if count > 1 else ''}",
                )
                for count in PROCESSES
            ]
        case "h" if OURS in names:
            chunks = [
                Entry(
                    "h",
                    OURS,
                    {**basic, "case": "chunks", "chunksize": size, "in_flight": max(1000, 4 * size)},
                    f"chunksize={size}",
                )
                for size in CHUNKS
            ]
            floor = [Entry("h", FLOOR, {**basic, "case": "many"})] if FLOOR in names else []
            return chunks + floor
    return []
