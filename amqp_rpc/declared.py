"""What has to be there before a message is published: its queue, and the way of its delay. Declared once a channel.

It belongs to the connection's owner. Declaring what is there already, as it is, does nothing:
https://www.rabbitmq.com/docs/queues#declaration
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from amqp_rpc import delays, topology
from amqp_rpc.channel import Channel
from amqp_rpc.envelope import Message

#: One thing to declare; it calls back once it is there.
Step = Callable[[Callable[[], object]], object]


class Declared:
    """What was declared on one channel, and what waits to be."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._queues: set[str] = set()
        #: Queues to which what was delayed finds its way, and the highest level that is there.
        self._arrivals: set[str] = set()
        self._level = -1
        self._waiting: deque[tuple[Message, dict[str, Any] | None, Callable[[], object]]] = deque()
        #: The queue that is being declared: what the broker means when it closes the channel.
        self.under_way: str | None = None

    def has(self, message: Message) -> bool:
        """Return whether a message can be published at once."""
        if message.queue not in self._queues:
            return False
        return not message.delay or (
            message.queue in self._arrivals and delays.highest_level(message.delay) <= self._level
        )

    def forget(self, queue: str) -> None:
        """Forget a queue that turned out to be gone, with its bindings."""
        self._queues.discard(queue)
        self._arrivals.discard(queue)

    def declare(self, message: Message, arguments: dict[str, Any] | None, then: Callable[[], object]) -> None:
        """Declare what a message needs, and call back.

        Args:
            message: Which is to be published.
            arguments: Its queue's; None where the queue is somebody else's, and there.
            then: Called once all is there; never, where the broker closes the channel.
        """
        self._waiting.append((message, arguments, then))
        # One after another: what two messages need is asked for once.
        if len(self._waiting) == 1:
            self._next()

    def _next(self) -> None:
        message, arguments, then = self._waiting[0]

        def done() -> None:
            self._queues.add(message.queue)
            if message.delay:
                self._arrivals.add(message.queue)
            then()
            self._waiting.popleft()
            # One after another, not one inside of another: thousands may wait for the same queue.
            while self._waiting and self.has(self._waiting[0][0]):
                self._waiting[0][2]()
                self._waiting.popleft()
            if self._waiting:
                self._next()

        _run(list(self._steps(message, arguments)), done)

    def _steps(self, message: Message, arguments: dict[str, Any] | None) -> Iterator[Step]:
        channel, queue = self._channel, message.queue
        if arguments is not None and queue not in self._queues:
            yield partial(self._declare_queue, queue, arguments)
        if message.delay:
            highest = delays.highest_level(message.delay)
            if self._level < 0:
                yield partial(channel.declare_exchange, topology.ARRIVALS)
            # From below, so that each level finds the next.
            for level in range(self._level + 1, highest + 1):
                yield from self._level_steps(level)
            if queue not in self._arrivals:
                yield partial(channel.bind, queue, topology.ARRIVALS, delays.arrived(queue))

    def _level_steps(self, level: int) -> Iterator[Step]:
        channel, name = self._channel, topology.delay(level)
        yield partial(channel.declare_exchange, name)
        yield lambda done: channel.declare(
            name, lambda _state: done(), arguments=topology.delay_arguments(level, unit=delays.UNIT)
        )
        yield partial(channel.bind, name, name, delays.held(level))

        def bound(done: Callable[[], object]) -> None:
            self._level = level
            done()

        yield lambda done: channel.bind_exchange(
            topology.after_delay(level), name, delays.passed(level), lambda: bound(done)
        )

    def _declare_queue(self, queue: str, arguments: dict[str, Any], done: Callable[[], object]) -> None:
        self.under_way = queue

        def declared(_state: object) -> None:
            self.under_way = None
            done()

        self._channel.declare(queue, declared, arguments=arguments)


def _run(steps: list[Step], then: Callable[[], object]) -> None:
    """Do steps one after another."""
    if steps:
        steps[0](lambda: _run(steps[1:], then))
    else:
        then()
