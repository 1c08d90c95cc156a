"""The tries of tasks with a time limit: each that exceeds it is settled, whether or not its handler ends.

A thread can't be ended (https://docs.python.org/3/library/threading.html), nor can a coroutine that ignores that it was
cancelled. The task has failed at its limit all the same: of the handler's end and the limit, the first to take the try
out of the table here settles the task, and the other one does nothing. No process is ended here.
"""

from __future__ import annotations

import logging
import sys
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass

from amqp_rpc.amqp.channel import Delivery
from amqp_rpc.amqp.loop import Timer
from amqp_rpc.message.timing import LONGEST
from amqp_rpc.server.pool import Pool
from amqp_rpc.server.state import State
from amqp_rpc.server.tasks import TaskDispatcher, TaskInvocation

logger = logging.getLogger(__name__)

_NEVER = float("inf")
#: Seconds that a coroutine gets to end after it was cancelled at its limit.
_GRACE = 1.0
#: Seconds until an exceeded limit is dealt with again, should no thread have been there for it.
_LOOK_AGAIN = 1.0


@dataclass(slots=True, eq=False)
class Try:
    """One try of a task, from its beginning to its end or its limit."""

    dispatcher: TaskDispatcher
    delivery: Delivery
    task: TaskInvocation
    began: float
    due: float
    thread: int


class TimeLimits:
    """The tries with a limit, and one timer of the I/O thread for the earliest.

    Args:
        state: The server's.
        pool: It starts a new thread in the place of one whose handler does not end.
        settle: Called with a try, its seconds, and where its handler is, once the limit is exceeded: on a thread of its
            own.
    """

    def __init__(self, state: State, pool: Pool, settle: Callable[[Try, float, str | None], object]) -> None:
        self._state = state
        self._pool = pool
        self._settle = settle
        #: Held for moments: by a handler that ends, and while one is given up.
        self._lock = threading.Lock()
        self._tries: dict[TaskInvocation, Try] = {}
        self._stuck = 0
        self._timer: Timer | None = None
        #: When the timer is due. A handler's thread reads it after it has entered a try, and the I/O thread sets it
        #: before it looks at the tries: so one of the two sees the other.
        self._due = _NEVER

    def begin(self, dispatcher: TaskDispatcher, delivery: Delivery, task: TaskInvocation) -> None:
        """Limit a try that begins now; on the thread that runs it. `end` must follow."""
        assert task.limit is not None
        began = time.monotonic()
        # A coroutine is cancelled by the event loop; here it is dealt with only if it ignores that.
        due = began + task.limit + (_GRACE if task.function.asynchronous else 0.0)
        self._tries[task] = Try(dispatcher, delivery, task, began, due, threading.get_ident())
        if due < self._due:
            self._state.connection.post(self._set_timer)

    def end(self, task: TaskInvocation) -> bool:
        """Return whether a handler that has ended was in time, and its task is still to be settled."""
        with self._lock:
            if self._tries.pop(task, None) is not None:
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
            self._timer = self._state.connection.loop.call_later(delay, self._look)

    def _look(self) -> None:
        now = time.monotonic()
        late = [each for each in list(self._tries.values()) if each.due <= now]
        for each in late:
            each.due = now + _LOOK_AGAIN
        self._set_timer()
        for each in late:
            # Settling takes time, and may write to the store: that is not for the I/O thread.
            threading.Thread(target=self._exceeded, args=(each,), name="amqp_rpc time limit", daemon=True).start()

    def _exceeded(self, late: Try) -> None:
        task = late.task
        with self._lock:
            if self._tries.pop(task, None) is None:
                return  # its handler has just ended
            self._stuck += 1
            stuck = self._stuck
            stack = None if task.function.asynchronous else _stack(late.thread)
            replaced = task.function.asynchronous or self._pool.replace(late.thread)
        seconds = time.monotonic() - late.began
        if self._state.ends_when_stuck(stuck):
            fate = "its handler ends with this process, which takes no more and ends when its other handlers are done"
        else:
            fate = f"its handler can't be ended: it runs on, perhaps beside its retry ({stuck} such handlers now)"
            if not replaced:
                fate += "; no other thread takes its place: this process has too many of them. Restart it"
        logger.error(
            "Task %s() [%s] has exceeded its time limit of %g s, and %s",
            task.function.name, task.request.message_id, task.limit, fate,
        )  # fmt: skip
        self._settle(late, seconds, stack)
        self._state.on_stuck(stuck)


def _stack(thread: int) -> str | None:
    """Return where a thread is; None where it has just ended."""
    frame = sys._current_frames().get(thread)  # noqa: SLF001 - documented, and the only way
    return None if frame is None else "".join(traceback.format_stack(frame))
