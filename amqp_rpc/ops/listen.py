"""A tap on events: an exclusive queue, bound while a program listens; nothing of it stays in the broker.

It is a seam: the command line prints the events, and other programs may do what they like with them.
"""

from __future__ import annotations

import logging
import queue
from collections.abc import Iterator, Sequence
from typing import Self

from amqp_rpc.amqp.channel import AddressedDelivery, Channel, ChannelClosed, Delivery
from amqp_rpc.amqp.connection import Connection
from amqp_rpc.amqp.declare import declare_exchange
from amqp_rpc.amqp.keeper import Keeper
from amqp_rpc.errors import AmqpRpcError, BrokerError, ConfigurationError
from amqp_rpc.message.exchanges import Binding, Exchange, other_exchange
from amqp_rpc.message.settings import Addresses

logger: logging.Logger = logging.getLogger(__name__)

#: The limit of unacked events, so that a slow reader can't exhaust this process's memory.
_PREFETCH = 1000
#: Seconds to close the connection.
_CLOSE_TIMEOUT = 5.0


class EventTap(Keeper):
    """The events of an exchange, over a connection of its own that reconnects; iterate over it in a ``with`` block.

    Override `ready` for a notice that the queue is bound: later events arrive.
    """

    def __init__(
        self, addresses: Addresses, exchange: Exchange, bindings: Sequence[Binding], *, name: str, heartbeat: float
    ) -> None:
        super().__init__(f"events of the {exchange}")
        self._exchange, self._bindings = exchange, bindings
        self._news: queue.SimpleQueue[AddressedDelivery | AmqpRpcError | None] = queue.SimpleQueue()
        self.begin(Connection(addresses, [self], name=name, heartbeat=heartbeat))

    def __enter__(self) -> Self:
        self.connection.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.connection.close(_CLOSE_TIMEOUT)

    def __iter__(self) -> Iterator[AddressedDelivery]:
        """Yield events until `stop`; an event is acked when the next one is asked for.

        Raises:
            BrokerError: No connection at first, or no permission.
            ConfigurationError: The exchange exists with another type or durability.
        """
        while (news := self._news.get()) is not None:
            if isinstance(news, AmqpRpcError):
                raise news
            yield news
            self.connection.post(news.channel.ack, [news.tag])

    def stop(self) -> None:
        """End the iteration; safe in a signal handler."""
        self._news.put(None)

    def __str__(self) -> str:
        keys = ", ".join(binding.key for binding in self._bindings if binding.key)
        return f"{keys or 'everything'} of the {self._exchange}"

    async def set_up(self, channel: Channel) -> None:
        """Declare, bind and consume; a refusal is final."""
        channel.prefetch(_PREFETCH)
        try:
            await declare_exchange(channel, self._exchange)
            state = await channel.declare("", exclusive=True)
            for binding in self._bindings:
                await channel.bind(state.name, binding.exchange, binding.key, arguments=dict(binding.arguments))
            again = self.cancelled
            await channel.consume(state.name, self._on_event, acknowledge=True, on_cancelled=again, addressed=True)
        except ChannelClosed as closed:
            error: AmqpRpcError = closed.error
            # Only the exchange can exist with other settings: the queue is new.
            if closed.conflict:
                error = ConfigurationError(other_exchange(str(self._exchange), error))
            self._news.put(error)
            # For good, so that it is not opened again.
            self.close()
            raise

    def _on_event(self, delivery: Delivery) -> None:
        assert isinstance(delivery, AddressedDelivery)
        self._news.put(delivery)

    def lost(self, error: BrokerError) -> None:
        """Report a first connection that failed; after that, the connection reconnects."""
        if not self.connection.was_open:
            self._news.put(error)
        else:
            logger.warning("%s: %s; events published meanwhile are missed", self.name, error)
