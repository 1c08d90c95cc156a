"""How many items come to one object ahead of its takers: few at first, more while they keep up. Pure.

What waits in one process can't be taken in another. So an object is given no more ahead than its takers take in a tenth
of a second, and what waits there for a second or two goes back.
"""

from __future__ import annotations

#: Items ahead at most.
MOST = 256
#: Items that may be taken at the same time, and not done, before the broker has to be asked for room for more.
_MOST_HELD = 16
#: Seconds in which the takers take what is ahead, for more of it.
_KEPT_UP = 0.1
#: Times as many, where there may be more.
_MORE = 4


class Window:
    """One consumer: how many items the broker may deliver to it, and how many of them are not acknowledged."""

    __slots__ = ("count", "open", "ready", "settling", "tag")

    def __init__(self, count: int) -> None:
        self.count = count
        self.open = 0
        #: How many of those are done, and will be acknowledged soon.
        self.settling = 0
        #: Whether the broker has agreed.
        self.ready = False
        self.tag = ""

    @property
    def full(self) -> bool:
        """Whether the broker has delivered all that it may.

        Only then is nothing on its way. What is on its way to a consumer that ends goes back, behind what another one
        gets meanwhile: so one is ended for another only when it is full, and before anything is acknowledged.
        """
        return self.open >= self.count


class Windows:
    """The window by which each item came that is not acknowledged, by its delivery's tag."""

    def __init__(self) -> None:
        self._by_tag: dict[int, Window] = {}

    def __len__(self) -> int:
        return len(self._by_tag)

    def get(self, tag: int) -> Window | None:
        """Return the window of an item; None where it is not known."""
        return self._by_tag.get(tag)

    def came(self, tag: int, window: Window) -> None:
        """Enter an item."""
        window.open += 1
        self._by_tag[tag] = window

    def settles(self, tag: int, *, soon: bool = True) -> None:
        """Take note that an item is done and will be acknowledged soon; or not so soon, after all."""
        if (window := self._by_tag.get(tag)) is not None:
            window.settling += 1 if soon else -1

    def settled(self, tag: int) -> None:
        """Take out one that is acknowledged."""
        if (window := self._by_tag.pop(tag, None)) is not None:
            window.open -= 1
            window.settling -= 1

    def gone(self, tag: int) -> None:
        """Take out one that goes back."""
        if (window := self._by_tag.pop(tag, None)) is not None:
            window.open -= 1

    def clear(self) -> None:
        """Forget all: their channel is closed."""
        self._by_tag.clear()


class Ahead:
    """How many, by how fast they were taken.

    Args:
        now: Seconds on any clock.
    """

    def __init__(self, now: float) -> None:
        #: How many, at this moment.
        self.count = 1
        self._since = now
        self._taken = 0

    def waits(self, taken: int, now: float) -> bool:
        """Take note that a taker has nothing left; return whether there may be more from now on.

        Args:
            taken: How many were taken so far.
            now: Seconds.
        """
        lately = taken - self._taken
        if lately < self.count:
            return False
        took = now - self._since
        self._since, self._taken = now, taken
        more = min(MOST, self.count * _MORE)
        if more == self.count or took / lately * more > _KEPT_UP:
            return False
        self.count = more
        return True

    def held(self) -> None:
        """Take note that all that came is being worked at, and more takers wait."""
        self.count = max(self.count, min(_MOST_HELD, 2 * self.count + 1))

    def wasted(self, lately: int) -> None:
        """Take note that more came than was taken.

        Args:
            lately: How many were taken in the last second.
        """
        self.count = max(1, min(self.count, lately))
