"""The tries of tasks that have a time limit and are under way; those that exceed it are settled without their handlers.

A thread can't be ended (https://docs.python.org/3/library/threading.html), nor can a coroutine that goes on when it is
cancelled. Their tasks have failed at the limit all the same: whoever takes a try out of the table here, its handler's
end or its limit, says what becomes of the task, and nobody else does. No process is ended here.
"""

from __future__ import annotations

import logging
import sys
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from amqp_rpc.amqp.connection import Connection
from amqp_rpc.amqp.loop import Timer
from amqp_rpc.message.timing import LONGEST
from amqp_rpc.server.jobs import Answer
from amqp_rpc.server.pool import Handlers
from amqp_rpc.server.task_jobs import TaskJob

logger = logging.getLogger(__name__)

_NEVER = float("inf")
#: Seconds that a coroutine gets to end when it was cancelled at its limit.
_GRACE = 1.0
#: Seconds until a try that is over is looked at again, should no thread have been there to end it.
_LOOK_AGAIN = 1.0


@dataclass(slots=True)
class _Try:
    job: TaskJob
    settle: Callable[[Callable[[], Answer]], object]
    began: float
    due: float
    thread: int


class Overruns:
    """The tries with a limit, and one timer of the owner's for the one that is due first.

    Args:
        connection: On whose owner the timer is.
        handlers: Which has another thread in the place of one that does not come back.
        on_stuck: Called with the number of handlers that run still though their tasks are settled, each time that
            there is one more; on a thread of its own, once that task's retry or dead letter is on its way.
        ends: Returns whether the process will be ended when it is so many: what the log says of it before.
    """

    def __init__(
        self,
        connection: Connection,
        handlers: Handlers,
        *,
        on_stuck: Callable[[int], object],
        ends: Callable[[int], bool],
    ) -> None:
        self._connection = connection
        self._handlers = handlers
        self._on_stuck = on_stuck
        self._ends = ends
        #: Held for moments: by a handler that ends, and while one is given up.
        self._lock = threading.Lock()
        self._tries: dict[int, _Try] = {}
        self._stuck = 0
        self._timer: Timer | None = None
        #: When the timer is due. Handlers' threads look at it after they have entered a try, the owner sets it before
        #: it looks at the tries: so one of the two sees the other.
        self._due = _NEVER

    def watch(self, job: TaskJob, settle: Callable[[Callable[[], Answer]], object]) -> None:
        """Have a job that begins now end at its limit; the thread that runs it.

        Args:
            job: One with a limit, whose handler's end asks its `TaskJob.claim`.
            settle: Called if its limit comes first, on a thread of its own, with what makes the answer.
        """
        assert job.limit is not None
        began = time.monotonic()
        # Cancelling is the event loop's own; here is what does not heed it.
        due = began + job.limit + (_GRACE if job.function.asynchronous else 0.0)
        self._tries[id(job)] = _Try(job, settle, began, due, threading.get_ident())
        job.claim = partial(self._ended, id(job))
        if due < self._due:
            self._connection.post(self._set_timer)

    def _ended(self, job: int) -> bool:
        """Return whether a handler that has ended may say what becomes of its task."""
        with self._lock:
            if self._tries.pop(job, None) is not None:
                return True
            self._stuck -= 1
            return False

    def _set_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._due = _NEVER
        due = min((each.due for each in list(self._tries.values())), default=_NEVER)
        if due != _NEVER:
            self._due = due
            delay = min(max(0.0, due - time.monotonic()), LONGEST)
            self._timer = self._connection.loop.call_later(delay, self._look)

    def _look(self) -> None:
        now = time.monotonic()
        late = [each for each in list(self._tries.values()) if each.due <= now]
        for each in late:
            each.due = now + _LOOK_AGAIN
        self._set_timer()
        for each in late:
            # Making an answer takes time, and may write elsewhere: that is not for the owner.
            threading.Thread(target=self._end, args=(each,), name="amqp_rpc time limit", daemon=True).start()

    def _end(self, late: _Try) -> None:
        job = late.job
        with self._lock:
            if self._tries.pop(id(job), None) is None:
                return  # its handler has just ended
            self._stuck += 1
            stuck = self._stuck
            stack = None if job.function.asynchronous else _stack(late.thread)
            replaced = job.function.asynchronous or self._handlers.replace(late.thread)
        seconds = time.monotonic() - late.began
        if self._ends(stuck):
            fate = "its handler ends with this process, which takes no more and ends when its other handlers are done"
        else:
            fate = f"its handler can't be ended: it runs on, its retry perhaps beside it ({stuck} such handlers now)"
            if not replaced:
                fate += "; no other thread takes its place: this process has too many of them. Start it anew"
        logger.error(
            "Task %s() [%s] has exceeded its time limit of %g s, and %s",
            job.function.name, job.request.message_id, job.limit, fate,
        )  # fmt: skip
        late.settle(lambda: job.overrun(seconds, stack))
        self._on_stuck(stuck)


def _stack(thread: int) -> str | None:
    """Return where a thread is; None where it has just ended."""
    frame = sys._current_frames().get(thread)  # noqa: SLF001 - documented, and the only way
    return None if frame is None else "".join(traceback.format_stack(frame))
