"""Dead letters of a queue as a client sees them: list, replay, drop."""

from __future__ import annotations

import time
from collections.abc import Coroutine, Iterable
from datetime import UTC, datetime
from typing import Any, TypedDict, TypeVar, Unpack

from amqp_rpc.amqp.channel import Delivery
from amqp_rpc.amqp.pending import blocking
from amqp_rpc.amqp.session import Session
from amqp_rpc.errors import ConfigurationError, PublishRefused
from amqp_rpc.message.dead_letter import Choice, DeadLetter, read, replayed
from amqp_rpc.message.topology import dead_letter_queue
from amqp_rpc.ops.browse import WINDOW, Cursor

T = TypeVar("T")

#: Named here, since the class has a method `list`.
Letters = list[DeadLetter]
Ids = list[str]
Deliveries = list[Delivery]

#: Dead letters that are listed unless more are asked for.
DEFAULT_LIMIT = 100


class Filters(TypedDict, total=False):
    """Conditions for dead letters, which meet all that are given."""

    ids: str | Iterable[str] | None  #: one of these ids
    function: str | None  #: for the function of this name
    before: datetime | None  #: died before this time, which has a zone
    after: datetime | None  #: died then or later


class DeadLetters:
    """The dead letters of one queue; `Client.dead_letters` returns it. Several threads may use it.

    A method receives the letters without acking them, and requeues them when it returns or the connection ends. So it
    holds all letters that it has read: a hundred for a fraction of a second. Another reader does not see them at that
    time. A letter that was requeued often goes to the queue's end, as a copy: see `browse`.
    """

    def __init__(self, session: Session, queue: str, *, timeout: float) -> None:
        if not isinstance(queue, str) or not queue:
            raise ConfigurationError(f"dead letters are of a queue, by its name, not of {queue!r}")
        #: The queue whose dead letters they are, and the one that holds them.
        self.queue, self.dead_letter_queue = queue, dead_letter_queue(queue)
        self._session, self._timeout = session, timeout

    @blocking
    async def list(self, *, limit: int | None = DEFAULT_LIMIT, **filters: Unpack[Filters]) -> Letters:
        """Return dead letters, oldest death first; an empty list if the queue has none or does not exist.

        Args:
            limit: How many at most (100), in the queue's order: about the oldest; None for all.
            **filters: Only those that fit `Filters`.

        Raises:
            BrokerError: No connection, no permission, or not done in time.
            ConfigurationError: A time has no zone.

        Example:
            >>> hour_ago = datetime.now(UTC) - timedelta(hours=1)  # doctest: +SKIP
            >>> client.dead_letters("thumbnails").list(function="resize", after=hour_ago)  # doctest: +SKIP
        """
        return _letters(await self._run(self._find(Choice(**filters), limit)), self.queue)

    @blocking
    async def get(self, id: str) -> DeadLetter | None:  # noqa: A002 - as users write it
        """Return the dead letter with an id, its arguments nearly in full; None if there is no such letter.

        Raises:
            BrokerError: No connection, no permission, or not done in time.
        """
        found = await self._run(self._find(Choice(ids=id), 1))
        return _letters(found, self.queue, whole=True)[0] if found else None

    @blocking
    async def replay(self, *, all: bool = False, **filters: Unpack[Filters]) -> Ids:  # noqa: A002 - as users write it
        """Put dead letters back into their queue, under the same id; return the ids.

        Each starts at its first attempt, and keeps the record of its deaths (`DeadLetter.history`). An expired
        ``expires`` is removed. Its result goes nowhere: its caller has the error of its death already. The letter is
        acked once the broker has confirmed the new message: a crash in between leaves both, and loses none.

        Args:
            all: All of them. Needed where no filter is given.
            **filters: Those that fit `Filters`.

        Raises:
            PublishRefused: The broker refused some: their queue is gone, or full. They stay dead letters; the others
                were replayed.
            BrokerError: No connection, no permission, or not done in time; some may have been replayed.
            ConfigurationError: Nothing says which, or a time has no zone.

        Example:
            >>> client.dead_letters("thumbnails").replay(function="resize")  # doctest: +SKIP
        """
        return await self._run(self._remove(_which("replay", all, filters), replay=True))

    @blocking
    async def drop(self, *, all: bool = False, **filters: Unpack[Filters]) -> Ids:  # noqa: A002 - as users write it
        """Delete dead letters for good; return their ids, an empty one for a letter that has none.

        Args:
            all: All of them. Needed where no filter is given.
            **filters: Those that fit `Filters`.

        Raises:
            BrokerError: No connection, no permission, or not done in time; some may have been dropped.
            ConfigurationError: Nothing says which, or a time has no zone.
        """
        return await self._run(self._remove(_which("drop", all, filters), replay=False))

    def __repr__(self) -> str:
        return f"<DeadLetters of {self.queue}>"

    async def _run(self, script: Coroutine[Any, None, T]) -> T:
        return await self._session.script(script, timeout=self._timeout)

    # Channel scripts.

    async def _find(self, choice: Choice, limit: int | None) -> Deliveries:
        found: Deliveries = []
        # A small limit holds few letters back from other readers.
        window = min(limit or WINDOW, WINDOW) if choice.everything else WINDOW
        async with Cursor(self._session, self.dead_letter_queue, window=window) as cursor:
            while (limit is None or len(found) < limit) and (delivery := await cursor.next()) is not None:
                await cursor.keep(delivery)
                if choice.takes(delivery.properties):
                    found.append(delivery)
        return found

    async def _remove(self, choice: Choice, *, replay: bool) -> Ids:
        """Replay the letters that meet a choice, or drop them."""
        removed: Ids = []
        async with Cursor(self._session, self.dead_letter_queue) as cursor:
            while (delivery := await cursor.next()) is not None:
                if not choice.takes(delivery.properties):
                    await cursor.keep(delivery)
                elif replay:
                    message = replayed(delivery.properties, delivery.body, queue=self.queue, now=time.time())
                    removed.append(str(message.properties.message_id))
                    await cursor.move(delivery, message)
                else:
                    removed.append(delivery.properties.message_id or "")
                    cursor.drop(delivery)
        refused = [move for move in cursor.refused if move.message.routing_key != self.dead_letter_queue]
        if refused:
            raise PublishRefused(
                f"{len(removed) - len(refused)} of {len(removed)} dead letters were replayed; the broker did not take "
                f"the others, which stay: {refused[0].value}. Workers declare the queue when they are started"
            )
        return removed


def _letters(found: Iterable[Delivery], queue: str, *, whole: bool = False) -> Letters:
    letters = (read(each.properties, each.body, queue=queue, whole=whole) for each in found)
    return sorted(letters, key=lambda letter: letter.died or datetime.min.replace(tzinfo=UTC))


def _which(verb: str, everything: bool, filters: Filters) -> Choice:
    choice = Choice(**filters)
    if choice.everything and not everything:
        raise ConfigurationError(f"{verb} which? Give ids=, function=, before= or after=, or all=True")
    if everything and not choice.everything:
        raise ConfigurationError(f"{verb} all=True takes no other filter, which would leave some out")
    return choice
