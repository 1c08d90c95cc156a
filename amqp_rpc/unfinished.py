"""Which of the items that one object has put are not done yet: pure, and as small as items are done in their order.

Items are numbered as they are put. All below some number are done, and of those beyond it the ones that are done are
remembered: a million items that nobody has taken yet need no more room than one.
"""

from __future__ import annotations

from threading import Lock

from amqp_rpc.outcome import Outcome


class Unfinished:
    """The items of one object that are not done; any thread may call it, and none holds its lock for long."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._next = 0
        #: All below are done, or were lost sight of; and those beyond that are done.
        self._done_to = 0
        self._beyond: set[int] = set()
        self._lost = 0
        self._waiting: list[Outcome[None]] = []

    def add(self) -> int:
        """Count one item more; return its number."""
        with self._lock:
            self._next += 1
            return self._next - 1

    def done(self, number: int) -> None:
        """Take note that an item is done, or was not put after all; saying it twice changes nothing."""
        with self._lock:
            if not self._done_to <= number < self._next:
                return
            self._beyond.add(number)
            while self._done_to in self._beyond:
                self._beyond.remove(self._done_to)
                self._done_to += 1
            told = self._all_told()
        _tell(told)

    def lose(self) -> None:
        """Take note that nobody will say of those that are not done yet when they are."""
        with self._lock:
            self._lost += self._count()
            self._done_to = self._next
            self._beyond.clear()
            told = self._all_told()
        _tell(told)

    def lost(self) -> int:
        """Return how many were lost sight of since this was last asked."""
        with self._lock:
            lost, self._lost = self._lost, 0
            return lost

    def end(self) -> None:
        """Have nobody wait any more."""
        with self._lock:
            told, self._waiting = self._waiting, []
        _tell(told)

    def outcome(self) -> Outcome[None]:
        """Return what is told once none is left; it is told where that is so already."""
        outcome = Outcome[None]()
        with self._lock:
            self._waiting.append(outcome)
            told = self._all_told()
        _tell(told)
        return outcome

    def forget(self, outcome: Outcome[None]) -> None:
        """Forget one who does not wait any more."""
        with self._lock:
            if outcome in self._waiting:
                self._waiting.remove(outcome)

    def __len__(self) -> int:
        with self._lock:
            return self._count()

    def _count(self) -> int:
        return self._next - self._done_to - len(self._beyond)

    def _all_told(self) -> list[Outcome[None]]:
        if self._count():
            return []
        told, self._waiting = self._waiting, []
        return told


def _tell(outcomes: list[Outcome[None]]) -> None:
    for outcome in outcomes:
        outcome.tell(None)
