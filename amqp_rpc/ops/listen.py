"""Events as they come, for who looks on: an exclusive queue, bound while somebody listens, and nothing of it stays."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from amqp_rpc.amqp.channel import AddressedDelivery, Channel, Delivery, QueueState
from amqp_rpc.amqp.connection import Connection
from amqp_rpc.amqp.steps import Steps, declare_exchange, run
from amqp_rpc.errors import AmqpRpcError, BrokerError, ConfigurationError
from amqp_rpc.message.exchanges import Binding, Exchange, other_exchange
from amqp_rpc.message.settings import Addresses

logger = logging.getLogger(__name__)

#: Events that were delivered and not let go of: who looks on slowly does not fill this process's memory.
_PREFETCH = 1000
_PRECONDITION_FAILED = 406


@dataclass(frozen=True, slots=True)
class Source:
    """Where events are looked for.

    Args:
        exchange: Which has them.
        bindings: Which of them.
    """

    exchange: Exchange
    bindings: Sequence[Binding]


class Listening:
    """Takes events and hands each to a callback, over a connection of its own that comes back when it is lost.

    Args:
        addresses: Where the broker is.
        source: What is listened to.
        name: What the broker's tools show for the connection.
        heartbeat: Seconds.
        heard: Called with each event.
        ready: Called each time that the queue is bound: what is published from then on comes.
        failed: Called with why it can't go on.

    All are called on the connection's thread.
    """

    def __init__(
        self,
        addresses: Addresses,
        source: Source,
        *,
        name: str,
        heartbeat: float,
        heard: Callable[[AddressedDelivery], object],
        ready: Callable[[], object],
        failed: Callable[[AmqpRpcError], object],
    ) -> None:
        self._source = source
        self._heard = heard
        self._ready = ready
        self._failed = failed
        self._declaring = False
        self._connection = Connection(addresses, self, name=name, heartbeat=heartbeat)

    def start(self) -> None:
        """Begin to connect."""
        self._connection.start()

    def let_go(self, delivery: Delivery) -> None:
        """Have the broker deliver one more: this one was seen to; any thread."""
        self._connection.post(delivery.channel.ack, [delivery.tag])

    def close(self, timeout: float) -> None:
        """Close the connection, and with it the queue and its bindings are gone.

        Args:
            timeout: Seconds to wait for the broker's good-bye.
        """
        self._connection.close(timeout)

    def on_open(self) -> None:
        """Declare, bind and consume."""
        self._connection.open_channel(self._begin, self._closed)

    def on_unblocked(self) -> None:
        """Do nothing: nothing is published here."""

    def on_lost(self, error: BrokerError) -> None:
        """Take note; it comes back, but for the first time."""
        if not self._connection.was_open:
            self._failed(error)
        else:
            logger.warning("%s; what is published meanwhile is missed", error)

    def _begin(self, channel: Channel) -> None:
        channel.prefetch(_PREFETCH)
        run(self._steps(channel), lambda: None, going=lambda: channel.is_open and self._connection.is_open)

    def _steps(self, channel: Channel) -> Steps:
        self._declaring = True
        yield from declare_exchange(channel, self._source.exchange)
        self._declaring = False
        state: QueueState = yield lambda then: channel.declare("", then, exclusive=True)
        for binding in self._source.bindings:
            yield partial(channel.bind, state.name, binding.exchange, binding.key, arguments=dict(binding.arguments))

        def cancelled() -> None:
            logger.warning(
                "The broker ended the consumer (was its queue deleted?); what is published meanwhile is missed"
            )
            channel.close()
            self.on_open()

        channel.consume(
            state.name, self._take, acknowledge=True, then=self._ready, on_cancelled=cancelled, addressed=True
        )

    def _take(self, delivery: Delivery) -> None:
        assert isinstance(delivery, AddressedDelivery)
        self._heard(delivery)

    def _closed(self, _channel: Channel, error: BrokerError, code: int) -> None:
        if self._declaring and code == _PRECONDITION_FAILED:
            self._failed(ConfigurationError(other_exchange(str(self._source.exchange), error)))
        else:
            self._failed(error)
