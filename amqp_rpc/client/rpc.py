"""Calls over one connection: the session that sends them, and the reply queue whose replies end them.

The thread that takes a call out of the table of pending calls is the one that ends it: for its reply, its deadline, its
cancellation, the broker's return, or the loss of the connection. No user's code runs here: the thread that asks for a
result decodes it, or one that is there for decoding.
"""

from __future__ import annotations

import logging
import time
from collections import Counter, deque
from functools import partial
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

from amqp_rpc.amqp.channel import Channel, Delivery, QueueState
from amqp_rpc.amqp.pending import InFlight
from amqp_rpc.amqp.publisher import Publication, Publisher, fresh
from amqp_rpc.amqp.reply_queue import ReplyQueue
from amqp_rpc.amqp.session import Session
from amqp_rpc.client.call import Call, Capacity, Place, Room
from amqp_rpc.client.reply import Reply
from amqp_rpc.client.servers import Liveness, Servers
from amqp_rpc.errors import (
    AccessRefused,
    AmqpRpcError,
    BrokerError,
    CallTimeout,
    CodecError,
    ConnectionLost,
    MaybeExecuted,
    MessageTooLarge,
    Overloaded,
)
from amqp_rpc.message.envelope import ALIVE, APPLICATION, Message, Properties, read_names, request_properties
from amqp_rpc.message.refusals import body_too_large
from amqp_rpc.message.settings import LIVENESS_INTERVAL, Addresses
from amqp_rpc.message.text import bounded_logger
from amqp_rpc.message.timing import FIRST_RETRY, LONGEST_RETRY, MOST_ATTEMPTS, RetryBudget, backoff

if TYPE_CHECKING:
    from amqp_rpc.amqp.connection import Connection

logger: logging.Logger = bounded_logger(__name__)

#: With at most this many calls in flight each request is sent at once; with more, requests are sent in batches.
_FEW = 8


class Caller(Session):
    """A session that also sends calls; every public method is thread-safe."""

    def __init__(self, addresses: Addresses, *, name: str, heartbeat: float, capacity: Capacity) -> None:
        self.capacity = capacity
        self.pending: InFlight[Call] = InFlight(on_taken=self._taken)
        #: ``late_replies`` (to calls that had ended, or never were), ``retries``, ``timeouts``; `event`: ``unrouted``.
        self.counters: Counter[str] = Counter()
        #: The task queues whose names were guesses and were checked: `task` warns of each once.
        self.looked: set[str] = set()
        publisher = Publisher(addresses)
        self._requests = Requests(self.pending, self.counters, addresses, publisher)
        super().__init__(addresses, publisher, self._requests, name=name, heartbeat=heartbeat)

    def send(self, message: Call | Publication, *, awaited: bool) -> None:
        """Send a call, a task, an event or an item: everything that a client sends passes here.

        This is where middleware would go. `submit` has made room for a call before.

        Args:
            message: The message.
            awaited: Whether this thread is about to wait for its end.

        Raises:
            ConfigurationError: The client is closed, or belongs to the process that this one was forked from.
        """
        # Asked in this order: whether it is a `Call`, which is an abstract class, would take much longer.
        if isinstance(message, Publication):
            super().publish(message, awaited=awaited)
            return
        call = message
        # Into the table first: if the connection fails at this moment, its I/O thread finds the call there and ends it.
        if not awaited:
            self.unawaited.add(call.identity)
        self.pending.add(call.identity, call)
        try:
            connection = self.connected()
            if len(self.pending) <= _FEW:
                # This thread writes the request itself: waking another one would take longer.
                connection.loop.do(self._requests.send, call)
                if not awaited:
                    # The I/O thread must read the reply, since no other thread waits for it at the sockets.
                    connection.loop.recall()
            elif awaited:
                connection.loop.leave(self._requests.send, call)
            else:
                connection.post(self._requests.send, call)
        except BaseException:
            # Ctrl-C, for example: the caller never gets the future.
            self.give_up(call)
            raise
        if not connection.alive:
            # It ended after `connected` had checked it: its loop may never run what was posted.
            self._requests.end_gone(call, connection.error or ConnectionLost("the client's connection has just ended"))

    def publish(self, publication: Publication, *, awaited: bool = True) -> None:
        """Publish a message that must not be lost; `confirm` waits for the broker's confirm."""
        self.send(publication, awaited=awaited)

    def submit(self, call: Call, *, awaited: bool) -> None:
        """Send a call; block while too many are in flight.

        Raises:
            Overloaded: None of them ended before the call's deadline.
        """
        self.check_process()
        room = self.capacity.take(len(call.body))
        if room is not None:
            self._wait_for_room(call, room)
        self.send(call, awaited=awaited)

    def give_up(self, call: Call) -> bool:
        """Remove a call from the table of pending calls; return whether it was there."""
        return self.pending.take(call.identity) is not None

    def expire(self, call: Call) -> None:
        """End a call whose deadline has passed, unless it has ended."""
        if self.give_up(call):
            call.fail(self._requests.too_late(call))

    def overloaded(self, call: Call) -> Overloaded:
        """Return the error of a call that got no room in time."""
        return call.overloaded(len(self.pending))

    def expect(self, task: Any) -> None:
        """Register a task's handle: the task's reply goes to it for as long as the program keeps it."""
        self._requests.tasks[task.id] = task

    async def close(self, timeout: float) -> None:
        """Close the connection, and end every call in flight; for users' scripts."""
        if not self.elsewhere:
            self.capacity.close()
        await super().close(timeout)

    def _wait_for_room(self, call: Call, room: Room) -> None:
        try:
            if room.wait(call.expires_at):
                return
        except BaseException:
            # Ctrl-C, for example. The call returns its room, if it got any.
            if not self.capacity.leave(room):
                self.capacity.give(room.size)
            raise
        if self.capacity.leave(room):
            raise self.overloaded(call)

    def _taken(self, call: Call) -> None:
        self.capacity.give(len(call.body))
        self.unawaited.discard(call.identity)


class Requests(ReplyQueue):
    """Writes requests on the reply queue's channel; ends calls by replies, deadlines, returns, or a lost connection.

    Any thread may call `end` and `too_late`; the rest belongs to the I/O thread.
    """

    def __init__(
        self, pending: InFlight[Call], counters: Counter[str], addresses: Addresses, publisher: Publisher
    ) -> None:
        super().__init__(publisher)
        #: The handles of tasks, by their ids; one that the program drops leaves by itself.
        self.tasks: WeakValueDictionary[str, Any] = WeakValueDictionary()
        self._pending = pending
        self._counters = counters
        self._addresses = addresses
        #: Why the connection was last lost, or the channel last closed.
        self._last_error: BrokerError | None = None
        self._unsent: deque[Call] = deque()
        #: Calls whose size the broker may refuse, while one is tried; and the id of the call that was written last.
        self._large: deque[Call] = deque()
        self._last_written = ""
        #: When each queue was last known to have a server, over any connection.
        self._served: dict[str, float] = {}
        #: The knowledge about servers of queues; None without an open connection.
        self._servers: Servers | None = None
        self._timer_due = float("inf")
        #: The queues over this connection that may be full; and the channel on which the broker confirms.
        self._bounded: set[str] = set()
        self._confirming: Channel | None = None
        self._budget = RetryBudget()
        self._liveness = Liveness(pending)
        #: True while a timer runs `_check_liveness`.
        self._checking = False

    def send(self, call: Call) -> None:
        """Write a call's request once there is a reply queue, a broker that accepts messages, and a server."""
        if call.written or call.done():
            return
        self._watch(call)
        # A call that is held back while the broker accepts no messages surely does not run.
        connection = self._connection
        if self.address is None or self._servers is None or connection is None or connection.blocked is not None:
            self._unsent.append(call)
            if connection is not None:
                self.need()
        elif len(call.body) > connection.fits:
            self._large.append(call)
            if len(self._large) == 1:
                connection.run(self._send_large(connection))
        elif self._servers.proved(call.queue):
            self._write(call)
        else:
            self._servers.hold(call)

    def end(self, call: Call, error: AmqpRpcError) -> None:
        """End a call with an error, unless it has ended."""
        if call.attempt > 1 and not error.may_have_run:
            # The error is about this attempt alone.
            error = MaybeExecuted(f"{error}. But an earlier attempt was sent, and lost: it may have run")
        if self._pending.take(call.identity) is not None:
            call.fail(error)

    def too_late(self, call: Call) -> AmqpRpcError:
        """Count a call whose deadline has passed, and return its error."""
        connection = self._connection
        error = call.too_late(
            blocked=connection.blocked if connection is not None else None,
            unconnected=None if self.address else str(self._last_error or f"no connection to {self._addresses} yet"),
        )
        # Also one that was lost, and that was not sent again in time.
        self._counters["timeouts"] += isinstance(error, CallTimeout)
        return error

    def end_all(self, error: BrokerError) -> None:
        """End every call: no other connection will be opened. Any thread."""
        if not isinstance(error, ConnectionLost):
            # The first attempt to connect has failed.
            self._end_calls(error)
            return
        for _, call in self._pending:
            self.end_gone(call, error)

    def end_gone(self, call: Call, error: BrokerError) -> None:
        """End a call: its connection is gone, and there is no other one."""
        if isinstance(error, ConnectionLost):
            self.end(call, call.lost(str(error)) if call.written else call.unsent(str(error)))
        else:
            self.end(call, fresh(error))

    # The keeper's hooks.

    def begin(self, connection: Connection) -> None:
        """Belong to a connection from now on."""
        super().begin(connection)
        self._timer_due = float("inf")
        self._checking = False

    def on_open(self) -> None:
        """Start to look for servers over this connection, and open the channel."""
        self._servers = Servers(
            self.connection, self._addresses, self._served,
            send=self.send, end=self.end, inspected=self._inspected,
        )  # fmt: skip
        self._bounded = self._servers.bounded
        super().on_open()

    async def set_up(self, channel: Channel) -> None:
        """Handle returned requests, and declare and consume the reply queue."""
        channel.on_returned(self._returned)
        await super().set_up(channel)

    def ready(self) -> None:
        """Write the requests that waited for the reply queue."""
        super().ready()
        self._send_unsent()

    def on_unblocked(self) -> None:
        """Write the requests that were held back while the broker accepted no messages."""
        self._send_unsent()

    def closed(self, error: BrokerError, code: int) -> None:
        """Retry or end every call that was written: its reply can't arrive any more."""
        super().closed(error, code)
        self._last_error = error
        self._end_refused(error)
        self._lose_written(str(error))
        if isinstance(error, AccessRefused):
            # The user may not have a reply queue, or write to any queue. No call can work, so none waits.
            self._end_calls(error)

    def lost(self, error: BrokerError) -> None:
        """Keep the calls that were not written; retry or end the others."""
        super().lost(error)
        held = self._servers.release() if self._servers is not None else []
        held += self._large
        self._large.clear()
        self._servers = None
        self._last_error = error
        if self.connection.was_open:
            self._unsent.extend(held)
            self._lose_written(str(error))

    # Deliveries.

    def received(self, delivery: Delivery) -> None:
        """End a call, or a task, with its reply; hand any other message to the receiver of its type."""
        call = self._pending.take(delivery.properties.correlation_id)
        if call is None:
            if delivery.properties.type == ALIVE:
                self._reported(delivery)
            elif (task := self.tasks.get(delivery.properties.correlation_id or "")) is not None:
                task.answered(Reply(delivery.properties, delivery.body))
            else:
                super().received(delivery)
            return
        if self._servers is not None:
            self._servers.prove(call.queue)
        self._liveness.answered(call, reports=delivery.properties.app_id == APPLICATION)
        self._budget.earn()
        call.answer(Reply(delivery.properties, delivery.body))

    def unknown(self, delivery: Delivery) -> None:
        """Count a reply whose call has ended, or that answers no call of this client, and drop it."""
        self._counters["late_replies"] += 1
        super().unknown(delivery)

    def _reported(self, delivery: Delivery) -> None:
        try:
            identities = read_names(delivery.body)
        except CodecError as error:
            logger.debug("liveness message dropped: it can't be read: %s", error)
            return
        self._liveness.reported(identities)

    def _returned(self, queue: str, properties: Properties) -> None:
        call = self._pending.get(properties.correlation_id)
        if call is None:
            return
        if self._servers is not None:
            self._servers.disprove(queue)
        # It did not run, so it may be sent again: `send` asks the broker for its queue first.
        call.written = False
        self.send(call)

    # Calls.

    def _write(self, call: Call) -> None:
        assert self.channel is not None
        assert self.address is not None
        remaining = call.expires_at - time.monotonic()
        if remaining <= 0:
            if self._pending.take(call.identity) is not None:
                call.fail(self.too_late(call))
            return
        properties = request_properties(
            function=call.function,
            content_type=call.content_type,
            identity=call.identity,
            reply_to=self.address,
            remaining=remaining,
            attempt=call.attempt,
            idempotent=call.idempotent,
            chunk=call.chunk,
            headers=call.headers,
        )
        # In this order: a thread that takes it out of the table now finds it written, or it is not written at all.
        call.written = True
        if self._pending.get(call.identity) is not call:
            return
        self._liveness.written(call)
        self._last_written = call.identity
        message = Message(call.queue, properties, call.body)
        try:
            if self._publisher.proving:
                self._publisher.prove(message)
            if self._bounded and call.queue in self._bounded:
                sent = self._publish_confirmed(self.channel, call, message)
            else:
                sent = self.channel.publish(message, mandatory=True)
            if not sent:
                call.written = False
                self._unsent.append(call)
        # AMQP can't carry it: the caller's headers. Nothing was written.
        except Exception as error:
            if not call.headers:
                # A signal handler's, say.
                raise
            call.written = False
            self.end(call, call.unwritable(error))

    def _publish_confirmed(self, channel: Channel, call: Call, message: Message) -> bool:
        if self._confirming is not channel:
            self._confirming = channel
            channel.confirms()
        return channel.publish_confirmed(message, Place(call, self.crowded_out), mandatory=True)

    def crowded_out(self, call: Call) -> None:
        """End a call that the broker has refused, since its queue is full."""
        self.end(call, call.crowded_out())

    async def _send_large(self, connection: Connection) -> None:
        """Send the calls that may be larger than the broker takes, one after another, or end them."""
        while self._large:
            call = self._large[0]
            try:
                await connection.check_size(len(call.body))
            except MessageTooLarge as error:
                self.end(call, MessageTooLarge(f"{call.function}() was not sent: {error}"))
            self._large.popleft()
            self.send(call)

    def _end_refused(self, error: BrokerError) -> None:
        """End the calls of which it is sure that the broker refused them: they can't run."""
        limit = self.connection.learn_limit(str(error))
        newest = self._pending.get(self._last_written)
        if limit is not None:
            for _, call in self._pending:
                if call.written and (size := len(call.body)) > limit:
                    self.end(call, MessageTooLarge(f"{call.function}() was not sent: {body_too_large(size, limit)}"))
        elif isinstance(error, AccessRefused) and newest is not None and newest.written:
            # The broker reads them in order, and none behind the one that it refused: it may have those before.
            self.end(newest, AccessRefused(f"{newest.function}() was not sent: {error}. It did not run"))

    def _send_unsent(self) -> None:
        unsent, self._unsent = self._unsent, deque()
        for call in unsent:
            self.send(call)

    def _lose_written(self, cause: str) -> None:
        """Retry or end the calls whose replies can't arrive any more."""
        for _, call in self._pending:
            if call.written and not self._retry(call, cause):
                self.end(call, call.lost(cause))

    def _retry(self, call: Call, cause: str) -> bool:
        """Send a written call again after a back-off, if that is allowed; return whether it is."""
        if not call.idempotent or call.attempt >= MOST_ATTEMPTS or not self._budget.spend():
            return False
        delay = backoff(call.attempt, first=FIRST_RETRY, most=LONGEST_RETRY)
        call.written, call.attempt = False, call.attempt + 1
        self._counters["retries"] += 1
        logger.info(
            "call %s(): %s; sending it again in %.1f s, attempt %d of %d",
            call.function, cause, delay, call.attempt, MOST_ATTEMPTS,
        )  # fmt: skip
        self.connection.loop.call_later(delay, partial(self.send, call))
        return True

    def _end_calls(self, error: BrokerError) -> None:
        self._unsent.clear()
        for _, call in self._pending:
            refused = isinstance(error, AccessRefused) and self.connection.was_open
            self.end(call, AccessRefused(f"{call.function}() was not sent: {error}") if refused else fresh(error))

    # Deadlines and liveness.

    def _watch(self, call: Call) -> None:
        self._pending.watch(call)
        if call.expires_at < self._timer_due:
            self._set_timer(call.expires_at)
        if not self._checking:
            self._checking = True
            self.connection.loop.call_later(LIVENESS_INTERVAL, self._check_liveness)

    def _set_timer(self, due: float) -> None:
        self._timer_due = due
        self.connection.loop.call_later(max(0.0, due - time.monotonic()), self._sweep)

    def _sweep(self) -> None:
        for call in self._pending.expired(time.monotonic()):
            call.fail(self.too_late(call))
        self._timer_due = float("inf")
        if self._pending.earliest < self._timer_due:
            self._set_timer(self._pending.earliest)

    def _check_liveness(self) -> None:
        self._checking = len(self._pending) > 0
        if not self._checking:
            return
        self.connection.loop.call_later(LIVENESS_INTERVAL, self._check_liveness)
        # While the broker accepts no messages, it may hold up servers' replies and liveness messages as well.
        if self.address is not None and self._servers is not None and self.connection.blocked is None:
            for queue in self._liveness.look():
                self._servers.inspect(queue)

    def _inspected(self, state: QueueState) -> None:
        """Retry or end the calls of a queue that its state shows to be lost."""
        for call in self._liveness.lost(state):
            if call.idempotent:
                # A call that may not be retried does not end: its reply may still come before its deadline.
                self._retry(call, "neither its queue nor a server seems to have it")
            else:
                cause = f"the server that had it is gone, and queue {call.queue!r} has no consumers now"
                self.end(call, call.lost(cause))
