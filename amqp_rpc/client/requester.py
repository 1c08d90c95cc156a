"""The client's half that lives on its connection: it writes requests and ends calls. No user's code runs here.

Bodies are decoded later, in the thread that asks for the result.
"""

from __future__ import annotations

import logging
import time
from collections import Counter, deque
from functools import partial
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

from amqp_rpc.amqp.channel import Delivery
from amqp_rpc.amqp.pending import Pending
from amqp_rpc.amqp.publisher import Publisher, fresh
from amqp_rpc.amqp.reply_queue import ReplyQueue
from amqp_rpc.client import verdicts
from amqp_rpc.client.call import Call
from amqp_rpc.client.liveness import Silence
from amqp_rpc.client.presence import Presence
from amqp_rpc.client.reply import Reply
from amqp_rpc.errors import AccessRefused, AmqpRpcError, BrokerError, CodecError, ConnectionLost, MaybeExecuted, NotSent
from amqp_rpc.message import codec
from amqp_rpc.message.codec import MSGPACK
from amqp_rpc.message.envelope import ALIVE, APPLICATION, Message, Properties, request_properties
from amqp_rpc.message.settings import DEFAULT_MAX_MESSAGE_SIZE, SIGN_INTERVAL, Addresses
from amqp_rpc.message.timing import FIRST_RETRY, LONGEST_RETRY, MOST_ATTEMPTS, RetryBudget, backoff

if TYPE_CHECKING:
    from amqp_rpc.amqp.channel import Channel
    from amqp_rpc.amqp.connection import Connection

logger = logging.getLogger(__name__)


class Requester(ReplyQueue):
    """Writes calls' requests, and ends the calls: by replies, their deadlines, returns, or the connection's loss.

    Any thread may call `end` and `too_late`; the rest belongs to the connection's owner.
    """

    def __init__(
        self, pending: Pending[Call], counters: Counter[str], addresses: Addresses, publisher: Publisher
    ) -> None:
        super().__init__(publisher)
        self._pending = pending
        self._counters = counters
        self._addresses = addresses
        #: Tasks whose results somebody may ask for, by id.
        self.tasks: WeakValueDictionary[str, Any] = WeakValueDictionary()
        #: Why the connection was lost, or a channel closed, the last time.
        self.last_error: BrokerError | None = None
        self._unsent: deque[Call] = deque()
        self._presence: Presence | None = None
        self._timer_due = float("inf")
        self._budget = RetryBudget()
        self._listening = False
        self.receive(ALIVE, self._heard)
        self._silence = Silence(pending, ask=self._ask, lost=self._lost, orphaned=self._orphaned)

    def begin(self, connection: Connection) -> None:
        """Belong to a connection from now on."""
        super().begin(connection)
        self._timer_due = float("inf")
        self._listening = False

    def on_open(self) -> None:
        """Ask for servers over this connection, and open the channel."""
        self._presence = Presence(
            self.connection, self._addresses, send=self.send, end=self.end, state=self._silence.inspected
        )
        super().on_open()

    async def set_up(self, channel: Channel) -> None:
        """Have requests that reach no queue come back here."""
        channel.on_returned(self._returned)
        await super().set_up(channel)

    def ready(self) -> None:
        """Write the requests that waited for a reply queue."""
        super().ready()
        self._send_unsent()

    def on_unblocked(self) -> None:
        """Write the requests that were held back while the broker took no messages."""
        self._send_unsent()

    def closed(self, error: BrokerError, code: int) -> None:
        """Decide about every call that was written: its reply can't arrive any more."""
        super().closed(error, code)
        self.last_error = error
        self._lose_written(str(error))
        if isinstance(error, AccessRefused):
            # No permission for a reply queue: nothing can be called, and waiting for the deadline would not help.
            self._end_calls(error)

    def lost(self, error: BrokerError) -> None:
        """Decide about every call: an unwritten one waits, an idempotent one is sent again, the others end."""
        super().lost(error)
        waiting = self._presence.give_back() if self._presence is not None else []
        self._presence = None
        self.last_error = error
        if self.connection.was_open:
            self._unsent.extend(waiting)
            self._lose_written(str(error))

    def end_all(self, error: BrokerError) -> None:
        """End every call: there will be no connection any more. Any thread."""
        if not isinstance(error, ConnectionLost):
            # The first attempt to connect has failed.
            self._end_calls(error)
            return
        for _, call in self._pending:
            cause = str(error)
            self.end(
                call,
                MaybeExecuted(verdicts.lost(call, cause)) if call.written else NotSent(verdicts.unsent(call, cause)),
            )

    def _send_unsent(self) -> None:
        unsent, self._unsent = self._unsent, deque()
        for call in unsent:
            self.send(call)

    def _lose_written(self, cause: str) -> None:
        """Decide about the calls whose replies can't arrive any more: sent again, or ended."""
        for _, call in self._pending:
            if call.written and not self._again(call, cause):
                self.end(call, MaybeExecuted(verdicts.lost(call, cause)))

    def _again(self, call: Call, cause: str) -> bool:
        """Send a written call again after a while; return whether it may be."""
        if not call.idempotent or call.attempt >= MOST_ATTEMPTS or not self._budget.take():
            return False
        delay = backoff(call.attempt, first=FIRST_RETRY, most=LONGEST_RETRY)
        call.written, call.attempt = False, call.attempt + 1
        self._counters["retries"] += 1
        logger.info(
            "Sending %s() again in %.1f s, attempt %d of %d: %s",
            call.function, delay, call.attempt, MOST_ATTEMPTS, cause,
        )  # fmt: skip
        self.connection.loop.call_later(delay, partial(self.send, call))
        return True

    def _ask(self, queue: str) -> None:
        if self._presence is not None:
            self._presence.inspect(queue)

    def _lost(self, call: Call) -> None:
        # Where it may not be sent once more, its answer may come all the same: it has until its deadline.
        self._again(call, "neither its queue nor a server seems to have it")

    def _orphaned(self, call: Call) -> None:
        cause = f"the server that had it is gone, and nobody consumes queue {call.queue!r} now"
        self.end(call, MaybeExecuted(verdicts.lost(call, cause)))

    def _listen(self) -> None:
        self._listening = len(self._pending) > 0
        if self._listening:
            self.connection.loop.call_later(SIGN_INTERVAL, self._listen)
            # While the broker takes no messages, servers' signs and replies may be held up as well.
            if self.address is not None and self.connection.blocked is None:
                self._silence.look()

    def send(self, call: Call) -> None:
        """Write a call's request, as soon as there is a connection that takes it and a server for it."""
        if call.written or call.done():
            return
        self._watch(call)
        # While the broker takes no messages, what is not written is known not to run.
        if self.address is None or self._presence is None or self.connection.blocked is not None:
            self._unsent.append(call)
        elif self._presence.served(call.queue):
            self._write(call)
        else:
            self._presence.wait(call)

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
            content_type=MSGPACK,
            identity=call.identity,
            reply_to=self.address,
            remaining=remaining,
            attempt=call.attempt,
            idempotent=call.idempotent,
            chunk=call.chunk,
        )
        # In this order: whoever takes it out of the table now finds it written, or it is not written at all.
        call.written = True
        if self._pending.get(call.identity) is not call:
            return
        self._silence.written(call)
        if not self.channel.publish(Message(call.queue, properties, call.body), mandatory=True):
            call.written = False
            self._unsent.append(call)

    def received(self, delivery: Delivery) -> None:
        """End a call with its reply; all else is handed to the receiver of its type."""
        call = self._pending.take(delivery.properties.correlation_id)
        if call is None:
            super().received(delivery)
            return
        if self._presence is not None:
            self._presence.saw_server(call.queue)
        self._silence.answered(call, tells=delivery.properties.app_id == APPLICATION)
        self._budget.earn()
        call.answer(Reply(delivery.properties, delivery.body))

    def unknown(self, delivery: Delivery) -> None:
        """Give a task its result, or drop a late reply."""
        if (task := self.tasks.get(delivery.properties.correlation_id or "")) is not None:
            task.answered(Reply(delivery.properties, delivery.body))
            return
        self._counters["late_replies"] += 1
        super().unknown(delivery)

    def _heard(self, delivery: Delivery) -> None:
        try:
            identities = codec.decode(delivery.body, MSGPACK, limit=DEFAULT_MAX_MESSAGE_SIZE)
        except CodecError as error:
            logger.debug("Dropped a sign of life that can't be read: %s", error)
            return
        if isinstance(identities, list):
            self._silence.heard(identities)

    def _returned(self, queue: str, properties: Properties) -> None:
        call = self._pending.get(properties.correlation_id)
        if call is None:
            return
        if self._presence is not None:
            self._presence.missed_server(queue)
        # It did not run, so it may be sent again; whether there is a server, and a queue, will be asked for now.
        call.written = False
        self.send(call)

    def _watch(self, call: Call) -> None:
        self._pending.watch(call)
        if call.expires_at < self._timer_due:
            self._set_timer(call.expires_at)
        if not self._listening:
            self._listening = True
            self.connection.loop.call_later(SIGN_INTERVAL, self._listen)

    def _set_timer(self, due: float) -> None:
        self._timer_due = due
        self.connection.loop.call_later(max(0.0, due - time.monotonic()), self._sweep)

    def _sweep(self) -> None:
        now = time.monotonic()
        for call in self._pending.expired(now):
            call.fail(self.too_late(call))
        self._timer_due = float("inf")
        if self._pending.earliest < self._timer_due:
            self._set_timer(self._pending.earliest)

    def too_late(self, call: Call) -> AmqpRpcError:
        """Return what a call ends with whose time is over; any thread."""
        self._counters["timeouts"] += call.written
        connection = self._connection
        return verdicts.too_late(
            call,
            blocked=connection.blocked if connection is not None else None,
            unconnected=None if self.address else str(self.last_error or f"no connection to {self._addresses} yet"),
        )

    def _end_calls(self, error: BrokerError) -> None:
        self._unsent.clear()
        for _, call in self._pending:
            self.end(call, fresh(error))

    def end(self, call: Call, error: AmqpRpcError) -> None:
        """End a call with an error, unless it has ended; any thread."""
        if call.attempt > 1 and not error.may_have_run:
            # This attempt did not run, but an earlier one was sent.
            error = MaybeExecuted(f"{error} But it was sent before, and lost: it may have run")
        if self._pending.take(call.identity) is not None:
            call.fail(error)
