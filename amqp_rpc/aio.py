"""The client for asyncio: the same calls, awaited. A thin front over the same connection and its owner thread."""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter, deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from types import TracebackType
from typing import Any, ParamSpec, Self, TypeVar, overload

from amqp_rpc.client import DEFAULT_MAP_IN_FLIGHT, Client, Default
from amqp_rpc.errors import AmqpRpcError
from amqp_rpc.settings import DEFAULT_HEARTBEAT, DEFAULT_MAX_MESSAGE_SIZE, DEFAULT_TIMEOUT, positive

P = ParamSpec("P")
R = TypeVar("R")


class AsyncClient:
    """Calls functions that servers run, from asyncio; the arguments are those of `Client`.

    Example:
        >>> async with AsyncClient() as client:  # doctest: +SKIP
        ...     await client.call("fib", 30)
        832040
    """

    def __init__(
        self,
        url: str | None = None,
        *,
        timeout: float = DEFAULT_TIMEOUT,
        heartbeat: float = DEFAULT_HEARTBEAT,
        max_message_size: int = DEFAULT_MAX_MESSAGE_SIZE,
    ) -> None:
        self._client = Client(url, timeout=timeout, heartbeat=heartbeat, max_message_size=max_message_size)

    @overload
    async def call(self, function: Callable[P, Awaitable[R]], /, *args: P.args, **kwargs: P.kwargs) -> R: ...
    @overload
    async def call(self, function: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R: ...
    @overload
    async def call(
        self, function: Callable[..., Awaitable[R]], /, *args: Any, timeout: float, **kwargs: Any
    ) -> R: ...
    @overload
    async def call(self, function: Callable[..., R], /, *args: Any, timeout: float, **kwargs: Any) -> R: ...
    @overload
    async def call(
        self, function: Callable[..., Awaitable[R]], /, *args: Any, wait_for_server: bool, **kwargs: Any
    ) -> R: ...
    @overload
    async def call(self, function: Callable[..., R], /, *args: Any, wait_for_server: bool, **kwargs: Any) -> R: ...
    @overload
    async def call(
        self,
        function: str,
        /,
        *args: Any,
        timeout: float | Default = ...,
        idempotent: bool | None = None,
        wait_for_server: bool = False,
        **kwargs: Any,
    ) -> Any: ...
    async def call(self, function: Any, /, *args: Any, **kwargs: Any) -> Any:
        """Call a function on a server and return its result: `Client.call`, awaited.

        Cancelling the awaiting task gives the call up; it may run all the same.
        """
        return await self.submit(function, *args, **kwargs)

    @overload
    def submit(
        self, function: Callable[P, Awaitable[R]], /, *args: P.args, **kwargs: P.kwargs
    ) -> asyncio.Future[R]: ...
    @overload
    def submit(self, function: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> asyncio.Future[R]: ...
    @overload
    def submit(
        self, function: Callable[..., Awaitable[R]], /, *args: Any, timeout: float, **kwargs: Any
    ) -> asyncio.Future[R]: ...
    @overload
    def submit(
        self, function: Callable[..., R], /, *args: Any, timeout: float, **kwargs: Any
    ) -> asyncio.Future[R]: ...
    @overload
    def submit(
        self, function: Callable[..., Awaitable[R]], /, *args: Any, wait_for_server: bool, **kwargs: Any
    ) -> asyncio.Future[R]: ...
    @overload
    def submit(
        self, function: Callable[..., R], /, *args: Any, wait_for_server: bool, **kwargs: Any
    ) -> asyncio.Future[R]: ...
    @overload
    def submit(
        self,
        function: str,
        /,
        *args: Any,
        timeout: float | Default = ...,
        idempotent: bool | None = None,
        wait_for_server: bool = False,
        **kwargs: Any,
    ) -> asyncio.Future[Any]: ...
    def submit(self, function: Any, /, *args: Any, **kwargs: Any) -> asyncio.Future[Any]:
        """Send a call and return at once: `Client.submit`, with an `asyncio.Future` of the running loop."""
        return asyncio.wrap_future(self._client.submit(function, *args, **kwargs))

    @overload
    def map(
        self,
        function: Callable[..., Awaitable[R]],
        /,
        *iterables: Iterable[Any],
        timeout: float | Default = ...,
        wait_for_server: bool = False,
        chunksize: int = 1,
        in_flight: int = ...,
    ) -> AsyncIterator[R]: ...
    @overload
    def map(
        self,
        function: Callable[..., R],
        /,
        *iterables: Iterable[Any],
        timeout: float | Default = ...,
        wait_for_server: bool = False,
        chunksize: int = 1,
        in_flight: int = ...,
    ) -> AsyncIterator[R]: ...
    @overload
    def map(
        self,
        function: str,
        /,
        *iterables: Iterable[Any],
        timeout: float | Default = ...,
        wait_for_server: bool = False,
        chunksize: int = 1,
        in_flight: int = ...,
    ) -> AsyncIterator[Any]: ...
    async def map(
        self,
        function: Any,
        /,
        *iterables: Iterable[Any],
        timeout: float | Default = Default.TIMEOUT,
        wait_for_server: bool = False,
        chunksize: int = 1,
        in_flight: int = DEFAULT_MAP_IN_FLIGHT,
    ) -> AsyncIterator[Any]:
        """Call a function for every item, many at a time; yield the results in the items' order: see `Client.map`.

        Example:
            >>> [n async for n in client.map("fib", range(5))]  # doctest: +SKIP
            [0, 1, 1, 2, 3]
        """
        positive("in_flight", in_flight)
        positive("chunksize", chunksize)
        arguments = zip(*iterables, strict=False)
        send = self._client.chunks(function, arguments, chunksize, timeout=timeout, wait_for_server=wait_for_server)
        messages = max(1, in_flight // chunksize)
        waiting: deque[asyncio.Future[list[Any]]] = deque()
        try:
            while True:
                waiting.extend(map(asyncio.wrap_future, itertools.islice(send, messages - len(waiting))))
                if not waiting:
                    return
                for outcome in await waiting.popleft():
                    if isinstance(outcome, AmqpRpcError):
                        raise outcome
                    yield outcome
        finally:
            for future in waiting:
                future.cancel()

    async def close(self) -> None:
        """Close the connection: `Client.close`, without blocking the event loop."""
        await asyncio.to_thread(self._client.close)

    @property
    def counters(self) -> Counter[str]:
        """What happened so far: ``late_replies``, ``timeouts``."""
        return self._client.counters

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def __repr__(self) -> str:
        return f"Async{self._client!r}"
