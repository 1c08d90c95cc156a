"""A client with ``SimpleQueue.put`` and ``SimpleQueue.get``."""

from __future__ import annotations

import os

from kombu import Connection
from kombu.simple import SimpleQueue

from benchmarks import queueing
from benchmarks.protocol import PATIENCE, Request, answer

connection = Connection(os.environ["AMQP_URL"], heartbeat=0, transport_options={"confirm_publish": True})


class Ends:
    """Both ends of a queue."""

    def __init__(self, request: Request) -> None:
        arguments = {"x-queue-type": "quorum"} if request["queue_type"] == "quorum" else {}
        self._queue: SimpleQueue = connection.SimpleQueue(request["queue"], queue_args=arguments)
        self.put = self._queue.put
        self.close = self._queue.close

    def put_many(self, texts: list[str]) -> None:
        """Put them one after another: it has no other way."""
        for text in texts:
            self.put(text)

    def take(self) -> object:
        """Take an item, and be done with it."""
        message = self._queue.get(timeout=PATIENCE)
        message.ack()
        return message.payload


if __name__ == "__main__":
    answer(queueing.cases(Ends))
