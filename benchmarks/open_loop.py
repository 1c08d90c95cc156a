"""Open loops: calls go out at a fixed rate, whether or not answers came. For the clients that are in Python.

A call's latency counts from when it was due, not from when it was sent: a client that is late makes its own calls wait,
and a user would wait with them. Who falls far behind has shown that it can't keep up, and stops.

It runs in every contender's own environment: the standard library is all that it imports.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import TypeVar

from benchmarks.closed import AsyncCall
from benchmarks.protocol import PATIENCE, Payloads, Reply, Request, WrongAnswerError, check

H = TypeVar("H")

#: Seconds that a client may be late in sending; and what is sent in half of them may be without an answer.
MAX_BEHIND = 1.0


class Schedule:
    """When each call is due, and when each was answered; one thread sends, any thread may answer."""

    def __init__(self, request: Request) -> None:
        self._rate: float = request["rate"]
        self._total = max(1, int(self._rate * request["seconds"]))
        self._payload = Payloads(request["size"])
        self._latencies: list[float] = []
        self._sent = 0
        self._failure: Exception | None = None
        self._all_answered = threading.Event()
        self._last_answer = 0.0
        self._overrun = False
        self._began = time.perf_counter() + 0.01

    @property
    def ended(self) -> bool:
        """Nothing is left to send."""
        return self._overrun or self._failure is not None or self._sent == self._total

    @property
    def done(self) -> bool:
        """Nothing is left to send or to wait for."""
        return self._failure is not None or (self.ended and len(self._latencies) == self._sent)

    @property
    def wait(self) -> float:
        """Seconds until the next call is due."""
        return max(0.0, self._due(self._sent) - time.perf_counter())

    def due(self) -> Iterator[tuple[int, str]]:
        """Yield the calls that are due now: a number and a body each."""
        while not self.ended and (late := time.perf_counter() - self._due(self._sent)) >= 0:
            self._overrun = late > MAX_BEHIND or self._sent - len(self._latencies) > self._rate * MAX_BEHIND / 2
            number = self._sent
            self._sent += 1
            yield number, self._payload(number)

    def answered(self, number: int, answer: object) -> None:
        """Note an answer, or an error, and check it."""
        self._last_answer = time.perf_counter()
        try:
            check(self._payload(number), answer)
        except WrongAnswerError as error:
            self.failed(answer if isinstance(answer, Exception) else error)
        self._latencies.append((self._last_answer - self._due(number)) * 1000)
        if self.done:
            self._all_answered.set()

    def failed(self, error: Exception) -> None:
        """End it with an error."""
        self._failure = error
        self._all_answered.set()

    def await_answers(self) -> None:
        """Wait for the answers to all that was sent."""
        if not self.done:
            self._all_answered.wait(PATIENCE)

    def reply(self) -> Reply:
        """Return the report to the bench, or raise the failure."""
        if self._failure is not None:
            raise self._failure
        if not self.done:
            raise TimeoutError(f"{self._sent - len(self._latencies)} of {self._sent} calls were not answered")
        return {
            "calls": self._sent,
            "seconds": max(self._last_answer - self._began, self._sent / self._rate),
            "overrun": self._overrun,
            "latencies": [round(latency, 3) for latency in self._latencies],
        }

    def _due(self, number: int) -> float:
        return self._began + number / self._rate


def with_callbacks(send: Callable[[str, Callable[[object], None]], None], request: Request) -> Reply:
    """Send from this thread; the library calls back from a thread of its own with what the answer was."""
    schedule = Schedule(request)
    while not schedule.ended:
        time.sleep(schedule.wait)
        for number, body in schedule.due():
            send(body, lambda answer, number=number: schedule.answered(number, answer))  # type: ignore[misc]
    schedule.await_answers()
    return schedule.reply()


def oldest_first(start: Callable[[str], H], finish: Callable[[H], object], request: Request) -> Reply:
    """Send what is due, else wait for the oldest answer: for libraries that can only wait for a certain answer.

    A call that is due in such a wait goes out after it, one round trip later at most.
    """
    schedule = Schedule(request)
    waiting: deque[tuple[int, H]] = deque()
    while not schedule.done:
        for number, body in schedule.due():
            waiting.append((number, start(body)))
        if waiting:
            number, handle = waiting.popleft()
            schedule.answered(number, finish(handle))
        elif not schedule.ended:
            time.sleep(schedule.wait)
    return schedule.reply()


async def on_loop(call: AsyncCall, request: Request) -> Reply:
    """Send each call as a task of its own on this event loop."""
    loop, schedule, under_way = asyncio.get_running_loop(), Schedule(request), set[asyncio.Task[None]]()
    tick = asyncio.Event()

    async def work(number: int, body: str) -> None:
        try:
            schedule.answered(number, await call(body))
        except Exception as error:
            schedule.failed(error)

    with Pacer(schedule, lambda: loop.call_soon_threadsafe(tick.set)):
        while not schedule.ended:
            await tick.wait()
            tick.clear()
            for number, body in schedule.due():
                task = loop.create_task(work(number, body))
                under_way.add(task)
                task.add_done_callback(under_way.discard)
    if under_way:
        await asyncio.wait(under_way, timeout=PATIENCE)
    return schedule.reply()


class Pacer:
    """Wakes an event loop when a call is due: loops themselves wake at whole milliseconds, which is too coarse."""

    def __init__(self, schedule: Schedule, wake: Callable[[], object]) -> None:
        self._schedule = schedule
        self._wake = wake
        self._thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        while not self._schedule.ended:
            # Wake a late loop repeatedly, but with pauses: it has work to do.
            time.sleep(self._schedule.wait or 0.0003)
            self._wake()

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._thread.join(PATIENCE)
