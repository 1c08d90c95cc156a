"""Where handlers run: ordinary functions on a pool of threads, ``async def`` ones on one event loop.

Handlers never run on the I/O thread. But a thread of the pool that has nothing to do waits at the sockets itself while
handlers are brief: then no thread has to be woken for the next call (docs/decisions/0006-waiting-threads-read.md).
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

logger = logging.getLogger(__name__)

#: Seconds that a brief handler takes.
_SHORT = 0.0002
#: The average time of handlers is that of about so many.
_WEIGHT = 8
#: Seconds until one more thread is woken for work that waits: the resolution of the loop's timers.
_WAKE_ANOTHER = 0.001


class Pool:
    """A pool of threads, and an event loop on a thread of its own where it is needed.

    The threads are daemons: a handler that never ends must not keep the process from ending.

    Args:
        threads: How many ordinary handlers run at the same time.
    """

    def __init__(self, threads: int) -> None:
        #: The loop of the I/O thread, once it runs.
        self._io: Loop | None = None
        #: Whether a thread of the pool waits at the sockets at this moment.
        self._fetching = False
        #: The last one that did so, until it is clear that it does not come back.
        self._fetcher: int | None = None
        #: Seconds that handlers took lately, about; the first ones are not known to be brief.
        self._average = 1.0
        self._work: deque[Callable[[], object] | None] = deque()
        #: The threads that wait, each by the lock that it waits for. The last one is woken first: its caches are warm.
        self._idle: list[threading.Lock] = []
        #: When a thread was woken, or began with some work.
        self._begun = 0.0
        self._wakes = 1
        #: Whether a timer of `_wake_another` runs.
        self._waking = False
        self._count = threads
        #: The place in the pool of each thread, by its ident; one that was given up has none.
        self._places: dict[int, int] = {}
        self._given_up: set[int] = set()
        #: Which threads run something now; each writes its own place.
        self._busy = [True] * threads
        self._event_loop: asyncio.AbstractEventLoop | None = None
        #: asyncio keeps only weak references to tasks: https://docs.python.org/3/library/asyncio-task.html
        self._tasks: set[asyncio.Task[None]] = set()

    def start_event_loop(self) -> None:
        """Start the event loop, before the first delivery for it."""
        self._event_loop = asyncio.new_event_loop()
        threading.Thread(target=self._run_event_loop, name="amqp_rpc async handlers", daemon=True).start()

    def start(self, io: Loop) -> None:
        """Start the threads; they run what was submitted before, too."""
        self._io = io
        io.on_relieved(self._wake_another)
        for number in range(self._count):
            self._start(number)

    def replace(self, thread: int) -> bool:
        """Give up a thread whose handler does not end: another one takes its place, and it ends when its handler does.

        The caller makes sure that the handler does not end meanwhile.

        Returns:
            Whether it was replaced: no more threads are given up than there are places.
        """
        if len(self._given_up) >= self._count:
            return False
        self._given_up.add(thread)
        self._start(self._places.pop(thread))
        return True

    def submit(self, work: Callable[[], object]) -> None:
        """Run this on a thread of the pool; the I/O thread's.

        A thread that has just begun is likely to end in a moment and to run this too: waking another one for each call
        of a burst costs more than the calls. A timer wakes others where that hope fails.
        """
        self._work.append(work)
        if self._fetching or not self._idle:
            return
        if time.monotonic() - self._begun >= _SHORT:
            self._wake()
        elif not self._waking:
            self._waking = True
            assert self._io is not None
            self._io.call_later(_WAKE_ANOTHER, self._wake_another)

    def submit_async(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Run this on the event loop."""
        assert self._event_loop is not None
        self._event_loop.call_soon_threadsafe(self._begin, work)

    def busy(self) -> bool:
        """Return whether something runs, or waits to run."""
        return any(self._busy) or bool(self._tasks or self._work)

    def stop(self) -> None:
        """End the threads and the event loop once they are done with what they run now."""
        self._work.extend([None] * self._count)
        while self._idle:
            self._wake()
        if self._event_loop is not None:
            self._event_loop.call_soon_threadsafe(self._event_loop.stop)

    def _wake_another(self) -> None:
        """Wake more threads where work has waited for longer than hoped, and look again in a moment."""
        self._waking = bool(self._work and self._idle)
        if not self._waking:
            self._wakes = 1
            return
        if time.monotonic() - self._begun >= _SHORT:
            # Twice as many each time: long handlers soon run on as many threads as there are.
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
                # Exceptions of handlers are answers by now. This is a defect of this library; the thread must go on.
                logger.exception("A call could not be answered")
            # Else the last call's arguments live until the next one.
            del work
            if thread not in self._places:
                # Its place is another thread's by now.
                self._given_up.discard(thread)
                return
            self._average += (time.monotonic() - begun - self._average) / _WEIGHT
            if self._fetcher == number and self._average >= _SHORT:
                # It has waited at the sockets, and will not come back to them soon: the I/O thread has to.
                self._fetcher = None
                assert self._io is not None
                self._io.recall()
        del self._places[thread]
        self._busy[number] = False

    def _take(self, number: int, woken: threading.Lock) -> Callable[[], object] | None:
        while True:
            # In this order, for `busy`: the thread is busy before the work is gone from the queue.
            self._busy[number] = True
            try:
                return self._work.popleft()
            except IndexError:
                self._busy[number] = False
                if self._average < _SHORT and not self._fetching and self._fetch(number):
                    continue
                self._idle.append(woken)
            # In this order: a `submit` after this look finds the thread among those that wait.
            if self._work:
                try:
                    self._idle.remove(woken)
                    continue
                except ValueError:
                    # It is being woken already.
                    pass
            woken.acquire()

    def _fetch(self, number: int) -> bool:
        """Wait at the sockets until there is work; return False where another thread waits there."""
        assert self._io is not None
        self._fetching, self._fetcher = True, number
        try:
            return self._io.attend(self._work.__len__, returns=True)
        finally:
            self._fetching = False

    def _wake(self) -> None:
        try:
            woken = self._idle.pop()
        except IndexError:
            return
        self._begun = time.monotonic()
        woken.release()

    def _run_event_loop(self) -> None:
        loop = self._event_loop
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
        assert self._event_loop is not None
        task = self._event_loop.create_task(work())
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("A call could not be answered", exc_info=error)
