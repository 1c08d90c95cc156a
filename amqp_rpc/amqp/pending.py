"""Values that are known later: an `Outcome` is one of them, `InFlight` a table of those in flight. Pure: no socket.

A `concurrent.futures.Future` can do more than an `Outcome` (be cancelled, be waited for with others) and costs ten
times as much to make and to end, which matters where a hundred thousand messages wait for the broker's confirms.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Coroutine, Generator, Iterator
from functools import wraps
from threading import Lock
from typing import Any, Concatenate, Generic, ParamSpec, Protocol, TypeVar

P = ParamSpec("P")
R = TypeVar("R")
S = TypeVar("S")
T = TypeVar("T")


class Outcome(Generic[T]):
    """A value that is set once, by any thread, and that any thread may wait for.

    Two threads that set it at the same time have to set the same: either is kept.
    """

    __slots__ = ("_known", "_waiters", "value")

    def __init__(self) -> None:
        self._known = False
        self._waiters: list[Callable[[], object]] = []

    def done(self) -> bool:
        """Return whether ``value`` is set."""
        return self._known

    def tell(self, value: T) -> None:
        """Set the value, unless it is set already, and wake all waiters."""
        if self._known:
            return
        #: It exists once `done` is true.
        self.value: T = value
        # In this order: a thread that began to wait before this sees it, or is in the list and is woken below.
        self._known = True
        while self._waiters:
            try:
                waiter = self._waiters.pop(0)
            except IndexError:
                return  # another thread has woken the last of them
            waiter()

    def on_done(self, callback: Callable[[], object]) -> None:
        """Call back once the value is set, on the thread that sets it; at once where it is set already."""
        self._waiters.append(callback)
        if self._known and self.forget(callback):
            callback()

    def wait(self, until: float) -> bool:
        """Wait for the value, at most until that time on the monotonic clock; return whether it is set."""
        if self._known:
            return True
        bell = Lock()
        bell.acquire()
        self._waiters.append(bell.release)
        if not self._known:
            bell.acquire(timeout=max(0.0, until - time.monotonic()))
        self.forget(bell.release)
        return self._known

    def forget(self, callback: Callable[[], object]) -> bool:
        """Do not call back; return False where it is called already, or about to be."""
        try:
            self._waiters.remove(callback)
        except ValueError:
            return False  # the thread that sets the value has it
        return True


class Wait:
    """A step of a user's script (`blocking`): wait for an outcome, at most until a time on the monotonic clock."""

    __slots__ = ("outcome", "until")

    def __init__(self, outcome: Outcome[Any], until: float) -> None:
        self.outcome: Outcome[Any] = outcome
        self.until: float = until

    def __await__(self) -> Generator[Wait, None, bool]:
        """Return whether the outcome is there."""
        if not self.outcome.done():
            yield self
        return self.outcome.done()


class Work:
    """A step of a user's script: work that may block, though not for the broker.

    A thread that runs the script does the work itself; an event loop has it done beside it.
    """

    __slots__ = ("_result", "function")

    def __init__(self, function: Callable[[], object]) -> None:
        self.function: Callable[[], object] = function
        self._result: Any = None

    def run(self) -> None:
        """Do the work."""
        self._result = self.function()

    def __await__(self) -> Generator[Work, None, Any]:
        """Return the function's result."""
        yield self
        return self._result


class Turn:
    """A step of a user's script: let an event loop do other work, in the middle of a long loop."""

    __slots__ = ()

    def __await__(self) -> Generator[Turn, None, None]:
        yield self


def blocking(script: Callable[Concatenate[S, P], Coroutine[Any, None, R]]) -> Callable[Concatenate[S, P], R]:
    """Make a blocking method of a script, an ``async def`` that awaits `Wait`, `Work`, `Turn` and other scripts only.

    The method runs the script on the calling thread, which blocks where the script waits: ``finish`` of the object's
    ``_session``. The clients for asyncio run the same script on their event loop: `script_of`.
    """

    @wraps(script)
    def method(self: Any, /, *args: P.args, **kwargs: P.kwargs) -> R:
        result: R = self._session.finish(script(self, *args, **kwargs))
        return result

    method.script = script  # type: ignore[attr-defined] # see `script_of`
    return method


def script_of(method: Any) -> Any:
    """Return the script of which `blocking` made a method."""
    return method.script


class Bounded(Protocol):
    """An entry of a table."""

    expires_at: float


E = TypeVar("E", bound=Bounded)


class InFlight(Generic[E]):
    """A table of calls, or of publications, that wait for an answer, by their ids.

    The thread that takes an entry out of the table is the one that ends it. Every exit (reply, timeout, cancellation,
    return, loss) goes through `take`, so that an entry ends once and leaves nothing behind.

    Any thread may call `add` and `take`, which are single dictionary operations, and CPython does those whole. The rest
    belongs to the connection's I/O thread, which calls `watch` for every entry that it sees.

    Args:
        on_taken: Called with each entry that leaves the table, by the thread that takes it.
    """

    def __init__(self, *, on_taken: Callable[[E], object] = lambda _entry: None) -> None:
        self._entries: dict[str, E] = {}
        self._on_taken = on_taken
        #: No entry expires before this time: it saves a look at all of them.
        self._earliest = float("inf")

    def add(self, identity: str, entry: E) -> None:
        """Enter a call or a publication."""
        self._entries[identity] = entry

    def watch(self, entry: E) -> None:
        """Include an entry in the bound of `earliest`."""
        self._earliest = min(self._earliest, entry.expires_at)

    def take(self, identity: Any) -> E | None:
        """Remove an entry and return it; None where it has ended already, or never was."""
        entry = self._entries.pop(identity, None)
        if entry is not None:
            self._on_taken(entry)
        return entry

    def get(self, identity: Any) -> E | None:
        """Return an entry, which stays; None where it has ended already, or never was."""
        return self._entries.get(identity)

    def expired(self, now: float) -> Iterator[E]:
        """Remove the entries whose time is over, one by one, and yield each: it can be ended before the next one."""
        if now < self._earliest:
            return
        self._earliest = float("inf")
        for identity, entry in self:
            if entry.expires_at > now:
                self._earliest = min(self._earliest, entry.expires_at)
            elif (taken := self.take(identity)) is not None:
                yield taken

    @property
    def earliest(self) -> float:
        """A time before which no entry expires."""
        return self._earliest

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[tuple[str, E]]:
        # Other threads add and take meanwhile: CPython copies a dictionary whole, but not its items as pairs.
        return iter(self._entries.copy().items())
