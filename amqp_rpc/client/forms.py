"""The forms in which a call can be written, as type checkers see them; what a call does is in `client`.

A function's name takes anything. A registered function object takes what the function takes and gives what it
returns, with ``async def`` seen through. Beside an option (``timeout=``, ``wait_for_server=``, ``idempotent=``) a type
checker can't look at the arguments any more, only at the result: https://typing.python.org/en/latest/spec/generics.html#paramspec
"""

from __future__ import annotations

import enum
from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, overload

if TYPE_CHECKING:
    import asyncio

P = ParamSpec("P")
R = TypeVar("R")


class Default(enum.Enum):
    """Stands for "not given", which None is not."""

    TIMEOUT = "the client's timeout"


class Forms(ABC):
    """``call`` and ``submit`` of a client."""

    @overload
    def call(
        self,
        function: str,
        /,
        *args: Any,
        timeout: float = ...,
        idempotent: bool | None = ...,
        wait_for_server: bool = ...,
        **kwargs: Any,
    ) -> Any: ...
    @overload
    def call(
        self, function: Callable[..., Coroutine[Any, Any, R]], /, *args: Any, timeout: float, **kwargs: Any
    ) -> R: ...
    @overload
    def call(self, function: Callable[..., R], /, *args: Any, timeout: float, **kwargs: Any) -> R: ...
    @overload
    def call(
        self, function: Callable[..., Coroutine[Any, Any, R]], /, *args: Any, wait_for_server: bool, **kwargs: Any
    ) -> R: ...
    @overload
    def call(
        self, function: Callable[..., Coroutine[Any, Any, R]], /, *args: Any, idempotent: bool, **kwargs: Any
    ) -> R: ...
    @overload
    def call(self, function: Callable[..., R], /, *args: Any, wait_for_server: bool, **kwargs: Any) -> R: ...
    @overload
    def call(self, function: Callable[..., R], /, *args: Any, idempotent: bool, **kwargs: Any) -> R: ...
    @overload
    def call(self, function: Callable[P, Coroutine[Any, Any, R]], /, *args: P.args, **kwargs: P.kwargs) -> R: ...
    @overload
    def call(self, function: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R: ...
    def call(  # type: ignore[misc] # no registered function has a parameter with an option's name
        self,
        function: Any,
        /,
        *args: Any,
        timeout: float | Default = Default.TIMEOUT,
        idempotent: bool | None = None,
        wait_for_server: bool = False,
        **kwargs: Any,
    ) -> Any:
        """Call a function on a server and return its result.

        Args:
            function: ``"fib"``, ``"billing.charge"`` (a named service's), or the function object that was registered:
                then a type checker knows the arguments and the result, and the result has the annotated type.
            args: Its positional arguments.
            timeout: Seconds for everything: connecting, sending, running and the answer. The client's unless given.
            idempotent: Whether it may run twice: only then is it sent again after a loss. The function's own unless
                given.
            wait_for_server: Whether to wait for a server, within the timeout, where there is none.
            kwargs: Its named arguments.

        Raises:
            RemoteError: It raised; the error is also an instance of the builtin that it raised.
            NoServer, Unroutable, FunctionNotFound, InvalidArguments: It did not run.
            CallTimeout, MaybeExecuted: It may have run.
            BrokerError: No connection; it did not run.
            Unencodable, MessageTooLarge: An argument can't be sent; it did not run.

        Example:
            >>> client.call("fib", 30, timeout=2.5)  # doctest: +SKIP
            832040
        """
        future = self._start(
            function,
            args,
            kwargs,
            timeout=timeout,
            idempotent=idempotent,
            wait_for_server=wait_for_server,
            awaited=True,
        )
        try:
            return future.result()
        except BaseException:
            # Ctrl-C, say: what was not sent must not be sent later, when nobody waits for it.
            future.cancel()
            raise

    @overload
    def submit(
        self,
        function: str,
        /,
        *args: Any,
        timeout: float = ...,
        idempotent: bool | None = ...,
        wait_for_server: bool = ...,
        **kwargs: Any,
    ) -> Future[Any]: ...
    @overload
    def submit(
        self, function: Callable[..., Coroutine[Any, Any, R]], /, *args: Any, timeout: float, **kwargs: Any
    ) -> Future[R]: ...
    @overload
    def submit(self, function: Callable[..., R], /, *args: Any, timeout: float, **kwargs: Any) -> Future[R]: ...
    @overload
    def submit(
        self, function: Callable[..., Coroutine[Any, Any, R]], /, *args: Any, wait_for_server: bool, **kwargs: Any
    ) -> Future[R]: ...
    @overload
    def submit(
        self, function: Callable[..., Coroutine[Any, Any, R]], /, *args: Any, idempotent: bool, **kwargs: Any
    ) -> Future[R]: ...
    @overload
    def submit(self, function: Callable[..., R], /, *args: Any, wait_for_server: bool, **kwargs: Any) -> Future[R]: ...
    @overload
    def submit(self, function: Callable[..., R], /, *args: Any, idempotent: bool, **kwargs: Any) -> Future[R]: ...
    @overload
    def submit(
        self, function: Callable[P, Coroutine[Any, Any, R]], /, *args: P.args, **kwargs: P.kwargs
    ) -> Future[R]: ...
    @overload
    def submit(self, function: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> Future[R]: ...
    def submit(  # type: ignore[misc] # the same
        self,
        function: Any,
        /,
        *args: Any,
        timeout: float | Default = Default.TIMEOUT,
        idempotent: bool | None = None,
        wait_for_server: bool = False,
        **kwargs: Any,
    ) -> Future[Any]:
        """Send a call and return at once; the result is in the future.

        The arguments are those of `call`. The future ends by the call's deadline whether or not anybody waits for it;
        ``cancel()`` gives it up, and drops its reply.

        Raises:
            ConfigurationError: The timeout is None or out of range, or the function object is not registered.
            Unencodable, MessageTooLarge: An argument can't be sent.

        Example:
            >>> futures = [client.submit("fib", n) for n in range(10)]  # doctest: +SKIP
        """
        return self._start(
            function, args, kwargs, timeout=timeout, idempotent=idempotent, wait_for_server=wait_for_server
        )

    @abstractmethod
    def _start(
        self,
        function: Any,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        *,
        timeout: float | Default,
        idempotent: bool | None,
        wait_for_server: bool,
        awaited: bool = False,
    ) -> Future[Any]:
        """Send a call; ``awaited``: the thread that does waits for it next."""


class AsyncForms(ABC):
    """``call`` and ``submit`` of a client for asyncio."""

    @overload
    async def call(
        self,
        function: str,
        /,
        *args: Any,
        timeout: float = ...,
        idempotent: bool | None = ...,
        wait_for_server: bool = ...,
        **kwargs: Any,
    ) -> Any: ...
    @overload
    async def call(
        self, function: Callable[..., Coroutine[Any, Any, R]], /, *args: Any, timeout: float, **kwargs: Any
    ) -> R: ...
    @overload
    async def call(self, function: Callable[..., R], /, *args: Any, timeout: float, **kwargs: Any) -> R: ...
    @overload
    async def call(
        self, function: Callable[..., Coroutine[Any, Any, R]], /, *args: Any, wait_for_server: bool, **kwargs: Any
    ) -> R: ...
    @overload
    async def call(
        self, function: Callable[..., Coroutine[Any, Any, R]], /, *args: Any, idempotent: bool, **kwargs: Any
    ) -> R: ...
    @overload
    async def call(self, function: Callable[..., R], /, *args: Any, wait_for_server: bool, **kwargs: Any) -> R: ...
    @overload
    async def call(self, function: Callable[..., R], /, *args: Any, idempotent: bool, **kwargs: Any) -> R: ...
    @overload
    async def call(self, function: Callable[P, Coroutine[Any, Any, R]], /, *args: P.args, **kwargs: P.kwargs) -> R: ...
    @overload
    async def call(self, function: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R: ...
    async def call(self, function: Any, /, *args: Any, **kwargs: Any) -> Any:
        """Call a function on a server and return its result: `Client.call`, awaited.

        Cancelling the awaiting task gives the call up; it may run all the same.
        """
        return await self._start(function, *args, **kwargs)

    @overload
    def submit(
        self,
        function: str,
        /,
        *args: Any,
        timeout: float = ...,
        idempotent: bool | None = ...,
        wait_for_server: bool = ...,
        **kwargs: Any,
    ) -> asyncio.Future[Any]: ...
    @overload
    def submit(
        self, function: Callable[..., Coroutine[Any, Any, R]], /, *args: Any, timeout: float, **kwargs: Any
    ) -> asyncio.Future[R]: ...
    @overload
    def submit(self, function: Callable[..., R], /, *args: Any, timeout: float, **kwargs: Any) -> asyncio.Future[R]: ...
    @overload
    def submit(
        self, function: Callable[..., Coroutine[Any, Any, R]], /, *args: Any, wait_for_server: bool, **kwargs: Any
    ) -> asyncio.Future[R]: ...
    @overload
    def submit(
        self, function: Callable[..., Coroutine[Any, Any, R]], /, *args: Any, idempotent: bool, **kwargs: Any
    ) -> asyncio.Future[R]: ...
    @overload
    def submit(
        self, function: Callable[..., R], /, *args: Any, wait_for_server: bool, **kwargs: Any
    ) -> asyncio.Future[R]: ...
    @overload
    def submit(
        self, function: Callable[..., R], /, *args: Any, idempotent: bool, **kwargs: Any
    ) -> asyncio.Future[R]: ...
    @overload
    def submit(
        self, function: Callable[P, Coroutine[Any, Any, R]], /, *args: P.args, **kwargs: P.kwargs
    ) -> asyncio.Future[R]: ...
    @overload
    def submit(self, function: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> asyncio.Future[R]: ...
    def submit(self, function: Any, /, *args: Any, **kwargs: Any) -> asyncio.Future[Any]:
        """Send a call and return at once: `Client.submit`, with an `asyncio.Future` of the running loop."""
        return self._start(function, *args, **kwargs)

    @abstractmethod
    def _start(self, function: Any, /, *args: Any, **kwargs: Any) -> asyncio.Future[Any]:
        """Send a call."""
