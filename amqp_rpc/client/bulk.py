"""Many calls, tasks or events at a time: each is sent without waiting for the end of the one before."""

from __future__ import annotations

import itertools
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from amqp_rpc.amqp.pending import Turn
from amqp_rpc.errors import AmqpRpcError, ConfigurationError, NotAllAccepted
from amqp_rpc.message.text import plural

if TYPE_CHECKING:
    from amqp_rpc.amqp.publisher import Publication
    from amqp_rpc.client.future import BlockingCall
    from amqp_rpc.client.rpc import Caller
    from amqp_rpc.service.function import Function

T = TypeVar("T")

#: Calls of one `Client.map` that are in flight at the same time.
DEFAULT_IN_FLIGHT = 100
#: Messages that wait for the broker's confirm at the same time.
_UNCONFIRMED = 1000
#: Messages after which an event loop has its turn.
_TURN = 50
#: Seconds that the broker has to confirm the messages that were published before Ctrl-C.
_ANSWER = 1.0


def outcomes(messages: Iterator[BlockingCall], most: int) -> Iterator[Any]:
    """Yield the results of messages with calls, in their order, and raise the first error.

    Args:
        messages: Sends the next message each time that it is asked.
        most: How many messages are in flight at the same time.
    """
    waiting: deque[BlockingCall] = deque()
    end = End()
    try:
        while True:
            # Many in one go, at the latest before it waits: the I/O thread is woken once for messages sent together.
            if len(waiting) <= most // 2 or not waiting[0].done():
                with end:
                    waiting.extend(itertools.islice(messages, most - len(waiting)))
            if not waiting:
                end.raise_error()
                return
            for outcome in waiting.popleft().result():
                if isinstance(outcome, AmqpRpcError):
                    try:
                        raise outcome
                    finally:
                        # Else its traceback and this frame keep each other alive.
                        del outcome
                yield outcome
    finally:
        for call in waiting:
            call.give_up()


class End:
    """Keeps an error of what is sent, until the results of all that was sent before have come."""

    _error: Exception | None = None

    def __enter__(self) -> None:
        """Begin to send."""

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> bool:
        if isinstance(error, Exception):
            self._error = error
            return True
        return False

    def raise_error(self) -> None:
        """Raise the error, if there is one."""
        error, self._error = self._error, None
        try:
            if error is not None:
                raise error
        finally:
            # Its traceback has this frame: no cycle is left.
            del error


def chunks(arguments: Iterable[T], size: int) -> Iterator[list[T]]:
    """Yield lists of so many arguments. If their source raises, those before come first, and then the error."""
    some: list[T] = []
    try:
        for each in arguments:
            some.append(each)
            if len(some) == size:
                yield some
                some = []
    except Exception:
        if some:
            yield some
        raise
    if some:
        yield some


def checked(function: Function, arguments: Iterable[tuple[Any, ...]]) -> Iterator[tuple[Any, ...]]:
    """Yield arguments that fit a function; raise `InvalidArguments` for the first ones that do not."""
    for args in arguments:
        function.check(args, {})
        yield args


class Batch(ABC, Generic[T]):
    """Messages that are published ahead of the broker's confirms; not thread-safe."""

    #: The words of its errors: one of them, all of them, those before an error, and the others beside one.
    one: str = "message"
    of: str = ""
    before: str = "published before"
    others: str = "were published"
    #: True if `NotAllAccepted` has the results of the others.
    handled = False

    def __init__(self, session: Caller) -> None:
        self._session = session
        self._waiting: deque[tuple[int, Publication]] = deque()
        self._sent = self._accepted = self._refused = 0
        #: The results, and why the broker did not accept some, by their numbers.
        self._results: dict[int, T] = {}
        self._errors: dict[int, AmqpRpcError] = {}

    @abstractmethod
    def start(self, item: Any) -> tuple[Publication, T]:
        """Publish one item; return the publication, and the result for when the broker has confirmed it."""

    async def publish(self, items: Iterable[Any]) -> list[T]:
        """Publish all; return their results once the broker has confirmed each.

        Args:
            items: They are read as the broker keeps up.

        Raises:
            NotAllAccepted: The broker did not accept some.
            ConfigurationError: One of them makes no sense; those before it were published.
        """
        try:
            for number, item in enumerate(items):
                try:
                    publication, self._results[number] = self.start(item)
                except ConfigurationError:
                    raise
                except AmqpRpcError as error:
                    self._errors[number] = error
                    continue
                self._waiting.append((number, publication))
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
            note = f"{plural(self._accepted, f'{self.one} was', f'{self.one}s were')} {self.before}"
            error.add_note(note + (f"; of {unknown} more it is not known" if unknown else ""))
            raise
        await self._confirm(0)
        if self._errors:
            raise self._not_all()
        return list(self._results.values())

    async def _confirm(self, left: int) -> None:
        """Wait for confirms until only that many publications are left without."""
        while len(self._waiting) > left:
            number, publication = self._waiting.popleft()
            if publication.done() and publication.value is None:
                self._accepted += 1
                continue
            try:
                await self._session.confirm(publication)
                self._accepted += 1
            except AmqpRpcError as error:
                self._errors[number] = error
                self._refused += not error.may_have_run

    def _hurry(self) -> None:
        """Have the confirms awaited for a moment only: Ctrl-C was pressed."""
        for _, publication in self._waiting:
            publication.expires_at = min(publication.expires_at, time.monotonic() + _ANSWER)

    def _not_all(self) -> NotAllAccepted:
        numbers = sorted(self._results.keys() | self._errors.keys())
        first, refused = min(self._errors), len(self._errors)
        return NotAllAccepted(
            f"{refused} of {plural(len(numbers), self.one, f'{self.one}s')}{self.of} "
            f"{'was' if refused == 1 else 'were'} not accepted; the others {self.others}. "
            f"The first of them, number {first}: {self._errors[first]}",
            [None if number in self._errors else self._results[number] for number in numbers] if self.handled else None,
            self._errors,
        )
