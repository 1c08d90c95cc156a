"""The client for asyncio: the same calls, awaited. A thin front over the same connection and its I/O thread."""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from types import TracebackType
from typing import Any, Self, Unpack, cast

from amqp_rpc.client.bridge import (
    AsyncDeadLetters,
    AsyncQueue,
    AsyncTaskHandle,
    AwaitedCall,
    Front,
    Runner,
    awaited,
)
from amqp_rpc.client.client import Client, WithOptions
from amqp_rpc.client.task import TaskHandle, TaskOptions
from amqp_rpc.client.typing import AsyncCalls, Default, MapOptions, Options, typed, typed_as
from amqp_rpc.errors import AmqpRpcError
from amqp_rpc.queues.queue import PREFETCH
from amqp_rpc.service.policy import QueueType


class AsyncClient(Front[Client]):
    """Calls functions that servers run, from asyncio; the arguments are those of `Client`.

    Example:
        >>> async with AsyncClient() as client:  # doctest: +SKIP
        ...     await client.call("fib", 30)
        832040
    """

    @typed_as(Client)
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        client = Client(*args, **kwargs)
        super().__init__(client, Runner(client._session))

    @typed(AsyncCalls.call)
    async def call(self, function: Any, /, *args: Any, **kwargs: Any) -> Any:
        """Call a function on a server and return its result: `Client.call`, awaited.

        Cancelling the awaiting task gives the call up; it may run all the same.
        """
        return await self._blocking._start(AwaitedCall, function, args, kwargs)

    @typed(AsyncCalls.submit)
    def submit(self, function: Any, /, *args: Any, **kwargs: Any) -> asyncio.Future[Any]:
        """Send a call and return at once: `Client.submit`, with an `asyncio.Future` of the running loop.

        Where too many calls are in flight, it is sent when there is room.
        """
        return self._blocking._start(AwaitedCall, function, args, kwargs)

    @typed(AsyncCalls.map)
    async def map(
        self, function: Any, /, *iterables: Iterable[Any], **options: Unpack[MapOptions]
    ) -> AsyncIterator[Any]:
        """Call a function for every item, many at a time; yield the results in the items' order: see `Client.map`.

        Example:
            >>> [n async for n in client.map("fib", range(5))]  # doctest: +SKIP
            [0, 1, 1, 2, 3]
        """
        send, most = self._blocking._chunks(AwaitedCall, function, iterables, dict(options), awaited=False)
        waiting: deque[AwaitedCall] = deque()
        try:
            while True:
                if len(waiting) <= most // 2 or not waiting[0].done():
                    waiting.extend(itertools.islice(send, most - len(waiting)))
                if not waiting:
                    return
                for outcome in await waiting.popleft():
                    if isinstance(outcome, AmqpRpcError):
                        raise outcome
                    yield outcome
        finally:
            for future in waiting:
                future.cancel()

    @typed(AsyncCalls.enqueue)
    async def enqueue(self, function: Any, /, *args: Any, **kwargs: Any) -> AsyncTaskHandle[Any]:
        """Enqueue a task, and return once the broker has confirmed it: `Client.enqueue`, awaited.

        Cancelling does not take back what was sent.

        Example:
            >>> handle = await client.enqueue("resize", "a.png")  # doctest: +SKIP
            >>> await handle.result()  # doctest: +SKIP
        """
        return self._handle(await self._run(Client.enqueue, function, *args, **kwargs))

    async def enqueue_many(
        self,
        function: str | Callable[..., Any],
        arguments: Iterable[tuple[Any, ...] | Mapping[str, Any]],
        /,
        *,
        timeout: float | Default = Default.TIMEOUT,
        **options: Unpack[TaskOptions],
    ) -> list[AsyncTaskHandle[Any]]:
        """Enqueue many tasks of a function: `Client.enqueue_many`, with its options, awaited.

        The arguments are read on the event loop, as the broker keeps up.
        """
        handles = await self._run(Client.enqueue_many, function, arguments, timeout=timeout, **options)
        return [self._handle(handle) for handle in handles]

    def task(self, id: str, function: Callable[..., Any] | None = None) -> AsyncTaskHandle[Any]:  # noqa: A002 - as users write it
        """Return the handle of a task by its id, in any process: `Client.task`."""
        return self._handle(self._blocking.task(id, function))

    publish = awaited(Client.publish)
    publish_many = awaited(Client.publish_many)
    queue_states = awaited(Client.queue_states)

    def with_options(self, **options: Unpack[Options]) -> AsyncCalls:
        """Return this client with options for its `call`, `submit`, `map` and `enqueue`: see `Client.with_options`.

        Example:
            >>> await client.with_options(timeout=2.5, idempotent=True).call(fib, 30)  # doctest: +SKIP
            832040
        """
        return cast(AsyncCalls, WithOptions(self, dict(options)))

    def dead_letters(self, queue: str, *, timeout: float | Default = Default.TIMEOUT) -> AsyncDeadLetters:
        """Return the dead letters of a queue; the broker is not asked yet: see `Client.dead_letters`.

        Example:
            >>> for letter in await client.dead_letters("thumbnails").list():  # doctest: +SKIP
            ...     print(letter.id, letter.reason)
        """
        return AsyncDeadLetters(self._blocking.dead_letters(queue, timeout=timeout), self._runner)

    def queue(
        self, name: str, maxsize: int = 0, *, queue_type: QueueType = "quorum", prefetch: int = PREFETCH
    ) -> AsyncQueue[Any]:
        """Return a queue between processes; the broker is not asked yet: see `Client.queue`.

        Example:
            >>> async with client.queue("numbers") as numbers:  # doctest: +SKIP
            ...     await numbers.put(1)
        """
        return AsyncQueue(self._blocking.queue(name, maxsize, queue_type=queue_type, prefetch=prefetch), self._runner)

    async def close(self) -> None:
        """Close the connection: `Client.close`, awaited."""
        await self._run(Client.close)
        self._runner.close()

    @property
    def counters(self) -> Counter[str]:
        """Counts of what happened: see `Client.counters`."""
        return self._blocking.counters

    def _handle(self, handle: TaskHandle[Any]) -> AsyncTaskHandle[Any]:
        return AsyncTaskHandle(handle, self._runner)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def __repr__(self) -> str:
        return f"Async{self._blocking!r}"
