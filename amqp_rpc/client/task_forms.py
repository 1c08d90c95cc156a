"""The forms in which a task can be enqueued, as type checkers see them; what becomes of it is in `producer`.

Beside an option (``delay=``, ``queue=``, …) a type checker looks at the result only, not at the arguments: see `forms`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine
from datetime import datetime
from typing import Any, ParamSpec, TypeVar, overload

from amqp_rpc.client.forms import Default
from amqp_rpc.client.task import TaskHandle

P = ParamSpec("P")
R = TypeVar("R")


class TaskForms(ABC):
    """``enqueue`` of a client."""

    @overload
    def enqueue(
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
    ) -> TaskHandle[Any]: ...
    @overload
    def enqueue(
        self, function: Callable[..., Coroutine[Any, Any, R]], /, *args: Any, queue: str, **kwargs: Any
    ) -> TaskHandle[R]: ...
    @overload
    def enqueue(self, function: Callable[..., R], /, *args: Any, queue: str, **kwargs: Any) -> TaskHandle[R]: ...
    @overload
    def enqueue(
        self, function: Callable[..., Coroutine[Any, Any, R]], /, *args: Any, delay: float, **kwargs: Any
    ) -> TaskHandle[R]: ...
    @overload
    def enqueue(self, function: Callable[..., R], /, *args: Any, delay: float, **kwargs: Any) -> TaskHandle[R]: ...
    @overload
    def enqueue(
        self, function: Callable[..., Coroutine[Any, Any, R]], /, *args: Any, eta: datetime, **kwargs: Any
    ) -> TaskHandle[R]: ...
    @overload
    def enqueue(self, function: Callable[..., R], /, *args: Any, eta: datetime, **kwargs: Any) -> TaskHandle[R]: ...
    @overload
    def enqueue(
        self, function: Callable[..., Coroutine[Any, Any, R]], /, *args: Any, expires: float, **kwargs: Any
    ) -> TaskHandle[R]: ...
    @overload
    def enqueue(self, function: Callable[..., R], /, *args: Any, expires: float, **kwargs: Any) -> TaskHandle[R]: ...
    @overload
    def enqueue(
        self, function: Callable[..., Coroutine[Any, Any, R]], /, *args: Any, priority: int, **kwargs: Any
    ) -> TaskHandle[R]: ...
    @overload
    def enqueue(self, function: Callable[..., R], /, *args: Any, priority: int, **kwargs: Any) -> TaskHandle[R]: ...
    @overload
    def enqueue(
        self, function: Callable[..., Coroutine[Any, Any, R]], /, *args: Any, unique_for: float, **kwargs: Any
    ) -> TaskHandle[R]: ...
    @overload
    def enqueue(self, function: Callable[..., R], /, *args: Any, unique_for: float, **kwargs: Any) -> TaskHandle[R]: ...
    @overload
    def enqueue(
        self, function: Callable[..., Coroutine[Any, Any, R]], /, *args: Any, timeout: float, **kwargs: Any
    ) -> TaskHandle[R]: ...
    @overload
    def enqueue(self, function: Callable[..., R], /, *args: Any, timeout: float, **kwargs: Any) -> TaskHandle[R]: ...
    @overload
    def enqueue(
        self, function: Callable[P, Coroutine[Any, Any, R]], /, *args: P.args, **kwargs: P.kwargs
    ) -> TaskHandle[R]: ...
    @overload
    def enqueue(self, function: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> TaskHandle[R]: ...
    def enqueue(  # type: ignore[misc] # no registered function has a parameter with an option's name
        self,
        function: Any,
        /,
        *args: Any,
        queue: str | None = None,
        delay: float | None = None,
        eta: datetime | None = None,
        expires: float | None = None,
        priority: int | None = None,
        unique_for: float | None = None,
        unique_key: str | None = None,
        timeout: float | Default = Default.TIMEOUT,
        **kwargs: Any,
    ) -> TaskHandle[Any]:
        """Enqueue a task, and return once the broker has it safe: it will run to its end, or be a dead letter.

        Args:
            function: A task's name (``"resize"``, or ``"images.resize"`` for service ``images``), or the function
                itself where it was registered with ``@service.task``.
            args: Positional arguments.
            queue: Which holds it; unless given the function's own.
            delay: Seconds until a worker may take it; it waits in the broker, and survives its restarts.
            eta: The same as a time, with its zone.
            expires: Seconds from now after which no worker starts it any more; it is a dead letter then.
            priority: From 0 to 9; the function's own unless given. See ``@service.task``.
            unique_for: Seconds for which no second task with its key is enqueued: `AlreadyQueued` is raised instead.
                The key is kept by one node of the broker, and taken whether or not the first task has run by then; it
                is given back where the task turned out not to be accepted. After a crash of that node, or of this
                process between the key and the task, it may be free too early, or taken in vain for its time.
            unique_key: The key, beside the function's name and its queue. Unless given it is all the arguments, as they
                are given, but for the order of the named ones: ``f(1, b=2)`` and ``f(a=1, b=2)`` have two keys.
            timeout: Seconds for the broker to take it (the client's, 30.0). The first task of a queue's life takes
                two seconds, in which the broker might forget the queue.
            kwargs: Named arguments.

        Raises:
            PublishRefused: The broker does not take it: a full queue, a memory or disk alarm. It will not run.
            AlreadyQueued: One with its key was enqueued. It will not run.
            NotConnected: No connection in time. It will not run.
            ConnectionLost: It was sent, and not confirmed in time. It may run.
            ConfigurationError: No such task, no such time, a delay that is longer than ``expires``, or a queue that
                exists with other arguments.
            Unencodable, MessageTooLarge: An argument can't be sent.

        Example:
            >>> client.enqueue("resize", "a.png", size=3)  # doctest: +SKIP
        """
        return self._enqueue(
            function,
            args,
            kwargs,
            queue=queue,
            delay=delay,
            eta=eta,
            expires=expires,
            priority=priority,
            unique_for=unique_for,
            unique_key=unique_key,
            timeout=timeout,
        )

    @abstractmethod
    def _enqueue(
        self,
        function: Any,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        *,
        queue: str | None,
        delay: float | None,
        eta: datetime | None,
        expires: float | None,
        priority: int | None,
        unique_for: float | None,
        unique_key: str | None,
        timeout: float | Default,
    ) -> TaskHandle[Any]:
        """Enqueue a task."""
