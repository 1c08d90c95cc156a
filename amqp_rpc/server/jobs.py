"""Calls that are ready to run, one or a chunk: they run a function and turn what it does into an answer. Pure."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any, Protocol

from amqp_rpc.errors import AmqpRpcError, Expired
from amqp_rpc.message.envelope import Message, Request
from amqp_rpc.message.failures import describe_verdict
from amqp_rpc.results.record import Record
from amqp_rpc.service.context import handling
from amqp_rpc.service.registration import Function

#: What one call of a chunk came to: whether it has a result, and the result or the error's map.
Outcome = tuple[bool, Any]


@dataclass(slots=True)
class Answer:
    """What becomes of a delivery.

    Args:
        reply: The message to its caller; None where there is no address.
        dead_letter: Why the delivery goes to the dead-letter queue; None where it does not.
        outcome: One word for the counters: ``result``, ``raised``, ``refused``, ``expired``, ``again``.
        again: The request as it goes back to its queue, counted, where a server died with it and it may run again, or
            where a task is to be tried again, later.
        details: More of a dead letter, for its headers.
        record: What the store of results is told of a task; None where there is no store.
    """

    reply: Message | None
    dead_letter: str | None
    outcome: str
    again: Message | None = None
    details: dict[str, Any] = field(default_factory=dict)
    record: Record | None = None


class Answers(Protocol):
    """Who makes answers of what functions do: the dispatcher."""

    def returned(self, request: Request, function: Function, result: Any) -> Answer:
        """Return the answer for a result."""

    def raised(self, request: Request, function: Function, error: BaseException) -> Answer:
        """Return the answer for what a handler raised."""

    def described(self, function: Function, error: BaseException) -> dict[str, Any]:
        """Return the map for what a handler raised."""

    def returned_many(self, request: Request, function: Function, outcomes: list[Outcome]) -> Answer:
        """Return the answer to a chunk."""

    def expired(self, request: Request) -> bool:
        """Return whether nobody waits for the answer any more."""


class Job:
    """One call that is ready to run: a function and its converted arguments."""

    __slots__ = ("_dispatcher", "args", "function", "kwargs", "request")

    def __init__(
        self, dispatcher: Answers, request: Request, function: Function, args: list[Any], kwargs: dict[str, Any]
    ) -> None:
        self._dispatcher = dispatcher
        self.request = request
        self.function = function
        self.args = args
        self.kwargs = kwargs

    def run(self) -> Answer:
        """Call the function and return the answer, whatever the function raises."""
        try:
            with handling(self.function.name, self.request):
                result = self.function.call(*self.args, **self.kwargs)
        # SystemExit and KeyboardInterrupt of a handler end that call, not the server.
        except BaseException as error:
            return self._dispatcher.raised(self.request, self.function, error)
        return self._dispatcher.returned(self.request, self.function, result)

    async def run_async(self) -> Answer:
        """Await the ``async def`` function and return the answer, whatever it raises."""
        try:
            with handling(self.function.name, self.request):
                result = await self.function.call(*self.args, **self.kwargs)
        except BaseException as error:
            return self._dispatcher.raised(self.request, self.function, error)
        return self._dispatcher.returned(self.request, self.function, result)


class Chunk:
    """Many calls of one function that came in one message; they run and fail one by one."""

    __slots__ = ("_dispatcher", "calls", "function", "request")

    def __init__(
        self, dispatcher: Answers, request: Request, function: Function, calls: list[tuple[Any, Any] | AmqpRpcError]
    ) -> None:
        self._dispatcher = dispatcher
        self.request = request
        self.function = function
        self.calls = calls

    def run(self) -> Answer:
        """Make the calls in their order and return the answer to all of them."""
        outcomes: list[Outcome] = []
        for call in self.calls:
            if (refused := self._refused(call)) is not None:
                outcomes.append(refused)
                continue
            args, kwargs = call  # type: ignore[misc] # a refusal was taken out one line above
            try:
                with handling(self.function.name, self.request):
                    outcomes.append((True, self.function.call(*args, **kwargs)))
            except BaseException as error:
                outcomes.append((False, self._dispatcher.described(self.function, error)))
        return self._dispatcher.returned_many(self.request, self.function, outcomes)

    async def run_async(self) -> Answer:
        """Make the calls, all at the same time, and return the answer to all of them."""
        outcomes = await asyncio.gather(*map(self._run_one, self.calls))
        return self._dispatcher.returned_many(self.request, self.function, list(outcomes))

    async def _run_one(self, call: tuple[Any, Any] | AmqpRpcError) -> Outcome:
        if (refused := self._refused(call)) is not None:
            return refused
        args, kwargs = call  # type: ignore[misc] # a refusal was taken out one line above
        try:
            with handling(self.function.name, self.request):
                return (True, await self.function.call(*args, **kwargs))
        except BaseException as error:
            return (False, self._dispatcher.described(self.function, error))

    def _refused(self, call: tuple[Any, Any] | AmqpRpcError) -> Outcome | None:
        if isinstance(call, AmqpRpcError):
            return (False, describe_verdict(call))
        if self._dispatcher.expired(self.request):
            return (False, describe_verdict(Expired(f"the time for {self.function.name}() was over before it started")))
        return None
