"""The clock of a service's schedules: of all servers, one holds it, and enqueues what is due. The owner's alone.

The clock is a message, its token, in a durable queue with a single active consumer: whoever has it unacknowledged holds
the clock, and when it is gone, the broker gives the token to the next. The token says up to when the ticks of each
schedule have been dealt with (`timetable`). In this order: the tasks that are due are published and confirmed; a new
token that says so is published and confirmed; the old one is acknowledged. A crash in between repeats a tick, with the
same id, and never loses it. Every server adds an empty token when it begins: there always is one. Several become one.

The token is renewed at least once a minute: the broker takes back what is unacknowledged for too long, and drops what
was given back too often, but a new message begins anew.
https://www.rabbitmq.com/docs/consumers#acknowledgement-timeout
https://www.rabbitmq.com/docs/quorum-queues#poison-message-handling

It has a connection of its own, which publishes and consumes: an alarm of the broker stops it alone, and to close it is
to give up the clock at once.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable

from amqp_rpc.amqp.channel import Channel, Delivery
from amqp_rpc.amqp.connection import Connection
from amqp_rpc.amqp.loop import Timer
from amqp_rpc.errors import BrokerError
from amqp_rpc.message.envelope import CLOCK, Message, Properties
from amqp_rpc.message.topology import clock_arguments
from amqp_rpc.server.state import State
from amqp_rpc.server.timetable import Due, Timetable
from amqp_rpc.service.schedules import Schedule, said

logger = logging.getLogger(__name__)

#: Seconds from the first token until it is relied on: the last holder's and those of servers that began meanwhile come
#: together, and an empty one must not be taken for all that is known.
_SETTLING = 0.5
#: Seconds between two tokens, at most; and between two looks at the time of day, which may be put forward or back.
_RENEW = 60.0
#: Seconds until what the broker did not take is published again, and until a consumer that it ended is set up again.
_AGAIN = 1.0
#: Tokens that are delivered before earlier ones are acknowledged: those of as many servers that begin together.
_MOST_TOKENS = 1000
#: Seconds that the end waits for a confirm.
_LAST_CONFIRM = 1.0


class Clock:
    """One service's clock.

    Args:
        queue: The token's.
        schedules: What is enqueued when it is due.
        connection: Which it is told of the losses of.
        state: The server's.
    """

    def __init__(
        self,
        queue: str,
        schedules: Iterable[Schedule],
        connection: Connection,
        state: State,
    ) -> None:
        self._queue = queue
        self._connection = connection
        self._state = state
        self._timetable = Timetable(schedules)
        self._channel: Channel | None = None
        self._opening = False
        self._tokens: list[Delivery] = []
        #: Whether it has had a token since it began to consume: it is the active consumer, and no other one is.
        self._holding = False
        self._settled = False
        self._timer: Timer | None = None
        self._renewed = -_RENEW
        self._renewing = False
        self._renew_again = False
        #: Ids of tasks that came back, since their queue is gone; and schedules whose tasks were refused.
        self._returned: set[str] = set()
        self._complained: set[str] = set()
        self._ended: Callable[[], object] | None = None

    def begin(self) -> None:
        """Stand by, over a connection that has just been opened."""
        if self._channel is not None or self._opening or self._ended is not None:
            return
        self._opening = True

        def opened(channel: Channel) -> None:
            self._channel, self._opening = channel, False
            channel.on_returned(lambda _queue, properties: self._returned.add(str(properties.message_id)))
            channel.prefetch(_MOST_TOKENS)
            channel.confirms(
                lambda: channel.declare(self._queue, lambda _: consume(channel), arguments=clock_arguments())
            )

        def consume(channel: Channel) -> None:
            channel.consume(
                self._queue,
                self._delivered,
                acknowledge=True,
                then=lambda: consumed(channel),
                on_cancelled=lambda: cancelled(channel),
            )

        def consumed(channel: Channel) -> None:
            self._state.ready(self._queue)
            self._seed(channel)

        def cancelled(channel: Channel) -> None:
            logger.warning("The broker ended the consumer of %s; consuming it again", self._queue)
            channel.close()
            self._gone(channel)

        def closed(channel: Channel, error: BrokerError, code: int) -> None:
            self._state.refused(self._queue, error, code)
            self._gone(channel)

        self._connection.open_channel(opened, closed)

    def lost(self) -> None:
        """Hold the clock no more: another server may."""
        if self._settled:
            logger.info("The clock %s is not held here any more", self._queue)
        self._channel, self._opening = None, False
        self._tokens.clear()
        self._returned.clear()
        self._holding = self._settled = self._renewing = self._renew_again = False
        self._renewed = -_RENEW
        self._timetable.forget()
        if self._timer is not None:
            self._timer.cancel()

    def end(self, ended: Callable[[], object]) -> None:
        """Enqueue nothing more, and call back once what is under way was confirmed, or a second is over."""
        if self._ended is None:
            self._ended = ended
            if self._timer is not None:
                self._timer.cancel()
            self._connection.loop.call_later(_LAST_CONFIRM, ended)
            self._check_ended()

    def _seed(self, channel: Channel) -> None:
        """Add a token that says nothing: there is one at least."""

        def confirmed(taken: bool) -> None:
            if not taken:
                self._connection.loop.call_later(_AGAIN, lambda: self._seed(channel))

        channel.publish_confirmed(self._token(Timetable([]).body()), confirmed)

    def _gone(self, channel: Channel) -> None:
        if self._channel in {channel, None}:
            self.lost()
            self._connection.loop.call_later(_AGAIN, self._begin_again)

    def _begin_again(self) -> None:
        if self._connection.is_open:
            self.begin()

    def _check_ended(self) -> None:
        if self._ended is not None and not (self._timetable.busy or self._renewing):
            self._ended()

    def _delivered(self, token: Delivery) -> None:
        self._tokens.append(token)
        self._timetable.merge(token.body)
        if not self._holding:
            self._holding = True
            self._wake(_SETTLING)

    def _wake(self, seconds: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._connection.loop.call_later(seconds, self._tick)

    def _tick(self) -> None:
        channel = self._channel
        if channel is None or not channel.is_open or self._ended is not None:
            return
        if not self._settled:
            logger.info("The clock %s is held here", self._queue)
            self._settled = True
        now = time.time()
        for due in self._timetable.due(int(now * 1000)):
            self._enqueue(channel, due, now)
        if time.monotonic() - self._renewed >= _RENEW:
            self._renew()
        self._wake(min(self._timetable.wait(int(time.time() * 1000)), _RENEW))

    def _enqueue(self, channel: Channel, due: Due, now: float) -> None:
        schedule = due.schedule
        message = schedule.message(due.tick, now=now)
        identity = str(message.properties.message_id)

        def confirmed(taken: bool) -> None:
            returned = identity in self._returned
            self._returned.discard(identity)
            if not taken or returned:
                self._complain(schedule, "is gone" if returned else "takes no more")
                self._connection.loop.call_later(_AGAIN, lambda: again(channel))
                return
            logger.info("Task %s() [%s] is enqueued for %s", schedule.function, identity, said(due.tick))
            self._complained.discard(schedule.name)
            self._state.counters["ticks"] += 1
            self._timetable.done(due)
            self._renew()
            # It was left out while it was under way.
            self._wake(0)

        def again(channel: Channel) -> None:
            if channel is self._channel:
                self._timetable.failed(due)
                self._tick()
                self._check_ended()

        channel.publish_confirmed(message, confirmed, mandatory=True)

    def _complain(self, schedule: Schedule, what: str) -> None:
        if schedule.name not in self._complained:
            self._complained.add(schedule.name)
            logger.error("%s can't be enqueued: queue %s %s; trying again", schedule.name, schedule.queue, what)

    def _renew(self) -> None:
        """Write a token that says what is known now; acknowledge those before it once it is confirmed."""
        channel = self._channel
        if channel is None:
            return
        if self._renewing:
            self._renew_again = True
            return
        self._renewing, self._renew_again = True, False
        self._renewed = time.monotonic()
        old = list(self._tokens)

        def confirmed(taken: bool) -> None:
            self._renewing = False
            if not taken:
                # Whatever else happens meanwhile, this one is not acknowledged before another is confirmed.
                self._connection.loop.call_later(_AGAIN, self._renew)
                return
            channel.ack([token.tag for token in old])
            del self._tokens[: len(old)]
            if self._renew_again:
                self._renew()
            self._check_ended()

        channel.publish_confirmed(self._token(self._timetable.body()), confirmed)

    def _token(self, body: bytes) -> Message:
        properties = Properties(
            content_type="application/json", delivery_mode=2, type=CLOCK, timestamp=int(time.time())
        )
        return Message(self._queue, properties, body)
