"""The loop of connections: sockets, timers, and work from other threads. One thread at a time works in it.

The thread that works holds a lock, and a thread that waits never holds it. So any thread may do its own piece of work
at once (`Loop.do`) instead of waking another for it, and any may wait at the sockets (`Loop.attend`).

A thread that waits for a reply at the sockets reads it itself; no other has to be woken, for it or by it, and on most
machines waking a thread takes longer than all the rest of a call. Meanwhile the I/O thread stands by: it looks every
few milliseconds, and stays when the sockets were left alone. So heartbeats and deadlines are late by no more than two
such looks, whatever the other threads do. Docs: docs/decisions/0006-waiting-threads-read.md. The shape is known as
leader and followers: Schmidt and others, "Leader/Followers", Pattern Languages of Programs 2000.
"""

from __future__ import annotations

import contextlib
import heapq
import itertools
import logging
import os
import selectors
import socket
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from threading import get_ident
from typing import Any, Protocol

from amqp_rpc.amqp.pending import Outcome
from amqp_rpc.message.text import bounded_logger

logger: logging.Logger = bounded_logger(__name__)

READ, WRITE = selectors.EVENT_READ, selectors.EVENT_WRITE
NEVER = float("inf")
#: Seconds between two looks of the I/O thread, while others lead; and after how many idle looks it sleeps.
_LOOK_IN = 0.005
_QUIET = 20
#: Two requests within so many seconds count as a frequent leader; and the I/O thread leaves for one within so many.
_SOON = 0.01
_LEAVES = 0.05


def where_signals_raise() -> bool:
    """Return whether this is the main thread, and a user's: an exception may be a signal handler's, and no defect."""
    return threading.current_thread() is threading.main_thread() and get_ident() not in _io_threads


def call(callback: Callable[..., object], *args: Any) -> None:
    """Call back; a defect is logged, and must not end the thread on which every call of this process depends."""
    try:
        callback(*args)
    except Exception:
        if where_signals_raise():
            raise
        logger.exception("I/O thread: callback failed: %r", callback)


#: The threads that run loops.
_io_threads: set[int] = set()
#: All loops of this process, by their ids: unlike a weak set, this can be listed while another thread adds one.
_loops: weakref.WeakValueDictionary[int, Loop] = weakref.WeakValueDictionary()


def _all_loops() -> list[Loop]:
    return [loop for reference in _loops.valuerefs() if (loop := reference()) is not None]


def any_works_here() -> bool:
    """Return whether this very thread is at work in one of the loops of this process."""
    return any(loop.works_here() for loop in _all_loops())


def _forked() -> None:
    for loop in _all_loops():
        loop.disown()


# Windows has no forks.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)


class Awaited(Protocol):
    """A thread at the sockets waits for one of these: a call, a message, work."""

    def done(self) -> object:
        """Return whether the wait is over."""


class _Never:
    """The I/O thread waits for nothing in particular."""

    def done(self) -> bool:
        return False


class _WhileShared:
    """The end of something, or the end of the time when other threads than the I/O thread may work here."""

    __slots__ = ("_awaited", "_loop")

    def __init__(self, loop: Loop, awaited: Awaited) -> None:
        self._loop = loop
        self._awaited = awaited

    def done(self) -> object:
        return not self._loop.shared or self._awaited.done()


@dataclass(slots=True, eq=False)
class Timer:
    """A call that is due at some time; `cancel` takes it back."""

    due: float
    order: int
    callback: Callable[[], object] | None

    def cancel(self) -> None:
        """Do not call it; harmless when it was called already."""
        self.callback = None

    def __lt__(self, other: Timer) -> bool:
        return (self.due, self.order) < (other.due, other.order)


class Loop:
    """A selector loop for a few sockets.

    Any thread may call `post`, `leave`, `do`, `attend` and `recall`. All else belongs to callbacks.
    """

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        #: True where a thread that waits does not notice what another one watches: select() and poll() copy it before.
        self._copies = not hasattr(self._selector, "fileno")
        self._wake_reader, self._wake_writer = socket.socketpair()
        self._wake_reader.setblocking(False)
        self._wake_writer.setblocking(False)
        self._selector.register(self._wake_reader, READ, self._woken)
        #: Held by the thread that works; never while it waits, nor while a user's code runs.
        self._working = threading.Lock()
        #: The thread that works.
        self._worker = 0
        self._leadership = Leadership(self)
        #: Work from other threads; appending and popping are atomic in CPython.
        self._posted: deque[tuple[Callable[..., object], tuple[Any, ...]]] = deque()
        #: True while a thread may be blocked at the sockets: the thread that posts then has to write the wake byte.
        self._asleep = False
        self._sleeps_until = NEVER
        self._timers: list[Timer] = []
        self._order = itertools.count()
        #: The one that is being called.
        self._timer: Timer | None = None
        #: Called before the next sleep: streams send then, in one piece, all that was written in the meantime.
        self._before_sleep: deque[Callable[[], object]] = deque()
        self._aborts: dict[object, Callable[[BaseException], object]] = {}
        #: True if other threads than the I/O thread may work here now: see `share`.
        self.shared: bool = False
        self._on_relieved: Callable[[], object] = int
        self._stopped = False
        self._closed = False
        # Last: from here on, other threads look at it.
        _loops[id(self)] = self

    def post(self, callback: Callable[..., object], *args: Any) -> None:
        """Have another thread call ``callback(*args)`` soon; any thread."""
        self.leave(callback, *args)
        if not self._asleep:
            self._leadership.recall()

    def leave(self, callback: Callable[..., object], *args: Any) -> None:
        """Have ``callback(*args)`` called in some milliseconds, unless this thread attends before; any thread."""
        self._posted.append((callback, args))
        self._leadership.signs += 1
        self.nudge()

    def do(self, callback: Callable[..., object], *args: Any) -> None:
        """Call ``callback(*args)`` now, unless another thread works here: then that one will; any thread."""
        if not self.shared:
            self.post(callback, *args)
            return
        self._posted.append((callback, args))
        if get_ident() != self._leadership.returning:
            self._catch_up()

    def attend(self, awaited: Awaited, until: float = NEVER, *, returns: bool = False) -> bool:
        """Wait at the sockets, and work, until the end of something; any thread.

        Args:
            awaited: A call, a message, work.
            until: The end of the longest wait, on the monotonic clock.
            returns: True if the thread comes back soon: work that it gives to `do` in between is done when it is back.

        Returns:
            False if another thread is there. The I/O thread leaves for one that asks often.
        """
        led = self.shared and self._leadership.lead(_WhileShared(self, awaited), until, returns=returns)
        if led:
            self._catch_up()
            if not self.shared:
                self._leadership.recall()
        return led

    def recall(self) -> None:
        """Have the I/O thread wait at the sockets again, unless another thread does; any thread."""
        self._leadership.recall()

    def works_here(self) -> bool:
        """Return whether this very thread is at work here, further down on its stack; any thread."""
        return self._worker == get_ident() and self._working.locked()

    def share(self, shared: bool) -> None:
        """Say whether other threads than the I/O thread may work here; a callback's, and any thread's at the beginning.

        Signals raise in the main thread, in the middle of anything. Work that can be cut off there has to be simple.
        """
        self.shared = shared

    def on_relieved(self, callback: Callable[[], object]) -> None:
        """Call back when the I/O thread takes over from a thread that has stayed away."""
        self._on_relieved = callback

    def call_later(self, delay: float, callback: Callable[[], object]) -> Timer:
        """Call back in that many seconds, unless the timer is cancelled."""
        timer = Timer(time.monotonic() + delay, next(self._order), callback)
        heapq.heappush(self._timers, timer)
        if timer.due < self._sleeps_until:
            self.nudge()
        return timer

    def watch(self, sock: socket.socket, events: int, callback: Callable[[int], object]) -> None:
        """Call ``callback(events)`` when the socket is ready; replaces an earlier watch."""
        if sock in self._selector.get_map():
            self._selector.modify(sock, events, callback)
        else:
            self._selector.register(sock, events, callback)
        if self._copies:
            self.nudge()

    def unwatch(self, sock: socket.socket) -> None:
        """Stop watching a socket; harmless when it is not watched."""
        if sock.fileno() >= 0 and sock in self._selector.get_map():
            self._selector.unregister(sock)
            if self._copies:
                self.nudge()

    def before_sleep(self, callback: Callable[[], object]) -> None:
        """Call back once, before the loop waits the next time; one such callback may ask for another."""
        self._before_sleep.append(callback)

    def on_interrupt(self, owner: object, abort: Callable[[BaseException], object]) -> None:
        """Call back with an error when work was cut off in its middle, by Ctrl-C for example."""
        self._aborts[owner] = abort

    def off_interrupt(self, owner: object) -> None:
        """Do not call that back any more."""
        self._aborts.pop(owner, None)

    def run(self) -> None:
        """Run until `stop`: the I/O thread."""
        self._stopped = False
        _io_threads.add(get_ident())
        try:
            self._leadership.own()
        finally:
            _io_threads.discard(get_ident())

    def stop(self) -> None:
        """Make `run` return after this turn."""
        self._stopped = True
        self._wake()
        self._leadership.end()

    def close(self) -> None:
        """Give the sockets of the loop back; after `run` has returned."""
        self._closed = True
        # A thread that waits there has been woken, and leaves.
        with self._leadership.place, self._working:
            self._selector.close()
            self._wake_reader.close()
            self._wake_writer.close()

    def disown(self) -> None:
        """Close the sockets in the child of a fork, where no thread of the loop is: they are the parent's.

        As long as any process holds them, the broker does not notice the parent's end.
        """
        self._stopped = self._closed = True
        # Nothing is unregistered: the parent's epoll would forget its sockets.
        for key in list((self._selector.get_map() or {}).values()):
            key.fileobj.close()  # type: ignore[union-attr] # all are sockets
        self._wake_writer.close()
        # A kqueue is not inherited.
        with contextlib.suppress(OSError):
            self._selector.close()

    # For `Leadership`.

    def turn(self, awaited: Awaited, until: float) -> None:
        """Wait at the sockets once, until something happens or that time, and handle it."""
        with self._working:
            self._at_work(self._lie_down, until)
        try:
            if self._posted or awaited.done():
                events = self._selector.select(0)
            elif self._sleeps_until == NEVER:
                events = self._selector.select()
            else:
                events = self._selector.select(max(0.0, self._sleeps_until - time.monotonic()))
        except OSError:
            if not self._copies or self._closed:
                raise
            # Another thread has closed a socket meanwhile: Windows refuses the whole copy then.
            events = []
        finally:
            self._asleep = False
        with self._working:
            self._at_work(self._get_up, events)

    def nudge(self) -> None:
        """End the wait of the thread that is blocked in a turn."""
        if self._asleep:
            self._wake()

    def relieve(self) -> None:
        """Report that the I/O thread comes to the sockets."""
        self._posted.append((self._on_relieved, ()))

    def _catch_up(self) -> None:
        # The thread that releases the lock looks again: work that came while it held the lock found it taken.
        while self._posted and self.shared and not self._stopped:
            if not self._working.acquire(blocking=False):
                return
            try:
                self._at_work(self._work)
            finally:
                self._working.release()

    def _lie_down(self, until: float) -> None:
        if self._posted or self._before_sleep:
            self._work()
        self._sleeps_until = min(until, self._next_timer())
        # In this order: a thread that posts after the look for work sees the flag and wakes us.
        self._asleep = True

    def _get_up(self, events: list[tuple[selectors.SelectorKey, int]]) -> None:
        for key, mask in events:
            call(key.data, mask)
        self._work()
        now = time.monotonic()
        while self._timers and self._timers[0].due <= now:
            self._timer = heapq.heappop(self._timers)
            if self._timer.callback is not None:
                call(self._timer.callback)
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
        # Only earlier work: a flood of it can't keep the sockets waiting.
        for _ in range(len(self._posted)):
            callback, args = self._posted.popleft()
            call(callback, *args)
        self._flush()

    def _flush(self) -> None:
        while self._before_sleep:
            call(self._before_sleep.popleft())

    def _next_timer(self) -> float:
        while self._timers and self._timers[0].callback is None:
            heapq.heappop(self._timers)
        return self._timers[0].due if self._timers else NEVER

    def _interrupted(self, error: BaseException) -> None:
        """Give up the work that was cut off: connections are made again, their calls are sent again or end."""
        if self._timer is not None:
            heapq.heappush(self._timers, self._timer)
            self._timer = None
        for abort in list(self._aborts.values()):
            abort(ConnectionAbortedError(f"the thread that was at work was interrupted by {error!r}"))

    def _wake(self) -> None:
        self._asleep = False
        try:
            self._wake_writer.send(b"\0")
        except BlockingIOError:
            return  # it is full of wake bytes: a thread that sleeps will wake
        except OSError:
            if not self._closed:
                raise

    def _woken(self, _events: int) -> None:
        # More bytes than these make the socket readable again.
        self._wake_reader.recv(4096)


class Leadership:
    """One place at the sockets, for the I/O thread or another one."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        #: Held by the thread at the sockets.
        self.place: threading.Lock = threading.Lock()
        #: That thread, unless it is the I/O thread.
        self._holder = 0
        #: The last one that held it and has said that it returns.
        self.returning: int = 0
        #: The I/O thread's, while it stands by: the thread that takes the bell out of here rings it.
        self.bells: list[threading.Lock] = []
        #: True while the I/O thread stands by until it is rung: another thread waits at the sockets for long.
        self.dozing: bool = False
        #: True while a thread waits for the I/O thread to leave; and when a thread asked for the place the last time.
        self._wanted = False
        self._asked = 0.0
        #: Counts the work of other threads: from look to look it tells whether they are still active.
        self.signs: int = 0
        self._ended = False

    def lead(self, awaited: Awaited, until: float, *, returns: bool) -> bool:
        """Lead until the end of something, or that time; any thread.

        Returns:
            False if another thread has the place. The I/O thread leaves for one that asks again soon: for a single
            reply it isn't worth it.
        """
        me = get_ident()
        if self._ended or not (self.place.acquire(blocking=False) or self._take_over()):
            if self._holder == me and not self._loop.works_here():
                # A signal handler, while its thread waits at the sockets already.
                self._turns(awaited, until)
                return True
            return False
        self._holder = me
        if returns:
            self.returning = me
        try:
            self._turns(awaited, until)
        finally:
            self._holder = 0
            self.place.release()
            if self.dozing:
                self.recall()
        return True

    def recall(self) -> None:
        """Have the I/O thread lead again, unless another thread leads; any thread."""
        if self.bells:
            try:
                self.bells.pop().release()
            except IndexError:
                return  # another thread has just rung it

    def own(self) -> None:
        """Be the I/O thread, until `end`."""
        self._ended = False
        nothing = _Never()
        while not self._ended:
            with self.place:
                self._wanted, self.returning = False, 0
                self._loop.relieve()
                while not (self._ended or self._wanted):
                    self._loop.turn(nothing, NEVER)
            self._stand_by()

    def end(self) -> None:
        """Have all threads leave; one that is blocked in a turn must be woken besides."""
        self._ended = True
        self.recall()

    def _take_over(self) -> bool:
        """Have the I/O thread leave the place to the calling thread; return whether it did."""
        before, self._asked = self._asked, time.monotonic()
        if self._holder or self._loop.works_here() or self._asked - before > _SOON:
            return False
        # In this order: it must find that it is wanted when it is awake.
        self._wanted = True
        try:
            self._loop.nudge()
            return self.place.acquire(timeout=_LEAVES)
        finally:
            self._wanted = False

    def _turns(self, awaited: Awaited, until: float) -> None:
        while not (awaited.done() or self._ended) and time.monotonic() < until:
            self._loop.turn(awaited, until)
            self.signs += 1

    def _stand_by(self) -> None:
        """Wait until no thread leads any more, the leader has been away for long, or the I/O thread is called."""
        bell = threading.Lock()
        bell.acquire()
        seen, quiet, called = self.signs, 0, False
        while not self._ended and not called:
            self.bells.append(bell)
            # In this order: a thread that leaves, or ends all, after these looks finds the bell, or sees the flag.
            self.dozing = quiet >= _QUIET
            if self._ended or (self.dozing and not self.place.locked()):
                self._put_away(bell)
                called = True
            else:
                called = bell.acquire(timeout=-1 if self.dozing else _LOOK_IN)
                if not called:
                    self._put_away(bell)
            self.dozing = False
            if self.place.locked():
                called = False
                quiet = quiet + 1 if self.signs == seen else 0
            else:
                called = called or self.signs == seen
                quiet = 0
            seen = self.signs

    def _put_away(self, bell: threading.Lock) -> None:
        try:
            self.bells.remove(bell)
        except ValueError:
            # It is being rung at this moment.
            bell.acquire()


class IOThread:
    """A thread that runs the loop of connections, from the first `begin` until each of them has called `end`."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._lock = threading.Lock()
        #: Made when it is needed: a thread without connections holds no sockets.
        self._loop: Loop | None = None
        self._thread: threading.Thread | None = None
        #: True while posted work will be done.
        self.alive: bool = False
        #: Set in the last moment of the thread.
        self.ended: Outcome[None] = Outcome[None]()
        self._owned = 0

    @property
    def loop(self) -> Loop:
        """Its loop, once it has begun."""
        assert self._loop is not None
        return self._loop

    def begin(self) -> Loop:
        """Own one more connection; return the loop, which runs. Any thread."""
        with self._lock:
            self._owned += 1
            if self._thread is None:
                self._loop = Loop()
                thread = threading.Thread(target=self._run, name=self._name, daemon=True)
                try:
                    thread.start()
                except RuntimeError as error:
                    # The process may have no more threads, or the interpreter shuts down.
                    self._owned -= 1
                    self._loop.close()
                    raise OSError(str(error)) from error
                self._thread = thread
                self.alive = True
            return self.loop

    def end(self) -> None:
        """Own one connection less; the thread ends with the last one. On that thread."""
        with self._lock:
            self._owned -= 1
            if not self._owned:
                self.alive = False
                self.loop.stop()

    def join(self, timeout: float) -> bool:
        """Wait for the thread's end if it owns nothing any more; return whether it did not take longer."""
        if self._thread is None or self._owned:
            return True
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def _run(self) -> None:
        try:
            self.loop.run()
        finally:
            self.alive = False
            self.loop.close()
            self.ended.tell(None)
