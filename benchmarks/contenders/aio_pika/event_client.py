"""A client with ``Exchange.publish`` on a channel with confirms: awaited one by one, and many at a time."""

from __future__ import annotations

import asyncio
import os

from aio_pika import DeliveryMode, Message, connect

from benchmarks import publishing
from benchmarks.contenders.aio_pika import run
from benchmarks.protocol import Request, answer_async


async def main() -> None:
    connection = await connect(os.environ["AMQP_URL"])
    channel = await connection.channel()
    exchange = await channel.get_exchange(os.environ["BENCH_EXCHANGE"])

    async def publish(text: str, request: Request) -> None:
        message = Message(text.encode(), delivery_mode=DeliveryMode.PERSISTENT, content_type="text/plain")
        await exchange.publish(message, request["topic"])

    async def publish_many(texts: list[str], request: Request) -> None:
        await asyncio.gather(*(publish(text, request) for text in texts))

    await answer_async(
        {
            "publish": lambda request: publishing.one_async(publish, request),
            "publish_many": lambda request: publishing.many_async(publish_many, request),
        }
    )


if __name__ == "__main__":
    run(main())
