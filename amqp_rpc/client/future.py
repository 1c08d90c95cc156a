"""Calls as futures of `concurrent.futures`, and the thread that runs their callbacks.

It is a seam: threads wait for these futures, event loops for those of `bridge`, and `call` knows of neither.
"""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import CancelledError, Future
from typing import TYPE_CHECKING, Any

from amqp_rpc.client.call import GRACE, Call
from amqp_rpc.client.reply import Reply
from amqp_rpc.errors import AmqpRpcError
from amqp_rpc.message.text import bounded_logger
from amqp_rpc.message.timing import Deadline

if TYPE_CHECKING:
    from amqp_rpc.client.rpc import Caller

logger = bounded_logger(__name__)

#: Seconds for the thread that has taken a call out of the table to end it; it takes microseconds.
_VERDICT = 10.0


class PendingCall(Call, Future[Any]):
    """A call in flight as a `concurrent.futures.Future`, whose reply is decoded when its result is asked for."""

    _caller: Caller
    #: The outcome, once it is decoded.
    _outcome: tuple[Any, BaseException | None] | None = None

    done = Future.done

    def submit(self, caller: Caller, *, awaited: bool) -> None:
        """Send it; block while it has no room."""
        self._caller = caller
        caller.submit(self, awaited=awaited)

    def answer(self, reply: Reply) -> None:
        """End it with its reply."""
        self.set_result(reply)

    def fail(self, error: AmqpRpcError) -> None:
        """End it with an error."""
        self.set_exception(error)

    def result(self, timeout: float | None = None) -> Any:
        """Return the function's result, or raise the error that the call ended with.

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
        """Return the error that the call ended with, None for a result; waits as `result` does."""
        self._wait(timeout)
        failure = super().exception(0)
        return failure if failure is not None else self._opened(super().result(0))[1]

    def cancel(self) -> bool:
        """Give the call up. It may run all the same; its reply is dropped."""
        if not self._caller.give_up(self):
            return self.cancelled()
        cancelled = super().cancel()
        # Only this wakes concurrent.futures.wait() and as_completed().
        self.set_running_or_notify_cancel()
        self._caller.ended()
        return cancelled

    def add_done_callback(self, fn: Callable[[Future[Any]], object]) -> None:
        """Call back when the call has ended; on a thread for callbacks, never on the I/O thread."""
        # asyncio.wrap_future's callback only notifies its loop.
        if self.done() or getattr(fn, "__module__", "") == "asyncio.futures":
            super().add_done_callback(fn)
        else:
            super().add_done_callback(lambda future: _call_back_queue().put((fn, future)))

    def _wait(self, timeout: float | None) -> None:
        if self.done():
            return
        now = time.monotonic()
        ends = self.expires_at + GRACE
        if timeout is not None and now + timeout < ends:
            self._caller.wait(self, now + timeout)
            return
        self._caller.wait(self, ends)
        if not self.done():
            # The I/O thread is late, or stuck in a name look-up: the promise is that a call ends by its deadline.
            self._caller.expire(self)
            # Another thread may have taken it, and is about to end it.
            self.wait(time.monotonic() + _VERDICT)

    def wait(self, until: float) -> None:
        """Wait for the end, at most until that time on the monotonic clock, while another thread reads the reply."""
        with contextlib.suppress(TimeoutError, CancelledError):
            super().exception(Deadline(until).remaining())

    def _opened(self, reply: Reply) -> tuple[Any, BaseException | None]:
        if self._outcome is None:
            try:
                self._outcome = (self.decoder.read(reply), None)
            except AmqpRpcError as error:
                self._outcome = (None, error)
        return self._outcome


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
