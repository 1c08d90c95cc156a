"""A server's second connection: it publishes replies, retries, requeued tasks and dead letters, and acks what they end.

It is not the connection that consumes: under a memory alarm the broker stops reading from connections that publish, and
acks must still get through (https://www.rabbitmq.com/docs/alarms). A delivery is acked after its reply was handed to
the kernel, or after the copy that must not be lost was confirmed: a crash in between repeats, and never loses.
"""

from __future__ import annotations

import base64
import logging
import re
import time
from collections import deque
from collections.abc import Iterator, Mapping
from itertools import chain
from typing import Any

from amqp_rpc.amqp.channel import Channel, Delivery
from amqp_rpc.amqp.connection import Connection
from amqp_rpc.amqp.declare import Refused
from amqp_rpc.amqp.keeper import Keeper
from amqp_rpc.amqp.publisher import Publication, Publisher
from amqp_rpc.errors import AccessRefused, AmqpRpcError, BrokerError, ConnectionLost, MessageTooLarge
from amqp_rpc.message.dead_letter import dead_letter
from amqp_rpc.message.envelope import Message, Properties, bare, lighter, sender
from amqp_rpc.message.exchanges import Exchange
from amqp_rpc.message.headers import HEADERS_DROPPED, SENDER
from amqp_rpc.message.settings import Addresses
from amqp_rpc.message.text import bounded_logger
from amqp_rpc.message.timing import Repeats
from amqp_rpc.message.topology import DIRECT_REPLY_TO, LEVELS, delay
from amqp_rpc.server.invoke import too_large
from amqp_rpc.server.state import State
from amqp_rpc.server.tasks import about_to_be_dropped

logger: logging.Logger = bounded_logger(__name__)

#: Messages that may be lost, and that wait for a channel.
_MOST_UNTOLD = 1000
#: How often the broker may refuse the copy of a call before it is dropped.
_MOST_REFUSALS = 5
#: A message that the broker drops: it asks whether this user may write.
_TO_NOBODY = Message("amqp_rpc.nobody", Properties(), b"")
#: The first version that reads names of direct reply-to with care. The Erlang process in one begins with its format and
#: the length of its node's name, and the name follows.
_READS_NAMES = (4, 3)
_PROCESS = re.compile(rb"\x83([Xg])(?:v\0|w)(.)", re.DOTALL)
_NODE = re.compile(rb"reply@\d{1,9}")
#: Seconds until a task queue that was full or away is offered an arrival again.
_OFFERED_AGAIN = 0.5


class Replies:
    """Publishes replies, retries, requeued tasks and dead letters; any thread may call `reply` and those below it.

    The ``arguments`` are those of the task queues and their dead-letter queues, and the ``calls``' those of the queues
    of calls; None for a queue that another program declares. The ``prepared`` ones are declared at the start, with all
    that their retries need.
    """

    def __init__(
        self,
        addresses: Addresses,
        state: State,
        *,
        arguments: Mapping[str, dict[str, Any] | None],
        calls: Mapping[str, dict[str, Any] | None],
        prepared: Mapping[str, dict[str, Any] | None],
    ) -> None:
        self._state = state
        self._arguments, self._calls = arguments, calls
        self.channel: ReplyChannel = ReplyChannel("replies", state)
        self.copies: CopyPublisher = CopyPublisher(addresses, state, prepared)
        # The broker closes the connection that replies to a malformed name of direct reply-to, which any caller may
        # send: such replies have their own connection, which is opened for the first of them.
        self.direct: DirectReplyChannel = DirectReplyChannel("direct replies", state)
        self._direct_started = False

    #: The one of replies and copies, after `begin`.
    _connection: Connection

    def begin(self, connection: Connection, direct: Connection) -> None:
        """Belong to the connections that `channel`, `copies` and `direct` listen to, before they are started."""
        self._connection = connection
        self.channel.begin(connection)
        self.copies.begin(connection)
        self.direct.begin(direct)

    def start(self) -> None:
        """Connect; the connection of direct replies is opened when it is needed."""
        self._connection.start()

    def close(self, timeout: float) -> None:
        """Close its connections; any thread but the I/O thread."""
        self._connection.close(timeout)
        if self._direct_started:
            self.direct.connection.close(timeout)

    def reply(self, message: Message, delivery: Delivery, *, mandatory: bool) -> None:
        """Publish a reply, and ack the delivery that it answers."""
        publish = self._reply_directly if message.routing_key.startswith(DIRECT_REPLY_TO) else self.channel.publish
        self._connection.loop.do(publish, message, delivery, mandatory)

    def tell(self, message: Message) -> None:
        """Publish a message that may be lost."""
        tell = self._tell_directly if message.routing_key.startswith(DIRECT_REPLY_TO) else self.channel.tell
        self._connection.post(tell, message)

    def dead_letter(
        self,
        queue: str,
        delivery: Delivery,
        reason: str,
        details: Mapping[str, Any] | None = None,
        *,
        signed: bool = True,
    ) -> None:
        """Copy a delivery to the dead-letter queue of its queue, with the reason and more, and ack it."""
        letter = dead_letter(
            delivery.properties, delivery.body, queue=queue, reason=reason, now=time.time(), details=details or {}
        )
        self.keep(letter, delivery, signed=signed)

    def keep(self, message: Message, delivery: Delivery, *, signed: bool = True) -> None:
        """Publish a message that must not be lost, and ack the delivery once the broker has confirmed it.

        If the delivery's channel is closed by then, nothing is published: the broker redelivers it.
        """
        self._name_sender(message, delivery)
        queue = message.routing_key
        accepted = queue in self._arguments
        # The dead-letter queue of calls, or one instance's queue, has no arguments.
        arguments = self._arguments[queue] if accepted else self._calls.get(queue, {})
        copy = Copy(message, delivery, self._state, arguments, accepted=accepted)
        copy.signed = signed
        self.copies.add(copy)
        self._connection.post(self.copies.send, copy)

    def _name_sender(self, message: Message, delivery: Delivery) -> None:
        """Write the sender of a message into its copy, whose user is this server's; and never what a stranger wrote."""
        if not self._state.users:
            return
        headers = {name: value for name, value in (message.properties.headers or {}).items() if name != SENDER}
        if (user := sender(delivery.properties, self._state.users)) is not None:
            headers[SENDER] = user
        message.properties.headers = headers

    def move(self, message: Message, delivery: Delivery) -> Arrival:
        """Publish what has arrived for a task queue, as often as it takes, and ack the delivery after the confirm."""
        self._name_sender(message, delivery)
        arrival = Arrival(message, delivery, self._state, self._arguments[message.routing_key], accepted=True)
        # It was not checked yet, and has its signature.
        arrival.signed = False
        self.copies.add(arrival)
        self._connection.post(self.copies.send, arrival)
        return arrival

    def look(self) -> None:
        """Offer delayed messages that no queue was there for again: one is there now. The I/O thread's."""
        if self.copies.declarations is not None:
            self.copies.declarations.look()

    def _reply_directly(self, message: Message, delivery: Delivery, _mandatory: bool) -> None:
        self._start_direct()
        # RabbitMQ 3.10 returns each mandatory one, and delivers it all the same.
        self.direct.publish(message, delivery, False)

    def _tell_directly(self, message: Message) -> None:
        self._start_direct()
        self.direct.tell_later(message)

    def _start_direct(self) -> None:
        if not self._direct_started:
            self._direct_started = True
            self.direct.connection.start()


class ReplyChannel(Keeper):
    """Publishes replies, and acks each delivery when its reply has left; the I/O thread's."""

    def __init__(self, name: str, state: State) -> None:
        super().__init__(name)
        self._state = state
        #: Replies that wait for a channel, and those that were published but have not left this process.
        self._unsent: deque[tuple[Message, Delivery, bool]] = deque()
        self._leaving: list[tuple[Message, Delivery, bool]] = []
        self._sending: deque[list[tuple[Message, Delivery, bool]]] = deque()
        #: Replies whose size the broker may refuse, while one is tried.
        self._large: deque[tuple[Message, Delivery, bool]] = deque()
        #: Messages of `tell_later` that wait for the channel.
        self._untold: deque[Message] = deque(maxlen=_MOST_UNTOLD)
        #: What AMQP, or the broker, can't carry: equal lines are logged at growing intervals.
        self._refusals = Repeats()

    #: As `connection`, without a look at whether there is one: for each reply.
    _replying: Connection

    async def set_up(self, channel: Channel) -> None:
        """Count the replies whose caller is gone; check that this user may publish replies at all."""
        self._replying = self.connection
        channel.on_returned(self._returned)
        # Without the right to write, the broker closes the channel now, and not with the first reply. Until it may, the
        # server is not ready, and what it has run stays unacked.
        channel.publish(_TO_NOBODY)
        await channel.served()

    def ready(self) -> None:
        """Publish the replies that waited."""
        unsent, self._unsent = self._unsent, deque()
        for message, delivery, mandatory in unsent:
            self.publish(message, delivery, mandatory)
        while self._untold:
            self.tell(self._untold.popleft())
        self._state.ready(self.name)

    def lost(self, error: BrokerError) -> None:
        """Keep unsent replies for the next connection."""
        unsent = [each for batch in (*self._sending, self._leaving, self._large) for each in batch]
        self._large.clear()
        self._unsent.extendleft(reversed(unsent))
        self._sending.clear()
        self._leaving.clear()
        if not self.connection.was_open:
            self._state.failed(error)

    def closed(self, error: BrokerError, code: int) -> None:  # noqa: ARG002 - as `Keeper` has it
        """Learn the broker's limit on a message's size; end a start without the right to publish replies."""
        self.connection.learn_limit(str(error))
        self._state.trouble = error
        if isinstance(error, AccessRefused):
            self._state.failed(error)

    def broken(self, error: BrokerError) -> None:
        """End the start."""
        self._state.failed(error)

    def publish(self, message: Message, delivery: Delivery, mandatory: bool) -> None:
        """Publish a reply, and ack its delivery once it has left."""
        if self.channel is not None and len(message.body) > self._replying.fits:
            self._large.append((message, delivery, mandatory))
            if len(self._large) == 1:
                self._replying.run(self._publish_large(self._replying))
            return
        try:
            sent = self.channel is not None and self.channel.publish(message, mandatory=mandatory)
        # A reply that AMQP can't carry: it is dropped, and its delivery is acked all the same.
        except Exception as error:
            if (times := self._refusals.again(repr(error))) is not None:
                logger.error("queue %s: reply could not be written: %r%s", message.routing_key, error, times)  # noqa: TRY400 - the text has all
            self._state.acknowledge([delivery])
            return
        if not sent:
            self._unsent.append((message, delivery, mandatory))
            return
        self._leaving.append((message, delivery, mandatory))
        if len(self._leaving) == 1:
            # All replies of this turn of the loop leave together, or none does.
            self._replying.loop.before_sleep(self._watch)

    async def _publish_large(self, connection: Connection) -> None:
        """Publish the replies that may be larger than the broker takes, one after another, or errors instead."""
        while self._large:
            message, delivery, mandatory = self._large[0]
            try:
                await connection.check_size(len(message.body))
            except MessageTooLarge as error:
                if (times := self._refusals.again(str(error))) is not None:
                    logger.warning(
                        "queue %s: reply not sent, an error instead: %s%s", message.routing_key, error, times
                    )
                message = too_large(message, error)
                if self._state.keys is not None:
                    self._state.keys.sign(message, like=delivery.properties)
            self._large.popleft()
            self.publish(message, delivery, mandatory)

    def tell(self, message: Message) -> None:
        """Publish a message that may be lost."""
        if self.channel is not None:
            try:
                self.channel.publish(message)
            # AMQP can't carry it.
            except Exception as error:
                if (times := self._refusals.again(repr(error))) is not None:
                    logger.error("queue %s: message could not be written: %r%s", message.routing_key, error, times)  # noqa: TRY400 - as above

    def tell_later(self, message: Message) -> None:
        """Publish a message that may be lost, once there is a channel."""
        if self.channel is None:
            self._untold.append(message)
        else:
            self.tell(message)

    def _watch(self) -> None:
        if self._leaving:
            self._sending.append(self._leaving)
            self._leaving = []
            self._replying.when_sent(self._left)

    def _left(self) -> None:
        self._state.acknowledge([delivery for _, delivery, _ in self._sending.popleft()])

    def _returned(self, queue: str, _properties: Properties) -> None:
        self._state.counters["returned"] += 1
        logger.info("queue %s: reply dropped: its caller is gone", queue)


class DirectReplyChannel(ReplyChannel):
    """Publishes replies to direct reply-to: https://www.rabbitmq.com/docs/direct-reply-to."""

    def publish(self, message: Message, delivery: Delivery, mandatory: bool) -> None:
        """Publish a reply to a name that the broker has made, and drop others."""
        if self.channel is not None and self._breaks(message.routing_key):
            self._state.counters["returned"] += 1
            logger.info("queue %.80r: reply dropped: the broker has made no such name", message.routing_key)
            self._state.acknowledge([delivery])
        else:
            super().publish(message, delivery, mandatory)

    def tell(self, message: Message) -> None:
        """Publish a message that may be lost, unless the broker has not made its name."""
        if not self._breaks(message.routing_key):
            super().tell(message)

    def _breaks(self, name: str) -> bool:
        """Return whether the broker would close the connection for that name; asked once it is open."""
        return self.connection.version < _READS_NAMES and not is_direct_name(name)


class CopyPublisher(Publisher):
    """Publishes copies of deliveries, after it has declared all task queues once (`prepared`, with arguments)."""

    def __init__(self, addresses: Addresses, state: State, prepared: Mapping[str, dict[str, Any] | None]) -> None:
        super().__init__(addresses, name="retries")
        self._state = state
        self._prepared = prepared
        self.use(state.keys)

    async def set_up(self, channel: Channel) -> None:
        """Switch confirms on, and declare the task queues with all that their retries need."""
        await super().set_up(channel)
        assert self.declarations is not None
        for refused in await self.declarations.prepare(self._prepared):
            # A limit is reached, or a right is missing.
            if isinstance(refused.error, AccessRefused) and not self._state.started.is_set():
                self._state.failed(refused.error)
                return
            # A queue with other arguments: its consumer ends the start, and reports why.
            if not refused.conflict and (times := self._repeats.again(f"{refused.what}: {refused.error}")) is not None:
                logger.error("%s: %s; it is declared again when it is needed%s", refused.what, refused.error, times)
        if self._prepared:
            # As for replies: a server that may not publish retries is not ready. These reach no queue.
            for level in range(LEVELS):
                channel.publish(Message(_TO_NOBODY.routing_key, Properties(), b"", exchange=Exchange(delay(level))))
            await channel.served()

    def closed(self, error: BrokerError, code: int) -> None:
        """End the start, if the broker allows no such channel, or no retries."""
        super().closed(error, code)
        self._state.trouble = error
        if isinstance(error, AccessRefused):
            self._state.failed(error)

    def end_refused(self, error: BrokerError) -> None:
        """Keep the copies that the broker refused: their deliveries are not acked, and the right may come back."""

    def lost(self, error: BrokerError) -> None:
        """End the start, if the broker closed the connection for what it asked for."""
        super().lost(error)
        if isinstance(error, AccessRefused):
            self._state.failed(error)

    def broken(self, error: BrokerError) -> None:
        """End the start; copies wait: none of them may be lost."""
        self._state.failed(error)

    def wanted(self) -> bool:
        """Return whether there are task queues, or copies to publish."""
        return bool(self._prepared) or super().wanted()

    def ready(self) -> None:
        """Publish the copies that waited."""
        super().ready()
        self._state.ready(self.name)


class Copy(Publication):
    """The copy of a delivery: a retry, a requeued task or call, or a dead letter. Its confirm acks the delivery.

    A copy that is ``accepted`` is of a task, and must not be lost.
    """

    __slots__ = ("_accepted", "_lighter", "_refusals", "_state", "delivery", "like", "signed")

    def __init__(
        self, message: Message, delivery: Delivery, state: State, arguments: dict[str, Any] | None, *, accepted: bool
    ) -> None:
        super().__init__(message, arguments, identity=str(id(delivery)))
        self.delivery: Delivery = delivery
        # With the key of what it follows: its sender may know no other.
        self.signed: bool = True
        self.like: Properties | None = delivery.properties
        self._state = state
        self._accepted = accepted
        self._refusals = 0
        self._lighter: Iterator[Message] | None = None

    def tell(self, value: AmqpRpcError | None) -> None:
        """Ack the delivery: the copy is confirmed, or dropped."""
        super().tell(value)
        self._state.acknowledge([self.delivery])

    def is_obsolete(self) -> bool:
        """Return whether the broker redelivers the original to another server: the copy would exist beside it.

        A loss remains that this process has not noticed yet, or that comes before the ack. Then both exist, as after a
        crash in between.
        """
        # A message that was requeued so often had better exist twice than not at all.
        return not (self.delivery.channel.is_open or about_to_be_dropped(self.delivery.properties))

    def confirmed(self, publisher: Publisher) -> None:
        """Ack the delivery; if no queue accepted the copy, declare its queue again."""
        if not self.returned:
            publisher.end(self, None)
            return
        # The broker also confirms a message without a queue: it was deleted, or is on a node that is away.
        if publisher.declarations is not None:
            publisher.declarations.forget(self.message)
        self._refused(publisher, "its queue does not exist")

    def nacked(self, publisher: Publisher) -> None:
        """Send it again: its queue may be full, or have lost its leader."""
        self._refused(publisher, "it refuses more: the queue may be full")

    def undeclared(self, publisher: Publisher, refused: Refused) -> None:
        """Use a queue that another program declared with other arguments; else try again."""
        if refused.conflict and refused.what == self.message.routing_key and self.arguments is not None:
            logger.warning("queue %s: used as another program declared it: %s", refused.what, refused.error)
            publisher.foreign.add(refused.what)
            self.arguments: dict[str, Any] | None = None
            publisher.send(self)
        else:
            self._refused(publisher, str(refused.error))

    def channel_closed(self, publisher: Publisher, error: BrokerError) -> None:
        """Count it if the broker closed the channel: this message may be the reason."""
        if self.written and not isinstance(error, ConnectionLost):
            self._count(publisher, str(error))

    def unwritable(self, publisher: Publisher, error: Exception) -> None:
        """Publish it with shorter headers if AMQP can't carry them, and at last without its publisher's.

        That is better than not at all: a dead letter without them is not replayed (`dead_letter.replayed`).
        """
        key, first = self.message.routing_key, self._lighter is None
        self._lighter = self._lighter or chain(lighter(self.message), [bare(self.message)])
        self.written = False
        if (message := next(self._lighter, None)) is not None:
            dropped = HEADERS_DROPPED in (message.properties.headers or {})
            if dropped or first:
                how = "without its publisher's headers" if dropped else "with shorter headers of ours"
                if (times := self._state.repeats.again(f"{key}: {how}")) is not None:
                    logger.warning("queue %s: message published %s: %s%s", key, how, error, times)
            self.message = message
            publisher.send(self)
        elif self._accepted:
            logger.error(
                "queue %s: the outcome of task [%s] could not be written; it stays unacked until this worker ends, and "
                "uses up prefetch: %r", key, self.delivery.properties.message_id, error,
            )  # fmt: skip
            publisher.drop(self)
        else:
            logger.error("queue %s: message lost: it could not be written: %r", key, error)
            publisher.end(self, None)

    def _refused(self, publisher: Publisher, reason: str) -> None:
        self._count(publisher, reason)
        if not self.done():
            publisher.send_later(self)

    def _count(self, publisher: Publisher, reason: str) -> None:
        """Count a refusal by the broker. After some of them a call is dropped: it must not stop later ones.

        A task is never dropped: it was accepted. Its delivery stays unacked, and uses up prefetch, until the broker
        accepts the copy.
        """
        self._refusals += 1
        if self._refusals < _MOST_REFUSALS:
            return
        key = self.message.routing_key
        if not self._accepted:
            logger.error("queue %s: message lost: the broker refuses it: %s", key, reason)
            publisher.end(self, None)
        elif self._refusals == _MOST_REFUSALS:
            logger.error("queue %s: a task stays unacked, since the broker refuses its copy: %s", key, reason)


class Arrival(Copy):
    """A delayed task, or a retry, on its way from the arrivals queue into its queue, which may be full or away."""

    __slots__ = ()

    def _refused(self, publisher: Publisher, reason: str) -> None:  # noqa: ARG002 - no reason is the last one
        self.written = False
        publisher.connection.loop.call_later(_OFFERED_AGAIN, lambda: publisher.send(self))

    def _count(self, publisher: Publisher, reason: str) -> None:
        """Count nothing: it may wait for room as long as a bound is reached."""


def is_direct_name(name: str) -> bool:
    """Return whether RabbitMQ makes such names for direct reply-to: an Erlang process and a key, both in base64.

    Before 4.3 it crashes at others: ``rabbit_direct_reply_to.erl``, ``pid_recomposition.erl``. No test from outside can
    prove that the node in a name exists.
    """
    try:
        process, key = (base64.b64decode(part, validate=True) for part in name.removeprefix(DIRECT_REPLY_TO).split("."))
    # Not two parts, or no base64.
    except ValueError:
        return False
    begins = _PROCESS.match(process)
    if begins is None or not key:
        return False
    end = begins.end() + begins[2][0]
    return bool(_NODE.fullmatch(process, begins.end(), end)) and len(process) - end == (12 if begins[1] == b"X" else 9)
