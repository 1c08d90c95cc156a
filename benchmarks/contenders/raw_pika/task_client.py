"""A publisher with confirms, as in https://www.rabbitmq.com/tutorials/tutorial-two-python, in pika alone."""

from __future__ import annotations

import os

import pika

from benchmarks import enqueuing
from benchmarks.protocol import answer

QUEUE = os.environ["BENCH_QUEUE"]
parameters = pika.URLParameters(os.environ["AMQP_URL"])
parameters.heartbeat = 0  # it reads only while it publishes, and others have their turns in between
channel = pika.BlockingConnection(parameters).channel()
channel.confirm_delivery()
channel.queue_declare(QUEUE, durable=True)


def send(text: str) -> None:
    properties = pika.BasicProperties(delivery_mode=pika.DeliveryMode.Persistent)
    channel.basic_publish("", QUEUE, text.encode(), properties, mandatory=True)


if __name__ == "__main__":
    answer({"enqueue": lambda request: enqueuing.one(send, request)})
