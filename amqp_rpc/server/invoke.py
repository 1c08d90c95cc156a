"""The one place that calls a user's function: for a call, for each call of a chunk, for a task and for an event.

Everything that wraps a handler belongs here: middleware, and a metric of how long handlers take (`Outcome.seconds`).
This module knows neither messages nor the broker. It goes one way: a dispatcher makes an `Invocation` of a delivery,
`invoke` makes an `Outcome` of it, and the dispatcher makes an answer of that.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable
from dataclasses import dataclass
from typing import Any

from amqp_rpc.errors import TimeLimitExceeded
from amqp_rpc.message.envelope import Request
from amqp_rpc.service.context import in_context
from amqp_rpc.service.function import Function


@dataclass(slots=True, eq=False)
class Invocation:
    """A function and its converted arguments, ready to run."""

    request: Request
    function: Function
    args: list[Any]
    kwargs: dict[str, Any]
    #: Seconds that it may take; None for no limit.
    limit: float | None = None


@dataclass(slots=True)
class Outcome:
    """The result of an invocation, or the exception that it raised, and the seconds that it took."""

    result: Any
    error: BaseException | None
    seconds: float


def invoke(call: Invocation) -> Outcome:
    """Call an ordinary function. `worker.TimeLimits` enforces its time limit, since a thread can't be ended."""
    began = time.monotonic()
    try:
        with in_context(call.function.name, call.request, call.limit):
            result = call.function.call(*call.args, **call.kwargs)
    # SystemExit and KeyboardInterrupt of a handler end that invocation, not the server.
    except BaseException as error:
        return Outcome(None, error, time.monotonic() - began)
    return Outcome(result, None, time.monotonic() - began)


async def invoke_async(call: Invocation) -> Outcome:
    """Await an ``async def`` function, and cancel it at its time limit."""
    began = time.monotonic()
    try:
        with in_context(call.function.name, call.request, call.limit):
            called = call.function.call(*call.args, **call.kwargs)
            result = await (called if call.limit is None else _within(call.limit, called, call.function.name))
    except BaseException as error:
        return Outcome(None, error, time.monotonic() - began)
    return Outcome(result, None, time.monotonic() - began)


def exceeded(function: str, limit: float) -> TimeLimitExceeded:
    """Return the error of an invocation that took too long."""
    return TimeLimitExceeded(f"{function}() took longer than its time limit of {limit:g} s")


async def _within(limit: float, called: Awaitable[Any], function: str) -> Any:
    """Await a coroutine and cancel it at its limit; a result or an exception that comes after the limit is dropped.

    Raises:
        TimeLimitExceeded: The coroutine was cancelled, and has ended.
    """
    try:
        async with asyncio.timeout(limit) as timeout:
            result = await called
    except BaseException as error:
        if timeout.expired():
            raise exceeded(function, limit) from error
        raise
    if timeout.expired():
        raise exceeded(function, limit)
    return result
