"""From the connection's I/O thread to event loops: calls as asyncio futures, and scripts that asyncio runs.

An event loop is woken once for all that has arrived meanwhile, not once for each. Nothing here takes a thread, but for
what takes long: looks into a store of results, and large bodies to decode. Those have threads of their own.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
import weakref
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial, wraps
from queue import Empty
from types import TracebackType
from typing import TYPE_CHECKING, Any, Concatenate, Generic, ParamSpec, Self, TypeVar

from amqp_rpc.amqp.pending import Wait, Work, script_of
from amqp_rpc.client.call import GRACE, Call, Room
from amqp_rpc.client.reply import Reply, read_elsewhere
from amqp_rpc.client.rpc import Caller
from amqp_rpc.client.task import TaskHandle
from amqp_rpc.errors import AmqpRpcError, ConfigurationError
from amqp_rpc.message.codec import LARGE
from amqp_rpc.message.envelope import PublishedEvent
from amqp_rpc.message.text import bounded_logger, safe_repr
from amqp_rpc.ops.dead_letters import DeadLetters
from amqp_rpc.queues.queue import Queue
from amqp_rpc.results.record import State

if TYPE_CHECKING:
    from amqp_rpc.ops.listen import EventTap

logger: logging.Logger = bounded_logger(__name__)

P = ParamSpec("P")
R = TypeVar("R")
S = TypeVar("S")
T = TypeVar("T")
F = TypeVar("F", bound="Front[Any]")

NEVER = float("inf")
#: Threads for looks into a store of results, and for large results of tasks and items of queues.
_STORE_THREADS = 4


class Bridge:
    """Brings futures that have ended to one event loop, as many as there are with one wake-up."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._arrived: deque[asyncio.Future[Any]] = deque()
        self._woken = False
        #: Calls that have been sent, and the time at which they are looked through for late ones.
        self.sent: set[AwaitedCall] = set()
        self._look_at = NEVER

    def post(self, future: asyncio.Future[Any]) -> None:
        """Have a future ended on the event loop: an `AwaitedCall` by itself, another one with None; any thread."""
        self._arrived.append(future)
        if not self._woken:
            self._woken = True
            # An event loop that is closed has no one who waits.
            with contextlib.suppress(RuntimeError):
                self.loop.call_soon_threadsafe(self._drain)

    def _drain(self) -> None:
        # In this order: a thread that appends after the last look sees the flag, and wakes the event loop again.
        self._woken = False
        decoded = 0
        while self._arrived:
            if decoded > LARGE:
                # The deadlines of others have their turn.
                self._woken = True
                self.loop.call_soon(self._drain)
                return
            future = self._arrived.popleft()
            if isinstance(future, AwaitedCall):
                decoded += future.arrive()
            elif not future.done():
                future.set_result(None)

    def guard(self, call: AwaitedCall) -> None:
        """End a call soon after its deadline, unless the I/O thread does: it may be late, or stuck in a name look-up.

        One timer is enough for all: it costs each call next to nothing.
        """
        self.sent.add(call)
        if call.expires_at < self._look_at:
            self._look_at = call.expires_at
            self.loop.call_later(call.timeout + GRACE, self._end_late)

    def _end_late(self) -> None:
        late = time.monotonic() - GRACE
        self._look_at = NEVER
        for call in list(self.sent):
            if call.expires_at <= late:
                call.expire()
            else:
                self._look_at = min(self._look_at, call.expires_at)
        if self._look_at < NEVER:
            self.loop.call_later(self._look_at - late, self._end_late)


_latest: Bridge | None = None


def bridge_of(loop: asyncio.AbstractEventLoop) -> Bridge:
    """Return the bridge to an event loop; most programs have one."""
    global _latest  # noqa: PLW0603 - one for all clients, so that a burst wakes the event loop once
    bridge = _latest
    if bridge is None or bridge.loop is not loop:
        bridge = _latest = Bridge(loop)
    return bridge


class AwaitedCall(Call, asyncio.Future[Any]):
    """A call in flight as an `asyncio.Future` of the running event loop."""

    _caller: Caller
    _bridge: Bridge
    #: Its place in the line, while it has no room among the calls in flight.
    _room: Room | None = None
    #: Its end, as it has come; a large reply is a future while another thread decodes it.
    _outcome: Reply | AmqpRpcError | Future[Any] | None = None
    #: Ends it while it is in the line.
    _timer: asyncio.TimerHandle | None = None

    done = asyncio.Future.done

    def submit(self, caller: Caller, *, awaited: bool = False) -> None:  # noqa: ARG002 - no thread waits for it
        """Send it, now or when it has room."""
        self._caller = caller
        loop = self.get_loop()
        self._bridge = bridge_of(loop)
        self._caller.check_process()
        room = self._caller.capacity.take(len(self.body))
        if room is None:
            self._caller.send(self, awaited=False)
            self._bridge.guard(self)
        else:
            self._room = room
            self._timer = loop.call_later(self.timeout, self.expire)
            room.on_done(partial(self._bridge.post, self))

    def answer(self, reply: Reply) -> None:
        """End it with its reply; any thread that has taken it."""
        self._outcome = reply
        self._bridge.post(self)

    def fail(self, error: AmqpRpcError) -> None:
        """End it with an error; any thread that has taken it."""
        self._outcome = error
        self._bridge.post(self)

    def arrive(self) -> int:
        """Go on with the room, or the outcome, that has come; on the event loop. Return the bytes that it decoded."""
        if self._room is not None:
            self._enter(self._room)
        elif not self.done():
            return self._end()
        return 0

    def cancel(self, msg: Any | None = None) -> bool:
        """Give the call up. It may run all the same; its reply is dropped."""
        cancelled = super().cancel(msg)
        if cancelled:
            self._bridge.sent.discard(self)
            if isinstance(self._outcome, Future):
                self._stop_reading(self._outcome)
            elif self._room is None:
                self._caller.give_up(self)
            elif self._caller.capacity.leave(self._room):
                self._leave_line()
        return cancelled

    def expire(self) -> None:
        """End it: its time is over; on the event loop."""
        if isinstance(self._outcome, Future):
            self._bridge.sent.discard(self)
            self._stop_reading(self._outcome)
            if not self.done():
                self.set_exception(self.unread(self._caller.counters))
        elif self._room is None:
            self._caller.expire(self)
        elif self._caller.capacity.leave(self._room):
            self._leave_line()
            self.set_exception(self._caller.overloaded(self))

    def _enter(self, room: Room) -> None:
        self._leave_line()
        if self.done():
            self._caller.capacity.give(room.size)
            return
        try:
            self._caller.send(self, awaited=False)
        except AmqpRpcError as error:
            self.set_exception(error)
        else:
            self._bridge.guard(self)

    def _end(self) -> int:
        """End it, and return the bytes of its reply; one that is large is first decoded on another thread."""
        outcome, decoded = self._outcome, 0
        if isinstance(outcome, Reply):
            decoded = len(outcome.body)
            if decoded > LARGE:
                # It takes as long as its peer likes, and this call and the others of the loop have deadlines.
                self._outcome = reading = read_elsewhere(partial(self.read, outcome))
                reading.add_done_callback(self._return)
                return 0
        self._bridge.sent.discard(self)
        # Such a future keeps this call.
        self._outcome = None
        if isinstance(outcome, AmqpRpcError):
            self.set_exception(outcome)
            return 0
        assert outcome is not None
        try:
            result = self.read(outcome) if isinstance(outcome, Reply) else outcome.result()
        except Exception as error:
            # Without this frame: else the traceback and this call keep each other alive.
            self.set_exception(error.with_traceback(None))
        else:
            self.set_result(result)
        return decoded

    def _return(self, _: Future[Any]) -> None:
        self._bridge.post(self)

    def _stop_reading(self, reading: Future[Any]) -> None:
        reading.cancel()
        self._outcome = None

    def _leave_line(self) -> None:
        self._room = None
        if self._timer is not None:
            self._timer.cancel()


class Runner:
    """Runs scripts (`blocking`) of a client on event loops."""

    def __init__(self, session: Caller) -> None:
        self.session = session
        self._threads: ThreadPoolExecutor | None = None

    async def finish(self, script: Coroutine[Any, None, T]) -> T:
        """Run a script on the running event loop, which goes on where the script waits."""
        bridge = bridge_of(asyncio.get_running_loop())
        try:
            step = script.send(None)
            while True:
                try:
                    if isinstance(step, Wait):
                        await self._wait(bridge, step)
                    elif isinstance(step, Work):
                        await bridge.loop.run_in_executor(self._store_threads(), step.run)
                    else:
                        await asyncio.sleep(0)
                except BaseException as error:
                    # The task was cancelled, say.
                    step = script.throw(error)
                else:
                    step = script.send(None)
        except StopIteration as end:
            result: T = end.value
            return result

    def close(self) -> None:
        """End the threads for looks into a store."""
        if self._threads is not None:
            self._threads.shutdown(wait=False)

    async def _wait(self, bridge: Bridge, step: Wait) -> None:
        future = bridge.loop.create_future()
        arrived = partial(bridge.post, future)
        step.outcome.on_done(arrived)
        timer = None
        if step.until < NEVER:
            timer = bridge.loop.call_later(step.until - time.monotonic(), arrived)
        self.session.watch(future)
        try:
            await future
        finally:
            self.session.unwatch(future)
            step.outcome.forget(arrived)
            if timer is not None:
                timer.cancel()

    def _store_threads(self) -> ThreadPoolExecutor:
        if self._threads is None:
            self._threads = ThreadPoolExecutor(_STORE_THREADS, thread_name_prefix="amqp_rpc store")
        return self._threads


class Front(Generic[S]):
    """A front for asyncio over an object with blocking methods."""

    def __init__(self, blocking: S, runner: Runner) -> None:
        self._blocking = blocking
        self._runner = runner

    async def _run(self, method: Any, /, *args: Any, **kwargs: Any) -> Any:
        """Await what a method of the object blocks for."""
        return await self._runner.finish(script_of(method)(self._blocking, *args, **kwargs))


def awaited(method: Callable[Concatenate[S, P], R]) -> Callable[Concatenate[Front[S], P], Coroutine[Any, Any, R]]:
    """Return a method of a front that awaits what another one blocks for, with the same arguments."""

    @wraps(method)
    async def awaiting(self: Front[S], /, *args: P.args, **kwargs: P.kwargs) -> R:
        result: R = await self._run(method, *args, **kwargs)
        return result

    return awaiting


def fronted(method: Callable[Concatenate[S, P], Any], kind: type[F]) -> Callable[Concatenate[Front[S], P], F]:
    """Return a method of a front that returns a front over what another one returns, with the same arguments."""

    @wraps(method)
    def fronting(self: Front[S], /, *args: P.args, **kwargs: P.kwargs) -> F:
        return kind(method(self._blocking, *args, **kwargs), self._runner)

    return fronting


def awaited_fronts(
    method: Callable[Concatenate[S, P], list[Any]], kind: type[F]
) -> Callable[Concatenate[Front[S], P], Coroutine[Any, Any, list[F]]]:
    """Return a method of a front that awaits a list of objects, with the same arguments, and returns their fronts."""

    @wraps(method)
    async def awaiting(self: Front[S], /, *args: P.args, **kwargs: P.kwargs) -> list[F]:
        return [kind(each, self._runner) for each in await self._run(method, *args, **kwargs)]

    return awaiting


class AsyncTaskHandle(Front[TaskHandle[R]], Generic[R]):
    """A `TaskHandle` to await: `AsyncClient.enqueue` and `AsyncClient.task` return it.

    A store of results blocks when it is asked: looks into it run on a few threads of the client's own.
    """

    @property
    def id(self) -> str:
        """The task's; the same on every attempt."""
        return self._blocking.id

    @property
    def queue(self) -> str:
        """The queue that holds it."""
        return self._blocking.queue

    @property
    def function(self) -> str:
        """Its function's name."""
        return self._blocking.function

    @property
    def state(self) -> Coroutine[Any, Any, State]:
        """Its state, to await: ``await handle.state``; see `TaskHandle.state`."""
        return self._run(TaskHandle.find_state)

    ready = awaited(TaskHandle[R].ready)
    record = awaited(TaskHandle[R].record)
    result = awaited(TaskHandle[R].result)

    def add_done_callback(self, callback: Callable[[], object]) -> None:
        """Call back on its end: `TaskHandle.add_done_callback`, which says on which thread."""
        self._blocking.add_done_callback(callback)

    @safe_repr
    def __repr__(self) -> str:
        return f"<Async{repr(self._blocking)[1:]}"


class AsyncDeadLetters(Front[DeadLetters]):
    """The `DeadLetters` of one queue, to await: `AsyncClient.dead_letters` returns it.

    Cancelling does not take back what was begun.
    """

    @property
    def queue(self) -> str:
        """The queue whose dead letters they are."""
        return self._blocking.queue

    @property
    def dead_letter_queue(self) -> str:
        """The queue that holds them."""
        return self._blocking.dead_letter_queue

    list = awaited(DeadLetters.list)
    get = awaited(DeadLetters.get)
    replay = awaited(DeadLetters.replay)
    drop = awaited(DeadLetters.drop)

    @safe_repr
    def __repr__(self) -> str:
        return f"<Async{repr(self._blocking)[1:]}"


class AsyncEvents(AsyncIterator[PublishedEvent]):
    """The events that a program listens to in asyncio: `AsyncClient.listen` returns it. It takes no thread."""

    def __init__(self, tap: EventTap) -> None:
        self._tap = tap
        self._news: asyncio.Event = asyncio.Event()
        self._started = self._ended = False
        #: A large event, while it is decoded.
        self._reading: Future[Any] | None = None
        # One that is collected closes its connection.
        self._finalizer = weakref.finalize(self, tap.abandon)
        self._finalizer.atexit = False

    async def _start(self) -> None:
        """Return once it listens."""
        if not self._started:
            self._started = True
            loop, arrived = asyncio.get_running_loop(), self._news.set

            def wake() -> None:
                # An event loop that is closed has no one who waits.
                with contextlib.suppress(RuntimeError):
                    loop.call_soon_threadsafe(arrived)

            self._tap.on_news = wake
            self._tap.connection.start()
        while not (self._tap.began.is_set() or self._ended):
            # In this order: what begins after the look sets it again.
            self._news.clear()
            if not self._tap.began.is_set():
                await self._news.wait()

    async def __anext__(self) -> PublishedEvent:
        """Return the next event."""
        if not self._ended:
            await self._start()
        while not self._ended:
            # In this order: what arrives after the look sets it again.
            self._news.clear()
            try:
                delivery = None if self._reading is not None else self._tap.next_delivery()
            except Empty:
                await self._news.wait()
            except AmqpRpcError:
                await self.aclose()
                raise
            else:
                if delivery is not None and len(delivery.body) <= LARGE:
                    return self._tap.read(delivery)
                if delivery is not None:
                    self._reading = read_elsewhere(partial(self._tap.read, delivery))
                if self._reading is not None:
                    # Where the task is cancelled meanwhile, the next one gets the event.
                    event: PublishedEvent = await asyncio.shield(asyncio.wrap_future(self._reading))
                    self._reading = None
                    return event
        raise StopAsyncIteration

    async def aclose(self) -> None:
        """End the iteration, and close the connection; a second time this does nothing."""
        if self._ended:
            return
        self._ended = True
        self._news.set()
        if self._started:
            # It waits for the broker's answer.
            await asyncio.to_thread(self._tap.__exit__)
        self._finalizer.detach()

    async def __aenter__(self) -> Self:
        try:
            await self._start()
        except BaseException:
            await self.aclose()
            raise
        if self._tap.failure is not None:
            await self.aclose()
            raise self._tap.failure
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    @safe_repr
    def __repr__(self) -> str:
        return f"<AsyncEvents {self._tap}>"


class AsyncQueue(Front[Queue[T]], Generic[T]):
    """A `Queue` to await: `AsyncClient.queue` returns it. Its methods are those of `Queue`.

    No thread waits for an item, and cancelling a task that waits in `get` takes none. ``task_done()`` means the oldest
    item that the current task has taken.

    Example:
        >>> async with client.queue("numbers") as numbers:  # doctest: +SKIP
        ...     await numbers.put(1)
        ...     print(await numbers.get())
        ...     numbers.task_done()
    """

    @property
    def name(self) -> str:
        """The queue's name."""
        return self._blocking.name

    @property
    def maxsize(self) -> int:
        """How many items may wait in it; 0 for any number."""
        return self._blocking.maxsize

    put = awaited(Queue[T].put)
    put_nowait = awaited(Queue[T].put_nowait)
    put_many = awaited(Queue[T].put_many)
    get = awaited(Queue[T].get)
    get_nowait = awaited(Queue[T].get_nowait)
    join = awaited(Queue[T].join)
    qsize = awaited(Queue[T].qsize)
    empty = awaited(Queue[T].empty)
    full = awaited(Queue[T].full)
    close = awaited(Queue[T].close)

    def task_done(self, *item: Any) -> None:
        """Say that an item is done: `Queue.task_done`. The broker gets it soon."""
        self._blocking.task_done(*item)

    @contextlib.asynccontextmanager
    async def get_many(self, most: int, timeout: float | None = None) -> AsyncIterator[list[T]]:
        """Take many items in an ``async with`` block: `Queue.get_many`."""
        some = await self._run(Queue.take_many, most, timeout)
        with self._blocking.handle(some) as values:
            yield values

    async def __aiter__(self) -> AsyncIterator[T]:
        """Take one item after another until it is closed; each needs its `task_done`."""
        while True:
            try:
                item = await self.get()
            except ConfigurationError:
                if self._blocking.closed:
                    return
                raise
            yield item

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    @safe_repr
    def __repr__(self) -> str:
        return f"Async{self._blocking!r}"
