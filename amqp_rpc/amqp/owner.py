"""The thread that owns connections, and its loop: one connection, or the few that one server needs."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from amqp_rpc.amqp.loop import Loop


class Owner:
    """A thread that runs from the first `begin` until every one of them has seen its `end`.

    Args:
        name: The thread's.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._lock = threading.Lock()
        #: Made when it is needed: an owner of nothing holds no sockets.
        self._loop: Loop | None = None
        self._thread: threading.Thread | None = None
        #: Whether what is posted will be done.
        self.alive = False
        self._owned = 0

    @property
    def loop(self) -> Loop:
        """Its loop, once it has begun."""
        assert self._loop is not None
        return self._loop

    def begin(self, connect: Callable[[], object]) -> None:
        """Own one more connection, which this opens; any thread."""
        with self._lock:
            self._owned += 1
            if self._thread is None:
                self._loop = Loop()
                self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
                self._loop.post(connect)
                self._thread.start()
                self.alive = True
            else:
                self.loop.post(connect)

    def end(self) -> None:
        """Own one connection less; the thread ends with the last one. On that thread."""
        with self._lock:
            self._owned -= 1
            if not self._owned:
                self.alive = False
                self.loop.stop()

    def post(self, callback: Callable[..., object], *args: Any) -> None:
        """Have the thread call ``callback(*args)``; any thread. Before the first `begin` there is nobody to do it."""
        if self._loop is not None:
            self._loop.post(callback, *args)

    def join(self, timeout: float) -> bool:
        """Wait for the thread's end, should nothing be owned any more; return whether all is well."""
        if self._thread is None or self._owned:
            return True
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def _run(self) -> None:
        try:
            self.loop.run()
        finally:
            self.loop.close()
