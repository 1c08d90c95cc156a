"""A client with ``Queue.put``, ``put_many``, ``get`` and ``task_done``."""

from __future__ import annotations

import os

from amqp_rpc import Client
from benchmarks import queueing
from benchmarks.protocol import PATIENCE, Request, answer

client = Client(os.environ["AMQP_URL"], timeout=PATIENCE)


class Ends:
    """Both ends of a queue."""

    def __init__(self, request: Request) -> None:
        self._queue = client.queue(request["queue"], queue_type=request["queue_type"])
        self.put = self._queue.put
        self.put_many = self._queue.put_many
        self.close = self._queue.close

    def take(self) -> object:
        """Get an item, and ack it."""
        item = self._queue.get(timeout=PATIENCE)
        self._queue.task_done()
        return item


if __name__ == "__main__":
    answer(queueing.cases(Ends))
