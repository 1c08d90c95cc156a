"""What amqp_rpc is compared with: the client and the server of RabbitMQ's RPC tutorial, in pika alone.

``python -m benchmarks.raw_pika QUEUE PREFETCH`` is the server. It says ``Ready.`` on standard error.
"""

from __future__ import annotations

import os
import sys
import time
import uuid
from collections.abc import Callable
from typing import Self

import pika
from pika.adapters.blocking_connection import BlockingChannel
from pika.spec import Basic


def fib(n: int) -> int:
    a, b = 0, 1
    for _ in range(n):
        a, b = b, a + b
    return a


def serve(queue: str, prefetch: int) -> None:
    def on_request(
        channel: BlockingChannel, method: Basic.Deliver, properties: pika.BasicProperties, body: bytes
    ) -> None:
        response = fib(int(body))
        channel.basic_publish(
            exchange="",
            routing_key=properties.reply_to,
            properties=pika.BasicProperties(correlation_id=properties.correlation_id),
            body=str(response),
        )
        channel.basic_ack(delivery_tag=method.delivery_tag)

    connection = pika.BlockingConnection(pika.URLParameters(os.environ["AMQP_URL"]))
    channel = connection.channel()
    channel.queue_declare(queue=queue, durable=True)
    channel.basic_qos(prefetch_count=prefetch)
    channel.basic_consume(queue=queue, on_message_callback=on_request)
    print("Ready.", file=sys.stderr, flush=True)
    channel.start_consuming()


class Client:
    """The tutorial's client, able to have several calls under way."""

    def __init__(self, url: str, queue: str) -> None:
        self._queue = queue
        self._connection = pika.BlockingConnection(pika.URLParameters(url))
        self._channel = self._connection.channel()
        self._answers = self._channel.queue_declare(queue="", exclusive=True).method.queue
        self._waiting: dict[str, Callable[[bytes], None]] = {}
        self._channel.basic_consume(queue=self._answers, on_message_callback=self._on_response, auto_ack=True)

    def _on_response(
        self, _channel: BlockingChannel, _method: Basic.Deliver, properties: pika.BasicProperties, body: bytes
    ) -> None:
        self._waiting.pop(properties.correlation_id)(body)

    def submit(self, n: int, then: Callable[[bytes], None]) -> None:
        """Send a call; its answer's body is given to ``then`` while `wait` runs."""
        identity = str(uuid.uuid4())
        self._waiting[identity] = then
        self._channel.basic_publish(
            exchange="",
            routing_key=self._queue,
            properties=pika.BasicProperties(reply_to=self._answers, correlation_id=identity),
            body=str(n),
        )

    def wait(self, *, most: float) -> None:
        """Answer what comes until no call is under way."""
        until = time.monotonic() + most
        while self._waiting:
            if time.monotonic() > until:
                raise TimeoutError(f"{len(self._waiting)} calls were not answered within {most:g} s")
            self._connection.process_data_events(time_limit=1)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()


if __name__ == "__main__":
    serve(sys.argv[1], int(sys.argv[2]))
