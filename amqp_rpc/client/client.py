"""A client: calls functions that servers run, one connection for any number of threads and calls."""

from __future__ import annotations

import itertools
import os
import socket
import threading
import time
import weakref
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from types import TracebackType
from typing import Any, Self, TypeVar, overload

from amqp_rpc.client import reply
from amqp_rpc.client.caller import Caller
from amqp_rpc.client.calls import PendingCall, Reply
from amqp_rpc.client.capacity import Capacity
from amqp_rpc.client.forms import Default, Forms
from amqp_rpc.client.operating import Operating
from amqp_rpc.client.producer import Producer
from amqp_rpc.client.publisher import Publisher
from amqp_rpc.client.queueing import Queueing
from amqp_rpc.errors import AmqpRpcError, ConfigurationError, NotSent
from amqp_rpc.message import codec
from amqp_rpc.message.settings import (
    DEFAULT_HEARTBEAT,
    DEFAULT_MAX_MESSAGE_SIZE,
    DEFAULT_MAX_PENDING,
    DEFAULT_MAX_PENDING_BYTES,
    DEFAULT_TIMEOUT,
    broker_addresses,
    count,
    positive,
    results_url,
)
from amqp_rpc.message.timing import Deadline
from amqp_rpc.message.topology import split_call
from amqp_rpc.results import open_store
from amqp_rpc.service.context import time_left
from amqp_rpc.service.function import Function, registered

R = TypeVar("R")

#: Calls of one `Client.map` that are under way at the same time.
DEFAULT_MAP_IN_FLIGHT = 100
#: Seconds that `Client.close` gives the broker to say good-bye.
_CLOSE_TIMEOUT = 5.0


class Client(Forms, Producer, Publisher, Queueing, Operating):
    """Calls functions that servers run; the connection is opened at the first call.

    It is thread-safe, and one client is enough for a process: a call costs no thread and no connection of its own.

    Args:
        url: The broker's, ``amqp://user:password@host:port/vhost``; several for the nodes of a cluster, as a list or
            with commas between them, of which any will do. None reads ``AMQP_URL``, else takes the local default.
        timeout: Seconds that a call may take unless it says otherwise (30.0).
        heartbeat: Seconds between heartbeats (10.0); a broker that is silent for longer is taken for gone.
        max_message_size: Bytes of a request's or a result's body (16 MiB).
        max_pending: How many calls may be under way (10 000). `submit` waits while there are as many, until the new
            call's deadline, and raises `Overloaded` then.
        max_pending_bytes: How many bytes their bodies may have together (256 MiB).
        results: Where workers keep what becomes of tasks, their ``results=``: ``sqlite:///file.db``, or
            ``redis://host:6379/0``. None reads ``AMQP_RPC_RESULTS``; without a store a task's result comes only to
            the client that enqueued it, while its connection lasts.

    Raises:
        ConfigurationError: The URL or a setting is wrong.

    Example:
        >>> with Client() as client:  # doctest: +SKIP
        ...     client.call("fib", 30)
        832040
    """

    def __init__(
        self,
        url: str | Sequence[str] | None = None,
        *,
        timeout: float = DEFAULT_TIMEOUT,
        heartbeat: float = DEFAULT_HEARTBEAT,
        max_message_size: int = DEFAULT_MAX_MESSAGE_SIZE,
        max_pending: int = DEFAULT_MAX_PENDING,
        max_pending_bytes: int = DEFAULT_MAX_PENDING_BYTES,
        results: str | None = None,
    ) -> None:
        Deadline.after(timeout)
        positive("heartbeat", heartbeat, most=60_000)
        count("max_message_size", max_message_size)
        count("max_pending", max_pending)
        count("max_pending_bytes", max_pending_bytes)
        self._timeout = timeout
        self._limit = max_message_size
        self._addresses = broker_addresses(url)
        self._store = open_store(results_url(results))
        name = f"amqp-rpc client {socket.gethostname()}:{os.getpid()}"
        capacity = Capacity(calls=max_pending, size=max_pending_bytes)
        self._caller = Caller(self._addresses, name=name, heartbeat=heartbeat, capacity=capacity)
        self._making_queues = threading.RLock()
        # A client that nobody holds any more takes its connection and its thread with it.
        weakref.finalize(self, self._caller.abandon).atexit = False

    def _start(
        self,
        function: Any,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        *,
        timeout: float | Default,
        idempotent: bool | None,
        wait_for_server: bool,
        awaited: bool = False,
    ) -> Future[Any]:
        seconds = self._seconds(timeout)
        target, known = _target(function)
        return self._submit(
            target,
            codec.encode([args, kwargs], codec.MSGPACK, limit=self._limit),
            timeout=seconds,
            idempotent=known.idempotent if known is not None and idempotent is None else bool(idempotent),
            wait_for_server=wait_for_server,
            chunk=False,
            awaited=awaited,
            read=lambda came: reply.read(came, known, limit=self._limit),
        )

    @overload
    def map(
        self,
        function: Callable[..., Awaitable[R]],
        /,
        *iterables: Iterable[Any],
        timeout: float | Default = ...,
        wait_for_server: bool = False,
        chunksize: int = 1,
        in_flight: int = ...,
    ) -> Iterator[R]: ...
    @overload
    def map(
        self,
        function: Callable[..., R],
        /,
        *iterables: Iterable[Any],
        timeout: float | Default = ...,
        wait_for_server: bool = False,
        chunksize: int = 1,
        in_flight: int = ...,
    ) -> Iterator[R]: ...
    @overload
    def map(
        self,
        function: str,
        /,
        *iterables: Iterable[Any],
        timeout: float | Default = ...,
        wait_for_server: bool = False,
        chunksize: int = 1,
        in_flight: int = ...,
    ) -> Iterator[Any]: ...
    def map(
        self,
        function: Any,
        /,
        *iterables: Iterable[Any],
        timeout: float | Default = Default.TIMEOUT,
        wait_for_server: bool = False,
        chunksize: int = 1,
        in_flight: int = DEFAULT_MAP_IN_FLIGHT,
    ) -> Iterator[Any]:
        """Call a function for every item, many at a time; yield the results in the items' order.

        It is lazy: an item is taken when there is room for its call, so the iterables may be endless. A call that
        fails raises where its result would have come; the calls behind it are given up.

        Args:
            function: As for `call`.
            iterables: One for each positional argument; it ends with the shortest.
            timeout: Seconds for each message. The client's unless given.
            wait_for_server: As for `call`.
            chunksize: How many calls travel in one message (1). More makes tiny functions several times as fast; the
                calls of a chunk run one after another on one server, and fail one by one.
            in_flight: How many calls are under way at the same time (100), or one chunk where that is more.

        Example:
            >>> list(client.map("fib", range(5)))  # doctest: +SKIP
            [0, 1, 1, 2, 3]
        """
        count("in_flight", in_flight)
        count("chunksize", chunksize)
        arguments = zip(*iterables, strict=False)
        send = self.chunks(
            function, arguments, chunksize, timeout=timeout, wait_for_server=wait_for_server, awaited=True
        )
        messages = max(1, in_flight // chunksize)

        def outcomes() -> Iterator[Any]:
            waiting: deque[Future[list[Any]]] = deque()
            try:
                while True:
                    # Many in one go, at the latest before it waits: for what is sent together the owner is woken once.
                    if len(waiting) <= messages // 2 or not waiting[0].done():
                        waiting.extend(itertools.islice(send, messages - len(waiting)))
                    if not waiting:
                        return
                    for outcome in waiting.popleft().result():
                        if isinstance(outcome, AmqpRpcError):
                            raise outcome
                        yield outcome
            finally:
                for future in waiting:
                    future.cancel()

        return outcomes()

    def chunks(
        self,
        function: Any,
        arguments: Iterable[tuple[Any, ...]],
        size: int,
        *,
        timeout: float | Default,
        wait_for_server: bool,
        awaited: bool,
    ) -> Iterator[Future[list[Any]]]:
        """Send calls, each time the iterator is asked for the next message; for `map` of this client and the async one.

        Args:
            function: As for `call`.
            arguments: The positional ones of each call.
            size: How many calls travel in one message.
            timeout: As for `map`.
            wait_for_server: As for `call`.
            awaited: Whether the thread that asks waits for the results.

        Yields:
            A future of a message's results, in their order; a call that failed has its error there.
        """
        target, known = _target(function)
        rest = iter(arguments)
        while each := list(itertools.islice(rest, size)):
            calls = [[args, {}] for args in each]
            yield self._submit(
                target,
                codec.encode(calls if size > 1 else calls[0], codec.MSGPACK, limit=self._limit),
                timeout=self._seconds(timeout),
                idempotent=known is not None and known.idempotent,
                wait_for_server=wait_for_server,
                chunk=size > 1,
                awaited=awaited,
                read=lambda came: reply.read_many(came, known, limit=self._limit),
            )

    def close(self) -> None:
        """Close the connection; calls that are under way end with `MaybeExecuted` or `NotSent`.

        Its queues (`queue`) are closed before: what was taken and not done goes back to them.
        """
        self._close_queues()
        self._caller.close(_CLOSE_TIMEOUT)
        if self._store is not None:
            self._store.close()

    @property
    def full(self) -> bool:
        """Whether as many calls are under way as may be: then `submit` waits."""
        return not self._caller.capacity.fits(1)

    @property
    def counters(self) -> Counter[str]:
        """What happened so far: ``late_replies``, ``timeouts``; ``unrouted``: events that no queue was bound for."""
        return self._caller.counters.copy()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Client({str(self._addresses)!r})"

    def _seconds(self, timeout: float | Default) -> float:
        """Return the seconds that a call gets: no more than are left to the call that is being handled here."""
        if timeout is Default.TIMEOUT:
            seconds = self._timeout
        else:
            Deadline.after(timeout)
            seconds = timeout
        left = time_left()
        if left is not None and left < seconds:
            if left <= 0:
                raise NotSent("it was not sent: the call that is being handled here has no time left")
            return left
        return seconds

    def _submit(
        self,
        target: tuple[str, str],
        body: bytes,
        *,
        timeout: float,
        idempotent: bool,
        wait_for_server: bool,
        chunk: bool,
        awaited: bool,
        read: Callable[[Reply], Any],
    ) -> PendingCall:
        queue, name = target
        call = PendingCall(
            self._caller,
            self._caller.identity(),
            queue,
            name,
            codec.MSGPACK,
            body,
            timeout=timeout,
            expires_at=time.monotonic() + timeout,
            idempotent=idempotent,
            wait_for_server=wait_for_server,
            chunk=chunk,
            awaited=awaited,
            read=read,
        )
        self._caller.submit(call)
        return call


def _target(function: Any) -> tuple[tuple[str, str], Function | None]:
    """Return the queue and the name of what is called, and its registration where the object was given."""
    if isinstance(function, str):
        return split_call(function), None
    if callable(function):
        known = registered(function)
        return (known.queue, known.name), known
    raise ConfigurationError(f"call takes a function's name or a registered function, not {function!r}")
