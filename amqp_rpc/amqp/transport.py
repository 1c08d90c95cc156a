"""What travels between the connection and those who use it; values and one interface, no I/O."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from amqp_rpc.amqp.channel import Channel
    from amqp_rpc.errors import BrokerError
    from amqp_rpc.message.envelope import Properties


@dataclass(slots=True)
class Delivery:
    """A message as the broker delivered it.

    Its channel is its generation: an acknowledgement after a reconnect goes to a channel that is closed, and is dropped
    there, since the broker has given the message to somebody else.
    """

    channel: Channel
    tag: int
    redelivered: bool
    properties: Properties
    body: bytes = field(repr=False)


@dataclass(slots=True)
class AddressedDelivery(Delivery):
    """A message as the broker delivered it, and by which way it came to its queue."""

    #: To which it was published; empty for the default exchange.
    exchange: str
    routing_key: str


@dataclass(slots=True, frozen=True)
class QueueState:
    """What the broker says of a queue."""

    name: str
    messages: int
    consumers: int


class Listener(Protocol):
    """Who hears of a connection's life; every method is called on the owner's thread."""

    def on_open(self) -> None:
        """Declare and consume: the connection is new, and holds nothing of an earlier one."""

    def on_unblocked(self) -> None:
        """Publish again what was held back: the broker, which took no messages because of an alarm, takes them."""

    def on_lost(self, error: BrokerError) -> None:
        """Take note: the connection could not be made, or is gone with its channels and exclusive queues."""


class Listeners:
    """Several listeners of one connection, told in their order.

    Args:
        listeners: Who hears.
    """

    def __init__(self, *listeners: Listener) -> None:
        self._listeners = listeners

    def on_open(self) -> None:
        """Tell each."""
        for listener in self._listeners:
            listener.on_open()

    def on_unblocked(self) -> None:
        """Tell each."""
        for listener in self._listeners:
            listener.on_unblocked()

    def on_lost(self, error: BrokerError) -> None:
        """Tell each."""
        for listener in self._listeners:
            listener.on_lost(error)
