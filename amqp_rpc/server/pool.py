"""The pool of handler threads for ordinary functions, and one event loop for ``async def`` ones.

Handlers never run on the I/O thread. But an idle thread of the pool waits at the sockets itself while handlers
are brief: then no thread has to be woken for the next call (docs/decisions/0006-waiting-threads-read.md).
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any

from amqp_rpc.amqp.loop import Loop
from amqp_rpc.message.text import bounded_logger

logger: logging.Logger = bounded_logger(__name__)

#: The seconds of a brief handler, at most.
_SHORT = 0.0002
#: The running average covers about so many handlers.
_WEIGHT = 8
#: Seconds until one more thread is woken for waiting work: the resolution of the loop's timers.
_WAKE_ANOTHER = 0.001


class Pool:
    """A pool of threads, and an event loop on a thread of its own if there are ``async def`` handlers.

    The threads are daemons: a handler that never ends must not keep the process from ending.
    """

    def __init__(self, threads: int) -> None:
        #: The loop of the I/O thread, once it runs.
        self._io: Loop | None = None
        #: True while a thread of the pool waits at the sockets.
        self.fetching: bool = False
        #: The last thread that did so, until it is clear that it does not return to them.
        self._fetcher: int | None = None
        #: The running average of handlers, in seconds; high at first, since they are not known to be brief.
        self._average = 1.0
        self._work: deque[Callable[[], object] | None] = deque()
        #: The locks of the idle threads. The last one is woken first: its caches are warm.
        self._idle: list[threading.Lock] = []
        #: The time when a thread was woken, or started some work.
        self._begun = 0.0
        self._wakes = 1
        #: True while a timer of `_wake_another` runs.
        self._waking = False
        self._count = threads
        #: The place in the pool of each thread, by its ident; an abandoned thread has none.
        self._places: dict[int, int] = {}
        self._given_up: set[int] = set()
        #: True for each place whose thread runs something; each thread writes its own.
        self._busy = [True] * threads
        self.event_loop: asyncio.AbstractEventLoop | None = None
        #: Held while it is started.
        self._starting = threading.Lock()
        #: asyncio keeps only weak references to tasks: https://docs.python.org/3/library/asyncio-task.html
        self._tasks: set[asyncio.Task[None]] = set()

    def start_event_loop(self) -> None:
        """Start the event loop, unless it is started: before the first delivery for it, or when it is first used."""
        with self._starting:
            if self.event_loop is None:
                self.event_loop = asyncio.new_event_loop()
                threading.Thread(target=self._run_event_loop, name="amqp_rpc async handlers", daemon=True).start()

    def start(self, io: Loop) -> None:
        """Start the threads; they also run earlier submissions."""
        self._io = io
        io.on_relieved(self._wake_another)
        for number in range(self._count):
            self._start(number)

    def done(self) -> bool:
        """Return whether there is work for a thread that waits for it at the sockets."""
        return len(self._work) > 0

    def replace(self, thread: int) -> bool:
        """Give up a thread whose handler does not end: a new one gets its place, and it ends when its handler does.

        The caller makes sure that the handler does not end meanwhile.

        Returns:
            False if as many threads as there are places were given up already.
        """
        if len(self._given_up) >= self._count:
            return False
        self._given_up.add(thread)
        self._start(self._places.pop(thread))
        return True

    def submit(self, work: Callable[[], object]) -> None:
        """Run this on a thread of the pool; the I/O thread's.

        A thread that has just started is likely to end soon and to run this too: waking another one for each call of a
        burst costs more than the calls. If it takes longer, a timer wakes others.
        """
        self._work.append(work)
        if self.fetching or not self._idle:
            return
        if time.monotonic() - self._begun >= _SHORT:
            self._wake()
        elif not self._waking:
            self._waking = True
            assert self._io is not None
            self._io.call_later(_WAKE_ANOTHER, self._wake_another)

    def submit_async(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Run this on the event loop; any thread."""
        if self.event_loop is None:
            # No function is an `async def` one, and one has returned an awaitable.
            self.start_event_loop()
        assert self.event_loop is not None
        self.event_loop.call_soon_threadsafe(self._begin, work)

    def busy(self) -> bool:
        """Return whether any work runs or waits."""
        return any(self._busy) or bool(self._tasks or self._work)

    def stop(self) -> None:
        """End the threads and the event loop once their current work is done."""
        self._work.extend([None] * self._count)
        while self._idle:
            self._wake()
        if self.event_loop is not None:
            self.event_loop.call_soon_threadsafe(self.event_loop.stop)

    def _wake_another(self) -> None:
        """Wake more threads if work has waited for too long, and check again in a moment."""
        self._waking = bool(self._work and self._idle)
        if not self._waking:
            self._wakes = 1
            return
        if time.monotonic() - self._begun >= _SHORT:
            # Twice as many each time: long handlers soon run on all threads.
            for _ in range(min(self._wakes, len(self._work))):
                self._wake()
            self._wakes *= 2
        assert self._io is not None
        self._io.call_later(_WAKE_ANOTHER, self._wake_another)

    def _start(self, number: int) -> None:
        threading.Thread(target=self._run, args=(number,), name=f"amqp_rpc handler {number}", daemon=True).start()

    def _run(self, number: int) -> None:
        woken = threading.Lock()
        woken.acquire()
        thread = threading.get_ident()
        self._places[thread] = number
        while (work := self._take(number, woken)) is not None:
            self._begun = begun = time.monotonic()
            try:
                work()
            except BaseException:
                # Exceptions of handlers were caught before. This is a defect of this library; the thread must go on.
                logger.exception("handler thread %d: running or settling a delivery failed", number)
            # Otherwise the last call's arguments live until the next one.
            del work
            if thread not in self._places:
                # Another thread has its place by now.
                self._given_up.discard(thread)
                return
            self._average += (time.monotonic() - begun - self._average) / _WEIGHT
            if self._fetcher == number and self._average >= _SHORT:
                # It has waited at the sockets, and will not return to them soon: the I/O thread has to.
                self._fetcher = None
                assert self._io is not None
                self._io.recall()
        del self._places[thread]
        self._busy[number] = False

    def _take(self, number: int, woken: threading.Lock) -> Callable[[], object] | None:
        while True:
            # In this order, for `busy`: the thread is busy before the work leaves the queue.
            self._busy[number] = True
            try:
                return self._work.popleft()
            except IndexError:
                self._busy[number] = False
                if self._average < _SHORT and not self.fetching and self._fetch(number):
                    continue
                self._idle.append(woken)
            # In this order: a `submit` after this check finds the thread among the idle ones.
            if self._work:
                try:
                    self._idle.remove(woken)
                    continue
                except ValueError:
                    # It is being woken already.
                    pass
            woken.acquire()

    def _fetch(self, number: int) -> bool:
        """Wait at the sockets until there is work; return False if another thread waits there."""
        assert self._io is not None
        self.fetching, self._fetcher = True, number
        try:
            return self._io.attend(self, returns=True)
        finally:
            self.fetching = False

    def _wake(self) -> None:
        try:
            woken = self._idle.pop()
        except IndexError:
            return
        self._begun = time.monotonic()
        woken.release()

    def _run_event_loop(self) -> None:
        loop = self.event_loop
        assert loop is not None
        asyncio.set_event_loop(loop)
        try:
            loop.run_forever()
            for task in self._tasks:
                task.cancel()
            loop.run_until_complete(asyncio.gather(*self._tasks, return_exceptions=True))
            loop.run_until_complete(loop.shutdown_asyncgens())
        finally:
            loop.close()

    def _begin(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        assert self.event_loop is not None
        task = self.event_loop.create_task(work())
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("event loop: running or settling a delivery failed", exc_info=error)
