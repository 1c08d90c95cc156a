"""The loop of a connection's one owner thread: sockets, timers, and work that other threads hand over.

Only `post` may be called from another thread. Handing over wakes the owner at most once per burst: while it is awake,
appending to a deque is all that happens. See pika's own rule for its adapters:
https://pika.readthedocs.io/en/stable/modules/adapters/select.html
"""

from __future__ import annotations

import heapq
import itertools
import logging
import selectors
import socket
import time
from collections import deque
from collections.abc import Callable
from typing import Any

logger = logging.getLogger(__name__)

READ, WRITE = selectors.EVENT_READ, selectors.EVENT_WRITE


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
    """A selector loop for a few sockets; everything but `post` belongs to the thread that runs it."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._wake_reader, self._wake_writer = socket.socketpair()
        self._wake_reader.setblocking(False)
        self._wake_writer.setblocking(False)
        self._selector.register(self._wake_reader, READ, self._woken)
        #: Work from other threads; appending and popping are atomic in CPython.
        self._posted: deque[tuple[Callable[..., object], tuple[Any, ...]]] = deque()
        #: True while the owner may be blocked in select: whoever posts then has to write the wake byte.
        self._asleep = False
        self._timers: list[Timer] = []
        self._order = itertools.count()
        #: Called before the next sleep: streams send there what was written in the meantime, in one piece.
        self._before_sleep: deque[Callable[[], object]] = deque()
        self._stopped = False
        self._closed = False

    def post(self, callback: Callable[..., object], *args: Any) -> None:
        """Have the owner call ``callback(*args)`` soon; the one method that any thread may call."""
        self._posted.append((callback, args))
        if self._asleep:
            self._asleep = False
            try:
                self._wake_writer.send(b"\0")
            except BlockingIOError:
                return  # it is full of wake bytes: the owner will wake
            except OSError:
                if not self._closed:
                    raise

    def call_later(self, delay: float, callback: Callable[[], object]) -> Timer:
        """Call back in that many seconds, unless the timer is cancelled."""
        timer = Timer(time.monotonic() + delay, next(self._order), callback)
        heapq.heappush(self._timers, timer)
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

    def run(self) -> None:
        """Run until `stop`."""
        self._stopped = False
        while not self._stopped:
            self._turn()

    def stop(self) -> None:
        """Make `run` return after this turn; the owner's."""
        self._stopped = True

    def close(self) -> None:
        """Give the sockets of the loop back; the owner's, after `run` has returned."""
        self._closed = True
        self._selector.close()
        self._wake_reader.close()
        self._wake_writer.close()

    def _turn(self) -> None:
        while self._before_sleep:
            self._call(self._before_sleep.popleft())
        # First say "asleep", then look for work: whoever appends after the look sees the flag and wakes us.
        self._asleep = True
        events = self._selector.select(0 if self._posted else self._until_timer())
        self._asleep = False
        for key, mask in events:
            self._call(key.data, mask)
        # Only what was there when the turn began: a flood of work can't keep the sockets waiting.
        for _ in range(len(self._posted)):
            callback, args = self._posted.popleft()
            self._call(callback, *args)
        now = time.monotonic()
        while self._timers and (self._timers[0].due <= now or self._timers[0].callback is None):
            timer = heapq.heappop(self._timers)
            if timer.callback is not None:
                self._call(timer.callback)

    def _until_timer(self) -> float | None:
        while self._timers and self._timers[0].callback is None:
            heapq.heappop(self._timers)
        return max(0.0, self._timers[0].due - time.monotonic()) if self._timers else None

    def _call(self, callback: Callable[..., object], *args: Any) -> None:
        try:
            callback(*args)
        except Exception:
            # A defect must not end the thread on which every call of this process depends.
            logger.exception("A callback of the connection's owner failed: %r", callback)

    def _woken(self, _events: int) -> None:
        # What it does not take makes the socket readable again.
        self._wake_reader.recv(4096)
