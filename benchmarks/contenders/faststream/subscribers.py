"""Ten subscribers to one exchange, each with a durable queue of its own."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable

from faststream import FastStream
from faststream.rabbit import Channel, ExchangeType, QueueType, RabbitBroker, RabbitExchange, RabbitQueue

from benchmarks.contenders.events import FAN_OUT, FASTSTREAM
from benchmarks.tally import TALLY

ITS = FAN_OUT[FASTSTREAM, os.environ["BENCH_QUEUE_TYPE"]]
channel = Channel(prefetch_count=int(os.environ["BENCH_PREFETCH"]))
broker = RabbitBroker(os.environ["AMQP_URL"], apply_types=False, logger=None, default_channel=channel)
exchange = RabbitExchange(ITS.exchange, type=ExchangeType.TOPIC, durable=True)


def handler(number: int) -> Callable[[str], Awaitable[None]]:
    async def note(text: str) -> None:
        TALLY.ran(f"{number} {text}")

    return note


for number, name in enumerate(ITS.queues):
    queue = RabbitQueue(name, queue_type=QueueType(ITS.queue_type), durable=True, routing_key="#")
    broker.subscriber(queue, exchange)(handler(number))

if __name__ == "__main__":
    asyncio.run(FastStream(broker, logger=None).run())
