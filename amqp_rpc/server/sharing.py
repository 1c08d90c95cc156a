"""Tasks that wait in a server for one of its handlers go back to the broker where a free worker may take them.

RabbitMQ bounds the deliveries of each consumer, and of several together only with ``global`` in ``basic.qos``, which
newer ones deny (https://www.rabbitmq.com/docs/consumer-prefetch). So a server of several queues may have a task of one
in hand while tasks of another keep all its handlers. It belongs to the connection's owner, but for `begin`.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass

from amqp_rpc.amqp.channel import Delivery, QueueState
from amqp_rpc.amqp.connection import Connection
from amqp_rpc.message.envelope import Message
from amqp_rpc.server.redelivery import given_back

logger = logging.getLogger(__name__)

#: Seconds that a task may wait here for a handler, and between two looks.
_PATIENCE, _LOOK_AGAIN = 1.0, 0.5


@dataclass(slots=True)
class _Waiting:
    queue: str
    delivery: Delivery
    since: float


class Sharing:
    """The tasks that were delivered and have not begun.

    One that has waited for a second goes back while its queue is empty and has other consumers: while the queue has
    more, no other worker is free, and what goes back would only lose its place.

    Args:
        connection: Which the deliveries come from.
        queues: Of whose tasks some may wait; of others nothing is kept here.
        give_back: Publishes a message that must not be lost, and settles the delivery once it is confirmed.
    """

    def __init__(
        self, connection: Connection, queues: Collection[str], give_back: Callable[[Message, Delivery], object]
    ) -> None:
        self._connection = connection
        self._queues = frozenset(queues)
        self._give_back = give_back
        self._waiting: dict[int, _Waiting] = {}
        self._looking = False

    def wait(self, queue: str, delivery: Delivery) -> None:
        """Enter a delivery that is to begin on some handler's thread."""
        if queue in self._queues:
            self._waiting[id(delivery)] = _Waiting(queue, delivery, time.monotonic())
            if not self._looking:
                self._looking = True
                self._connection.loop.call_later(_LOOK_AGAIN, self._look)

    def begin(self, queue: str, delivery: Delivery) -> bool:
        """Return whether a delivery is still here, and begins now; any thread. Each is taken out by one, once."""
        return queue not in self._queues or self._waiting.pop(id(delivery), None) is not None

    def _look(self) -> None:
        self._looking = bool(self._waiting)
        if self._looking:
            self._connection.loop.call_later(_LOOK_AGAIN, self._look)
        channels = {each.queue: each.delivery.channel for each in self._overdue()}
        for queue, channel in channels.items():
            channel.inspect(queue, self._seen)

    def _seen(self, queue: QueueState) -> None:
        if queue.messages or queue.consumers < 2:  # noqa: PLR2004 - another one than this
            return
        for each in self._overdue():
            if each.queue == queue.name and self._waiting.pop(id(each.delivery), None) is not None:
                logger.info("A task of %s goes back to its queue: all handlers are busy here", each.queue)
                self._give_back(given_back(each.queue, each.delivery.properties, each.delivery.body), each.delivery)

    def _overdue(self) -> list[_Waiting]:
        long_ago = time.monotonic() - _PATIENCE
        # What came over a connection that is lost was given to another one by the broker.
        return [
            each for each in list(self._waiting.values()) if each.since <= long_ago and each.delivery.channel.is_open
        ]
