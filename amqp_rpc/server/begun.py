"""Tasks that have begun: it is recorded a moment later, and for those that have ended by then, not at all.

For a brief task a second write to the store costs as much as all the rest of it, and nobody would see what it says.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Final

from amqp_rpc.results.record import Record

#: Seconds after which it is recorded that a task has begun, and at most twice as many.
PATIENCE: Final = 0.05


class Begun:
    """Writes the records of tasks that have begun and not ended soon, on a thread of its own.

    Args:
        write: Writes a record; it raises nothing.
    """

    def __init__(self, write: Callable[[Record], object]) -> None:
        self._write = write
        self._waiting: dict[str, Record] = {}
        #: Held while one is written, so that whoever has ended meanwhile waits, and writes after it.
        self._writing = threading.Lock()
        self._wake = threading.Event()
        self._idle = False
        self._thread: threading.Thread | None = None
        self._starting = threading.Lock()
        self._closed = threading.Event()

    def add(self, record: Record) -> None:
        """Take note that a task has begun; any thread."""
        self._waiting[record.id] = record
        if self._thread is None:
            self._start()
        # After it was added, and the thread looks once more after it has said so: one of the two sees the other.
        if self._idle:
            self._wake.set()

    def end(self, identity: str) -> None:
        """Take note that a task has ended: from now on it is not recorded any more that it has begun; any thread."""
        if self._waiting.pop(identity, None) is None:
            with self._writing:
                pass

    def close(self) -> None:
        """End the thread."""
        self._closed.set()
        self._wake.set()

    def _start(self) -> None:
        with self._starting:
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="amqp_rpc tasks begun", daemon=True)
                self._thread.start()

    def _run(self) -> None:
        before: list[Record] = []
        while not self._closed.wait(PATIENCE):
            for record in before:
                with self._writing:
                    # Another try of the same task may have begun since: that has its own time.
                    if self._waiting.get(record.id) is record and self._waiting.pop(record.id, None) is not None:
                        self._write(record)
            before = list(self._waiting.values())
            if not before:
                self._idle = True
                if not self._waiting:
                    self._wake.wait()
                self._idle = False
                self._wake.clear()
