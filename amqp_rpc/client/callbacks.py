"""The thread on which callbacks of futures run: a user's code, which must not keep a connection's owner from work."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable
from typing import Any

logger = logging.getLogger(__name__)

_lock = threading.Lock()
_waiting: queue.SimpleQueue[tuple[Callable[[Any], object], Any]] | None = None


def run(callback: Callable[[Any], object], argument: Any) -> None:
    """Run ``callback(argument)`` on the one thread for callbacks, which is started at the first; any thread."""
    global _waiting  # noqa: PLW0603 - one thread for the process, as concurrent.futures has one for its queue
    with _lock:
        if _waiting is None:
            _waiting = queue.SimpleQueue()
            threading.Thread(target=_run, args=(_waiting,), name="amqp_rpc callbacks", daemon=True).start()
    _waiting.put((callback, argument))


def _run(waiting: queue.SimpleQueue[tuple[Callable[[Any], object], Any]]) -> None:
    while True:
        callback, argument = waiting.get()
        try:
            callback(argument)
        except Exception:
            logger.exception("A future's callback raised: %r", callback)
        del callback, argument
