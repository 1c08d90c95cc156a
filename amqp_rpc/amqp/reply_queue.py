"""The exclusive queue to which replies to one client come, over one connection: named by the broker, gone with it.

It is declared when a message first asks for a reply: who only publishes events needs no right to have one. Requests are
written on its channel, so that their returns come there too; `client` adds the calls.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, TypeVar

from amqp_rpc.amqp.keeper import Keeper
from amqp_rpc.errors import AccessRefused, BrokerError
from amqp_rpc.message.signature import NotProved
from amqp_rpc.message.text import bounded_logger, quoted
from amqp_rpc.message.timing import Repeats

if TYPE_CHECKING:
    from amqp_rpc.amqp.channel import Channel, Delivery
    from amqp_rpc.amqp.publisher import Publisher

logger: logging.Logger = bounded_logger(__name__)

R = TypeVar("R", bound="Receiver")


class Receiver:
    """Receives the messages of one type; the I/O thread's."""

    def received(self, delivery: Delivery) -> None:
        """Handle a message."""
        raise NotImplementedError

    def lost(self) -> None:
        """Forget the reply queue: no message comes any more to the address that it had."""


class ReplyQueue(Keeper):
    """Receives replies, and hands each to the receiver of its ``type``.

    Args:
        publisher: It waits for the address: some of its messages ask for replies.
    """

    def __init__(self, publisher: Publisher) -> None:
        super().__init__("reply queue")
        self._publisher = publisher
        publisher.on_replied = self.need
        #: True once something asks for a reply.
        self._needed = False
        #: The queue's name, while it exists.
        self.address: str | None = None
        self._declared = ""
        self._receivers: dict[str, Receiver] = {}
        #: The log lines of replies that are not signed.
        self._forged = Repeats()
        #: Anybody may send any number of them.
        self._unknown = Repeats()

    def receiver(self, kind: str, make: type[R]) -> R:
        """Return the receiver of the messages of a type, which is made at the first time; any thread."""
        receiver = self._receivers.setdefault(kind, make())
        assert isinstance(receiver, make)
        return receiver

    def received(self, delivery: Delivery) -> None:
        """Hand a message to its receiver."""
        receiver = self._receivers.get(delivery.properties.type or "")
        if receiver is not None:
            receiver.received(delivery)
        else:
            self.unknown(delivery)

    def need(self) -> None:
        """Declare the queue, unless that was tried: something asks for a reply; the I/O thread's."""
        if not self._needed:
            self._needed = True
            self.open()

    def wanted(self) -> bool:
        """Return whether something has asked for a reply, and was not refused."""
        return self._needed

    def _received_signed(self, delivery: Delivery) -> None:
        """Hand on a message that is signed, and drop others."""
        assert self._publisher.keys is not None
        try:
            self._publisher.keys.check(delivery.properties, delivery.body, routing_key=self._declared)
        except NotProved as error:
            if (times := self._forged.again(str(error))) is not None:
                logger.warning(
                    "reply %s: dropped: %s%s", quoted(delivery.properties.correlation_id), error, times or ""
                )
        else:
            self.received(delivery)

    def unknown(self, delivery: Delivery) -> None:
        """Drop a message that has no receiver: it comes too late, or was never asked for."""
        if (times := self._unknown.again("reply")) is not None:
            logger.info("reply %.80r: late or unknown; dropped%s", delivery.properties.correlation_id, times)

    async def set_up(self, channel: Channel) -> None:
        """Declare and consume the queue: the old one's name is the broker's until it has noticed the loss."""
        state = await channel.declare("", exclusive=True)
        self._declared = state.name
        receive = self.received if self._publisher.keys is None else self._received_signed
        await channel.consume(state.name, receive, acknowledge=False, on_cancelled=self.cancelled)

    def ready(self) -> None:
        """Have messages published that ask for replies."""
        self.address = self._publisher.reply_queue = self._declared
        # From now on a thread that waits for a reply may read it.
        self.connection.loop.share(True)
        self._publisher.send_unsent()

    def closed(self, error: BrokerError, code: int) -> None:  # noqa: ARG002 - for those who override it
        """Forget the queue."""
        self._forget()
        if isinstance(error, AccessRefused):
            # All that asks for a reply ends now; the next one asks the broker again.
            self._needed = False
            self._publisher.end_replied(error)

    def lost(self, error: BrokerError) -> None:  # noqa: ARG002 - for those who override it
        """Forget the queue."""
        self._forget()

    def _forget(self) -> None:
        self.address = self._publisher.reply_queue = None
        self.connection.loop.share(False)
        for receiver in list(self._receivers.values()):
            receiver.lost()
