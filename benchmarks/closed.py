"""Closed loops: each answer starts the next call. For the clients of all contenders in Python.

It runs in every contender's own environment, so it imports the standard library only.
"""

from __future__ import annotations

import asyncio
import itertools
import threading
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from typing import TypeVar

from benchmarks.protocol import PATIENCE, Payloads, Reply, Request, check

H = TypeVar("H")

Call = Callable[[str], object]
AsyncCall = Callable[[str], Awaitable[object]]

#: The same threads each time: Celery loses answers of a thread that replaces an ended one.
_pool = ThreadPoolExecutor(64)


class Clock:
    """Tells when to stop calling, and measures the time until the last answer."""

    def __init__(self, seconds: float) -> None:
        self._began = time.perf_counter()
        self._end = self._began + seconds

    def runs(self) -> bool:
        """Return whether there is time for another call."""
        return time.perf_counter() < self._end

    def reply(self, calls: int) -> Reply:
        """Return the report to the bench, at the last answer."""
        return {"calls": calls, "seconds": time.perf_counter() - self._began}


def one(call: Call, request: Request) -> Reply:
    """Make one call at a time."""
    payload, calls = Payloads(request["size"]), 0
    call(payload(0))  # warm: memory for bodies of this size
    clock = Clock(request["seconds"])
    while calls == 0 or clock.runs():
        sent = payload(calls)
        check(sent, call(sent))
        calls += 1
    return clock.reply(calls)


def window(start: Callable[[str], H], finish: Callable[[H], object], request: Request) -> Reply:
    """Keep a number of calls in flight, and wait for the oldest of them."""
    payload, calls = Payloads(request["size"]), 0
    waiting: deque[tuple[str, H]] = deque()
    clock = Clock(request["seconds"])
    while clock.runs() or waiting:
        while clock.runs() and len(waiting) < request["in_flight"]:
            sent = payload(calls)
            waiting.append((sent, start(sent)))
            calls += 1
        if waiting:
            sent, handle = waiting.popleft()
            check(sent, finish(handle))
    return clock.reply(calls)


def threads(calls: Sequence[Call], request: Request) -> Reply:
    """Make one call at a time on each of several threads."""
    payload, numbers = Payloads(request["size"]), itertools.count()
    together = threading.Barrier(len(calls) + 1)

    def work(call: Call) -> int:
        together.wait(PATIENCE)
        count = 0
        while clock.runs():
            sent = payload(next(numbers))
            check(sent, call(sent))
            count += 1
        return count

    running = [_pool.submit(work, call) for call in calls]
    clock = Clock(request["seconds"])
    together.wait(PATIENCE)
    done, not_done = wait(running, timeout=request["seconds"] + PATIENCE)
    if not_done:
        raise TimeoutError(f"{len(not_done)} of {len(calls)} threads did not get their answers")
    return clock.reply(sum(future.result() for future in done))


async def one_async(call: AsyncCall, request: Request) -> Reply:
    """Make one call at a time, awaited."""
    payload, calls = Payloads(request["size"]), 0
    await call(payload(0))
    clock = Clock(request["seconds"])
    while calls == 0 or clock.runs():
        sent = payload(calls)
        check(sent, await call(sent))
        calls += 1
    return clock.reply(calls)


async def tasks(call: AsyncCall, request: Request) -> Reply:
    """Make one call at a time in each of several asyncio tasks."""
    payload, numbers = Payloads(request["size"]), itertools.count()

    async def work() -> int:
        count = 0
        while clock.runs():
            sent = payload(next(numbers))
            check(sent, await call(sent))
            count += 1
        return count

    clock = Clock(request["seconds"])
    async with asyncio.timeout(request["seconds"] + PATIENCE):
        counts = await asyncio.gather(*(work() for _ in range(request["in_flight"])))
    return clock.reply(sum(counts))


async def threads_beside_loop(call: AsyncCall, request: Request) -> Reply:
    """Call from threads with a client that lives on this event loop."""
    loop = asyncio.get_running_loop()

    async def coroutine(sent: str) -> object:
        return await call(sent)

    def from_thread(sent: str) -> object:
        return asyncio.run_coroutine_threadsafe(coroutine(sent), loop).result(PATIENCE)

    return await asyncio.to_thread(threads, [from_thread] * request["threads"], request)
