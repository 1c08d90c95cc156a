"""The receipts of a client's items: over a queue of its own, takers say what is done. The connection's side of `join`.

The queue is durable, and outlives a lost connection, so that no receipt is lost with it. Where it is gone all the same
(deleted, away with its node, forgotten by a broker that was killed in the queue's first second), it is not known of the
items that were not done yet whether they will be: `Unfinished.lose`.
"""

from __future__ import annotations

import contextlib
import logging
import secrets
import time
from threading import Lock
from typing import TYPE_CHECKING
from weakref import WeakValueDictionary

from amqp_rpc.amqp.channel import Delivery, QueueState
from amqp_rpc.amqp.pending import Outcome
from amqp_rpc.amqp.publisher import fresh
from amqp_rpc.errors import BrokerError, NotConnected
from amqp_rpc.message import topology
from amqp_rpc.message.text import plural
from amqp_rpc.queues.items import numbered, read_receipt
from amqp_rpc.queues.unfinished import Unfinished

if TYPE_CHECKING:
    from amqp_rpc.amqp.channel import Channel
    from amqp_rpc.amqp.connection import Connection
    from amqp_rpc.client.rpc import Caller

logger = logging.getLogger(__name__)

#: Seconds until a channel that the broker closed is opened again.
_AGAIN = 0.5
#: Seconds that a thread waits at most before it looks whether the connection is still one.
_LOOK = 5.0


class Receipts:
    """Hears which items of a client are done; any thread may call `unfinished`, `address` and `close`.

    Args:
        caller: The client's.
    """

    def __init__(self, caller: Caller) -> None:
        self._caller = caller
        self._all: WeakValueDictionary[str, Unfinished] = WeakValueDictionary()
        self._connection: Connection | None = None
        self._following = False
        #: Guards the list of those who wait for the queue.
        self._lock = Lock()
        self._waiting: list[Outcome[BrokerError | None]] = []
        #: The queue, while it is there.
        self.here: str | None = None
        # From here on: the owner's alone.
        #: The queue's name, and whether it was declared: then it must be there.
        self._queue = ""
        self._declared = False
        self._channel: Channel | None = None
        self._opening = False
        self._tag = ""
        self._closing: Outcome[None] | None = None

    def unfinished(self, putter: str) -> Unfinished:
        """Return who counts the items of a new putter."""
        counted = self._all[putter] = Unfinished()
        return counted

    @property
    def blocked(self) -> str | None:
        """Why the broker takes no messages now; None while it does."""
        return None if self._connection is None else self._connection.blocked

    def address(self, seconds: float) -> str:
        """Return where receipts go, as soon as that queue is there.

        Raises:
            BrokerError: It is not there in time, or can't be.
        """
        until = time.monotonic() + seconds
        while (address := self.here) is None:
            connection = self._connection
            if not self._following or connection is None or not connection.alive:
                self._caller.follow(self, self._begin)
            else:
                connection.loop.leave(self.on_open)
            outcome = Outcome[BrokerError | None]()
            with self._lock:
                self._waiting.append(outcome)
            if self.here is not None:
                outcome.tell(None)
            self._caller.wait(outcome, min(until, time.monotonic() + _LOOK))
            with self._lock, contextlib.suppress(ValueError):
                self._waiting.remove(outcome)
            if outcome.done() and outcome.value is not None:
                raise outcome.value
            if not outcome.done() and time.monotonic() >= until:
                raise NotConnected(f"no connection to the broker within {seconds:.3g} s; nothing was put")
        return address

    def told_here(self, reply_to: str, identity: str) -> bool:
        """Take note of an item that was taken here as well; return whether it was put here. The owner's."""
        if reply_to != self.here:
            return False
        for putter, number in numbered([identity]):
            self._done(putter, number)
        return True

    def on_open(self) -> None:
        """Open the channel, where the connection is open and there is none."""
        assert self._connection is not None
        if self._connection.is_open and self._channel is None and not self._opening and self._closing is None:
            self._opening = True
            self._connection.open_channel(self._opened, self._closed)

    def on_lost(self, error: BrokerError) -> None:
        """Take note: until there is another connection, receipts wait in the queue."""
        assert self._connection is not None
        self._channel, self._opening = None, False
        if not self._connection.was_open:
            self.end(error)

    def end(self, error: BrokerError) -> None:
        """Tell those who wait for the queue that it will not be there; any thread."""
        self._following = False
        self._tell(error)

    def close(self, seconds: float) -> None:
        """Delete the queue, and end what is counted; nobody will put any more."""
        for unfinished in self._counted():
            unfinished.end()
        connection = self._connection
        if connection is not None and connection.alive and not self._caller.elsewhere:
            ended = Outcome[None]()
            connection.loop.leave(self._close, ended)
            self._caller.wait(ended, time.monotonic() + seconds)

    def _counted(self) -> list[Unfinished]:
        # Another thread may make one meanwhile: only a list of references is made in one step.
        return [each for reference in self._all.valuerefs() if (each := reference()) is not None]

    def _begin(self, connection: Connection) -> None:
        if self._connection is not connection:
            self._connection, self._channel, self._opening = connection, None, False
        self._following = True

    def _opened(self, channel: Channel) -> None:
        self._opening, self._channel = False, channel
        if self._declared:
            channel.inspect(self._queue, lambda _state: self._consume(channel))
            return
        self._queue = topology.receipts_queue(secrets.token_hex(16))

        def declared(_state: QueueState) -> None:
            self._declared = True
            self._consume(channel)

        channel.declare(self._queue, declared, arguments=topology.RECEIPTS_ARGUMENTS)

    def _consume(self, channel: Channel) -> None:
        def ready() -> None:
            self.here = self._queue
            self._tell(None)

        def cancelled() -> None:
            channel.close()
            self._lose("it was deleted")

        self._tag = channel.consume(self._queue, self._heard, acknowledge=True, then=ready, on_cancelled=cancelled).tag

    def _heard(self, delivery: Delivery) -> None:
        for putter, number in read_receipt(delivery.properties, delivery.body):
            self._done(putter, number)
        # In this order: a receipt that comes twice changes nothing.
        delivery.channel.ack([delivery.tag])

    def _done(self, putter: str, number: int) -> None:
        if (unfinished := self._all.get(putter)) is not None:
            unfinished.done(number)

    def _closed(self, _channel: Channel, error: BrokerError, _code: int) -> None:
        if self._closing is not None:
            self._closing.tell(None)
        elif self._declared:
            # It is not there any more, or not now, with its node; another one will do.
            self._lose(str(error))
        else:
            # No permission, perhaps: who asks for it the next time has it tried again.
            self._channel, self._opening = None, False
            self._tell(error)

    def _lose(self, cause: str) -> None:
        lost = 0
        self._channel, self._opening, self.here, self._declared = None, False, None, False
        for unfinished in self._counted():
            lost += len(unfinished)
            unfinished.lose()
        logger.log(
            logging.WARNING if lost else logging.INFO,
            "Queue %s is gone (%s): it is not known of %s whether they are done",
            self._queue, cause, plural(lost, "item", "items"),
        )  # fmt: skip
        assert self._connection is not None
        self._connection.loop.call_later(_AGAIN, self.on_open)

    def _tell(self, error: BrokerError | None) -> None:
        with self._lock:
            waiting, self._waiting = self._waiting, []
        for outcome in waiting:
            outcome.tell(None if error is None else fresh(error))

    def _close(self, ended: Outcome[None]) -> None:
        channel, self._channel, self._closing = self._channel, None, ended
        self._caller.conversations.leave(self)
        if channel is None or not channel.is_open or not self._declared:
            ended.tell(None)
            return
        # Whether or not it can be deleted: it expires.
        channel.cancel(self._tag, lambda: None)
        channel.purge(self._queue)
        channel.delete(self._queue, lambda: ended.tell(None))
