"""Where handlers run: ordinary functions on a pool of threads, ``async def`` ones on one event loop. Never on an owner.

Nothing here knows of AMQP: work goes in with a function to call with its answer.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
from collections.abc import Callable, Coroutine
from typing import Any

logger = logging.getLogger(__name__)


class Handlers:
    """A pool of threads, and an event loop on a thread of its own once somebody needs it.

    The threads are daemons: a handler that never ends must not keep the process from ending.

    Args:
        threads: How many ordinary handlers run at the same time.
    """

    def __init__(self, threads: int) -> None:
        self._work: queue.SimpleQueue[Callable[[], object] | None] = queue.SimpleQueue()
        self._count = threads
        #: Which threads run something now; each writes its own place.
        self._busy = [False] * threads
        self._loop: asyncio.AbstractEventLoop | None = None
        #: asyncio keeps only weak references to tasks: https://docs.python.org/3/library/asyncio-task.html
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self, *, asynchronous: bool) -> None:
        """Start the threads, and the event loop where it is needed."""
        for number in range(self._count):
            threading.Thread(target=self._run, args=(number,), name=f"amqp_rpc handler {number}", daemon=True).start()
        if asynchronous:
            self._loop = asyncio.new_event_loop()
            threading.Thread(target=self._run_loop, name="amqp_rpc async handlers", daemon=True).start()

    def submit(self, work: Callable[[], object]) -> None:
        """Run this on a thread of the pool."""
        self._work.put(work)

    def submit_async(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Run this on the event loop."""
        assert self._loop is not None
        self._loop.call_soon_threadsafe(self._begin, work)

    def busy(self) -> bool:
        """Return whether something runs, or waits to run."""
        return any(self._busy) or bool(self._tasks) or not self._work.empty()

    def stop(self) -> None:
        """Have the threads and the loop end when they are done with what they run now."""
        for _ in range(self._count):
            self._work.put(None)
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._loop.stop)

    def _run(self, number: int) -> None:
        while (work := self._work.get()) is not None:
            self._busy[number] = True
            try:
                work()
            except BaseException:
                # Handlers' own errors are answers by now; this is a defect of ours, and the thread must go on.
                logger.exception("A call could not be answered")
            # Else the last call's arguments live until the next one comes.
            del work
            self._busy[number] = False

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
