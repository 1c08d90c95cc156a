"""A task that was enqueued: its state and its result, by the reply that its client gets, or from a store."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from amqp_rpc.amqp.pending import Outcome
from amqp_rpc.client import reply
from amqp_rpc.client.calls import Reply
from amqp_rpc.errors import CallTimeout, ConfigurationError, ResultLost, StoreUnavailable
from amqp_rpc.message.envelope import ERROR, Properties
from amqp_rpc.message.settings import DEFAULT_TIMEOUT
from amqp_rpc.message.timing import backoff
from amqp_rpc.results import Store
from amqp_rpc.results.record import Record, State
from amqp_rpc.service.function import registered_task

#: Seconds between two looks into the store, at first and at most.
FIRST_PAUSE, LONGEST_PAUSE = 0.005, 0.25
#: Seconds until a store that could not be asked is asked again.
_PAUSE_AFTER_FAILURE = 2.0
#: Seconds that a reply gets to arrive when the store says that the task has ended, and has lost how.
_GRACE = 1.0


R = TypeVar("R")


class TaskHandle(Generic[R]):
    """What `Client.enqueue` and `Client.task` return: a task that was accepted.

    Its result comes over the reply queue of the client that enqueued it, and is lost with that client or its
    connection; the task is not. With a store (``Client(results=…)``, and the same for the workers) it also comes from
    there, to any process and for as long as the store keeps it. Whichever is first counts.

    Args:
        id: The task's; the same on every try.
        queue: Which holds it; empty where that is not known.
        function: Its function's name; empty where that is not known.
        read: Returns a reply's result, or raises its error; None where nobody is told what becomes of it.
        store: Where workers record what becomes of tasks; None for none.
        wait: Waits for the reply until that time on the monotonic clock; None where none can come, since another
            client has enqueued it, or nobody is told.
    """

    __slots__ = ("__weakref__", "_read", "_reply", "_store", "_wait", "function", "id", "queue")

    def __init__(
        self,
        id: str,  # noqa: A002 - as users write it
        queue: str,
        function: str,
        read: Callable[[Reply], Any] | None,
        *,
        store: Store | None = None,
        wait: Callable[[Outcome[Reply], float], object] | None = None,
    ) -> None:
        self.id = id
        self.queue = queue
        self.function = function
        self._read = read
        self._store = store
        self._wait = wait
        self._reply = Outcome[Reply]()

    @property
    def state(self) -> State:
        """What it is doing, as far as is known; with a store, this asks it.

        - ``"PENDING"``: no worker has begun it. Also what is said of an id that was never a task's, and of one whose
          record has expired; and, without a store, of all that have not ended.
        - ``"STARTED"``: a worker has begun it, and may have died since: then another one begins it in its time.
        - ``"RETRY"``: it failed, and waits for its next try.
        - ``"SUCCESS"``: it has run to its end.
        - ``"FAILURE"``: it is a dead letter; or it has run, and its result can't be sent.

        Raises:
            StoreUnavailable: The store can't be asked.
            ConfigurationError: It was registered with ``result=False``.
        """
        self._asked()
        if not self._reply.done():
            record = self.record() if self._store is not None else None
            if record is not None:
                return record.state
            if not self._reply.done():
                return "PENDING"
        return "FAILURE" if self._reply.value.properties.type == ERROR else "SUCCESS"

    def ready(self) -> bool:
        """Return whether it has ended: whether `result` returns or raises at once. With a store, this asks it.

        Raises:
            StoreUnavailable: The store can't be asked.
            ConfigurationError: It was registered with ``result=False``.
        """
        return self.state in ("SUCCESS", "FAILURE")

    def result(self, *, timeout: float = DEFAULT_TIMEOUT) -> R:
        """Return what the function returned, or raise what made it a dead letter.

        It waits for the reply, and asks the store meanwhile, where there is one: after pauses of 5 ms, growing to a
        quarter of a second. A store that does not answer may take up to five seconds more than the timeout.

        Args:
            timeout: Seconds to wait (30.0).

        Raises:
            CallTimeout: It is not known yet (a `TimeoutError`); the task goes on. Without a store it never will be
                known, where this client's connection was lost meanwhile.
            RemoteError: The function raised, on its last try.
            CallError, CodecError: It is a dead letter for another reason: `Expired`, `FunctionNotFound`,
                `InvalidArguments`, `MaybeExecuted` where its workers died, `Undecodable`.
            ResultLost: It has ended, and the store was away then; `state` says how it did.
            ConfigurationError: It was registered with ``result=False``.
        """
        read = self._asked()
        until = time.monotonic() + timeout
        looks, pause, trouble = 0, FIRST_PAUSE, ""
        # The reply of a brief task is faster than any store; nobody replies to who only knows an id.
        wait = self._wait is not None
        while True:
            left = max(0.0, until - time.monotonic())
            if self._arrived((left if self._store is None else min(pause, left)) if wait else 0.0):
                result: R = read(self._reply.value)
                return result
            wait = True
            try:
                lost = self._look()
                looks += 1
                pause, trouble = backoff(looks, first=FIRST_PAUSE, most=LONGEST_PAUSE), ""
            except StoreUnavailable as error:
                lost, pause, trouble = None, _PAUSE_AFTER_FAILURE, f" ({error})"
            if self._reply.done():
                continue
            if lost is not None:
                if self._wait is not None and self._arrived(min(_GRACE, max(0.0, until - time.monotonic()))):
                    continue
                raise ResultLost(_lost(lost))
            if time.monotonic() >= until:
                name = f"{self.function}() " if self.function else ""
                raise CallTimeout(f"no result of task {name}[{self.id}] within {timeout:g} s; it goes on{trouble}")

    @property
    def has_store(self) -> bool:
        """Whether it can ask a store."""
        return self._store is not None

    def record(self) -> Record | None:
        """Return what the store knows of it: its state, try, times and error; None where it knows nothing.

        Raises:
            ConfigurationError: There is no store, or it was registered with ``result=False``.
            StoreUnavailable: It can't be asked.
        """
        self._asked()
        if self._store is None:
            raise ConfigurationError(
                "this client has no store to ask about tasks; give it results=, the same URL as the workers have"
            )
        record = self._store.get(self.id)
        if record is not None:
            self.queue, self.function = record.queue, record.function
            if record.ended and record.kind is not None and record.body is not None:
                self.answered(Reply(Properties(content_type=record.content_type, type=record.kind), record.body))
        return record

    def add_done_callback(self, callback: Callable[[], object]) -> None:
        """Call back once its reply has come, or a look into the store has found its end.

        Nobody looks into the store for this: `state`, `ready`, `result` and `record` do. It is called on the thread
        that found it out, which may be the connection's owner: it must be short, and must not call the client.
        """
        self._reply.on_done(callback)

    def answered(self, reply: Reply) -> None:
        """Take note of how it ended; the connection's owner, or a thread that has looked into the store."""
        # The reply and the store's record say the same.
        self._reply.tell(reply)

    def _asked(self) -> Callable[[Reply], Any]:
        if self._read is None:
            raise ConfigurationError(
                f"{self.function}() is registered with result=False: nobody is told what becomes of its tasks. "
                f"What failed is in the dead-letter queue: amqp-rpc dlq list {self.queue}"
            )
        return self._read

    def _arrived(self, seconds: float) -> bool:
        if not self._reply.done() and self._wait is not None:
            self._wait(self._reply, time.monotonic() + seconds)
        return self._reply.done()

    def _look(self) -> Record | None:
        """Ask the store, where there is one; return the record of a task that has ended, and whose result is lost."""
        record = self.record() if self._store is not None else None
        return record if record is not None and record.ended and record.body is None else None

    def __repr__(self) -> str:
        return f"<TaskHandle {self.function}() [{self.id}] in {self.queue}>"


def task_by_id(id: str, function: Callable[..., Any] | None, store: Store | None, *, limit: int) -> TaskHandle[Any]:  # noqa: A002 - as users write it
    """Return the handle of a task that another client, or nobody, has enqueued: see `Client.task`.

    Args:
        id: The task's.
        function: Which was registered with ``@service.task``; None where it is not known.
        store: Where workers record what becomes of tasks.
        limit: Bytes of a result at most.

    Raises:
        ConfigurationError: There is no store, or the function is no task, or the id no text.
    """
    if store is None:
        raise ConfigurationError(
            "a task can be asked for by its id only where results are kept: give this client, and the workers, "
            'results="sqlite:///file.db" or results="redis://host:6379/0" (or set AMQP_RPC_RESULTS)'
        )
    if not isinstance(id, str) or not id:
        raise ConfigurationError(f"a task's id is the text of TaskHandle.id, not {id!r}")
    known = None if function is None else registered_task(function)
    told = known is None or known.task is None or known.task.result
    return TaskHandle[Any](
        id,
        "" if known is None else known.queue,
        "" if known is None else known.name,
        (lambda came: reply.read(came, known, limit=limit)) if told else None,
        store=store,
    )


def _lost(record: Record) -> str:
    ended = f"{record.function}() [{record.id}] ended ({record.state})"
    why = f": {record.error}" if record.error else ""
    return (
        f"task {ended}{why}; its result is lost, since the store of results was away at that time. It is not run again"
    )
