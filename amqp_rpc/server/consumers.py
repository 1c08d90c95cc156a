"""The consumers of a server, one for each queue: declared, consumed, consumed again, and ended; the I/O thread's."""

from __future__ import annotations

import random
from typing import Any

from amqp_rpc.amqp.channel import Channel, Delivery, ReplyCode
from amqp_rpc.amqp.keeper import Keeper
from amqp_rpc.errors import AmqpRpcError, BrokerError
from amqp_rpc.message.timing import backoff
from amqp_rpc.server import redelivered_check
from amqp_rpc.server.calls import CallDispatcher
from amqp_rpc.server.state import State
from amqp_rpc.server.tasks import TaskDispatcher
from amqp_rpc.server.worker import Worker

#: Seconds until a queue is consumed again; and the most, where another program declared it with other arguments.
_PAUSE, _LONGEST_PAUSE = 0.5, 15.0
#: How often a queue is checked before it is consumed unchecked, and the seconds between two checks, from and to.
_MOST_CHECKS, _CHECK_AGAIN = 10, (0.01, 0.05)


class Consumer(Keeper):
    """Declares a queue and consumes it, on a channel of its own: an error of one queue leaves the others.

    Args:
        state: The server's.
        worker: Runs the deliveries.
        dispatcher: The queue's.
        prefetch: Unacked deliveries at most.
    """

    #: Whether its deliveries have their exchange and routing key.
    addressed = False

    def __init__(
        self, state: State, worker: Worker, dispatcher: CallDispatcher | TaskDispatcher, *, prefetch: int
    ) -> None:
        super().__init__(f"queue {dispatcher.queue}")
        self.queue = dispatcher.queue
        #: The queue that is consumed: of a broadcast subscription it is another one for each connection.
        self.consumed = self.queue
        self._state = state
        self._worker = worker
        self._dispatcher = dispatcher
        self._prefetch = prefetch
        self._tag = ""
        #: The last reply code of the broker that refuses the queue, and how often in a row; None while it is consumed.
        self._refused_with: tuple[int, int] | None = (0, 0)
        self._ending = False

    async def declare(self, channel: Channel) -> None:
        """Declare the queue; a channel script."""
        raise NotImplementedError

    def deliver(self, delivery: Delivery) -> None:
        """Hand a delivery to the worker."""
        self._worker.deliver(self._dispatcher, delivery)

    def explained(self, error: BrokerError, code: int) -> AmqpRpcError:  # noqa: ARG002 - an event's
        """Return an error that says more than the broker's."""
        return error

    def end(self) -> None:
        """Have no more delivered; what was delivered stays unacked until it is settled."""
        self._ending = True
        if self.channel is not None:
            self.connection.run(self._cancel(self.channel))
        elif not self._opening:
            self._over()

    async def set_up(self, channel: Channel) -> None:
        """Declare and consume the queue."""
        channel.prefetch(self._prefetch)
        await self.declare(channel)
        if not self._ending:
            self._tag = await channel.consume(
                self.consumed,
                self.deliver,
                acknowledge=True,
                on_cancelled=self.cancelled,
                addressed=self.addressed,
            )

    def ready(self) -> None:
        """Report that the queue is consumed; or close the channel, where the server stops meanwhile."""
        self._refused_with = None
        if not self._ending:
            self._state.counters["consumed"] += 1
            self._state.ready(self.queue)
        elif self._tag and self.channel is not None:
            self.connection.run(self._cancel(self.channel))
        else:
            self.close()
            self._over()

    def report(self, error: BrokerError, code: int, pause: float) -> None:  # noqa: ARG002 - it is about the same
        """Count refusals in a row, and report the first of them, with advice."""
        before, times = self._refused_with or (code, -1)
        times = times + 1 if before in (code, 0) else 1
        self._refused_with = (code, times)
        self._state.refused(self.queue, self.explained(error, code), code, times)

    def pause(self, code: int) -> float:
        """Return the seconds until the queue is consumed again."""
        if code == ReplyCode.PRECONDITION_FAILED and self._refused_with is not None:
            # It takes a person to mend that; other refusals are over when a node is back.
            return backoff(self._refused_with[1] + 1, first=_PAUSE, most=_LONGEST_PAUSE)
        return _PAUSE

    def wanted(self) -> bool:
        """Return whether the server goes on consuming."""
        return not self._ending

    def closed(self, error: BrokerError, code: int) -> None:  # noqa: ARG002 - `report` has reported it
        """Be over, where the server stops."""
        self._tag = ""
        if self._ending:
            self._over()

    def lost(self, error: BrokerError) -> None:  # noqa: ARG002 - the server reports it
        """Be over, where the server stops."""
        self._tag = ""
        if self._ending:
            self._over()

    async def _cancel(self, channel: Channel) -> None:
        await channel.cancel(self._tag)
        self._over()

    def _over(self) -> None:
        self._state.stop_delivering(self.queue)


class CallConsumer(Consumer):
    """Consumes a queue of calls."""

    _dispatcher: CallDispatcher

    async def declare(self, channel: Channel) -> None:
        """Declare the queue, and check it where it is not in use: perhaps its node was restarted."""
        for checks in range(_MOST_CHECKS + 1):
            found = await channel.declare(self.queue)
            if found.consumers or self._ending or checks == _MOST_CHECKS:
                return
            # With messages in it the queue can't be checked. Another server's probe is gone in a moment.
            if not found.messages and await redelivered_check.flags_redelivered(
                self.connection, self._dispatcher, self._worker
            ):
                return
            # At random, so that servers that start together don't disturb each other's checks for ever.
            await self.connection.pause(random.uniform(*_CHECK_AGAIN))  # noqa: S311 - no secret


class TaskConsumer(Consumer):
    """Consumes a queue of tasks. It needs no check: a redelivered task runs again anyway.

    Args:
        state: As for `Consumer`.
        worker: As for `Consumer`.
        dispatcher: As for `Consumer`.
        prefetch: As for `Consumer`.
        arguments: The queue's.
    """

    def __init__(
        self, state: State, worker: Worker, dispatcher: TaskDispatcher, *, prefetch: int, arguments: dict[str, Any]
    ) -> None:
        super().__init__(state, worker, dispatcher, prefetch=prefetch)
        self._arguments = arguments

    async def declare(self, channel: Channel) -> None:
        """Declare the queue."""
        await channel.declare(self.queue, arguments=self._arguments)
