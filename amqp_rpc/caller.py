"""The client's half that lives on the connection's owner: it writes requests and ends calls. No user code runs here.

A call is ended by whoever takes it out of the table of pending calls: a reply, its deadline, its cancellation, the
broker's return, or the loss of the connection. Bodies are decoded later, in the thread that asks for the result.
"""

from __future__ import annotations

import itertools
import logging
import os
import threading
import time
from collections import Counter, deque
from functools import partial
from typing import TYPE_CHECKING

from amqp_rpc import codec, forks, verdicts
from amqp_rpc.calls import PendingCall, Reply
from amqp_rpc.capacity import Capacity
from amqp_rpc.channel import Channel
from amqp_rpc.codec import MSGPACK
from amqp_rpc.envelope import ALIVE, APPLICATION, Message, Properties, request_properties
from amqp_rpc.errors import (
    AccessRefused,
    AmqpRpcError,
    BrokerError,
    CodecError,
    ConfigurationError,
    MaybeExecuted,
    NotConnected,
    NotSent,
    Overloaded,
)
from amqp_rpc.pending import PendingCalls
from amqp_rpc.presence import Presence
from amqp_rpc.retry import FIRST_RETRY, LONGEST_RETRY, MOST_ATTEMPTS, RetryBudget, backoff, retry_delay
from amqp_rpc.settings import DEFAULT_MAX_MESSAGE_SIZE, SIGN_INTERVAL, Addresses
from amqp_rpc.silence import Silence
from amqp_rpc.transport import Delivery, QueueState

if TYPE_CHECKING:
    from amqp_rpc.connection import Connection

logger = logging.getLogger(__name__)


class Caller:
    """Sends calls over one connection, which it opens at the first one; every public method is thread-safe.

    Args:
        addresses: Where the broker is.
        name: What the broker's tools show for the connection.
        heartbeat: Seconds.
        capacity: Bounds the calls under way.
    """

    def __init__(self, addresses: Addresses, *, name: str, heartbeat: float, capacity: Capacity) -> None:
        self.capacity = capacity
        self.pending: PendingCalls[PendingCall] = PendingCalls(on_taken=lambda call: capacity.give(len(call.body)))
        #: What happened, by name: ``late_replies`` are replies of calls that had ended; ``retries``, ``timeouts``.
        self.counters: Counter[str] = Counter()
        self._addresses = addresses
        self._name = name
        self._heartbeat = heartbeat
        self._prefix = os.urandom(16).hex()
        self._numbers = itertools.count(1)
        #: Guards opening and closing.
        self._lock = threading.Lock()
        self._connection: Connection | None = None
        self._closed = False
        self._generation = forks.generation()
        # From here on: the owner's alone.
        self._channel: Channel | None = None
        self._reply_queue: str | None = None
        self._unsent: deque[PendingCall] = deque()
        self._presence: Presence | None = None
        self._timer_due = float("inf")
        self._last_error: BrokerError | None = None
        self._closed_in_a_row = 0
        self._budget = RetryBudget()
        self._listening = False
        self._silence = Silence(self.pending, ask=self._ask, lost=self._lost, orphaned=self._orphaned)

    def identity(self) -> str:
        """Return a new id, for one request and all its retries."""
        return f"{self._prefix}-{next(self._numbers):x}"

    def submit(self, call: PendingCall) -> None:
        """Send a call as soon as there is a connection and a server for it; wait where too many are under way.

        Raises:
            Overloaded: None of them ended until the call's deadline.
            ConfigurationError: The client is closed, or belongs to the process that this one was forked from.
        """
        if self._generation != forks.generation():
            raise ConfigurationError("this client was made before fork(), in the parent process; make a new one here")
        if not self.capacity.take(len(call.body), call.expires_at):
            raise Overloaded(verdicts.too_many(call, len(self.pending)))
        # First into the table: should the connection fail this instant, its owner finds the call there and ends it.
        self.pending.add(call.identity, call)
        connection = self._connection
        if connection is None or not connection.alive:
            try:
                connection = self._open()
            except BaseException as error:
                self.give_up(call)
                if isinstance(error, OSError):
                    raise NotConnected(f"this process can open no connection: {error}") from error
                raise
        connection.post(self._send, call)
        if not connection.alive:
            # It ended between the look and the post: nobody may ever read what was posted.
            gone = NotSent(verdicts.unsent(call, "the client's connection has just ended"))
            self._end(call, verdicts.fresh(self._last_error) if self._last_error else gone)

    def give_up(self, call: PendingCall) -> bool:
        """Take a call out of the table of pending ones; return whether it was there. Any thread."""
        return self.pending.take(call.identity) is not None

    def expire(self, call: PendingCall) -> None:
        """End a call whose time is over, unless it has ended; any thread."""
        if self.give_up(call):
            call.set_exception(self._too_late(call))

    def abandon(self) -> None:
        """Close without waiting: nobody holds the client any more."""
        if self._generation == forks.generation() and self._connection is not None:
            self._closed = True
            self._connection.begin_close()

    def close(self, timeout: float) -> None:
        """End every call that is under way, and the connection."""
        if self._generation != forks.generation():
            return  # the connection is the parent's, and so is its end
        with self._lock:
            self._closed = True
            connection = self._connection
        self.capacity.close()
        if connection is not None:
            connection.close(timeout)
        for _, call in self.pending:
            cause = "the client was closed"
            self._end(
                call,
                MaybeExecuted(verdicts.lost(call, cause)) if call.written else NotSent(verdicts.unsent(call, cause)),
            )

    def on_open(self) -> None:
        """Declare a new reply queue; the old one's name is the broker's until it has noticed the loss."""
        connection = self._owned()
        self._presence = Presence(
            connection, self._addresses, send=self._send, end=self._end, state=self._silence.inspected
        )
        connection.open_channel(self._declare, self._channel_closed)

    def on_lost(self, error: BrokerError) -> None:
        """Decide about every call: what was never written waits, what is idempotent is sent again, the rest ends."""
        waiting = self._presence.give_back() if self._presence is not None else []
        self._channel = self._reply_queue = self._presence = None
        self._last_error = error
        if not self._owned().was_open:
            # In this order: who hears of the end may call again at once, over a new connection with a new owner.
            self._end_all(error)
            return
        self._unsent.extend(waiting)
        self._lose_written(str(error))

    def on_unblocked(self) -> None:
        """Write what was held back while the broker took no messages."""
        self._send_unsent()

    def _open(self) -> Connection:
        # pika imports asyncio and more, as much as all the rest: a module that is only imported goes without.
        from amqp_rpc.connection import Connection  # noqa: PLC0415

        with self._lock:
            if self._closed:
                raise ConfigurationError("this client is closed; make a new one")
            if self._connection is None or not self._connection.alive:
                self._connection = Connection(self._addresses, self, name=self._name, heartbeat=self._heartbeat)
                self._timer_due = float("inf")
                self._listening = False
                self._connection.start()
            return self._connection

    def _owned(self) -> Connection:
        assert self._connection is not None
        return self._connection

    def _declare(self, channel: Channel) -> None:
        self._channel = channel
        channel.on_returned(self._returned)

        def declared(queue: QueueState) -> None:
            channel.consume(
                queue.name,
                self._on_reply,
                acknowledge=False,
                then=lambda: self._ready(queue.name),
                on_cancelled=lambda: self._reply_queue_gone(channel),
            )

        channel.declare("", declared, exclusive=True)

    def _ready(self, reply_queue: str) -> None:
        self._reply_queue = reply_queue
        self._closed_in_a_row = 0
        self._send_unsent()

    def _send_unsent(self) -> None:
        unsent, self._unsent = self._unsent, deque()
        for call in unsent:
            self._send(call)

    def _reply_queue_gone(self, channel: Channel) -> None:
        logger.warning("The broker ended the consumer of the reply queue; declaring a new one")
        self._forget_replies("the reply queue was deleted")
        channel.close()
        self._owned().open_channel(self._declare, self._channel_closed)

    def _channel_closed(self, _channel: Channel, error: BrokerError, _code: int) -> None:
        self._forget_replies(str(error))
        self._last_error = error
        self._closed_in_a_row += 1
        if isinstance(error, AccessRefused):
            # No permission for a reply queue: nothing can be called, and waiting for the deadline would not help.
            self._end_all(error)
        delay = backoff(self._closed_in_a_row, first=FIRST_RETRY, most=LONGEST_RETRY)
        logger.warning("%s; opening another in %.1f s", error, delay)
        self._owned().loop.call_later(delay, self._reopen)

    def _reopen(self) -> None:
        if self._channel is None and self._owned().is_open:
            self._owned().open_channel(self._declare, self._channel_closed)

    def _forget_replies(self, cause: str) -> None:
        self._channel = self._reply_queue = None
        self._lose_written(cause)

    def _lose_written(self, cause: str) -> None:
        """Decide about the calls whose replies can't arrive any more: sent again, or ended."""
        for _, call in self.pending:
            if call.written and not self._again(call, cause):
                self._end(call, MaybeExecuted(verdicts.lost(call, cause)))

    def _again(self, call: PendingCall, cause: str) -> bool:
        """Send a written call again after a while; return whether it may be."""
        if not call.idempotent or call.attempt >= MOST_ATTEMPTS or not self._budget.take():
            return False
        delay = retry_delay(call.attempt)
        call.written, call.attempt = False, call.attempt + 1
        self.counters["retries"] += 1
        logger.info(
            "Sending %s() again in %.1f s, attempt %d of %d: %s",
            call.function, delay, call.attempt, MOST_ATTEMPTS, cause,
        )  # fmt: skip
        self._owned().loop.call_later(delay, partial(self._send, call))
        return True

    def _ask(self, queue: str) -> None:
        if self._presence is not None:
            self._presence.inspect(queue)

    def _lost(self, call: PendingCall) -> None:
        # Where it may not be sent once more, its answer may come all the same: it has until its deadline.
        self._again(call, "neither its queue nor a server seems to have it")

    def _orphaned(self, call: PendingCall) -> None:
        cause = f"the server that had it is gone, and nobody consumes queue {call.queue!r} now"
        self._end(call, MaybeExecuted(verdicts.lost(call, cause)))

    def _listen(self) -> None:
        self._listening = len(self.pending) > 0
        if self._listening:
            self._owned().loop.call_later(SIGN_INTERVAL, self._listen)
            # While the broker takes no messages, servers' signs and replies may be held up as well.
            if self._reply_queue is not None and self._owned().blocked is None:
                self._silence.look()

    def _send(self, call: PendingCall) -> None:
        if call.written or call.done():
            return
        self._watch(call)
        # While the broker takes no messages, what is not written is known not to run.
        if self._reply_queue is None or self._presence is None or self._owned().blocked is not None:
            self._unsent.append(call)
        elif self._presence.served(call.queue):
            self._write(call)
        else:
            self._presence.wait(call)

    def _write(self, call: PendingCall) -> None:
        assert self._channel is not None
        assert self._reply_queue is not None
        remaining = call.expires_at - time.monotonic()
        if remaining <= 0:
            self.expire(call)
            return
        properties = request_properties(
            function=call.function,
            content_type=call.content_type,
            identity=call.identity,
            reply_to=self._reply_queue,
            remaining=remaining,
            attempt=call.attempt,
            idempotent=call.idempotent,
            chunk=call.chunk,
        )
        # In this order: whoever takes it out of the table now finds it written, or it is not written at all.
        call.written = True
        if self.pending.get(call.identity) is not call:
            return
        self._silence.written(call)
        if not self._channel.publish(Message(call.queue, properties, call.body), mandatory=True):
            call.written = False
            self._unsent.append(call)

    def _on_reply(self, delivery: Delivery) -> None:
        call = self.pending.take(delivery.properties.correlation_id)
        if call is None:
            if delivery.properties.type == ALIVE:
                self._heard(delivery)
                return
            self.counters["late_replies"] += 1
            logger.debug("Dropped a late or unknown reply: %s", delivery.properties.correlation_id)
            return
        if self._presence is not None:
            self._presence.saw_server(call.queue)
        self._silence.answered(call, tells=delivery.properties.app_id == APPLICATION)
        self._budget.earn()
        call.set_result(Reply(delivery.properties, delivery.body))

    def _heard(self, delivery: Delivery) -> None:
        try:
            identities = codec.decode(delivery.body, MSGPACK, limit=DEFAULT_MAX_MESSAGE_SIZE)
        except CodecError as error:
            logger.debug("Dropped a sign of life that can't be read: %s", error)
            return
        if isinstance(identities, list):
            self._silence.heard(identities)

    def _returned(self, queue: str, properties: Properties) -> None:
        call = self.pending.get(properties.correlation_id)
        if call is None:
            return
        if self._presence is not None:
            self._presence.missed_server(queue)
        # It did not run, so it may be sent again; whether there is a server, and a queue, will be asked for now.
        call.written = False
        self._send(call)

    def _watch(self, call: PendingCall) -> None:
        self.pending.watch(call)
        if call.expires_at < self._timer_due:
            self._set_timer(call.expires_at)
        if not self._listening:
            self._listening = True
            self._owned().loop.call_later(SIGN_INTERVAL, self._listen)

    def _set_timer(self, due: float) -> None:
        self._timer_due = due
        self._owned().loop.call_later(max(0.0, due - time.monotonic()), self._sweep)

    def _sweep(self) -> None:
        now = time.monotonic()
        for call in self.pending.expired(now):
            call.set_exception(self._too_late(call))
        self._timer_due = float("inf")
        if self.pending.earliest < self._timer_due:
            self._set_timer(self.pending.earliest)

    def _too_late(self, call: PendingCall) -> AmqpRpcError:
        self.counters["timeouts"] += call.written
        connection = self._connection
        return verdicts.too_late(
            call,
            blocked=connection.blocked if connection is not None else None,
            unconnected=None
            if self._reply_queue
            else str(self._last_error or f"no connection to {self._addresses} yet"),
        )

    def _end_all(self, error: BrokerError) -> None:
        self._unsent.clear()
        for _, call in self.pending:
            self._end(call, verdicts.fresh(error))

    def _end(self, call: PendingCall, error: AmqpRpcError) -> None:
        if call.attempt > 1 and not error.may_have_run:
            # This attempt did not run, but an earlier one was sent.
            error = MaybeExecuted(f"{error} But it was sent before, and lost: it may have run")
        if self.give_up(call):
            call.set_exception(error)
