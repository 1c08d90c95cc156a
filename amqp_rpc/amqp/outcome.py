"""What becomes of something, known later: told by one thread, waited for by others. Pure.

A `concurrent.futures.Future` can do more (be cancelled, be waited for with others) and costs ten times as much to make
and to end, which tells where a hundred thousand messages wait for the broker's confirm.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from threading import Lock
from typing import Generic, TypeVar

T = TypeVar("T")


class Outcome(Generic[T]):
    """Something that is told once and then known; any thread may ask, wait and tell.

    Where two tell at the same time, either is kept: they have to mean the same.
    """

    __slots__ = ("_known", "_waiters", "value")

    def __init__(self) -> None:
        self._known = False
        self._waiters: list[Callable[[], object]] = []

    def done(self) -> bool:
        """Return whether it is known; from then on ``value`` is there."""
        return self._known

    def tell(self, value: T) -> None:
        """Say what it is, unless that is known already."""
        if self._known:
            return
        #: What it is, once `done` says so.
        self.value = value
        # In this order: who began to wait before this sees it, or is in the list and is told below.
        self._known = True
        while self._waiters:
            try:
                waiter = self._waiters.pop(0)
            except IndexError:
                return  # another thread has told the last of them
            waiter()

    def on_done(self, callback: Callable[[], object]) -> None:
        """Call back once it is known, on the thread that tells; at once where it is."""
        self._waiters.append(callback)
        if self._known and self._take_back(callback):
            callback()

    def wait(self, until: float) -> bool:
        """Wait until it is known, at most until that time on the monotonic clock; return whether it is."""
        if self._known:
            return True
        bell = Lock()
        bell.acquire()
        self._waiters.append(bell.release)
        if not self._known:
            bell.acquire(timeout=max(0.0, until - time.monotonic()))
        self._take_back(bell.release)
        return self._known

    def _take_back(self, waiter: Callable[[], object]) -> bool:
        try:
            self._waiters.remove(waiter)
        except ValueError:
            return False  # who tells has it
        return True
