"""A channel: what a connection's owner asks of the broker, in our words. It wraps pika's, but imports no pika."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from itertools import takewhile
from typing import Any, cast

from amqp_rpc.amqp import frames
from amqp_rpc.amqp.acks import Acks
from amqp_rpc.amqp.deliveries import AddressedConsumer, Consumer
from amqp_rpc.amqp.frames import Publisher
from amqp_rpc.amqp.loop import where_signals_raise
from amqp_rpc.amqp.stream import Stream
from amqp_rpc.amqp.transport import AddressedDelivery, Delivery, QueueState
from amqp_rpc.errors import AccessRefused, BrokerError
from amqp_rpc.message.envelope import Message, Properties

logger = logging.getLogger(__name__)

_ACCESS_REFUSED = 403


class Channel:
    """A channel of a connection; everything here belongs to the connection's owner.

    Asking for something on a channel that is closed does nothing and returns False: its deliveries and consumers are
    gone, and the listener or ``on_closed`` has been told.
    """

    def __init__(
        self,
        raw: Any,
        to_raw: Callable[[Properties], Any],
        on_closed: Callable[[Channel, BrokerError, int], object],
        *,
        stream: Stream,
        frame_max: int,
    ) -> None:
        self._raw = raw
        self._number: int = raw.channel_number
        self._write = stream.write
        self._deliveries = stream.deliveries
        self._publisher = Publisher(self._number, frame_max)
        #: Whether it can be used.
        self.is_open = True
        self._to_raw = to_raw
        self._on_closed = on_closed
        self._unconfirmed: dict[int, Callable[[bool], object]] = {}
        self._confirms = False
        self._published = 0
        self._acks = Acks()
        raw.add_on_close_callback(_guarded(self._closed))

    def declare(
        self,
        queue: str,
        then: Callable[[QueueState], object],
        *,
        exclusive: bool = False,
        arguments: dict[str, Any] | None = None,
    ) -> None:
        """Declare a durable queue, or an exclusive one; an empty name has the broker choose one."""
        self._ask(
            self._raw.queue_declare,
            queue,
            durable=not exclusive,
            exclusive=exclusive,
            arguments=arguments,
            callback=_guarded(lambda frame: then(_queue_state(frame))),
        )

    def declare_exchange(
        self,
        exchange: str,
        then: Callable[[], object],
        *,
        kind: str = "topic",
        durable: bool = True,
        arguments: dict[str, Any] | None = None,
    ) -> None:
        """Declare an exchange."""
        self._ask(
            self._raw.exchange_declare,
            exchange,
            exchange_type=kind,
            durable=durable,
            arguments=arguments,
            callback=_guarded(lambda _frame: then()),
        )

    def bind(
        self,
        queue: str,
        exchange: str,
        key: str,
        then: Callable[[], object],
        *,
        arguments: dict[str, Any] | None = None,
    ) -> None:
        """Have an exchange's messages with matching keys, or headers, routed to a queue."""
        self._ask(self._raw.queue_bind, queue, exchange, key, arguments, callback=_guarded(lambda _frame: then()))

    def unbind(
        self, queue: str, exchange: str, key: str, then: Callable[[], object], *, arguments: dict[str, Any]
    ) -> None:
        """Undo a binding; one that is not there does no harm."""
        self._ask(self._raw.queue_unbind, queue, exchange, key, arguments, callback=_guarded(lambda _frame: then()))

    def bind_exchange(self, destination: str, source: str, key: str, then: Callable[[], object]) -> None:
        """Have an exchange's messages with matching keys routed to another exchange."""
        self._ask(self._raw.exchange_bind, destination, source, key, callback=_guarded(lambda _frame: then()))

    def inspect(self, queue: str, then: Callable[[QueueState], object]) -> None:
        """Ask for a queue's state; when there is no such queue, the broker closes the channel with 404."""
        self._ask(
            self._raw.queue_declare, queue, passive=True, callback=_guarded(lambda frame: then(_queue_state(frame)))
        )

    def inspect_exchange(self, exchange: str, then: Callable[[], object]) -> None:
        """Ask for an exchange; when there is no such one, the broker closes the channel with 404."""
        self._ask(self._raw.exchange_declare, exchange, passive=True, callback=_guarded(lambda _frame: then()))

    def get(self, queue: str, then: Callable[[Delivery | None], object]) -> None:
        """Take one message; call back with it, or with None where the queue is empty."""
        got: list[Delivery] = []
        self._ask(
            self._raw.basic_get,
            queue,
            callback=_guarded(
                lambda _raw, method, properties, body: got.append(
                    Delivery(self, method.delivery_tag, method.redelivered, cast(Properties, properties), body)
                )
            ),
        )
        # pika says nothing of an empty queue; the answer to a second question says that the first was answered.
        self.inspect(queue, lambda _state: then(got[0] if got else None))

    def reject(self, tag: int, *, requeue: bool) -> bool:
        """Refuse a delivery: back to its queue, or away."""
        if not self.is_open:
            return False
        self._raw.basic_reject(tag, requeue=requeue)
        # It is settled: what is acknowledged together may reach over it.
        self._acks.settle([tag])
        return True

    def give_back(self) -> bool:
        """Give all deliveries back that are not acknowledged.

        With basic.nack, which from RabbitMQ 4.3 on does not count towards a delivery limit, as the channel's end does:
        https://www.rabbitmq.com/docs/quorum-queues#poison-message-handling
        """
        if not self.is_open:
            return False
        self._raw.basic_nack(0, multiple=True, requeue=True)
        return True

    def delete(self, queue: str, then: Callable[[], object]) -> None:
        """Delete a queue that is empty and has no consumer; with one, or with messages, the channel is closed (406)."""
        self._ask(
            self._raw.queue_delete, queue, if_unused=True, if_empty=True, callback=_guarded(lambda _frame: then())
        )

    def purge(self, queue: str) -> None:
        """Empty a queue."""
        if self.is_open:
            self._raw.queue_purge(queue)

    def prefetch(self, count: int) -> None:
        """Limit the deliveries of each later consumer that are not acknowledged yet."""
        self._ask(self._raw.basic_qos, prefetch_count=count)

    def consume(
        self,
        queue: str,
        on_delivery: Callable[[Delivery], object],
        *,
        acknowledge: bool,
        then: Callable[[], object],
        on_cancelled: Callable[[], object] | None = None,
        addressed: bool = False,
    ) -> str:
        """Have a queue's messages delivered; return the consumer's tag.

        Args:
            queue: Its name.
            on_delivery: Called for each message.
            acknowledge: Whether each delivery will be acknowledged.
            then: Called once the broker has agreed.
            on_cancelled: Called when the broker ends the consumer, as it does when the queue is deleted.
            addressed: Whether deliveries are to say how they came: each is an `AddressedDelivery`.
        """
        deliver, deliver_addressed = self._plain(on_delivery), self._addressed(on_delivery)

        def deliver_raw(_raw: Any, method: Any, properties: Any, body: bytes) -> None:
            # pika's properties have the attributes of ours.
            came = method.delivery_tag, method.redelivered, cast(Properties, properties), body
            if addressed:
                deliver_addressed(_text(method.exchange), _text(method.routing_key), *came)
            else:
                deliver(*came)

        if on_cancelled is not None:
            self._raw.add_on_cancel_callback(_guarded(lambda _frame: on_cancelled()))
        then_raw = _guarded(lambda _frame: then())
        tag = self._ask(self._raw.basic_consume, queue, deliver_raw, auto_ack=not acknowledge, callback=then_raw)
        if tag is not None and addressed:
            self._deliveries.enter_addressed(self._number, tag, deliver_addressed)
        elif tag is not None:
            self._deliveries.enter(self._number, tag, deliver)
        return tag or ""

    def _plain(self, on_delivery: Callable[[Delivery], object]) -> Consumer:
        def deliver(tag: int, redelivered: bool, properties: Properties, body: bytes) -> None:
            if not self.is_open:
                return
            try:
                on_delivery(Delivery(self, tag, redelivered, properties, body))
            except Exception:
                if where_signals_raise():
                    raise
                # Raised on, it would end the connection, as a broken stream does.
                logger.exception("A delivery could not be taken in hand")

        return deliver

    def _addressed(self, on_delivery: Callable[[Delivery], object]) -> AddressedConsumer:
        def deliver(exchange: str, key: str, tag: int, redelivered: bool, properties: Properties, body: bytes) -> None:
            if not self.is_open:
                return
            try:
                on_delivery(AddressedDelivery(self, tag, redelivered, properties, body, exchange, key))
            except Exception:
                if where_signals_raise():
                    raise
                logger.exception("An event could not be taken in hand")

        return deliver

    def cancel(self, tag: str, then: Callable[[], object]) -> bool:
        """End a consumer; deliveries that were made stay to be acknowledged."""
        if not self.is_open:
            return False

        def cancelled(_frame: Any) -> None:
            self._deliveries.dismiss(self._number, tag)
            then()

        self._raw.basic_cancel(tag, callback=_guarded(cancelled))
        # pika would give back what arrives before the broker's answer, marked as redelivered: a call that must not run
        # twice would then be refused, though it never ran. It is delivered to us, and we finish it.
        self._raw._cancelled.discard(tag)  # noqa: SLF001
        return True

    def publish(self, message: Message, *, mandatory: bool = False) -> bool:
        """Send a message to its queue, at once or through the levels of delay.

        Raises:
            Exception: It can't be written: its properties are too large, or one of them is nothing that AMQP has.
                Nothing of it was sent then.
        """
        if not self.is_open:
            return False
        pieces = self._publisher.publish(message, mandatory=mandatory)
        if pieces is None:
            if not self._raw.is_open:
                return False
            exchange, key = frames.address(message)
            properties = self._to_raw(message.properties)
            # Two octets of these are the flags.
            self._publisher.check(sum(map(len, properties.encode())) - 2)
            self._raw.basic_publish(exchange, key, message.body, properties, mandatory)
        else:
            for piece in pieces:
                self._write(piece)
        # What could not be written is not counted: the broker counts what it gets, and confirms by that number.
        self._published += 1
        return True

    def publish_confirmed(self, message: Message, then: Callable[[bool], object], *, mandatory: bool = False) -> bool:
        """Send a message and call back with whether the broker took it; on a channel with `confirms`."""
        assert self._confirms
        if not self.publish(message, mandatory=mandatory):
            return False
        self._unconfirmed[self._published] = then
        return True

    def confirms(self, then: Callable[[], object]) -> None:
        """Have the broker confirm every message: https://www.rabbitmq.com/docs/confirms."""
        self._confirms = True
        self._deliveries.confirm(self._number, self._confirmed)
        # pika wants a callback for confirms too; they don't come its way.
        self._ask(self._raw.confirm_delivery, lambda _frame: None, callback=_guarded(lambda _frame: then()))

    def on_returned(self, callback: Callable[[str, Properties], object]) -> None:
        """Call back with the routing key and the properties of each mandatory message that no queue took."""
        self._raw.add_on_return_callback(
            _guarded(lambda _raw, method, properties, _body: callback(method.routing_key, properties))
        )

    def ack(self, tags: Sequence[int]) -> bool:
        """Acknowledge deliveries of a consumer."""
        if not self.is_open:
            return False
        for tag, multiple in self._acks.settle(tags):
            self._write(frames.ack(self._number, tag, multiple=multiple))
        return True

    def close(self) -> None:
        """Close it; harmless when it is closed."""
        if self.is_open:
            self.is_open = False
            self._deliveries.leave(self._number)
            # It is closing already where its whole connection is.
            if self._raw.is_open:
                self._raw.close()

    def drop(self) -> None:
        """Take note that pika's object is not used any more, and will say nothing of it: see `Connection`."""
        self.is_open = False
        self._unconfirmed.clear()

    def close_in_order(self, then: Callable[[], object]) -> None:
        """Close it, and call back when the broker has, or the connection is lost.

        What is not acknowledged goes back to its queue in its order, for each consumer. `close` has pika cancel them
        first: then what is on its way to them goes back before what was delivered.
        """
        if self.is_open and self._raw.is_open:
            self._raw.add_on_close_callback(_guarded(lambda _raw, _reason: then()))
            self._raw._cancelled.update(self._raw._consumers)  # noqa: SLF001 - it cancels none of these again
            self.close()
        else:
            then()

    def _ask(self, method: Callable[..., Any], *args: Any, **options: Any) -> Any:
        # It may be closing with its connection while one answer after another comes in: pika would raise then.
        return method(*args, **options) if self._raw.is_open else None

    def _confirmed(self, tag: int, multiple: bool, taken: bool) -> None:
        # Publishing order is dictionary order: "multiple" ends a leading run of it.
        run = list(takewhile(lambda each: each <= tag, self._unconfirmed)) if multiple else [tag]
        for one in run:
            then = self._unconfirmed.pop(one, None)
            try:
                if then is not None:
                    then(taken)
            except Exception:
                if where_signals_raise():
                    raise
                # Raised on, it would end the connection, as a broken stream does.
                logger.exception("A confirm could not be taken note of")

    def _closed(self, _raw: Any, reason: Any) -> None:
        self.is_open = False
        self._deliveries.forget(self._number)
        self._unconfirmed.clear()
        # Otherwise it is the whole connection that was lost, or we who closed the channel.
        if type(reason).__name__ == "ChannelClosedByBroker":
            code, text = reason.reply_code, reason.reply_text
            kind = AccessRefused if code == _ACCESS_REFUSED else BrokerError
            self._on_closed(self, kind(f"the broker closed the channel: {code} {text}"), code)


def _text(name: str | bytes) -> str:
    """Return a name as text; pika gives bytes for what is no UTF-8."""
    return name if isinstance(name, str) else name.decode(errors="backslashreplace")


def _queue_state(frame: Any) -> QueueState:
    return QueueState(frame.method.queue, frame.method.message_count, frame.method.consumer_count)


def _guarded(callback: Callable[..., object]) -> Callable[..., None]:
    """Return a callback for pika that never raises: a defect of ours must not end the connection."""

    def guarded(*arguments: Any) -> None:
        try:
            callback(*arguments)
        except Exception:
            if where_signals_raise():
                raise
            logger.exception("A callback of a channel failed")

    return guarded
