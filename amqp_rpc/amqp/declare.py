"""Queues and exchanges that must exist before a message is published: declared once for each connection.

All of it is channel scripts, on a channel of their own: the broker closes a channel when it refuses a declaration,
and unconfirmed messages must not be on it. The declaration of an existing queue with the same arguments does
nothing: https://www.rabbitmq.com/docs/queues#declaration
A user without the right to configure uses what is there: to ask for it needs no right.

RabbitMQ forgets a queue that was declared in the last second when its node is killed. A server therefore waits once,
before it is ready, for all queues that no server has prepared before (`Declarations.prepare`). A client never waits:
docs/decisions/0009-new-queues.md.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Coroutine, Mapping
from typing import TYPE_CHECKING, Any

from amqp_rpc.amqp.channel import AddressedDelivery, BrokerAnswer, Channel, ChannelClosed
from amqp_rpc.errors import BrokerError, ConfigurationError, DeclaredOtherwise
from amqp_rpc.message import topology
from amqp_rpc.message.envelope import Message, Properties, republished
from amqp_rpc.message.exchanges import Exchange
from amqp_rpc.message.refusals import ReplyCode, is_conflict
from amqp_rpc.message.text import bounded_logger

if TYPE_CHECKING:
    from amqp_rpc.amqp.connection import Connection

logger: logging.Logger = bounded_logger(__name__)

#: Seconds from the declaration of an arrivals queue until the next delayed message has it declared again.
_DECLARED_AGAIN_AFTER = 5.0

#: Messages without a queue that are offered again at a time, and those of them that are unacked together.
_MOST_OFFERED, _WINDOW = 1000, 32
#: Seconds between two looks how far that is, and how many there are at most.
_PAUSE, _MOST_PAUSES = 0.01, 100
#: The exchange behind the delay queues.
_ARRIVALS = Exchange(topology.ARRIVALS)

#: Seconds until RabbitMQ remembers a new queue even if it is killed: twice as long as was needed.
LASTING_AFTER = 2.0


class Refused(ChannelClosed):
    """The broker does not allow a declaration, that of a queue or of an exchange."""

    def __init__(self, what: str, error: BrokerError, code: int) -> None:
        super().__init__(error, code)
        self.what = what


def advice(error: BaseException, giver: str, options: str) -> str:
    """Return the advice for a queue that exists with other arguments than this program's.

    Args:
        error: The broker's.
        giver: What takes the options, and ``declare='passive'``.
        options: Those that say how the queue is declared.
    """
    passive = "declare='passive', which uses the queue as it is"
    if any(f"'{each}'" in str(error) for each in ("durable", "auto_delete", "exclusive")):
        return f"No other option makes it the same: give {giver} {passive}, delete it, or take another queue="
    return f"Give {giver} the same {options}, or {passive}; or delete it, or take another queue="


def other_arguments(queue: str, error: BaseException, *, than: str, remedy: str) -> ConfigurationError:
    """Return the error for a queue that the broker does not let this program declare.

    The ``remedy`` is for one that exists with other arguments ``than`` expected. The broker has the same code (406) for
    limits of the virtual host, which other arguments don't change.
    """
    if is_conflict(str(error)):
        return DeclaredOtherwise(f"queue {queue!r} exists with other arguments than {than}: {error}. {remedy}")
    return DeclaredOtherwise(f"the broker refuses queue {queue!r}: {error}")


class Declarations:
    """The queues and exchanges that were declared over one connection, which is open."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._channel: Channel | None = None
        #: True: a server's marker proves that the delay queues exist.
        self._trusting = True
        self._queues: set[str] = set()
        self._exchanges: set[Exchange] = set()
        #: True once the delay queues exist.
        self._delays = False
        #: The queues at which delayed messages can arrive, and when that was declared.
        self._delayed: dict[str, float] = {}
        #: The queue whose declaration runs.
        self._what = ""
        #: True if messages that no queue was there for are to be offered again: at the first delay over a connection,
        #: since the broker may have been away, and after a new queue of arrivals. And a flag that is set meanwhile.
        self._looks = False
        self._offering = False
        #: The names of existing ones that this user may not declare.
        self._refused: set[str] = set()
        #: Those of them of which this user may not even ask whether they exist, and those that were found not to.
        self._unsure: set[str] = set()
        self._missing: set[str] = set()
        #: True for a server, which needs the dead-letter queues of its queues.
        self._buries = False

    def has(self, message: Message) -> bool:
        """Return whether a message can be published at once."""
        if len(message.body) > self._connection.fits:
            return False
        if message.exchange is not None:
            # The default exchange always exists, and can't be declared.
            return not message.exchange.name or message.exchange in self._exchanges
        if message.routing_key not in self._queues:
            return False
        if not message.delay:
            return True
        # Nothing is returned where someone has deleted the arrivals queue: so it is declared again from time to time.
        declared = self._delayed.get(message.routing_key)
        return self._delays and declared is not None and time.monotonic() - declared < _DECLARED_AGAIN_AFTER

    def forget(self, message: Message) -> None:
        """Declare again what a message needs: it was returned, so a part of it is gone."""
        self._queues.discard(message.routing_key)
        if message.routing_key in self._unsure:
            self._missing.add(message.routing_key)
        if message.delay:
            self.distrust()

    def distrust(self) -> None:
        """Declare all exchanges and delay queues again: someone has deleted one."""
        self._delays = self._trusting = False
        self._delayed.clear()
        self._exchanges.clear()

    async def declare(self, message: Message, arguments: dict[str, Any] | None) -> None:
        """Declare the queues and exchanges that a message needs.

        The arguments are those of its queue; None for a queue that exists and belongs to another program.

        Raises:
            Refused: The broker does not allow it.
            MessageTooLarge: The broker does not take so large a message.
        """
        await self._declare_all(message, arguments)
        if self._looks:
            await self._offer_abandoned()

    async def _declare_all(self, message: Message, arguments: dict[str, Any] | None) -> None:
        await self._connection.check_size(len(message.body))
        self._what = ""
        try:
            if message.exchange is None:
                await self._declare_queue(message.routing_key, arguments, delayed=bool(message.delay))
            elif message.exchange.name:
                channel, exchange = await self._open(), message.exchange
                await self._declare(declare_exchange(channel, exchange), exchange=exchange.name)
                self._exchanges.add(exchange)
        except ChannelClosed as closed:
            if closed.code == ReplyCode.NOT_FOUND and topology.holds_arrivals(self._what):
                # The exchange to which it is bound: someone has deleted it.
                self.distrust()
            raise Refused(self._what or message.target, closed.error, closed.code) from closed

    async def prepare(self, queues: Mapping[str, dict[str, Any] | None]) -> list[Refused]:
        """Declare task queues with all that their retries and dead letters need, and wait until all of it lasts.

        Another program declares a queue whose arguments are None, and its dead-letter queue is prepared by itself.

        Each queue has a marker exchange, which routes nothing: it exists once the queue has lasted. All new queues
        wait together. The refusals are returned, each for one queue.
        """
        self._buries = True
        known = self._trusting and await exists(self._connection, exchange=topology.lasting("delay"))
        markers: list[str] = []
        refusals: list[Refused] = []
        for queue, arguments in queues.items():
            try:
                lasting = await exists(self._connection, exchange=topology.lasting(queue))
                # Nothing is delayed for a dead-letter queue.
                delay = 0 if topology.holds_dead_letters(queue) else 1
                await self._declare_all(Message(queue, Properties(), b"", delay=delay), arguments)
            except Refused as refused:
                refusals.append(refused)
            else:
                markers += [] if lasting else [topology.lasting(queue)]
        markers += [topology.lasting("delay")] if self._delays and not known else []
        if self._looks:
            # After all queues: each of them may be the one that a message waits for.
            await self._offer_abandoned()
        if markers:
            await self._connection.pause(LASTING_AFTER)
        for marker in markers:
            try:
                await (await self._open()).declare_exchange(marker)
            except ChannelClosed as closed:
                # Without the right to configure it, the next start waits as well.
                if closed.code != ReplyCode.ACCESS_REFUSED:
                    raise
        return refusals

    def look(self) -> None:
        """Offer the messages that no queue was there for again: one may be there now."""
        self._looks = True
        if not self._offering:
            self._offering = True
            self._connection.run(self._offer())

    async def _offer_abandoned(self) -> None:
        """Look, and wait for a moment, since this program may end soon.

        Not for longer: a broker that confirms nothing must not keep other messages from being published.
        """
        self.look()
        for _ in range(_MOST_PAUSES):
            if not self._offering:
                return
            await self._connection.pause(_PAUSE)

    async def _offer(self) -> None:
        try:
            while self._looks:
                self._looks = False
                await self._offer_once()
        except ChannelClosed as closed:
            # A user who may not read it is no worse off, and the next server declares what someone has deleted.
            logger.debug("queue %s: not looked at: %s", topology.ABANDONED, closed)
        finally:
            self._offering = False

    async def _offer_once(self) -> None:
        """Publish each of these messages to the exchange of arrivals again, and ack it once that is confirmed.

        One that still has no queue comes back, behind all others. So the next ones are offered the next time.
        """
        with await self._connection.open_channel() as channel:
            left = (await channel.inspect(topology.ABANDONED)).messages
            if left:
                await self._offer_some(channel, min(left, _MOST_OFFERED))
                left = (await channel.inspect(topology.ABANDONED)).messages
            if left:
                logger.warning(
                    "queue %s: %d delayed messages wait, since their queues are gone; `amqp-rpc dlq list %s` shows "
                    "them", topology.ABANDONED, left, topology.UNROUTED,
                )  # fmt: skip

    async def _offer_some(self, channel: Channel, most: int) -> None:
        arrived: deque[AddressedDelivery] = deque()
        returned: set[str | None] = set()
        channel.on_returned(lambda _key, properties: returned.add(properties.message_id))
        await channel.confirms()
        channel.prefetch(_WINDOW)
        await channel.consume(topology.ABANDONED, arrived.append, acknowledge=True, addressed=True)
        offered = pauses = 0
        while offered < most and pauses < _MOST_PAUSES:
            if not arrived:
                # It is on its way, or another program has it.
                pauses += 1
                await self._connection.pause(_PAUSE)
                continue
            pauses = 0
            some = [arrived.popleft() for _ in range(min(len(arrived), most - offered))]
            confirms = [(each, _sent_on(channel, each)) for each in some]
            for delivery, confirm in confirms:
                # A returned one is in no queue: the broker gets its delivery back with this channel.
                if confirm and await confirm and delivery.properties.message_id not in returned:
                    channel.ack([delivery.tag])
            offered += len(some)

    async def _open(self) -> Channel:
        if self._channel is None or not self._channel.is_open:
            self._channel = await self._connection.open_channel()
        return self._channel

    async def _declare_queue(self, queue: str, arguments: dict[str, Any] | None, *, delayed: bool) -> None:
        temporary = topology.fleeting(queue)
        if arguments is not None and not topology.of_instance(queue) and (temporary or queue not in self._queues):
            allowed = await self._declare(self._declare_one(queue, arguments), queue=queue)
            # Without the right to configure, a client leaves the dead-letter queue to the server.
            if not (temporary or topology.holds_dead_letters(queue)) and (allowed or self._buries):
                await self._declare_dead_letters(queue, arguments)
        looks = delayed and not self._delays
        if looks:
            if not (self._trusting and await exists(self._connection, exchange=topology.lasting("delay"))):
                # The highest level is declared last: with it, all are there.
                highest = topology.delay(topology.LEVELS - 1)
                await self._declare(self._declare_delays(), exchange=highest)
            self._delays = True
        if delayed:
            if not topology.of_instance(queue):
                # Always: a binding that was forgotten, or a queue that was deleted, exists again.
                arrivals = topology.arrivals_queue(queue)
                looks |= not await exists(self._connection, queue=arrivals)
                await self._declare(self._declare_arrivals_at(queue), queue=arrivals)
            # In this order: a message that is offered now finds the queue.
            self._looks |= looks
            self._delayed[queue] = time.monotonic()
        if not temporary:
            self._queues.add(queue)

    async def _declare_dead_letters(self, queue: str, arguments: dict[str, Any]) -> None:
        dead = topology.dead_letter_queue(queue)
        if not await exists(self._connection, queue=dead):
            await self._declare(self._declare_one(dead, topology.dead_letter_arguments(arguments)), queue=dead)

    async def _declare(self, declaration: Coroutine[Any, Any, object], *, queue: str = "", exchange: str = "") -> bool:
        """Declare something; return False where this user may not, but it is there, and is used as it is."""
        name = queue or exchange
        if (
            name in self._refused
            and name not in self._missing
            and await exists(self._connection, queue=queue, exchange=exchange)
        ):
            declaration.close()
            return False
        # An exchange of events is named by its message.
        self._what = queue
        try:
            await declaration
        except ChannelClosed as closed:
            if name in self._missing:
                self._missing.discard(name)
                raise
            if not await usable(self._connection, closed, queue=queue, exchange=exchange, unsure=self._unsure):
                raise
            self._refused.add(name)
        self._what = ""
        return name not in self._refused

    async def _declare_one(self, queue: str, arguments: dict[str, Any]) -> None:
        await (await self._open()).declare(queue, arguments=arguments)

    async def _declare_delays(self) -> None:
        await declare_delays(await self._open())

    async def _declare_arrivals_at(self, queue: str) -> None:
        await declare_arrivals_at(await self._open(), queue)


async def exists(
    connection: Connection, *, queue: str = "", exchange: str = "", unsure: set[str] | None = None
) -> bool:
    """Return whether a queue or an exchange exists, asked on a channel that the broker closes where it does not.

    From RabbitMQ 4.2.6 on that needs some right to it: without one the answer is True, and its name goes to ``unsure``.
    """
    with await connection.open_channel() as probe:
        try:
            await (probe.inspect(queue) if queue else probe.inspect_exchange(exchange))
        except ChannelClosed as closed:
            if unsure is not None and closed.code == ReplyCode.ACCESS_REFUSED:
                unsure.add(queue or exchange)
            # A user who may not ask is no worse off than if it existed.
            return closed.code != ReplyCode.NOT_FOUND
    return True


async def usable(
    connection: Connection,
    refused: ChannelClosed,
    *,
    queue: str = "",
    exchange: str = "",
    unsure: set[str] | None = None,
) -> bool:
    """Return whether a queue or an exchange is there for a user who was refused the right to declare it."""
    if refused.code != ReplyCode.ACCESS_REFUSED:
        return False
    return await exists(connection, queue=queue, exchange=exchange, unsure=unsure)


async def ensure_exchange(connection: Connection, exchange: Exchange) -> None:
    """Declare an exchange of events, on a channel of its own; without the right to, use the one that is there."""
    try:
        with await connection.open_channel() as channel:
            await declare_exchange(channel, exchange)
    except ChannelClosed as closed:
        if not await usable(connection, closed, exchange=exchange.name):
            raise


async def ensure_queue(connection: Connection, queue: str, arguments: dict[str, Any]) -> None:
    """Declare a queue, on a channel of its own; without the right to, use the one that is there."""
    try:
        with await connection.open_channel() as channel:
            await channel.declare(queue, arguments=arguments)
    except ChannelClosed as closed:
        if not await usable(connection, closed, queue=queue):
            raise


def _sent_on(channel: Channel, delivery: AddressedDelivery) -> BrokerAnswer[bool] | None:
    """Publish a message as it left the last delay queue; return its confirm, or None if AMQP can't carry it again."""
    properties = republished(delivery.properties)
    try:
        return channel.confirmed(
            Message(delivery.routing_key, properties, delivery.body, exchange=_ARRIVALS), mandatory=True
        )
    except Exception as error:
        logger.warning("queue %s: message [%s] stays: %r", topology.ABANDONED, properties.message_id, error)
        return None


async def declare_exchange(channel: Channel, exchange: Exchange) -> None:
    """Declare an exchange of events."""
    await channel.declare_exchange(exchange.name, kind=exchange.kind, durable=exchange.durable)


async def declare_delays(channel: Channel) -> None:
    """Declare all delay queues, and the exchange behind them."""
    await declare_arrivals(channel)
    # From below, so that each finds the next; all of them, so that none is new when it is needed.
    for level in range(topology.LEVELS):
        name = topology.delay(level)
        await channel.declare_exchange(name)
        await channel.declare(name, arguments=topology.delay_arguments(level, unit=topology.UNIT))
        await channel.bind(name, name, topology.held_binding(level))
        await channel.bind_exchange(topology.after_delay(level), name, topology.passed_binding(level))


async def declare_arrivals(channel: Channel) -> None:
    """Declare the exchange behind all delay queues, and the queue that keeps the messages that it can't route."""
    await channel.declare_exchange(topology.UNROUTED, kind="fanout")
    await channel.declare(topology.ABANDONED, arguments=topology.abandoned_arguments())
    await channel.bind(topology.ABANDONED, topology.UNROUTED, "")
    await channel.declare_exchange(topology.ARRIVALS, arguments={"alternate-exchange": topology.UNROUTED})


async def declare_arrivals_at(channel: Channel, queue: str) -> None:
    """Declare the way from the exchange behind the delay queues to a task queue."""
    arrivals = topology.arrivals_queue(queue)
    await channel.declare(arrivals, arguments=topology.arrivals_arguments(queue))
    await channel.bind(arrivals, topology.ARRIVALS, topology.arrived_binding(queue))
