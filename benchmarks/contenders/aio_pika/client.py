"""A client with `JsonRPC`."""

from __future__ import annotations

import asyncio
import os

from aio_pika import connect
from aio_pika.patterns import JsonRPC

from benchmarks import closed, open_loop
from benchmarks.contenders.aio_pika import run
from benchmarks.protocol import answer_async


async def main() -> None:
    connection = await connect(os.environ["AMQP_URL"])
    rpc = await JsonRPC.create(await connection.channel(publisher_confirms=False))
    queue = os.environ["BENCH_QUEUE"]

    def call(text: str) -> asyncio.Future[object]:
        return rpc.call(queue, {"text": text})  # type: ignore[no-any-return]

    await answer_async(
        {
            "one": lambda request: closed.one_async(call, request),
            "many": lambda request: closed.tasks(call, request),
            "tasks": lambda request: closed.tasks(call, request),
            "threads": lambda request: closed.threads_beside_loop(call, request),
            "open": lambda request: open_loop.on_loop(call, request),
        }
    )


if __name__ == "__main__":
    run(main())
