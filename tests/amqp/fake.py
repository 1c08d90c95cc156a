"""One fake of a connection and its channels, for all unit tests: it notes each request, and answers as RabbitMQ would.

Everything exists on the fake broker, unless a test gives the names that do::

    connection = FakeConnection()                       # every queue and exchange exists
    connection = FakeConnection(there={"q", "x"})       # inspecting any other name closes the channel (404)
    connection.arguments["q"] = {"x-max-length": 1}     # declaring q with others closes the channel (406)
    connection.refuse("q", ReplyCode.NOT_FOUND)         # declaring, inspecting or consuming q closes the channel
    connection.refuse("q", ReplyCode.ACCESS_REFUSED)    # the same, but not for inspecting, which needs no right
    connection.hold("q")                                # requests for q wait until connection.answer()

Give it to the object under test with ``cast("Connection", connection)``, or annotate the parameter as ``Any``. Then
read the notes: ``connection.channels[0].requests`` has ``("declare", "q")`` and so on, ``.queues`` and ``.exchanges``
the names that were declared, ``.published`` the messages, ``.acked`` the tags. Play the broker: ``channel.confirm()``,
``channel.nack()``, ``channel.give_back(message)`` (basic.return), ``channel.deliver("q", message)``,
``channel.cancel_consumers()``, ``channel.closed_by_broker(code)``, ``connection.lose()``. Time passes in
``connection.loop.pass_time()``.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Coroutine, Sequence
from typing import Any, Self

from amqp_rpc.amqp.channel import (
    AddressedDelivery,
    BrokerAnswer,
    ChannelClosed,
    Consumer,
    Delivery,
    QueueState,
    Receipt,
    Script,
)
from amqp_rpc.errors import AccessRefused, BrokerError
from amqp_rpc.message.envelope import Message, Properties
from amqp_rpc.message.refusals import ReplyCode, body_too_large, largest_body


class Timers:
    """Stands for a loop whose time passes when the test says so."""

    def __init__(self) -> None:
        self.later: list[Callable[[], object]] = []

    def call_later(self, _delay: float, callback: Callable[[], object]) -> Timer:
        self.later.append(callback)
        return Timer(self, callback)

    def pass_time(self) -> None:
        due, self.later = self.later, []
        for callback in due:
            callback()

    def do(self, callback: Callable[..., object], *args: Any) -> None:
        callback(*args)

    post = leave = do

    def share(self, _shared: bool) -> None:
        """Nobody else works here."""


class Timer:
    def __init__(self, timers: Timers, callback: Callable[[], object]) -> None:
        self._timers = timers
        self._callback = callback

    def cancel(self) -> None:
        if self._callback in self._timers.later:
            self._timers.later.remove(self._callback)


class FakeConnection:
    """A connection that is open. Its listener is notified by the test alone."""

    def __init__(self, there: Collection[str] | None = None) -> None:
        self.is_open = self.was_open = self.alive = True
        self.blocked: str | None = None
        self.address = "amqp://localhost"
        self.version: tuple[int, ...] = (3, 10)
        self.loop = Timers()
        self.there = there
        #: Of queues that exist already, by name.
        self.arguments: dict[str, dict[str, Any]] = {}
        self.channels: list[FakeChannel] = []
        self.scripts: set[Script] = set()
        #: How many messages, and how many consumers, each queue has.
        self.messages: dict[str, int] = {}
        self.consumers: dict[str, int] = {}
        #: The largest body that is known to fit; and the broker's limit, which `check_size` finds.
        self.fits = 16 * 1024
        self.limit = 2**62
        self._refused: dict[str, ReplyCode] = {}
        self._held: set[str] = set()
        self._waiting: list[Callable[[], None]] = []

    def refuse(self, name: str, code: ReplyCode | None) -> None:
        """Close the channel of each request for that name from now on; None answers again."""
        if code is None:
            del self._refused[name]
        else:
            self._refused[name] = code

    def hold(self, name: str) -> None:
        """Have the requests for that name wait for `answer`."""
        self._held.add(name)

    def answer(self, count: int | None = None) -> None:
        """Answer the requests that wait, oldest first, and those that follow: all, or so many."""
        while self._waiting and count != 0:
            self._waiting.pop(0)()
            count = None if count is None else count - 1

    @property
    def waiting(self) -> int:
        """How many requests wait."""
        return len(self._waiting)

    def lose(self) -> None:
        """Be lost: scripts are closed and channels forgotten. The test notifies the listener."""
        self.is_open = False
        for channel in self.channels:
            channel.is_open = False
        for script in list(self.scripts):
            script.stop()

    def reopen(self) -> None:
        self.is_open = True

    # As `Connection`.

    def run(self, coroutine: Coroutine[Any, None, object]) -> Script:
        script = Script(coroutine, self.scripts)
        if self.is_open:
            script.resume()
        else:
            script.stop()
        return script

    def pause(self, seconds: float) -> BrokerAnswer[None]:
        answer = BrokerAnswer[None]()
        self.loop.call_later(seconds, lambda: answer.arrive(None))
        return answer

    def open_channel(self) -> BrokerAnswer[Any]:
        answer = BrokerAnswer[Any]()
        if self.is_open:
            channel = FakeChannel(self)
            self.channels.append(channel)
            answer.arrive(channel)
        return answer

    async def check_size(self, size: int) -> None:
        if size > self.fits != self.limit:
            await self.pause(0)
            self.fits = min(2 * size, self.limit)
        if size > self.limit:
            raise body_too_large(size, self.limit)

    def learn_limit(self, reason: str) -> int | None:
        limit = largest_body(reason)
        if limit is not None:
            self.fits = self.limit = limit
        return limit

    def post(self, callback: Callable[..., object], *args: Any) -> None:
        callback(*args)

    do = post

    # For its channels.

    def request(self, name: str, serve: Callable[[], None]) -> None:
        if name in self._held:
            self._waiting.append(serve)
        else:
            serve()

    def refusal(
        self, name: str, *, passive: bool, asks: bool = False, arguments: dict[str, Any] | None = None
    ) -> ReplyCode | None:
        code = self._refused.get(name)
        # To ask needs no right.
        if code is not None and not (asks and code == ReplyCode.ACCESS_REFUSED):
            return code
        if passive and self.there is not None and name not in self.there:
            return ReplyCode.NOT_FOUND
        if arguments is not None and self.arguments.get(name, arguments) != arguments:
            return ReplyCode.PRECONDITION_FAILED
        return None


#: What RabbitMQ says beside its code.
SAID: dict[int, str] = {
    ReplyCode.PRECONDITION_FAILED: "PRECONDITION_FAILED - inequivalent arg",
    ReplyCode.RESOURCE_LOCKED: "RESOURCE_LOCKED - cannot obtain exclusive access to locked queue",
}


class FakeChannel:
    """A channel that answers at once, unless the connection holds the name."""

    def __init__(self, connection: FakeConnection) -> None:
        self.is_open = True
        self._connection = connection
        self._error: ChannelClosed | None = None
        self._asked: dict[BrokerAnswer[Any], None] = {}
        self._generated = 0
        #: The requests in order: the operation and its name.
        self.requests: list[tuple[str, str]] = []
        self.queues: list[str] = []
        self.exchanges: list[str] = []
        #: Queue, or exchange, and the exchange and the key by which messages come to it.
        self.bindings: list[tuple[str, str, str]] = []
        self.published: list[Message] = []
        self.unconfirmed: list[tuple[Message, Receipt]] = []
        self.acked: list[int] = []
        self.rejected: list[tuple[int, bool]] = []
        self.consumer_arguments: dict[str, dict[str, Any] | None] = {}
        self.consuming: dict[str, tuple[str, Callable[[Delivery], object]]] = {}
        self._on_cancelled: list[Callable[[], object]] = []
        self._on_returned: list[Callable[[str, Properties], object]] = []
        self._tags = 0
        #: The error of `publish` for a message, by its routing key.
        self.unwritable: dict[str, Exception] = {}

    # The broker's side.

    def closed_by_broker(self, code: int = ReplyCode.PRECONDITION_FAILED, error: BrokerError | None = None) -> None:
        kind = AccessRefused if code == ReplyCode.ACCESS_REFUSED else BrokerError
        self.is_open = False
        reason = f"the broker closed the channel: {int(code)} {SAID.get(code, '')}".rstrip()
        self._error = ChannelClosed(error or kind(reason), code)
        asked, self._asked = list(reversed(self._asked)), {}
        for answer in asked:
            answer.fail(self._error)

    def confirm(self) -> Message:
        """Confirm the oldest message; return it."""
        message, receipt = self.unconfirmed.pop(0)
        receipt.arrive(True)
        return message

    def nack(self) -> Message:
        """Nack the oldest message; return it."""
        message, receipt = self.unconfirmed.pop(0)
        receipt.arrive(False)
        return message

    def give_back(self, message: Message) -> None:
        """Return a message that no queue took; its confirm follows."""
        for callback in self._on_returned:
            callback(message.routing_key, message.properties)

    def deliver(self, queue: str, message: Message, *, redelivered: bool = False) -> Delivery:
        self._tags += 1
        exchange = "" if message.exchange is None else message.exchange.name
        delivery: Delivery = AddressedDelivery(
            self, self._tags, redelivered, message.properties, message.body, exchange, message.routing_key  # type: ignore[arg-type]
        )  # fmt: skip
        for name, on_delivery in list(self.consuming.values()):
            if name == queue:
                on_delivery(delivery)
        return delivery

    def cancel_consumers(self) -> None:
        """Cancel all, as the broker does when a queue is deleted."""
        self.consuming.clear()
        for callback in list(self._on_cancelled):
            callback()

    # As `Channel`.

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def declare(
        self,
        queue: str,
        *,
        exclusive: bool = False,
        arguments: dict[str, Any] | None = None,
    ) -> BrokerAnswer[QueueState]:
        if exclusive and not queue:
            self._generated += 1
            queue = f"amq.gen-{self._generated}"
        self.queues.append(queue)
        return self._ask("declare", queue, self._state, arguments=arguments or {})

    def declare_exchange(self, exchange: str, **_options: object) -> BrokerAnswer[None]:
        self.exchanges.append(exchange)
        return self._ask("declare_exchange", exchange, _nothing)

    def bind(self, queue: str, exchange: str, key: str, **_options: object) -> BrokerAnswer[None]:
        self.bindings.append((queue, exchange, key))
        return self._ask("bind", queue, _nothing)

    def unbind(self, queue: str, exchange: str, key: str, **_options: object) -> BrokerAnswer[None]:
        if (queue, exchange, key) in self.bindings:
            self.bindings.remove((queue, exchange, key))
        return self._ask("unbind", queue, _nothing)

    def bind_exchange(self, destination: str, source: str, key: str) -> BrokerAnswer[None]:
        self.bindings.append((destination, source, key))
        return self._ask("bind_exchange", destination, _nothing)

    def inspect(self, queue: str) -> BrokerAnswer[QueueState]:
        return self._ask("inspect", queue, self._state, passive=True)

    def inspect_exchange(self, exchange: str) -> BrokerAnswer[None]:
        return self._ask("inspect_exchange", exchange, _nothing, passive=True)

    def served(self) -> BrokerAnswer[None]:
        return self._ask("served", "", _nothing)

    def get(self, queue: str) -> BrokerAnswer[Delivery | None]:
        return self._ask("get", queue, _nothing)

    def delete(self, queue: str) -> BrokerAnswer[None]:
        return self._ask("delete", queue, _nothing)

    def purge(self, queue: str) -> None:
        self.requests.append(("purge", queue))

    def prefetch(self, count: int) -> None:
        self.requests.append(("prefetch", str(count)))

    def consume(
        self,
        queue: str,
        on_delivery: Callable[[Any], object],
        *,
        acknowledge: bool,  # noqa: ARG002
        on_cancelled: Callable[[], object] | None = None,
        addressed: bool = False,  # noqa: ARG002
        arguments: dict[str, Any] | None = None,
    ) -> Consumer:
        consumer = Consumer(self, on_delivery)  # type: ignore[arg-type] # it asks for nothing
        consumer.tag = f"tag-{len(self.requests)}"
        self.consuming[consumer.tag] = (queue, on_delivery)
        self.consumer_arguments[queue] = arguments
        if on_cancelled is not None:
            self._on_cancelled.append(on_cancelled)
        self._serve("consume", queue, consumer, lambda _queue: consumer.tag, passive=True)
        return consumer

    def cancel(self, tag: str) -> BrokerAnswer[None]:
        self.consuming.pop(tag, None)
        return self._ask("cancel", tag, _nothing)

    def publish(self, message: Message, *, mandatory: bool = False) -> bool:  # noqa: ARG002
        if self.is_open:
            if message.routing_key in self.unwritable:
                raise self.unwritable[message.routing_key]
            self.published.append(message)
        return self.is_open

    def publish_confirmed(self, message: Message, receipt: Receipt, *, mandatory: bool = False) -> bool:
        if self.publish(message, mandatory=mandatory):
            self.unconfirmed.append((message, receipt))
        return self.is_open

    def confirmed(self, message: Message, *, mandatory: bool = False) -> BrokerAnswer[bool]:
        answer = BrokerAnswer[bool]()
        self.publish_confirmed(message, answer, mandatory=mandatory)
        return answer

    def confirms(self) -> BrokerAnswer[None]:
        return self._ask("confirms", "", _nothing)

    def on_returned(self, callback: Callable[[str, Properties], object]) -> None:
        self._on_returned.append(callback)

    def ack(self, tags: Sequence[int]) -> bool:
        if self.is_open:
            self.acked += tags
        return self.is_open

    def reject(self, tag: int, *, requeue: bool) -> bool:
        if self.is_open:
            self.rejected.append((tag, requeue))
        return self.is_open

    def requeue(self, tags: Sequence[int]) -> bool:
        if self.is_open:
            self.rejected += [(tag, True) for tag in tags]
        return self.is_open

    def close(self) -> None:
        if self.is_open:
            self.is_open = False
            self._error = ChannelClosed(BrokerError("this channel is closed"), 0)
            asked, self._asked = self._asked, {}
            for answer in asked:
                answer.abandon()

    def closed(self) -> BrokerAnswer[None]:
        answer = BrokerAnswer[None]()
        if self._error is not None:
            answer.fail(self._error)
        else:
            self._asked[answer] = None
        return answer

    def _ask(
        self,
        operation: str,
        name: str,
        value: Callable[[str], Any],
        *,
        passive: bool = False,
        arguments: dict[str, Any] | None = None,
    ) -> BrokerAnswer[Any]:
        answer = BrokerAnswer[Any]()
        self._serve(operation, name, answer, value, passive=passive, arguments=arguments)
        return answer

    def _serve(
        self,
        operation: str,
        name: str,
        answer: BrokerAnswer[Any],
        value: Callable[[str], Any],
        *,
        passive: bool,
        arguments: dict[str, Any] | None = None,
    ) -> None:
        self.requests.append((operation, name))
        if not self.is_open:
            if self._error is not None:
                answer.fail(self._error)
            return
        self._asked[answer] = None

        def serve() -> None:
            if answer not in self._asked:
                return
            asks = operation.startswith("inspect")
            code = self._connection.refusal(name, passive=passive, asks=asks, arguments=arguments)
            if code is not None:
                self.closed_by_broker(code)
                return
            del self._asked[answer]
            answer.arrive(value(name))

        self._connection.request(name, serve)

    def _state(self, queue: str) -> QueueState:
        return QueueState(queue, self._connection.messages.get(queue, 0), self._connection.consumers.get(queue, 0))


def _nothing(_name: str) -> None:
    return None
