"""The client for asyncio: the same calls, awaited. A thin front over the same connection and its I/O thread.

It is a seam: only this module and `bridge` import asyncio, and `import amqp_rpc` loads neither.
"""

from __future__ import annotations

import asyncio
import itertools
import weakref
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Mapping
from types import TracebackType
from typing import Any, Self, TypeVar, Unpack, cast, overload

from amqp_rpc.client.bridge import (
    AsyncDeadLetters,
    AsyncEvents,
    AsyncQueue,
    AsyncTaskHandle,
    AwaitedCall,
    Front,
    Runner,
    awaited,
    awaited_fronts,
    fronted,
)
from amqp_rpc.client.bulk import End
from amqp_rpc.client.client import Client
from amqp_rpc.client.typing import AsyncCalls, MapOptions, Options, WithOptions, typed, typed_as
from amqp_rpc.errors import AmqpRpcError
from amqp_rpc.message.exchanges import Exchange
from amqp_rpc.message.text import safe_repr

R = TypeVar("R")


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
        self._listening: weakref.WeakSet[AsyncEvents] = weakref.WeakSet()

    @typed(AsyncCalls.call)
    async def call(self, function: Any, /, *args: Any, **kwargs: Any) -> Any:
        """Call a function on a server and return its result: `Client.call`, awaited.

        Cancelling the awaiting task gives the call up; it may run all the same.
        """
        return await self._blocking._start(AwaitedCall, function, args, kwargs)

    @typed(AsyncCalls.submit)
    def submit(self, function: Any, /, *args: Any, **kwargs: Any) -> asyncio.Future[Any]:
        """Send a call and return at once: `Client.submit`, with an `asyncio.Future` of the running loop.

        With too many calls in flight, it is sent when there is room.
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
        end = End()
        try:
            while True:
                if len(waiting) <= most // 2 or not waiting[0].done():
                    with end:
                        waiting.extend(itertools.islice(send, most - len(waiting)))
                if not waiting:
                    end.raise_error()
                    return
                for outcome in await waiting.popleft():
                    if isinstance(outcome, AmqpRpcError):
                        try:
                            raise outcome
                        finally:
                            # Else its traceback and this frame keep each other alive.
                            del outcome
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
        return AsyncTaskHandle(await self._run(Client.enqueue, function, *args, **kwargs), self._runner)

    # The arguments of these are read on the event loop, as the broker keeps up.
    enqueue_many = awaited_fronts(Client.enqueue_many, AsyncTaskHandle[Any])
    publish_many = awaited(Client.publish_many)

    publish = awaited(Client.publish)
    queue_states = awaited(Client.queue_states)
    queue = fronted(Client.queue, AsyncQueue[Any])
    dead_letters = fronted(Client.dead_letters, AsyncDeadLetters)

    @overload
    def task(self, id: str, function: None = None) -> AsyncTaskHandle[Any]: ...
    @overload
    def task(self, id: str, function: Callable[..., Coroutine[Any, Any, R]]) -> AsyncTaskHandle[R]: ...
    @overload
    def task(self, id: str, function: Callable[..., R]) -> AsyncTaskHandle[R]: ...
    def task(self, id: str, function: Callable[..., Any] | None = None) -> AsyncTaskHandle[Any]:  # noqa: A002 - as users write it
        """Return the handle of a task by its id: `Client.task`."""
        return AsyncTaskHandle(self._blocking.task(id, function), self._runner)

    def listen(
        self, *topics: str, exchange: str | Exchange | None = None, headers: Mapping[str, Any] | None = None
    ) -> AsyncEvents:
        """Listen to events: `Client.listen`, as an asynchronous iterator.

        It listens from its first step on, or in an ``async with`` block from the start. The end of the block, of
        ``aclose()``, or of this client closes it.

        Example:
            >>> async with client.listen("progress.*") as events:  # doctest: +SKIP
            ...     async for event in events:
            ...         print(event.topic, event.payload)
        """
        events = AsyncEvents(self._blocking._tap(topics, exchange, headers))
        self._listening.add(events)
        return events

    def with_options(self, **options: Unpack[Options]) -> AsyncCalls:
        """Return this client with options for its `call`, `submit`, `map` and `enqueue`: see `Client.with_options`.

        Example:
            >>> await client.with_options(timeout=2.5, idempotent=True).call(fib, 30)  # doctest: +SKIP
            832040
        """
        return cast(AsyncCalls, WithOptions(self, dict(options)))

    async def close(self) -> None:
        """Close the connection: `Client.close`, awaited."""
        for events in list(self._listening):
            await events.aclose()
        await self._run(Client.close)
        self._runner.close()

    @property
    def counters(self) -> Counter[str]:
        """Counts of what happened: see `Client.counters`."""
        return self._blocking.counters

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    @safe_repr
    def __repr__(self) -> str:
        return f"Async{self._blocking!r}"
