"""The consumers of a server, one for each queue: set up, set up again, and ended; belongs to the connection's owner."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Mapping
from typing import Any

from amqp_rpc.amqp.channel import Channel, Delivery, QueueState
from amqp_rpc.amqp.connection import Connection
from amqp_rpc.errors import AmqpRpcError, BrokerError, ConfigurationError
from amqp_rpc.message.exchanges import other_exchange
from amqp_rpc.message.timing import backoff
from amqp_rpc.message.topology import holds_calls
from amqp_rpc.server.redelivered_check import try_marks
from amqp_rpc.server.subscribers import Subscriber

logger = logging.getLogger(__name__)

#: Seconds until a consumer that the broker ended is set up again; and the most, where others declared it.
_CONSUME_AGAIN, _LONGEST_PAUSE = 0.5, 15.0
#: How often a queue is looked at before it is consumed untried, and the seconds between two looks, from and to.
_MOST_TRIALS, _TRY_AGAIN = 10, (0.01, 0.05)
_PRECONDITION_FAILED = 406


class Consumers:
    """Declares queues and consumes them, each on a channel of its own: an error of one leaves the others.

    Args:
        connection: Which it is told of the losses of.
        queues: Their names, and the arguments of each that holds tasks; None for one that holds calls.
        prefetch: Deliveries of each queue that are not acknowledged, at most.
        deliver: Called with a queue and a delivery.
        ready: Called with a queue each time the broker has agreed to a consumer.
        refused: Called with a queue, the error and AMQP's reply code when the broker closed its channel; and with how
            often it was refused so in a row, 0 where it was consumed until then.
        changed: Called when one was ended, or is not set up any more: see `ended`.
        subscribers: Those of the queues that hold events, by name.
    """

    def __init__(
        self,
        connection: Connection,
        queues: Mapping[str, dict[str, Any] | None],
        *,
        prefetch: int,
        deliver: Callable[[str, Delivery], object],
        ready: Callable[[str], object],
        refused: Callable[[str, AmqpRpcError, int, int], object],
        changed: Callable[[], object],
        subscribers: Mapping[str, Subscriber],
    ) -> None:
        self._connection = connection
        self._queues = dict(queues)
        self._prefetch = prefetch
        self._deliver = deliver
        self._ready = ready
        self._refused = refused
        self._changed = changed
        self._subscribers = subscribers
        self._consuming: dict[str, tuple[Channel, str]] = {}
        self._setting_up: set[str] = set()
        self._cancelling: set[str] = set()
        #: Of each queue that is refused: AMQP's reply code, and how often in a row.
        self._refusals: dict[str, tuple[int, int]] = {}
        self._ending = False

    @property
    def ended(self) -> bool:
        """Whether nothing more will be delivered, after `end`."""
        return self._ending and not (self._setting_up or self._cancelling)

    def begin(self) -> None:
        """Consume all queues, over a connection that has just been opened."""
        for queue in self._queues:
            self._consume(queue)

    def lost(self) -> None:
        """Forget all of them: they are gone with their connection."""
        self._consuming.clear()
        self._setting_up.clear()
        self._cancelling.clear()
        for subscriber in self._subscribers.values():
            subscriber.lost()

    def end(self) -> None:
        """Have no more delivered; what was, stays to be acknowledged."""
        self._ending = True
        for queue, (channel, tag) in list(self._consuming.items()):
            if channel.is_open:
                self._cancelling.add(queue)
                channel.cancel(tag, lambda queue=queue: self._cancelled(queue))  # type: ignore[misc] # bound now

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
            self._refused(queue, said, code, times)
            # It takes a person to mend that; other refusals are over when a node is back.
            rarely = times and code == _PRECONDITION_FAILED
            self._gone(queue, backoff(times, first=_CONSUME_AGAIN, most=_LONGEST_PAUSE) if rarely else _CONSUME_AGAIN)

        self._connection.open_channel(opened, closed)

    def _declare(self, queue: str, channel: Channel, trials: int) -> None:
        """Declare the queue, and have it tried where nobody was there: perhaps its node was restarted."""
        arguments = self._queues[queue]

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
                    serve=lambda delivery: self._deliver(queue, delivery),
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

        subscriber = self._subscribers.get(queue)
        consumer = channel.consume(
            queue if subscriber is None else subscriber.consumed,
            lambda delivery: self._deliver(queue, delivery if subscriber is None else subscriber.take(delivery)),
            acknowledge=True,
            then=lambda: self._agreed(queue),
            on_cancelled=cancelled,
            addressed=subscriber is not None,
        )
        self._consuming[queue] = (channel, consumer.tag)

    def _agreed(self, queue: str) -> None:
        if self._refusals.pop(queue, None) is not None:
            logger.warning("Queue %s is consumed again", queue)
        self._ready(queue)

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


def refusal(queue: str, error: AmqpRpcError, code: int) -> AmqpRpcError:
    """Return what a server says of a queue that the broker did not let it consume, with AMQP's reply code."""
    if code == _PRECONDITION_FAILED and isinstance(error, BrokerError):
        what = (
            "Delete it, or give the service another name"
            if holds_calls(queue)
            else "Say the same in @service.task or @service.subscribe (queue_type=, max_length=, max_priority=), take "
            "another queue=, or delete it"
        )
        return ConfigurationError(f"queue {queue!r} exists with other arguments than this server's: {error}. {what}")
    return error


def complain(queue: str, error: AmqpRpcError, code: int, times: int) -> None:
    """Log, once, that a server which runs is not let consume a queue any more: what is the matter, and what to do.

    Args:
        queue: Its name.
        error: What the broker says.
        code: AMQP's reply code.
        times: How often it has said so in a row; 0 where the queue was consumed until then.
    """
    if times == 0:
        logger.warning("%s; consuming %s again", error, queue)
    elif times == 1:
        logger.error(
            "Nothing is taken from %s: %s. It is tried again, every %.0f s at the least; it is said when it works",
            queue, refusal(queue, error, code), _LONGEST_PAUSE,
        )  # fmt: skip
