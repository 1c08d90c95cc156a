"""The servers behind the queues, as far as a client knows them: whether one is there, and whether it has a call still.

`Servers` asks the broker before a call is sent. `Liveness` detects lost calls by missing reports of servers; it is
pure: no socket, no thread, no clock. A request is lost with a queue that is deleted or purged, or with a cluster's node
that dies; a reply with the connection that was carrying it. The broker reports neither. But servers report, twice a
second, the calls that they have in flight: a call that no server reports, and that does not wait in its queue, is lost.

Missing reports are counted in looks, not in seconds: a process that was stopped for a minute has missed one, not all.
It is a seam: what it finds, `rpc` does.
"""

from __future__ import annotations

import math
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING

from amqp_rpc.amqp.channel import Channel, ChannelClosed, QueueState
from amqp_rpc.amqp.pending import InFlight
from amqp_rpc.amqp.publisher import fresh
from amqp_rpc.client.call import Call, no_consumers, no_queue
from amqp_rpc.errors import AmqpRpcError, NoServer, Unroutable
from amqp_rpc.message import topology
from amqp_rpc.message.refusals import ReplyCode
from amqp_rpc.message.settings import LIVENESS_INTERVAL, Addresses

if TYPE_CHECKING:
    from amqp_rpc.amqp.connection import Connection

#: Seconds for which the broker's answer, or a reply of the queue's server, proves that the queue has a server.
#: Within them a burst of calls asks once; after them a call costs one more round trip, about a third of a millisecond.
PROOF_LASTS = 0.1
#: Seconds since a queue had a server in which a call waits for the next one: servers reconnect in less than a second,
#: and the nodes of a cluster restart one after another. The second is for idempotent calls, which then wait until their
#: deadlines.
_RECONNECTING, _RESTARTING = 1.0, 60.0
#: Seconds until it is asked again whether a queue has a bound: someone may have made the queue anew.
BOUND_LASTS = 60.0
#: Seconds between two polls of a queue without consumers, for calls that wait for their server.
_POLL = 0.1

#: A call counts as silent after this part of its timeout, and after so many seconds at least and at most.
_PART, _LEAST, _MOST = 0.1, 1.5, 5.0

#: So many looks pass after the queue was seen with messages: a server that took the call since then has reported it.
_LOOKS_FOR_A_REPORT = 3


class Liveness:
    """Watches the calls that were written."""

    def __init__(self, pending: InFlight[Call]) -> None:
        self._pending = pending
        #: The queues whose servers are known to send reports. Others may be in any language.
        self._reporting: set[str] = set()

    def written(self, call: Call) -> None:
        """Note that a call was written just now."""
        call.silent, call.reported = 0, False

    def answered(self, call: Call, *, reports: bool) -> None:
        """Note a reply, and whether its server is one that sends reports."""
        if reports:
            self._reporting.add(call.queue)

    def reported(self, identities: Iterable[object]) -> None:
        """Note a server's report: it has these calls in flight."""
        for identity in identities:
            if isinstance(identity, str) and (call := self._pending.get(identity)) is not None:
                call.silent, call.reported = 0, True
                self.answered(call, reports=True)

    def look(self) -> set[str]:
        """Count one more silent interval for each call; return the queues whose state `lost` needs to know."""
        queues = set()
        for _, call in self._pending:
            if call.written:
                call.silent += 1
                if call.silent >= _patience(call) and call.queue in self._reporting:
                    queues.add(call.queue)
        return queues

    def lost(self, state: QueueState) -> list[Call]:
        """Return the silent calls of a queue that are lost, by the queue's state.

        An idempotent call is lost if the queue has a server and no messages. As long as the queue has messages, each of
        them may be the call, requeued when a server died with it; sent again, it would be two calls that kill servers.
        A call that a server takes a moment before the look is in neither, so it gets time for a first report.
        Another call is lost if the queue has no server, and the call was reported before or the queue has no messages.
        """
        lost = []
        for _, call in self._pending:
            if call.queue != state.name or not call.written or call.silent < _patience(call):
                continue
            if call.idempotent:
                missing = state.consumers and not state.messages
                if state.messages:
                    call.silent -= _LOOKS_FOR_A_REPORT
            else:
                missing = not state.consumers and (call.reported or not state.messages)
            if missing:
                lost.append(call)
        return lost


def _patience(call: Call) -> int:
    """Return the looks without a report after which a call counts as silent."""
    return math.ceil(min(max(call.timeout * _PART, _LEAST), _MOST) / LIVENESS_INTERVAL)


class Servers:
    """The knowledge about servers of queues over one connection, and the calls that wait for it.

    The questions have a channel of their own: the broker closes it when a queue does not exist.
    """

    def __init__(
        self,
        connection: Connection,
        addresses: Addresses,
        served: dict[str, float],
        *,
        send: Callable[[Call], object],
        end: Callable[[Call, AmqpRpcError], object],
        inspected: Callable[[QueueState], object],
    ) -> None:
        #: The queues that may be full: the broker confirms all calls to them, since it refuses more than so many.
        self.bounded: set[str] = set()
        self._connection = connection
        self._addresses = addresses
        self._send, self._end, self._inspected = send, end, inspected
        self._channel: Channel | None = None
        #: When each queue was last known to have a server, also over an earlier connection, which proves nothing now.
        self._proved = served
        self._since = time.monotonic()
        self._held: defaultdict[str, list[Call]] = defaultdict(list)
        #: The queues to ask the broker for, in order: the script `_inspect` is asking for the first.
        self._asked: deque[str] = deque()
        #: True while that script runs.
        self._inspecting = False
        #: When it was last asked whether a queue has a bound.
        self._measured: dict[str, float] = {}
        #: The queues without a server that a timer asks for again.
        self._polled: set[str] = set()

    def proved(self, queue: str) -> bool:
        """Return whether the queue was known to have a server within the last `PROOF_LASTS` seconds."""
        at = self._proved.get(queue, float("-inf"))
        return time.monotonic() - at <= PROOF_LASTS and at >= self._since

    def prove(self, queue: str) -> None:
        """Note that the queue has a server: it has just answered."""
        self._proved[queue] = time.monotonic()

    def disprove(self, queue: str) -> None:
        """Note that the queue has no server after all."""
        if queue in self._proved:
            self._proved[queue] = min(self._proved[queue], time.monotonic() - 2 * PROOF_LASTS)

    def hold(self, call: Call) -> None:
        """Keep a call until it is known whether its queue has a server."""
        self._held[call.queue].append(call)
        self.inspect(call.queue)

    def release(self) -> list[Call]:
        """Remove and return the calls that are held, for the next connection."""
        held = [call for calls in self._held.values() for call in calls]
        self._held.clear()
        return held

    def inspect(self, queue: str) -> None:
        """Ask the broker for a queue's consumers, unless it is being asked."""
        if queue not in self._asked:
            self._asked.append(queue)
        if not self._inspecting:
            self._inspecting = True
            self._connection.run(self._inspect())

    async def _inspect(self) -> None:
        """Ask for one queue after another."""
        try:
            while self._asked:
                try:
                    if self._channel is None or not self._channel.is_open:
                        self._channel = await self._connection.open_channel()
                    state = await self._channel.inspect(self._asked[0])
                    if state.consumers and self._is_to_be_measured(state.name):
                        await self._measure(self._channel, state.name)
                except ChannelClosed as closed:
                    self._channel = None
                    self._refused(self._asked.popleft(), closed)
                else:
                    # In this order: a call that is sent below may ask for its queue again.
                    self._asked.popleft()
                    self._found(state)
        finally:
            # Whatever has ended it: the next call asks again.
            self._inspecting = False

    def _is_to_be_measured(self, queue: str) -> bool:
        return time.monotonic() - self._measured.get(queue, float("-inf")) >= BOUND_LASTS

    async def _measure(self, channel: Channel, queue: str) -> None:
        """Ask whether a queue has a bound: its server says so by an exchange."""
        try:
            await channel.inspect_exchange(topology.bounded(queue))
        except ChannelClosed as closed:
            self._channel = None
            if closed.code not in (ReplyCode.NOT_FOUND, ReplyCode.ACCESS_REFUSED):
                raise
        else:
            self.bounded.add(queue)
        self._measured[queue] = time.monotonic()

    def _found(self, state: QueueState) -> None:
        if state.consumers:
            self.prove(state.name)
        self._inspected(state)
        if state.consumers:
            for call in self._held.pop(state.name, ()):
                self._send(call)
        else:
            self._unserved(state.name, NoServer, no_consumers(state.name))

    def _refused(self, queue: str, closed: ChannelClosed) -> None:
        if closed.code == ReplyCode.ACCESS_REFUSED:
            # From RabbitMQ 4.2.6 on, a user without a right to it may not ask for it: its calls are sent.
            self.prove(queue)
            for call in self._held.pop(queue, ()):
                self._send(call)
        elif closed.code == ReplyCode.NOT_FOUND:
            self._inspected(QueueState(queue, messages=0, consumers=0))
            self._unserved(queue, Unroutable, no_queue(queue, self._addresses))
        else:
            for call in self._held.pop(queue, ()):
                self._end(call, fresh(closed.error))

    def _unserved(self, queue: str, error: type[AmqpRpcError], cause: str) -> None:
        patient = []
        # Its next server may declare it in another way.
        self._measured.pop(queue, None)
        unserved_for = time.monotonic() - self._proved.get(queue, float("-inf"))
        for call in self._held.pop(queue, ()):
            call.wait_for_server |= call.idempotent and unserved_for < _RESTARTING
            # A retry's queue had a server, which may come back.
            if call.wait_for_server or call.attempt > 1 or unserved_for < _RECONNECTING:
                patient.append(call)
            else:
                self._end(call, error(f"{call.function}() was not sent: {cause}"))
        if patient:
            self._held[queue] = patient
            if queue not in self._polled:
                self._polled.add(queue)
                self._connection.loop.call_later(_POLL, partial(self._poll, queue))

    def _poll(self, queue: str) -> None:
        self._polled.discard(queue)
        held = [call for call in self._held.pop(queue, ()) if not call.done()]
        if held:
            self._held[queue] = held
            self.inspect(queue)
