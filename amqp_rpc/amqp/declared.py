"""What has to be there before a message is published: its queue, and the way of its delay. Declared once a connection.

It belongs to the connection's owner, and has a channel of its own: the broker closes that on which something can't be
declared, and messages that are not confirmed yet must not be on it. Declaring what is there already, as it is, does
nothing: https://www.rabbitmq.com/docs/queues#declaration

RabbitMQ forgets what was declared in the last second when its node is killed, and what it had confirmed in a queue is
gone with the queue (seen with 3.10, 4.0 and 4.3; docs/decisions/0007-tasks.md). So nothing is published to a queue that
is new: it has to be some seconds old. An exchange that serves nothing else, a sign, is declared after that time, and
tells everybody else that it is. Those seconds pass for all new ones together: what others need is declared meanwhile.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from amqp_rpc.amqp.channel import Channel
from amqp_rpc.amqp.connection import Connection
from amqp_rpc.amqp.delay_queues import declare_arrival, declare_levels
from amqp_rpc.amqp.steps import Step, Steps, declare_exchange, run
from amqp_rpc.errors import BrokerError
from amqp_rpc.message import topology
from amqp_rpc.message.envelope import Message
from amqp_rpc.message.exchanges import Exchange

#: Seconds until RabbitMQ remembers what is new even if it is killed: twice what was needed.
LASTING_AFTER = 2.0
_NOT_FOUND = 404


@dataclass(slots=True, eq=False)
class _Wanted:
    """What a message needs; the signs are what is left to declare of it, once the rest is old enough."""

    message: Message
    arguments: dict[str, Any] | None
    then: Callable[[], object]
    signs: Sequence[str] = ()


class Declared:
    """What was declared over one connection, and what waits to be.

    Args:
        connection: Which is open.
        refused: Called with the target of messages for which something could not be declared, with what that was, the
            broker's error and AMQP's reply code. Who waits for the target is forgotten then.
    """

    def __init__(self, connection: Connection, refused: Callable[[str, str, BrokerError, int], object]) -> None:
        self._connection = connection
        self._refused = refused
        self._channel: Channel | None = None
        self._opening = False
        #: Whether the levels of delay are there where they are said to be.
        self._trusting = True
        self._queues: set[str] = set()
        self._exchanges: set[Exchange] = set()
        #: Whether all levels of delay are there, or are new; and for which queues the way from there is.
        self._levels = self._new_levels = False
        self._delayed: set[str] = set()
        #: The first of them is being declared.
        self._waiting: deque[_Wanted] = deque()
        #: Those that wait until what was declared is no longer new, by target.
        self._new: dict[str, list[_Wanted]] = {}
        self._lost = False
        #: The queue that is being declared: what the broker means when it closes the channel.
        self._under_way: str | None = None

    def has(self, message: Message) -> bool:
        """Return whether a message can be published at once."""
        if message.exchange is not None:
            # The default one is always there, and can't be declared.
            return not message.exchange.name or message.exchange in self._exchanges
        if message.routing_key not in self._queues:
            return False
        return not message.delay or (self._levels and message.routing_key in self._delayed)

    def forget(self, message: Message) -> None:
        """Forget what a message passes: it was returned, so something of it is gone."""
        self._queues.discard(message.routing_key)
        if message.delay:
            self.distrust()

    def distrust(self) -> None:
        """Look for all exchanges and levels of delay again: somebody has deleted one."""
        self._levels = self._new_levels = self._trusting = False
        self._delayed.clear()
        self._exchanges.clear()

    def declare(self, message: Message, arguments: dict[str, Any] | None, then: Callable[[], object]) -> None:
        """Declare what a message needs, and call back.

        Args:
            message: Which is to be published.
            arguments: Its queue's; None where the queue is somebody else's, and there.
            then: Called once all is there, and will be after the end of the broker; never, where that is refused or
                the connection is lost.
        """
        wanted = _Wanted(message, arguments, then)
        if (new := self._new.get(message.target)) is not None:
            new.append(wanted)
            return
        self._line_up([wanted])

    def lose(self) -> None:
        """Do nothing more: the connection is lost, and the next one has another of these."""
        self._lost = True

    def _line_up(self, some: list[_Wanted]) -> None:
        # One after another: what two messages need is asked for once.
        idle = not self._waiting
        self._waiting.extend(some)
        if idle:
            self._next()

    def _take(self, target: str) -> list[_Wanted]:
        """Take all out of the line that wait for a target."""
        taken = [each for each in self._waiting if each.message.target == target]
        self._waiting = deque(each for each in self._waiting if each.message.target != target)
        return taken

    def _next(self) -> None:
        channel = self._channel
        if channel is None:
            self._open()
            return
        wanted, signs = self._waiting[0], list[str]()

        def done() -> None:
            if signs:
                self._let_grow_old(signs)
            else:
                self._ready()

        if wanted.signs:
            steps: Steps = (partial(channel.declare_exchange, sign) for sign in wanted.signs)
        elif wanted.message.exchange is None:
            steps = self._steps(channel, wanted.message, wanted.arguments, signs)
        else:
            steps = declare_exchange(channel, wanted.message.exchange)
        # A channel, or a connection, that is closed meanwhile ends it between two steps.
        run(steps, done, going=lambda: channel.is_open and self._connection.is_open)

    def _let_grow_old(self, signs: list[str]) -> None:
        """Have all that wait for the first one's target wait for some seconds more, and go on with the others."""
        target = self._waiting[0].message.target
        new = self._new[target] = self._take(target)
        new[0].signs = signs

        def old() -> None:
            if not self._lost:
                self._line_up(self._new.pop(target))

        self._connection.loop.call_later(LASTING_AFTER, old)
        if self._waiting:
            self._next()

    def _ready(self) -> None:
        """Call back for the first one, and for those behind it that need no more than it did."""
        message = self._waiting[0].message
        if message.exchange is not None:
            self._exchanges.add(message.exchange)
        elif not topology.fleeting(message.routing_key):
            self._queues.add(message.routing_key)
        if message.delay:
            self._levels = True
            self._delayed.add(message.routing_key)
        self._waiting.popleft().then()
        # One after another here too: as many as there are would be too deep for calls in calls.
        while self._waiting and self.has(self._waiting[0].message):
            self._waiting.popleft().then()
        if self._waiting:
            self._next()

    def _open(self) -> None:
        def opened(channel: Channel) -> None:
            self._opening, self._channel = False, channel
            self._next()

        # One that is being closed opens no more.
        if not self._opening and self._connection.is_open:
            self._opening = True
            self._connection.open_channel(opened, self._closed)

    def _closed(self, _channel: Channel, error: BrokerError, code: int) -> None:
        self._channel = None
        if code == _NOT_FOUND and self._under_way is not None and topology.holds_arrivals(self._under_way):
            # What it is bound to: somebody has deleted the exchange.
            self.distrust()
        if not self._waiting:
            return
        target = self._waiting[0].message.target
        what, self._under_way = self._under_way or target, None
        self._take(target)
        self._refused(target, what, error, code)
        if self._waiting:
            self._next()

    def _steps(self, channel: Channel, message: Message, arguments: dict[str, Any] | None, signs: list[str]) -> Steps:
        """Declare what a message needs, and note the signs that are to be declared once it is old enough."""
        queue = message.routing_key
        if topology.fleeting(queue) and arguments is not None:
            yield partial(self._declare_queue, channel, queue, arguments)
        elif arguments is not None and queue not in self._queues and not topology.of_instance(queue):
            yield from self._queue_steps(channel, queue, arguments, signs)
        if message.delay and not self._levels:
            sign = topology.lasting("delay")
            if not (self._trusting and (yield self._asked(sign))):
                # Those that were declared for another queue a moment ago are as new as what is declared here.
                if not self._new_levels:
                    yield from declare_levels(channel)
                    self._new_levels = True
                signs.append(sign)
        if message.delay and queue not in self._delayed and not topology.of_instance(queue):
            sign = topology.lasting(topology.arrivals_queue(queue))
            if not (yield self._asked(sign)):
                signs.append(sign)
            # Always: a binding that was forgotten, or a queue that was deleted, comes back with the next server.
            self._under_way = topology.arrivals_queue(queue)
            yield from declare_arrival(channel, queue)
            self._under_way = None

    def _queue_steps(self, channel: Channel, queue: str, arguments: dict[str, Any], signs: list[str]) -> Steps:
        sign = topology.lasting(queue)
        lasting = yield self._asked(sign)
        yield partial(self._declare_queue, channel, queue, arguments)
        if lasting:
            return
        signs.append(sign)
        if not topology.holds_dead_letters(queue):
            dead = topology.dead_letter_queue(queue)
            if not (yield partial(self._there, lambda probe, then: probe.inspect(dead, lambda _state: then()))):
                yield partial(self._declare_queue, channel, dead, topology.dead_letter_arguments(arguments))

    def _asked(self, exchange: str) -> Step:
        return partial(self._there, lambda probe, then: probe.inspect_exchange(exchange, then))

    def _declare_queue(
        self, channel: Channel, queue: str, arguments: dict[str, Any], then: Callable[[], object]
    ) -> None:
        self._under_way = queue

        def declared(_state: object) -> None:
            self._under_way = None
            then()

        channel.declare(queue, declared, arguments=arguments)

    def _there(self, ask: Callable[[Channel, Callable[[], object]], object], then: Callable[[bool], object]) -> None:
        """Call back with whether something is there: on a channel of its own, which the broker closes if it is not."""

        def opened(probe: Channel) -> None:
            def found() -> None:
                probe.close()
                then(True)

            ask(probe, found)

        def closed(_probe: Channel, _error: BrokerError, code: int) -> None:
            # Whoever may not ask is no worse off than if it were there.
            then(code != _NOT_FOUND)

        self._connection.open_channel(opened, closed)
