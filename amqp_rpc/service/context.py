"""The call or task that a handler is working on. Its own calls inherit the time that is left.

It is a context variable (https://docs.python.org/3/library/contextvars.html): a thread that a handler starts has none,
unless it runs in `contextvars.copy_context`.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from amqp_rpc.errors import ConfigurationError
from amqp_rpc.message.envelope import Request
from amqp_rpc.message.headers import others


@dataclass(frozen=True, slots=True)
class Context:
    """The call or the task that a handler is working on.

    Args:
        function: The function's name.
        message_id: The message's id, the same on every attempt; None if its sender gave none.
        attempt: The attempt of the call or the task, from 1.
        redelivered: Whether another server had it before, and died.
        deadline: Unix time when its caller stops to wait, or when the attempt reaches its task's time limit, whichever
            is earlier; None without either.
        tick: Unix time when a scheduled task was due, the same on every attempt; None for all others.
        headers: The headers that its sender gave it, the same on every attempt, such as ``traceparent``.
        user_id: The user of the broker who sent it, the same on every attempt; None if its sender does not say so
            (``user_id="sent"``). RabbitMQ has checked it: docs/security.md.
        key: The id of the key that signed it, which is proved; None if the server has no keys.
    """

    function: str
    message_id: str | None
    attempt: int
    redelivered: bool
    deadline: float | None
    tick: float | None = None
    headers: dict[str, Any] = field(default_factory=dict)
    user_id: str | None = None
    key: str | None = None

    def remaining(self) -> float | None:
        """Return the seconds until the deadline, 0.0 after it; None without one."""
        return None if self.deadline is None else max(0.0, self.deadline - time.time())


#: The function's name, its request, and the Unix time of its time limit; `context` makes a `Context` when it is asked.
_current: ContextVar[tuple[str, Request, float | None] | None] = ContextVar("amqp_rpc_context", default=None)


def context() -> Context:
    """Return the call or the task that this handler is working on.

    Raises:
        ConfigurationError: No handler runs in this thread or asyncio task.

    Example:
        >>> @service.rpc  # doctest: +SKIP
        ... def report() -> str:
        ...     return f"{context().remaining():.1f} s are left"
    """
    current = _current.get()
    if current is None:
        raise ConfigurationError("context() is for handlers: no call is being handled in this thread or task")
    return described(*current)


#: A hook that decides whether a function runs for a sender; True is a yes.
Authorize = Callable[[Context], bool]


def described(function: str, request: Request, ends: float | None = None) -> Context:
    """Return a call or a task, for its handler or for an `Authorize`; ``ends`` is the end of its time limit."""
    tick = None if request.tick is None else request.tick / 1000
    # RabbitMQ does not mark the copy that a server requeues after another died; its header counts.
    redelivered = request.redelivered or request.crashes > 0
    return Context(
        function, request.message_id, request.attempt, redelivered, _deadline(request, ends), tick,
        others(request.headers), request.user_id, request.key,
    )  # fmt: skip


def time_left() -> float | None:
    """Return the seconds until the deadline of this handler; None outside of one, or without a deadline."""
    current = _current.get()
    if current is None:
        return None
    _, request, ends = current
    deadline = _deadline(request, ends)
    return None if deadline is None else max(0.0, deadline - time.time())


def _deadline(request: Request, ends: float | None) -> float | None:
    return min((each for each in (request.deadline, ends) if each is not None), default=None)


class in_context:  # noqa: N801 - used like a function, in a with statement
    """Set the context of a handler: ``with in_context(name, request):``; ``limit`` is its time limit in seconds."""

    __slots__ = ("_function", "_limit", "_request", "_token")

    def __init__(self, function: str, request: Request, limit: float | None = None) -> None:
        self._function = function
        self._request = request
        self._limit = limit

    def __enter__(self) -> None:
        ends = None if self._limit is None else time.time() + self._limit
        self._token = _current.set((self._function, self._request, ends))

    def __exit__(self, *_raised: object) -> None:
        _current.reset(self._token)
