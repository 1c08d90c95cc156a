"""The loop of connections: sockets, timers, and work that threads hand over. One thread at a time works in it.

Whoever works holds the lock, and nobody holds it who waits. So any thread may do its own piece of work at once (`do`)
instead of waking another for it, and any may wait at the sockets (`attend`): see `leadership`.
"""

from __future__ import annotations

import heapq
import itertools
import logging
import selectors
import socket
import threading
import time
from collections import deque
from collections.abc import Callable
from threading import get_ident
from typing import Any

from amqp_rpc.amqp.leadership import NEVER, Leadership
from amqp_rpc.amqp.pending import Outcome

logger = logging.getLogger(__name__)

READ, WRITE = selectors.EVENT_READ, selectors.EVENT_WRITE


def where_signals_raise() -> bool:
    """Return whether this is the main thread, and a user's: what is raised there may be an alarm, no defect."""
    return threading.current_thread() is threading.main_thread() and get_ident() not in _owners


#: The threads that run loops.
_owners: set[int] = set()


class Timer:
    """A call that is due at some time; `cancel` takes it back."""

    __slots__ = ("callback", "due", "order")

    def __init__(self, due: float, order: int, callback: Callable[[], object]) -> None:
        self.due = due
        self.order = order
        self.callback: Callable[[], object] | None = callback

    def cancel(self) -> None:
        """Do not call it; harmless when it was called already."""
        self.callback = None

    def __lt__(self, other: Timer) -> bool:
        return (self.due, self.order) < (other.due, other.order)


class Loop:
    """A selector loop for a few sockets.

    Threads: any may call `post`, `leave`, `do`, `attend`, `recall`. All else belongs to callbacks: to whoever works.
    """

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._wake_reader, self._wake_writer = socket.socketpair()
        self._wake_reader.setblocking(False)
        self._wake_writer.setblocking(False)
        self._selector.register(self._wake_reader, READ, self._woken)
        #: Held by who works with what belongs to the loop; never while it waits, nor while a user's code runs.
        self._working = threading.Lock()
        #: Which thread that is.
        self._worker = 0
        self._leadership = Leadership(
            self._turn,
            wake=self._nudge,
            works_here=self.works_here,
            relieved=lambda: self._posted.append((self._on_relieved, ())),
        )
        #: Work from other threads; appending and popping are atomic in CPython.
        self._posted: deque[tuple[Callable[..., object], tuple[Any, ...]]] = deque()
        #: True while somebody may be blocked at the sockets: whoever posts then has to write the wake byte.
        self._asleep = False
        self._sleeps_until = NEVER
        self._timers: list[Timer] = []
        self._order = itertools.count()
        #: The one that is being called.
        self._timer: Timer | None = None
        #: Called before the next sleep: streams send there what was written in the meantime, in one piece.
        self._before_sleep: deque[Callable[[], object]] = deque()
        self._aborts: list[Callable[[BaseException], object]] = []
        #: Whether other threads than the owner may work here now: see `share`.
        self._shared = False
        self._on_relieved: Callable[[], object] = lambda: None
        self._stopped = False
        self._closed = False

    def post(self, callback: Callable[..., object], *args: Any) -> None:
        """Have somebody else call ``callback(*args)`` soon; any thread."""
        self.leave(callback, *args)
        if not self._asleep:
            self._leadership.recall()

    def leave(self, callback: Callable[..., object], *args: Any) -> None:
        """Have ``callback(*args)`` called in some milliseconds, unless this thread is to `attend` before; any."""
        self._posted.append((callback, args))
        self._leadership.signs += 1
        if self._asleep:
            self._wake()

    def do(self, callback: Callable[..., object], *args: Any) -> None:
        """Call ``callback(*args)`` now, unless another thread works here: then it will; any thread."""
        if not self._shared:
            self.post(callback, *args)
            return
        self._posted.append((callback, args))
        if get_ident() != self._leadership.returning:
            self.catch_up()

    def catch_up(self) -> None:
        """Do what is waiting to be done, unless another thread works here: then it will; any thread."""
        # Whoever lets go looks again: what came while it held the lock found it taken.
        while self._posted and self._shared and not self._stopped:
            if not self._working.acquire(blocking=False):
                return
            try:
                self._at_work(self._work)
            finally:
                self._working.release()

    def attend(self, done: Callable[[], object], until: float = NEVER, *, returns: bool = False) -> bool:
        """Wait at the sockets, and work, until something is done; any thread.

        Args:
            done: Returns whether it is.
            until: Wait no longer than to this time on the monotonic clock.
            returns: Whether the thread comes back soon: what it means to `do` in between is done when it is back.

        Returns:
            Whether it did: only one thread can be there. The owner leaves for one that asks often.
        """
        led = self._shared and self._leadership.lead(lambda: not self._shared or done(), until, returns=returns)
        if led:
            self.catch_up()
            if not self._shared:
                self._leadership.recall()
        return led

    def share(self, shared: bool) -> None:
        """Say whether other threads than the owner may do work here; a callback's, and any thread's at the beginning.

        Signals raise in the main thread, in the middle of anything. What can be cut off there has to be simple.
        """
        self._shared = shared

    def works_here(self) -> bool:
        """Return whether this very thread is at work here, further down on its stack; any thread."""
        return self._worker == get_ident() and self._working.locked()

    def recall(self) -> None:
        """Have the owner wait at the sockets again, where nobody does; any thread."""
        self._leadership.recall()

    def on_relieved(self, callback: Callable[[], object]) -> None:
        """Call back when the owner takes over from a thread that has stayed away."""
        self._on_relieved = callback

    def call_later(self, delay: float, callback: Callable[[], object]) -> Timer:
        """Call back in that many seconds, unless the timer is cancelled."""
        timer = Timer(time.monotonic() + delay, next(self._order), callback)
        heapq.heappush(self._timers, timer)
        if self._asleep and timer.due < self._sleeps_until:
            self._wake()
        return timer

    def watch(self, sock: socket.socket, events: int, callback: Callable[[int], object]) -> None:
        """Call ``callback(events)`` when the socket is ready; replaces what was watched before."""
        if sock in self._selector.get_map():
            self._selector.modify(sock, events, callback)
        else:
            self._selector.register(sock, events, callback)

    def unwatch(self, sock: socket.socket) -> None:
        """Stop watching a socket; harmless when it is not watched."""
        if sock.fileno() >= 0 and sock in self._selector.get_map():
            self._selector.unregister(sock)

    def before_sleep(self, callback: Callable[[], object]) -> None:
        """Call back once, before the loop waits the next time; one such callback may ask for another."""
        self._before_sleep.append(callback)

    def on_interrupt(self, abort: Callable[[BaseException], object]) -> None:
        """Call back with an error when work was cut off in its middle, by Ctrl-C perhaps: nothing is certain then."""
        self._aborts.append(abort)

    def off_interrupt(self, abort: Callable[[BaseException], object]) -> None:
        """Do not call that back any more."""
        if abort in self._aborts:
            self._aborts.remove(abort)

    def run(self) -> None:
        """Run until `stop`: the owner's thread."""
        self._stopped = False
        _owners.add(get_ident())
        try:
            self._leadership.own()
        finally:
            _owners.discard(get_ident())

    def stop(self) -> None:
        """Make `run` return after this turn."""
        self._stopped = True
        self._wake()
        self._leadership.end()

    def close(self) -> None:
        """Give the sockets of the loop back; after `run` has returned."""
        self._closed = True
        # Who waits there has been woken, and leaves.
        with self._leadership.nobody(), self._working:
            self._selector.close()
            self._wake_reader.close()
            self._wake_writer.close()

    def _turn(self, done: Callable[[], object], until: float) -> None:
        with self._working:
            self._at_work(self._lie_down, until)
        try:
            if self._posted or done():
                events = self._selector.select(0)
            elif self._sleeps_until == NEVER:
                events = self._selector.select()
            else:
                events = self._selector.select(max(0.0, self._sleeps_until - time.monotonic()))
        finally:
            self._asleep = False
        with self._working:
            self._at_work(self._get_up, events)

    def _lie_down(self, until: float) -> None:
        if self._posted or self._before_sleep:
            self._work()
        self._sleeps_until = min(until, self._next_timer())
        # First say "asleep", then look for work: whoever appends after the look sees the flag and wakes us.
        self._asleep = True

    def _get_up(self, events: list[tuple[selectors.SelectorKey, int]]) -> None:
        for key, mask in events:
            self._call(key.data, mask)
        self._work()
        now = time.monotonic()
        while self._timers and self._timers[0].due <= now:
            self._timer = heapq.heappop(self._timers)
            if self._timer.callback is not None:
                self._call(self._timer.callback)
            self._timer = None
        self._flush()

    def _at_work(self, work: Callable[..., object], *args: Any) -> None:
        """Do some work; the lock is held."""
        self._worker = get_ident()
        try:
            work(*args)
        except BaseException as error:
            self._interrupted(error)
            raise
        finally:
            self._worker = 0

    def _work(self) -> None:
        # Only what was there when it began: a flood of work can't keep the sockets waiting.
        for _ in range(len(self._posted)):
            callback, args = self._posted.popleft()
            self._call(callback, *args)
        self._flush()

    def _flush(self) -> None:
        while self._before_sleep:
            self._call(self._before_sleep.popleft())

    def _next_timer(self) -> float:
        while self._timers and self._timers[0].callback is None:
            heapq.heappop(self._timers)
        return self._timers[0].due if self._timers else NEVER

    def _call(self, callback: Callable[..., object], *args: Any) -> None:
        try:
            callback(*args)
        except Exception:
            if where_signals_raise():
                raise
            # A defect must not end the thread on which every call of this process depends.
            logger.exception("A callback of the connection's owner failed: %r", callback)

    def _interrupted(self, error: BaseException) -> None:
        """Give up what was cut off in its middle: connections are made again, calls on them are sent again or end."""
        if self._timer is not None:
            heapq.heappush(self._timers, self._timer)
            self._timer = None
        for abort in list(self._aborts):
            abort(ConnectionAbortedError(f"the thread that was at work was interrupted by {error!r}"))

    def _nudge(self) -> None:
        if self._asleep:
            self._wake()

    def _wake(self) -> None:
        self._asleep = False
        try:
            self._wake_writer.send(b"\0")
        except BlockingIOError:
            return  # it is full of wake bytes: who sleeps will wake
        except OSError:
            if not self._closed:
                raise

    def _woken(self, _events: int) -> None:
        # What it does not take makes the socket readable again.
        self._wake_reader.recv(4096)


class IOThread:
    """A thread that runs from the first `begin` until every one of them has seen its `end`.

    Args:
        name: The thread's.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._lock = threading.Lock()
        #: Made when it is needed: an owner of nothing holds no sockets.
        self._loop: Loop | None = None
        self._thread: threading.Thread | None = None
        #: Whether what is posted will be done.
        self.alive = False
        #: Set in the last moment of the thread.
        self.ended = Outcome[None]()
        self._owned = 0

    @property
    def loop(self) -> Loop:
        """Its loop, once it has begun."""
        assert self._loop is not None
        return self._loop

    def begin(self, connect: Callable[[], object]) -> None:
        """Own one more connection, which this opens; any thread."""
        with self._lock:
            self._owned += 1
            if self._thread is None:
                self._loop = Loop()
                self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
                self._loop.post(connect)
                self._thread.start()
                self.alive = True
            else:
                self.loop.post(connect)

    def end(self) -> None:
        """Own one connection less; the thread ends with the last one. On that thread."""
        with self._lock:
            self._owned -= 1
            if not self._owned:
                self.alive = False
                self.loop.stop()

    def post(self, callback: Callable[..., object], *args: Any) -> None:
        """Have the thread call ``callback(*args)``; any thread. Before the first `begin` there is nobody to do it."""
        if self._loop is not None:
            self._loop.post(callback, *args)

    def join(self, timeout: float) -> bool:
        """Wait for the thread's end, should nothing be owned any more; return whether all is well."""
        if self._thread is None or self._owned:
            return True
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def _run(self) -> None:
        try:
            self.loop.run()
        finally:
            self.loop.close()
            self.ended.tell(None)
