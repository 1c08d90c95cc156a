"""A queue between processes, in a user's hands: the standard library's `queue.Queue`, kept by the broker."""

from __future__ import annotations

import contextlib
import time
import weakref
from collections.abc import Iterable, Iterator
from queue import Empty
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar

from amqp_rpc.client.verdicts import closed
from amqp_rpc.errors import ConfigurationError, ConnectionLost, NotDone
from amqp_rpc.message.settings import count
from amqp_rpc.message.text import plural
from amqp_rpc.message.timing import LONGEST
from amqp_rpc.queues.get import Getting
from amqp_rpc.queues.put import NEVER, Putting, to_answer

if TYPE_CHECKING:
    from amqp_rpc.client.rpc import Caller
    from amqp_rpc.queues.receipts import Receipts

T = TypeVar("T")

#: Seconds that a thread waits at most before it looks whether its connection is still one.
_LOOK = 5.0
#: Seconds that `close` gives the broker to take what is done.
_CLOSE_TIMEOUT = 5.0


class Queue(Generic[T]):
    """A queue that any process on any machine puts into and takes from, as threads do with `queue.Queue`.

    `Client.queue` returns it; any number of threads may use it. The broker keeps the items: on disk, on a majority of
    its nodes where the queue is a quorum one. `put` returns once the broker has confirmed that. An item is its queue's
    until somebody who took it calls `task_done`: if their process or their connection dies before that, it goes to
    another taker. Closing the object, the end of a ``with`` block too, gives back what was taken and not done.

    It differs from `queue.Queue` where a queue that many processes share, and that outlives them, has to:

    - **Each item may come more than once** (at least once, never zero times): when its taker dies before `task_done`,
      and when the connection is lost between a `put` and its confirm, for it is published again then.
    - **`task_done` is not optional.** It is what takes an item out of the queue. It means the oldest item that the
      calling thread has taken and is not done with; ``task_done(item)`` means that one, whoever took it.
    - **`join` waits for what this object put**, wherever that is taken. The stdlib's waits for all items of the queue,
      which nobody knows of here. It can fail: see there.
    - **Order** is first in, first out, as long as all that is taken gets done: takers that follow one another, each
      after the other is closed, go on where it ended, and one that rests goes on where it was. Not in order is what
      comes again after it was taken (given back, of a taker that died, of a connection that was lost), what has come
      ahead of a taker that was busy with one item for a second or two, and what `put_many` puts into a full queue.
    - **Counts are of a moment**, and approximate: `qsize` does not count what other processes have fetched ahead. A
      quorum queue may go over ``maxsize`` by some items, as the broker checks the bound a moment after.
    - **A timeout is over when it is over**: a `put` that could not be confirmed by then raises a `BrokerError` that
      says whether the item may be there, and a `get` without a connection, or an answer of the broker, raises
      `NotConnected`, for then it isn't known whether the queue is empty.
    - **Items are data**: numbers, text, bytes, lists, maps, dates and so on (a tuple arrives as a list), never pickled
      objects. What another program puts is read by its content type: msgpack, JSON or text. What can't be read
      becomes a dead letter, with a line in the log, and the next item is returned.

    Args:
        caller: The client's.
        receipts: The client's.
        name: The queue's.
        arguments: Those with which it is declared.
        maxsize: Items that may wait in it; 0 for no bound.
        timeout: Seconds for the broker to answer, where no other time is given; what is left to a call, where one
            is being handled and that is less.
        limit: Bytes of an item at most.

    Example:
        >>> with client.queue("numbers") as numbers:  # doctest: +SKIP
        ...     numbers.put(1)
        ...     print(numbers.get())
        ...     numbers.task_done()
    """

    def __init__(
        self,
        caller: Caller,
        receipts: Receipts,
        name: str,
        arguments: dict[str, Any],
        *,
        maxsize: int,
        timeout: float,
        limit: int,
    ) -> None:
        #: The queue's name, and the bound that it was made with.
        self.name = name
        self.maxsize = maxsize
        self._caller = caller
        self._timeout = timeout
        self._putting = Putting(
            caller, receipts, name, arguments, maxsize=maxsize, timeout=timeout, limit=limit
        )  # fmt: skip
        self._getting = Getting(caller, receipts, name, arguments, timeout=timeout, limit=limit)
        self._closed = False
        # Who drops it without closing it gives back what it holds.
        self._finalizer = weakref.finalize(self, self._getting.taking.abandon)
        self._finalizer.atexit = False

    def __reduce__(self) -> str:
        """Refuse to be sent to another process, as `multiprocessing` does with what a process is given."""
        raise TypeError(
            f"queue {self.name!r} can't be given to another process: each process makes its own client, and "
            f"client.queue({self.name!r}) there is the same queue"
        )

    def put(self, item: T, block: bool = True, timeout: float | None = None) -> None:  # noqa: FBT002 - as the stdlib has it
        """Put an item, and return once the broker has confirmed that it is safe.

        Args:
            item: Anything that msgpack and its extensions carry.
            block: Whether to wait while the queue is full.
            timeout: Seconds for all of it, and at most one more for the answer to what was sent to a full queue. None
                waits for room without a bound, and gives the broker the client's timeout (30.0) to answer.

        Raises:
            queue.Full: There was no room. With a ``maxsize``, the broker says the same where an error of its own kept
                it from taking the item, when its queue's leader was lost perhaps: then it may be there.
            PublishRefused, NotConnected, AccessRefused: The broker did not take it. It is not there.
            ConnectionLost: It was sent, and not confirmed in time. It may be there.
            ConfigurationError: The queue is there, and was declared in another way; or this object is closed.
            Unencodable, MessageTooLarge: It can't be sent.
        """
        seconds = _checked(timeout)
        wait = block and seconds != 0
        self._putting.put(item, wait=wait, until=_until(seconds) if wait else NEVER)

    def put_nowait(self, item: T) -> None:
        """Put an item if there is room: ``put(item, block=False)``. It waits for the broker's confirm all the same."""
        self.put(item, block=False)

    def put_many(self, items: Iterable[T], timeout: float | None = None) -> None:
        """Put many items, without waiting for each one's confirm before the next: many times as fast.

        Args:
            items: In their order; any iterable, which is read as the broker keeps up.
            timeout: Seconds for all of them: then nothing more is sent, nor read of an iterable that has no length.
                None as for `put`.

        Raises:
            NotAllAccepted: Some are not there, or may not be. ``errors`` says which, by their numbers, and why.
            ConfigurationError: The queue is there, and was declared in another way; or this object is closed.
            Unencodable, MessageTooLarge: An item can't be sent; those before it are there. Of a full queue, only those
                for which there was room within a second: a note of the error says how many, as it does where the
                iterable raises, or Ctrl-C is pressed.
        """
        self._putting.put_many(items, until=_until(_checked(timeout)))

    def get(self, block: bool = True, timeout: float | None = None) -> T:  # noqa: FBT002 - as the stdlib has it
        """Take an item; `task_done` is to follow.

        The first one of an object takes some milliseconds. Items come ahead of the takers, one at first and more while
        they keep up, and go back when they have waited for a second or two.

        Args:
            block: Whether to wait for one.
            timeout: Seconds to wait; None for no bound.

        Raises:
            queue.Empty: There was none.
            NotConnected, AccessRefused: There is no connection, or the broker has not answered yet (the first time,
                and when what came has gone back, it is asked a few things), so it is not known whether there is one.
            ConfigurationError: The queue is there, and was declared in another way; or this object is closed.
        """
        seconds = _checked(timeout)
        value: T = self._getting.get(wait=block and seconds != 0, until=_until(seconds))
        return value

    def get_nowait(self) -> T:
        """Take an item if there is one: ``get(block=False)``. The broker is asked whether there is."""
        return self.get(block=False)

    @contextlib.contextmanager
    def get_many(self, most: int, timeout: float | None = None) -> Iterator[list[T]]:
        """Take many items in a ``with`` block: done together at its end, or given back where it raises.

        It waits for the first one, and then takes what else is there.

        Args:
            most: How many at most.
            timeout: Seconds to wait for the first one; None for no bound.

        Raises:
            queue.Empty: There was none.
            NotConnected, AccessRefused, ConfigurationError: As for `get`.

        Example:
            >>> with numbers.get_many(100) as some:  # doctest: +SKIP
            ...     print(sum(some))
        """
        count("most", most)
        seconds = _checked(timeout)
        some = [self._getting.take(most, wait=seconds != 0, until=_until(seconds))]
        try:
            with contextlib.suppress(Empty):
                while len(some) < most:
                    some.append(self._getting.take(most - len(some), wait=False, until=0.0))
            yield [taken.value for taken in some]
        except BaseException:
            self._getting.give_back(some)
            raise
        self._getting.settle(some)

    def task_done(self, *item: Any) -> None:
        """Say that an item is done: it leaves the queue for good, and who put it may hear of it in `join`.

        Where the connection by which it came is lost meanwhile, the item is another taker's: it is done again. That is
        logged, and not raised, since there is nothing to do about it.

        Args:
            item: Which; unless given, the oldest that the calling thread has taken and is not done with.

        Raises:
            ValueError: There is no such item: it was called more often than `get`.
        """
        self._getting.done(*item)

    def join(self, timeout: float | None = None) -> None:
        """Wait until every item that this object put is done, wherever it was taken.

        That takers die, that connections of takers or of this object's client are lost, and that the broker is
        restarted or killed, changes nothing in that. It is over all the same where it can't be known any more: see
        `ConnectionLost`. An item that is there twice counts as done with the first of them, and one that could not be
        read counts as done when it is a dead letter. What a program without this library takes is never done, nor is
        what somebody purges or deletes with its queue: then only a timeout ends it.

        Args:
            timeout: Seconds to wait; None for no bound.

        Raises:
            NotDone: Some were not done in time (a `TimeoutError`).
            ConnectionLost: Of some it is not known whether they are done, and never will be: the queue by which this
                client hears of it is gone. It is the client's own, and outlives a lost connection by ten minutes; it is
                gone if somebody deletes it, if its node leaves the cluster, or if the broker is killed within a second
                of its first `put`. All others are done. It is raised once.
            ConfigurationError: This object is closed.
        """
        until = _until(_checked(timeout))
        unfinished = self._putting.unfinished
        outcome = unfinished.outcome()
        try:
            while not outcome.done() and not self._closed and time.monotonic() < until:
                self._caller.wait(outcome, min(until, time.monotonic() + _LOOK))
        finally:
            unfinished.forget(outcome)
        left = len(unfinished)
        if left and self._closed:
            raise ConfigurationError(closed(self.name))
        # Others may have been put since all were done.
        if left and not outcome.done():
            raise NotDone(
                f"of queue {self.name!r} {plural(left, 'item was', 'items were')} not done within {timeout:g} s"
            )
        if lost := unfinished.lost():
            raise ConnectionLost(
                f"it is not known of {plural(lost, 'item', 'items')} of queue {self.name!r} whether they are done: the "
                "broker has lost the queue where takers say so. They are not lost themselves"
            )

    def qsize(self) -> int:
        """Return how many items wait: those that the broker has ready, and those that have come to this object ahead.

        What was taken is not counted, nor what has come to other objects ahead. A queue that is not there has none.

        Raises:
            BrokerError: No connection, no permission, or no answer in time.
        """
        return self._ready() + self._getting.ahead

    def empty(self) -> bool:
        """Return whether `qsize` is 0."""
        return self.qsize() == 0

    def full(self) -> bool:
        """Return whether as many items as ``maxsize`` are ready at the broker, which refuses more then."""
        return bool(self.maxsize) and self._ready() >= self.maxsize

    def close(self) -> None:
        """Take and put no more: what is done is acknowledged, and what was taken and not done goes back to the queue.

        What has come ahead is back in its order when this returns: another taker goes on with it.
        """
        if self._closed:
            return
        self._closed = self._putting.closed = True
        self._finalizer.detach()
        self._putting.unfinished.end()
        self._getting.close(_CLOSE_TIMEOUT)

    def __iter__(self) -> Iterator[T]:
        """Take one item after another, for ever, or until it is closed; each needs its `task_done`."""
        while True:
            try:
                item = self.get()
            except ConfigurationError:
                if self._closed:
                    return
                raise
            yield item

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Queue({self.name!r}{f', maxsize={self.maxsize}' if self.maxsize else ''})"

    def _ready(self) -> int:
        if self._closed:
            raise ConfigurationError(closed(self.name))
        with self._caller.converse(to_answer(self._timeout)) as conversation:
            state = conversation.inspect(self.name)
        return 0 if state is None else state.messages


def _checked(timeout: float | None) -> float | None:
    """Return a timeout, at most the longest that there is.

    Raises:
        ValueError: It is negative, or no number, as in the standard library.
    """
    if timeout is None:
        return None
    if isinstance(timeout, bool) or not isinstance(timeout, int | float) or not timeout >= 0:
        raise ValueError(f"'timeout' must be a non-negative number, not {timeout!r}")
    return min(float(timeout), LONGEST)


def _until(seconds: float | None) -> float:
    return NEVER if seconds is None else time.monotonic() + seconds
