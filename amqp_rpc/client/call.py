"""Calls in flight, whether a thread or an event loop waits for them, and the bound on how many there are."""

from __future__ import annotations

import enum
import threading
import time
from abc import ABC, abstractmethod
from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from typing import Any, NamedTuple

from amqp_rpc.amqp.pending import Outcome
from amqp_rpc.client.reply import Decoder, Reply
from amqp_rpc.errors import (
    AmqpRpcError,
    CallTimeout,
    ConfigurationError,
    MaybeExecuted,
    NoServer,
    NotSent,
    Overloaded,
    Unencodable,
)
from amqp_rpc.message import codec
from amqp_rpc.message.codec import MSGPACK
from amqp_rpc.message.headers import check_headers
from amqp_rpc.message.settings import Addresses
from amqp_rpc.message.text import brief, plural
from amqp_rpc.message.timing import Seconds
from amqp_rpc.message.topology import check_name, split_call
from amqp_rpc.service.function import Function, registered

_START = "`amqp-rpc serve` starts one, and wait_for_server=True waits for it"
#: Seconds after its deadline that the I/O thread has to end a call, before the waiting thread does so itself.
GRACE = 0.05


def encode_argument(
    function: str, args: Sequence[Any], kwargs: Mapping[str, Any], content_type: str, *, limit: int
) -> bytes:
    """Return the body of a call, or a task, that goes as text or bytes: its one argument.

    Raises:
        Unencodable: There are no arguments, or several, or the one is of another type.
        MessageTooLarge: As `codec.encode`.
    """
    match args:
        case [bytes() | bytearray() | memoryview() | str() as value] if not kwargs:
            return codec.encode(value, content_type, limit=limit)
        case [int() | float() | Decimal() as value] if not kwargs and not isinstance(value, bool):
            return codec.encode(str(value), content_type, limit=limit)
    given = ", ".join([*(brief(each) for each in args), *(f"{name}={brief(each)}" for name, each in kwargs.items())])
    raise Unencodable(
        f"cannot send {function}({given}) as {content_type}: that takes one positional argument, which is text, bytes "
        f"or a number; give content_type={codec.JSON!r} for others, where the receiver reads it"
    )


class Call(ABC):
    """A call in flight: its request, and what is known of it.

    The thread that takes it out of the table of pending calls is the one that ends it, with `answer` or `fail`.
    """

    def __init__(
        self,
        identity: str,
        queue: str,
        function: str,
        body: bytes,
        timeout: float,
        decoder: Decoder,
        how: CallOptions,
        chunk: bool = False,  # noqa: FBT002 - by position, as all of these: named arguments of a class take longer
    ) -> None:
        super().__init__()
        self.identity = identity
        self.queue = queue
        self.function = function
        self.body = body
        self.timeout = timeout
        self.expires_at: float = time.monotonic() + timeout
        self.idempotent: bool = decoder.idempotent if how.idempotent is None else bool(how.idempotent)
        self.wait_for_server: bool = how.wait_for_server
        self.chunk = chunk
        self.decoder = decoder
        self.content_type: str = how.content_type
        self.headers: dict[str, Any] | None = how.headers
        #: The request was given to the connection: from then on it may run.
        self.written = False
        self.attempt = 1
        #: For `liveness`: the looks since a server reported it, and whether one ever did.
        self.silent = 0
        self.reported = False

    def lost(self, cause: str) -> MaybeExecuted:
        """Return the error for the loss of its reply."""
        said = f"{self.function}() was sent, and then: {cause}. It may have run"
        return MaybeExecuted(said if self.idempotent else f"{said}; if it may run twice, use idempotent=True")

    def unsent(self, cause: str) -> NotSent:
        """Return the error for a call that did not leave this process."""
        return NotSent(f"{self.function}() was not sent: {cause}")

    def unwritable(self, error: Exception) -> AmqpRpcError:
        """Return the error for a call that AMQP can't carry."""
        if isinstance(error, AmqpRpcError):
            return error
        return ConfigurationError(f"{self.function}() was not sent: it has something that AMQP can't carry: {error!r}")

    def overloaded(self, in_flight: int) -> Overloaded:
        """Return the error for a call that got no room among those in flight."""
        return Overloaded(
            f"{self.function}() was not sent: {plural(in_flight, 'call is', 'calls are')} in flight, and none ended "
            f"within {self.timeout:g} s (max_pending, max_pending_bytes)"
        )

    def crowded_out(self) -> Overloaded:
        """Return the error for a call that found its queue full."""
        return Overloaded(
            f"{self.function}() was not sent: queue {self.queue!r} is full, as its service bounds it (max_length). It "
            "did not run. Call it again later, or start more servers"
        )

    def too_late(self, *, blocked: str | None, unconnected: str | None) -> AmqpRpcError:
        """Return the error of one whose time is over, and why the broker takes no messages, or is not connected."""
        within = f"within {self.timeout:g} s"
        if self.written:
            why = "Is its server overloaded? timeout= gives it longer"
            if blocked is not None:
                why = f"The broker takes no messages at the moment ({blocked})"
            return CallTimeout(f"no answer from {self.function}() {within}; it may have run, or may run still. {why}")
        if self.attempt > 1:
            return CallTimeout(
                f"no answer from {self.function}() {within}: it was sent and lost, and could not be sent again in "
                "time. It may have run"
            )
        if unconnected is not None:
            cause = unconnected
        elif blocked is not None:
            cause = f"the broker takes no messages ({blocked})"
        elif self.wait_for_server:
            return NoServer(f"{self.function}() was not sent: no server {within}")
        else:
            cause = "the broker did not report in time whether it has a server"
        return NotSent(f"{self.function}() was not sent {within}: {cause}")

    def unread(self, counters: Counter[str]) -> CallTimeout:
        """Count a call whose reply was not decoded by its deadline, and return its error."""
        counters["timeouts"] += 1
        return CallTimeout(
            f"no result from {self.function}() within {self.timeout:g} s: its reply came, and is so large that it was "
            "not decoded in time. It may have run. timeout= gives it longer"
        )

    def read(self, reply: Reply) -> Any:
        """Return the result in its reply, or raise the error."""
        return self.decoder.read(reply, self.function, self.attempt)

    @abstractmethod
    def done(self) -> bool:
        """Return whether it has ended."""

    @abstractmethod
    def answer(self, reply: Reply) -> None:
        """End it with its reply; any thread that has taken it."""

    @abstractmethod
    def fail(self, error: AmqpRpcError) -> None:
        """End it with an error; any thread that has taken it."""


class Place:
    """A call's place in a queue that may be full: a `Receipt`, by which the broker says whether there was room."""

    __slots__ = ("_call", "_crowded_out")

    def __init__(self, call: Call, crowded_out: Callable[[Call], object]) -> None:
        self._call, self._crowded_out = call, crowded_out

    def arrive(self, taken: bool, /) -> None:
        """Call back if it has none."""
        if not taken:
            self._crowded_out(self._call)


def no_consumers(queue: str) -> str:
    """Return why a call to a queue without consumers is not sent."""
    return f"queue {queue!r} has no consumers: is its server running? {_START}"


def no_queue(queue: str, addresses: Addresses) -> str:
    """Return why a call to a queue that does not exist is not sent."""
    return f"there is no queue {queue!r} on {addresses}: no server for it was started there. {_START}"


class Default(enum.Enum):
    """Stands for "not given", which None is not."""

    TIMEOUT = "the client's timeout"


class CallOptions(NamedTuple):
    """The options of one `Client.call`."""

    timeout: Seconds | Default = Default.TIMEOUT
    idempotent: bool | None = None
    wait_for_server: bool = False
    queue: str | None = None
    content_type: str = MSGPACK
    headers: dict[str, Any] | None = None

    @classmethod
    def pop(cls, kwargs: dict[str, Any]) -> CallOptions:
        """Take them out of the named arguments of a call.

        Raises:
            ConfigurationError: The content type or a header makes no sense.
        """
        given = {name: kwargs.pop(name) for name in CALL_OPTIONS & kwargs.keys()} if kwargs else None
        if not given:
            return _DEFAULT_OPTIONS
        content_type, headers = given.pop("content_type", None), given.pop("headers", None)
        codec.check_content_type(content_type)
        return cls(**given, content_type=content_type or MSGPACK, headers=check_headers(headers, "a call") or None)

    def encode(
        self, function: str, known: Function | None, args: tuple[Any, ...], kwargs: dict[str, Any], *, limit: int
    ) -> bytes:
        """Return the body of a call, whose arguments are checked where its function is known."""
        if not codec.packed(self.content_type):
            # The server converts the text.
            return encode_argument(function, args, kwargs, self.content_type, limit=limit)
        if known is not None:
            known.check(args, kwargs)
        return codec.encode([args, kwargs], self.content_type, limit=limit)


CALL_OPTIONS = frozenset(CallOptions._fields)
_DEFAULT_OPTIONS = CallOptions()


def target(function: Any, queue: str | None) -> tuple[tuple[str, str], Function | None]:
    """Return the queue and the name of a function, and its registration where the object was given.

    The queue is its service's, unless another one is named.
    """
    if isinstance(function, str):
        return split_call(function, queue), None
    if callable(function):
        known = registered(function)
        return (known.queue if queue is None else check_name(queue), known.name), known
    raise ConfigurationError(f"call takes a function's name or a registered function, not {function!r}")


class Room(Outcome[bool]):
    """A call's place in the line for room; it is set once the call has room."""

    __slots__ = ("size",)

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size: int = size


class Capacity:
    """Room for calls in flight, a bound on what a client holds in memory: first come, first served; thread-safe."""

    def __init__(self, *, calls: int, size: int) -> None:
        self._most_calls = calls
        self._most_size = size
        self._calls = 0
        self._size = 0
        self._closed = False
        #: Those without room yet, first come, first served.
        self._line: OrderedDict[Room, None] = OrderedDict()
        self._lock = threading.Lock()

    def take(self, size: int) -> Room | None:
        """Take room for a call: return None where it got room at once, else its place in the line."""
        with self._lock:
            if not self._line and self._fits(size):
                self._calls += 1
                self._size += size
                return None
            room = Room(size)
            self._line[room] = None
            return room

    def leave(self, room: Room) -> bool:
        """Leave the line; return False for a place that has got room."""
        with self._lock:
            if room not in self._line:
                return False
            del self._line[room]
            served = self._serve()
        _tell(served)
        return True

    def give(self, size: int) -> None:
        """Give a call's room back, to those in the line."""
        with self._lock:
            self._calls -= 1
            self._size -= size
            if not self._line:
                return
            served = self._serve()
        _tell(served)

    def fits(self, size: int) -> bool:
        """Return whether there is room at this moment."""
        with self._lock:
            return not self._line and self._fits(size)

    def close(self) -> None:
        """Let the whole line in, and all that come: the client's end ends them."""
        with self._lock:
            self._closed = True
            served = self._serve()
        _tell(served)

    def _fits(self, size: int) -> bool:
        if self._closed or self._calls == 0:
            return True
        return self._calls < self._most_calls and self._size + size <= self._most_size

    def _serve(self) -> list[Room]:
        """Take room for the first ones in the line, as far as there is; tell them without the lock."""
        served = []
        while self._line and self._fits(next(iter(self._line)).size):
            room, _ = self._line.popitem(last=False)
            self._calls += 1
            self._size += room.size
            served.append(room)
        return served


def _tell(served: list[Room]) -> None:
    for room in served:
        room.tell(True)
