"""The signatures of `call`, `submit`, `map` and `enqueue` for type checkers, each written once, and `with_options`.

A function's name takes any arguments, and the options as keywords. A registered function takes its own arguments and
gives what it returns, with ``async def`` seen through. A type checker can't check these arguments beside options
(https://typing.python.org/en/latest/spec/generics.html#paramspec), so it refuses the options here and accepts them in
`Client.with_options`. At run time both ways work for both.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Iterator, Mapping
from concurrent.futures import Future
from datetime import datetime
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, Protocol, TypedDict, TypeVar, Unpack, cast, overload

from amqp_rpc.client.call import CALL_OPTIONS, Default
from amqp_rpc.client.task import EnqueueManyOptions, TaskHandle
from amqp_rpc.errors import ConfigurationError
from amqp_rpc.message.codec import ContentType
from amqp_rpc.message.text import safe_repr
from amqp_rpc.message.timing import Seconds
from amqp_rpc.service.other_libraries import hint

if TYPE_CHECKING:
    import asyncio

    from amqp_rpc.client.bridge import AsyncTaskHandle

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")


class Options(EnqueueManyOptions, total=False):
    """The options of `Client.with_options`: those of `call`, `submit` and `map`, and those of `enqueue`."""

    timeout: Seconds
    idempotent: bool | None
    wait_for_server: bool
    unique_for: Seconds | None
    unique_key: str | None


class MapOptions(TypedDict, total=False):
    """The options of `map`."""

    timeout: Seconds | Default
    idempotent: bool | None
    wait_for_server: bool
    queue: str | None
    content_type: ContentType | None
    headers: Mapping[str, Any] | None
    chunksize: int
    in_flight: int


def typed(signature: T) -> Callable[[Callable[..., Any]], T]:  # noqa: ARG001 - only its type counts
    """Have type checkers see a method with the signature of another one, of `Calls` or `AsyncCalls`."""
    return lambda method: cast(T, method)


def typed_as(kind: Callable[P, object]) -> Callable[[Callable[..., None]], Callable[Concatenate[Any, P], None]]:  # noqa: ARG001 - the same
    """Have type checkers see a constructor with the arguments of another class."""
    return lambda init: init


class Calls(Protocol):
    """Calls functions, and enqueues tasks: a `Client`, or one with options."""

    @overload
    def call(
        self, function: str, /, *args: Any,
        timeout: Seconds = ..., idempotent: bool | None = ..., wait_for_server: bool = ..., queue: str | None = ...,
        content_type: ContentType | None = ..., headers: Mapping[str, Any] | None = ..., **kwargs: Any,
    ) -> Any: ...  # fmt: skip
    @overload
    def call(self, function: Callable[P, Coroutine[Any, Any, R]], /, *args: P.args, **kwargs: P.kwargs) -> R: ...
    @overload
    def call(self, function: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R: ...

    @overload
    def submit(
        self, function: str, /, *args: Any,
        timeout: Seconds = ..., idempotent: bool | None = ..., wait_for_server: bool = ..., queue: str | None = ...,
        content_type: ContentType | None = ..., headers: Mapping[str, Any] | None = ..., **kwargs: Any,
    ) -> Future[Any]: ...  # fmt: skip
    @overload
    def submit(
        self, function: Callable[P, Coroutine[Any, Any, R]], /, *args: P.args, **kwargs: P.kwargs
    ) -> Future[R]: ...
    @overload
    def submit(self, function: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> Future[R]: ...

    @overload
    def map(self, function: str, /, *iterables: Iterable[Any], **options: Unpack[MapOptions]) -> Iterator[Any]: ...
    @overload
    def map(
        self, function: Callable[..., Awaitable[R]], /, *iterables: Iterable[Any], **options: Unpack[MapOptions]
    ) -> Iterator[R]: ...
    @overload
    def map(
        self, function: Callable[..., R], /, *iterables: Iterable[Any], **options: Unpack[MapOptions]
    ) -> Iterator[R]: ...

    @overload
    def enqueue(
        self, function: str, /, *args: Any,
        queue: str | None = ..., delay: Seconds | None = ..., eta: datetime | None = ...,
        expires: Seconds | datetime | None = ..., priority: int | None = ..., unique_for: Seconds | None = ...,
        unique_key: str | None = ..., timeout: Seconds = ...,
        content_type: ContentType | None = ..., headers: Mapping[str, Any] | None = ..., **kwargs: Any,
    ) -> TaskHandle[Any]: ...  # fmt: skip
    @overload
    def enqueue(
        self, function: Callable[P, Coroutine[Any, Any, R]], /, *args: P.args, **kwargs: P.kwargs
    ) -> TaskHandle[R]: ...
    @overload
    def enqueue(self, function: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> TaskHandle[R]: ...


class AsyncCalls(Protocol):
    """The same for asyncio: an `AsyncClient`, or one with options."""

    @overload
    async def call(
        self, function: str, /, *args: Any,
        timeout: Seconds = ..., idempotent: bool | None = ..., wait_for_server: bool = ..., queue: str | None = ...,
        content_type: ContentType | None = ..., headers: Mapping[str, Any] | None = ..., **kwargs: Any,
    ) -> Any: ...  # fmt: skip
    @overload
    async def call(self, function: Callable[P, Coroutine[Any, Any, R]], /, *args: P.args, **kwargs: P.kwargs) -> R: ...
    @overload
    async def call(self, function: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R: ...

    @overload
    def submit(
        self, function: str, /, *args: Any,
        timeout: Seconds = ..., idempotent: bool | None = ..., wait_for_server: bool = ..., queue: str | None = ...,
        content_type: ContentType | None = ..., headers: Mapping[str, Any] | None = ..., **kwargs: Any,
    ) -> asyncio.Future[Any]: ...  # fmt: skip
    @overload
    def submit(
        self, function: Callable[P, Coroutine[Any, Any, R]], /, *args: P.args, **kwargs: P.kwargs
    ) -> asyncio.Future[R]: ...
    @overload
    def submit(self, function: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> asyncio.Future[R]: ...

    @overload
    def map(self, function: str, /, *iterables: Iterable[Any], **options: Unpack[MapOptions]) -> AsyncIterator[Any]: ...
    @overload
    def map(
        self, function: Callable[..., Awaitable[R]], /, *iterables: Iterable[Any], **options: Unpack[MapOptions]
    ) -> AsyncIterator[R]: ...
    @overload
    def map(
        self, function: Callable[..., R], /, *iterables: Iterable[Any], **options: Unpack[MapOptions]
    ) -> AsyncIterator[R]: ...

    @overload
    async def enqueue(
        self, function: str, /, *args: Any,
        queue: str | None = ..., delay: Seconds | None = ..., eta: datetime | None = ...,
        expires: Seconds | datetime | None = ..., priority: int | None = ..., unique_for: Seconds | None = ...,
        unique_key: str | None = ..., timeout: Seconds = ...,
        content_type: ContentType | None = ..., headers: Mapping[str, Any] | None = ..., **kwargs: Any,
    ) -> AsyncTaskHandle[Any]: ...  # fmt: skip
    @overload
    async def enqueue(
        self, function: Callable[P, Coroutine[Any, Any, R]], /, *args: P.args, **kwargs: P.kwargs
    ) -> AsyncTaskHandle[R]: ...
    @overload
    async def enqueue(self, function: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> AsyncTaskHandle[R]: ...


class WithOptions:
    """`call`, `submit`, `map` and `enqueue` of a client, or of one for asyncio, with options; see `Calls`.

    Args:
        client: The client.
        options: Its options, by name.
    """

    def __init__(self, client: Any, options: dict[str, Any]) -> None:
        unknown = options.keys() - CALL_OPTIONS - _ENQUEUE_OPTIONS
        if unknown:
            raise ConfigurationError(
                f"with_options has no option {', '.join(sorted(unknown))}; it has "
                f"{', '.join(sorted(CALL_OPTIONS | _ENQUEUE_OPTIONS))}{hint(unknown, (), task=True)}"
            )
        self._client = client
        self._options = options

    def call(self, function: Any, /, *args: Any, **kwargs: Any) -> Any:
        """Call a function: `Client.call`."""
        return self._client.call(function, *args, **self._with("call", CALL_OPTIONS, kwargs))

    def submit(self, function: Any, /, *args: Any, **kwargs: Any) -> Any:
        """Send a call: `Client.submit`."""
        return self._client.submit(function, *args, **self._with("submit", CALL_OPTIONS, kwargs))

    def map(self, function: Any, /, *iterables: Iterable[Any], **kwargs: Any) -> Any:
        """Call a function for every item: `Client.map`."""
        return self._client.map(function, *iterables, **self._with("map", CALL_OPTIONS, kwargs))

    def enqueue(self, function: Any, /, *args: Any, **kwargs: Any) -> Any:
        """Enqueue a task: `Client.enqueue`."""
        return self._client.enqueue(function, *args, **self._with("enqueue", _ENQUEUE_OPTIONS, kwargs))

    def _with(self, method: str, accepted: frozenset[str], kwargs: dict[str, Any]) -> dict[str, Any]:
        """Return the keywords of a method: those given to it count before the options."""
        if not self._options.keys() <= accepted:
            others = ", ".join(sorted(self._options.keys() - accepted))
            raise ConfigurationError(f"{method} has no option {others}; give with_options only those of {method}")
        return self._options | kwargs

    @safe_repr
    def __repr__(self) -> str:
        return f"{self._client!r}.with_options({', '.join(f'{k}={v!r}' for k, v in self._options.items())})"


_ENQUEUE_OPTIONS = EnqueueManyOptions.__optional_keys__ | {"timeout", "unique_for", "unique_key"}
