"""What is declared for a subscription before it is consumed: its exchange, its queue, and how they are bound.

It belongs to the connection's owner, as the consumers do, on whose channels it asks. A shared queue is durable: its
bindings stay, and those that are not in the code any more are undone when a server starts. A broadcast one is the
instance's alone, and gone with its connection.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable
from functools import partial

from amqp_rpc.amqp import declared, steps
from amqp_rpc.amqp.channel import AddressedDelivery, Channel, Delivery
from amqp_rpc.amqp.connection import Connection
from amqp_rpc.amqp.delay_queues import declare_arrivals
from amqp_rpc.amqp.steps import Step, Steps
from amqp_rpc.message import topology
from amqp_rpc.message.events import mark
from amqp_rpc.message.exchanges import Binding
from amqp_rpc.server import bindings_record
from amqp_rpc.server.bindings_record import Bindings
from amqp_rpc.server.tasks import EventDispatcher

logger = logging.getLogger(__name__)


class Subscriber:
    """One subscription of a server.

    Args:
        connection: Which consumes.
        dispatcher: The dispatcher of its events; retries come back to its `home`.
    """

    def __init__(self, connection: Connection, dispatcher: EventDispatcher) -> None:
        function = dispatcher.function
        assert function.subscription is not None
        assert function.task is not None
        self._connection = connection
        self._queue = function.queue
        self._subscription = function.subscription
        self._policy = function.task
        self._dispatcher = dispatcher
        #: The queue that is consumed.
        self.consumed = self._queue
        #: Whether its bindings were compared with the code since this server began.
        self._compared = False
        #: What is being declared: what the broker means when it closes the channel.
        self.under_way = ""
        self.lost()

    def lost(self) -> None:
        """Take note that the connection is lost, and an instance's queue with it."""
        if self._subscription.mode == "broadcast":
            # A new name each time: the broker may hold the lost connection, and its queue, for a while.
            self.consumed = topology.instance_queue(self._queue, secrets.token_hex(8))
            self._dispatcher.home = self.consumed

    def prepare(self, channel: Channel, then: Callable[[], object]) -> None:
        """Declare and bind all, on a consumer's channel, and call back; never, where that is closed meanwhile."""
        needed = self._instance(channel) if self._subscription.mode == "broadcast" else self._shared(channel)
        steps.run(needed, then, going=lambda: channel.is_open and self._connection.is_open)

    def take(self, delivery: Delivery) -> Delivery:
        """Have an event keep its topic, whatever becomes of it."""
        assert isinstance(delivery, AddressedDelivery)
        mark(delivery.properties, delivery.exchange, delivery.routing_key)
        return delivery

    def _exchange(self, channel: Channel) -> Steps:
        self.under_way = str(self._subscription.exchange)
        yield from steps.declare_exchange(channel, self._subscription.exchange)
        self.under_way = ""

    def _shared(self, channel: Channel) -> Steps:
        yield from self._exchange(channel)
        yield lambda then: channel.declare(self._queue, lambda _state: then(), arguments=self._policy.queue_arguments)
        wanted: Bindings = frozenset(self._subscription.bindings)
        # In this order: what is in force, or may be, is always in the record.
        known = yield self._record(add=wanted)
        for binding in self._subscription.bindings:
            yield self._bound(channel, binding)
        # Once for each start: with servers of two versions, one whose connection comes back would undo the other's.
        stale: Bindings = frozenset() if known is None or self._compared else known - wanted
        for binding in sorted(stale, key=str):
            logger.info("Queue %s is no longer bound to %s by %r", self._queue, binding.exchange, binding.key)
            yield partial(channel.unbind, self._queue, binding.exchange, binding.key, arguments=dict(binding.arguments))
        if stale:
            yield self._record(remove=stale)
        if known is None or wanted - known:
            # What is published once this server says that it is ready is not to be lost with the broker's last second.
            yield lambda then: self._connection.loop.call_later(declared.LASTING_AFTER, then)
        self._compared = True

    def _instance(self, channel: Channel) -> Steps:
        yield from self._exchange(channel)
        bound = self._policy.max_length
        arguments = None if bound is None else {"x-max-length": bound}
        yield lambda then: channel.declare(self.consumed, lambda _state: then(), exclusive=True, arguments=arguments)
        for binding in self._subscription.bindings:
            yield self._bound(channel, binding)
        # What is to be tried again comes back like a task; and when this instance is gone by then, it ends in a queue
        # that drops it: a level of delay keeps for ever what goes nowhere.
        yield from declare_arrivals(channel)
        yield lambda then: channel.declare(topology.GONE, lambda _state: then(), arguments=topology.gone_arguments())
        yield partial(channel.bind, topology.GONE, topology.ARRIVALS, topology.arrived_binding(topology.of_instances()))
        yield partial(channel.bind, self.consumed, topology.ARRIVALS, topology.arrived_binding(self.consumed))

    def _bound(self, channel: Channel, binding: Binding) -> Step:
        arguments = dict(binding.arguments)
        return partial(channel.bind, self.consumed, binding.exchange, binding.key, arguments=arguments)

    def _record(self, *, add: Bindings = frozenset(), remove: Bindings = frozenset()) -> Step:
        return lambda then: bindings_record.change(self._connection, self._queue, then, add=add, remove=remove)
