"""What an asyncio client can say of queues, and do with dead letters: `Operating` and `DeadLetters`, awaited."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Iterable
from datetime import datetime

from amqp_rpc.amqp.channel import QueueState
from amqp_rpc.client.forms import Default
from amqp_rpc.client.operating import Operating
from amqp_rpc.message.dead_letter import DeadLetter
from amqp_rpc.ops.dead_letters import DEFAULT_LIMIT, DeadLetters, Ids, Letters


class AsyncDeadLetters:
    """The dead letters of one queue; `AsyncClient.dead_letters` returns it. Each method is that of `DeadLetters`.

    They wait on a thread: cancelling does not take back what was begun.
    """

    def __init__(self, dead: DeadLetters) -> None:
        #: The queue whose dead letters they are, and the one that holds them.
        self.queue = dead.queue
        self.dead_letter_queue = dead.dead_letter_queue
        self._dead = dead

    async def list(
        self,
        *,
        limit: int | None = DEFAULT_LIMIT,
        ids: str | Iterable[str] | None = None,
        function: str | None = None,
        before: datetime | None = None,
        after: datetime | None = None,
    ) -> Letters:
        """Return dead letters, oldest death first: see `DeadLetters.list`."""
        return await asyncio.to_thread(
            self._dead.list, limit=limit, ids=ids, function=function, before=before, after=after
        )

    async def get(self, id: str) -> DeadLetter | None:  # noqa: A002 - as users write it
        """Return the dead letter with an id; None where there is none: see `DeadLetters.get`."""
        return await asyncio.to_thread(self._dead.get, id)

    async def replay(
        self,
        *,
        ids: str | Iterable[str] | None = None,
        function: str | None = None,
        before: datetime | None = None,
        after: datetime | None = None,
        all: bool = False,  # noqa: A002 - as users write it
    ) -> Ids:
        """Put dead letters back into their queue, and return their ids: see `DeadLetters.replay`."""
        return await asyncio.to_thread(
            self._dead.replay, ids=ids, function=function, before=before, after=after, all=all
        )

    async def drop(
        self,
        *,
        ids: str | Iterable[str] | None = None,
        function: str | None = None,
        before: datetime | None = None,
        after: datetime | None = None,
        all: bool = False,  # noqa: A002 - as users write it
    ) -> Ids:
        """Delete dead letters for good, and return their ids: see `DeadLetters.drop`."""
        return await asyncio.to_thread(self._dead.drop, ids=ids, function=function, before=before, after=after, all=all)

    def __repr__(self) -> str:
        return f"<AsyncDeadLetters of {self.queue}>"


class AsyncOperating(ABC):
    """The part of `AsyncClient` that is about queues."""

    @property
    @abstractmethod
    def _operating(self) -> Operating:
        """The client that does it."""

    def dead_letters(self, queue: str, *, timeout: float | Default = Default.TIMEOUT) -> AsyncDeadLetters:
        """Return the dead letters of a queue; the broker is not asked yet: see `Client.dead_letters`.

        Example:
            >>> for letter in await client.dead_letters("thumbnails").list():  # doctest: +SKIP
            ...     print(letter.id, letter.reason)
        """
        return AsyncDeadLetters(self._operating.dead_letters(queue, timeout=timeout))

    async def queue_states(
        self, queues: Iterable[str], *, timeout: float | Default = Default.TIMEOUT
    ) -> dict[str, QueueState | None]:
        """Return what the broker says of queues, by name: `Client.queue_states`, awaited."""
        return await asyncio.to_thread(self._operating.queue_states, queues, timeout=timeout)
