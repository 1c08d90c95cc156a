"""What a subscription's queue was bound to, kept in the broker: AMQP has no way to ask for it.

It is a message in a queue of its own, which holds one, the last. Who changes it has it in hand meanwhile, and others
wait for a moment: the message is a lock as well. All of it belongs to the connection's owner.
"""

from __future__ import annotations

import json
import logging
import random
from collections.abc import Callable
from typing import Any

from amqp_rpc.amqp.channel import Channel, Delivery
from amqp_rpc.amqp.connection import Connection
from amqp_rpc.errors import BrokerError
from amqp_rpc.message.codec import JSON
from amqp_rpc.message.envelope import Message, Properties
from amqp_rpc.message.exchanges import Binding
from amqp_rpc.message.topology import bindings_record, record_arguments

logger = logging.getLogger(__name__)

#: How often an empty queue is looked at, since somebody else may have the record in hand, and the seconds between.
_LOOKS, _LOOK_AGAIN = 5, (0.01, 0.05)

Bindings = frozenset[Binding]


def change(
    connection: Connection, queue: str, then: Callable[[Bindings | None], object], *, add: Bindings, remove: Bindings
) -> None:
    """Change the record of a queue's bindings, and call back with what it said before.

    Args:
        connection: An open one.
        queue: The subscription's.
        then: Called with the bindings before, once the broker has the record as it is now; with None where there was no
            record, or none that can be read or written.
        add: Bindings that are about to be made.
        remove: Bindings that were undone.
    """
    changing = _Change(connection, queue, then, add=add, remove=remove)
    connection.open_channel(changing.begin, changing.refused)


class _Change:
    """Takes the record, publishes it as it is to be, and only then acknowledges it."""

    def __init__(
        self,
        connection: Connection,
        queue: str,
        then: Callable[[Bindings | None], object],
        *,
        add: Bindings,
        remove: Bindings,
    ) -> None:
        self._connection = connection
        self._queue = queue
        self._record = bindings_record(queue)
        self._then = then
        self._add = add
        self._remove = remove
        #: What was in the queue: more than one message where somebody was killed between his publish and his ack.
        self._taken: list[Delivery] = []
        self._known: Bindings | None = None

    def begin(self, channel: Channel) -> None:
        """Declare the queue, and take what is in it."""
        channel.confirms(
            lambda: channel.declare(
                self._record, lambda _state: self._take(channel, _LOOKS), arguments=record_arguments()
            )
        )

    def refused(self, _channel: Channel, error: BrokerError, _code: int) -> None:
        """Go on without a record: its node is away, perhaps."""
        logger.warning("Bindings of %s that are not in the code any more stay as they are: %s", self._queue, error)
        self._then(None)

    def _take(self, channel: Channel, looks: int) -> None:
        def taken(delivery: Delivery | None) -> None:
            if delivery is not None:
                self._taken.append(delivery)
                self._take(channel, 0)
            elif self._taken or not looks:
                self._write(channel)
            else:
                pause = random.uniform(*_LOOK_AGAIN)  # noqa: S311 - no secret
                self._connection.loop.call_later(pause, lambda: self._take(channel, looks - 1))

        if channel.is_open:
            channel.get(self._record, taken)

    def _write(self, channel: Channel) -> None:
        read = [found for delivery in self._taken if (found := _read(delivery.body)) is not None]
        if read:
            self._known = frozenset().union(*read)
        new = ((self._known or frozenset()) | self._add) - self._remove
        if new == self._known and len(self._taken) == 1:
            self._end(channel)
            return
        properties = Properties(content_type=JSON, delivery_mode=2)
        channel.publish_confirmed(
            Message(self._record, properties, _written(new)), lambda taken: self._written(channel, taken)
        )

    def _written(self, channel: Channel, taken: bool) -> None:
        if taken:
            channel.ack([delivery.tag for delivery in self._taken])
        else:
            logger.warning("The broker does not take the record of the bindings of %s", self._queue)
            self._known = None
        self._end(channel)

    def _end(self, channel: Channel) -> None:
        # What was not acknowledged goes back with it.
        channel.close()
        self._then(self._known)


def _written(bindings: Bindings) -> bytes:
    each = [{"exchange": b.exchange, "key": b.key, "arguments": dict(b.arguments)} for b in sorted(bindings, key=str)]
    return json.dumps(each, ensure_ascii=False).encode()


def _read(body: bytes) -> Bindings | None:
    """Return the bindings that a record names; None for one that somebody else wrote."""
    try:
        found: list[dict[str, Any]] = json.loads(body)
        return frozenset(
            Binding(str(each["exchange"]), str(each["key"]), tuple(sorted(each["arguments"].items()))) for each in found
        )
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None
