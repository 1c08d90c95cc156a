"""Where handlers run: ordinary functions on a pool of threads, ``async def`` ones on one event loop. Never on an owner.

Nothing here knows of AMQP: work goes in with a function to call with its answer.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any

logger = logging.getLogger(__name__)

#: Seconds in which most calls are over, give or take.
_SHORT = 0.0002
#: Of how many calls the average is, about.
_WEIGHT = 8


class Handlers:
    """A pool of threads, and an event loop on a thread of its own once somebody needs it.

    The threads are daemons: a handler that never ends must not keep the process from ending.

    Args:
        threads: How many ordinary handlers run at the same time.
        attend: Has a thread that has nothing to do fetch work itself, until there is some; returns whether it could.
        leave: Called when the thread that did so does not come back to it.
    """

    def __init__(
        self, threads: int, *, attend: Callable[[Callable[[], object]], bool], leave: Callable[[], object]
    ) -> None:
        self._attend = attend
        self._leave = leave
        #: Whether a thread of ours fetches work at this moment.
        self._fetching = False
        #: Which of them it was that did so last, until it is clear that it does not come back.
        self._fetcher: int | None = None
        #: Seconds that work took lately, about; who has just come is not known to be brief.
        self._average = 1.0
        self._work: deque[Callable[[], object] | None] = deque()
        #: The threads that wait, each by the lock that it waits for; who came last is woken first: its data is warm.
        self._idle: list[threading.Lock] = []
        #: When a thread was woken, or began with some work.
        self._begun = 0.0
        self._wakes = 1
        self._count = threads
        #: The place in the pool of each thread, by its ident; one that was given up has none.
        self._places: dict[int, int] = {}
        self._given_up: set[int] = set()
        #: Which threads run something now; each writes its own place.
        self._busy = [True] * threads
        self._loop: asyncio.AbstractEventLoop | None = None
        #: asyncio keeps only weak references to tasks: https://docs.python.org/3/library/asyncio-task.html
        self._tasks: set[asyncio.Task[None]] = set()

    def start_loop(self) -> None:
        """Start the event loop; before any delivery comes for it."""
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._run_loop, name="amqp_rpc async handlers", daemon=True).start()

    def start(self) -> None:
        """Start the threads; they take what has come before."""
        for number in range(self._count):
            self._start(number)

    def replace(self, thread: int) -> bool:
        """Give up a thread whose work does not end: another one takes its place, and it ends when its work does.

        Who calls this makes sure that the work does not end meanwhile.

        Returns:
            Whether it has: there are no more threads that were given up and run still than there are places.
        """
        if len(self._given_up) >= self._count:
            return False
        self._given_up.add(thread)
        self._start(self._places.pop(thread))
        return True

    def submit(self, work: Callable[[], object]) -> bool:
        """Run this on a thread of the pool.

        A thread that has just begun is likely to be done in a moment, and then takes this too: waking another one for
        each call of a burst costs more than the calls.

        Returns:
            Whether that was hoped for: then `wake_another` must be called in a moment.
        """
        self._work.append(work)
        if self._fetching or not self._idle:
            return False
        if time.monotonic() - self._begun < _SHORT:
            return True
        self._wake()
        return False

    def wake_another(self) -> bool:
        """Wake one more thread where work has waited for longer than hoped; return whether to call this again."""
        if not (self._work and self._idle):
            self._wakes = 1
            return False
        if time.monotonic() - self._begun >= _SHORT:
            # Twice as many each time: what takes long is soon on as many threads as there are.
            for _ in range(min(self._wakes, len(self._work))):
                self._wake()
            self._wakes *= 2
        return True

    def submit_async(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Run this on the event loop."""
        assert self._loop is not None
        self._loop.call_soon_threadsafe(self._begin, work)

    def busy(self) -> bool:
        """Return whether something runs, or waits to run."""
        return any(self._busy) or bool(self._tasks or self._work)

    def stop(self) -> None:
        """Have the threads and the loop end when they are done with what they run now."""
        self._work.extend([None] * self._count)
        while self._idle:
            self._wake()
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._loop.stop)

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
                # Handlers' own errors are answers by now; this is a defect of ours, and the thread must go on.
                logger.exception("A call could not be answered")
            # Else the last call's arguments live until the next one comes.
            del work
            if thread not in self._places:
                # Its place is another thread's by now.
                self._given_up.discard(thread)
                return
            self._average += (time.monotonic() - begun - self._average) / _WEIGHT
            if self._fetcher == number and self._average >= _SHORT:
                # It has fetched, and will not come back to it: nobody does until the owner is told.
                self._fetcher = None
                self._leave()
        del self._places[thread]
        self._busy[number] = False

    def _take(self, number: int, woken: threading.Lock) -> Callable[[], object] | None:
        while True:
            # In this order, for who asks whether something runs: busy before the work is gone from where it waited.
            self._busy[number] = True
            try:
                return self._work.popleft()
            except IndexError:
                self._busy[number] = False
                if self._average < _SHORT and not self._fetching and self._fetch(number):
                    continue
                self._idle.append(woken)
            # In this order: whoever adds work after this look finds the thread among those that wait.
            if self._work:
                try:
                    self._idle.remove(woken)
                    continue
                except ValueError:
                    # Somebody is waking it already.
                    pass
            woken.acquire()

    def _fetch(self, number: int) -> bool:
        """Fetch work, where it was brief lately: then no thread has to be woken for it."""
        self._fetching, self._fetcher = True, number
        try:
            return self._attend(self._work.__len__)
        finally:
            self._fetching = False

    def _wake(self) -> None:
        try:
            woken = self._idle.pop()
        except IndexError:
            return
        self._begun = time.monotonic()
        woken.release()

    def _run_loop(self) -> None:
        assert self._loop is not None
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_forever()
            for task in self._tasks:
                task.cancel()
            self._loop.run_until_complete(asyncio.gather(*self._tasks, return_exceptions=True))
            self._loop.run_until_complete(self._loop.shutdown_asyncgens())
        finally:
            self._loop.close()

    def _begin(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        assert self._loop is not None
        task = self._loop.create_task(work())
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("A call could not be answered", exc_info=error)
