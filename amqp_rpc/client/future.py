"""Calls that threads wait for: futures of `concurrent.futures`, and calls of one thread that waits for each itself.

It is a seam: threads wait for these, event loops for those of `bridge`, and `call` knows of neither.
"""

from __future__ import annotations

import contextlib
import time
import weakref
from collections.abc import Callable
from concurrent.futures import CancelledError, Future, InvalidStateError, wait
from functools import partial
from typing import TYPE_CHECKING, Any

from amqp_rpc.amqp.pending import Outcome
from amqp_rpc.client.call import GRACE, Call
from amqp_rpc.client.reply import Reply, Thread, read_elsewhere
from amqp_rpc.errors import AmqpRpcError
from amqp_rpc.message.codec import LARGE
from amqp_rpc.message.timing import Deadline

if TYPE_CHECKING:
    from amqp_rpc.amqp.loop import Loop
    from amqp_rpc.client.rpc import Caller

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
        # `map` may ask for a result long after the reply has come.
        timed = not (self.decoder.many and self.done())
        if not self.done():
            self._caller.wait(self, self.expires_at + GRACE)
        if not self.done():
            # The I/O thread is late, or stuck in a name look-up: the promise is that a call ends by its deadline.
            self._caller.expire(self)
            # Another thread may have taken it, and is about to end it.
            self.wait(time.monotonic() + _VERDICT)
        outcome = self.value if self.done() else self.lost("its reply came too late to be read")
        if isinstance(outcome, Reply):
            return self._read_in_time(outcome) if timed and len(outcome.body) > LARGE else self.read(outcome)
        try:
            raise outcome
        finally:
            # Else the exception's traceback, this frame and the call keep each other alive.
            del outcome, self

    def give_up(self) -> None:
        """Give it up, unless it has ended: its reply is dropped."""
        if self._caller.give_up(self):
            self._caller.ended()

    def _read_in_time(self, reply: Reply) -> Any:
        reading = read_elsewhere(partial(self.read, reply))
        try:
            wait([reading], max(GRACE, self.expires_at + GRACE - time.monotonic()))
            if not reading.done():
                raise self.unread(self._caller.counters)
            return reading.result()
        finally:
            reading.cancel()
            # Else the exception's traceback, this frame and the call keep each other alive.
            del reading, self


class PendingCall(Call, Future[Any]):
    """A call in flight as a `concurrent.futures.Future`: what it ends with is a result or an exception, decoded."""

    _caller: Caller
    #: Its large reply, while that is decoded on another thread.
    _reading: Future[Any] | None = None

    done = Future.done

    def submit(self, caller: Caller, *, awaited: bool) -> None:
        """Send it; block while it has no room."""
        self._caller = caller
        caller.submit(self, awaited=awaited)

    def answer(self, reply: Reply) -> None:
        """End it with its reply: now, or on another thread if decoding takes long, or runs code of users'."""
        if self.decoder.is_brief(reply):
            self._end(reply)
        elif len(reply.body) <= LARGE:
            _decoding.call(self._end_elsewhere, reply)
        else:
            self._reading = reading = read_elsewhere(partial(self.read, reply))
            # No thread may wait for it: then a timer sees to its deadline.
            self._caller.watch(reading)
            if (connection := self._caller.connection) is not None:
                connection.post(_guard, weakref.ref(self), connection.loop)
            reading.add_done_callback(self._end_read)

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
            self.wait(time.monotonic() + GRACE)
            self.end_unread()
            self.wait(time.monotonic() + _VERDICT)

    def end_unread(self) -> None:
        """End it at its deadline if its reply is still being decoded; any thread."""
        reading = self._reading
        if reading is None or self.done():
            return
        # The thread that decodes it may be first.
        with contextlib.suppress(InvalidStateError):
            self.set_exception(self.unread(self._caller.counters))
        reading.cancel()
        self._caller.ended()

    def _end_read(self, reading: Future[Any]) -> None:
        self._reading = None
        self._caller.unwatch(reading)
        with contextlib.suppress(InvalidStateError, CancelledError):
            error = reading.exception()
            if error is None:
                self.set_result(reading.result())
            else:
                self.set_exception(error)
        self._caller.ended()

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


def _guard(call: weakref.ref[PendingCall], loop: Loop) -> None:
    """Have a call ended at its deadline, if its reply is still being decoded then; the I/O thread's."""

    def end() -> None:
        late = call()
        if late is not None:
            late.end_unread()

    found = call()
    if found is not None:
        loop.call_later(max(0.0, found.expires_at + GRACE - time.monotonic()), end)


_callbacks, _decoding = Thread("amqp_rpc callbacks"), Thread("amqp_rpc decoding")
