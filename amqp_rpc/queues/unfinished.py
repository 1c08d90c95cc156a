"""Which of the items that one object has put are not done yet: pure, and as small as few of them are left behind.

Items are numbered as they are put. What is remembered are the runs of numbers that are done, and there are no more of
them than items that are not done: a million items that nobody has taken yet need no more room than one, and so does one
that is never done, whatever is done after it.
"""

from __future__ import annotations

from bisect import bisect_right
from threading import Lock

from amqp_rpc.amqp.pending import Outcome


class Unfinished:
    """The items of one object that are not done; any thread may call it, and none holds its lock for long."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._next = 0
        #: The runs of numbers that are done, or were lost sight of: where each begins, and the number after its end.
        #: The first one begins at 0, and may be empty; between two of them something is not done.
        self._starts, self._ends = [0], [0]
        self._count = 0
        self._lost = 0
        self._waiting: list[Outcome[None]] = []

    def add(self) -> int:
        """Count one item more; return its number."""
        with self._lock:
            self._next += 1
            self._count += 1
            return self._next - 1

    def done(self, number: int) -> None:
        """Take note that an item is done, or was not put after all; saying it twice changes nothing."""
        with self._lock:
            if not 0 <= number < self._next or not self._enter(number):
                return
            self._count -= 1
            told = self._all_told()
        _tell(told)

    def lose(self) -> None:
        """Take note that nobody will say of those that are not done yet when they are."""
        with self._lock:
            self._lost += self._count
            self._starts, self._ends, self._count = [0], [self._next], 0
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
        return self._count

    def _enter(self, number: int) -> bool:
        """Enter a number into the runs; return whether it was in none."""
        starts, ends = self._starts, self._ends
        after = bisect_right(starts, number)
        before = after - 1
        if number < ends[before]:
            return False
        joins_before = ends[before] == number
        joins_after = after < len(starts) and starts[after] == number + 1
        if joins_before and joins_after:
            ends[before] = ends[after]
            del starts[after], ends[after]
        elif joins_before:
            ends[before] = number + 1
        elif joins_after:
            starts[after] = number
        else:
            starts.insert(after, number)
            ends.insert(after, number + 1)
        return True

    def _all_told(self) -> list[Outcome[None]]:
        if self._count:
            return []
        told, self._waiting = self._waiting, []
        return told


def _tell(outcomes: list[Outcome[None]]) -> None:
    for outcome in outcomes:
        outcome.tell(None)
