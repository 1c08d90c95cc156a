"""Decodes replies: a result, as the type that the function's annotation names, or the error that it stands for.

Whatever fails here, fails after the function was answered: every error of this module has ``may_have_run``.

A large reply takes as long to decode as its peer likes, within the limit of its size. A thread is there for those
(`read_elsewhere`): neither an event loop nor the I/O thread decodes one, and a call ends at its deadline meanwhile.
"""

from __future__ import annotations

import logging
import os
import queue
import threading
import types
import typing
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any, NoReturn

import msgspec

from amqp_rpc.errors import AmqpRpcError, CodecError, MessageTooLarge, Undecodable
from amqp_rpc.message import codec
from amqp_rpc.message.envelope import APPLICATION, ERROR, RESULT, RESULTS, Properties
from amqp_rpc.message.failures import abridged, rebuild
from amqp_rpc.message.headers import UNREADABLE
from amqp_rpc.message.settings import DEFAULT_MAX_MESSAGE_SIZE
from amqp_rpc.message.text import bounded_logger
from amqp_rpc.service.function import Function

logger: logging.Logger = bounded_logger(__name__)

#: The items that stand for one call in the reply to a chunk: whether it has a result, and the result or the error.
_OUTCOME = 2
#: Bytes of a result that takes little time to decode, at most.
_SMALL = 4 * 1024
#: The modules of types that msgspec makes itself, without a line of a user's code.
_OURS = frozenset({"builtins", "typing", "types", "collections", "collections.abc", "datetime", "decimal", "uuid"})


@dataclass(slots=True)
class Reply:
    """A reply as it came from the broker."""

    properties: Properties
    body: bytes


@dataclass(frozen=True, slots=True)
class Decoder:
    """Decodes the replies of a function."""

    #: The function's registration; None where only its name is known.
    known: Function | None
    #: Bytes of a body at most.
    limit: int
    #: True if a reply has a list of results and errors, since its request was a chunk of calls.
    many: bool = False

    @property
    def idempotent(self) -> bool:
        """The registration allows the function to run twice."""
        return self.known is not None and self.known.idempotent

    def is_brief(self, reply: Reply) -> bool:
        """Return whether it takes little time to decode a reply, and runs no code of users': any thread may do it."""
        if reply.properties.type not in (RESULT, None) or len(reply.body) > _SMALL:
            return False
        if self.known is None:
            return True
        try:
            return _is_ours(self.known.signature.compile().result)
        # A hint that fails, or one that can't be looked up.
        except Exception:
            return False

    def read(self, reply: Reply, function: str, attempt: int = 1) -> Any:
        """Return a reply's result, or raise its error; of a chunk, return all its results and errors.

        Args:
            reply: The reply.
            function: The function's name, for errors; empty where it is not known.
            attempt: The attempt that was answered: a refusal says nothing of those before.
        """
        try:
            return self._outcomes(reply, function) if self.many else self._result(reply, function)
        except AmqpRpcError as error:
            if attempt > 1 and not error.may_have_run:
                error.may_have_run = True
                error.add_note("An earlier attempt was sent, and lost: it may have run.")
            raise

    def _outcomes(self, reply: Reply, function: str) -> list[Any]:
        try:
            kind, value, lenient = self._decoded(reply, function)
        except AmqpRpcError as error:
            # It answers every call of the message: the first one raises it.
            return [error]
        match value:
            case [*outcomes] if kind == RESULTS and all(isinstance(o, list) and len(o) == _OUTCOME for o in outcomes):
                return [self._outcome(function, *each) for each in outcomes]
        return [self._checked(kind, value, lenient, function)]

    def _outcome(self, function: str, ran: Any, value: Any) -> Any:
        """Return the result of one call of a chunk, or its error: the others are good."""
        try:
            return self._annotated(value, function) if ran else rebuild(value)
        except AmqpRpcError as error:
            return error

    def _result(self, reply: Reply, function: str) -> Any:
        return self._checked(*self._decoded(reply, function), function)

    def _decoded(self, reply: Reply, function: str) -> tuple[str, Any, bool]:
        """Return a reply's type and value, and whether it is text: ``"30"`` is 30 for an ``int`` then."""
        # Servers written as RabbitMQ's tutorials teach give their replies no type.
        body, kind = reply.body, reply.properties.type or RESULT
        # An error says what happened, and who has it wants to know its type: it is read even if it is too large.
        large = len(body) > self.limit
        if large and (kind != ERROR or len(body) > DEFAULT_MAX_MESSAGE_SIZE):
            self._fail(function, MessageTooLarge, self._over(body))
        lost = (reply.properties.headers or {}).get(UNREADABLE)
        if lost is not None and None in (reply.properties.type, reply.properties.content_type):
            self._fail(function, Undecodable, f"its properties can't be read: {lost}")
        try:
            content_type = codec.base_type(reply.properties.content_type)
            raw = kind != ERROR and not codec.packed(content_type) and self._are_bytes(content_type, reply)
            value = codec.decode(body, content_type, limit=max(self.limit, len(body)), raw=raw)
            error = rebuild(abridged(value, self._over(body)) if large else value) if kind == ERROR else None
        # The reply may be any program's: its content type may even be no text.
        except Exception as unread:
            self._fail(function, Undecodable, f"{unread}", unread)
        if error is not None:
            try:
                raise error
            finally:
                # Else its traceback and this frame keep each other alive, and the arguments of all frames above.
                del error
        return kind, value, not codec.packed(content_type)

    def _are_bytes(self, content_type: str, reply: Reply) -> bool:
        """Return whether a reply is bytes as they are: a server of ours says octets of bytes alone, others of text."""
        if content_type == codec.OCTETS and reply.properties.app_id == APPLICATION:
            return True
        return self.known is not None and self.known.signature.compile().returns_bytes

    def _over(self, body: bytes) -> str:
        return f"it has {len(body)} bytes, and this client's limit is {self.limit}: Client(max_message_size=)"

    def _checked(self, kind: str, value: Any, lenient: bool, function: str) -> Any:
        if kind != RESULT:
            self._fail(function, Undecodable, f"a reply of type {kind!r} is not known here. Is the server newer?")
        return self._annotated(value, function, strict=not lenient)

    def _annotated(self, value: Any, function: str, *, strict: bool = True) -> Any:
        """Return a result as the type that the function's annotation names, where the function is known here."""
        if self.known is None:
            return value
        try:
            return self.known.signature.compile().convert_result(value, strict=strict)
        except msgspec.ValidationError as error:
            name = function or self.known.name
            said = f"{name}() returned something else than its annotation: {error}. It has run"
            raise _after(Undecodable(said)) from error
        # A type's own code may raise anything.
        except Exception as error:
            why = f"the result does not become what its annotation names: {error!r}"
            self._fail(function, Undecodable, why, error)

    @staticmethod
    def _fail(function: str, kind: type[CodecError], why: str, cause: Exception | None = None) -> NoReturn:
        subject = f"{function}()" if function else "the task"
        raise _after(
            kind(f"{subject} was answered, so it may have run; this client can't read the reply: {why}")
        ) from cause


def _after(error: CodecError) -> CodecError:
    """Return an error that is raised after an answer came."""
    error.may_have_run = True
    return error


@lru_cache(maxsize=1000)
def _is_ours(hint: Any) -> bool:
    """Return whether a value of that type is made without a line of a user's code."""
    parts = typing.get_args(hint)
    if typing.get_origin(hint) is typing.Literal:
        return True
    if hint is Any or hint is None or hint is ... or isinstance(hint, types.UnionType):
        return all(map(_is_ours, parts))
    return getattr(hint, "__module__", "") in _OURS and all(map(_is_ours, parts))


class Thread:
    """A thread of this process that calls functions for other threads, one after another; its first call starts it."""

    def __init__(self, name: str) -> None:
        self._name = name
        #: Held while it is started.
        self._starting = threading.Lock()
        #: Its process: a forked one has no threads.
        self._process = 0
        self._calls: queue.SimpleQueue[tuple[Callable[[Any], object], Any]] = queue.SimpleQueue()

    def call(self, function: Callable[[Any], object], argument: Any) -> None:
        """Call a function with its argument on this thread, soon."""
        with self._starting:
            if self._process != os.getpid():
                self._calls = queue.SimpleQueue()
                threading.Thread(target=self._run, args=(self._calls,), name=self._name, daemon=True).start()
                self._process = os.getpid()
        self._calls.put((function, argument))

    @staticmethod
    def _run(calls: queue.SimpleQueue[tuple[Callable[[Any], object], Any]]) -> None:
        while True:
            function, argument = calls.get()
            try:
                function(argument)
            except Exception:
                logger.exception("callback of a future raised: %r", function)
            # Otherwise they live until the next call.
            del function, argument


_large = Thread("amqp_rpc large replies")


def read_elsewhere(read: Callable[[], Any]) -> Future[Any]:
    """Have a large reply read on the thread for those, one after another; cancel the future to wait no more for it."""
    reading: Future[Any] = Future()
    _large.call(partial(_read, reading), read)
    return reading


def _read(reading: Future[Any], read: Callable[[], Any]) -> None:
    if not reading.set_running_or_notify_cancel():
        return
    try:
        result = read()
    # A user's type may raise anything.
    except BaseException as error:
        # Without this frame: else the traceback and the call keep each other alive.
        reading.set_exception(error.with_traceback(None))
    else:
        reading.set_result(result)
