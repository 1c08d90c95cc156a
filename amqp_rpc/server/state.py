"""The state that the parts of one server share: its start, its unacked deliveries and their acks, its drain."""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Callable, Iterable

from amqp_rpc.amqp.channel import Channel, Delivery
from amqp_rpc.amqp.connection import Connection
from amqp_rpc.amqp.declare import advice, other_arguments
from amqp_rpc.errors import AmqpRpcError, BrokerError, ConfigurationError, NotConnected
from amqp_rpc.message.refusals import Need, ReplyCode, Rights, is_conflict
from amqp_rpc.message.signature import Keys
from amqp_rpc.message.text import bounded_logger
from amqp_rpc.message.timing import Repeats
from amqp_rpc.server.pool import Pool

logger: logging.Logger = bounded_logger(__name__)

#: Seconds between two polls of the running handlers, while a server drains without a connection.
_POLL = 0.1


class State:
    """The state of one server. It belongs to the I/O thread.

    The server has started when all its queues are consumed and the other parts are ready.
    """

    #: The connection that consumes, after `begin`.
    connection: Connection

    def __init__(
        self,
        pool: Pool,
        queues: Iterable[str],
        parts: Iterable[str],
        *,
        needs: Iterable[Need] = (),
        keys: Keys | None = None,
        users: frozenset[str] = frozenset(),
    ) -> None:
        self.counters: Counter[str] = Counter()
        #: Those that all its connections use: what one of them lacks at first is said with all that they need.
        self.rights: Rights = Rights()
        self.rights.use(needs)
        #: Those that messages are signed with; None if they need not be.
        self.keys: Keys | None = keys
        #: Its users, where its messages have their names.
        self.users: frozenset[str] = users
        #: Set once every part is ready, or one has failed.
        self.started: threading.Event = threading.Event()
        self.failure: AmqpRpcError | None = None
        #: What kept a part from being ready the last time.
        self.trouble: AmqpRpcError | None = None
        #: Set once no more deliveries arrive and none is unacked.
        self.drained: threading.Event = threading.Event()
        #: The deliveries that are not settled, by their identity. Any thread may copy it.
        self.unacked: dict[int, Delivery] = {}
        #: The log lines about what any program may write: headers, a record.
        self.repeats: Repeats = Repeats()
        self.on_stuck: Callable[[int], object] = lambda _handlers: None
        self.ends_when_stuck: Callable[[int], bool] = lambda _handlers: False
        #: The queues of which more deliveries may arrive.
        self.delivering: set[str] = set(queues)
        self._pool = pool
        self._not_ready = {*self.delivering, *parts}
        self._polling = False

    def begin(self, connection: Connection) -> None:
        """Belong to the connection that consumes, before it is started."""
        self.connection = connection

    def ready(self, part: str) -> None:
        """Note that a part is ready; it is called again after a lost connection."""
        self._not_ready.discard(part)
        if not self._not_ready:
            self.started.set()

    def unready(self, seconds: float) -> NotConnected:
        """Return the error of a start that took longer than so many seconds: what it waits for, and why."""
        why = self.trouble or self.connection.error
        waits = ", ".join(sorted(self._not_ready))
        return NotConnected(f"not ready within {seconds:g} s: it waits for {waits}{'' if why is None else f': {why}'}")

    def failed(self, error: AmqpRpcError) -> None:
        """End the start with an error; later ones are ignored."""
        if not self.started.is_set():
            self.failure = error
            self.started.set()

    def refused(
        self, queue: str, error: AmqpRpcError, code: int, times: int = 0, declared_by: tuple[str, str] | None = None
    ) -> None:
        """Report that the broker has closed a consumer's channel, so many times in a row; 0 if it worked before.

        ``declared_by`` is what declares the queue, and its options, where a user can say how.
        """
        self.trouble = error
        # A queue that is not there may come; one that another program has to declare did not.
        if not self.started.is_set() and (code != ReplyCode.NOT_FOUND or isinstance(error, ConfigurationError)):
            self.failed(_refusal(queue, error, declared_by))
        elif times == 0:
            logger.warning("queue %s: %s; consuming it again", queue, error)
        elif times == 1:
            logger.error(
                "queue %s: not consumed: %s. Trying again; the log will say when it works",
                queue, _refusal(queue, error, declared_by),
            )  # fmt: skip

    def acknowledge(self, deliveries: list[Delivery]) -> None:
        """Ack settled deliveries."""
        tags: dict[Channel, list[int]] = {}
        for delivery in deliveries:
            self.unacked.pop(id(delivery), None)
            tags.setdefault(delivery.channel, []).append(delivery.tag)
        for channel, settled in tags.items():
            if not channel.ack(settled):
                self.counters["stale_acks"] += len(settled)
        if not self.delivering:
            self.check_drained()

    def stop_delivering(self, queue: str) -> None:
        """Note that no more deliveries of a queue will come."""
        self.delivering.discard(queue)
        self.check_drained()

    def check_drained(self) -> None:
        """Check whether the server is drained; also when the connection is lost."""
        if self.delivering:
            return
        if not self.unacked:
            # The acks must have left before the connection is closed.
            if self.connection.is_open:
                self.connection.when_sent(self.drained.set)
            else:
                self.drained.set()
        elif not self.connection.is_open:
            # No reply and no ack can be sent now, but running handlers are not cut off.
            if not self._pool.busy():
                self.drained.set()
            elif not self._polling:
                self._polling = True
                self.connection.loop.call_later(_POLL, self._poll)

    def _poll(self) -> None:
        self._polling = False
        self.check_drained()


def _refusal(queue: str, error: AmqpRpcError, declared_by: tuple[str, str] | None) -> AmqpRpcError:
    """Return the error of a queue that the broker did not let this server consume."""
    if not isinstance(error, BrokerError) or not is_conflict(str(error)):
        return error
    remedy = "Delete it: a server declares it again" if declared_by is None else advice(error, *declared_by)
    return other_arguments(queue, error, than="this server's", remedy=remedy)
