"""Confirmed publishing, in one place: declare what a message needs, write it, and handle its confirm, nack or return.

A confirm means that the broker has the message: on disk, and on a majority of the nodes that keep its queue
(https://www.rabbitmq.com/docs/confirms). Messages do not wait for each other's confirms. After a lost connection,
unconfirmed messages are published again, under the same message id.

A `Publication` is one message on its way. Each kind of message has a subclass elsewhere, with the texts of its errors,
and with what follows a nack, a return or a lost connection.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from amqp_rpc.amqp.declare import Declarations, Refused
from amqp_rpc.amqp.frames import address
from amqp_rpc.amqp.keeper import Keeper
from amqp_rpc.amqp.loop import where_signals_raise
from amqp_rpc.amqp.pending import InFlight, Outcome
from amqp_rpc.errors import (
    AccessRefused,
    AmqpRpcError,
    BrokerError,
    ConfigurationError,
    ConnectionLost,
    DeclaredOtherwise,
    MessageTooLarge,
    NotConnected,
    PublishRefused,
)
from amqp_rpc.message.envelope import Message, Properties
from amqp_rpc.message.refusals import ReplyCode, body_too_large
from amqp_rpc.message.settings import Addresses
from amqp_rpc.message.signature import Keys

if TYPE_CHECKING:
    from amqp_rpc.amqp.channel import Channel
    from amqp_rpc.amqp.connection import Connection

#: Seconds until a message is published again after a nack without a known reason, or after a failed declaration.
_RETRY_AFTER = 1.0
#: The name of the default exchange in the broker's errors.
_DEFAULT_EXCHANGE = "amq.default"


class Publication(Outcome[AmqpRpcError | None]):
    """A message on its way to the broker. Its value is the error that it ended with, or None after a confirm.

    Args:
        message: Its ``message_id`` must be unique, unless ``identity`` is given.
        arguments: The arguments of its queue; None for an event, and for a queue that exists already.
        timeout: Seconds until it ends with an error; None for no limit.
        identity: Its id in the publisher's table; the message's id by default.
    """

    __slots__ = (
        "arguments", "doubtful", "expires_at", "identity", "message", "place", "publisher", "refused", "returned",
        "timeout", "trouble", "written",
    )  # fmt: skip

    #: The publisher that has written it.
    publisher: Publisher

    #: True if the arguments are a guess: a queue that exists with other arguments is used as it is.
    guessed = False
    #: True if it must not be published again after a lost connection: the broker would refuse a second copy.
    once = False
    #: False if it is signed already, or must not be; and the properties of the message whose key signs it.
    signed = True
    like: Properties | None = None
    #: True if it asks for a reply: it is written once there is a reply queue, with its address (`addressed`).
    replied = False
    #: In errors: the consequence if the broker never had it, and the advice if the broker may have it.
    never: str = "It was not published"
    again: str = "Publish it again only if it may be there twice"

    def __init__(
        self,
        message: Message,
        arguments: dict[str, Any] | None,
        *,
        timeout: float | None = None,
        identity: str | None = None,
    ) -> None:
        super().__init__()
        self.message: Message = message
        self.identity: str = str(message.properties.message_id) if identity is None else identity
        self.arguments: dict[str, Any] | None = arguments
        self.timeout: float | None = timeout
        #: Its deadline, on the monotonic clock.
        self.expires_at: float = float("inf") if timeout is None else time.monotonic() + timeout
        #: True once it is given to a connection: from then on the broker may have it.
        self.written: bool = False
        #: Its place among those that were written, by which the broker reads them.
        self.place: int = 0
        #: True if the broker nacked it.
        self.refused: bool = False
        #: True if the broker returned it: no queue accepted it.
        self.returned: bool = False
        #: True if the broker may have it from an earlier attempt, whose confirm did not arrive.
        self.doubtful: bool = False
        #: Why what it needs could not be declared the last time.
        self.trouble: BrokerError | None = None

    # The texts of its errors.

    @property
    def subject(self) -> str:
        """The message in words: ``resize()``."""
        return f"a message for queue {self.message.routing_key!r}"

    @property
    def what(self) -> str:
        """The message and the failure: ``resize() was not enqueued``."""
        return f"{self.subject} was not published"

    @property
    def within(self) -> str:
        """Its timeout in words, with the space before it: `` within 30 s``."""
        return "" if self.timeout is None else f" within {self.timeout:g} s"

    @property
    def unknown(self) -> ConnectionLost:
        """The error if the broker may have it."""
        return ConnectionLost(f"the broker did not confirm {self.subject}{self.within}; it may have it. {self.again}")

    @property
    def refusal(self) -> PublishRefused:
        """The error if the broker nacked it."""
        return PublishRefused(
            f"the broker refused {self.subject}: queue {self.message.routing_key!r} takes no more, probably by a bound "
            f"(max-length). {self.never}"
        )

    def refused_by(self, error: BrokerError, *, unsure: bool = False) -> BrokerError:
        """Return the error for a refusal that is no nack; it is ``unsure`` where the broker may mean another one."""
        if unsure or self.doubtful:
            return ConnectionLost(f"{self.unknown}. The broker said: {error}")
        return AccessRefused(f"{self.what}: {error}. {self.never}")

    def conflict(self, what: str, error: BrokerError) -> ConfigurationError:
        """Return the error if ``what``, a queue or exchange that it needs, exists with other arguments."""
        return DeclaredOtherwise(f"{what!r} exists with other arguments: {error}. {self.never}")

    def arrive(self, taken: bool, /) -> None:
        """Handle the broker's confirm, or nack."""
        if taken:
            self.confirmed(self.publisher)
        else:
            self.nacked(self.publisher)

    # Hooks for kinds of messages. Each is called on the I/O thread, and ends the publication or has it sent again.

    @property
    def bounded(self) -> bool:
        """True if a bound of the queue (max-length) may explain a nack, as far as this process knows."""
        return bool(self.arguments and "x-max-length" in self.arguments)

    def addressed(self, reply_queue: str | None) -> None:
        """Set the reply address, just before the message is written."""

    def is_obsolete(self) -> bool:
        """Return whether it need not be published any more."""
        return False

    def confirmed(self, publisher: Publisher) -> None:
        """End it; or, if it was ``returned`` and so is in no queue, declare its queue and publish it again."""
        if self.returned:
            publisher.declare_again(self)
        else:
            publisher.end(self, None)

    def nacked(self, publisher: Publisher) -> None:
        """End it if a bound of the queue may be the reason; otherwise publish it again later.

        Without a bound (a policy may also set one, which is not known here), a nack is an internal error of the broker:
        the queue may have lost its leader, which may have kept the message.
        https://www.rabbitmq.com/docs/confirms#server-sent-nacks
        """
        if self.bounded or self.message.routing_key in publisher.foreign:
            self.refused = True
            publisher.end(self, self.unknown if self.doubtful else self.refusal)
        else:
            self.doubtful = True
            publisher.send_later(self)

    def unwritable(self, publisher: Publisher, error: Exception) -> None:
        """End it: AMQP can't carry it, and nothing was written."""
        if isinstance(error, MessageTooLarge):
            error = MessageTooLarge(f"{self.what}: {error}. {self.never}")
        elif not isinstance(error, AmqpRpcError):
            error = ConfigurationError(f"{self.what}: it has something that AMQP can't carry: {error!r}")
        publisher.end(self, error)

    def undeclared(self, publisher: Publisher, refused: Refused) -> None:
        """End it, or publish it again later: something that it needs could not be declared."""
        if isinstance(refused.error, AccessRefused):
            publisher.end(self, self.refused_by(refused.error))
        elif refused.conflict and refused.what == self.message.target and self.guessed:
            # The arguments were a guess: those of the program that declared the queue are right.
            publisher.foreign.add(refused.what)
            self.arguments = None
            publisher.send(self)
        elif refused.conflict:
            publisher.end(self, self.conflict(refused.what, refused.error))
        elif refused.code == ReplyCode.PRECONDITION_FAILED:
            publisher.end(self, DeclaredOtherwise(f"{self.what}: {refused.error}. {self.never}"))
        else:
            # The node of the queue may be down for a while.
            self.trouble = refused.error
            publisher.send_later(self)

    def channel_closed(self, publisher: Publisher, error: BrokerError) -> None:
        """End it if it must not be published again: the broker closed the channel, or the connection is lost."""
        if self.once and self.written:
            publisher.end(self, ConnectionLost(f"{error}. It is not known whether the broker has it"))


class Publisher(Keeper):
    """Publishes messages, and ends their publications by confirms, refusals or deadlines.

    Any thread may call `add`, `drop`, `expire`, `too_late` and `end_all`; the rest belongs to the I/O thread.
    """

    def __init__(self, addresses: Addresses, *, name: str = "publisher") -> None:
        super().__init__(name)
        self._addresses = addresses
        self._pending: InFlight[Publication] = InFlight()
        #: The queues and exchanges that were declared over the open connection; None without one.
        self.declarations: Declarations | None = None
        #: The name of the queue for replies, while there is one; and called when a message needs it.
        self.reply_queue: str | None = None
        self.on_replied: Callable[[], object] = int
        #: Those that sign messages, None without any; and True if messages have the name of their user.
        self.keys: Keys | None = None
        self._named = bool(addresses.named())
        #: True with one of both: `prove`.
        self.proving: bool = self._named
        #: Queues that other programs have declared, with arguments that are not known here.
        self.foreign: set[str] = set()
        self._unsent: deque[Publication] = deque()
        #: The publications that wait for a declaration, by target.
        self._undeclared: dict[str, list[Publication]] = {}
        #: True while the script `_declare` runs.
        self._declaring = False
        self._timer_due = float("inf")
        #: How often a publication was written.
        self._places = 0
        self._last_error: BrokerError | None = None

    def begin(self, connection: Connection) -> None:
        """Belong to a connection from now on."""
        super().begin(connection)
        self._timer_due = float("inf")

    def use(self, keys: Keys | None) -> None:
        """Sign with these keys, before anything is published."""
        self.keys = keys
        self.proving = self._named or keys is not None

    def prove(self, message: Message, *, like: Properties | None = None, signed: bool = True) -> None:
        """Name the user of a message that is about to be written, and sign it, with the key of another one."""
        if self._named:
            message.properties.user_id = self.connection.address.user
        if signed and self.keys is not None:
            self.keys.sign(message, like=like)

    def add(self, publication: Publication) -> None:
        """Add a publication to the table; `send` must follow on the I/O thread. Any thread."""
        self._pending.add(publication.identity, publication)

    def drop(self, publication: Publication) -> None:
        """Forget a publication that will not be sent; any thread."""
        self._pending.take(publication.identity)

    def expire(self, publication: Publication) -> None:
        """End a publication whose deadline has passed, unless it has ended; any thread."""
        # In this order: a thread that writes it meanwhile first marks it as written, and then checks that it is there.
        if self._pending.take(publication.identity) is not None:
            publication.tell(self.too_late(publication))

    def too_late(self, publication: Publication) -> BrokerError:
        """Return the error for a publication whose deadline has passed; any thread."""
        what = publication.what + publication.within
        if publication.written or publication.doubtful:
            return publication.unknown
        if self._connection is not None and self._connection.blocked is not None:
            return PublishRefused(
                f"{what}: the broker takes no messages ({self._connection.blocked}). {publication.never}"
            )
        if self.channel is not None:
            needs = "queue" if publication.message.exchange is None else "exchange"
            state = "was still being declared"
            if publication.trouble is not None:
                state = f"could not be declared: {publication.trouble}"
            return PublishRefused(f"{what}: its {needs} {state}. {publication.never}")
        why = self._last_error or f"no connection to {self._addresses} yet"
        return NotConnected(f"{what}: {why}. {publication.never}")

    def end_all(self, error: BrokerError) -> None:
        """End all publications: no other connection will be opened, or the broker allows no more. Any thread."""
        for _, publication in self._pending:
            refused = isinstance(error, AccessRefused)
            self.end(publication, publication.refused_by(error) if refused else fresh(error))

    def end_replied(self, error: BrokerError) -> None:
        """End all publications that ask for replies: the broker does not allow a reply queue."""
        for _, publication in self._pending:
            if publication.replied and not publication.written:
                self.end(publication, publication.refused_by(error))

    def end(self, publication: Publication, error: AmqpRpcError | None) -> None:
        """End a publication, unless it has ended; ``error`` is None if it was confirmed."""
        if self._pending.take(publication.identity) is not None:
            # An error is about this attempt alone; and one of a lost connection, about what was written to it.
            if error is not None and publication.doubtful:
                error.may_have_run = True
            elif isinstance(error, ConnectionLost) and not publication.written:
                error.may_have_run = False
            publication.tell(error)

    def send(self, publication: Publication) -> None:
        """Publish a message once the channel is open, what it needs is declared, and the broker accepts messages."""
        if publication.written or publication.done():
            return
        if publication.expires_at < self._timer_due:
            self._set_timer(publication.expires_at)
        self._pending.watch(publication)
        channel, declarations, connection = self.channel, self.declarations, self._connection
        # A message that is held back while the broker accepts none is surely not there.
        blocked = connection is None or connection.blocked is not None
        if channel is None or declarations is None or blocked or (publication.replied and self.reply_queue is None):
            self._unsent.append(publication)
            if publication.replied and self.reply_queue is None and self._connection is not None:
                self.on_replied()
            if channel is None:
                self.open()
        # In this order: behind one of the same target that waits for its declaration, it waits too.
        elif not (self._undeclared and publication.message.target in self._undeclared) and declarations.has(
            publication.message
        ):
            self._write(channel, publication)
        else:
            self._undeclared.setdefault(publication.message.target, []).append(publication)
            if not self._declaring:
                self._declaring = True
                self.connection.run(self._declare(declarations))

    def send_unsent(self) -> None:
        """Publish the messages that were held back, as far as that is possible now."""
        unsent, self._unsent = self._unsent, deque()
        for publication in unsent:
            self.send(publication)

    def send_later(self, publication: Publication) -> None:
        """Publish again after `_RETRY_AFTER` seconds."""
        publication.written = False
        self.connection.loop.call_later(_RETRY_AFTER, lambda: self.send(publication))

    def declare_again(self, publication: Publication) -> None:
        """Declare again what a message needs, and publish it again: it reached no queue."""
        publication.written = False
        if self.declarations is not None:
            self.declarations.forget(publication.message)
        self.send(publication)

    def purge(self, queue: str) -> None:
        """Purge a queue, if the channel is open."""
        if self.channel is not None:
            self.channel.purge(queue)

    # The keeper's hooks.

    async def set_up(self, channel: Channel) -> None:
        """Switch confirms on."""
        if self.declarations is None:
            self.declarations = Declarations(self.connection)
        channel.on_returned(self._returned)
        await channel.confirms()

    def wanted(self) -> bool:
        """Return whether there is something to publish."""
        return len(self._pending) > 0

    def ready(self) -> None:
        """Publish the messages that waited for the channel."""
        # From now on a thread that waits for a confirm may read it.
        self.connection.loop.share(True)
        self.send_unsent()

    def on_unblocked(self) -> None:
        """Publish the messages that were held back while the broker accepted none."""
        self.send_unsent()

    def closed(self, error: BrokerError, code: int) -> None:
        """Keep the unconfirmed messages for the next channel; end those that the broker's reason is about."""
        if code == ReplyCode.NOT_FOUND and self.declarations is not None:
            # Someone has deleted an exchange: that of an event, or of a delay queue.
            self.declarations.distrust()
        limit = self.connection.learn_limit(str(error))
        if limit is not None:
            self._end_large(limit)
        elif isinstance(error, AccessRefused):
            self.end_refused(error)
        self._keep_for_later(error)

    def lost(self, error: BrokerError) -> None:
        """Keep the unconfirmed messages for the next connection."""
        self.declarations = None
        self._undeclared.clear()
        self.foreign.clear()
        self._keep_for_later(error)

    def _keep_for_later(self, error: BrokerError) -> None:
        self._last_error = error
        waiting = {id(each) for some in (self._unsent, *self._undeclared.values()) for each in some}
        for _, publication in self._pending:
            publication.channel_closed(self, error)
            publication.doubtful |= publication.written
            publication.written = publication.returned = False
            if id(publication) not in waiting and not publication.done():
                self._unsent.append(publication)

    def _end_large(self, limit: int) -> None:
        """End those that are larger than the broker takes; it has none of them, and none that was written after one."""
        written = [each for _, each in self._pending if each.written]
        large = [each for each in written if len(each.message.body) > limit]
        refused = min((each.place for each in large), default=self._places)
        for publication in written:
            # The others of these are published again, as if for the first time.
            publication.written = publication.place <= refused
        for publication in large:
            publication.unwritable(self, body_too_large(len(publication.message.body), limit))

    def end_refused(self, error: BrokerError) -> None:
        """End those that the broker refused."""
        meant = [each for _, each in self._pending if _is_about(str(error), each.message)]
        # The broker reads them in order, and none behind the one that it refused: with several, it may have the first.
        unsure = sum(each.written for each in meant) > 1
        for publication in meant or [each for _, each in self._pending]:
            others = publication.written and (unsure or not meant)
            self.end(publication, publication.refused_by(error, unsure=others))

    async def _declare(self, declarations: Declarations) -> None:
        """Declare what waiting publications need, one target after another, and publish them."""
        try:
            while self._undeclared:
                target, [first, *_] = next(iter(self._undeclared.items()))
                refused: Exception | None = None
                try:
                    await declarations.declare(first.message, first.arguments)
                except (Refused, MessageTooLarge) as error:
                    refused = error
                except Exception as error:
                    if where_signals_raise():
                        raise
                    refused = error
                self._declared(first, self._undeclared.pop(target), refused)
        finally:
            self._declaring = False

    def _declared(self, first: Publication, waiting: list[Publication], refused: Exception | None) -> None:
        for publication in waiting:
            if isinstance(refused, Refused):
                if not publication.written:
                    publication.undeclared(self, refused)
            elif refused is not None and (publication is first or not isinstance(refused, MessageTooLarge)):
                # A name that AMQP can't carry, or one message that is too large.
                publication.unwritable(self, refused)
            elif publication is first and self.channel is not None and (self.reply_queue or not first.replied):
                self._write(self.channel, publication)
            else:
                # The channel is gone, or this one needs more than the first: one with a delay needs the delay queues.
                self.send(publication)

    def _write(self, channel: Channel, publication: Publication) -> None:
        if publication.done() or publication.written:
            return
        publication.written, publication.returned = True, False
        publication.place = self._places = self._places + 1
        if self._pending.get(publication.identity) is None:
            # Its deadline has passed, and another thread reports that: see `expire`.
            return
        if publication.is_obsolete():
            self.end(publication, None)
            return
        if publication.replied:
            publication.addressed(self.reply_queue)
        publication.publisher = self
        try:
            if self.proving:
                self.prove(publication.message, like=publication.like, signed=publication.signed)
            if not channel.publish_confirmed(publication.message, publication, mandatory=True):
                publication.written = False
                self._unsent.append(publication)
        # AMQP can't carry it: the headers that a user gave an event, for example. Nothing was written.
        except Exception as error:
            publication.unwritable(self, error)

    def _returned(self, key: str, properties: Properties) -> None:
        # In this order, by AMQP: the return comes before the confirm.
        publication = self._pending.get(properties.message_id)
        if publication is not None:
            publication.returned = True
            return
        # Copies of deliveries have the ids of other programs, or none. Several with one id can't be told apart: all are
        # marked, and are published again. One too many is a duplicate, and one too few is lost.
        alike = [
            each
            for _, each in self._pending
            if each.written and each.identity != each.message.properties.message_id and address(each.message)[1] == key
        ]
        same = [each for each in alike if each.message.properties.message_id == properties.message_id]
        for publication in same or alike:
            publication.returned = True

    def _set_timer(self, due: float) -> None:
        self._timer_due = due
        self.connection.loop.call_later(max(0.0, due - time.monotonic()), self._sweep)

    def _sweep(self) -> None:
        for publication in self._pending.expired(time.monotonic()):
            publication.tell(self.too_late(publication))
        self._timer_due = float("inf")
        if self._pending.earliest < self._timer_due:
            self._set_timer(self._pending.earliest)


def fresh(error: BrokerError) -> BrokerError:
    """Return a copy of an error: each thread raises an exception of its own, with its own traceback."""
    copied = type(error)(*error.args)
    copied.may_have_run = error.may_have_run
    return copied


def _is_about(reason: str, message: Message) -> bool:
    """Return whether the broker's reason names a message's exchange, and its topic if it names a topic."""
    # For example "write access to exchange 'logs' in vhost '/' refused for user 'ann'".
    exchange, key = address(message)
    if f"exchange '{exchange or _DEFAULT_EXCHANGE}'" not in reason:
        return False
    return " topic '" not in reason or f" topic '{key}'" in reason
