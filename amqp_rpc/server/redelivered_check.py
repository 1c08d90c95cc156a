"""Checks that a queue sets the `redelivered` flag; a queue that has lost the ability is deleted while it is unused.

A call does not run twice because its second delivery has the flag. But RabbitMQ 3.10 to 4.0 lose it: a classic queue
counts up to where its messages were delivered, one by one, and a transient message that waits in it when its node is
stopped leaves a gap in that count for good. From then on the queue flags nothing, until it is deleted
(``next_deliver_seq_id`` in RabbitMQ's ``rabbit_variable_queue``; docs/decisions/0004-redelivered-flag.md).

RabbitMQ 4.3 does not have this fault. Delete this file, its one use in `consumers`, and the type ``amqp_rpc.probe``
once 4.3 is the oldest version that is supported.
"""

from __future__ import annotations

import logging
import secrets

from amqp_rpc.amqp.channel import Channel, ChannelClosed, Delivery
from amqp_rpc.amqp.connection import Connection
from amqp_rpc.message.envelope import PROBE, Message, Properties
from amqp_rpc.server.calls import CallDispatcher
from amqp_rpc.server.worker import Worker

logger = logging.getLogger(__name__)

#: Milliseconds that a probe lives, should its sender die before it is consumed.
_PROBE_LIVES = "2000"
#: Calls that one check consumes at most.
_MOST_SERVED = 5


async def flags_redelivered(connection: Connection, calls: CallDispatcher, worker: Worker) -> bool:
    """Return whether a queue that is empty and has no consumer flags a redelivery; delete it where it does not.

    False also where another program has begun to use the queue: it is left as it is.

    Args:
        connection: An open one.
        calls: The queue's; it exists.
        worker: Runs a call that the check has consumed: requeued, the call would have a flag that it must not have.
    """
    channel = await connection.open_channel()
    probe = _Probe(channel, calls, worker)
    try:
        return await probe.comes_back()
    except ChannelClosed as closed:
        # Another program uses the queue, or this user may not delete it.
        logger.debug("queue %s: not checked: %s", calls.queue, closed)
        return False
    finally:
        # Calls that were consumed here are acked on this channel.
        if not probe.served:
            channel.close()


class _Probe:
    """A message of a check, which is published, consumed, requeued, and consumed again."""

    def __init__(self, channel: Channel, calls: CallDispatcher, worker: Worker) -> None:
        self._channel = channel
        self._calls = calls
        self._queue = calls.queue
        self._worker = worker
        self._name = secrets.token_hex(8)
        #: Calls that were consumed meanwhile.
        self.served = 0

    async def comes_back(self) -> bool:
        """Return whether its second delivery has the flag."""
        properties = Properties(type=PROBE, message_id=self._name, expiration=_PROBE_LIVES, delivery_mode=1)
        self._channel.publish(Message(self._queue, properties, b""))
        if (first := await self._next()) is None:
            return False
        self._channel.reject(first.tag, requeue=True)
        if (second := await self._next()) is None:
            return False
        self._channel.reject(second.tag, requeue=False)
        if second.redelivered:
            return True
        logger.warning(
            "queue %s: it does not flag redelivered messages, as calls that must not run twice need: RabbitMQ lost its "
            "count when a node was stopped. The queue is deleted if it is empty, and redeclared", self._queue,
        )  # fmt: skip
        await self._channel.delete(self._queue)
        return False

    async def _next(self) -> Delivery | None:
        """Consume messages up to this probe; None where another program has consumed it."""
        while self.served < _MOST_SERVED and (delivery := await self._channel.get(self._queue)) is not None:
            if delivery.properties.type != PROBE:
                self.served += 1
                self._worker.deliver(self._calls, delivery)
            elif delivery.properties.message_id == self._name:
                return delivery
            else:
                # Another server's: left in the queue it would keep all servers from checking. That server tries again.
                self._channel.reject(delivery.tag, requeue=False)
        return None
