"""Tasks for asyncio: enqueued, and asked about, without blocking the event loop."""

from __future__ import annotations

import asyncio
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine, Iterable, Mapping
from datetime import datetime
from typing import Any, Generic, ParamSpec, TypeVar, overload

from amqp_rpc.client.producer import Producer
from amqp_rpc.client.task import FIRST_PAUSE, LONGEST_PAUSE, TaskHandle
from amqp_rpc.message.settings import DEFAULT_TIMEOUT
from amqp_rpc.message.timing import backoff
from amqp_rpc.results.record import State

P = ParamSpec("P")
R = TypeVar("R")


class AsyncTaskHandle(Generic[R]):
    """What `AsyncClient.enqueue` returns: a `TaskHandle` to await.

    Args:
        handle: The handle.
    """

    def __init__(self, handle: TaskHandle[R]) -> None:
        self._handle = handle

    @property
    def id(self) -> str:
        """The task's; the same on every try."""
        return self._handle.id

    @property
    def queue(self) -> str:
        """Which holds it."""
        return self._handle.queue

    @property
    def function(self) -> str:
        """Its function's name."""
        return self._handle.function

    async def state(self) -> State:
        """Return what it is doing: `TaskHandle.state`."""
        return await asyncio.to_thread(lambda: self._handle.state)

    async def ready(self) -> bool:
        """Return whether it has ended: `TaskHandle.ready`."""
        return await asyncio.to_thread(self._handle.ready)

    async def result(self, *, timeout: float = DEFAULT_TIMEOUT) -> R:
        """Return what the function returned, or raise what made it a dead letter: `TaskHandle.result`.

        Args:
            timeout: Seconds to wait (30.0).
        """
        loop, ended = asyncio.get_running_loop(), asyncio.Event()
        self._handle.add_done_callback(lambda: loop.call_soon_threadsafe(ended.set))
        until, looks = time.monotonic() + timeout, 0
        while not ended.is_set() and (left := until - time.monotonic()) > 0:
            try:
                looks += 1
                pause = backoff(looks, first=FIRST_PAUSE, most=LONGEST_PAUSE)
                async with asyncio.timeout(min(pause, left) if self._handle.has_store else left):
                    await ended.wait()
            except TimeoutError:
                if self._handle.has_store and await self.ready():
                    break
        if self._handle.has_store:
            return await asyncio.to_thread(self._handle.result, timeout=max(0.0, until - time.monotonic()))
        return self._handle.result(timeout=0.0)

    def __repr__(self) -> str:
        return f"<Async{repr(self._handle)[1:]}"


class AsyncProducer(ABC):
    """``enqueue`` and ``enqueue_many`` of a client for asyncio."""

    @property
    @abstractmethod
    def _producer(self) -> Producer:
        """The client that does it."""

    @overload
    async def enqueue(
        self,
        function: str,
        /,
        *args: Any,
        queue: str | None = ...,
        delay: float | None = ...,
        eta: datetime | None = ...,
        expires: float | None = ...,
        priority: int | None = ...,
        unique_for: float | None = ...,
        unique_key: str | None = ...,
        timeout: float = ...,
        **kwargs: Any,
    ) -> AsyncTaskHandle[Any]: ...
    @overload
    async def enqueue(
        self, function: Callable[..., Coroutine[Any, Any, R]], /, *args: Any, queue: str, **kwargs: Any
    ) -> AsyncTaskHandle[R]: ...
    @overload
    async def enqueue(
        self, function: Callable[..., R], /, *args: Any, queue: str, **kwargs: Any
    ) -> AsyncTaskHandle[R]: ...
    @overload
    async def enqueue(
        self, function: Callable[..., Coroutine[Any, Any, R]], /, *args: Any, delay: float, **kwargs: Any
    ) -> AsyncTaskHandle[R]: ...
    @overload
    async def enqueue(
        self, function: Callable[..., R], /, *args: Any, delay: float, **kwargs: Any
    ) -> AsyncTaskHandle[R]: ...
    @overload
    async def enqueue(
        self, function: Callable[..., Coroutine[Any, Any, R]], /, *args: Any, eta: datetime, **kwargs: Any
    ) -> AsyncTaskHandle[R]: ...
    @overload
    async def enqueue(
        self, function: Callable[..., R], /, *args: Any, eta: datetime, **kwargs: Any
    ) -> AsyncTaskHandle[R]: ...
    @overload
    async def enqueue(
        self, function: Callable[..., Coroutine[Any, Any, R]], /, *args: Any, expires: float, **kwargs: Any
    ) -> AsyncTaskHandle[R]: ...
    @overload
    async def enqueue(
        self, function: Callable[..., R], /, *args: Any, expires: float, **kwargs: Any
    ) -> AsyncTaskHandle[R]: ...
    @overload
    async def enqueue(
        self, function: Callable[..., Coroutine[Any, Any, R]], /, *args: Any, priority: int, **kwargs: Any
    ) -> AsyncTaskHandle[R]: ...
    @overload
    async def enqueue(
        self, function: Callable[..., R], /, *args: Any, priority: int, **kwargs: Any
    ) -> AsyncTaskHandle[R]: ...
    @overload
    async def enqueue(
        self, function: Callable[..., Coroutine[Any, Any, R]], /, *args: Any, unique_for: float, **kwargs: Any
    ) -> AsyncTaskHandle[R]: ...
    @overload
    async def enqueue(
        self, function: Callable[..., R], /, *args: Any, unique_for: float, **kwargs: Any
    ) -> AsyncTaskHandle[R]: ...
    @overload
    async def enqueue(
        self, function: Callable[..., Coroutine[Any, Any, R]], /, *args: Any, timeout: float, **kwargs: Any
    ) -> AsyncTaskHandle[R]: ...
    @overload
    async def enqueue(
        self, function: Callable[..., R], /, *args: Any, timeout: float, **kwargs: Any
    ) -> AsyncTaskHandle[R]: ...
    @overload
    async def enqueue(
        self, function: Callable[P, Coroutine[Any, Any, R]], /, *args: P.args, **kwargs: P.kwargs
    ) -> AsyncTaskHandle[R]: ...
    @overload
    async def enqueue(self, function: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> AsyncTaskHandle[R]: ...
    async def enqueue(self, function: Any, /, *args: Any, **kwargs: Any) -> AsyncTaskHandle[Any]:
        """Enqueue a task, and return once the broker has it safe: `Client.enqueue`, awaited.

        It is awaited on a thread: cancelling does not take back what was sent.

        Example:
            >>> handle = await client.enqueue("resize", "a.png")  # doctest: +SKIP
            >>> await handle.result()  # doctest: +SKIP
        """
        return AsyncTaskHandle(await asyncio.to_thread(self._producer.enqueue, function, *args, **kwargs))

    async def enqueue_many(
        self,
        function: str | Callable[..., Any],
        arguments: Iterable[tuple[Any, ...] | Mapping[str, Any]],
        /,
        **options: Any,
    ) -> list[AsyncTaskHandle[Any]]:
        """Enqueue many tasks of a function: `Client.enqueue_many`, with its options, awaited."""
        handles = await asyncio.to_thread(self._producer.enqueue_many, function, arguments, **options)
        return [AsyncTaskHandle(handle) for handle in handles]

    def task(self, id: str, function: Callable[..., Any] | None = None) -> AsyncTaskHandle[Any]:  # noqa: A002 - as users write it
        """Return the handle of a task by its id, in any process: `Client.task`."""
        return AsyncTaskHandle(self._producer.task(id, function))
