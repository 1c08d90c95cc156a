"""A client with ``broker.publish`` on a channel with confirms, many at a time."""

from __future__ import annotations

import asyncio
import os

from faststream.rabbit import ExchangeType, RabbitBroker, RabbitExchange

from benchmarks import publishing
from benchmarks.protocol import Request, answer_async


async def main() -> None:
    broker = RabbitBroker(os.environ["AMQP_URL"], apply_types=False, logger=None)

    async def publish_many(texts: list[str], request: Request) -> None:
        exchange = RabbitExchange(request["exchange"], type=ExchangeType.TOPIC, durable=True)
        topic = request["topic"]
        await asyncio.gather(
            *(broker.publish(text, exchange=exchange, routing_key=topic, persist=True) for text in texts)
        )

    async with broker:
        await answer_async({"fill": lambda request: publishing.fill_async(publish_many, request)})


if __name__ == "__main__":
    asyncio.run(main())
