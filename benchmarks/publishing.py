"""Events that are published one at a time, each confirmed. For the clients of contenders whose way is a plain function.

It runs in every contender's own environment: the standard library is all that it imports.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable

from benchmarks.closed import Clock
from benchmarks.protocol import Payloads, Reply, Request

#: How many are published together, where there is a way to do so.
MANY = 1000

AsyncMany = Callable[[list[str], Request], Awaitable[object]]


def one(publish: Callable[[str, Request], object], request: Request) -> Reply:
    """Publish one event at a time; ``publish`` returns once it is confirmed."""
    payload, calls = Payloads(request["size"]), 0
    clock = Clock(request["seconds"])
    while calls == 0 or clock.runs():
        publish(payload(calls), request)
        calls += 1
    return clock.reply(calls)


def many(publish: Callable[[list[str], Request], object], request: Request) -> Reply:
    """Publish many events together; ``publish`` returns once all are confirmed."""
    payload, calls = Payloads(request["size"]), 0
    clock = Clock(request["seconds"])
    while calls == 0 or clock.runs():
        publish([payload(number) for number in range(calls, calls + MANY)], request)
        calls += MANY
    return clock.reply(calls)


def fill(publish: Callable[[list[str], Request], object], request: Request) -> Reply:
    """Publish so many events."""
    payload, began = Payloads(request["size"]), time.perf_counter()
    publish([payload(number) for number in range(request["count"])], request)
    return {"calls": request["count"], "seconds": time.perf_counter() - began}


async def one_async(publish: Callable[[str, Request], Awaitable[object]], request: Request) -> Reply:
    """Publish one event at a time, awaited."""
    payload, calls = Payloads(request["size"]), 0
    clock = Clock(request["seconds"])
    while calls == 0 or clock.runs():
        await publish(payload(calls), request)
        calls += 1
    return clock.reply(calls)


async def many_async(publish: AsyncMany, request: Request) -> Reply:
    """Publish many events together, awaited."""
    payload, calls = Payloads(request["size"]), 0
    clock = Clock(request["seconds"])
    while calls == 0 or clock.runs():
        await publish([payload(number) for number in range(calls, calls + MANY)], request)
        calls += MANY
    return clock.reply(calls)


async def fill_async(publish: AsyncMany, request: Request) -> Reply:
    """Publish so many events, awaited."""
    payload, began = Payloads(request["size"]), time.perf_counter()
    await publish([payload(number) for number in range(request["count"])], request)
    return {"calls": request["count"], "seconds": time.perf_counter() - began}
