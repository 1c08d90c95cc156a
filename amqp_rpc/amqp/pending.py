"""The calls under way, by correlation id; pure: no socket, no thread, no clock.

Whoever takes a call out of the table is the one who ends it. Every exit (reply, timeout, cancellation, return, loss)
goes through `take`, so that a call ends once and leaves nothing behind.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Generic, Protocol, TypeVar


class Bounded(Protocol):
    """What the table needs to know of a call: until when it may stay."""

    expires_at: float


C = TypeVar("C", bound=Bounded)


class PendingCalls(Generic[C]):
    """A table of calls that are waiting for an answer.

    Args:
        on_taken: Called with each call that leaves the table, by whoever takes it.

    Threads: any may call `add` and `take`, which are single dictionary operations, and CPython does those whole. The
    rest belongs to the connection's owner, who calls `watch` for every call that it hears of.
    """

    def __init__(self, *, on_taken: Callable[[C], object] = lambda _call: None) -> None:
        self._calls: dict[str, C] = {}
        self._on_taken = on_taken
        #: No call expires before this time: it saves looking at them all.
        self._earliest = float("inf")

    def add(self, identity: str, call: C) -> None:
        """Enter a call."""
        self._calls[identity] = call

    def watch(self, call: C) -> None:
        """Include a call in the bound of `earliest`."""
        self._earliest = min(self._earliest, call.expires_at)

    def take(self, identity: Any) -> C | None:
        """Remove a call and return it; None where it has ended already, or never was."""
        call = self._calls.pop(identity, None)
        if call is not None:
            self._on_taken(call)
        return call

    def get(self, identity: Any) -> C | None:
        """Return a call, which stays; None where it has ended already, or never was."""
        return self._calls.get(identity)

    def expired(self, now: float) -> Iterator[C]:
        """Remove the calls whose time is over, one by one, and yield each: it can be ended before the next is taken."""
        if now < self._earliest:
            return
        self._earliest = float("inf")
        for identity, call in list(self._calls.items()):
            if call.expires_at > now:
                self._earliest = min(self._earliest, call.expires_at)
            elif (taken := self.take(identity)) is not None:
                yield taken

    @property
    def earliest(self) -> float:
        """A time before which no call expires."""
        return self._earliest

    def __len__(self) -> int:
        return len(self._calls)

    def __iter__(self) -> Iterator[tuple[str, C]]:
        return iter(list(self._calls.items()))
