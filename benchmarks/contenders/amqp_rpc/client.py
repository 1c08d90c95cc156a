"""A client with `amqp_rpc.Client`, and with `amqp_rpc.AsyncClient` for the cases with asyncio."""

from __future__ import annotations

import asyncio
import itertools
import os
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Any

from amqp_rpc import AsyncClient, Client
from benchmarks import closed, open_loop
from benchmarks.protocol import PATIENCE, Payloads, Reply, Request, WrongAnswerError, answer, check

client = Client(os.environ["AMQP_URL"], timeout=PATIENCE)
ECHO = f"{os.environ['BENCH_NAME']}.echo"


def call(text: str) -> object:
    return client.call(ECHO, text)


def many(request: Request) -> Reply:
    return mapped(ECHO, request)


def naps(request: Request) -> Reply:
    """Call a function that sleeps, on a server of the request's name."""
    return mapped(f"{request['service']}.nap", request)


def mapped(function: str, request: Request) -> Reply:
    payload, calls = Payloads(request["size"]), 0
    # map reads ahead by the calls in flight, which are kept here
    sent: list[str] = []

    def texts() -> Iterator[str]:
        for number in itertools.takewhile(lambda _: clock.runs(), itertools.count()):
            sent.append(payload(number))
            yield sent[-1]

    clock = closed.Clock(request["seconds"])
    for got in client.map(function, texts(), in_flight=request["in_flight"]):
        check(sent[calls], got)
        calls += 1
    if calls != len(sent):
        raise WrongAnswerError(f"{len(sent)} calls were made, and {calls} were answered")
    return clock.reply(calls)


def chunks(request: Request) -> Reply:
    """Many calls in one message."""
    function, calls = f"{os.environ['BENCH_NAME']}.double", 0
    clock = closed.Clock(request["seconds"])
    # the clock is read once per chunk, so that it does not count
    numbers = itertools.chain.from_iterable(
        range(first, first + request["chunksize"])
        for first in itertools.takewhile(lambda _: clock.runs(), itertools.count(0, request["chunksize"]))
    )
    results = client.map(function, numbers, chunksize=request["chunksize"], in_flight=request["in_flight"])
    for calls, got in enumerate(results, start=1):
        if got != 2 * (calls - 1):
            raise WrongAnswerError(f"sent {calls - 1}, and got {got!r}")
    return clock.reply(calls)


def open_loop_case(request: Request) -> Reply:
    def send(body: str, then: Callable[[object], None]) -> None:
        def done(future: Future[Any]) -> None:
            try:
                then(future.result())
            except Exception as error:
                then(error)

        client.submit(ECHO, body).add_done_callback(done)

    return open_loop.with_callbacks(send, request)


def tasks(request: Request) -> Reply:
    async def run() -> Reply:
        async with AsyncClient(os.environ["AMQP_URL"], timeout=PATIENCE) as awaited:

            async def call(text: str) -> object:
                return await awaited.call(ECHO, text)

            await call("connects")
            return await closed.tasks(call, request)

    return asyncio.run(run())


if __name__ == "__main__":
    answer(
        {
            "one": lambda request: closed.one(call, request),
            "many": many,
            "threads": lambda request: closed.threads([call] * request["threads"], request),
            "tasks": tasks,
            "open": open_loop_case,
            "chunks": chunks,
            "naps": naps,
        }
    )
