"""The queues between processes that a client makes: see `queues`."""

from __future__ import annotations

import threading
import weakref
from typing import TYPE_CHECKING, Any

from amqp_rpc.errors import ConfigurationError
from amqp_rpc.message.topology import LONGEST_NAME, dead_letter_queue, item_arguments
from amqp_rpc.queues.queue import Queue
from amqp_rpc.queues.receipts import Receipts
from amqp_rpc.service.policy import QueueType

if TYPE_CHECKING:
    from amqp_rpc.client.caller import Caller

#: Seconds for the broker to forget what the client's queues needed.
_CLOSE_TIMEOUT = 2.0
#: A number in a table of AMQP 0-9-1 has 64 bits and a sign (section 4.2.1 of its specification).
_LARGEST = 2**63 - 1


class Queueing:
    """``queue`` of a client."""

    _caller: Caller
    _limit: int
    _timeout: float
    #: Held by who makes one, or lists them: a weak set can't be read while it grows. A signal handler may do either.
    _making_queues: threading.RLock
    _receipts: Receipts | None = None
    _queues: weakref.WeakSet[Queue[Any]] | None = None

    def queue(self, name: str, maxsize: int = 0, *, queue_type: QueueType = "quorum") -> Queue[Any]:
        """Return a queue between processes, with the methods of `queue.Queue`; the broker is not asked yet.

        It is durable, and made by the first `put` or `get`. All who use it give it the same ``maxsize`` and
        ``queue_type``.

        Args:
            name: The queue's.
            maxsize: How many items may wait in it (0: any number). Those that takers have fetched don't count.
            queue_type: ``"quorum"``: kept by a majority of the broker's nodes. ``"classic"``: by one of them, on disk.

        Raises:
            ConfigurationError: A name, a size or a type that there is not.

        Example:
            >>> with client.queue("numbers") as numbers:  # doctest: +SKIP
            ...     numbers.put(1)
        """
        _check(name, maxsize, queue_type)
        # As in the standard library.
        maxsize = max(0, maxsize)
        with self._making_queues:
            if self._receipts is None or self._queues is None:
                self._receipts, self._queues = Receipts(self._caller), weakref.WeakSet()
            made: Queue[Any] = Queue(
                self._caller,
                self._receipts,
                name,
                item_arguments(queue_type, maxsize=maxsize),
                maxsize=maxsize,
                timeout=self._timeout,
                limit=self._limit,
            )
            self._queues.add(made)
        return made

    def _close_queues(self) -> None:
        """Close all of them."""
        with self._making_queues:
            made = list(self._queues or ())
        for queue in made:
            queue.close()
        if self._receipts is not None:
            self._receipts.close(_CLOSE_TIMEOUT)


def _check(name: str, maxsize: int, queue_type: str) -> None:
    if not isinstance(name, str) or not name:
        raise ConfigurationError(f"a queue has a name, not {name!r}")
    try:
        size = len(dead_letter_queue(name).encode())
    except UnicodeEncodeError as error:
        raise ConfigurationError(f"a queue's name in AMQP is text in UTF-8, which {name!r} is not") from error
    if size > LONGEST_NAME:
        raise ConfigurationError(
            f"{name[:40]!r}…: a name in AMQP has at most {LONGEST_NAME} bytes, with '.dead' behind"
        )
    if isinstance(maxsize, bool) or not isinstance(maxsize, int):
        raise ConfigurationError(f"maxsize is a whole number, not {maxsize!r}")
    if maxsize > _LARGEST:
        raise ConfigurationError(f"maxsize in AMQP is at most {_LARGEST}, not {maxsize}; 0 is no bound")
    if queue_type not in ("quorum", "classic"):
        raise ConfigurationError(f'queue_type is "quorum" or "classic", not {queue_type!r}')
