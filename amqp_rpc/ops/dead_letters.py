"""Dead letters of a queue as a client sees them: list, replay, drop."""

from __future__ import annotations

import time
from collections.abc import Callable, Coroutine, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, TypedDict, TypeVar, Unpack

from amqp_rpc.amqp.channel import AddressedDelivery
from amqp_rpc.amqp.pending import blocking
from amqp_rpc.amqp.publisher import fresh
from amqp_rpc.amqp.session import Session
from amqp_rpc.errors import (
    AmqpRpcError,
    BrokerError,
    BrokerTimeout,
    ConfigurationError,
    NamesAnotherQueue,
    PublishRefused,
)
from amqp_rpc.message.dead_letter import Choice, DeadLetter, read, replayed
from amqp_rpc.message.signature import NotProved
from amqp_rpc.message.text import quoted, safe_repr
from amqp_rpc.message.topology import UNROUTED, dead_letter_queue, delayed_queue
from amqp_rpc.ops.browse import WINDOW, Cursor

T = TypeVar("T")

#: Named here, since the class has a method `list`.
Letters = list[DeadLetter]
Ids = list[str]
Deliveries = list[AddressedDelivery]

#: The reason of a delayed message that no server has failed with.
_ABANDONED = "its delay was over, and its queue was gone"

#: Dead letters that are listed unless more are asked for.
DEFAULT_LIMIT = 100


class Filters(TypedDict, total=False):
    """Conditions for dead letters, which meet all that are given."""

    ids: str | Iterable[str] | None  #: one of these ids
    function: str | None  #: for the function of this name
    before: datetime | None  #: died before this time, which has a zone
    after: datetime | None  #: died then or later


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a method of `DeadLetters` has come.

    Args:
        seen: The letters that it has looked at.
        total: The letters that the queue had when it began.
        ids: The ids of those that were replayed, or dropped, since the last report: the broker has confirmed them.
    """

    seen: int
    total: int
    ids: tuple[str, ...]


#: Called every hundred letters, on the thread that works with the connection: it must not block. False ends the method
#: early; it returns what it has.
Report = Callable[[Progress], object]


class DeadLetters:
    """The dead letters of one queue; `Client.dead_letters` returns it. Several threads may use it.

    A method receives the letters without acking them, and requeues them when it returns or the connection ends. So it
    holds all letters that it has read: a hundred for a fraction of a second. Another reader does not see them at that
    time. A letter that was requeued often goes to the queue's end, as a copy: see `browse`.

    A method that does not end well says how far it came: ``error.ids`` has the ids of the letters that were replayed,
    or dropped.
    """

    def __init__(self, session: Session, queue: str, *, timeout: float, whole: bool) -> None:
        if not isinstance(queue, str) or not queue:
            raise ConfigurationError(f"dead letters are of a queue, by its name, not of {queue!r}")
        #: The queue whose dead letters they are, and the one that holds them.
        self.queue: str = queue
        self.dead_letter_queue: str = dead_letter_queue(queue)
        self._session, self._timeout, self._whole = session, timeout, whole

    @blocking
    async def list(
        self, *, limit: int | None = DEFAULT_LIMIT, progress: Report | None = None, **filters: Unpack[Filters]
    ) -> Letters:
        """Return dead letters, oldest death first; an empty list if the queue has none or does not exist.

        Args:
            limit: How many at most (100), in the queue's order: about the oldest; None for all.
            progress: Called with the `Progress`, every hundred letters.
            **filters: Only those that fit `Filters`.

        Raises:
            BrokerError: No connection, or no permission.
            BrokerTimeout: The broker did not answer, or the timeout for all of it was over.
            ConfigurationError: A time has no zone.

        Example:
            >>> hour_ago = datetime.now(UTC) - timedelta(hours=1)  # doctest: +SKIP
            >>> client.dead_letters("thumbnails").list(function="resize", after=hour_ago)  # doctest: +SKIP
        """
        return _letters(await self._run(self._find(Choice(**filters), limit, self._way("read", progress))), self.queue)

    @blocking
    async def get(self, id: str, *, progress: Report | None = None) -> DeadLetter | None:  # noqa: A002 - as users write it
        """Return the dead letter with an id, its arguments nearly in full; None if there is no such letter.

        Args:
            id: Its id, in full.
            progress: As for `list`.

        Raises:
            BrokerError: As for `list`.
        """
        found = await self._run(self._find(Choice(ids=id), 1, self._way("read", progress)))
        return _letters(found, self.queue, whole=True)[0] if found else None

    @blocking
    async def replay(
        self,
        *,
        all: bool = False,  # noqa: A002 - as users write it
        to: str | None = None,
        progress: Report | None = None,
        **filters: Unpack[Filters],
    ) -> Ids:
        """Put dead letters back into their queue, under the same id; return the ids.

        Each starts at its first attempt, and keeps the record of its deaths (`DeadLetter.history`). An expired
        ``expires`` is removed. Its result goes nowhere: its caller has the error of its death already. The letter is
        acked once the broker has confirmed the new message: a crash in between leaves both, and loses none.

        Args:
            all: All of them. Needed where no filter is given.
            to: The queue that they go to, whichever they name; their own queue unless given.
            progress: Called with the `Progress` every hundred letters, and with the ids as they are confirmed.
            **filters: Those that fit `Filters`.

        Raises:
            NamesAnotherQueue: Some name another queue (``error.queues``), and there is no ``to``. They stay dead
                letters; the others (``error.ids``) were replayed.
            PublishRefused: The broker refused some: their queue is gone, or full. They stay dead letters; the others
                (``error.ids``) were replayed.
            BrokerError: No connection, or no permission. Those in ``error.ids`` were replayed, and a hundred more may
                have been.
            BrokerTimeout: The timeout for all of it was over: exactly those in ``error.ids`` were replayed. Or the
                broker did not answer.
            ConfigurationError: Nothing says which, or a time has no zone.

        Example:
            >>> client.dead_letters("thumbnails").replay(function="resize")  # doctest: +SKIP
        """
        if to is not None and (not isinstance(to, str) or not to):
            raise ConfigurationError(f"to= is a queue, by its name, not {to!r}")
        return await self._remove(_which("replay", all, filters), self._way("replayed", progress), to)

    @blocking
    async def drop(
        self,
        *,
        all: bool = False,  # noqa: A002 - as users write it
        progress: Report | None = None,
        **filters: Unpack[Filters],
    ) -> Ids:
        """Delete dead letters for good; return their ids, an empty one for a letter that has none.

        Args:
            all: All of them. Needed where no filter is given.
            progress: Called with the `Progress` every hundred letters, and with the ids as they are confirmed.
            **filters: Those that fit `Filters`.

        Raises:
            BrokerError: As for `replay`.
            ConfigurationError: Nothing says which, or a time has no zone.
        """
        return await self._remove(_which("drop", all, filters), self._way("dropped", progress))

    def _check_signature(self, delivery: AddressedDelivery) -> None:
        """Raise `PublishRefused` for a letter that no server with our keys has buried: a replay would sign it."""
        keys = self._session.publisher.keys
        if keys is not None:
            signed_for = delayed_queue(delivery.routing_key) or self.dead_letter_queue
            try:
                keys.check(delivery.properties, delivery.body, routing_key=signed_for)
            except NotProved as error:
                identity = quoted(delivery.properties.message_id)
                raise PublishRefused(f"dead letter [{identity}] is not replayed: {error}. Drop it") from error

    @safe_repr
    def __repr__(self) -> str:
        return f"<DeadLetters of {self.queue}>"

    def _way(self, verb: str, progress: Report | None) -> _Way:
        return _Way(verb, self._timeout if self._whole else None, progress)

    async def _run(self, script: Coroutine[Any, None, T]) -> T:
        return await self._session.script(script, timeout=self._timeout, each_step=True)

    async def _remove(self, choice: Choice, way: _Way, to: str | None = None) -> Ids:
        """Replay the letters that meet a choice, or drop them."""
        try:
            await self._run(self._removing(choice, way, to))
        except BrokerError as error:
            error.ids = tuple(way.done)
            error.may_have_run = error.may_have_run or (way.verb == "replayed" and bool(way.done))
            raise
        return way.done

    # Channel scripts.

    async def _find(self, choice: Choice, limit: int | None, way: _Way) -> Deliveries:
        found: Deliveries = []
        # A small limit holds few letters back from other readers.
        window = min(limit or WINDOW, WINDOW) if choice.everything else WINDOW
        async with Cursor(self._session, self.dead_letter_queue, window=window) as cursor:
            while (
                (limit is None or len(found) < limit)
                and way.goes_on(cursor)
                and (delivery := await cursor.next()) is not None
            ):
                way.seen += 1
                await cursor.keep(delivery)
                if choice.takes(delivery.properties):
                    found.append(delivery)
        way.finish(cursor, cursor.expected)
        return found

    async def _removing(self, choice: Choice, way: _Way, to: str | None) -> None:
        incomplete: list[PublishRefused] = []
        async with Cursor(self._session, self.dead_letter_queue) as cursor:
            way.done = cursor.done
            while way.goes_on(cursor) and (delivery := await cursor.next()) is not None:
                way.seen += 1
                if way.verb == "replayed" and (refusal := await cursor.forbidden()) is not None:
                    raise fresh(refusal)
                if not choice.takes(delivery.properties):
                    await cursor.keep(delivery)
                elif way.verb == "replayed":
                    try:
                        self._check_signature(delivery)
                        queue = _home(delivery, self.queue)
                        message = replayed(delivery.properties, delivery.body, queue=queue, now=time.time(), to=to)
                    except PublishRefused as refusal:
                        incomplete.append(refusal)
                        await cursor.keep(delivery)
                    else:
                        await cursor.move(delivery, message)
                else:
                    cursor.drop(delivery)
        moved = [move.value for move in cursor.refused if move.message.routing_key != self.dead_letter_queue]
        refused = [*moved, *incomplete]
        way.finish(cursor, choice.count(cursor.expected))
        if refused:
            raise _not_replayed(len(way.done), refused)


class _Way:
    """The way of one method through the queue: how far it has come, and whether it goes on.

    Args:
        verb: The letters' fate: read, replayed, dropped.
        timeout: Seconds for all of it; None for no limit.
        progress: Called as it goes.
    """

    def __init__(self, verb: str, timeout: float | None, progress: Report | None) -> None:
        self.verb = verb
        self._timeout, self._progress = timeout, progress
        self._until = None if timeout is None else time.monotonic() + timeout
        #: The number of letters seen, and the ids of the replayed or dropped ones.
        self.seen = 0
        self.done: Ids = []
        #: How many of both were reported.
        self._seen = self._done = 0
        #: True once the time was over; or a report has ended it, by False or by an exception, raised at the end.
        self._over = self._stopped = False
        self._failure: Exception | None = None

    def goes_on(self, cursor: Cursor) -> bool:
        """Report, and return whether the next letter is to be looked at."""
        if self._progress is not None and (len(self.done) > self._done or self.seen >= self._seen + WINDOW):
            self._report(cursor)
        if self._until is not None and not 0 <= cursor.expected <= self.seen:
            self._over = time.monotonic() >= self._until
        return not (self._over or self._stopped)

    def finish(self, cursor: Cursor, total: int | None) -> None:
        """Report what was confirmed at the end; ``total`` is the number of letters that were chosen, if it is known.

        Raises:
            BrokerTimeout: The time ran out before all letters were seen.
        """
        if self._progress is not None and (len(self.done), self.seen) != (self._done, self._seen):
            self._report(cursor)
        if self._failure is not None:
            raise self._failure
        if self._over:
            count = self.seen if self.verb == "read" else len(self.done)
            of = "" if total is None or total < 0 else f" of {total}"
            raise BrokerTimeout(
                f"{count}{of} dead letters were {self.verb} within {self._timeout:g} s; the others stay as they "
                "are. Give it more time with timeout="
            )

    def _report(self, cursor: Cursor) -> None:
        assert self._progress is not None
        ids, self._done, self._seen = tuple(self.done[self._done :]), len(self.done), self.seen
        try:
            self._stopped = self._progress(Progress(self.seen, max(0, cursor.expected), ids)) is False or self._stopped
        # Copies are in flight: they are confirmed before any exception is raised.
        except Exception as error:
            self._stopped, self._failure = True, error


def _home(delivery: AddressedDelivery, queue: str) -> str:
    """Return the queue of a delayed message that found no queue, by its routing key; ``queue`` for any other letter.

    In other queues anybody may choose the routing key, with a binding of his own.
    """
    return (delayed_queue(delivery.routing_key) if queue == UNROUTED else None) or queue


def _letter(delivery: AddressedDelivery, queue: str, *, whole: bool) -> DeadLetter:
    home = _home(delivery, queue)
    letter = read(delivery.properties, delivery.body, queue=home, whole=whole)
    return letter if home == queue else replace(letter, reason=_ABANDONED)


def _letters(found: Iterable[AddressedDelivery], queue: str, *, whole: bool = False) -> Letters:
    letters = (_letter(each, queue, whole=whole) for each in found)
    return sorted(letters, key=lambda letter: letter.died or datetime.min.replace(tzinfo=UTC))


def _not_replayed(done: int, refused: Sequence[AmqpRpcError | None]) -> PublishRefused:
    """Return the error for letters of which some were refused."""
    said = f"{done} of {done + len(refused)} dead letters were replayed; the others stay: {refused[0]}"
    elsewhere = [error for error in refused if isinstance(error, NamesAnotherQueue)]
    if len(elsewhere) < len(refused):
        return PublishRefused(said)
    queues: dict[str, Ids] = {}
    for error in elsewhere:
        for queue, ids in error.queues.items():
            queues.setdefault(queue, []).extend(ids)
    return NamesAnotherQueue(said, queues)


def _which(verb: str, everything: bool, filters: Filters) -> Choice:
    choice = Choice(**filters)
    if choice.everything and not everything:
        raise ConfigurationError(f"{verb} which? Give ids=, function=, before= or after=, or all=True")
    if everything and not choice.everything:
        raise ConfigurationError(f"{verb} all=True takes no other filter, which would leave some out")
    return choice
