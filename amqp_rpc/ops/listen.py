"""A tap on events: an exclusive queue, bound while a program listens; nothing of it stays in the broker.

The command line prints the events; `Client.listen` gives them to programs.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import Self

from amqp_rpc.amqp.channel import AddressedDelivery, Channel, ChannelClosed, Delivery
from amqp_rpc.amqp.connection import Connection
from amqp_rpc.amqp.declare import ensure_exchange
from amqp_rpc.amqp.keeper import Keeper
from amqp_rpc.errors import AmqpRpcError, BrokerError, DeclaredOtherwise, NotConnected
from amqp_rpc.message import codec
from amqp_rpc.message.envelope import PublishedEvent, Request, mark, read_event
from amqp_rpc.message.exchanges import Binding, Exchange, other_exchange
from amqp_rpc.message.settings import Addresses
from amqp_rpc.message.signature import Keys, NotProved
from amqp_rpc.message.text import bounded_logger, quoted, safe_repr
from amqp_rpc.message.timing import Repeats

logger: logging.Logger = bounded_logger(__name__)

#: The limit of unacked events, so that a slow reader can't exhaust this process's memory.
_PREFETCH = 1000
#: No limit: the broker has one, and the message is here.
_ANY = 2**62
#: Seconds to close the connection.
_CLOSE_TIMEOUT = 5.0


class EventTap(Keeper):
    """The events of an exchange, over a connection of its own that reconnects; iterate over it in a ``with`` block.

    Override `ready` for a notice that the queue is bound: later events arrive.
    """

    def __init__(
        self,
        addresses: Addresses,
        exchange: Exchange,
        bindings: Sequence[Binding],
        *,
        name: str,
        heartbeat: float,
        keys: Keys | None = None,
    ) -> None:
        super().__init__(f"events of the {exchange}")
        self._exchange, self._bindings = exchange, bindings
        #: Those with which an event must be signed; None if it need not be. And the log lines of others.
        self._keys = keys
        self._refusals = Repeats()
        self._news: queue.SimpleQueue[AddressedDelivery | AmqpRpcError | None] = queue.SimpleQueue()
        #: Set once it listens, or has failed.
        self.began: threading.Event = threading.Event()
        self.failure: AmqpRpcError | None = None
        #: Called on the I/O thread when there is something new.
        self.on_news: Callable[[], object] = _nothing
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

    def next_delivery(self) -> AddressedDelivery | None:
        """Return the next event that has arrived, and ack it; None for the end. `read` reads it.

        Raises:
            queue.Empty: None has arrived.
            BrokerError, ConfigurationError: As for iteration.
        """
        news = self._news.get_nowait()
        if isinstance(news, AmqpRpcError):
            raise news
        if news is None:
            return None
        self.connection.post(news.channel.ack, [news.tag])
        return news

    @staticmethod
    def read(delivery: AddressedDelivery) -> PublishedEvent:
        """Return the event in a delivery; any thread."""
        return _event(delivery)

    def stop(self) -> None:
        """End the iteration; safe in a signal handler."""
        self._news.put(None)
        self.on_news()

    def abandon(self) -> None:
        """Close without waiting: nobody listens any more."""
        self.connection.begin_close()

    def __str__(self) -> str:
        keys = ", ".join(binding.key for binding in self._bindings if binding.key)
        return f"{keys or 'everything'} of the {self._exchange}"

    async def set_up(self, channel: Channel) -> None:
        """Declare, bind and consume; a refusal is final."""
        channel.prefetch(_PREFETCH)
        try:
            await ensure_exchange(self.connection, self._exchange)
            state = await channel.declare("", exclusive=True)
            for binding in self._bindings:
                await channel.bind(state.name, binding.exchange, binding.key, arguments=dict(binding.arguments))
            again = self.cancelled
            await channel.consume(state.name, self._on_event, acknowledge=True, on_cancelled=again, addressed=True)
            self.began.set()
            self.on_news()
        except ChannelClosed as closed:
            error: AmqpRpcError = closed.error
            # Only the exchange can exist with other settings: the queue is new.
            if closed.conflict:
                error = DeclaredOtherwise(other_exchange(str(self._exchange), error))
            self._fail(error)
            # For good, so that it is not opened again.
            self.close()
            raise

    def _on_event(self, delivery: Delivery) -> None:
        assert isinstance(delivery, AddressedDelivery)
        if self._keys is not None:
            exchange, key = delivery.exchange, delivery.routing_key
            try:
                self._keys.check(delivery.properties, delivery.body, routing_key=key, exchange=exchange)
            except NotProved as error:
                if (times := self._refusals.again(str(error))) is not None:
                    logger.warning(
                        "%s: event %s left out: %s%s", self.name, quoted(delivery.routing_key), error, times or ""
                    )
                delivery.channel.ack([delivery.tag])
                return
        self._news.put(delivery)
        self.on_news()

    def lost(self, error: BrokerError) -> None:
        """Report a first connection that failed; after that, the connection reconnects."""
        if not self.connection.was_open:
            self._fail(error)
        else:
            logger.warning("%s: %s; events published meanwhile are missed", self.name, error)

    def broken(self, error: BrokerError) -> None:
        """End the iteration with the error."""
        self._fail(error)
        self.close()

    def _fail(self, error: AmqpRpcError) -> None:
        self.failure = error
        self._news.put(error)
        self.began.set()
        self.on_news()


class Events(Iterator[PublishedEvent]):
    """The events that a program listens to: `Client.listen` returns it. Leaving it closes its connection.

    Any thread may `close` it, which ends the iteration.
    """

    def __init__(self, tap: EventTap, *, timeout: float) -> None:
        self._tap = tap
        self._deliveries = iter(tap)
        # Before it starts: an error leaves nothing behind.
        self._finalizer = weakref.finalize(self, tap.abandon)
        self._finalizer.atexit = False
        tap.connection.start()
        error: AmqpRpcError | None = None
        if not tap.began.wait(timeout):
            error = NotConnected(f"{tap.name}: the broker did not answer within {timeout:g} s")
        if (error := error or tap.failure) is not None:
            self.close()
            raise error

    def __next__(self) -> PublishedEvent:
        if not self._finalizer.alive:
            raise StopIteration
        return _event(next(self._deliveries))

    def close(self) -> None:
        """End the iteration, and close the connection; a second time this does nothing."""
        if self._finalizer.detach() is not None:
            self._tap.stop()
            self._tap.connection.close(_CLOSE_TIMEOUT)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @safe_repr
    def __repr__(self) -> str:
        return f"<Events {self._tap}>"


def _event(delivery: AddressedDelivery) -> PublishedEvent:
    mark(delivery.properties, delivery.exchange, delivery.routing_key)
    request = Request.read(delivery.properties, delivery.body, redelivered=delivery.redelivered)
    event = read_event(request, delivery.properties)
    payload: object = delivery.body
    # Any program may publish any bytes: they are no reason to stop.
    with contextlib.suppress(AmqpRpcError):
        payload = codec.decode(delivery.body, request.content_type, limit=_ANY)
    return PublishedEvent(event.topic, event.headers, event.id, event.time, event.redelivered, payload)


def _nothing() -> None:
    """Do nothing."""
