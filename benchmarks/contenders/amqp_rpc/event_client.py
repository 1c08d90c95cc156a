"""A client with `Client.publish` and `Client.publish_many`."""

from __future__ import annotations

import os

from amqp_rpc import Client
from benchmarks import publishing
from benchmarks.protocol import PATIENCE, Request, answer

client = Client(os.environ["AMQP_URL"], timeout=PATIENCE)


def publish(text: str, request: Request) -> object:
    return client.publish(request["topic"], text, exchange=request["exchange"])


def publish_many(texts: list[str], request: Request) -> object:
    topic = request["topic"]
    return client.publish_many(((topic, text) for text in texts), exchange=request["exchange"])


if __name__ == "__main__":
    answer(
        {
            "publish": lambda request: publishing.one(publish, request),
            "publish_many": lambda request: publishing.many(publish_many, request),
            "fill": lambda request: publishing.fill(publish_many, request),
        }
    )
