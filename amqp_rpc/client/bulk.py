"""Many calls, tasks or events at a time: each is sent without waiting for the end of the one before."""

from __future__ import annotations

import itertools
import time
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

from amqp_rpc.amqp.pending import Turn
from amqp_rpc.errors import AmqpRpcError, NotAllAccepted
from amqp_rpc.message.text import plural

if TYPE_CHECKING:
    from amqp_rpc.amqp.publisher import Publication
    from amqp_rpc.client.rpc import Caller

#: Calls of one `Client.map` that are in flight at the same time.
DEFAULT_IN_FLIGHT = 100
#: Messages that wait for the broker's confirm at the same time.
_UNCONFIRMED = 1000
#: Messages after which an event loop has its turn.
_TURN = 50
#: Seconds that the broker has to confirm the messages that were published before Ctrl-C.
_ANSWER = 1.0


def outcomes(messages: Iterator[Future[list[Any]]], most: int) -> Iterator[Any]:
    """Yield the results of messages with calls, in their order, and raise the first error.

    Args:
        messages: Sends the next message each time that it is asked.
        most: How many messages are in flight at the same time.
    """
    waiting: deque[Future[list[Any]]] = deque()
    try:
        while True:
            # Many in one go, at the latest before it waits: the I/O thread is woken once for messages sent together.
            if len(waiting) <= most // 2 or not waiting[0].done():
                waiting.extend(itertools.islice(messages, most - len(waiting)))
            if not waiting:
                return
            for outcome in waiting.popleft().result():
                if isinstance(outcome, AmqpRpcError):
                    raise outcome
                yield outcome
    finally:
        for future in waiting:
            future.cancel()


class Batch:
    """Messages that are published ahead of the broker's confirms; not thread-safe.

    Args:
        session: The client's.
        one: The word for one of them in errors: ``event``.
        done: The end of the note that an error gets: ``published before``.
        of: The end of the error where some were not accepted: `` of resize()``.
    """

    def __init__(self, session: Caller, one: str, done: str, of: str = "") -> None:
        self._session = session
        self._one = one
        self._done = done
        self._of = of
        self._waiting: deque[tuple[int, Publication]] = deque()
        self._count = self._sent = self._accepted = self._refused = 0
        #: Why the broker did not accept some, by their numbers.
        self.errors: dict[int, AmqpRpcError] = {}

    async def publish(self, publications: Iterable[Publication | AmqpRpcError]) -> None:
        """Publish all; return once the broker has answered for each.

        Args:
            publications: Messages, or the errors because of which there is none; they are read as the broker keeps up.

        Raises:
            ConfigurationError: One of them makes no sense; those before it were published.
        """
        try:
            for number, each in enumerate(publications):
                self._count += 1
                if isinstance(each, AmqpRpcError):
                    self.errors[number] = each
                    continue
                self._waiting.append((number, each))
                self._sent += 1
                if not self._sent % _TURN:
                    await Turn()
                # Half of them at once: else each confirm that comes would wake this thread for one message.
                if len(self._waiting) >= _UNCONFIRMED:
                    await self._confirm(_UNCONFIRMED // 2)
        except BaseException as error:
            if not isinstance(error, Exception):
                self._hurry()
            await self._confirm(0)
            unknown = self._sent - self._accepted - self._refused
            note = f"{plural(self._accepted, f'{self._one} was', f'{self._one}s were')} {self._done}"
            error.add_note(note + (f"; of {unknown} more it is not known" if unknown else ""))
            raise
        await self._confirm(0)

    def not_all(self, others: str, handles: list[Any] | None = None) -> NotAllAccepted:
        """Return the error that says which were not accepted, and why.

        Args:
            others: What happened to the others: ``will run``.
            handles: The handles of those that were accepted, None in the places of the others.
        """
        first = min(self.errors)
        refused = len(self.errors)
        return NotAllAccepted(
            f"{refused} of {plural(self._count, self._one, f'{self._one}s')}{self._of} "
            f"{'was' if refused == 1 else 'were'} not accepted; the others {others}. "
            f"The first of them, number {first}: {self.errors[first]}",
            handles,
            self.errors,
        )

    async def _confirm(self, left: int) -> None:
        """Wait for confirms until only that many publications are left without."""
        while len(self._waiting) > left:
            number, publication = self._waiting.popleft()
            try:
                await self._session.confirm(publication)
                self._accepted += 1
            except AmqpRpcError as error:
                self.errors[number] = error
                self._refused += not error.may_have_run

    def _hurry(self) -> None:
        """Have the confirms awaited for a moment only: Ctrl-C was pressed."""
        for _, publication in self._waiting:
            publication.expires_at = min(publication.expires_at, time.monotonic() + _ANSWER)
