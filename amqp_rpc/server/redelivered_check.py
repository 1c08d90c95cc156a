"""Checks that a queue sets the `redelivered` flag; a queue that has lost the ability is deleted while it is unused.

A call does not run twice because its second delivery has the flag. But RabbitMQ 3.10 to 4.0 lose it: a classic queue
counts up to where its messages were delivered, one by one, and a transient message that waits in it when its node is
stopped leaves a gap in that count for good. From then on the queue flags nothing, until it is deleted
(``next_deliver_seq_id`` in RabbitMQ's ``rabbit_variable_queue``; docs/decisions/0004-redelivered-flag.md).

RabbitMQ 4.3 does not have this fault. This file is a seam: delete it, its one use in `consumers`, and the type
``amqp_rpc.probe`` once 4.3 is the oldest version that is supported.
"""

from __future__ import annotations

import logging
import secrets

from amqp_rpc.amqp.channel import ChannelClosed, Delivery
from amqp_rpc.amqp.connection import Connection
from amqp_rpc.message.envelope import PROBE, Message, Properties
from amqp_rpc.message.text import bounded_logger
from amqp_rpc.server.calls import CallDispatcher
from amqp_rpc.server.worker import Worker

logger: logging.Logger = bounded_logger(__name__)

#: Milliseconds that a probe lives, should its sender die before it is consumed.
_PROBE_LIVES = "2000"
#: Calls that one check consumes at most.
_MOST_SERVED = 5


async def flags_redelivered(connection: Connection, calls: CallDispatcher, worker: Worker) -> bool:
    """Return whether a queue that is empty and has no consumer flags a redelivery; delete it where it does not.

    A message is published to it, consumed, requeued, and consumed again. The answer is False, too, if another program
    has begun to use the queue: it is left as it is.
    """
    queue, name = calls.queue, secrets.token_hex(8)
    channel = await connection.open_channel()
    served = 0

    async def consumed() -> Delivery | None:
        """Consume messages up to the probe of this check; None where another program has consumed it."""
        nonlocal served
        while served < _MOST_SERVED and (delivery := await channel.get(queue)) is not None:
            if delivery.properties.type != PROBE:
                # A call: requeued, it would have a flag that it must not have.
                served += 1
                worker.deliver(calls, delivery)
            elif delivery.properties.message_id == name:
                return delivery
            else:
                # Another server's: left in the queue it would keep all servers from checking. That server tries again.
                channel.reject(delivery.tag, requeue=False)
        return None

    try:
        properties = Properties(type=PROBE, message_id=name, expiration=_PROBE_LIVES, delivery_mode=1)
        channel.publish(Message(queue, properties, b""))
        if (first := await consumed()) is None:
            return False
        channel.reject(first.tag, requeue=True)
        if (second := await consumed()) is None:
            return False
        channel.reject(second.tag, requeue=False)
        if second.redelivered:
            return True
        logger.warning(
            "queue %s: it does not flag redelivered messages, as calls that must not run twice need: RabbitMQ lost its "
            "count when a node was stopped. The queue is deleted if it is empty, and redeclared", queue,
        )  # fmt: skip
        await channel.delete(queue)
    except ChannelClosed as closed:
        # Another program uses the queue, or this user may not delete it.
        logger.debug("queue %s: not checked: %s", queue, closed)
    finally:
        # Calls that were consumed here are acked on this channel.
        if not served:
            channel.close()
    return False
