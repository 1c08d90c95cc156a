"""The choice of the thread that waits at the sockets: the I/O thread, or a thread that waits for a reply. No I/O.

A thread that waits at the sockets reads its own reply. No thread has to be woken for that, and on most machines a
wake-up takes longer than all the rest of a call. The I/O thread leaves the sockets to such a thread and stands by: it
polls every few milliseconds, and returns if no thread was there. So heartbeats and deadlines of the connection are late
by two poll intervals at most, whatever the other thread does.

The pattern is known as leader and followers: Schmidt and others, "Leader/Followers", Pattern Languages of Programs
2000.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from threading import get_ident

NEVER = float("inf")
#: The poll interval of the I/O thread while others lead, and the idle polls before it dozes.
_LOOK_IN = 0.005
_QUIET = 20
#: Two requests within so many seconds count as frequent; and the seconds in which the I/O thread leaves, if it does.
_SOON = 0.01
_LEAVES = 0.05


def _never() -> bool:
    return False


class Leadership:
    """One place at the sockets, for the I/O thread or another one.

    Args:
        turn: Waits at the sockets once, until an event or that time on the monotonic clock, and handles the events; it
            does not wait if the first argument returns true.
        wake: Ends the wait of a thread that is blocked in a turn.
        works_here: Returns whether the calling thread is inside of a turn, further down on its stack.
        relieved: Called, with the place held, each time that the I/O thread comes to the sockets.
    """

    def __init__(
        self,
        turn: Callable[[Callable[[], object], float], object],
        *,
        wake: Callable[[], object],
        works_here: Callable[[], bool],
        relieved: Callable[[], object],
    ) -> None:
        self._turn = turn
        self._wake = wake
        self._works_here = works_here
        self._relieved = relieved
        self._place = threading.Lock()
        #: The thread that holds the place, if it is not the I/O thread.
        self._holder = 0
        #: The last thread that held it and announced that it returns.
        self.returning = 0
        #: The bell of the I/O thread while it stands by: a thread that removes it from here rings it.
        self._bells: list[threading.Lock] = []
        #: Set while the I/O thread stands by until it is rung: another thread waits at the sockets for long.
        self._dozing = False
        #: Set while a thread waits for the I/O thread to leave; and the time of the last request to lead.
        self._wanted = False
        self._asked = 0.0
        #: Counts the turns of other threads: from poll to poll it shows whether they are active.
        self.signs = 0
        self._ended = False

    def lead(self, done: Callable[[], object], until: float, *, returns: bool) -> bool:
        """Lead until ``done`` returns true, or that time; any thread.

        Returns:
            False if it could not lead. The I/O thread leaves only for a thread that asks frequently: for a single reply
            it isn't worth it.
        """
        me = get_ident()
        if self._ended or not (self._place.acquire(blocking=False) or self._take_over()):
            if self._holder == me and not self._works_here():
                # A signal handler, while its thread waits at the sockets already.
                self._turns(done, until)
                return True
            return False
        self._holder = me
        if returns:
            self.returning = me
        try:
            self._turns(done, until)
        finally:
            self._holder = 0
            self._place.release()
            if self._dozing:
                self.recall()
        return True

    def recall(self) -> None:
        """Have the I/O thread lead again, if no thread does; any thread."""
        if self._bells:
            try:
                self._bells.pop().release()
            except IndexError:
                return  # another thread has just rung it

    def own(self) -> None:
        """Be the I/O thread, until `end`."""
        self._ended = False
        while not self._ended:
            with self._place:
                self._wanted, self.returning = False, 0
                self._relieved()
                while not (self._ended or self._wanted):
                    self._turn(_never, NEVER)
            self._stand_by()

    def end(self) -> None:
        """Have all threads leave; one that is blocked in a turn must be woken besides."""
        self._ended = True
        self.recall()

    def nobody(self) -> threading.Lock:
        """Return the lock of the place: while it is held, no thread is at the sockets."""
        return self._place

    def _take_over(self) -> bool:
        """Have the I/O thread leave the place to the calling thread; return whether it did."""
        before, self._asked = self._asked, time.monotonic()
        if self._holder or self._works_here() or self._asked - before > _SOON:
            return False
        # In this order: the I/O thread must see that it is wanted when it wakes.
        self._wanted = True
        try:
            self._wake()
            return self._place.acquire(timeout=_LEAVES)
        finally:
            self._wanted = False

    def _turns(self, done: Callable[[], object], until: float) -> None:
        while not (done() or self._ended) and time.monotonic() < until:
            self._turn(done, until)
            self.signs += 1

    def _stand_by(self) -> None:
        """Wait until no thread leads any more, or the one that does was idle for long, or the I/O thread is called."""
        bell = threading.Lock()
        bell.acquire()
        seen, quiet, called = self.signs, 0, False
        while not self._ended and not called:
            self._bells.append(bell)
            # In this order: a thread that leaves, or ends all, after these checks finds the bell, or sees the doze.
            self._dozing = quiet >= _QUIET
            if self._ended or (self._dozing and not self._place.locked()):
                self._put_away(bell)
                called = True
            else:
                called = bell.acquire(timeout=-1 if self._dozing else _LOOK_IN)
                if not called:
                    self._put_away(bell)
            self._dozing = False
            if self._place.locked():
                called = False
                quiet = quiet + 1 if self.signs == seen else 0
            else:
                called = called or self.signs == seen
                quiet = 0
            seen = self.signs

    def _put_away(self, bell: threading.Lock) -> None:
        try:
            self._bells.remove(bell)
        except ValueError:
            # Another thread rings it at this moment.
            bell.acquire()
