"""What a client publishes and must not lose: kept until the broker has confirmed it; belongs to the connection's owner.

A confirm means that the broker has the message: on disk, and on a majority of the nodes that keep its queue
(https://www.rabbitmq.com/docs/confirms). Confirms come many at a time, and no message waits for another's. After a lost
connection what was not confirmed is published again, under the same message id.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from amqp_rpc.amqp.pending import Outcome, Pending
from amqp_rpc.client import verdicts
from amqp_rpc.errors import (
    AccessRefused,
    AmqpRpcError,
    BrokerError,
    ConfigurationError,
    ConnectionLost,
    NotConnected,
    PublishRefused,
)
from amqp_rpc.message.envelope import Message, Properties
from amqp_rpc.message.settings import Addresses
from amqp_rpc.message.timing import FIRST_RETRY, LONGEST_RETRY, backoff

if TYPE_CHECKING:
    from amqp_rpc.amqp.channel import Channel
    from amqp_rpc.amqp.connection import Connection
    from amqp_rpc.amqp.declared import Declared

_NOT_FOUND, _PRECONDITION_FAILED = 404, 406
#: Seconds until a queue that could not be declared is tried again, and until what the broker could not take is.
_AGAIN = 1.0


class Publication(Outcome[AmqpRpcError | None]):
    """A message on its way to the broker, and what becomes of it: None once the broker has confirmed it.

    Args:
        message: Its ``message_id`` is unique.
        arguments: Those of its queue; an event has none.
        guessed: Whether they are a guess: where the queue is there with others, those are right.
        timeout: Seconds that it was given.
        expires_at: When they are over, on the monotonic clock.
        once: Whether it fails where its connection is lost before the confirm, since a second one would be refused.
        replied: Whether somebody is told what becomes of it, over the reply queue.
    """

    __slots__ = (
        "arguments", "doubtful", "expires_at", "guessed", "identity", "message", "once", "refused", "replied",
        "returned", "timeout", "written",
    )  # fmt: skip

    def __init__(
        self,
        message: Message,
        arguments: dict[str, Any],
        *,
        guessed: bool = False,
        timeout: float,
        expires_at: float,
        once: bool = False,
        replied: bool = True,
    ) -> None:
        super().__init__()
        self.message = message
        #: The message's id.
        self.identity = str(message.properties.message_id)
        self.arguments: dict[str, Any] | None = arguments
        self.guessed = guessed
        self.timeout = timeout
        self.expires_at = expires_at
        self.once = once
        self.replied = replied
        #: Whether it was given to a connection: from then on the broker may have it.
        self.written = False
        #: Whether the broker said no.
        self.refused = False
        #: Whether no queue took it.
        self.returned = False
        #: Whether the broker may have it from before: it was written, and what became of it is not known.
        self.doubtful = False

    #: What is certain of one that the broker has never had.
    never = "It will not run"

    @property
    def what(self) -> str:
        """What it is, and what was not done with it, for errors: ``resize() was not enqueued``."""
        return f"{self.message.properties.type}() was not enqueued"

    @property
    def unknown(self) -> ConnectionLost:
        """What it ends with where the broker may have it."""
        return ConnectionLost(
            f"the broker did not confirm {self.message.properties.type}() within {self.timeout:g} s; "
            "it may have it. Enqueue it again only if it may run twice"
        )

    @property
    def bounded(self) -> bool:
        """Whether the broker may refuse it for a bound that we know of, and not for an error of its own alone."""
        return bool(self.arguments and "x-max-length" in self.arguments)

    @property
    def refusal(self) -> PublishRefused:
        """What it ends with where the broker said no."""
        return PublishRefused(
            f"the broker refused {self.message.properties.type}(): queue {self.message.routing_key!r} takes no more, "
            "by a bound (max-length) perhaps. It will not run"
        )

    def verdict(self) -> AmqpRpcError | None:
        """Return what it ends with now that the broker has confirmed it, once."""
        return None

    def conflict(self, what: str, error: BrokerError) -> ConfigurationError:
        """Return what it ends with where something that it needs is there, and is another one."""
        return ConfigurationError(
            f"queue {what!r} exists with other arguments than its tasks say: {error}. Nothing was enqueued; give "
            "@service.task its queue_type=, delete the queue, or take another name"
        )


class Outbox:
    """Publishes messages and ends their publications: by confirms, refusals, or their deadlines.

    Any thread may call `add`; the rest belongs to the connection's owner.

    Args:
        addresses: Where the broker is.
        reply_queue: Returns where results go at this moment.
    """

    def __init__(self, addresses: Addresses, *, reply_queue: Callable[[], str | None]) -> None:
        self._addresses = addresses
        self._reply_queue = reply_queue
        self._pending: Pending[Publication] = Pending()
        self._connection: Connection | None = None
        self._opening = False
        #: With confirms.
        self._channel: Channel | None = None
        self._declared: Declared | None = None
        #: Queues that are there with other arguments than were guessed.
        self._others: set[str] = set()
        self._unsent: deque[Publication] = deque()
        self._timer_due = float("inf")
        self._closed_in_a_row = 0
        self._last_error: BrokerError | None = None

    def begin(self, connection: Connection) -> None:
        """Take note of the connection, which is about to be started."""
        self._connection = connection
        self._opening = False
        self._timer_due = float("inf")

    def add(self, publication: Publication) -> None:
        """Enter a publication; `send` is to follow on the owner. Any thread."""
        self._pending.add(publication.identity, publication)

    def drop(self, publication: Publication) -> None:
        """Forget a publication that will not be sent; any thread."""
        self._pending.take(publication.identity)

    def expire(self, publication: Publication) -> None:
        """End a publication whose time is over, unless it has ended; any thread."""
        # In this order: whoever writes it meanwhile says so first, and looks whether it is there still after that.
        if self._pending.take(publication.identity) is not None:
            publication.tell(self.too_late(publication))

    def send(self, publication: Publication) -> None:
        """Publish as soon as there is a connection that takes it."""
        if publication.written or publication.done():
            return
        self._pending.watch(publication)
        if publication.expires_at < self._timer_due:
            self._set_timer(publication.expires_at)
        channel, declared = self._channel, self._declared
        # While the broker takes no messages, what is not written is known not to be there.
        if channel is None or declared is None or self._reply_queue() is None or self._owned().blocked is not None:
            self._unsent.append(publication)
            if channel is None:
                self._open()
        elif declared.has(publication.message):
            self._write(channel, publication)
        else:
            declared.declare(publication.message, publication.arguments, lambda: self._write(channel, publication))

    def on_open(self) -> None:
        """Open a channel, where something waits for one."""
        if len(self._pending):
            self._open()

    def on_unblocked(self) -> None:
        """Publish what was held back while the broker took no messages."""
        self.send_unsent()

    def on_lost(self, error: BrokerError) -> None:
        """Keep what is not confirmed for the next connection; end all where there will be none."""
        self._last_error = error
        if self._declared is not None:
            self._declared.lose()
        self._declared = None
        self._others.clear()
        self._forget_channel()
        if not self._owned().was_open:
            for _, publication in self._pending:
                self._end(publication, verdicts.fresh(error))

    def give_back(self, queue: str) -> None:
        """Empty the queue of a key whose task was not enqueued; without a connection it stays taken for its time."""
        if self._channel is not None:
            self._channel.purge(queue)

    def end_all(self, error: Callable[[], AmqpRpcError]) -> None:
        """End all publications; any thread."""
        for _, publication in self._pending:
            self._end(publication, error())

    def _owned(self) -> Connection:
        assert self._connection is not None
        return self._connection

    def _open(self) -> None:
        # It comes with the connection, which is imported when it is needed.
        from amqp_rpc.amqp.declared import Declared  # noqa: PLC0415

        connection = self._owned()
        if self._opening or self._channel is not None or not connection.is_open:
            return
        self._opening = True

        def opened(channel: Channel) -> None:
            channel.on_returned(self._returned)
            channel.confirms(lambda: ready(channel))

        def ready(channel: Channel) -> None:
            self._opening, self._channel = False, channel
            if self._declared is None:
                self._declared = Declared(connection, self._not_declared)
            self.send_unsent()

        connection.open_channel(opened, self._closed)

    def _forget_channel(self) -> None:
        self._channel = None
        self._opening = False
        waiting = set(map(id, self._unsent))
        for _, publication in self._pending:
            if publication.once and publication.written:
                self._end(publication, ConnectionLost(f"{self._last_error}. It is not known whether the broker has it"))
                continue
            publication.doubtful |= publication.written
            publication.written = publication.returned = False
            if id(publication) not in waiting:
                self._unsent.append(publication)

    def _closed(self, _channel: Channel, error: BrokerError, code: int) -> None:
        """The broker closed the channel on which is published."""
        self._last_error = error
        self._forget_channel()
        if code == _NOT_FOUND and self._declared is not None:
            # An exchange: a level of delay that somebody has deleted.
            self._declared.distrust()
        if isinstance(error, AccessRefused):
            self._end_refused(error)
        self._closed_in_a_row += 1
        delay = backoff(self._closed_in_a_row, first=FIRST_RETRY, most=LONGEST_RETRY)
        self._owned().loop.call_later(delay, self.on_open)

    def _end_refused(self, error: AccessRefused) -> None:
        """End those that the broker's words are about, of an exchange; all of them, where they are about none."""
        meant = [each for _, each in self._pending if verdicts.names(str(error), each.message)]
        for publication in meant or [each for _, each in self._pending]:
            self._end(publication, verdicts.fresh(error))

    def _not_declared(self, target: str, what: str, error: BrokerError, code: int) -> None:
        """Something that messages for a target need could not be declared; none of them was sent."""
        self._last_error = error
        waiting = [each for _, each in self._pending if each.message.target == target and not each.written]
        for publication in waiting:
            if isinstance(error, AccessRefused):
                self._end(publication, verdicts.fresh(error))
            elif code == _PRECONDITION_FAILED and what == target and publication.guessed:
                # Whoever declared it knew better.
                self._others.add(target)
                publication.arguments = None
                self.send(publication)
            elif code == _PRECONDITION_FAILED:
                self._end(publication, publication.conflict(what, error))
            else:
                # Its node is away, perhaps.
                self._owned().loop.call_later(_AGAIN, partial(self.send, publication))

    def send_unsent(self) -> None:
        """Publish what was held back, as far as that can be now."""
        unsent, self._unsent = self._unsent, deque()
        for publication in unsent:
            self.send(publication)

    def _write(self, channel: Channel, publication: Publication) -> None:
        if publication.done() or publication.written:
            return
        publication.written, publication.returned = True, False
        if self._pending.get(publication.identity) is None:
            # Its time is over, and another thread says what became of it: see `expire`.
            return
        if publication.replied:
            # Only now is it known; every connection has a reply queue of its own.
            properties = publication.message.properties
            properties.reply_to = self._reply_queue()
            properties.correlation_id = publication.identity if properties.reply_to is not None else None

        def confirmed(taken: bool) -> None:
            self._confirmed(publication, taken)

        try:
            if not channel.publish_confirmed(publication.message, confirmed, mandatory=True):
                publication.written = False
                self._unsent.append(publication)
        # Headers that a user gave an event; nothing was written then.
        except Exception as error:
            self._end(publication, error if isinstance(error, AmqpRpcError) else _unwritable(publication, error))

    def _confirmed(self, publication: Publication, taken: bool) -> None:
        self._closed_in_a_row = 0
        if not taken and self._unbounded(publication):
            # No bound refuses it: its queue's leader is gone, and may have kept it or not.
            publication.written, publication.doubtful = False, True
            self._owned().loop.call_later(_AGAIN, lambda: self.send(publication))
        elif not taken:
            publication.refused = True
            # Before it was refused it may have been taken.
            self._end(
                publication,
                publication.unknown if publication.doubtful else publication.refusal,
            )
        elif publication.returned and publication.message.exchange is None:
            # Its queue was deleted since it was declared.
            publication.written = False
            if self._declared is not None:
                self._declared.forget(publication.message)
            self.send(publication)
        elif self._pending.take(publication.identity) is not None:
            publication.tell(publication.verdict())

    def _returned(self, _key: str, properties: Properties) -> None:
        publication = self._pending.get(properties.message_id)
        if publication is not None:
            # In this order, by AMQP: the return comes before the confirm.
            publication.returned = True

    def _set_timer(self, due: float) -> None:
        self._timer_due = due
        self._owned().loop.call_later(max(0.0, due - time.monotonic()), self._sweep)

    def _sweep(self) -> None:
        for publication in self._pending.expired(time.monotonic()):
            publication.tell(self.too_late(publication))
        self._timer_due = float("inf")
        if self._pending.earliest < self._timer_due:
            self._set_timer(self._pending.earliest)

    def _unbounded(self, publication: Publication) -> bool:
        """Return whether a publication's queue has no bound, but for one that an administrator's policy set.

        Then the broker refuses it for an error of its own: https://www.rabbitmq.com/docs/confirms#server-sent-nacks
        """
        return publication.message.routing_key not in self._others and not publication.bounded

    def too_late(self, publication: Publication) -> BrokerError:
        """Return what a publication ends with whose time is over; any thread."""
        what = f"{publication.what} within {publication.timeout:g} s"
        connection = self._connection
        if publication.written or publication.doubtful:
            return publication.unknown
        if connection is not None and connection.blocked is not None:
            return PublishRefused(f"{what}: the broker takes no messages ({connection.blocked}). {publication.never}")
        if self._channel is not None:
            new = "its queue is new, and" if publication.message.exchange is None else "its exchange"
            return PublishRefused(f"{what}: {new} was still being declared. {publication.never}")
        why = self._last_error or f"no connection to {self._addresses} yet"
        return NotConnected(f"{what}: {why}. {publication.never}")

    def _end(self, publication: Publication, error: AmqpRpcError) -> None:
        if self._pending.take(publication.identity) is not None:
            publication.tell(error)


def _unwritable(publication: Publication, error: Exception) -> ConfigurationError:
    return ConfigurationError(f"{publication.what}: it has something that AMQP can't carry: {error!r}")
