"""Runs users' functions, and no other module does; and has the parts that the dispatchers of calls and tasks share.

A dispatcher reads a delivery into an `Invocation`, `invoke` runs it and returns a `HandlerOutcome`, and the dispatcher
turns that into an `Answer`. `invoke` and `invoke_async` are the one place that calls a user's function: for a call, for
each call of a chunk, for a task and for an event. Everything that wraps a handler belongs there: middleware, and a
metric of how long handlers take (`HandlerOutcome.seconds`).

It opens no connection and starts no thread; the time of day comes from `Settings.clock`.
"""

from __future__ import annotations

import asyncio
import time
import traceback
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from amqp_rpc.errors import AmqpRpcError, CodecError, FunctionNotFound, InvalidArguments, TimeLimitExceeded
from amqp_rpc.message import codec
from amqp_rpc.message.codec import JSON, MSGPACK, TEXT
from amqp_rpc.message.envelope import APPLICATION, ERROR, RESULT, Message, Properties, Request
from amqp_rpc.message.failures import describe_verdict
from amqp_rpc.message.settings import DEFAULT_CLOCK_SKEW
from amqp_rpc.message.text import LONGEST_TRACEBACK, brief, shortened, text_of
from amqp_rpc.results.record import Record
from amqp_rpc.service.catalog import default_function
from amqp_rpc.service.context import in_context
from amqp_rpc.service.function import Function


@dataclass(slots=True, eq=False)
class Invocation:
    """A function and its converted arguments, ready to run."""

    request: Request
    function: Function
    args: list[Any]
    kwargs: dict[str, Any]
    #: Its time limit in seconds; None for no limit.
    limit: float | None = None


@dataclass(slots=True)
class HandlerOutcome:
    """The result of an invocation, or the exception that it raised, and the seconds that it took."""

    result: Any
    error: BaseException | None
    seconds: float


@dataclass(slots=True)
class Answer:
    """How a delivery is settled: by a reply, a copy that is published, a dead letter, or a mere ack.

    Args:
        reply: The message to the caller; None if no reply is sent.
        dead_letter: Why the delivery is dead-lettered; None if it is not.
        outcome: Its counter: ``result``, ``raised``, ``refused``, ``expired``, ``retried``, ``failed``, ``crashed``,
            ``repeated`` (had succeeded before), ``again`` (requeued before it ran) or ``probe``.
        again: The copy that is published instead: the requeued request, or a task's next attempt.
        details: More headers of the dead letter.
        record: The task's record for the store of results; None without a store.
    """

    reply: Message | None
    dead_letter: str | None
    outcome: str
    again: Message | None = None
    details: Mapping[str, Any] | None = None
    record: Record | None = None


def invoke(invocation: Invocation) -> HandlerOutcome:
    """Call an ordinary function. `worker.TimeLimits` enforces its time limit, since a thread can't be ended."""
    began = time.monotonic()
    try:
        with in_context(invocation.function.name, invocation.request, invocation.limit):
            result = invocation.function.call(*invocation.args, **invocation.kwargs)
    # SystemExit or KeyboardInterrupt in a handler ends that invocation, not the server.
    except BaseException as error:
        return HandlerOutcome(None, error, time.monotonic() - began)
    return HandlerOutcome(result, None, time.monotonic() - began)


async def invoke_async(invocation: Invocation) -> HandlerOutcome:
    """Await an ``async def`` function, and cancel it at its time limit."""
    began = time.monotonic()
    try:
        with in_context(invocation.function.name, invocation.request, invocation.limit):
            called = invocation.function.call(*invocation.args, **invocation.kwargs)
            if invocation.limit is not None:
                called = _within(invocation.limit, called, invocation.function.name)
            result = await called
    # As in `invoke`.
    except BaseException as error:
        return HandlerOutcome(None, error, time.monotonic() - began)
    return HandlerOutcome(result, None, time.monotonic() - began)


@dataclass(frozen=True, slots=True)
class Settings:
    """The settings of a server's dispatchers."""

    #: The most bytes of a body, in either direction.
    max_message_size: int
    #: True if error replies to calls carry the handler's traceback.
    tracebacks: bool = True
    #: True if there is a store for the records of tasks.
    records: bool = False
    #: Seconds by which the callers' clocks may differ from the server's.
    clock_skew: float = DEFAULT_CLOCK_SKEW
    #: Returns the Unix time in seconds.
    clock: Callable[[], float] = time.time


class Dispatcher:
    """Finds the functions of one queue by their names, decodes their arguments, and makes replies."""

    #: Its messages' name in the log.
    kind: str

    def __init__(self, queue: str, functions: dict[str, Function], settings: Settings) -> None:
        self.queue = queue
        self._functions = functions
        self._default = default_function(functions)
        self._max_size = settings.max_message_size
        self._tracebacks = settings.tracebacks
        self._clock = settings.clock
        self._clock_skew = settings.clock_skew

    def asynchronous(self, properties: Properties) -> bool:
        """Return whether the delivery is for an ``async def`` function; False for an unknown function."""
        function = self._functions.get(properties.type) if properties.type else self._default
        return function is not None and function.asynchronous

    def named(self, request: Request, function: str | None = None) -> str:
        """Return the subject of a line in the log; the message may have no function and no id."""
        name = function or request.function
        identity = request.message_id or request.correlation_id
        return f"{self.kind} {f'{name}()' if name else 'without a function'}{f' [{identity}]' if identity else ''}"

    def keys(self, request: Request, function: str | None = None) -> dict[str, Any]:
        """Return the attributes of a record in the log, the same for calls, tasks and events."""
        return {
            "queue": self.queue,
            "function": function or request.function,
            "id": request.message_id or request.correlation_id,
            "attempt": request.attempt,
        }

    def _expired(self, request: Request) -> bool:
        return request.expired(self._clock(), clock_skew=self._clock_skew)

    def _find(self, request: Request) -> Function:
        if request.function is None:
            if self._default is None:
                raise FunctionNotFound(
                    f"the message names no function (AMQP property 'type'), and none is the default; "
                    f"there are: {', '.join(self._functions)}"
                )
            return self._default
        function = self._functions.get(request.function)
        if function is None:
            raise FunctionNotFound(f"no function {request.function!r} here; there are: {', '.join(self._functions)}")
        return function

    def _arguments(self, request: Request, function: Function) -> tuple[list[Any], dict[str, Any]]:
        value = codec.decode(request.body, request.content_type, limit=self._max_size)
        if request.content_type == TEXT:
            return function.signature.compile().bind_text(value)
        return self._bound(request, function, value)

    @staticmethod
    def _bound(request: Request, function: Function, value: Any) -> tuple[list[Any], dict[str, Any]]:
        """Return a call's arguments, checked and converted by the function's type hints."""
        match value:
            case [list() as args, dict() as kwargs] if all(isinstance(name, str) for name in kwargs):
                return function.signature.compile().bind(args, kwargs, binary=request.content_type == MSGPACK)
        raise InvalidArguments(f"a call is [positional, named], such as [[30], {{}}]; it was {brief(value)}")

    @staticmethod
    def _reply_type(request: Request) -> str:
        """Return the content type of the request, which the reply has too; text for one that is not known here."""
        return request.content_type if request.content_type in (MSGPACK, JSON) else TEXT

    def _result(self, request: Request, function: Function, result: Any) -> Message:
        """Return the reply with a result.

        Raises:
            CodecError: The result can't be encoded, or is too large; the text says that the function ran.
        """
        try:
            body = codec.encode(result, self._reply_type(request), limit=self._max_size)
        except CodecError as error:
            raise type(error)(f"{function.name}() ran, and its result was not sent: {error}") from error
        return self._reply(request, RESULT, body)

    def _error(self, request: Request, described: dict[str, Any]) -> Message:
        content_type = self._reply_type(request)
        if content_type == TEXT:
            text = f"{described['type']}: {described['message']}"
            return self._reply(request, ERROR, text.encode(errors="backslashreplace")[: self._max_size])
        try:
            body = codec.encode(described, content_type, limit=self._max_size)
        except CodecError as error:
            # An error that is too large keeps its type, and its message says why the rest was not sent.
            short = {"type": described["type"], "message": f"(not sent: {error})", "data": {}}
            body = codec.encode(short, content_type, limit=max(self._max_size, 1024))
        return self._reply(request, ERROR, body)

    def _reply(self, request: Request, kind: str, body: bytes) -> Message:
        properties = Properties(
            content_type=self._reply_type(request),
            correlation_id=request.correlation_id,
            type=kind,
            delivery_mode=1,
            app_id=APPLICATION,
        )
        # A task's reply may have no address: then only its record in the store keeps it.
        return Message(request.reply_to or "", properties, body)


def ran(error: AmqpRpcError) -> dict[str, Any]:
    """Return the map of an error that the server raises for a call that ran: its result can't be sent."""
    return {**describe_verdict(error), "data": {"ran": True}}


def traceback_of(error: BaseException) -> str:
    """Return an exception's traceback as text, without the frame of `invoke` or `invoke_async`."""
    return text_of("".join(traceback.format_exception(*exc_info(error)))[-LONGEST_TRACEBACK:])


def exc_info(error: BaseException) -> tuple[type[BaseException], BaseException, TracebackType | None]:
    """Return a handler's exception as the log takes it, without the frame of `invoke` or `invoke_async`."""
    return type(error), error, error.__traceback__.tb_next if error.__traceback__ else None


def raised(error: BaseException) -> str:
    """Return an exception's type and text for one line."""
    return shortened(f"{type(error).__name__}: {text_of(error)}")


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
