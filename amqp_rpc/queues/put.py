"""The producing half of a queue: items are published, retried while it is full, and counted until their receipts."""

from __future__ import annotations

import logging
import os
import time
from collections import deque
from collections.abc import Iterable
from queue import Full
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

from amqp_rpc.amqp.pending import Wait
from amqp_rpc.amqp.publisher import Publication
from amqp_rpc.amqp.reply_queue import Receiver
from amqp_rpc.errors import (
    AmqpRpcError,
    BrokerError,
    ConfigurationError,
    ConnectionLost,
    NotAllAccepted,
    PublishRefused,
)
from amqp_rpc.message import codec
from amqp_rpc.message.codec import MSGPACK
from amqp_rpc.message.text import bounded_logger, plural
from amqp_rpc.message.timing import backoff
from amqp_rpc.queues import items
from amqp_rpc.service.context import time_left

if TYPE_CHECKING:
    from amqp_rpc.amqp.channel import Delivery
    from amqp_rpc.amqp.publisher import Publisher
    from amqp_rpc.amqp.session import Session
    from amqp_rpc.message.envelope import Message

logger: logging.Logger = bounded_logger(__name__)

#: The end of a wait without a bound.
NEVER = float("inf")
#: The most unconfirmed items of one `put_many`.
_UNCONFIRMED = 1000
#: Seconds between two attempts to put an item into a full queue, at first and at most.
_FIRST_PAUSE, _LONGEST_PAUSE = 0.005, 0.1
#: The least seconds for the broker's answer to the last attempt: without it, the outcome would be unknown.
_ANSWER = 1.0
#: The shortest timeout of the broker: an error then names the broker, and not the timeout.
_SHORTEST = 0.001


class Receipts(Receiver):
    """Receives the receipts of a client's items, over its reply queue."""

    def __init__(self) -> None:
        self._all: WeakValueDictionary[str, items.Unfinished] = WeakValueDictionary()

    def unfinished(self, token: str) -> items.Unfinished:
        """Return the count of a new `Queue` object's items."""
        counted = self._all[token] = items.Unfinished(token)
        return counted

    def received(self, delivery: Delivery) -> None:
        """Count the items of a receipt as done; the I/O thread's."""
        self.done(items.read_receipt(delivery.properties, delivery.body))

    def done(self, identities: Iterable[object]) -> None:
        """Count items as done, if their objects still exist."""
        for identity in identities:
            if (unfinished := self._all.get(items.token_of(identity))) is not None:
                unfinished.received(str(identity))

    def lost(self) -> None:
        """Give up the receipts of all items so far: their reply queue is gone. The I/O thread's."""
        # Another thread may add an entry at the same time: only a list of references is made in one step.
        counted = [each for reference in self._all.valuerefs() if (each := reference()) is not None]
        if lost := sum(unfinished.lose() for unfinished in counted):
            logger.warning(
                "the reply queue is gone: it will not be known whether %s done", plural(lost, "item is", "items are")
            )


class ItemPublication(Publication):
    """An item on its way to the broker, from one attempt to the next while its queue is full.

    It waits for room until ``until``, on the monotonic clock, or not at all (None).
    """

    __slots__ = ("_answer", "_producer", "_refusals", "_until", "number")

    replied = True
    never: str = "It is not there"
    again: str = "Put it again only if it may be there twice"

    def __init__(
        self,
        message: Message,
        arguments: dict[str, Any] | None,
        producer: ItemProducer,
        number: int,
        until: float | None,
        timeout: float,
    ) -> None:
        super().__init__(message, arguments, timeout=timeout)
        self._producer = producer
        self.number: int = number
        self._until = until
        self._answer = timeout
        self._refusals = 0

    @property
    def subject(self) -> str:
        """The item in error messages."""
        return f"an item of queue {self.message.routing_key!r}"

    @property
    def what(self) -> str:
        """The item and the failure."""
        return f"an item was not put into queue {self.message.routing_key!r}"

    @property
    def unknown(self) -> ConnectionLost:
        """Return the error if the broker may have it."""
        if self.refused:
            return ConnectionLost(
                f"the broker refused {self.subject} that was sent before and not confirmed; it may be there. "
                f"{self.again}"
            )
        return super().unknown

    def conflict(self, what: str, error: BrokerError) -> ConfigurationError:
        """Return the error if its queue exists with other arguments."""
        return items.conflict(what, error)

    @property
    def bounded(self) -> bool:
        """A bound may refuse it, also one that another program has given its queue."""
        return self.arguments is None or super().bounded

    def confirmed(self, publisher: Publisher) -> None:
        """End it; where another program's queue does not exist, with the error that says so."""
        if self.returned and self.arguments is None:
            publisher.end(self, items.missing(self.message.routing_key))
        else:
            super().confirmed(publisher)

    def addressed(self, reply_queue: str | None) -> None:
        """Ask for a receipt: every connection has a reply queue of its own."""
        self.message.properties.reply_to = reply_queue

    def nacked(self, publisher: Publisher) -> None:
        """Publish it again while its queue is full and there is time."""
        until, now = self._until or 0.0, time.monotonic()
        if not self.bounded or self.doubtful or until <= now:
            super().nacked(publisher)
        elif self._producer.shut:
            publisher.end(self, items.closed(self.message.routing_key))
        else:
            self._refusals += 1
            pause = min(until - now, backoff(self._refusals, first=_FIRST_PAUSE, most=_LONGEST_PAUSE))
            self.expires_at = now + pause + self._answer if until == NEVER else max(until, now + pause + _ANSWER)
            self.written = False
            publisher.connection.loop.call_later(pause, lambda: publisher.send(self))

    def hurry(self, error: BaseException) -> None:
        """Wait no longer for room: an error has ended the rest. After Ctrl-C, don't wait long for the broker either."""
        soon = time.monotonic() + _ANSWER
        self._until = soon if self._until is None else min(self._until, soon)
        if not isinstance(error, Exception):
            self.expires_at: float = min(self.expires_at, soon)


class ItemProducer:
    """Puts the items of a `Queue` object; any thread may."""

    def __init__(
        self, session: Session, queue: str, arguments: dict[str, Any] | None, *, timeout: float, limit: int
    ) -> None:
        self._session = session
        self._queue = queue
        self._arguments = arguments
        self._timeout = timeout
        self._limit = limit
        # No more unconfirmed items than the queue may hold: refused ones are sent again.
        self._most = min(_UNCONFIRMED, (arguments or {}).get("x-max-length", _UNCONFIRMED))
        # None of the session's ids: a client whose queues are made before a fork may be used after it.
        token = os.urandom(16).hex()
        #: The items of this object that are not done.
        self.unfinished: items.Unfinished = session.reply_queue.receiver(items.DONE, Receipts).unfinished(token)
        #: True once no more items may be put.
        self.shut = False

    async def put(self, value: Any, *, wait: bool, until: float) -> None:
        """Put a value; wait for room in a full queue until then, on the monotonic clock.

        Raises:
            Full: There is no room.
            BrokerError: The item may not be there.
        """
        await self._confirm(self._begin(value, wait=wait, until=until))

    async def put_many(self, values: Iterable[Any], *, until: float) -> None:
        """Put many values, without waiting for each one's confirm before the next.

        Raises:
            NotAllAccepted: Some are not there, or may not be.
        """
        batch = _Batch()
        try:
            for value in values:
                if time.monotonic() >= until:
                    batch.stop(values)
                    break
                batch.sent.append(self._begin(value, wait=True, until=until))
                batch.count += 1
                # Half of them at once: otherwise each confirm would wake this thread for one item.
                if len(batch.sent) >= self._most:
                    await self._confirm_all(batch, self._most // 2)
            await self._confirm_all(batch, 0)
        except BaseException as error:
            batch.broken = True
            for publication in batch.sent:
                publication.hurry(error)
            await self._confirm_all(batch, 0)
            error.add_note(batch.note(self._queue))
            raise
        if batch.errors:
            raise batch.error(self._queue)

    def _begin(self, value: Any, *, wait: bool, until: float) -> ItemPublication:
        """Count an item and publish it; if that raises, the item does not count."""
        body = codec.encode(value, MSGPACK, limit=self._limit)
        if self.shut:
            raise items.closed(self._queue)
        number = self.unfinished.add()
        try:
            publication = ItemPublication(
                items.item(self._queue, body, identity=self.unfinished.identity(number)),
                self._arguments,
                self,
                number,
                until if wait else None,
                to_answer(self._timeout) if until == NEVER else max(_SHORTEST, until - time.monotonic()),
            )
            self._session.publish(publication)
        except BaseException:
            self.unfinished.done(number)
            raise
        return publication

    async def _confirm(self, publication: ItemPublication) -> None:
        accepted = False
        try:
            while not publication.done() and time.monotonic() < publication.expires_at:
                await Wait(publication, publication.expires_at)
            await self._session.confirm(publication)
            accepted = True
        except PublishRefused as error:
            if publication.refused:
                raise Full from error
            raise
        finally:
            if not accepted:
                self.unfinished.done(publication.number)
                self._session.ended()

    async def _confirm_all(self, batch: _Batch, left: int) -> None:
        """Wait until at most ``left`` items are unconfirmed."""
        while len(batch.sent) > left:
            place, publication = batch.count - len(batch.sent), batch.sent.popleft()
            if publication.done() and publication.value is None:
                batch.put += 1
                continue
            try:
                await self._confirm(publication)
                batch.put += 1
            except Full:
                batch.errors[place] = PublishRefused(f"queue {self._queue!r} was full until the time was over")
            except AmqpRpcError as error:
                batch.errors[place] = error
                if isinstance(error, ConfigurationError) and not batch.broken:
                    raise


class _Batch:
    """The items of one `put_many`."""

    def __init__(self) -> None:
        #: The unconfirmed items, oldest first.
        self.sent: deque[ItemPublication] = deque()
        #: The numbers of sent and of confirmed items.
        self.count = self.put = 0
        #: The errors of items that are not there, or may not be, by their places.
        self.errors: dict[int, AmqpRpcError] = {}
        #: The number of items that were not sent in time; and the text for those that were not even read.
        self.late, self.unread = 0, ""
        #: True once another error has ended it.
        self.broken = False

    def stop(self, values: Iterable[Any]) -> None:
        """Send no more: the time is over, and one value was read but not sent."""
        try:
            self.late = max(1, len(values) - self.count)  # type: ignore[arg-type] # it may have no length
        except TypeError:
            self.late = 1
            self.unread = f". Items after number {self.count} were not read"
        late = PublishRefused("it was not sent: the time was over")
        self.errors |= dict.fromkeys(range(self.count, self.count + self.late), late)

    def error(self, queue: str) -> NotAllAccepted:
        """Return the error that names all others."""
        errors = dict(sorted(self.errors.items()))
        first, why = next(iter(errors.items()))
        return NotAllAccepted(
            f"{len(errors)} of {self.count + self.late} items were not put into queue {queue!r}, or may not have been; "
            f"the others were. The first of them, number {first}: {why}{self.unread}",
            errors=errors,
        )

    def note(self, queue: str) -> str:
        """Return a note for another error that has ended it."""
        refused = sum(not each.may_have_run for each in self.errors.values())
        note = f"{plural(self.put, 'item was', 'items were')} put into queue {queue!r} before"
        if refused:
            note += f", {plural(refused, 'was', 'were')} not"
        # Without an answer, or after Ctrl-C in the middle of it.
        if unknown := self.count - self.put - refused:
            note += f"; for {unknown} it is not known"
        return note


def to_answer(timeout: float) -> float:
    """Return the seconds that the broker has to answer: at most those that are left to the call being handled."""
    left = time_left()
    return timeout if left is None else min(timeout, max(_SHORTEST, left))
