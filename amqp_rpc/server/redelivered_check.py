"""Whether a queue marks what it delivers a second time. Where it does not, it is made anew while nobody uses it.

That a call does not run twice rests on the mark ``redelivered``. But RabbitMQ 3.10 to 4.0 lose it: a classic queue
counts up to where its messages were delivered, one by one, and a transient message that waited in it when its node was
stopped leaves a gap in that count for good. From then on nothing in that queue is ever marked, until it is deleted
(``next_deliver_seq_id`` in RabbitMQ's ``rabbit_variable_queue``; docs/decisions/0004-redelivered-flag.md).
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable

from amqp_rpc.amqp.channel import Channel, Delivery
from amqp_rpc.amqp.connection import Connection
from amqp_rpc.errors import BrokerError
from amqp_rpc.message.envelope import PROBE, Message, Properties

logger = logging.getLogger(__name__)

#: Milliseconds that a probe lives, should its sender die before it takes it back.
_PROBE_LIVES = "2000"
#: Messages of others that a trial takes with it, at most.
_MOST_SERVED = 5


def try_marks(
    connection: Connection,
    queue: str,
    *,
    then: Callable[[bool], object],
    serve: Callable[[Delivery], object],
) -> None:
    """Try an empty queue without consumers, and delete it where it does not mark; on the connection's owner.

    Args:
        connection: An open one.
        queue: It exists. Should somebody begin to use it meanwhile, nothing is done to it.
        then: Called at the end, in any case but the connection's loss, with whether the queue was seen to mark. If not,
            it may be gone now, or somebody else may have come.
        serve: Called with a message that was taken out of the queue by chance: given back it would have a mark that it
            must not have.
    """
    trial = _Trial(queue, then, serve)
    connection.open_channel(trial.begin, trial.refused)


class _Trial:
    """Publishes a message to a queue, takes it, gives it back, and takes it again: the second time it has a mark."""

    def __init__(self, queue: str, then: Callable[[bool], object], serve: Callable[[Delivery], object]) -> None:
        self._queue = queue
        self._then = then
        self._serve = serve
        self._name = secrets.token_hex(8)
        self._served = 0

    def begin(self, channel: Channel) -> None:
        """Publish and take; the channel keeps the order."""
        properties = Properties(type=PROBE, message_id=self._name, expiration=_PROBE_LIVES, delivery_mode=1)
        channel.publish(Message(self._queue, properties, b""))
        self._take(channel, self._first)

    def refused(self, _channel: Channel, error: BrokerError, _code: int) -> None:
        """End without a result: the broker closed the channel, since somebody uses the queue, or may not delete it."""
        logger.debug("Queue %s was not tried: %s", self._queue, error)
        self._then(False)

    def _take(self, channel: Channel, own: Callable[[Channel, Delivery], object]) -> None:
        """Take messages until the trial's own comes; end without a verdict where it does not."""

        def taken(delivery: Delivery | None) -> None:
            if delivery is None:
                # Somebody else took it.
                self._end(channel, marks=False)
            elif delivery.properties.type != PROBE:
                self._served += 1
                self._serve(delivery)
                self._take(channel, own)
            elif delivery.properties.message_id != self._name:
                # Another server's: it is not left behind, where it would keep all from trying; that one tries again.
                channel.reject(delivery.tag, requeue=False)
                self._take(channel, own)
            else:
                own(channel, delivery)

        if self._served < _MOST_SERVED:
            channel.get(self._queue, taken)
        else:
            self._end(channel, marks=False)

    def _first(self, channel: Channel, delivery: Delivery) -> None:
        channel.reject(delivery.tag, requeue=True)
        self._take(channel, self._second)

    def _second(self, channel: Channel, delivery: Delivery) -> None:
        channel.reject(delivery.tag, requeue=False)
        if delivery.redelivered:
            self._end(channel, marks=True)
            return
        logger.warning(
            "Queue %s does not mark what it delivers again, as calls that must not run twice need: RabbitMQ lost its "
            "count when a node was stopped. The queue, where it is empty, is made anew",
            self._queue,
        )
        channel.delete(self._queue, lambda: self._end(channel, marks=False))

    def _end(self, channel: Channel, *, marks: bool) -> None:
        # With calls that were taken here it stays open: they are acknowledged on it.
        if not self._served:
            channel.close()
        self._then(marks)
