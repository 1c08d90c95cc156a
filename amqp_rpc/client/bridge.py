"""Fronts for asyncio: the methods of objects that block, awaited; each signature is written where it blocks."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Coroutine
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar

from amqp_rpc.client.task import TaskHandle
from amqp_rpc.ops.dead_letters import DeadLetters
from amqp_rpc.results.record import State

P = ParamSpec("P")
R = TypeVar("R")
S = TypeVar("S")


class Front(Generic[S]):
    """A front over an object whose methods block.

    Args:
        blocking: The object.
    """

    def __init__(self, blocking: S) -> None:
        self._blocking = blocking


def awaited(method: Callable[Concatenate[S, P], R]) -> Callable[Concatenate[Front[S], P], Coroutine[Any, Any, R]]:
    """Return a method that awaits what another one blocks for, with the same arguments."""

    @functools.wraps(method)
    async def awaiting(self: Front[S], /, *args: P.args, **kwargs: P.kwargs) -> R:
        return await asyncio.to_thread(method, self._blocking, *args, **kwargs)

    return awaiting


class AsyncTaskHandle(Front[TaskHandle[R]], Generic[R]):
    """A `TaskHandle` to await: `AsyncClient.enqueue` and `AsyncClient.task` return it."""

    @property
    def id(self) -> str:
        """The task's; the same on every attempt."""
        return self._blocking.id

    @property
    def queue(self) -> str:
        """The queue that holds it."""
        return self._blocking.queue

    @property
    def function(self) -> str:
        """Its function's name."""
        return self._blocking.function

    async def state(self) -> State:
        """Return the state of the task: `TaskHandle.state`."""
        return await asyncio.to_thread(lambda: self._blocking.state)

    ready = awaited(TaskHandle.ready)
    result = awaited(TaskHandle[R].result)

    def __repr__(self) -> str:
        return f"<Async{repr(self._blocking)[1:]}"


class AsyncDeadLetters(Front[DeadLetters]):
    """The `DeadLetters` of one queue, to await: `AsyncClient.dead_letters` returns it.

    Cancelling does not take back what was begun.
    """

    @property
    def queue(self) -> str:
        """The queue whose dead letters they are."""
        return self._blocking.queue

    @property
    def dead_letter_queue(self) -> str:
        """The queue that holds them."""
        return self._blocking.dead_letter_queue

    list = awaited(DeadLetters.list)
    get = awaited(DeadLetters.get)
    replay = awaited(DeadLetters.replay)
    drop = awaited(DeadLetters.drop)

    def __repr__(self) -> str:
        return f"<Async{repr(self._blocking)[1:]}"
