"""What a time limit does to a coroutine, and the words for a task that has exceeded one. Pure."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any

from amqp_rpc.errors import TimeLimitExceeded


def exceeded(function: str, limit: float) -> TimeLimitExceeded:
    """Return the error of a try that took too long."""
    return TimeLimitExceeded(f"{function}() took longer than its time limit of {limit:g} s")


async def within(limit: float, called: Awaitable[Any], function: str) -> Any:
    """Return what a coroutine returns, and cancel it at its limit.

    What it returns or raises after that counts for nothing: cleaning up is all that is left to do.

    Args:
        limit: Seconds.
        called: What was called.
        function: The function's name.

    Raises:
        TimeLimitExceeded: It was cancelled, and has ended.
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
