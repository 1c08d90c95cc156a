"""The consumers of a server, one for each queue: set up, set up again, and ended; belongs to the connection's owner."""

from __future__ import annotations

import logging
import random
from collections.abc import Mapping
from typing import Any

from amqp_rpc.amqp.channel import Channel, QueueState
from amqp_rpc.errors import AmqpRpcError, BrokerError, ConfigurationError
from amqp_rpc.message.exchanges import other_exchange
from amqp_rpc.message.timing import backoff
from amqp_rpc.server.calls import CallDispatcher
from amqp_rpc.server.redelivered_check import try_marks
from amqp_rpc.server.state import State
from amqp_rpc.server.subscribers import Subscriber
from amqp_rpc.server.tasks import TaskDispatcher
from amqp_rpc.server.worker import Worker

logger = logging.getLogger(__name__)

#: Seconds until a consumer that the broker ended is set up again; and the most, where others declared it.
_CONSUME_AGAIN, _LONGEST_PAUSE = 0.5, 15.0
#: How often a queue is looked at before it is consumed untried, and the seconds between two looks, from and to.
_MOST_TRIALS, _TRY_AGAIN = 10, (0.01, 0.05)
_PRECONDITION_FAILED = 406


class Consumers:
    """Declares queues and consumes them, each on a channel of its own: an error of one leaves the others.

    Args:
        state: The server's.
        worker: Runs what is delivered.
        dispatchers: Those of the queues, by their names.
        arguments: Those of each queue that holds tasks; the others hold calls.
        prefetch: Unacked deliveries of each queue at most.
        subscribers: Those of the queues that hold events, by name.
    """

    def __init__(
        self,
        state: State,
        worker: Worker,
        dispatchers: Mapping[str, CallDispatcher | TaskDispatcher],
        *,
        arguments: Mapping[str, dict[str, Any]],
        prefetch: int,
        subscribers: Mapping[str, Subscriber],
    ) -> None:
        self._state = state
        self._connection = state.connection
        self._worker = worker
        self._dispatchers = dispatchers
        self._arguments = arguments
        self._prefetch = prefetch
        self._subscribers = subscribers
        self._consuming: dict[str, tuple[Channel, str]] = {}
        self._setting_up: set[str] = set()
        self._cancelling: set[str] = set()
        #: Of each queue that is refused: AMQP's reply code, and how often in a row.
        self._refusals: dict[str, tuple[int, int]] = {}
        self._ending = False

    def begin(self) -> None:
        """Consume all queues, over a connection that has just been opened."""
        for queue in self._dispatchers:
            self._consume(queue)

    def lost(self) -> None:
        """Forget all of them: they are gone with their connection."""
        self._consuming.clear()
        self._setting_up.clear()
        self._cancelling.clear()
        for subscriber in self._subscribers.values():
            subscriber.lost()
        self._changed()

    def end(self) -> None:
        """Have no more delivered; what was, stays to be acknowledged."""
        self._ending = True
        for queue, (channel, tag) in list(self._consuming.items()):
            if channel.is_open:
                self._cancelling.add(queue)
                channel.cancel(tag, lambda queue=queue: self._cancelled(queue))  # type: ignore[misc] # bound now
        self._changed()

    def _consume(self, queue: str) -> None:
        if self._ending or queue in self._consuming or queue in self._setting_up:
            return
        self._setting_up.add(queue)

        subscriber = self._subscribers.get(queue)

        def opened(channel: Channel) -> None:
            channel.prefetch(self._prefetch)
            if subscriber is not None:
                subscriber.prepare(channel, lambda: self._begin(queue, channel))
            else:
                self._declare(queue, channel, _MOST_TRIALS)

        def closed(_channel: Channel, error: BrokerError, code: int) -> None:
            said: AmqpRpcError = error
            if subscriber is not None and subscriber.under_way and code == _PRECONDITION_FAILED:
                said = ConfigurationError(other_exchange(subscriber.under_way, error))
            times = self._count(queue, code) if queue in self._setting_up else 0
            self._state.refused(queue, said, code, times)
            # It takes a person to mend that; other refusals are over when a node is back.
            rarely = times and code == _PRECONDITION_FAILED
            self._gone(queue, backoff(times, first=_CONSUME_AGAIN, most=_LONGEST_PAUSE) if rarely else _CONSUME_AGAIN)

        self._connection.open_channel(opened, closed)

    def _declare(self, queue: str, channel: Channel, trials: int) -> None:
        """Declare the queue, and have it tried where nobody was there: perhaps its node was restarted."""
        arguments = self._arguments.get(queue)

        def declared(state: QueueState) -> None:
            # A task that was delivered before is counted, and runs again: without the mark it runs all the same.
            if arguments is not None or state.consumers or self._ending or not trials:
                self._begin(queue, channel)
            elif state.messages:
                # Another server's trial, or calls: the one is over in a moment, with the others it can't be tried.
                again()
            else:
                try_marks(
                    self._connection,
                    queue,
                    then=lambda marks: self._begin(queue, channel) if marks else again(),
                    serve=lambda delivery: self._worker.deliver(self._dispatchers[queue], delivery),
                )

        def again() -> None:
            # By chance, so that servers that start together don't disturb each other's trials for ever.
            delay = random.uniform(*_TRY_AGAIN)  # noqa: S311 - no secret
            self._connection.loop.call_later(delay, lambda: self._declare(queue, channel, trials - 1))

        if channel.is_open:
            channel.declare(queue, declared, arguments=arguments)

    def _begin(self, queue: str, channel: Channel) -> None:
        if not channel.is_open:
            return  # it was closed meanwhile, or its connection lost: that has been seen to
        self._setting_up.discard(queue)
        if self._ending:
            channel.close()
            self._changed()
            return

        def cancelled() -> None:
            logger.warning("The broker ended the consumer of %s (was the queue deleted?); consuming it again", queue)
            channel.close()
            self._gone(queue)

        subscriber, dispatcher, deliver = self._subscribers.get(queue), self._dispatchers[queue], self._worker.deliver
        consumer = channel.consume(
            queue if subscriber is None else subscriber.consumed,
            lambda delivery: deliver(dispatcher, delivery if subscriber is None else subscriber.take(delivery)),
            acknowledge=True,
            then=lambda: self._agreed(queue),
            on_cancelled=cancelled,
            addressed=subscriber is not None,
        )
        self._consuming[queue] = (channel, consumer.tag)

    def _agreed(self, queue: str) -> None:
        if self._refusals.pop(queue, None) is not None:
            logger.warning("Queue %s is consumed again", queue)
        self._state.counters["consumed"] += 1
        self._state.ready(queue)

    def _count(self, queue: str, code: int) -> int:
        """Count a refusal; return how many there were in a row, all with this code."""
        before, times = self._refusals.get(queue, (code, 0))
        times = times + 1 if before == code else 1
        self._refusals[queue] = (code, times)
        return times

    def _gone(self, queue: str, pause: float = _CONSUME_AGAIN) -> None:
        def once_more() -> None:
            if self._connection.is_open:
                self._consume(queue)

        self._consuming.pop(queue, None)
        self._setting_up.discard(queue)
        self._cancelled(queue)
        self._connection.loop.call_later(pause, once_more)

    def _cancelled(self, queue: str) -> None:
        self._cancelling.discard(queue)
        self._changed()

    def _changed(self) -> None:
        if self._ending and not (self._setting_up or self._cancelling):
            self._state.stop_delivering()
