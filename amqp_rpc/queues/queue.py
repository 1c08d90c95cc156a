"""The queue between processes that users hold: the standard library's `queue.Queue`, kept by the broker."""

from __future__ import annotations

import contextlib
import operator
import sys
import threading
import time
import weakref
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from queue import Empty
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, Self, TypedDict, TypeVar

from amqp_rpc.amqp.channel import ChannelClosed
from amqp_rpc.amqp.pending import Wait, blocking, script_of
from amqp_rpc.errors import ConfigurationError, ConnectionLost, NotDone
from amqp_rpc.message.refusals import ReplyCode
from amqp_rpc.message.settings import count
from amqp_rpc.message.text import plural, safe_repr
from amqp_rpc.message.timing import LONGEST, Seconds, seconds_of, whole
from amqp_rpc.message.topology import LONGEST_NAME, dead_letter_arguments, dead_letter_queue, item_arguments
from amqp_rpc.queues import items
from amqp_rpc.queues.get import MOST_PREFETCH, ItemConsumer, Taken
from amqp_rpc.queues.put import NEVER, ItemProducer, to_answer

if TYPE_CHECKING:
    from amqp_rpc.amqp.session import Session
    from amqp_rpc.service.policy import Declare, QueueType

T = TypeVar("T")

#: The default prefetch of an object.
PREFETCH = 100
#: Seconds that `close` gives the broker to handle the last acks.
_CLOSE_TIMEOUT = 5.0
#: A number in a table of AMQP 0-9-1 has 64 bits and a sign (section 4.2.1 of its specification).
_LARGEST = 2**63 - 1


class QueueOptions(TypedDict, total=False):
    """The options of `Client.queue`.

    Args:
        queue_type: ``"quorum"``: kept by a majority of the broker's nodes. ``"classic"``: by one of them, on disk.
        declare: ``"passive"``: another program declares the queue, and it is used as it is, also with a bound.
        prefetch: How many items an object fetches ahead of its takers. With 1, no item waits for a busy taker while
            another one is idle; with more, an item may do so for two seconds, and small items are faster.
    """

    queue_type: QueueType
    declare: Declare
    prefetch: int


class Queue(Generic[T]):
    """A queue for any processes on any machines, as `queue.Queue` is for threads.

    `Client.queue` returns it; any number of threads may use it. It differs from `queue.Queue` where a queue that many
    processes share, and that outlives them, has to:

    - **The broker keeps the items.** `put` returns after the broker's confirm.
    - **Each item may come more than once** (at least once, never zero times): if its consumer dies before `task_done`,
      or the connection is lost between a `put` and its confirm.
    - **`task_done` is not optional.** It removes the item from the queue. Without an argument it means the oldest open
      item of the calling thread; ``task_done(item)`` means that item, of any thread. Closing the object requeues its
      open items.
    - **`join` waits for the items that this object put**, in any process. It can fail: see there.
    - **Counts are of a moment**, and approximate. A quorum queue may exceed ``maxsize`` by some items.
    - **Timeouts are strict.** A `put` without a confirm by then raises a `BrokerError`, which says if the item may be
      there. A `get` without a connection raises `NotConnected`.
    - **Items are data**: numbers, text, bytes, lists, maps, dates (a tuple arrives as a list), never pickled objects.

    docs/queues.md has all of it: order, dead letters, other programs.

    Example:
        >>> with client.queue("numbers") as numbers:  # doctest: +SKIP
        ...     numbers.put(1)
        ...     print(numbers.get())
        ...     numbers.task_done()
    """

    def __init__(
        self,
        session: Session,
        name: str,
        maxsize: int = 0,
        *,
        queue_type: QueueType = "quorum",
        declare: Declare = "active",
        prefetch: int = PREFETCH,
        timeout: float,
        limit: int,
    ) -> None:
        _check(name, maxsize, queue_type, declare)
        prefetch = count("prefetch", prefetch, most=MOST_PREFETCH)
        #: The queue's name, and the bound of waiting items; 0 for no bound.
        self.name: str = name
        self.maxsize: int = max(0, int(maxsize))
        self._session = session
        self._timeout = timeout
        arguments = item_arguments(queue_type, maxsize=self.maxsize)
        declared = arguments if declare == "active" else None
        self._producer = ItemProducer(session, name, declared, timeout=timeout, limit=limit)
        self._consumer = ItemConsumer(
            session,
            name,
            declared,
            dead_letter_arguments(arguments),
            prefetch=prefetch,
            timeout=timeout,
            limit=limit,
        )
        #: True once it was closed.
        self.closed: bool = False
        #: The open items of `get`, by their thread or asyncio task, oldest first.
        self._taken: dict[object, OrderedDict[Taken, None]] = {}
        #: Guards a search in it. A user's ``==`` runs meanwhile, and may call again.
        self._lock = threading.RLock()
        # A collected object that was not closed requeues its items.
        self._finalizer = weakref.finalize(self, self._consumer.abandon)
        self._finalizer.atexit = False

    def __reduce__(self) -> str:
        """Refuse to be sent to another process, as `multiprocessing` does with a process's arguments."""
        raise TypeError(
            f"queue {self.name!r} can't be given to another process: each process makes its own client, and "
            f"client.queue({self.name!r}) there is the same queue"
        )

    @blocking
    async def put(self, item: T, block: bool = True, timeout: Seconds | None = None) -> None:  # noqa: FBT002 - as the stdlib has it
        """Put an item, and return after the broker's confirm.

        Args:
            item: Any value that msgpack and its extensions carry.
            block: Whether to wait while the queue is full.
            timeout: Seconds for all of it, and at most one more for the broker's answer if the queue was full. None
                waits for room without a bound, and gives the broker the client's timeout (30.0) to answer.

        Raises:
            queue.Full: There was no room. With a ``maxsize``, the broker gives the same answer after an error of its
                own, such as the loss of the queue's leader: then the item may be there.
            PublishRefused, NotConnected, AccessRefused: The broker did not accept it. It is not there.
            ConnectionLost: It was sent, and not confirmed in time. It may be there.
            ConfigurationError: The queue exists with other arguments; or this object is closed.
            Unencodable, MessageTooLarge: It can't be sent.
        """
        until = _until(timeout)
        wait = block and _waits(timeout)
        await self._producer.put(item, wait=wait, until=until if wait else NEVER)

    @blocking
    async def put_nowait(self, item: T) -> None:
        """Put an item if there is room: ``put(item, block=False)``. It waits for the broker's confirm all the same."""
        await self._producer.put(item, wait=False, until=NEVER)

    @blocking
    async def put_many(self, items: Iterable[T], timeout: Seconds | None = None) -> None:
        """Put many items, without waiting for each one's confirm before the next: many times as fast.

        Args:
            items: In their order; any iterable, which is read as the broker keeps up.
            timeout: Seconds for all of them: then no more are sent, nor read of an iterable without a length. None as
                for `put`.

        Raises:
            NotAllAccepted: Some are not there, or may not be. ``errors`` has the reasons by their numbers.
            ConfigurationError: The queue exists with other arguments; or this object is closed.
            Unencodable, MessageTooLarge: An item can't be sent; those before it are there. In a full queue, only those
                that found room within a second: a note of the error has their number. The same note is added if the
                iterable raises, or after Ctrl-C.
        """
        await self._producer.put_many(items, until=_until(timeout))

    @blocking
    async def get(self, block: bool = True, timeout: Seconds | None = None) -> T:  # noqa: FBT002 - as the stdlib has it
        """Return an item; `task_done` must follow.

        Args:
            block: Whether to wait for one.
            timeout: Seconds to wait; None for no bound.

        Raises:
            queue.Empty: The queue was empty.
            NotConnected, AccessRefused: It is not known whether there is an item: there is no connection, or the broker
                has not answered yet.
            ConfigurationError: The queue exists with other arguments; or this object is closed.
        """
        taken = await self._consumer.receive(1, wait=block and _waits(timeout), until=_until(timeout))
        with self._lock:
            self._taken.setdefault(_taker(), OrderedDict())[taken] = None
        value: T = taken.value
        return value

    @blocking
    async def get_nowait(self) -> T:
        """Return an item if there is one: ``get(block=False)``. It asks the broker."""
        value: T = await script_of(Queue.get)(self, block=False)
        return value

    @contextlib.contextmanager
    def get_many(self, most: int, timeout: Seconds | None = None) -> Iterator[list[T]]:
        """Get many items in a ``with`` block: done together at its end, or requeued if it raises.

        It waits for the first one, and then gets those that are ready.

        Args:
            most: The most items.
            timeout: Seconds to wait for the first one; None for no bound.

        Raises:
            queue.Empty: The queue was empty.
            NotConnected, AccessRefused, ConfigurationError: As for `get`.

        Example:
            >>> with numbers.get_many(100) as some:  # doctest: +SKIP
            ...     print(sum(some))
        """
        with self.handle(self.take_many(most, timeout)) as values:
            yield values

    @blocking
    async def take_many(self, most: int, timeout: Seconds | None) -> list[Taken]:
        """Return many items, which `handle` acks or requeues: the first half of `get_many`."""
        most = count("most", most)
        some = [await self._consumer.receive(most, wait=_waits(timeout), until=_until(timeout))]
        try:
            with contextlib.suppress(Empty):
                while len(some) < most:
                    some.append(await self._consumer.receive(most - len(some), wait=False, until=0.0))
        except BaseException:
            self._consumer.requeue(some)
            raise
        return some

    @contextlib.contextmanager
    def handle(self, some: list[Taken]) -> Iterator[list[T]]:
        """Ack items at the end of a block, or requeue them if it raises: the second half of `get_many`."""
        try:
            yield [taken.value for taken in some]
        except BaseException:
            self._consumer.requeue(some)
            raise
        self._consumer.settle(some)

    def task_done(self, *item: Any) -> None:
        """Ack an item: it leaves the queue for good, and its producer's `join` counts it.

        If the connection that delivered it was lost meanwhile, the item is redelivered, and done again. That is logged,
        and not raised, since there is nothing to do about it.

        Args:
            item: The item; by default the oldest open one of the calling thread, or asyncio task.

        Raises:
            ValueError: There is no such item: it was called more often than `get`.
        """
        with self._lock:
            taker, taken = self._find(_taker(), *item)
            del self._taken[taker][taken]
            if not self._taken[taker]:
                del self._taken[taker]
        self._consumer.settle([taken])

    @blocking
    async def join(self, timeout: Seconds | None = None) -> None:
        """Wait until every item that this object put is done, in any process.

        Consumers may die, and lose their connections: it keeps waiting. An item that is there twice counts as done with
        the first of them, and an unreadable one when it is dead-lettered. Some items are never done: those that a
        program without this library gets, that are purged, or that are deleted with their queue. Only a timeout ends
        that wait.

        Args:
            timeout: Seconds to wait; None for no bound.

        Raises:
            NotDone: Some were not done in time (a `TimeoutError`).
            ConnectionLost: This client's reply queue was lost, alone or with its connection, after some items were put:
                it will never be known whether they are done. All others are. The error has their number. It is raised
                once.
            ConfigurationError: This object is closed.
        """
        until, unfinished = _until(timeout), self._producer.unfinished
        # In this order: `close` wakes all that wait by then.
        outcome = unfinished.outcome()
        while not (self.closed or outcome.done()) and time.monotonic() < until:
            await Wait(outcome, min(until, time.monotonic() + LONGEST))
        left = len(unfinished)
        if left and self.closed:
            raise items.closed(self.name)
        # Others may have been put since all were done.
        if left and not outcome.done():
            raise NotDone(
                f"of queue {self.name!r} {plural(left, 'item was', 'items were')} not done within "
                f"{seconds_of(timeout):g} s"
            )
        if lost := unfinished.lost():
            raise ConnectionLost(
                f"it is not known whether {plural(lost, 'item is', 'items are')} done in queue {self.name!r}: the "
                "reply queue for their receipts was lost. The items themselves are not lost"
            )

    @blocking
    async def qsize(self) -> int:
        """Return the number of waiting items: those ready at the broker, and those prefetched here.

        Open items, and those that other objects have prefetched, are not counted. A queue that does not exist has none.

        Raises:
            BrokerError: No connection, no permission, or no answer in time.
        """
        return await self._ready() + self._consumer.prefetched

    @blocking
    async def empty(self) -> bool:
        """Return whether `qsize` is 0."""
        return await self._ready() + self._consumer.prefetched == 0

    @blocking
    async def full(self) -> bool:
        """Return whether as many items as ``maxsize`` are ready at the broker, which refuses more then."""
        return bool(self.maxsize) and await self._ready() >= self.maxsize

    @blocking
    async def close(self) -> None:
        """Close this object: ack the done items, and requeue the open and the prefetched ones.

        They are back in the queue, in their order, when this returns: another consumer goes on with them.
        """
        if not self.closed:
            self.closed = self._producer.shut = True
            self._finalizer.detach()
            self._producer.unfinished.end()
            await self._consumer.stop(_CLOSE_TIMEOUT)
            self._taken.clear()

    def __iter__(self) -> Iterator[T]:
        """Yield one item after another, until this object is closed; each needs its `task_done`."""
        while True:
            try:
                item = self.get()
            except ConfigurationError:
                if self.closed:
                    return
                raise
            yield item

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @safe_repr
    def __repr__(self) -> str:
        return f"Queue({self.name!r}{f', maxsize={self.maxsize}' if self.maxsize else ''})"

    async def _ready(self) -> int:
        """Return the number of items that are ready at the broker."""
        if self.closed:
            raise items.closed(self.name)
        return await self._session.script(self._count(), timeout=to_answer(self._timeout))

    async def _count(self) -> int:
        with await self._session.open_channel() as channel:
            try:
                return (await channel.inspect(self.name)).messages
            except ChannelClosed as closed:
                if closed.code == ReplyCode.NOT_FOUND:
                    return 0
                raise

    def _find(self, taker: object, *item: Any) -> tuple[object, Taken]:
        mine = self._taken.get(taker, OrderedDict())
        if not item:
            if mine:
                return taker, next(iter(mine))
            if self._taken:
                raise ValueError(
                    "task_done() called too many times by this thread; the open items are those of other threads: name "
                    "one, task_done(item)"
                )
            raise ValueError("task_done() called too many times")
        [value] = item
        candidates = [(taker, each) for each in mine]
        candidates += [(other, each) for other, theirs in self._taken.items() if other is not taker for each in theirs]
        for same in (operator.is_, operator.eq):
            for found in candidates:
                if same(found[1].value, value):
                    return found
        raise ValueError("task_done() of an item that get() did not return, or that is done")


def _taker() -> object:
    """Return the asyncio task that runs here; else the thread."""
    asyncio = sys.modules.get("asyncio")
    try:
        task = None if asyncio is None else asyncio.current_task()
    except RuntimeError:
        task = None
    return task or threading.current_thread()


def _until(timeout: Seconds | None) -> float:
    """Return when a timeout is over, on the monotonic clock.

    Raises:
        ValueError: It is negative, or no number, as in the standard library.
    """
    if timeout is None:
        return NEVER
    seconds = seconds_of(timeout)
    if seconds is None or not seconds >= 0:
        raise ValueError(f"'timeout' must be a non-negative number, not {timeout!r}")
    return time.monotonic() + min(seconds, LONGEST)


def _waits(timeout: Seconds | None) -> bool:
    """Return whether a timeout is not 0, which asks once."""
    return timeout is None or bool(timeout)


def _check(name: str, maxsize: int, queue_type: str, declare: str) -> None:
    if not isinstance(name, str) or not name:
        raise ConfigurationError(f"a queue has a name, not {name!r}")
    try:
        size = len(dead_letter_queue(name).encode())
    except UnicodeEncodeError as error:
        raise ConfigurationError(f"a queue's name in AMQP is text in UTF-8, which {name!r} is not") from error
    if size > LONGEST_NAME:
        raise ConfigurationError(
            f"{name[:40]!r}…: a name in AMQP has at most {LONGEST_NAME} bytes, with '.dead' behind"
        )
    if whole(maxsize) is None:
        raise ConfigurationError(f"maxsize is a whole number, not {maxsize!r}")
    if maxsize > _LARGEST:
        raise ConfigurationError(f"maxsize in AMQP is at most {_LARGEST}, not {maxsize}; 0 is no bound")
    if queue_type not in ("quorum", "classic"):
        raise ConfigurationError(f'queue_type is "quorum" or "classic", not {queue_type!r}')
    if declare not in ("active", "passive"):
        raise ConfigurationError(
            'declare is "active" (this program declares the queue) or "passive" (another program declares it, and this '
            f"one uses it as it is), not {declare!r}"
        )
    if declare == "passive" and maxsize > 0:
        raise ConfigurationError(
            'maxsize= is for a queue that this program declares; with declare="passive" another program declares it'
        )
