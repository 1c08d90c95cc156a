"""The scheduler of a service: of all its servers one is the leader, and enqueues the tasks that are due.

The leader is elected by a message, the token, in a durable queue with a single active consumer: it is the server that
has the token unacked, and when that server is gone the broker delivers the token to another one. The token says up to
when the ticks of each schedule are handled (`Timetable`). In this order: the due tasks are published and
confirmed; a new token that says so is published and confirmed; the old one is acked. A crash in between repeats a tick,
with the same id, and never loses it. Every server adds an empty token when it starts, so there is always one. The
leader merges several into one.

A cluster whose nodes lose sight of each other may give the token to another server, and not tell the first one. So a
leader enqueues nothing more while the broker does not confirm its new token, or does not deliver it to this server.

The token is renewed at least once a minute: the broker requeues a message that is unacked for too long, and drops one
that was requeued too often, but a new message has neither behind it.
https://www.rabbitmq.com/docs/consumers#acknowledgement-timeout
https://www.rabbitmq.com/docs/quorum-queues#poison-message-handling

It has a connection of its own, which publishes and consumes: an alarm of the broker stops it alone, and closing it
hands the leadership over at once. Everything here belongs to the I/O thread. It is a seam: nothing else of a server
knows schedules.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from amqp_rpc.amqp.channel import Channel, Delivery
from amqp_rpc.amqp.connection import Connection
from amqp_rpc.amqp.keeper import Keeper
from amqp_rpc.amqp.loop import Timer
from amqp_rpc.errors import AccessRefused, BrokerError
from amqp_rpc.message.envelope import CLOCK, Message, Properties
from amqp_rpc.message.text import bounded_logger
from amqp_rpc.message.timing import Repeats
from amqp_rpc.message.topology import CLOCK_ARGUMENTS
from amqp_rpc.server.state import State
from amqp_rpc.service.schedules import MOST_COUNTED, Cron, Schedule, said

logger: logging.Logger = bounded_logger(__name__)

#: Seconds from the first token until the leader relies on it: the last leader's token and empty ones of servers that
#: start arrive together, and an empty one must not count alone.
_SETTLING = 0.5
#: Seconds from writing a token to its confirm, and then to its delivery to the leader that wrote it. Later it is
#: doubtful that this server is the leader.
_TOKEN_COMES = 5.0
#: The longest seconds between two tokens, and between two reads of the clock, which may be put forward or back.
_RENEW = 60.0
#: Seconds until a refused message is published again.
_AGAIN = 1.0
#: The limit of unacked tokens, one for each server that starts at the same time.
_MOST_TOKENS = 1000
#: Seconds that a stopping server waits for the last confirms, and the poll interval.
_LAST_CONFIRM, _LOOK_AGAIN = 1.0, 0.01

#: Milliseconds by which servers' clocks may differ, or one be put back: a leader waits so long until its clock has
#: reached the last leader's. A token from further ahead was written by a wrong clock.
MOST_AHEAD = 60_000
#: Milliseconds until a schedule that no leader knows any more is forgotten: far longer than two versions of a service
#: run side by side.
FORGET_AFTER = 30 * 86_400_000
#: Bytes of the longest token that is read, and bytes for the schedules in it that this server does not know. Any
#: program may publish tokens, and what is in them is published with each tick.
_LARGEST_TOKEN, _ROOM_FOR_OTHERS = 1024 * 1024, 64 * 1024
#: Bytes of a schedule in a token, beside its name; and milliseconds by which a new leader may be behind without a word.
_ENTRY, _A_LITTLE = 20, 5_000
#: The subject of log lines about a token as a whole.
_ITSELF = "scheduler"
#: The end of the year 9999, where calendars end.
_LAST_MOMENT = 253_402_300_800_000


@dataclass(frozen=True, slots=True)
class Due:
    """A tick that is due now."""

    schedule: Schedule
    #: When it was due.
    tick: int
    #: How many ticks before it are skipped for it.
    missed: int
    #: Up to when the schedule's ticks are dealt with, once its task is enqueued.
    dealt: int


class Timetable:
    """The schedules that this server knows, and up to when the ticks of each are dealt with. Pure.

    It is written into the token, so that the next leader goes on from there. All times are milliseconds since the Unix
    epoch.
    """

    def __init__(self, schedules: Iterable[Schedule]) -> None:
        self._schedules = {schedule.name: schedule for schedule in schedules}
        #: The time up to which the ticks of each are handled: also of schedules that only other versions know.
        self.dealt: dict[str, int] = {}
        self._next: dict[str, int] = {}
        self._enqueuing: set[str] = set()
        #: Bytes for the schedules that this server does not know.
        self.room: int = _ROOM_FOR_OTHERS
        #: The log lines about tokens, and the schedules whose wait was logged.
        self._repeats = Repeats()
        self._waiting: set[str] = set()

    def merge(self, body: bytes, *, until: int = _LAST_MOMENT) -> None:
        """Learn from a token's body; of two that differ, the later one has seen more.

        Nothing is learned of times from ``until`` on. A leader knows that no other server has handled what is due
        after now: such a token is forged, and would keep its schedules from being enqueued.
        """
        try:
            if len(body) > _LARGEST_TOKEN:
                raise ValueError("it is too large")  # noqa: TRY301 - one place reports what can't be read
            dealt = json.loads(body)["dealt"]
            found = {str(name): int(moment) for name, moment in dealt.items()}
        except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError):
            self._warn(_ITSELF, "token can't be read: %.200r", body)
            return
        later = {name: moment for name, moment in found.items() if self.dealt.get(name, 0) < moment < _LAST_MOMENT}
        if ahead := [name for name in later if later[name] >= until]:
            self._warn(
                _ITSELF, "token ignored: it is forged, or of a clock that is ahead; it has ticks to come of %.200r",
                ahead[0],
            )  # fmt: skip
        for name, moment in later.items():
            if moment < until:
                self._deal(name, moment)
        self._make_room()

    def body(self) -> bytes:
        """Return the body of the next token."""
        return json.dumps({"dealt": self.dealt}).encode()

    def due(self, now: int) -> list[Due]:
        """Return the ticks to enqueue now: the latest one of each schedule, if it is not dealt with.

        A schedule is busy from then on, until `done` or `failed` is called.
        """
        found = []
        for name, schedule in self._schedules.items():
            if name in self._enqueuing:
                continue
            dealt = self.dealt.get(name)
            if dealt is not None and dealt > now + MOST_AHEAD:
                self._warn(
                    name, "its ticks were handled up to %s, which is in the future: a clock was wrong; it continues "
                    "from now", said(dealt),
                )  # fmt: skip
                dealt = None
            elif dealt is not None and dealt > now + _A_LITTLE:
                self._say_waits(name, dealt)
            if dealt is None:
                # A new schedule has no earlier ticks.
                self._deal(name, now)
            elif now >= self._until(name):
                missed = schedule.times.missed(dealt, now)
                assert missed is not None
                tick, count = missed
                self._enqueuing.add(name)
                found.append(Due(schedule, tick, count - 1, now))
            elif now > dealt:
                # So that a rarely due schedule is not forgotten like one that no server knows any more.
                self.dealt[name] = now
        for name in [name for name, dealt in self.dealt.items() if dealt < now - FORGET_AFTER]:
            if name not in self._schedules:
                del self.dealt[name]
        return found

    def done(self, due: Due) -> None:
        """Count a tick as handled: its task is in the queue."""
        schedule = due.schedule
        self._enqueuing.discard(schedule.name)
        self._deal(schedule.name, max(due.dealt, self.dealt.get(schedule.name, 0)))
        if due.missed:
            some = "at least " if isinstance(schedule.times, Cron) and due.missed + 1 >= MOST_COUNTED else ""
            logger.warning(
                "%s: %s%d missed ticks are skipped; the latest, of %s, is enqueued",
                schedule.name, some, due.missed, said(due.tick),
            )  # fmt: skip

    def failed(self, due: Due) -> None:
        """Make a tick due again, or a later one: its task is not in the queue."""
        self._enqueuing.discard(due.schedule.name)

    def forget(self) -> None:
        """Forget the tasks that are being enqueued: no confirm will arrive."""
        self._enqueuing.clear()

    @property
    def busy(self) -> bool:
        """True while a tick is being enqueued."""
        return bool(self._enqueuing)

    def wait(self, now: int) -> float:
        """Return the seconds until a tick may be due; a day without schedules."""
        waiting = [self._until(name) - now for name in self._schedules if name not in self._enqueuing]
        return max(0.0, min(waiting, default=86_400_000) / 1000)

    def _deal(self, name: str, moment: int) -> None:
        self.dealt[name] = moment
        self._next.pop(name, None)

    def _say_waits(self, name: str, dealt: int) -> None:
        if name not in self._waiting:
            self._waiting.add(name)
            logger.warning(
                "%s: it waits until %s: its ticks were handled up to then, by another clock", name, said(dealt)
            )

    def _make_room(self) -> None:
        """Forget schedules that this server does not know, from the oldest on, if they take too much room."""
        others = {name: len(name) + _ENTRY for name in self.dealt if name not in self._schedules}
        if (left := self.room - sum(others.values())) >= 0:
            return
        for name in sorted(others, key=self.dealt.__getitem__):
            if left >= 0:
                break
            left += others[name]
            del self.dealt[name]
        self._warn(
            _ITSELF, "token has more than %d bytes of schedules that are not known here; the oldest are forgotten",
            self.room,
        )  # fmt: skip

    def _warn(self, name: str, text: str, value: object) -> None:
        """Warn of a token, which any program may write: of a schedule, or of itself."""
        if (times := self._repeats.again(f"{name}: {text}")) is not None:
            logger.warning(f"%s: {text}%s", name, value, times)  # noqa: G004 - one of a few texts

    def _until(self, name: str) -> int:
        """Return a known schedule's next tick."""
        if name not in self._next:
            self._next[name] = self._schedules[name].times.after(self.dealt[name])
        return self._next[name]


class Scheduler(Keeper):
    """The scheduler of one service on this server: the leader, or one that stands by. The queue is the token's."""

    def __init__(self, queue: str, schedules: Iterable[Schedule], state: State) -> None:
        super().__init__(f"queue {queue}")
        self._queue = queue
        self._state = state
        self._timetable = Timetable(schedules)
        #: The unacked tokens.
        self.tokens: list[Delivery] = []
        #: True while this server is the leader, and relies on its tokens.
        self.leads: bool = False
        self._timer: Timer | None = None
        #: When the latest token was written, and then when it was confirmed.
        self._renewed = -_RENEW
        self._renewing = False
        self._renew_again = False
        #: Ids of tasks that were returned, since their queue is gone; and schedules whose tasks were refused.
        self._returned: set[str] = set()
        self._complained: set[str] = set()

    @property
    def busy(self) -> bool:
        """True while it waits for confirms."""
        return self._timetable.busy or self._renewing

    def stop(self) -> None:
        """Enqueue nothing more."""
        self.ended = True
        if self._timer is not None:
            self._timer.cancel()

    async def set_up(self, channel: Channel) -> None:
        """Stand by."""
        channel.on_returned(lambda _queue, properties: self._returned.add(str(properties.message_id)))
        channel.prefetch(_MOST_TOKENS)
        await channel.confirms()
        await channel.declare(self._queue, arguments=CLOCK_ARGUMENTS)
        await channel.consume(self._queue, self._delivered, acknowledge=True, on_cancelled=self.cancelled)

    def ready(self) -> None:
        """Add an empty token, so that there is always one."""
        self._state.ready(self._queue)
        assert self.channel is not None
        self.connection.run(self._seed(self.channel))

    def report(self, error: BrokerError, code: int, pause: float) -> None:  # noqa: ARG002 - it is about the same
        """Report that the token's queue is not consumed."""
        self._state.refused(self._queue, error, code)

    def closed(self, error: BrokerError, code: int) -> None:  # noqa: ARG002 - `report` has reported it
        """Lead no more: another server may."""
        limit = self.connection.learn_limit(str(error))
        if limit is not None:
            self._timetable.room = min(self._timetable.room, limit // 4)
        self.lost(error)

    def lost(self, error: BrokerError) -> None:
        """Lead no more: another server may. End the start, if the broker does not allow it."""
        if isinstance(error, AccessRefused):
            self._state.failed(error)
        self._resign()
        self.tokens.clear()
        self._returned.clear()
        self._renewing = self._renew_again = False
        self._renewed = -_RENEW
        self._timetable.forget()
        if self._timer is not None:
            self._timer.cancel()

    async def _seed(self, channel: Channel) -> None:
        while not await channel.confirmed(self._token(Timetable([]).body())):
            await self.connection.pause(_AGAIN)

    def _delivered(self, token: Delivery) -> None:
        self._timetable.merge(token.body, until=int(time.time() * 1000) + 1 if self.leads else _LAST_MOMENT)
        # This server is the active consumer now: no other one is.
        if not self.tokens:
            self._wake(0 if self.leads else _SETTLING)
        self.tokens.append(token)

    def _wake(self, seconds: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self.connection.loop.call_later(seconds, self._tick)

    def _tick(self) -> None:
        channel = self.channel
        if channel is None or not channel.is_open or self.ended:
            return
        doubtful = time.monotonic() - self._renewed > _TOKEN_COMES
        if not self.tokens and doubtful:
            self._resign()
            return
        if not self.tokens or (self._renewing and doubtful):
            self._wake(_TOKEN_COMES)
            return
        if not self.leads:
            logger.info("%s: this server is the leader", self.name)
            self.leads = True
        now = time.time()
        for due in self._timetable.due(int(now * 1000)):
            self.connection.run(self._enqueue(channel, due, now))
        if time.monotonic() - self._renewed >= _RENEW:
            self._renew()
        self._wake(min(self._timetable.wait(int(time.time() * 1000)), _RENEW))

    async def _enqueue(self, channel: Channel, due: Due, now: float) -> None:
        schedule = due.schedule
        message = schedule.message(due.tick, now=now)
        identity = str(message.properties.message_id)
        if self._state.users:
            message.properties.user_id = self.connection.address.user
        if self._state.keys is not None:
            self._state.keys.sign(message)
        taken = await channel.confirmed(message, mandatory=True)
        returned = identity in self._returned
        self._returned.discard(identity)
        if not taken or returned:
            self._complain(schedule, "is gone" if returned else "is full")
            await self.connection.pause(_AGAIN)
            if channel is self.channel:
                self._timetable.failed(due)
                self._tick()
            return
        logger.info("Task %s() [%s] enqueued for %s", schedule.function, identity, said(due.tick))
        self._complained.discard(schedule.name)
        self._state.counters["ticks"] += 1
        self._timetable.done(due)
        self._renew()
        if not self.ended:
            # The timer left the schedule out while it was being enqueued.
            self._wake(0)

    def _resign(self) -> None:
        if self.leads:
            logger.info("%s: this server is not the leader any more", self.name)
        self.leads = False

    def _complain(self, schedule: Schedule, problem: str) -> None:
        if schedule.name not in self._complained:
            self._complained.add(schedule.name)
            logger.error("%s: can't be enqueued: queue %s %s; trying again", schedule.name, schedule.queue, problem)

    def _renew(self) -> None:
        """Write a token with the current times, and ack the earlier ones once it is confirmed."""
        if self._renewing:
            self._renew_again = True
        elif self.channel is not None:
            self._renewing = True
            self.connection.run(self._write_token(self.channel))

    async def _write_token(self, channel: Channel) -> None:
        while True:
            self._renew_again = False
            self._renewed = time.monotonic()
            old = list(self.tokens)
            if not await channel.confirmed(self._token(self._timetable.body())):
                # In any case the old token is not acked before another is confirmed.
                await self.connection.pause(_AGAIN)
                continue
            channel.ack([token.tag for token in old])
            del self.tokens[: len(old)]
            self._renewed = time.monotonic()
            if not self._renew_again:
                break
        self._renewing = False
        if not self.ended:
            # The timer has enqueued nothing, if the confirm was late.
            self._wake(0)

    def _token(self, body: bytes) -> Message:
        properties = Properties(
            content_type="application/json", delivery_mode=2, type=CLOCK, timestamp=int(time.time())
        )
        return Message(self._queue, properties, body)


async def hand_over(connection: Connection, schedulers: Sequence[Scheduler]) -> None:
    """Close the schedulers' connection, so that other servers lead, once the last confirms have come."""
    end = time.monotonic() + _LAST_CONFIRM
    while any(scheduler.busy for scheduler in schedulers) and time.monotonic() < end:
        await connection.pause(_LOOK_AGAIN)
    connection.begin_close()
