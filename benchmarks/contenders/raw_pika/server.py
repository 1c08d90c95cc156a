"""The tutorial's server, which echoes what it is sent."""

from __future__ import annotations

import os

import pika
from pika.adapters.blocking_connection import BlockingChannel
from pika.spec import Basic


def on_request(channel: BlockingChannel, method: Basic.Deliver, properties: pika.BasicProperties, body: bytes) -> None:
    channel.basic_publish(
        exchange="",
        routing_key=properties.reply_to,
        properties=pika.BasicProperties(correlation_id=properties.correlation_id),
        body=body,
    )
    channel.basic_ack(delivery_tag=method.delivery_tag)


def serve() -> None:
    connection = pika.BlockingConnection(pika.URLParameters(os.environ["AMQP_URL"]))
    channel = connection.channel()
    channel.queue_declare(queue=os.environ["BENCH_QUEUE"])
    channel.basic_qos(prefetch_count=int(os.environ["BENCH_PREFETCH"]))
    channel.basic_consume(queue=os.environ["BENCH_QUEUE"], on_message_callback=on_request)
    channel.start_consuming()


if __name__ == "__main__":
    serve()
