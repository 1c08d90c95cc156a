"""Which thread waits at the sockets: the owner, unless another that waits for an answer is there. No I/O of its own.

One that waits there reads its answer itself; no other has to be woken, for it or by it, and on most machines waking a
thread takes longer than all the rest of a call. The owner leaves the sockets to such a thread and stands by: it looks
in every few milliseconds, and stays when nobody was there meanwhile. So what the connection itself needs (heartbeats,
deadlines) is late by no more than two such looks, whatever the other does.

The shape is known as leader and followers: Schmidt and others, "Leader/Followers", Pattern Languages of Programs 2000.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from threading import get_ident

NEVER = float("inf")
#: Seconds between two looks of the owner, while others lead; and how many of them without news until it dozes.
_LOOK_IN = 0.005
_QUIET = 20
#: Seconds in which one that asks again would lead often; and within which the owner leaves, if it does.
_SOON = 0.01
_LEAVES = 0.05


def _never() -> bool:
    return False


class Leadership:
    """One place at the sockets, for the owner or another thread.

    Args:
        turn: Waits at the sockets once, until something happens or that time on the monotonic clock, and sees to it;
            does not wait where what it was to wait for is done.
        wake: Ends the wait of who is blocked in a turn.
        works_here: Returns whether the calling thread is inside of a turn, further down on its stack.
        relieved: Called, with the place taken, each time that the owner comes to the sockets.
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
        #: Who has it, where it is not the owner.
        self._holder = 0
        #: The thread that had it last and has said that it returns.
        self.returning = 0
        #: The owner, while it stands by: who takes its bell out of here rings it.
        self._bells: list[threading.Lock] = []
        #: Whether it stands by until it is rung: somebody waits at the sockets for long.
        self._dozing = False
        #: Whether somebody waits for the owner to leave, and when somebody would have led the last time.
        self._wanted = False
        self._asked = 0.0
        #: Counts what others do: from look to look it tells whether they are still about.
        self.signs = 0
        self._ended = False

    def lead(self, done: Callable[[], object], until: float, *, returns: bool) -> bool:
        """Lead until something is done, or that time; any thread.

        Returns:
            Whether it could. The owner leaves for one that asks again soon: for a single answer it isn't worth it.
        """
        me = get_ident()
        if self._ended or not (self._place.acquire(blocking=False) or self._take_over()):
            if self._holder == me and not self._works_here():
                # A signal handler, while its thread waits there already.
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
        """Have the owner lead again, where nobody does; any thread."""
        if self._bells:
            try:
                self._bells.pop().release()
            except IndexError:
                return  # somebody else has just rung it

    def own(self) -> None:
        """Be the owner, until `end`."""
        self._ended = False
        while not self._ended:
            with self._place:
                self._wanted, self.returning = False, 0
                self._relieved()
                while not (self._ended or self._wanted):
                    self._turn(_never, NEVER)
            self._stand_by()

    def end(self) -> None:
        """Have everybody leave; who is blocked in a turn must be woken besides."""
        self._ended = True
        self.recall()

    def nobody(self) -> threading.Lock:
        """Return the lock of the place: who holds it knows that nobody is at the sockets."""
        return self._place

    def _take_over(self) -> bool:
        """Have the owner leave the place to the calling thread; return whether it did."""
        before, self._asked = self._asked, time.monotonic()
        if self._holder or self._works_here() or self._asked - before > _SOON:
            return False
        # In this order: it must find that it is wanted when it is awake.
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
        """Wait until nobody leads any more, has been away for long, or the owner is called."""
        bell = threading.Lock()
        bell.acquire()
        seen, quiet, called = self.signs, 0, False
        while not self._ended and not called:
            self._bells.append(bell)
            # In this order: who leaves, or ends all, after these looks finds the bell, or sees that the owner dozes.
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
            # It is being rung at this moment.
            bell.acquire()
