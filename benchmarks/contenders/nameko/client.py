"""A client with `ServiceRpcProxy`."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from nameko.standalone.rpc import ServiceRpcProxy

from benchmarks import closed, open_loop
from benchmarks.contenders.nameko.publishing import transient
from benchmarks.protocol import PATIENCE, Reply, Request, answer

services: list[Any] = []


def service(number: int = 0) -> Any:
    """Return a proxy; each is for one thread, and has a connection of its own."""
    while len(services) <= number:
        proxy = ServiceRpcProxy("bench", {"AMQP_URI": os.environ["AMQP_URL"]}, timeout=PATIENCE)
        services.append(proxy.start())
    return services[number]


def start(text: str) -> Any:
    return service().echo.call_async(text)


def finish(reply: Any) -> object:
    return reply.result()


def threads(request: Request) -> Reply:
    calls: list[Callable[[str], object]] = [service(number).echo for number in range(request["threads"])]
    return closed.threads(calls, request)


if __name__ == "__main__":
    transient()
    answer(
        {
            "one": lambda request: closed.one(service().echo, request),
            "many": lambda request: closed.window(start, finish, request),
            "threads": threads,
            "open": lambda request: open_loop.oldest_first(start, finish, request),
        }
    )
