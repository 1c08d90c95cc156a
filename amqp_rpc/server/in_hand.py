"""The deliveries that a server has in hand, and the signs of life by which their callers know; belongs to the owner.

A caller can't see its call any more once it has left the queue. A server that says twice a second what it has lets it
tell a slow call from one that was lost, without a word for the many that take less than that.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator

from amqp_rpc.amqp.channel import Delivery
from amqp_rpc.amqp.connection import Connection
from amqp_rpc.message import codec
from amqp_rpc.message.codec import MSGPACK
from amqp_rpc.message.envelope import ALIVE, Message, Properties
from amqp_rpc.message.headers import WANTS_ALIVE
from amqp_rpc.message.settings import SIGN_INTERVAL
from amqp_rpc.message.topology import DIRECT_REPLY_TO

#: Calls that one sign names: far below any limit of a message's size.
_MOST_NAMED = 1000
_LONGEST_SIGN = 1024 * 1024
#: Seconds until the first sign of life after a time without work: few calls take that long.
_FIRST_SIGN = 0.1


class InHand:
    """The deliveries that were taken and are not settled yet.

    Args:
        connection: On whose owner the signs' timer is.
        tell: Publishes a sign.
    """

    def __init__(self, connection: Connection, tell: Callable[[Message], object]) -> None:
        self._connection = connection
        self._publish = tell
        self._telling = False
        self._deliveries: dict[int, Delivery] = {}

    def __len__(self) -> int:
        return len(self._deliveries)

    def take(self, delivery: Delivery) -> None:
        """Enter a delivery."""
        self._deliveries[id(delivery)] = delivery
        if not self._telling:
            self._telling = True
            self._connection.loop.call_later(_FIRST_SIGN, self._tell)

    def settle(self, delivery: Delivery) -> None:
        """Take a delivery out."""
        self._deliveries.pop(id(delivery), None)

    def left(self) -> list[Delivery]:
        """Return what is in hand at this moment; any thread."""
        return list(self._deliveries.values())

    def _tell(self) -> None:
        self._telling = len(self._deliveries) > 0
        if self._telling:
            self._connection.loop.call_later(SIGN_INTERVAL, self._tell)
            for message in self._signs():
                self._publish(message)

    def _signs(self) -> Iterator[Message]:
        """Return what the callers are told that asked for it (header ``alive``): which of their calls are here."""
        callers: defaultdict[str, list[str]] = defaultdict(list)
        for delivery in self._deliveries.values():
            properties = delivery.properties
            asked = (properties.headers or {}).get(WANTS_ALIVE) is True
            reply_to, identity = properties.reply_to, properties.correlation_id
            # pika gives bytes for what is no UTF-8.
            if asked and reply_to and isinstance(reply_to, str) and isinstance(identity, str):
                callers[reply_to].append(identity)
        for reply_to, identities in callers.items():
            # A malformed name of that kind would cost the connection, and those who use it don't ask.
            if not reply_to.startswith(DIRECT_REPLY_TO):
                for start in range(0, len(identities), _MOST_NAMED):
                    yield _sign(reply_to, identities[start : start + _MOST_NAMED])


def _sign(reply_to: str, identities: list[str]) -> Message:
    properties = Properties(
        content_type=MSGPACK,
        delivery_mode=1,
        # An old sign says nothing: it must not pile up at a caller that does not read.
        expiration=str(int(SIGN_INTERVAL * 1000)),
        type=ALIVE,
    )
    return Message(reply_to, properties, codec.encode(identities, MSGPACK, limit=_LONGEST_SIGN))
