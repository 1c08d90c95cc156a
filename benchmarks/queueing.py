"""Queues between processes: items put and taken, one at a time. For the clients of all contenders that have them.

It runs in every contender's own environment: the standard library is all that it imports.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from benchmarks.closed import Clock
from benchmarks.protocol import Payloads, Reply, Request, check


class Ends(Protocol):
    """Both ends of a queue in one client."""

    def put(self, item: Any) -> object:
        """Put an item; return once it is confirmed."""

    def put_many(self, items: list[str]) -> object:
        """Put many; one after another where there is no other way."""

    def take(self) -> object:
        """Take an item, be done with it, and return it."""

    def close(self) -> object:
        """Have all that is done acknowledged, and consume no more."""


def cases(opened: Callable[[Request], Ends]) -> Mapping[str, Callable[[Request], Reply]]:
    """Return the requests that a client answers.

    Args:
        opened: Opens a queue.
    """

    def put(request: Request) -> Reply:
        ends, payload, calls = opened(request), Payloads(request["size"]), 0
        clock = Clock(request["seconds"])
        while calls == 0 or clock.runs():
            ends.put(payload(calls))
            calls += 1
        reply = clock.reply(calls)
        ends.close()
        return reply

    def put_many(request: Request) -> Reply:
        ends, payload, calls = opened(request), Payloads(request["size"]), 0
        clock = Clock(request["seconds"])
        while calls == 0 or clock.runs():
            ends.put_many([payload(number) for number in range(calls, calls + 1000)])
            calls += 1000
        reply = clock.reply(calls)
        ends.close()
        return reply

    def take(request: Request) -> Reply:
        """Fill the queue, which is not measured; take all, in order, until all is acknowledged."""
        ends, payload, count = opened(request), Payloads(request["size"]), request["count"]
        ends.put_many([payload(number) for number in range(count)])
        ends.close()
        ends = opened(request)
        began = time.perf_counter()
        for number in range(count):
            check(payload(number), ends.take())
        ends.close()
        return {"calls": count, "seconds": time.perf_counter() - began}

    def through(request: Request) -> Reply:
        """Put an item and take it, one at a time."""
        ends, payload, calls = opened(request), Payloads(request["size"]), 0
        clock = Clock(request["seconds"])
        while calls == 0 or clock.runs():
            sent = payload(calls)
            ends.put(sent)
            check(sent, ends.take())
            calls += 1
        reply = clock.reply(calls)
        ends.close()
        return reply

    return {"put": put, "put_many": put_many, "take": take, "through": through}
