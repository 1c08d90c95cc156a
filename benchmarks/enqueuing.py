"""Tasks that are enqueued one at a time. For the clients of all contenders that have tasks.

It runs in every contender's own environment: the standard library is all that it imports.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from benchmarks.closed import Clock
from benchmarks.protocol import Payloads, Reply, Request


def one(send: Callable[[str], object], request: Request) -> Reply:
    """Enqueue one task at a time; ``send`` returns once it is confirmed."""
    payload, calls = Payloads(request["size"]), 0
    clock = Clock(request["seconds"])
    while calls == 0 or clock.runs():
        send(payload(calls))
        calls += 1
    return clock.reply(calls)


def fill(send: Callable[[str], object], request: Request) -> Reply:
    """Enqueue so many tasks, confirmed or not: the bench looks whether all are there."""
    payload, began = Payloads(request["size"]), time.perf_counter()
    for number in range(request["count"]):
        send(payload(number))
    return {"calls": request["count"], "seconds": time.perf_counter() - began}
