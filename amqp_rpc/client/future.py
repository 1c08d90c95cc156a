"""Calls that threads wait for: futures of `concurrent.futures`, and calls of one thread that waits for each itself.

It is a seam: threads wait for these, event loops for those of `bridge`, and `call` knows of neither.
"""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import CancelledError, Future
from typing import TYPE_CHECKING, Any

from amqp_rpc.amqp.pending import Outcome
from amqp_rpc.client.call import GRACE, Call
from amqp_rpc.client.reply import Reply
from amqp_rpc.errors import AmqpRpcError
from amqp_rpc.message.text import bounded_logger
from amqp_rpc.message.timing import Deadline

if TYPE_CHECKING:
    from amqp_rpc.client.rpc import Caller

logger: logging.Logger = bounded_logger(__name__)

#: Seconds for the thread that has taken a call out of the table to end it; it takes microseconds.
_VERDICT = 10.0


class BlockingCall(Call, Outcome[Reply | AmqpRpcError]):
    """A call in flight that one thread of ours waits for, which decodes its reply: no user ever sees it."""

    _caller: Caller

    done = Outcome.done

    def submit(self, caller: Caller, *, awaited: bool) -> None:
        """Send it; block while it has no room."""
        self._caller = caller
        caller.submit(self, awaited=awaited)

    def answer(self, reply: Reply) -> None:
        """End it with its reply."""
        self.tell(reply)

    def fail(self, error: AmqpRpcError) -> None:
        """End it with an error."""
        self.tell(error)

    def result(self) -> Any:
        """Return the function's result, or raise the error that the call ended with; wait until its deadline."""
        if not self.done():
            self._caller.wait(self, self.expires_at + GRACE)
        if not self.done():
            # The I/O thread is late, or stuck in a name look-up: the promise is that a call ends by its deadline.
            self._caller.expire(self)
            # Another thread may have taken it, and is about to end it.
            self.wait(time.monotonic() + _VERDICT)
        outcome = self.value if self.done() else self.lost("its reply came too late to be read")
        if isinstance(outcome, Reply):
            return self.read(outcome)
        try:
            raise outcome
        finally:
            # Else the exception's traceback, this frame and the call keep each other alive.
            del outcome, self

    def give_up(self) -> None:
        """Give it up, unless it has ended: its reply is dropped."""
        if self._caller.give_up(self):
            self._caller.ended()


class PendingCall(Call, Future[Any]):
    """A call in flight as a `concurrent.futures.Future`: what it ends with is a result or an exception, decoded."""

    _caller: Caller

    done = Future.done

    def submit(self, caller: Caller, *, awaited: bool) -> None:
        """Send it; block while it has no room."""
        self._caller = caller
        caller.submit(self, awaited=awaited)

    def answer(self, reply: Reply) -> None:
        """End it with its reply: now, or on another thread if decoding takes long, or runs code of users'."""
        if self.decoder.is_brief(reply):
            self._end(reply)
        else:
            _decoding.call(self._end_elsewhere, reply)

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
        try:
            self._wait(timeout)
            return super().result(0)
        finally:
            # Else the exception's traceback, this frame and the call keep each other alive.
            del self

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Return the error that the call ended with, None for a result; waits as `result` does."""
        self._wait(timeout)
        return super().exception(0)

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
            super().add_done_callback(lambda future: _callbacks.call(fn, future))

    def wait(self, until: float) -> None:
        """Wait for the end, at most until that time on the monotonic clock, while another thread reads the reply."""
        with contextlib.suppress(TimeoutError, CancelledError):
            super().exception(Deadline(until).remaining())

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
            # As in `BlockingCall.result`.
            self._caller.expire(self)
            self.wait(time.monotonic() + _VERDICT)

    def _end_elsewhere(self, reply: Reply) -> None:
        self._end(reply)
        self._caller.ended()

    def _end(self, reply: Reply) -> None:
        try:
            result = self.read(reply)
        # A user's type may raise anything.
        except BaseException as error:
            # Without this frame: else the traceback and this call keep each other alive.
            self.set_exception(error.with_traceback(None))
        else:
            self.set_result(result)


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


_callbacks, _decoding = Thread("amqp_rpc callbacks"), Thread("amqp_rpc decoding")
