"""The client for asyncio: the same calls, awaited. A thin front over the same connection and its owner thread."""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter, deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from types import TracebackType
from typing import Any, Self, TypeVar, overload

from amqp_rpc.client.async_operating import AsyncOperating
from amqp_rpc.client.async_producer import AsyncProducer
from amqp_rpc.client.async_publisher import AsyncPublisher
from amqp_rpc.client.client import DEFAULT_MAP_IN_FLIGHT, Client
from amqp_rpc.client.forms import AsyncForms, Default
from amqp_rpc.errors import AmqpRpcError
from amqp_rpc.message.settings import (
    DEFAULT_HEARTBEAT,
    DEFAULT_MAX_MESSAGE_SIZE,
    DEFAULT_MAX_PENDING,
    DEFAULT_MAX_PENDING_BYTES,
    DEFAULT_TIMEOUT,
    count,
)

R = TypeVar("R")


class AsyncClient(AsyncForms, AsyncProducer, AsyncPublisher, AsyncOperating):
    """Calls functions that servers run, from asyncio; the arguments are those of `Client`.

    Example:
        >>> async with AsyncClient() as client:  # doctest: +SKIP
        ...     await client.call("fib", 30)
        832040
    """

    def __init__(
        self,
        url: str | Sequence[str] | None = None,
        *,
        timeout: float = DEFAULT_TIMEOUT,
        heartbeat: float = DEFAULT_HEARTBEAT,
        max_message_size: int = DEFAULT_MAX_MESSAGE_SIZE,
        max_pending: int = DEFAULT_MAX_PENDING,
        max_pending_bytes: int = DEFAULT_MAX_PENDING_BYTES,
        results: str | None = None,
    ) -> None:
        self._client = Client(
            url,
            timeout=timeout,
            heartbeat=heartbeat,
            max_message_size=max_message_size,
            max_pending=max_pending,
            max_pending_bytes=max_pending_bytes,
            results=results,
        )

    def _start(self, function: Any, /, *args: Any, **kwargs: Any) -> asyncio.Future[Any]:
        if self._client.full:
            return asyncio.ensure_future(self._start_on_a_thread(function, *args, **kwargs))
        return asyncio.wrap_future(self._client.submit(function, *args, **kwargs))

    async def _start_on_a_thread(self, function: Any, /, *args: Any, **kwargs: Any) -> Any:
        """Wait for room where waiting does not block the event loop."""
        return await asyncio.wrap_future(await asyncio.to_thread(self._client.submit, function, *args, **kwargs))

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
        count("in_flight", in_flight)
        count("chunksize", chunksize)
        arguments = zip(*iterables, strict=False)
        send = self._client.chunks(
            function, arguments, chunksize, timeout=timeout, wait_for_server=wait_for_server, awaited=False
        )
        messages = max(1, in_flight // chunksize)
        waiting: deque[asyncio.Future[list[Any]]] = deque()
        try:
            while True:
                if len(waiting) <= messages // 2 or not waiting[0].done():
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

    @property
    def _producer(self) -> Client:
        return self._client

    @property
    def _publisher(self) -> Client:
        return self._client

    @property
    def _operating(self) -> Client:
        return self._client

    async def close(self) -> None:
        """Close the connection: `Client.close`, without blocking the event loop."""
        await asyncio.to_thread(self._client.close)

    @property
    def counters(self) -> Counter[str]:
        """What happened so far: see `Client.counters`."""
        return self._client.counters

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def __repr__(self) -> str:
        return f"Async{self._client!r}"
