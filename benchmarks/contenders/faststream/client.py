"""A client with ``broker.request``."""

from __future__ import annotations

import asyncio
import os

from faststream.rabbit import Channel, RabbitBroker

from benchmarks import closed, open_loop
from benchmarks.protocol import PATIENCE, answer_async


async def main() -> None:
    queue = os.environ["BENCH_QUEUE"]
    broker = RabbitBroker(
        os.environ["AMQP_URL"], apply_types=False, logger=None, default_channel=Channel(publisher_confirms=False)
    )

    async def call(text: str) -> object:
        reply = await broker.request(text, queue=queue, timeout=PATIENCE)
        return await reply.decode()

    async with broker:
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
    asyncio.run(main())
