"""The items of one queue on their way to the threads of one object that takes them; the connection's side of `queues`.

It consumes with a prefetch, so that what comes next is here already (asking for each message costs a quorum queue
5 ms), and gives back what nobody takes. RabbitMQ counts a prefetch for each consumer: one that is used up by items that
are taken and not done yet is ended, and another one begun beside them.
https://www.rabbitmq.com/docs/consumer-prefetch
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from amqp_rpc.amqp.channel import Delivery, QueueState
from amqp_rpc.amqp.pending import Outcome
from amqp_rpc.client.verdicts import closed, other_arguments
from amqp_rpc.errors import AccessRefused, AmqpRpcError, BrokerError, ConfigurationError, ConnectionLost
from amqp_rpc.message.timing import backoff
from amqp_rpc.queues.ahead import Ahead, Window, Windows
from amqp_rpc.queues.arrivals import Arrivals
from amqp_rpc.queues.settling import Settling

if TYPE_CHECKING:
    from amqp_rpc.amqp.channel import Channel
    from amqp_rpc.amqp.connection import Connection
    from amqp_rpc.amqp.conversation import Conversations

logger = logging.getLogger(__name__)

#: A queue was declared in another way; and one that another connection has for itself is as different.
_LOCKED, _PRECONDITION_FAILED = 405, 406
#: Seconds until a channel that the broker closed is opened again, doubled each time, and the most.
_AGAIN, _LONGEST_PAUSE = 0.5, 5.0
#: Seconds between two looks at whether items wait here in vain.
_LOOK = 1.0
#: Items of one consumer at most: AMQP says how many in 16 bits. What is wanted beyond that comes by another one.
_MOST_PREFETCH = 65_535


class Taking:
    """What comes from a queue, and goes back to it.

    Any thread may call `done` and `give_back`; the rest belongs to the connection's owner.

    Args:
        queue: Its name.
        arguments: Those with which it is declared.
        conversations: Those of the client.
        here: Tells a putter of this very client: see `Settling`.
    """

    def __init__(
        self,
        queue: str,
        arguments: dict[str, Any],
        conversations: Conversations,
        here: Callable[[str, str], bool],
    ) -> None:
        self._queue = queue
        self._arguments = arguments
        self._conversations = conversations
        self._connection: Connection | None = None
        #: What has come, for any thread.
        self.arrivals = Arrivals()
        self._windows = Windows()
        self._settling = Settling(here, self._windows, self._want_again, self._end_if_settled)
        #: Whether it is told of the connection.
        self.following = False
        #: Whether the broker has agreed to a consumer, and not all was given back since: what is there comes.
        self.consuming = False
        # From here on: the owner's alone.
        self._channel: Channel | None = None
        self._opening = False
        self._declaring = False
        #: How often the broker has closed the channel since it last agreed to a consumer.
        self._closings = 0
        #: The channel whose consumers' end by the broker is heard of.
        self._watched: Channel | None = None
        self._window: Window | None = None
        self._ahead = Ahead(time.monotonic())
        #: How many somebody waits for; 0 for nobody.
        self._wanted = 0
        self._probes: list[Outcome[int | AmqpRpcError]] = []
        self._looking = False
        #: Whether the broker has not heard yet of all that goes back: what is consumed now would come before it.
        self._returning = False
        #: How many had been taken at the last look.
        self._seen = 0
        self._closing: Outcome[int] | None = None
        self._ending = False

    def done(self, delivery: Delivery) -> bool:
        """Have an item acknowledged; return whether that can be: it is somebody else's after its connection's loss."""
        if self._connection is None or not delivery.channel.is_open:
            return False
        self._settling.add(delivery, self._connection)
        return True

    def give_back(self, delivery: Delivery) -> None:
        """Put an item back, for any taker."""
        if self._connection is not None:
            self._connection.loop.leave(self._reject, delivery)

    def begin(self, connection: Connection) -> None:
        """Take note of the connection; `on_open` follows."""
        if self._connection is not connection:
            self._connection, self._channel, self._opening = connection, None, False
        self.following = True

    def on_open(self) -> None:
        """Open the channel, where the connection is open and there is none."""
        connection = self._owned()
        if self._closing is not None:
            if self._closing.done():
                # Somebody who did not know that yet has it told of the connection again.
                self._leave()
        elif connection.is_open and self._channel is None and not self._opening:
            self._opening = True
            connection.open_channel(self._opened, self._closed)

    def on_lost(self, error: BrokerError) -> None:
        """Forget what came: it is others' now. Where there will be no connection, say so."""
        self._forget()
        if not self._owned().was_open:
            self.end(error)

    def end(self, error: BrokerError) -> None:
        """Tell all who wait that nothing will come; any thread."""
        self.following = False
        self._trouble(error)

    def want(self, count: int) -> None:
        """Have the broker deliver, for a thread that has nothing left and waits for so many."""
        self._wanted = count
        if self._closing is not None:
            self._trouble(ConnectionLost(closed(self._queue)))
            return
        if self._channel is None:
            self.on_open()
            return
        if self._declaring or self._returning:
            return
        if self.arrivals and not (self.arrivals.awaited or self._probes):
            return
        window = self._window
        if window is None:
            self._consume(count)
        elif window.ready:
            # In this order: see `Window.full`.
            if window.full and self._more(window, count):
                self._consume(count)
            # They wait: what is done makes room.
            self._settling.flush()

    def probe(self, outcome: Outcome[int | AmqpRpcError], count: int) -> None:
        """Tell how many items are in the queue, once what could come to here has come."""
        self._probes.append(outcome)
        self.want(count)
        self._ask()

    def close(self, ended: Outcome[int]) -> None:
        """Take no more, and close the channel once what is done is acknowledged: the rest goes back.

        It tells how many consumers the queue had with this object's; 0 where it is not known, or had none of them.
        """
        if self._closing is not None:
            return
        self._closing = ended
        self._settling.flush()
        self._end_if_settled()

    def abandon(self) -> None:
        """Close it without waiting: nobody holds the object any more. Any thread."""
        if self._connection is not None:
            self._connection.post(self.close, Outcome[int]())

    @property
    def settled(self) -> bool:
        """Whether all that is done is acknowledged; any thread."""
        return self._settling.over

    def _owned(self) -> Connection:
        assert self._connection is not None
        return self._connection

    def _opened(self, channel: Channel) -> None:
        if self._closing is not None:
            channel.close()
            return
        self._opening, self._declaring, self._channel = False, True, channel

        def declared(_state: QueueState) -> None:
            self._declaring = False
            self._want_again()

        channel.confirms(lambda: channel.declare(self._queue, declared, arguments=self._arguments))

    def _closed(self, _channel: Channel, error: BrokerError, code: int) -> None:
        declaring = self._declaring
        self._forget()
        if self._closing is not None:
            return
        if declaring and code in (_LOCKED, _PRECONDITION_FAILED):
            self._trouble(ConfigurationError(other_arguments(self._queue, error)))
        elif isinstance(error, AccessRefused):
            self._trouble(error)
        else:
            # Its node is away, or an item was held for longer than the broker allows (consumer_timeout).
            self._closings += 1
            if self._closings == 1:
                logger.warning(
                    "Queue %s: %s; opening another channel, until it is consumed again. What was taken is others' now",
                    self._queue, error,
                )  # fmt: skip
            pause = backoff(self._closings, first=_AGAIN, most=_LONGEST_PAUSE)
            self._owned().loop.call_later(pause, self.on_open)

    def _forget(self) -> None:
        self._channel = self._window = None
        self._opening = self._declaring = self._returning = self.consuming = False
        self._windows.clear()
        self.arrivals.clear()
        self._settling.forget()
        if self._closing is not None:
            self._ended(self._closing)

    def _trouble(self, error: AmqpRpcError) -> None:
        self.arrivals.fail(error)
        probes, self._probes = self._probes, []
        for outcome in probes:
            outcome.tell(error)

    def _consume(self, count: int) -> None:
        """Consume with room for so many, or for as many as may be ahead."""
        channel = self._channel
        if channel is None or self._closing is not None:
            return
        self._pause()
        window = self._window = Window(min(max(self._ahead.count, count), _MOST_PREFETCH))

        def ready() -> None:
            window.ready = self.consuming = True
            if self._closings:
                self._closings = 0
                logger.warning("Queue %s is consumed again", self._queue)
            self._ask()

        def cancelled() -> None:
            logger.warning("The broker ended the consumer of %s (was the queue deleted?)", self._queue)
            channel.close()
            self._forget()
            self._owned().loop.call_later(_AGAIN, self.on_open)

        channel.prefetch(window.count)
        window.tag = channel.consume(
            self._queue,
            lambda delivery: self._deliver(delivery, window),
            acknowledge=True,
            then=ready,
            # Once for all consumers of the channel.
            on_cancelled=None if self._watched is channel else cancelled,
        ).tag
        self._watched = channel

    def _pause(self) -> None:
        """Have the broker deliver no more, until somebody waits again."""
        if self._window is not None and self._channel is not None:
            self._channel.cancel(self._window.tag, lambda: None)
        self._window = None

    def _deliver(self, delivery: Delivery, window: Window) -> None:
        self._windows.came(delivery.tag, window)
        self._wanted = 0
        if not self._looking:
            self._looking, self._seen = True, self.arrivals.taken
            self._owned().loop.call_later(_LOOK, self._look)
        self.arrivals.came(delivery)
        if window is self._window and self.arrivals.awaited and self._held(window):
            # Others wait, and all that it may bring is with takers.
            self._ahead.held()
            self._consume(1)

    def _more(self, window: Window, count: int) -> bool:
        """Return whether there is to be room for more than a window has, which is full."""
        if self._held(window):
            self._ahead.held()
            return True
        return count > window.count or self._ahead.waits(self.arrivals.taken, time.monotonic())

    def _held(self, window: Window) -> bool:
        """Return whether nothing can come before a taker is done with something."""
        more = window.open - window.settling - window.count
        # What is done of other windows makes no room in this one.
        return more >= 0 and more >= sum(self._window_of(each) is window for each in self._settling.gathered())

    def _window_of(self, delivery: Delivery) -> Window | None:
        return self._windows.get(delivery.tag) if delivery.channel is self._channel else None

    def _look(self) -> None:
        """Give back what waits here in vain, where it is more than was taken in the last second."""
        self._looking = False
        taken = self.arrivals.taken
        lately, self._seen = max(0, taken - self._seen), taken
        channel = self._channel
        if channel is None or not self.arrivals:
            return
        if len(self.arrivals) > lately and not self._returning:
            self._ahead.wasted(lately)
            self._returning = True
            # When this is answered, the broker has heard of all that is done.
            channel.inspect(self._queue, lambda state: self._return(channel, state.consumers))
        self._looking = True
        self._owned().loop.call_later(_LOOK, self._look)

    def _return(self, channel: Channel, consumers: int) -> None:
        """Give back all that has come, in its order where nothing else is taken and not done."""
        if channel is not self._channel or self._closing is not None:
            return
        self.consuming = False
        back = self.arrivals.clear()
        if len(back) == len(self._windows):
            self._channel = self._window = None
            self._windows.clear()
            self._opening = True
            channel.close_in_order(lambda: self._returned(consumers))
            return
        self._pause()
        for delivery in back:
            self._reject(delivery)
        channel.inspect(self._queue, lambda _state: self._returned())

    def _returned(self, consumers: int = 0) -> None:
        self._returning = False
        if self._channel is None:
            self._opening = False
            if self._closing is not None and not self._ending:
                self._ended(self._closing, consumers)
                return
        self._want_again()

    def _want_again(self) -> None:
        """Have the broker deliver, where somebody waits since it could not be asked for that."""
        if self._wanted or self.arrivals.awaited or self._probes:
            self.want(max(1, self._wanted))

    def _ask(self) -> None:
        """Answer the probes, where the broker has agreed to a consumer."""
        channel, window = self._channel, self._window
        if not self._probes or channel is None or window is None or not window.ready:
            return
        probes, self._probes = self._probes, []

        def tell(state: QueueState) -> None:
            for outcome in probes:
                outcome.tell(state.messages)

        # What was on its way when the first is answered is here when the second is.
        channel.inspect(self._queue, lambda _state: channel.inspect(self._queue, tell))

    def _reject(self, delivery: Delivery) -> None:
        if delivery.channel is self._channel:
            self._windows.gone(delivery.tag)
            delivery.channel.reject(delivery.tag, requeue=True)

    def _end_if_settled(self) -> None:
        ended = self._closing
        if ended is None or self._ending or not self._settling.over:
            return
        if self._channel is None and self._returning:
            # All of it is on its way back: `_returned` sees to the end.
            return
        self._ending = True
        channel, self._channel = self._channel, None
        if channel is None:
            self._ended(ended)
            return

        def heard(state: QueueState) -> None:
            consumers = state.consumers if self._windows or self._window else 0
            channel.close_in_order(lambda: self._ended(ended, consumers))

        # The answer says that the broker has heard all that came before.
        channel.inspect(self._queue, heard)

    def _ended(self, ended: Outcome[int], consumers: int = 0) -> None:
        self._leave()
        self.arrivals.clear()
        # Those who began to wait before this was known.
        self._trouble(ConnectionLost(closed(self._queue)))
        ended.tell(consumers)

    def _leave(self) -> None:
        self._conversations.leave(self)
        self.following = False
