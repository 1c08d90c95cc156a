"""Which calls may be written and which must wait, since nobody consumes their queue; belongs to the connection's owner.

One of these lasts as long as a connection. What waits when that is lost is taken over to the next one.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from typing import TYPE_CHECKING

from amqp_rpc.amqp.channel import QueueState
from amqp_rpc.amqp.publisher import fresh
from amqp_rpc.client import verdicts
from amqp_rpc.client.call import Call
from amqp_rpc.client.inspection import Inspector
from amqp_rpc.errors import AmqpRpcError, BrokerError, NoServer, Unroutable
from amqp_rpc.message.settings import Addresses

if TYPE_CHECKING:
    from amqp_rpc.amqp.connection import Connection

#: Seconds between two looks at a queue without consumers, for calls that wait for their server.
_LOOK_AGAIN = 0.1


class Presence:
    """Lets calls through whose server is there, keeps those that wait for one, and ends the others.

    Args:
        connection: An open one.
        addresses: Where the broker is, for what is said of it.
        send: Called with a call whose server is there now, or may be asked for again.
        end: Called with a call that has none, and the error that says so.
        state: Called with every answer of the broker: a queue, its messages and its consumers.
    """

    def __init__(
        self,
        connection: Connection,
        addresses: Addresses,
        *,
        send: Callable[[Call], object],
        end: Callable[[Call, AmqpRpcError], object],
        state: Callable[[str, int, int], object],
    ) -> None:
        self._loop = connection.loop
        self._addresses = addresses
        self._send = send
        self._end = end
        self._state = state
        inspector = Inspector(connection, self._found, self._not_found)
        self.inspect = inspector.inspect
        self.served = inspector.served
        self.saw_server = inspector.saw_server
        self.missed_server = inspector.missed_server
        self._waiting: defaultdict[str, list[Call]] = defaultdict(list)
        #: Queues that will be looked at again.
        self._looking: set[str] = set()

    def wait(self, call: Call) -> None:
        """Keep a call until it is known whether its server is there."""
        self._waiting[call.queue].append(call)
        self.inspect(call.queue)

    def give_back(self) -> list[Call]:
        """Return the calls that wait here, which then is over."""
        waiting = [call for calls in self._waiting.values() for call in calls]
        self._waiting.clear()
        return waiting

    def _found(self, queue: QueueState) -> None:
        self._state(queue.name, queue.messages, queue.consumers)
        if queue.consumers:
            for call in self._waiting.pop(queue.name, ()):
                self._send(call)
        else:
            self._unserved(queue.name, NoServer, verdicts.nobody_consumes(queue.name))

    def _not_found(self, queue: str, error: BrokerError | None) -> None:
        if error is None:
            self._state(queue, 0, 0)
            self._unserved(queue, Unroutable, verdicts.no_queue(queue, self._addresses))
            return
        for call in self._waiting.pop(queue, ()):
            self._end(call, fresh(error))

    def _unserved(self, queue: str, error: type[AmqpRpcError], message: str) -> None:
        patient = []
        for call in self._waiting.pop(queue, ()):
            # One that is sent again had a server, which comes back perhaps.
            if call.wait_for_server or call.attempt > 1:
                patient.append(call)
            else:
                self._end(call, error(verdicts.unsent(call, message)))
        if patient:
            self._waiting[queue] = patient
            if queue not in self._looking:
                self._looking.add(queue)
                self._loop.call_later(_LOOK_AGAIN, lambda: self._look_again(queue))

    def _look_again(self, queue: str) -> None:
        self._looking.discard(queue)
        calls = [call for call in self._waiting.pop(queue, ()) if not call.done()]
        if calls:
            self._waiting[queue] = calls
            self.inspect(queue)
