"""Room for calls under way: so many calls, so many bytes. Who finds none waits until there is, or its deadline."""

from __future__ import annotations

import threading

from amqp_rpc.message.timing import Deadline


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
