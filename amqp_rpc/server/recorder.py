"""What a worker writes to the store of results; a store that is away never stops a task, nor holds up the others.

While it is away nothing is written by those who run tasks: how the tasks ended is remembered here, without their
results, and one thread looks whether the store is there again, and writes it then.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import OrderedDict
from typing import Final

from amqp_rpc.amqp.channel import Delivery
from amqp_rpc.errors import StoreUnavailable
from amqp_rpc.message.text import plural
from amqp_rpc.results.record import Record, Store
from amqp_rpc.server.begun import Begun
from amqp_rpc.server.calls import Dispatcher
from amqp_rpc.server.jobs import Answer, Chunk, Job
from amqp_rpc.server.task_jobs import TaskJob
from amqp_rpc.server.tasks import TaskDispatcher

logger = logging.getLogger(__name__)

#: Seconds between two looks at a store that is away.
LOOK_AGAIN: Final = 2.0
#: Tasks whose end is remembered while the store is away; each takes some hundred bytes.
MOST_REMEMBERED: Final = 10_000


class Recorder:
    """Records what becomes of tasks; any thread may call it, but for an owner or an event loop: it does I/O.

    Args:
        store: Where; None for nowhere.
        expires: Seconds that it keeps a record.
    """

    def __init__(self, store: Store | None, *, expires: float) -> None:
        self._store = store
        self._expires = expires
        self._begun = Begun(self._write)
        #: Guards what follows; nobody holds it while the store is asked.
        self._lock = threading.Lock()
        self._away = False
        #: How tasks ended while it was away, by id, the last one of each.
        self._remembered: OrderedDict[str, Record] = OrderedDict()
        self._lost = 0
        self._closing = threading.Event()

    def accept(self, dispatcher: Dispatcher, delivery: Delivery) -> Job | Chunk | TaskJob | Answer:
        """Return what a delivery asks for, as `Dispatcher.accept`, and record the task that begins, where it is one.

        A delivery that another worker had may be of a task that succeeded, and whose worker died before it said so:
        that is not run again. Only such a delivery costs a look into the store.
        """
        if self._store is None or not isinstance(dispatcher, TaskDispatcher):
            return dispatcher.accept(delivery.properties, delivery.body, redelivered=delivery.redelivered)
        if delivery.redelivered and (found := self._find(delivery.properties.message_id)) is not None:
            return dispatcher.repeated(delivery.properties, delivery.body, found)
        todo = dispatcher.accept(delivery.properties, delivery.body, redelivered=delivery.redelivered)
        if isinstance(todo, TaskJob) and (record := todo.started()) is not None:
            self._begun.add(record)
        return todo

    async def accept_async(self, dispatcher: Dispatcher, delivery: Delivery) -> Job | Chunk | TaskJob | Answer:
        """Do as `accept`, on a thread of its own where the store may be asked."""
        if self._store is None or not delivery.redelivered:
            return self.accept(dispatcher, delivery)
        return await asyncio.to_thread(self.accept, dispatcher, delivery)

    def record(self, answer: Answer | None) -> None:
        """Record what has become of a task; to be called before its delivery is settled."""
        if answer is not None and answer.record is not None:
            self._begun.end(answer.record.id)
            self._write(answer.record)

    def leave(self, answer: Answer) -> None:
        """Record nothing more of a task that another worker has by now."""
        if answer.record is not None:
            self._begun.end(answer.record.id)

    async def record_async(self, answer: Answer | None) -> None:
        """Do as `record`, on a thread of its own."""
        if answer is not None and answer.record is not None:
            await asyncio.to_thread(self.record, answer)

    def close(self) -> None:
        """Write what is remembered, if the store is there by now, and close it."""
        self._closing.set()
        self._begun.close()
        with self._lock:
            left = bool(self._remembered)
        if left and not self._write_remembered():
            logger.error(
                "The store of results is still away: %s lost, with what came of it",
                plural(len(self._remembered), "task's state is", "tasks' states are"),
            )
        if self._store is not None:
            self._store.close()

    def _asked(self) -> Store:
        assert self._store is not None
        return self._store

    def _find(self, identity: object) -> Record | None:
        """Return the record of a task that has succeeded; None for others, and where the store can't be asked."""
        with self._lock:
            if self._away or not isinstance(identity, str):
                remembered = self._remembered.get(identity) if isinstance(identity, str) else None
                return remembered if remembered is not None and remembered.state == "SUCCESS" else None
        try:
            record = self._asked().get(identity)
        except StoreUnavailable as error:
            self._has_gone(error)
            return None
        return record if record is not None and record.state == "SUCCESS" else None

    def _write(self, record: Record) -> None:
        if not self._away:
            try:
                self._asked().put(record, expires=self._expires)
            except StoreUnavailable as error:
                self._has_gone(error)
            else:
                return
        if record.ended:
            self._remember(record)

    def _remember(self, record: Record) -> None:
        with self._lock:
            self._lost += 1
            self._remembered[record.id] = record.bare()
            self._remembered.move_to_end(record.id)
            if len(self._remembered) > MOST_REMEMBERED:
                self._remembered.popitem(last=False)
            # It may be there again since it failed here.
            self._watch()

    def _has_gone(self, error: StoreUnavailable) -> None:
        with self._lock:
            if not self._away:
                logger.error("%s. Tasks run on; their results are lost until it is there again", error)
            self._watch()

    def _watch(self) -> None:
        """Have one thread look for the store; the lock is held."""
        if not self._away and not self._closing.is_set():
            self._away = True
            threading.Thread(target=self._look, name="amqp_rpc results", daemon=True).start()

    def _look(self) -> None:
        while not self._closing.wait(LOOK_AGAIN):
            if self._write_remembered():
                return

    def _write_remembered(self) -> bool:
        """Write what is remembered; return whether that was possible."""
        store = self._asked()
        try:
            # Also where nothing is remembered: the store must answer before it counts as there.
            store.get("")
            while True:
                with self._lock:
                    if not self._remembered:
                        self._away = False
                        lost = plural(self._lost, "result was", "results were")
                        logger.warning("The store of results is there again; %s lost", lost)
                        self._lost = 0
                        return True
                    record = next(iter(self._remembered.values()))
                known = store.get(record.id)
                # Another worker may have had the task since.
                if known is None or known.updated <= record.updated:
                    store.put(record, expires=self._expires)
                with self._lock:
                    if self._remembered.get(record.id) is record:
                        del self._remembered[record.id]
        except StoreUnavailable:
            return False
