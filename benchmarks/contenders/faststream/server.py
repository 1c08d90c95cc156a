"""A subscriber that echoes what it is sent."""

from __future__ import annotations

import asyncio
import os

from faststream import FastStream
from faststream.rabbit import Channel, RabbitBroker

channel = Channel(prefetch_count=int(os.environ["BENCH_PREFETCH"]), publisher_confirms=False)
broker = RabbitBroker(os.environ["AMQP_URL"], apply_types=False, logger=None, default_channel=channel)


@broker.subscriber(os.environ["BENCH_QUEUE"])
async def echo(text: str) -> str:
    return text


if __name__ == "__main__":
    asyncio.run(FastStream(broker, logger=None).run())
