"""A client with ``Producer.publish``, which waits for each confirm: it has no other way with confirms."""

from __future__ import annotations

import os

from kombu import Connection, Exchange, Producer

from benchmarks import publishing
from benchmarks.protocol import Request, answer

connection = Connection(os.environ["AMQP_URL"], heartbeat=0, transport_options={"confirm_publish": True})
producer = Producer(connection.channel(), exchange=Exchange(os.environ["BENCH_EXCHANGE"], type="topic", durable=True))


def publish(text: str, request: Request) -> object:
    return producer.publish(text, routing_key=request["topic"], delivery_mode=2)


if __name__ == "__main__":
    answer({"publish": lambda request: publishing.one(publish, request)})
