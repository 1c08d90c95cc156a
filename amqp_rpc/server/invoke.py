"""Runs users' functions, and no other module does; and has the parts that the dispatchers of calls and tasks share.

A dispatcher reads a delivery into an `Invocation`, `invoke` runs it and returns a `HandlerOutcome`, and the dispatcher
turns that into an `Answer`. `invoke` and `invoke_async` are the one place that calls a user's function: for a call, for
each call of a chunk, for a task and for an event. Everything that wraps a handler belongs there: middleware, and a
metric of how long handlers take (`HandlerOutcome.seconds`). `Dispatcher._authorize` asks before, as soon as the
function is known, whether it may run for its sender.

What a function returned decides whether it has run: an awaitable is awaited (`Unfinished`, `finish`), and a generator
is an error (`NotAResult`), since its body has not run.

It opens no connection and starts no thread; the time of day comes from `Settings.clock`.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import inspect
import logging
import time
from collections.abc import Callable, Mapping
from contextvars import Context, copy_context
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from amqp_rpc.errors import (
    AmqpRpcError,
    CodecError,
    FunctionNotFound,
    InvalidArguments,
    MessageTooLarge,
    NotAuthorized,
    TimeLimitExceeded,
)
from amqp_rpc.message import codec
from amqp_rpc.message.codec import MSGPACK, OCTETS, TEXT, base_type, packed
from amqp_rpc.message.envelope import APPLICATION, ERROR, RESULT, Message, Properties, Request, copied, sender
from amqp_rpc.message.failures import brief_error, describe_verdict
from amqp_rpc.message.settings import DEFAULT_CLOCK_SKEW, DEFAULT_MAX_MESSAGE_SIZE, DEFAULT_THREADS
from amqp_rpc.message.signature import Keys, key_of
from amqp_rpc.message.text import LONGEST_ERROR, bounded_logger, brief, quoted, text_of, traceback_text
from amqp_rpc.message.timing import Repeats
from amqp_rpc.results.record import Record
from amqp_rpc.service.catalog import default_function, queue_arguments
from amqp_rpc.service.context import Authorize, described, in_context
from amqp_rpc.service.function import Function

logger: logging.Logger = bounded_logger(__name__)

#: The types of most results: a result of such a type needs no look at what it is.
_SCALARS = frozenset({type(None), bool, int, float, str, bytes})
#: The types of results that are bytes already.
_BYTES = bytes, bytearray, memoryview


class NotAResult(TypeError):
    """A function returned something whose body has not run, such as a generator: it has failed, and is not retried."""


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


@dataclass(slots=True, eq=False)
class Unfinished:
    """The awaitable that an ordinary function returned: the function has run when `finish` has awaited it.

    An ``async def`` function under an ordinary decorator is one that returns an awaitable.
    """

    awaitable: Any
    #: The context variables as the function left them: the awaitable runs with them.
    context: Context
    seconds: float

    def drop(self) -> None:
        """Never run it: its task was settled at its time limit."""
        if inspect.iscoroutine(self.awaitable):
            self.awaitable.close()


@dataclass(slots=True)
class Answer:
    """How a delivery is settled: by a reply, a copy that is published, a dead letter, or a mere ack.

    Args:
        reply: The message to the caller; None if no reply is sent.
        dead_letter: Why the delivery is dead-lettered; None if it is not.
        outcome: Its counter: ``result``, ``raised``, ``refused``, ``unauthorized``, ``expired``, ``retried``,
            ``failed``, ``crashed``, ``repeated`` (had succeeded before), ``again`` (requeued before it ran) or
            ``probe``.
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


def invoke(invocation: Invocation) -> HandlerOutcome | Unfinished:
    """Call an ordinary function. `worker.TimeLimits` enforces its time limit, since a thread can't be ended."""
    began = time.monotonic()
    try:
        with in_context(invocation.function.name, invocation.request, invocation.limit):
            result = invocation.function.call(*invocation.args, **invocation.kwargs)
            if type(result) not in _SCALARS and _to_be_awaited(invocation.function.name, result):
                return Unfinished(result, copy_context(), time.monotonic() - began)
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
                result = await _within(invocation.limit, called, invocation)
            else:
                result = await called
                if type(result) not in _SCALARS:
                    result = await _end(invocation.function.name, result)
    # As in `invoke`.
    except BaseException as error:
        return HandlerOutcome(None, error, time.monotonic() - began)
    return HandlerOutcome(result, None, time.monotonic() - began)


async def finish(invocation: Invocation, unfinished: Unfinished) -> HandlerOutcome:
    """Await what an ordinary function returned, on the event loop, as if the function were an ``async def`` one."""
    loop = asyncio.get_running_loop()
    return await loop.create_task(_finish(invocation, unfinished), context=unfinished.context)


async def _finish(invocation: Invocation, unfinished: Unfinished) -> HandlerOutcome:
    began = time.monotonic() - unfinished.seconds
    try:
        if invocation.limit is not None:
            left = invocation.limit - unfinished.seconds
            result = await _within(left, unfinished.awaitable, invocation)
        else:
            result = await _end(invocation.function.name, unfinished.awaitable)
    # As in `invoke`.
    except BaseException as error:
        return HandlerOutcome(None, error, time.monotonic() - began)
    return HandlerOutcome(result, None, time.monotonic() - began)


@dataclass(frozen=True, slots=True)
class Settings:
    """The settings of a server's dispatchers."""

    #: The most bytes of a body, in either direction.
    max_message_size: int
    #: Calls of chunks that run at the same time, if they are awaited: the server's prefetch.
    concurrency: int = DEFAULT_THREADS
    #: True if error replies to calls carry the handler's traceback.
    tracebacks: bool = True
    #: True if there is a store for the records of tasks.
    records: bool = False
    #: Those that all that comes is signed with, None without any; and the users of servers, where their messages have
    #: their names.
    keys: Keys | None = None
    users: frozenset[str] = frozenset()
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
        #: The arguments of the queue, which all its functions share; None if another program declares it.
        self.arguments: dict[str, Any] | None = queue_arguments(functions)
        self._functions = functions
        self._default = default_function(functions)
        self._max_size = settings.max_message_size
        self._tracebacks = settings.tracebacks
        self._clock = settings.clock
        self._clock_skew = settings.clock_skew
        self._signed = settings.keys is not None
        self._users = settings.users
        #: The refusals of bad messages: equal ones are logged at growing intervals, since anybody can send many.
        self._refusals = Repeats()

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

    def _find(self, request: Request, properties: Properties) -> Function:
        """Return the function that a request is for, if it may run for its sender.

        Raises:
            FunctionNotFound: There is none.
            NotAuthorized: It may not.
        """
        if request.function is None:
            if self._default is None:
                raise FunctionNotFound(
                    f"the message names no function (AMQP property 'type'), and none is the default; "
                    f"there are: {', '.join(self._functions)}"
                )
            function = self._default
        elif (found := self._functions.get(request.function)) is not None:
            function = found
        else:
            raise FunctionNotFound(f"no function {request.function!r} here; there are: {', '.join(self._functions)}")
        if self._signed or properties.user_id is not None:
            request.user_id = sender(properties, self._users)
            request.key = key_of(properties) if self._signed else None
        if function.authorize is not None:
            self._authorize(request, function, function.authorize)
        return function

    def _authorize(self, request: Request, function: Function, authorize: Authorize) -> None:
        """Ask a function's ``authorize=`` whether it may run for this sender; only True is a yes.

        Raises:
            NotAuthorized: It may not, or that could not be found out.
        """
        known = ("user", request.user_id), ("key", request.key)
        who = " with ".join(f"{what} {quoted(it)}" for what, it in known if it is not None) or "an unknown sender"
        try:
            allowed = authorize(described(function.name, request))
        except NotAuthorized:
            raise
        # Whatever it raises, even SystemExit, is no yes.
        except BaseException as error:
            if (times := self._refusals.again(f"authorize {error!r}")) is not None:
                logger.exception("queue %s: authorize= of %s() failed; refused%s", self.queue, function.name, times)
            raise NotAuthorized(f"{function.name}() did not run: whether {who} may have it run is not known") from error
        if allowed is not True:
            raise NotAuthorized(f"{function.name}() does not run for {who}")

    def _arguments(self, request: Request, function: Function) -> tuple[list[Any], dict[str, Any]]:
        compiled = function.signature.compile()
        if packed(request.content_type):
            if not request.body and not function.signature.required:
                return compiled.bind([], {})
            value = codec.decode(request.body, request.content_type, limit=self._max_size)
            return self._bound(request, function, value)
        return compiled.bind_body(
            codec.decode(request.body, request.content_type, limit=self._max_size, raw=compiled.takes_bytes)
        )

    @staticmethod
    def _bound(request: Request, function: Function, value: Any) -> tuple[list[Any], dict[str, Any]]:
        """Return a call's arguments, checked and converted by the function's type hints."""
        match value:
            case [list() as args, dict() as kwargs] if not kwargs or all(isinstance(name, str) for name in kwargs):
                return function.signature.compile().bind(args, kwargs, binary=request.content_type == MSGPACK)
        raise InvalidArguments(f"a call is [positional, named], such as [[30], {{}}]; it was {brief(value)}")

    @staticmethod
    def _reply_type(request: Request) -> str:
        """Return the content type of the request, which the reply has too; text for one that has no values."""
        return request.content_type if packed(request.content_type) else TEXT

    def _result(self, request: Request, function: Function, result: Any) -> Message:
        """Return the reply with a result.

        Raises:
            CodecError: The result can't be encoded, or is too large; the text says that the function ran.
        """
        try:
            body = codec.encode(result, self._reply_type(request), limit=self._max_size)
        except CodecError as error:
            raise type(error)(f"{function.name}() ran, and its result was not sent: {error}") from error
        return self._reply(request, RESULT, body, raw=isinstance(result, _BYTES))

    def _error(self, request: Request, described: dict[str, Any]) -> Message:
        content_type = self._reply_type(request)
        if content_type == TEXT:
            text = f"{described['type']}: {described['message']}"
            return self._reply(request, ERROR, text.encode(errors="backslashreplace")[: self._max_size])
        try:
            body = codec.encode(described, content_type, limit=self._max_size)
        except CodecError as error:
            # An error that is too large keeps its type, and its message says why the rest was not sent.
            short = brief_error(described, f"(not sent: {error})")
            body = codec.encode(short, content_type, limit=max(self._max_size, 1024))
        return self._reply(request, ERROR, body)

    @staticmethod
    def _reply(request: Request, kind: str, body: bytes, *, raw: bool = False) -> Message:
        """Return a reply, with the content type as the caller wrote it; ``raw``: it is bytes, if it is not packed."""
        properties = Properties(request.said if packed(request.content_type) else OCTETS if raw else TEXT)
        properties.correlation_id = request.correlation_id
        properties.type = kind
        properties.delivery_mode = 1
        properties.app_id = APPLICATION
        # A task's reply may have no address: then only its record in the store keeps it.
        return Message(request.reply_to or "", properties, body)


def ran(error: AmqpRpcError) -> dict[str, Any]:
    """Return the map of an error that the server raises for a call that ran: its result can't be sent."""
    return describe_verdict(error, ran=True)


def too_large(reply: Message, error: MessageTooLarge) -> Message:
    """Return the reply that says that another one, of a function that ran, is larger than the broker takes."""
    described = ran(MessageTooLarge(f"it ran, and its result was not sent: {error}"))
    content_type, kind = reply.properties.content_type, base_type(reply.properties.content_type)
    if packed(kind):
        body = codec.encode(described, kind, limit=DEFAULT_MAX_MESSAGE_SIZE)
    else:
        content_type, body = TEXT, f"{described['type']}: {described['message']}".encode()
    return Message(reply.routing_key, copied(reply.properties, type=ERROR, content_type=content_type), body)


def traceback_of(error: BaseException) -> str:
    """Return an exception's traceback as text, without the frames of this module."""
    return traceback_text(*exc_info(error))


def exc_info(error: BaseException) -> tuple[type[BaseException], BaseException, TracebackType | None]:
    """Return a handler's exception as the log takes it, without the frames of this module, which called the handler."""
    frames = error.__traceback__
    while frames is not None and frames.tb_frame.f_globals is globals():
        frames = frames.tb_next
    return type(error), error, frames


def raised(error: BaseException) -> str:
    """Return an exception's type and text for one line."""
    return quoted(f"{type(error).__name__}: {text_of(error)}", LONGEST_ERROR)


def exceeded(function: str, limit: float) -> TimeLimitExceeded:
    """Return the error of an invocation that took too long."""
    return TimeLimitExceeded(f"{function}() took longer than its time limit of {limit:g} s")


async def _within(seconds: float, called: Any, invocation: Invocation) -> Any:
    """Await an awaitable and cancel it at its limit; a result or an exception that comes after the limit is dropped.

    Raises:
        TimeLimitExceeded: The awaitable was cancelled, and has ended.
    """
    name, limit = invocation.function.name, invocation.limit
    assert limit is not None
    try:
        async with asyncio.timeout(seconds) as timeout:
            result = await _end(name, called)
    except BaseException as error:
        if timeout.expired():
            raise exceeded(name, limit) from error
        raise
    if timeout.expired():
        raise exceeded(name, limit)
    return result


async def _end(function: str, returned: Any) -> Any:
    """Await what a function returned, and what that returns, until it is a result."""
    while type(returned) not in _SCALARS and _to_be_awaited(function, returned):
        # A future of a thread pool, or of `Client.submit`.
        future = isinstance(returned, concurrent.futures.Future)
        returned = await (asyncio.wrap_future(returned) if future else returned)
    return returned


def _to_be_awaited(function: str, returned: Any) -> bool:
    """Return whether what a function returned has to be awaited before it is a result.

    Raises:
        NotAResult: It is something whose body has not run, and which nothing here runs.
    """
    if inspect.isawaitable(returned) or isinstance(returned, concurrent.futures.Future):
        return True
    if _is_lazy(returned):
        raise NotAResult(
            f"{function}() returned {_a(returned)}, whose body has not run: streams are not supported yet. Return a "
            "list, or run it to its end in the function"
        )
    kind = type(returned)
    if kind in (list, tuple, set, frozenset, dict) and returned:
        # Whoever forgets to await one of many forgets it for the first one too.
        first = next(iter(returned.values() if kind is dict else returned))
        if type(first) not in _SCALARS and (inspect.isawaitable(first) or _is_lazy(first)):
            raise NotAResult(
                f"{function}() returned a {kind.__name__} with {_a(first)} in it, whose body has not run. Await each: "
                "asyncio.gather"
            )
    return False


def _is_lazy(value: Any) -> bool:
    """Return whether it is an iterator, such as a generator, or a context manager that a generator makes."""
    kind = type(value)
    if hasattr(kind, "__next__") or hasattr(kind, "__anext__"):
        return True
    made = isinstance(value, contextlib.ContextDecorator | contextlib.AsyncContextDecorator)
    return made and _is_lazy(getattr(value, "gen", None))


def _a(value: Any) -> str:
    name = type(value).__name__.strip("_").replace("_", " ")
    return f"an {name}" if name[:1].lower() in "aeiou" else f"a {name}"
