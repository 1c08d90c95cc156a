"""A call under way: a future that ends by its deadline, and reads its reply when it is asked to."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from concurrent.futures import CancelledError, Future
from dataclasses import dataclass
from typing import Any, Protocol

from amqp_rpc.client import callbacks
from amqp_rpc.errors import AmqpRpcError
from amqp_rpc.message.envelope import Properties
from amqp_rpc.message.timing import Deadline

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


@dataclass(slots=True)
class Reply:
    """A reply as it came."""

    properties: Properties
    body: bytes


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
        read: Callable[[Reply], Any],
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
        self._read = read
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
            super().add_done_callback(lambda future: callbacks.run(fn, future))

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
                self._outcome = (self._read(reply), None)
            except AmqpRpcError as error:
                self._outcome = (None, error)
        return self._outcome
