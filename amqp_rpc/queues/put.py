"""What a `Queue` puts: published, confirmed, tried again while the queue is full, and counted until it is done."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable
from queue import Full
from typing import TYPE_CHECKING, Any

from amqp_rpc.amqp.publisher import Publication, fresh
from amqp_rpc.client.verdicts import closed, other_arguments
from amqp_rpc.errors import (
    AccessRefused,
    AmqpRpcError,
    BrokerError,
    ConfigurationError,
    ConnectionLost,
    NotAllAccepted,
    NotConnected,
    PublishRefused,
)
from amqp_rpc.message import codec
from amqp_rpc.message.codec import MSGPACK
from amqp_rpc.message.envelope import Message
from amqp_rpc.message.text import plural
from amqp_rpc.message.timing import backoff
from amqp_rpc.queues import items
from amqp_rpc.service.context import time_left

if TYPE_CHECKING:
    from amqp_rpc.client.rpc import Caller
    from amqp_rpc.queues.receipts import Receipts

#: When a wait without a bound is over.
NEVER = float("inf")
#: Items of one `put_many` that wait for the broker's confirm at the same time.
_UNCONFIRMED = 1000
#: Seconds between two tries to put an item into a full queue, at first and at most.
_FIRST_PAUSE, _LONGEST_PAUSE = 0.005, 0.1
#: Seconds that the broker has at least to answer to the last of them: without, it would not be known what it did.
_ANSWER = 1.0
#: Seconds that it has where none are left: what then is said, is said of it.
_SHORTEST = 0.001


class Putting:
    """Puts values into a queue; any thread may.

    Args:
        caller: The client's.
        receipts: The client's.
        queue: Its name.
        arguments: Those with which it is declared.
        maxsize: Items that may wait in it; 0 for no bound.
        timeout: Seconds for the broker's answer, where no other time is given.
        limit: Bytes of an item at most.
    """

    def __init__(
        self,
        caller: Caller,
        receipts: Receipts,
        queue: str,
        arguments: dict[str, Any],
        *,
        maxsize: int,
        timeout: float,
        limit: int,
    ) -> None:
        self._caller = caller
        self._receipts = receipts
        self._queue = queue
        self._arguments = arguments
        self._maxsize = maxsize
        self._timeout = timeout
        self._limit = limit
        self._putter = caller.identity()
        #: Those that were put here and are not done.
        self.unfinished = receipts.unfinished(self._putter)
        self._declared = False
        #: Whether nothing is to be put any more.
        self.closed = False

    def put(self, value: Any, *, wait: bool, until: float) -> None:
        """Put a value.

        Args:
            value: Anything that the codec carries.
            wait: Whether to wait for room in a full queue.
            until: When that, and all else, is over, on the monotonic clock; `NEVER` for room without a bound.

        Raises:
            Full: There is no room.
            BrokerError: It may not be there.
        """
        body = codec.encode(value, MSGPACK, limit=self._limit)
        self._accept(*self._begun(body, self._by(until)), wait=wait, until=until)

    def put_many(self, values: Iterable[Any], *, until: float) -> None:
        """Put many values, without waiting for each one's confirm before the next.

        Raises:
            NotAllAccepted: Some are not there, or may not be.
        """
        many = _Many(self._queue, self._accept)
        # No more ahead than may be there: what the broker refuses is sent again.
        most = min(_UNCONFIRMED, self._maxsize) if self._maxsize else _UNCONFIRMED
        try:
            for value in values:
                if time.monotonic() >= until:
                    many.stop(values)
                    break
                body = codec.encode(value, MSGPACK, limit=self._limit)
                many.waiting.append((many.sent, *self._begun(body, self._by(until))))
                many.sent += 1
                # Half of them at once: else each confirm that comes would wake this thread for one item.
                if len(many.waiting) >= most:
                    many.confirm(most // 2, until)
            many.confirm(0, until)
        except BaseException as error:
            many.end(error, until)
            raise
        if many.errors:
            errors = dict(sorted(many.errors.items()))
            first, why = next(iter(errors.items()))
            raise NotAllAccepted(
                f"{len(errors)} of {many.sent + many.unsent} items were not put into queue {self._queue!r}, or may not "
                f"have been; the others were. The first of them, number {first}: {why}{many.unread}",
                errors=errors,
            )

    def _by(self, until: float) -> float:
        """Return when the broker has to have answered to all that a put needs."""
        return time.monotonic() + to_answer(self._timeout) if until == NEVER else until

    def _message(self, body: bytes, by: float) -> tuple[int, Message]:
        if self.closed:
            raise ConfigurationError(closed(self._queue))
        if not self._declared:
            self._declare(_left(by))
        while True:
            reply_to = self._receipts.address(_left(by))
            number = self.unfinished.add()
            # Were it gone by now, this number would be waited for, and nobody would hear of it.
            if self._receipts.here == reply_to:
                break
            self.unfinished.done(number)
        return number, items.item(
            self._queue, body, putter=self._putter, number=number, reply_to=reply_to, now=time.time()
        )

    def _declare(self, seconds: float) -> None:
        """Declare the queue, for what is said where somebody has declared it in another way."""
        with self._caller.converse(seconds) as conversation:
            try:
                conversation.ask(lambda channel, done: channel.declare(self._queue, done, arguments=self._arguments))
            except AccessRefused:
                raise
            except BrokerError as error:
                if conversation.mismatched:
                    raise ConfigurationError(other_arguments(self._queue, error)) from error
                raise
        self._declared = True

    def _begun(self, body: bytes, by: float) -> tuple[int, Message, Publication]:
        """Count an item and publish it; where that raises, nobody is to wait for it."""
        number, message = self._message(body, by)
        try:
            return number, message, self._publish(message, by)
        except BaseException:
            self.unfinished.done(number)
            raise

    def _publish(self, message: Message, by: float) -> Publication:
        publication = Publication(message, self._arguments, timeout=_left(by))
        self._caller.publish(publication)
        return publication

    def _accept(self, number: int, message: Message, publication: Publication, *, wait: bool, until: float) -> None:
        """Wait for the broker's confirm; where it refuses for a bound, publish again while there is time."""
        refusals, accepted = 0, False
        try:
            while not accepted:
                try:
                    self._caller.confirmed(publication)
                    accepted = True
                except AmqpRpcError as error:
                    if not (publication.refused and isinstance(error, PublishRefused)):
                        raise self._explained(error, publication) from error
                    refusals += 1
                    left, pause = until - time.monotonic(), backoff(refusals, first=_FIRST_PAUSE, most=_LONGEST_PAUSE)
                    if wait and left > 0:
                        time.sleep(min(pause, left))
                    if wait and self.closed:
                        raise ConfigurationError(closed(self._queue)) from error
                    if not wait or left <= pause:
                        raise Full from error
                    publication = self._publish(message, self._by(max(until, time.monotonic() + _ANSWER)))
        finally:
            if not accepted:
                self.unfinished.done(number)
                self._caller.ended()

    def _explained(self, error: AmqpRpcError, publication: Publication) -> AmqpRpcError:
        """Return what is said of an item that was not confirmed; the outbox speaks of tasks."""
        queue, seconds = self._queue, f"within {publication.timeout:.3g} s"
        if isinstance(error, ConfigurationError):
            return ConfigurationError(other_arguments(queue, error))
        if isinstance(error, ConnectionLost):
            what = f"the broker did not confirm an item of queue {queue!r} {seconds}"
            if publication.refused:
                what = f"the broker refused an item of queue {queue!r} that was sent before and not confirmed"
            return ConnectionLost(f"{what}; it may be there. Put it again only if it may be there twice")
        if isinstance(error, PublishRefused):
            blocked = self._receipts.blocked
            why = "there was no time to send it, or the queue was still being declared"
            if blocked:
                why = f"the broker takes no messages ({blocked})"
            return PublishRefused(f"an item was not put into queue {queue!r} {seconds}: {why}")
        if isinstance(error, NotConnected):
            return NotConnected(f"an item was not put into queue {queue!r} {seconds}: there is no connection")
        return fresh(error) if isinstance(error, BrokerError) else error


class _Many:
    """What one `put_many` has sent, and what became of it.

    Args:
        queue: Its name.
        accept: Waits for the confirm of one: `Putting`'s.
    """

    def __init__(self, queue: str, accept: Callable[..., None]) -> None:
        self._queue = queue
        self._accept = accept
        #: What is not confirmed yet, oldest first: its place among all, its number, and its message.
        self.waiting: deque[tuple[int, int, Message, Publication]] = deque()
        #: Why those are not there that are not, or may not be, by their places.
        self.errors: dict[int, AmqpRpcError] = {}
        self.sent = 0
        #: For how many there was no time, and what is said of those beyond, of which it isn't known how many they are.
        self.unsent = 0
        self.unread = ""
        self._put = 0
        self._ending = False

    def confirm(self, left: int, until: float) -> None:
        """Wait until no more than so many are not confirmed; for room in a full queue until that time."""
        while len(self.waiting) > left:
            place, number, message, publication = self.waiting.popleft()
            try:
                self._accept(number, message, publication, wait=True, until=until)
                self._put += 1
            except Full:
                self.errors[place] = PublishRefused(f"queue {self._queue!r} was full until the time was over")
            except AmqpRpcError as error:
                self.errors[place] = error
                if isinstance(error, ConfigurationError) and not self._ending:
                    raise

    def stop(self, values: Iterable[Any]) -> None:
        """Take note that the time is over, one value of them was read after it, and no more is sent."""
        late = PublishRefused("it was not sent: the time was over")
        try:
            self.unsent = max(1, len(values) - self.sent)  # type: ignore[arg-type] # it may have no length
        except TypeError:
            self.unsent = 1
            self.unread = f". What comes after number {self.sent} was not read"
        self.errors |= dict.fromkeys(range(self.sent, self.sent + self.unsent), late)

    def end(self, error: BaseException, until: float) -> None:
        """Wait for what was sent before an error, and have the error say what became of it."""
        self._ending, soon = True, min(until, time.monotonic() + _ANSWER)
        if not isinstance(error, Exception):
            # Ctrl-C: it waits for a broker that does not answer as little as for room.
            for *_, publication in self.waiting:
                publication.expires_at = min(publication.expires_at, soon)
        self.confirm(0, soon)
        refused = sum(not isinstance(each, ConnectionLost) for each in self.errors.values())
        note = f"{plural(self._put, 'item was', 'items were')} put into queue {self._queue!r} before"
        if refused:
            note += f", {plural(refused, 'was', 'were')} not"
        # Without an answer, or with Ctrl-C in the middle of it.
        if unknown := self.sent - self._put - refused:
            note += f"; of {unknown} it is not known"
        error.add_note(note)


def to_answer(timeout: float) -> float:
    """Return the seconds that the broker has to answer: no more than are left to the call that is being handled here.

    Args:
        timeout: Those of the client.
    """
    left = time_left()
    return timeout if left is None else min(timeout, max(_SHORTEST, left))


def _left(by: float) -> float:
    """Return the seconds until then, as they are told to people."""
    return max(_SHORTEST, round(by - time.monotonic(), 3))
