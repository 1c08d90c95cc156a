"""What a handler can ask about the call that it is handling; calls that it makes inherit the time that is left.

It lives in a context variable (https://docs.python.org/3/library/contextvars.html): a thread that a handler starts has
none, unless it is run with `contextvars.copy_context`.
"""

from __future__ import annotations

import time
from contextvars import ContextVar
from dataclasses import dataclass

from amqp_rpc.errors import ConfigurationError
from amqp_rpc.message.envelope import Request


@dataclass(frozen=True, slots=True)
class Context:
    """The call that is being handled.

    Args:
        function: The function's name.
        message_id: The request's id, the same on every retry of it; None where its sender gave none.
        attempt: 1 where the client sent it once, 2 where it sent it again, and so on.
        redelivered: Whether another server had it before, and died.
    """

    function: str
    message_id: str | None
    attempt: int
    redelivered: bool
    #: Unix time at which its caller stops to wait, or a task's try has lasted for its time limit, whichever is earlier;
    #: None where there is neither.
    deadline: float | None
    #: Unix time at which a schedule's task was due, the same on every try of it; None for what no schedule enqueued.
    tick: float | None = None

    def remaining(self) -> float | None:
        """Return the seconds until its caller stops to wait, or a task's time limit is over; None without either.

        It is 0.0 where that is past.
        """
        return None if self.deadline is None else max(0.0, self.deadline - time.time())


#: The function's name, its request, and the Unix time at which its limit is over: few handlers ask for more.
_current: ContextVar[tuple[str, Request, float | None] | None] = ContextVar("amqp_rpc_context", default=None)


def context() -> Context:
    """Return what is known of the call that is being handled.

    Raises:
        ConfigurationError: No call is being handled here.

    Example:
        >>> @service.rpc  # doctest: +SKIP
        ... def report() -> str:
        ...     return f"{context().remaining():.1f} s are left"
    """
    current = _current.get()
    if current is None:
        raise ConfigurationError("context() is for handlers: no call is being handled in this thread or task")
    function, request, ends = current
    deadline = min((each for each in (request.deadline, ends) if each is not None), default=None)
    tick = None if request.tick is None else request.tick / 1000
    # The broker does not mark the copy that goes back when a server has died; its header counts.
    redelivered = request.redelivered or request.crashes > 0
    return Context(function, request.message_id, request.attempt, redelivered, deadline, tick)


def time_left() -> float | None:
    """Return the seconds that are left to the call that is being handled; None outside of one, or without deadline."""
    return None if _current.get() is None else context().remaining()


class handling:  # noqa: N801 - used like a function, in a with statement
    """Make a request the one that is being handled: ``with handling(name, request):``; ``limit`` is its seconds."""

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
