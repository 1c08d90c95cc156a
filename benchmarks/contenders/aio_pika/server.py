"""A server with `JsonRPC`, which echoes what it is sent."""

from __future__ import annotations

import asyncio
import os

from aio_pika import connect
from aio_pika.patterns import JsonRPC

from benchmarks.contenders.aio_pika import run


async def echo(*, text: str) -> str:
    return text


async def serve() -> None:
    connection = await connect(os.environ["AMQP_URL"])
    channel = await connection.channel(publisher_confirms=False)
    await channel.set_qos(prefetch_count=int(os.environ["BENCH_PREFETCH"]))
    rpc = await JsonRPC.create(channel)
    await rpc.register(os.environ["BENCH_QUEUE"], echo)
    await asyncio.Event().wait()


if __name__ == "__main__":
    run(serve())
