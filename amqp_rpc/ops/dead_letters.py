"""Dead letters of a queue as a client sees them: list, replay, drop."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from itertools import islice

from amqp_rpc.amqp.channel import Delivery
from amqp_rpc.client.rpc import Caller
from amqp_rpc.errors import ConfigurationError, PublishRefused
from amqp_rpc.message.dead_letter import Choice, DeadLetter, read, replayed
from amqp_rpc.message.topology import dead_letter_queue
from amqp_rpc.ops.browse import WINDOW, Browsing

#: Named here, since the class has a method `list`.
Letters = list[DeadLetter]
Ids = list[str]

#: Dead letters that are listed unless more are asked for.
DEFAULT_LIMIT = 100


class DeadLetters:
    """The dead letters of one queue; `Client.dead_letters` returns it. Several threads may use it.

    A method receives the letters without acking them, and requeues them when it returns or the connection ends. So it
    holds all letters that it has read: a hundred for a fraction of a second. Another reader does not see them at that
    time. A letter that was requeued often goes to the queue's end, as a copy: see `browse`.

    Args:
        caller: The client's.
        queue: The queue that the letters were meant for.
        timeout: Seconds that each method may take.
    """

    def __init__(self, caller: Caller, queue: str, *, timeout: float) -> None:
        if not isinstance(queue, str) or not queue:
            raise ConfigurationError(f"dead letters are of a queue, by its name, not of {queue!r}")
        #: The queue whose dead letters they are, and the one that holds them.
        self.queue = queue
        self.dead_letter_queue = dead_letter_queue(queue)
        self._caller = caller
        self._timeout = timeout

    def list(
        self,
        *,
        limit: int | None = DEFAULT_LIMIT,
        ids: str | Iterable[str] | None = None,
        function: str | None = None,
        before: datetime | None = None,
        after: datetime | None = None,
    ) -> Letters:
        """Return dead letters, oldest death first; an empty list if the queue has none or does not exist.

        Args:
            limit: How many at most (100); None for all. If there are more, it returns the first in the queue's order:
                about the oldest.
            ids: Only those with one of these ids.
            function: Only those for the function of this name.
            before: Only those that died before this time, which has a zone.
            after: Only those that died then or later.

        Raises:
            BrokerError: No connection, no permission, or not done in time.
            ConfigurationError: A time has no zone.

        Example:
            >>> hour_ago = datetime.now(UTC) - timedelta(hours=1)  # doctest: +SKIP
            >>> client.dead_letters("thumbnails").list(function="resize", after=hour_ago)  # doctest: +SKIP
        """
        choice = Choice(ids=ids, function=function, before=before, after=after)
        found = (read(each.properties, each.body, queue=self.queue) for each in self._found(choice, limit=limit))
        return sorted(found, key=lambda letter: letter.died or datetime.min.replace(tzinfo=UTC))

    def get(self, id: str) -> DeadLetter | None:  # noqa: A002 - as users write it
        """Return the dead letter with an id, its arguments nearly in full; None if there is no such letter.

        Raises:
            BrokerError: No connection, no permission, or not done in time.
        """
        found = [*self._found(Choice(ids=id), limit=1)]
        return read(found[0].properties, found[0].body, queue=self.queue, whole=True) if found else None

    def replay(
        self,
        *,
        ids: str | Iterable[str] | None = None,
        function: str | None = None,
        before: datetime | None = None,
        after: datetime | None = None,
        all: bool = False,  # noqa: A002 - as users write it
    ) -> Ids:
        """Put dead letters back into their queue, under the same id; return the ids.

        Each starts at its first attempt, and keeps the record of its deaths (`DeadLetter.history`). An expired
        ``expires`` is removed. Its result goes nowhere: its caller has the error of its death already. The letter is
        acked once the broker has confirmed the new message: a crash in between leaves both, and loses none.

        Args:
            ids: Those with one of these ids.
            function: Those for the function of this name.
            before: Those that died before this time, which has a zone.
            after: Those that died then or later.
            all: All of them. Needed where no other is given.

        Raises:
            PublishRefused: The broker refused some: their queue is gone, or full. They stay dead letters; the others
                were replayed.
            BrokerError: No connection, no permission, or not done in time; some may have been replayed.
            ConfigurationError: Nothing says which, or a time has no zone.

        Example:
            >>> client.dead_letters("thumbnails").replay(function="resize")  # doctest: +SKIP
        """
        choice = _which("replay", all, ids=ids, function=function, before=before, after=after)
        moved: Ids = []
        with self._browse() as browsing:
            if browsing is None:
                return moved
            for delivery in browsing:
                if choice.takes(delivery.properties):
                    message = replayed(delivery.properties, delivery.body, queue=self.queue, now=time.time())
                    moved.append(str(message.properties.message_id))
                    browsing.move(delivery, message)
                else:
                    browsing.keep(delivery)
        refused = [(message, why) for message, why in browsing.refused if message.routing_key != self.dead_letter_queue]
        if refused:
            done = len(moved) - len(refused)
            raise PublishRefused(
                f"{done} of {len(moved)} dead letters were replayed; the broker did not take the others, which stay: "
                f"{refused[0][1]}. Workers declare the queue when they are started"
            )
        return moved

    def drop(
        self,
        *,
        ids: str | Iterable[str] | None = None,
        function: str | None = None,
        before: datetime | None = None,
        after: datetime | None = None,
        all: bool = False,  # noqa: A002 - as users write it
    ) -> Ids:
        """Delete dead letters for good; return their ids, an empty one for a letter that has none.

        Args:
            ids: Those with one of these ids.
            function: Those for the function of this name.
            before: Those that died before this time, which has a zone.
            after: Those that died then or later.
            all: All of them. Needed where no other is given.

        Raises:
            BrokerError: No connection, no permission, or not done in time; some may have been dropped.
            ConfigurationError: Nothing says which, or a time has no zone.
        """
        choice = _which("drop", all, ids=ids, function=function, before=before, after=after)
        dropped: Ids = []
        with self._browse() as browsing:
            for delivery in browsing or ():
                assert browsing is not None
                if choice.takes(delivery.properties):
                    browsing.drop(delivery)
                    dropped.append(delivery.properties.message_id or "")
                else:
                    browsing.keep(delivery)
        return dropped

    @contextlib.contextmanager
    def _browse(self, *, window: int = WINDOW) -> Iterator[Browsing | None]:
        """Browse the letters; None if their queue does not exist."""
        with self._caller.converse(self._timeout) as conversation:
            if conversation.inspect(self.dead_letter_queue) is None:
                yield None
            else:
                with Browsing(conversation, self.dead_letter_queue, window=window) as browsing:
                    yield browsing

    def _found(self, choice: Choice, *, limit: int | None) -> Iterator[Delivery]:
        # A small limit holds few letters back from other readers.
        with self._browse(window=min(limit or WINDOW, WINDOW) if choice.everything else WINDOW) as browsing:
            if browsing is not None:
                yield from islice(self._kept(browsing, choice), limit)

    @staticmethod
    def _kept(browsing: Browsing, choice: Choice) -> Iterator[Delivery]:
        for delivery in browsing:
            browsing.keep(delivery)
            if choice.takes(delivery.properties):
                yield delivery

    def __repr__(self) -> str:
        return f"<DeadLetters of {self.queue}>"


def _which(
    verb: str,
    everything: bool,
    *,
    ids: str | Iterable[str] | None,
    function: str | None,
    before: datetime | None,
    after: datetime | None,
) -> Choice:
    choice = Choice(ids=ids, function=function, before=before, after=after)
    if choice.everything and not everything:
        raise ConfigurationError(f"{verb} which? Give ids=, function=, before= or after=, or all=True")
    if everything and not choice.everything:
        raise ConfigurationError(f"{verb} all=True takes no other filter, which would leave some out")
    return choice
