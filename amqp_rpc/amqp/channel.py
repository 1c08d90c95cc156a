"""A channel of a connection: requests to await, deliveries, confirms. It wraps pika's channel and imports no pika.

The I/O thread drives *channel scripts*: coroutines that await one answer of the broker after another::

    async def set_up(connection: Connection) -> None:
        channel = await connection.open_channel()
        state = await channel.declare("thumbnails", arguments={"x-queue-type": "quorum"})

`Connection.run` starts one. When the broker closes the channel, the script gets `ChannelClosed` at its await. When the
connection is lost, the script is closed. Messages, acks and confirms don't pass through scripts: they are too many.

It is longer than other modules: a script, its answers, and the channel that resumes and fails them know each other.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Coroutine, Generator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import takewhile
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, Protocol, Self, TypeVar, cast

from amqp_rpc.amqp import frames
from amqp_rpc.amqp.loop import where_signals_raise
from amqp_rpc.errors import AccessRefused, BrokerError, ConnectionLost
from amqp_rpc.message.envelope import Message, Properties
from amqp_rpc.message.refusals import CONFIGURE, READ, WRITE, Need, Rights, is_access, is_conflict
from amqp_rpc.message.text import bounded_logger
from amqp_rpc.message.topology import NAMED_BY_BROKER

if TYPE_CHECKING:
    from amqp_rpc.amqp.stream import Stream

logger: logging.Logger = bounded_logger(__name__)

T = TypeVar("T")


class ChannelClosed(Exception):
    """The channel that a script waits for is closed, for the broker's reason; code 0 if this process closed it."""

    def __init__(self, error: BrokerError, code: int) -> None:
        super().__init__(str(error))
        self.error = error
        self.code = code

    @property
    def conflict(self) -> bool:
        """True if a queue or an exchange exists, and is declared otherwise, or is another connection's."""
        return is_conflict(str(self.error))


@dataclass(slots=True)
class Delivery:
    """A message as the broker delivered it.

    Its channel is its generation: an ack after a reconnect reaches a closed channel, which drops it. The broker has
    redelivered the message by then.
    """

    channel: Channel
    tag: int
    redelivered: bool
    properties: Properties
    body: bytes = field(repr=False)


@dataclass(slots=True)
class AddressedDelivery(Delivery):
    """A delivery with the exchange and the routing key of its message."""

    #: Empty for the default exchange.
    exchange: str
    routing_key: str


@dataclass(slots=True, frozen=True)
class QueueState:
    """The broker's counts for a queue."""

    name: str
    messages: int
    consumers: int


class BrokerAnswer(Generic[T]):
    """The broker's answer to one request. A script awaits it, at once or after other requests."""

    __slots__ = ("_error", "_known", "_script", "_value")

    def __init__(self) -> None:
        self._known = False
        self._error: ChannelClosed | None = None
        self._script: Script | None = None

    def arrive(self, value: T) -> None:
        """Set the value, and resume the script that waits for it."""
        self._value = value
        self._known = True
        if self._script is not None:
            self._script.resume()

    def read(self, frame: Any) -> None:  # noqa: ARG002 - see `_State`
        """Set the value from pika's frame; here it says no more than that the request was served."""
        self.arrive(cast("T", None))

    def fail(self, error: ChannelClosed) -> None:
        """Raise an error in the script that waits, or will wait."""
        self._error = error
        self._known = True
        if self._script is not None:
            self._script.resume()

    def abandon(self) -> None:
        """Close the script that waits: no answer will come."""
        if self._script is not None:
            self._script.stop()

    def wake(self, script: Script) -> None:
        """Resume that script with the answer."""
        self._script = script

    def __await__(self) -> Generator[BrokerAnswer[Any], None, T]:
        if not self._known:
            yield self
        if self._error is not None:
            raise ChannelClosed(self._error.error, self._error.code)
        return self._value


class _State(BrokerAnswer[QueueState]):
    """The state of a queue."""

    __slots__ = ()

    def read(self, frame: Any) -> None:
        self.arrive(QueueState(frame.method.queue, frame.method.message_count, frame.method.consumer_count))


class _Got(BrokerAnswer["Delivery | None"]):
    """A message that was asked for, or none."""

    __slots__ = ("delivery",)

    def __init__(self) -> None:
        super().__init__()
        self.delivery: Delivery | None = None

    def read(self, frame: Any) -> None:  # noqa: ARG002 - it comes after the message
        self.arrive(self.delivery)


class Receipt(Protocol):
    """An object for the broker's confirm, or nack, of a message."""

    def arrive(self, value: bool, /) -> None:
        """Note whether the broker took the message."""


class Consumer(BrokerAnswer[str]):
    """A consumer, from the request for it on; the answer is its tag."""

    __slots__ = ("_channel", "_on_delivery", "tag")

    def __init__(self, channel: Channel, on_delivery: Callable[[Any], object]) -> None:
        super().__init__()
        self._channel = channel
        self._on_delivery = on_delivery
        #: Empty where the channel was closed already.
        self.tag: str = ""

    def read(self, frame: Any) -> None:  # noqa: ARG002 - the tag is pika's
        """Set the value to the tag."""
        self.arrive(self.tag)

    def deliver(self, tag: int, redelivered: bool, properties: Properties, body: bytes) -> None:
        """Hand on a delivery."""
        if self._channel.is_open:
            try:
                self._on_delivery(Delivery(self._channel, tag, redelivered, properties, body))
            except Exception:
                _defect("delivery callback failed")

    def deliver_addressed(
        self, exchange: str, key: str, tag: int, redelivered: bool, properties: Properties, body: bytes
    ) -> None:
        """Hand on a delivery, with its exchange and its routing key."""
        if self._channel.is_open:
            try:
                self._on_delivery(AddressedDelivery(self._channel, tag, redelivered, properties, body, exchange, key))
            except Exception:
                _defect("delivery callback failed")

    def deliver_raw(self, _raw: Any, method: Any, properties: Any, body: bytes) -> None:
        """Hand on a delivery that pika has read."""
        # pika's properties have the attributes of ours.
        self.deliver(method.delivery_tag, method.redelivered, properties, body)

    def deliver_raw_addressed(self, _raw: Any, method: Any, properties: Any, body: bytes) -> None:
        """Hand on a delivery that pika has read, with its exchange and its routing key."""
        exchange, key = _text(method.exchange), _text(method.routing_key)
        self.deliver_addressed(exchange, key, method.delivery_tag, method.redelivered, properties, body)


A = TypeVar("A", bound=BrokerAnswer[Any])


class Script:
    """A coroutine that the I/O thread drives from answer to answer; it awaits nothing but `BrokerAnswer`."""

    def __init__(self, coroutine: Coroutine[Any, None, object], running: set[Script]) -> None:
        self._coroutine = coroutine
        self._name = getattr(coroutine, "__qualname__", "")
        #: Holds it while it runs: a suspended coroutine that is collected runs its ``finally`` blocks on any thread.
        self._all = running
        self._at_work = False
        #: True if it must go no further.
        self._stopped = False
        running.add(self)

    def resume(self) -> None:
        """Go on to the next answer that is not there yet."""
        if self._stopped:
            return
        self._at_work = True
        suspended = False
        try:
            answer = self._coroutine.send(None)
            suspended = True
        except StopIteration:
            pass
        except ChannelClosed as closed:
            logger.debug("channel script %s: ended by a closed channel: %s", self._name, closed)
        except Exception:
            _defect(f"channel script {self._name}: failed")
        finally:
            self._at_work = False
            if not suspended:
                self._stopped = True
                self._all.discard(self)
        if suspended and self._stopped:
            self._close()
        elif suspended:
            answer.wake(self)

    def stop(self) -> None:
        """Close the coroutine where it waits; one that is at work is closed at its next await."""
        self._stopped = True
        if not self._at_work:
            self._close()

    def freeze(self) -> None:
        """Let no answer resume it; `stop` follows. After an interrupt, when nothing but flags is safe to touch."""
        self._stopped = True

    def _close(self) -> None:
        self._all.discard(self)
        # Its ``finally`` blocks may close a channel, which stops the scripts that wait for it.
        self._at_work = True
        try:
            self._coroutine.close()
        except Exception:
            _defect(f"channel script {self._name}: failed while it was closed")


class Channel:
    """A channel of a connection; everything here belongs to the connection's I/O thread.

    Requests are sent at once; await the `BrokerAnswer` for what the broker says. Other operations on a closed channel
    do nothing and return False: its deliveries and consumers are gone. What the broker allowed is noted in ``rights``.
    """

    def __init__(self, raw: Any, *, stream: Stream, frame_max: int, rights: Rights) -> None:
        self._raw = raw
        self._number: int = raw.channel_number
        self._write = stream.write
        self._deliveries = stream.deliveries
        self._writer = frames.MessageWriter(self._number, frame_max, rights.written)
        self._rights = rights
        #: True while it can be used.
        self.is_open: bool = True
        #: Requests without an answer, and the rights that each needs; and the error of later ones, once it is closed.
        self._asked: dict[BrokerAnswer[Any], Sequence[Need]] = {}
        self._error: ChannelClosed | None = None
        self._unconfirmed: dict[int, Receipt] = {}
        self._confirms = False
        self._published = 0
        self._acks = frames.Acks()
        raw.add_on_close_callback(_guarded(self._closed))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def declare(
        self, queue: str, *, exclusive: bool = False, arguments: dict[str, Any] | None = None
    ) -> BrokerAnswer[QueueState]:
        """Declare a durable queue, or an exclusive one; the broker chooses the name where it is empty.

        It is a classic queue unless the arguments name another type.
        """
        # Said, and not left to the default of the virtual host, which may be quorum. In a virtual host whose default is
        # classic, RabbitMQ takes both for the same.
        typed = {"x-queue-type": "classic", **(arguments or {})}
        needs = [(CONFIGURE, queue or NAMED_BY_BROKER)]
        if "x-dead-letter-exchange" in typed:
            needs += [(READ, queue), (WRITE, str(typed["x-dead-letter-exchange"]))]
        options = {"durable": not exclusive, "exclusive": exclusive, "arguments": typed}
        return self._ask(_State(), needs, "queue_declare", queue, **options)

    def declare_exchange(
        self, exchange: str, *, kind: str = "topic", durable: bool = True, arguments: dict[str, Any] | None = None
    ) -> BrokerAnswer[None]:
        """Declare an exchange."""
        needs = [(CONFIGURE, exchange)]
        if arguments and "alternate-exchange" in arguments:
            needs += [(READ, exchange), (WRITE, str(arguments["alternate-exchange"]))]
        options = {"exchange_type": kind, "durable": durable, "arguments": arguments}
        return self._ask(BrokerAnswer[None](), needs, "exchange_declare", exchange, **options)

    def bind(
        self, queue: str, exchange: str, key: str, *, arguments: dict[str, Any] | None = None
    ) -> BrokerAnswer[None]:
        """Route an exchange's messages with matching keys, or headers, to a queue."""
        needs = (WRITE, queue), (READ, exchange)
        return self._ask(BrokerAnswer[None](), needs, "queue_bind", queue, exchange, key, arguments)

    def unbind(self, queue: str, exchange: str, key: str, *, arguments: dict[str, Any]) -> BrokerAnswer[None]:
        """Undo a binding; one that does not exist does no harm."""
        needs = (WRITE, queue), (READ, exchange)
        return self._ask(BrokerAnswer[None](), needs, "queue_unbind", queue, exchange, key, arguments)

    def bind_exchange(self, destination: str, source: str, key: str) -> BrokerAnswer[None]:
        """Route an exchange's messages with matching keys to another exchange."""
        needs = (WRITE, destination), (READ, source)
        return self._ask(BrokerAnswer[None](), needs, "exchange_bind", destination, source, key)

    def inspect(self, queue: str) -> BrokerAnswer[QueueState]:
        """Ask for a queue's state; when it does not exist, the broker closes the channel (404)."""
        return self._ask(_State(), (), "queue_declare", queue, passive=True)

    def inspect_exchange(self, exchange: str) -> BrokerAnswer[None]:
        """Ask for an exchange; when it does not exist, the broker closes the channel (404)."""
        return self._ask(BrokerAnswer[None](), (), "exchange_declare", exchange, passive=True)

    def served(self) -> BrokerAnswer[None]:
        """Wait until the broker has served all requests and messages before this one, which needs no right."""
        return self._ask(BrokerAnswer[None](), (), "basic_qos")

    def get(self, queue: str) -> BrokerAnswer[Delivery | None]:
        """Take one message from a queue; None where it is empty."""
        got = _Got()

        def arrived(_raw: Any, method: Any, properties: Any, body: bytes) -> None:
            got.delivery = Delivery(self, method.delivery_tag, method.redelivered, properties, body)

        if self._raw.is_open:
            self._raw.basic_get(queue, callback=_guarded(arrived))
        # pika reports nothing for an empty queue; the answer to a second request says that the first was answered.
        return self._ask(got, [(READ, queue)], "queue_declare", queue, passive=True)

    def delete(self, queue: str) -> BrokerAnswer[None]:
        """Delete a queue that is empty and has no consumer; for any other one, the broker closes the channel (406)."""
        return self._ask(
            BrokerAnswer[None](), [(CONFIGURE, queue)], "queue_delete", queue, if_unused=True, if_empty=True
        )

    def purge(self, queue: str) -> None:
        """Empty a queue."""
        if self.is_open:
            self._raw.queue_purge(queue)

    def prefetch(self, count: int) -> None:
        """Limit the unacked deliveries of each later consumer."""
        if self._raw.is_open:
            self._raw.basic_qos(prefetch_count=count)

    def consume(
        self,
        queue: str,
        on_delivery: Callable[[Any], object],
        *,
        acknowledge: bool,
        on_cancelled: Callable[[], object] | None = None,
        addressed: bool = False,
        arguments: dict[str, Any] | None = None,
    ) -> Consumer:
        """Consume a queue. The answer comes before the first delivery.

        Args:
            queue: Its name.
            on_delivery: Called with each `Delivery`.
            acknowledge: True if each delivery will be acked.
            on_cancelled: Called when the broker cancels the consumer, as it does when the queue is deleted.
            addressed: True to make each an `AddressedDelivery`.
            arguments: The consumer's, as RabbitMQ has them.
        """
        consumer = Consumer(self, on_delivery)
        if not self._may_ask(consumer, [(READ, queue)]):
            return consumer
        if on_cancelled is not None:
            self._raw.add_on_cancel_callback(_guarded(lambda _frame: on_cancelled()))
        raw = consumer.deliver_raw_addressed if addressed else consumer.deliver_raw
        callback = _guarded(partial(self._answered, consumer))
        options = {"auto_ack": not acknowledge, "arguments": arguments}
        tag = consumer.tag = self._raw.basic_consume(queue, raw, callback=callback, **options)
        if addressed:
            self._deliveries.enter_addressed(self._number, tag, consumer.deliver_addressed)
        else:
            self._deliveries.enter(self._number, tag, consumer.deliver)
        return consumer

    def cancel(self, tag: str) -> BrokerAnswer[None]:
        """Cancel a consumer; its unacked deliveries stay unacked."""
        answer = BrokerAnswer[None]()
        if not self._may_ask(answer):
            return answer

        def cancelled(frame: Any) -> None:
            self._deliveries.dismiss(self._number, tag)
            self._answered(answer, frame)

        self._raw.basic_cancel(tag, callback=_guarded(cancelled))
        # pika would requeue a delivery that arrives before the broker's answer, and with the `redelivered` flag a call
        # that must not run twice would be refused, though it never ran. So it is delivered here, and handled.
        self._raw._cancelled.discard(tag)  # noqa: SLF001
        return answer

    def publish(self, message: Message, *, mandatory: bool = False) -> bool:
        """Send a message to its queue or its exchange, at once or through the delay queues.

        Raises:
            Exception: AMQP can't carry it: its properties are too large, or one has no type of AMQP. Nothing of it was
                sent.
        """
        if not self.is_open:
            return False
        pieces = self._writer.write(message, mandatory=mandatory)
        if pieces is None:
            if not self._raw.is_open:
                return False
            exchange, key = frames.address(message)
            properties = self.to_raw(message.properties)
            # Two octets of these are the flags.
            self._writer.check(sum(map(len, properties.encode())) - 2)
            self._raw.basic_publish(exchange, key, message.body, properties, mandatory)
        else:
            for piece in pieces:
                self._write(piece)
        # A message that can't be written is not counted: the broker counts what it gets, and confirms by that number.
        self._published += 1
        return True

    def publish_confirmed(self, message: Message, receipt: Receipt, *, mandatory: bool = False) -> bool:
        """Send a message, and report to its receipt whether the broker took it; on a channel with `confirms`."""
        assert self._confirms
        if not self.publish(message, mandatory=mandatory):
            return False
        self._unconfirmed[self._published] = receipt
        return True

    def confirmed(self, message: Message, *, mandatory: bool = False) -> BrokerAnswer[bool]:
        """Send a message; the answer is whether the broker took it. On a channel with `confirms`."""
        answer = BrokerAnswer[bool]()
        if self._error is not None:
            answer.fail(self._error)
        else:
            self.publish_confirmed(message, answer, mandatory=mandatory)
        return answer

    def confirms(self) -> BrokerAnswer[None]:
        """Switch publisher confirms on; the broker counts from here: https://www.rabbitmq.com/docs/confirms."""
        self._confirms, self._published = True, 0
        self._deliveries.confirm(self._number, self._confirmed)
        # pika wants a callback for confirms too; they don't come its way.
        return self._ask(BrokerAnswer[None](), (), "confirm_delivery", lambda _frame: None)

    def on_returned(self, callback: Callable[[str, Properties], object]) -> None:
        """Call back with the routing key and the properties of each mandatory message that reached no queue."""
        self._raw.add_on_return_callback(
            _guarded(lambda _raw, method, properties, _body: callback(method.routing_key, properties))
        )

    def ack(self, tags: Sequence[int]) -> bool:
        """Ack deliveries of a consumer."""
        if not self.is_open:
            return False
        for tag, multiple in self._acks.settle(tags):
            self._write(frames.ack(self._number, tag, multiple=multiple))
        return True

    def reject(self, tag: int, *, requeue: bool) -> bool:
        """Reject a delivery, and requeue it or not."""
        if not self.is_open:
            return False
        self._raw.basic_reject(tag, requeue=requeue)
        # It is settled: a ``multiple`` ack may reach over it.
        self._acks.settle([tag])
        return True

    def requeue(self, tags: Sequence[int]) -> bool:
        """Requeue deliveries in their order; no other one before the last of them may be unacked."""
        if not self.is_open:
            return False
        self._raw.basic_nack(tags[-1], multiple=True, requeue=True)
        self._acks.settle(tags)
        return True

    def give_back(self) -> bool:
        """Requeue all unacked deliveries.

        With basic.nack, which from RabbitMQ 4.3 on does not count towards a delivery limit, as the channel's end does:
        https://www.rabbitmq.com/docs/quorum-queues#poison-message-handling
        """
        # pika raises where the connection is closing.
        if not (self.is_open and self._raw.is_open):
            return False
        self._raw.basic_nack(0, multiple=True, requeue=True)
        return True

    def close(self) -> None:
        """Close it, and the scripts that wait for its answers; harmless when it is closed."""
        if self.is_open:
            self.is_open = False
            self._error = ChannelClosed(BrokerError("this channel is closed"), 0)
            self._deliveries.leave(self._number)
            # It is closing already where its whole connection is.
            if self._raw.is_open:
                self._raw.close()
            for answer in self._waiting():
                answer.abandon()

    def closed(self) -> BrokerAnswer[None]:
        """Return an answer that never comes: awaited, it raises `ChannelClosed` when the broker closes the channel."""
        answer = BrokerAnswer[None]()
        self._may_ask(answer)
        return answer

    def drop(self) -> None:
        """Stop using pika's object, which will report nothing any more: see `Connection`."""
        self.is_open = False
        self._unconfirmed.clear()
        self._error = ChannelClosed(ConnectionLost("the connection was dropped"), 0)

    def to_raw(self, properties: Properties) -> Any:
        """Return properties as pika's."""
        raise NotImplementedError

    def _may_ask(self, answer: BrokerAnswer[Any], needs: Sequence[Need] = ()) -> bool:
        """Return whether the broker can be asked, and have the answer wait; where it can't, the answer says so.

        pika raises for a channel that is not open. Where the whole connection is closing, no answer comes: its scripts
        are closed in a moment.
        """
        if self._error is not None:
            answer.fail(self._error)
        elif self._raw.is_open:
            self._asked[answer] = needs
            return True
        return False

    def _ask(self, answer: A, needs: Sequence[Need], method: str, *args: Any, **options: Any) -> A:
        if self._may_ask(answer, needs):
            getattr(self._raw, method)(*args, callback=_guarded(partial(self._answered, answer)), **options)
        return answer

    def _answered(self, answer: BrokerAnswer[Any], frame: Any) -> None:
        if needs := self._asked.pop(answer, ()):
            self._rights.use(needs)
        answer.read(frame)

    def _waiting(self) -> list[BrokerAnswer[Any]]:
        """Return all answers that have not come, newest first, and forget them."""
        receipts = [each for each in self._unconfirmed.values() if isinstance(each, BrokerAnswer)]
        waiting = [*receipts, *reversed(self._asked)]
        self._asked.clear()
        self._unconfirmed.clear()
        return waiting

    def _confirmed(self, tag: int, multiple: bool, taken: bool) -> None:
        # Publishing order is dictionary order: "multiple" ends a leading run of it.
        run = list(takewhile(lambda each: each <= tag, self._unconfirmed)) if multiple else [tag]
        for one in run:
            receipt = self._unconfirmed.pop(one, None)
            try:
                if receipt is not None:
                    receipt.arrive(taken)
            except Exception:
                _defect("confirm callback failed")

    def _closed(self, _raw: Any, reason: Any) -> None:
        self.is_open = False
        self._deliveries.forget(self._number)
        # Otherwise the whole connection was lost, or this process closed the channel.
        if type(reason).__name__ == "ChannelClosedByBroker":
            code, text = reason.reply_code, reason.reply_text
            kind = AccessRefused if is_access(code, text) else BrokerError
            # The broker serves requests in order: it is the oldest one that it has refused, or a message.
            text += self._rights.missing(text, next(iter(self._asked.values()), ()))
            self._error = ChannelClosed(kind(f"the broker closed the channel: {code} {text}"), code)
            for answer in self._waiting():
                answer.fail(self._error)
        else:
            self._unconfirmed.clear()
            # The scripts that wait are closed with the connection; a later one must not wait for ever.
            self._error = self._error or ChannelClosed(ConnectionLost("the connection was lost"), 0)


def _text(name: str | bytes) -> str:
    """Return a name as text; pika gives bytes where it is not UTF-8."""
    return name if isinstance(name, str) else name.decode(errors="backslashreplace")


def _guarded(callback: Callable[..., object]) -> Callable[..., None]:
    """Return a callback for pika that never raises: a defect of ours must not end the connection."""

    def guarded(*arguments: Any) -> None:
        try:
            callback(*arguments)
        except Exception:
            _defect("channel callback failed")

    return guarded


def _defect(message: str) -> None:
    """Log the current exception; raised on, it would end the connection, as a broken stream does.

    On a user's main thread it may be a signal handler's: it is raised on.
    """
    if where_signals_raise():
        raise  # noqa: PLE0704 - the current exception
    logger.exception(message)  # noqa: LOG004 - its callers handle one
