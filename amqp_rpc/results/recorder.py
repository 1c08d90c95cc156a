"""Writes a worker's records to the store of results; a store that is away never stops a task, nor delays the others.

While the store is away the threads that run tasks write nothing: the ends of tasks are kept here, with as many of their
results as there is room for, and one thread polls the store and writes them once it is back.

A brief task costs one write: its start is written a moment later, and not at all if it has ended by then.
"""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

from amqp_rpc.errors import Undecodable
from amqp_rpc.message.text import bounded_logger, plural
from amqp_rpc.message.timing import Repeats
from amqp_rpc.results import Store
from amqp_rpc.results.record import Key, Record

logger: logging.Logger = bounded_logger(__name__)

#: Seconds between two polls of a store that is away.
LOOK_AGAIN: Final = 2.0
#: Outcomes of tasks that are remembered while the store is away; each uses some hundred bytes beside its result.
MOST_REMEMBERED: Final = 10_000
#: Bytes of the results that are remembered with them.
MOST_BYTES: Final = 64 * 1024 * 1024
#: Seconds after which the start of a task is written, and at most twice as many.
PATIENCE: Final = 0.05
#: Seconds for a thread to end its last write, when the recorder is closed.
_TO_END: Final = 2.0


class Recorder:
    """Records tasks; any thread may call it, but for an I/O thread or an event loop: it does I/O.

    Args:
        store: The store; None for no records.
        expires: Seconds that it keeps a record.
    """

    def __init__(self, store: Store | None, *, expires: float) -> None:
        self._store = store
        self._expires = expires
        #: The records of tasks that have started, not ended, and are not written yet.
        self._begun: dict[Key, Record] = {}
        #: Held while one of them is written: a task that ends meanwhile waits, and its end is written after it.
        self._writing_begun = threading.Lock()
        #: Set while there may be some.
        self._has_begun = threading.Event()
        #: Guards all below; never held during I/O.
        self._lock = threading.Lock()
        self._away = False
        #: The last outcome of each task that ended while the store was away.
        self._remembered: OrderedDict[Key, Record] = OrderedDict()
        #: The bytes of their results.
        self._size = 0
        #: The log lines about records that another program may have written.
        self._unreadable = Repeats()
        #: The results that there was no room for.
        self._lost = 0
        self._closing = threading.Event()
        #: Those that may be in the middle of a write.
        self._threads: list[threading.Thread] = []

    def start(self) -> None:
        """Start the thread that writes the starts of tasks."""
        if self._store is not None:
            self._run(self._write_begun, "amqp_rpc tasks begun")

    def look(self) -> None:
        """Look whether the store is there, on a thread of its own: one that is not is logged when the server starts."""
        if self._store is not None:
            self._run(self._look, "amqp_rpc results")

    def _look(self) -> None:
        assert self._store is not None
        try:
            self._store.check()
        # As in `_write`.
        except Exception as error:
            self._has_gone(error)

    @property
    def records(self) -> bool:
        """True if there is a store, and calls of this object may do I/O."""
        return self._store is not None

    def succeeded(self, key: Key) -> Record | None:
        """Return the record of a task that has succeeded; None for others, and without a store that answers."""
        if self._store is None:
            return None
        with self._lock:
            away, record = self._away, self._remembered.get(key)
        if not away:
            try:
                record = self._store.get(*key)
            except Undecodable as error:
                if (times := self._unreadable.again("record")) is not None:
                    logger.warning("task [%s]: its record can't be read, so it is run: %s%s", key[0], error, times)
                return None
            # The store may have raised anything: the task must run.
            except Exception as error:
                self._has_gone(error)
                return None
        return record if record is not None and record.state == "SUCCESS" else None

    def begin(self, record: Record) -> None:
        """Record the start of a task a moment later, if it has not ended by then."""
        self._begun[record.key] = record
        if not self._has_begun.is_set():
            self._has_begun.set()

    def end(self, record: Record) -> None:
        """Record the outcome of a task's attempt; before its delivery is settled."""
        self.leave(record)
        self._write(record)

    def leave(self, record: Record) -> None:
        """Drop the record of a task's start: another worker has the task by now, or its outcome comes next."""
        if self._begun.pop(record.key, None) is None:
            with self._writing_begun:
                pass

    def close(self) -> None:
        """Write the remembered outcomes, if the store is back by now, and close it."""
        self._closing.set()
        self._has_begun.set()
        with self._lock:
            left = bool(self._remembered)
        if left and not self._write_remembered():
            logger.error(
                "The store of results is still away: %s lost, with the results",
                plural(len(self._remembered), "task's state is", "tasks' states are"),
            )
        for thread in self._threads:
            # One that is in the middle of a write would open the store again.
            thread.join(_TO_END)
        if self._store is not None:
            self._store.close()

    def _run(self, target: Callable[[], object], name: str) -> None:
        self._threads = [each for each in self._threads if each.is_alive()]
        thread = threading.Thread(target=target, name=name, daemon=True)
        thread.start()
        self._threads.append(thread)

    def _write_begun(self) -> None:
        before: list[Record] = []
        while self._has_begun.wait() and not self._closing.wait(PATIENCE):
            for record in before:
                with self._writing_begun:
                    # Another attempt of the same task may have started since: it is written in its own time.
                    if self._begun.get(record.key) is record and self._begun.pop(record.key, None) is not None:
                        self._write(record)
            before = list(self._begun.values())
            if not before:
                # In this order: a task that starts after the second check finds the event cleared, and sets it.
                self._has_begun.clear()
                if self._begun:
                    self._has_begun.set()

    def _write(self, record: Record) -> None:
        assert self._store is not None
        if not self._away:
            try:
                self._store.put(record, expires=self._expires)
            # The store may have raised anything: the task has run.
            except Exception as error:
                self._has_gone(error)
            else:
                return
        if record.ended:
            self._remember(record)

    def _remember(self, record: Record) -> None:
        with self._lock:
            self._forget(record.key)
            if self._size + _size(record) > MOST_BYTES:
                record = record.bare()
                self._lost += 1
            self._remembered[record.key] = record
            self._size += _size(record)
            if len(self._remembered) > MOST_REMEMBERED:
                self._lost += self._forget(next(iter(self._remembered)))
            # The store may be back since it failed here.
            self._poll()

    def _forget(self, key: Key) -> bool:
        """Forget an outcome; return whether it was there with its result. The lock is held."""
        record = self._remembered.pop(key, None)
        self._size -= 0 if record is None else _size(record)
        return record is not None and record.body is not None

    def _has_gone(self, error: Exception) -> None:
        with self._lock:
            if not self._away:
                logger.error(
                    "%s. Tasks run on; their results are kept here until it is back, up to %d MiB of them",
                    error, MOST_BYTES // 2**20,
                )  # fmt: skip
            self._poll()

    def _poll(self) -> None:
        """Start the one thread that polls the store; the lock is held."""
        if not self._away and not self._closing.is_set():
            self._away = True
            self._run(self._poll_store, "amqp_rpc results")

    def _poll_store(self) -> None:
        while not self._closing.wait(LOOK_AGAIN):
            if self._write_remembered():
                return

    def _write_remembered(self) -> bool:
        """Write the remembered outcomes; return whether that was possible."""
        assert self._store is not None
        try:
            # Also without outcomes: the store must answer before it counts as back.
            self._store.get("")
            while True:
                with self._lock:
                    if not self._remembered:
                        self._away = False
                        lost = plural(self._lost, "result was", "results were")
                        logger.warning("The store of results is back; %s lost", lost)
                        self._lost = 0
                        return True
                    record = next(iter(self._remembered.values()))
                known = self._known(record)
                # Another worker may have had the task since.
                if known is None or known.updated <= record.updated:
                    self._store.put(record, expires=self._expires)
                with self._lock:
                    if self._remembered.get(record.key) is record:
                        self._forget(record.key)
        # As in `_write`.
        except Exception:
            return False

    def _known(self, record: Record) -> Record | None:
        """Return the store's record of the same task; None if it has none that can be read."""
        assert self._store is not None
        try:
            return self._store.get(*record.key)
        except Undecodable:
            return None


def _size(record: Record) -> int:
    return len(record.body or b"")
