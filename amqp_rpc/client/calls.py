"""Calls in flight: futures that end by their deadlines, the bound on how many, and the thread for their callbacks."""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import CancelledError, Future
from typing import Any, Protocol

from amqp_rpc.client.reply import Decoder, Reply
from amqp_rpc.errors import AmqpRpcError
from amqp_rpc.message.timing import Deadline

logger = logging.getLogger(__name__)

#: Seconds after its deadline that a waiting thread gives the owner to end a call, before it does so itself.
_GRACE = 0.05
#: Seconds for who has taken a call out of the table to end it; it takes microseconds.
_VERDICT = 10.0


class Ends(Protocol):
    """Who ends calls: the client's half on the connection's owner."""

    def give_up(self, call: PendingCall) -> bool:
        """Take a call out of the table; return whether it was there."""

    def expire(self, call: PendingCall) -> None:
        """End a call whose time is over."""

    def ended(self) -> None:
        """Take note that a call was ended by a thread that is not at the connection's work."""

    def wait(self, call: PendingCall, until: float) -> None:
        """Wait for a call's end, until that time on the monotonic clock."""


class PendingCall(Future[Any]):
    """A call under way: a `concurrent.futures.Future` whose result is decoded when it is asked for."""

    def __init__(
        self,
        caller: Ends,
        identity: str,
        queue: str,
        function: str,
        content_type: str,
        body: bytes,
        *,
        timeout: float,
        expires_at: float,
        idempotent: bool,
        wait_for_server: bool,
        chunk: bool,
        awaited: bool,
        decoder: Decoder,
    ) -> None:
        super().__init__()
        self.identity = identity
        self.queue = queue
        self.function = function
        self.content_type = content_type
        self.body = body
        self.timeout = timeout
        self.expires_at = expires_at
        self.idempotent = idempotent
        self.wait_for_server = wait_for_server
        self.chunk = chunk
        #: Whether the thread that sends it waits for it next.
        self.awaited = awaited
        #: Whether the request was given to the connection: from then on it may run.
        self.written = False
        self.attempt = 1
        #: What `silence` knows of it: the looks since the last word of it, and whether a server was heard to have it.
        self.silent = 0
        self.in_hand = False
        self._caller = caller
        self._decoder = decoder
        self._outcome: tuple[Any, BaseException | None] | None = None

    def result(self, timeout: float | None = None) -> Any:
        """Return the function's result, or raise what became of the call.

        Args:
            timeout: Seconds to wait; None waits until the call's own deadline, never longer.

        Raises:
            TimeoutError: It took longer than ``timeout``; the call goes on.
            CallError: See `amqp_rpc.errors`.
        """
        self._wait(timeout)
        value, error = self._opened(super().result(0))
        if error is not None:
            try:
                raise error
            finally:
                # Else the exception's traceback, this frame and the call keep each other alive.
                del error, self
        return value

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Return what the call ended with, None for a result; waits as `result` does."""
        self._wait(timeout)
        failure = super().exception(0)
        return failure if failure is not None else self._opened(super().result(0))[1]

    def cancel(self) -> bool:
        """Give the call up. It may run all the same; its reply is dropped."""
        if not self._caller.give_up(self):
            return self.cancelled()
        cancelled = super().cancel()
        # Only this tells those who wait with concurrent.futures.wait() and as_completed().
        self.set_running_or_notify_cancel()
        self._caller.ended()
        return cancelled

    def add_done_callback(self, fn: Callable[[Future[Any]], object]) -> None:
        """Call back when the call has ended; on a thread for callbacks, never on the connection's."""
        # asyncio's own callback only hands over to its loop: a detour would cost each awaited call a thread switch.
        if self.done() or getattr(fn, "__module__", "") == "asyncio.futures":
            super().add_done_callback(fn)
        else:
            super().add_done_callback(lambda future: _call_back_queue().put((fn, future)))

    def _wait(self, timeout: float | None) -> None:
        if self.done():
            return
        now = time.monotonic()
        ends = self.expires_at + _GRACE
        if timeout is not None and now + timeout < ends:
            self._caller.wait(self, now + timeout)
            return
        self._caller.wait(self, ends)
        if not self.done():
            # The owner is late, or stuck in a name look-up: the promise is that a call ends by its deadline.
            self._caller.expire(self)
            # Where it was taken already, whoever took it is about to say what became of it.
            self.wait(time.monotonic() + _VERDICT)

    def wait(self, until: float) -> None:
        """Wait for the end, at most until that time on the monotonic clock, while another thread reads the reply."""
        with contextlib.suppress(TimeoutError, CancelledError):
            super().exception(Deadline(until).remaining())

    def _opened(self, reply: Reply) -> tuple[Any, BaseException | None]:
        if self._outcome is None:
            try:
                self._outcome = (self._decoder.read(reply), None)
            except AmqpRpcError as error:
                self._outcome = (None, error)
        return self._outcome


class Capacity:
    """A bound on what a client holds in memory; thread-safe.

    Args:
        calls: How many calls.
        size: How many bytes of bodies. A single call is let in however large it is.
    """

    def __init__(self, *, calls: int, size: int) -> None:
        self._most_calls = calls
        self._most_size = size
        self._calls = 0
        self._size = 0
        self._closed = False
        self._waiting = 0
        #: The condition's own lock, without its detour.
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)

    def take(self, size: int, until: float) -> bool:
        """Take room for a call; wait for it until that time on the monotonic clock.

        Returns:
            Whether there was room in time. Once it is closed there always is: what ends calls then is the client.
        """
        with self._lock:
            if not self._fits(size):
                self._waiting += 1
                self._changed.wait_for(lambda: self._fits(size), Deadline(until).remaining())
                self._waiting -= 1
                if not self._fits(size):
                    return False
            self._calls += 1
            self._size += size
            return True

    def give(self, size: int) -> None:
        """Give a call's room back."""
        with self._lock:
            self._calls -= 1
            self._size -= size
            if self._waiting:
                self._changed.notify_all()

    def fits(self, size: int) -> bool:
        """Return whether there is room at this moment."""
        with self._changed:
            return self._fits(size)

    def close(self) -> None:
        """Let everybody in who waits."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _fits(self, size: int) -> bool:
        if self._closed or self._calls == 0:
            return True
        return self._calls < self._most_calls and self._size + size <= self._most_size


#: Held while the thread for callbacks is started.
_starting = threading.Lock()
_callbacks: queue.SimpleQueue[tuple[Callable[[Any], object], Future[Any]]] | None = None


def _call_back_queue() -> queue.SimpleQueue[tuple[Callable[[Any], object], Future[Any]]]:
    """Return the queue of the thread that runs callbacks; start the thread the first time."""
    global _callbacks  # noqa: PLW0603 - one thread for the process, as concurrent.futures has one for its queue
    with _starting:
        if _callbacks is None:
            _callbacks = queue.SimpleQueue()
            threading.Thread(target=_run_callbacks, args=(_callbacks,), name="amqp_rpc callbacks", daemon=True).start()
    return _callbacks


def _run_callbacks(callbacks: queue.SimpleQueue[tuple[Callable[[Any], object], Future[Any]]]) -> None:
    while True:
        callback, future = callbacks.get()
        try:
            callback(future)
        except Exception:
            logger.exception("callback of a future raised: %r", callback)
        del callback, future
