"""The consuming half of a queue: items are prefetched on the I/O thread, popped by callers, and acked when done.

To ask the broker for one item takes 5 ms with a quorum queue, so a consumer prefetches some. RabbitMQ bounds the
unacked items of each consumer (https://www.rabbitmq.com/docs/consumer-prefetch). If callers hold all of them, another
consumer replaces it: callers may hold any number of items.

It is a seam: `put` is the other half; of that this half uses only the receipts.
"""

from __future__ import annotations

import logging
import time
from collections import defaultdict, deque
from collections.abc import Iterable
from functools import partial
from queue import Empty
from typing import TYPE_CHECKING, Any

from amqp_rpc.amqp.channel import Channel, ChannelClosed, Delivery
from amqp_rpc.amqp.declare import ensure_queue
from amqp_rpc.amqp.keeper import Keeper
from amqp_rpc.amqp.pending import Outcome, Wait, Work
from amqp_rpc.amqp.publisher import Publication
from amqp_rpc.errors import AccessRefused, AmqpRpcError, BrokerError, CodecError, NotAuthorized, NotConnected
from amqp_rpc.message.codec import LARGE
from amqp_rpc.message.envelope import Message, Properties
from amqp_rpc.message.refusals import ReplyCode
from amqp_rpc.message.signature import Gate
from amqp_rpc.message.text import bounded_logger, plural
from amqp_rpc.message.timing import Repeats
from amqp_rpc.queues import items
from amqp_rpc.queues.put import Receipts, to_answer

if TYPE_CHECKING:
    from amqp_rpc.amqp.connection import Connection
    from amqp_rpc.amqp.session import Session

logger: logging.Logger = bounded_logger(__name__)

#: Seconds that a caller waits at most before it checks its connection.
_PATIENCE = 5.0
#: Seconds to wait for an item that is ready at the broker, and the poll interval.
_ON_ITS_WAY, _BETWEEN_LOOKS = 1.0, 0.05
#: Seconds between two checks for idle prefetched items.
_IDLE = 1.0
#: Seconds in which done items are gathered, to be acked together; half a prefetch of them is acked at once.
_GATHERED = 0.005
#: Items that RabbitMQ 3.10 keeps in order when one command requeues them to a quorum queue.
_IN_ORDER = 32
#: The most that AMQP's prefetch can be.
MOST_PREFETCH = 65_535


class Taken:
    """An item that a caller holds: received, and not done."""

    __slots__ = ("delivery", "value")

    def __init__(self, delivery: Delivery, value: Any) -> None:
        self.delivery: Delivery = delivery
        self.value: Any = value


class _Letter(Publication):
    """The dead letter of an item; its queue may have other arguments than the guess."""

    __slots__ = ("like", "signed")

    guessed = True

    def __init__(
        self,
        message: Message,
        arguments: dict[str, Any] | None,
        *,
        timeout: float,
        like: Properties,
        signed: bool,
    ) -> None:
        super().__init__(message, arguments, timeout=timeout)
        self.like: Properties | None = like
        # A replay signs it, if its letter is signed.
        self.signed: bool = signed


class ItemConsumer(Keeper):
    """Consumes one queue for all callers of a `Queue` object, which are threads or asyncio tasks.

    The methods for callers come first; the rest belongs to the I/O thread.
    """

    FIRST_PAUSE, LONGEST_PAUSE = 0.5, 5.0

    def __init__(
        self,
        session: Session,
        queue: str,
        arguments: dict[str, Any] | None,
        dead_letter_arguments: dict[str, Any],
        *,
        prefetch: int,
        timeout: float,
        limit: int,
    ) -> None:
        super().__init__(f"queue {queue}")
        self._session = session
        self._receipts = session.reply_queue.receiver(items.DONE, Receipts)
        self._queue = queue
        #: Those of the queue, or None where another program declares it; and those of its dead-letter queue.
        self._arguments = arguments
        self._dead_letter_arguments = dead_letter_arguments
        self._prefetch = prefetch
        self._timeout = timeout
        self._limit = limit
        keys = session.publisher.keys
        #: Admits the items that are signed; None where they need not be.
        self._gate = None if keys is None else Gate(keys)
        self._following = False
        #: True once callers get no more items.
        self.shut: bool = False
        #: True once the broker has accepted a consumer: ready items arrive.
        self.consuming: bool = False
        #: Prefetched items, oldest first; and callers that wait for one, or for an error.
        self._arrived: deque[Delivery] = deque()
        self._waiters: deque[Outcome[Exception | None]] = deque()
        #: Done items that are not acked yet; flags of an ack that is due, and due at once.
        self._done: deque[Delivery] = deque()
        self._ack_due = self._hurried = False
        #: The items that could not be read: equal ones are logged at growing intervals.
        self._refusals = Repeats()
        # From here on: the I/O thread's alone.
        #: Waiters that ask whether there is an item; a flag of the script that finds out.
        self._curious: list[Outcome[Exception | None]] = []
        self._counting = False
        #: The consumer's tag and its prefetch; True once a cancellation by the broker would be noticed.
        self._tag = ""
        self._room = 0
        self._watched = False
        #: The tags of its unacked items, and of those of earlier consumers, in their order.
        self._unacked: dict[int, None] = {}
        self._unacked_before: dict[int, None] = {}
        #: The number of items that the last caller asked for.
        self._wanted = 1
        #: True while prefetched items are being requeued.
        self._returning = False
        #: A flag of the next check for idle items; the number of items that arrived and were not requeued; and how many
        #: of them callers had at the last check.
        self._looking = False
        self._came = self._seen = 0
        self._closing: Outcome[None] | None = None

    @property
    def prefetched(self) -> int:
        """The number of prefetched items that no caller has."""
        return len(self._arrived)

    async def receive(self, count: int, *, wait: bool, until: float) -> Taken:
        """Return an item, which its caller then holds; the caller wants so many, one after another.

        Raises:
            Empty: The queue is empty.
            BrokerError: It is not known whether there is one.
        """
        # A caller that does not wait for an item waits for the broker.
        by = until if wait else time.monotonic() + to_answer(self._timeout)
        while True:
            self._check_open()
            delivery = self._pop() or await self._next(count, wait=wait, by=by)
            try:
                if self._gate is not None:
                    items.admit(self._gate, self._queue, delivery)
                return Taken(delivery, await self._value(delivery))
            except (CodecError, NotAuthorized) as error:
                await self._bury(delivery, error, by)

    async def _value(self, delivery: Delivery) -> Any:
        read = partial(items.value, delivery.properties, delivery.body, limit=self._limit)
        if len(delivery.body) <= LARGE:
            return read()
        try:
            return await Work(read)
        except CodecError:
            raise
        except BaseException:
            # Its caller was cancelled meanwhile: nobody has it.
            self.requeue([Taken(delivery, None)])
            raise

    def settle(self, some: list[Taken]) -> None:
        """Ack done items."""
        late = sum(self.shut or not self._settle(taken.delivery) for taken in some)
        if late:
            logger.warning(
                "queue %s: %s done after the connection that delivered them was lost, or the object was closed; "
                "the broker redelivers them",
                self._queue, plural(late, "item was", "items were"),
            )  # fmt: skip

    def requeue(self, some: list[Taken]) -> None:
        """Requeue items, for any consumer."""
        if self._connection is not None:
            self._connection.loop.leave(self._reject, [taken.delivery for taken in some])

    async def stop(self, seconds: float) -> None:
        """Stop: ack the done items, and requeue the rest."""
        self.shut = True
        self._fail(items.closed(self._queue))
        connection = self._connection
        if connection is not None and connection.alive and not self._session.elsewhere:
            ended = Outcome[None]()
            connection.loop.leave(self._stop, ended)
            if not await Wait(ended, time.monotonic() + seconds):
                logger.warning("queue %s: closed before the broker had all acks; it redelivers some", self._queue)
        self._session.ended()

    def abandon(self) -> None:
        """Stop without waiting: the object was collected."""
        if self._connection is not None:
            self._connection.post(self._stop, Outcome[None]())

    def end_all(self, error: BrokerError) -> None:
        """Wake all callers: there will be no connection any more."""
        self._fail(error)

    async def _next(self, count: int, *, wait: bool, by: float) -> Delivery:
        while True:
            waiter: Outcome[Exception | None] = Outcome()
            self._waiters.append(waiter)
            if self._arrived:
                waiter.tell(None)
            try:
                # In this order: `stop` wakes all callers that wait by then.
                self._check_open()
                if not waiter.done():
                    self._follow().loop.leave(self._want, count, None if wait else waiter)
                    await Wait(waiter, min(by, time.monotonic() + _PATIENCE))
                delivery = self._pop()
            finally:
                self._waits_no_more(waiter)
            if delivery is not None:
                return delivery
            self._check_open()
            if waiter.done() and waiter.value is not None:
                raise waiter.value
            if time.monotonic() >= by:
                if wait and self.consuming:
                    raise Empty
                raise NotConnected(
                    f"it is not known whether queue {self._queue!r} is empty: there was no connection to the broker, "
                    "or no answer yet. Wait longer, with timeout="
                )

    def _follow(self) -> Connection:
        connection = self._session.connected()
        if not self._following:
            self._session.keep(self)
            self._following = True
            if self.shut:
                # `stop` may have seen no connection.
                connection.loop.leave(self._stop, Outcome[None]())
        return connection

    def _check_open(self) -> None:
        if self.shut:
            raise items.closed(self._queue)

    def _pop(self) -> Delivery | None:
        while True:
            try:
                delivery = self._arrived.popleft()
            except IndexError:
                return None
            if delivery.channel.is_open:
                return delivery

    def _waits_no_more(self, waiter: Outcome[Exception | None]) -> None:
        try:
            self._waiters.remove(waiter)
        except ValueError:
            # It was woken: if it leaves an item, another caller gets it.
            if self._arrived and self._wake():
                self._session.ended()

    def _wake(self, error: Exception | None = None) -> bool:
        try:
            self._waiters.popleft().tell(error)
        except IndexError:
            return False
        return True

    def _fail(self, error: AmqpRpcError) -> None:
        for _ in range(len(self._waiters)):
            # Each caller raises an exception of its own.
            self._wake(type(error)(*error.args))

    def _settle(self, delivery: Delivery) -> bool:
        """Have an item acked soon; return whether that is possible."""
        connection = self._connection
        if connection is None or not delivery.channel.is_open:
            return False
        self._done.append(delivery)
        if not self._ack_due:
            self._ack_due = True
            connection.loop.leave(connection.loop.call_later, _GATHERED, self._ack)
        elif not self._hurried and 2 * len(self._done) >= self._prefetch:
            self._hurried = True
            connection.loop.leave(self._ack)
        return True

    async def _bury(self, delivery: Delivery, error: CodecError | NotAuthorized, until: float) -> None:
        """Dead-letter an unreadable item, even if its caller stops waiting; after a failure it is redelivered."""
        letter = items.dead(
            delivery.properties, delivery.body, queue=self._queue, reason=str(error), identity=self._session.identity()
        )
        signed = not isinstance(error, NotAuthorized)
        publication = _Letter(
            letter, self._dead_letter_arguments, timeout=self._timeout, like=delivery.properties, signed=signed
        )

        def ended() -> None:
            nor = "" if publication.value is None else f", nor dead-lettered: {publication.value}"
            if (times := self._refusals.again(f"{error}{nor}")) is not None:
                what = "can't be read" if signed else "is refused"
                said = f"an item {what} ({error}){nor}" if nor else f"dead-lettered an item: {error}"
                logger.warning("queue %s: %s%s", self._queue, said, times)
            if publication.value is None:
                self._settle(delivery)

        publication.on_done(ended)
        try:
            self._session.publish(publication)
        except AmqpRpcError as failure:
            publication.tell(failure)
        await Wait(publication, min(until, publication.expires_at))

    # The I/O thread's.

    def wanted(self) -> bool:
        """Return whether the channel is to be open: a caller waits for an item."""
        return bool(self._waiters)

    async def set_up(self, channel: Channel) -> None:
        """Declare the queue, unless another program does."""
        try:
            if self._arguments is None:
                await channel.inspect(self._queue)
            else:
                await ensure_queue(self.connection, self._queue, self._arguments)
        except ChannelClosed as refused:
            if refused.code == ReplyCode.NOT_FOUND:
                self._fail(items.missing(self._queue))
            elif refused.conflict:
                self._fail(items.conflict(self._queue, refused.error))
            elif refused.code == ReplyCode.PRECONDITION_FAILED:
                self._fail(refused.error)
            raise

    def ready(self) -> None:
        """Consume, if a caller waits."""
        # From now on a thread that waits for an item may read it.
        self.connection.loop.share(True)
        self._want(self._wanted)

    def closed(self, error: BrokerError, code: int) -> None:  # noqa: ARG002 - as `Keeper` has it
        """Forget all items that arrived: the broker redelivers them."""
        self._forget()
        if isinstance(error, AccessRefused):
            self._fail(error)

    def lost(self, error: BrokerError) -> None:  # noqa: ARG002 - as `Keeper` has it
        """Forget all items that arrived: the broker redelivers them."""
        self._forget()

    def _forget(self) -> None:
        self._tag = ""
        self.consuming = self._counting = self._returning = self._watched = False
        self._came = self._seen = 0
        self._arrived.clear()
        self._unacked.clear()
        self._unacked_before.clear()
        if self._closing is not None:
            self._stopped(self._closing)

    def _want(self, count: int, curious: Outcome[Exception | None] | None = None) -> None:
        """Have items delivered to a caller that found none."""
        self._wanted = count
        if curious is not None:
            self._curious.append(curious)
        if self.channel is None:
            self.open()
        elif self._waiters and not self._returning:
            # Acks make room.
            self._ack()
            # In this order: only a full consumer has no items on their way. Items on their way to a cancelled consumer
            # are requeued behind the next consumer's.
            if not self._tag or len(self._unacked) >= self._room:
                self.connection.run(self._consume(self.channel))
            elif self.consuming and not self._counting:
                self.connection.run(self._count(self.channel))

    async def _consume(self, channel: Channel) -> None:
        if self._tag:
            channel.cancel(self._tag)
        self.consuming = False
        self._room = min(max(self._prefetch, self._wanted), MOST_PREFETCH)
        self._unacked_before |= self._unacked
        self._unacked.clear()
        channel.prefetch(self._room)
        consumer = channel.consume(
            self._queue,
            self._deliver,
            acknowledge=True,
            # Once for all consumers of the channel.
            on_cancelled=None if self._watched else self.cancelled,
        )
        self._tag, self._watched = consumer.tag, True
        await consumer
        if self._tag == consumer.tag:
            self.consuming = True
            await self._count(channel)

    async def _count(self, channel: Channel) -> None:
        """Wake the callers that ask whether there is an item, when the queue is empty."""
        self._counting = True
        until = time.monotonic() + _ON_ITS_WAY
        while curious := [each for each in self._curious if not each.done()]:
            state = await channel.inspect(self._queue)
            # Items that were on their way at the first answer have arrived at the second.
            await channel.inspect(self._queue)
            if not state.messages or time.monotonic() > until:
                for waiter in curious:
                    waiter.tell(Empty())
            else:
                # A done item blocks the next one until the broker has handled its ack.
                await self.connection.pause(_BETWEEN_LOOKS)
        self._curious.clear()
        self._counting = False

    def _deliver(self, delivery: Delivery) -> None:
        self._unacked[delivery.tag] = None
        self._came += 1
        self._arrived.append(delivery)
        self._wake()
        if not self._looking:
            self._looking, self._seen = True, self._came - len(self._arrived)
            self.connection.loop.call_later(_IDLE, self._look)
        if self._waiters and len(self._unacked) >= self._room:
            # Callers hold all that it may have, or will soon.
            self._want(1)

    def _ack(self) -> None:
        """Send the receipts and the acks of all done items."""
        # In this order: an item that gets done from here on needs another ack.
        self._ack_due = self._hurried = False
        tags: list[int] = []
        receipts: dict[str, list[str]] = defaultdict(list)
        # A producer may know its own key alone.
        like: dict[str, Properties] = {}
        while self._done:
            delivery = self._done.popleft()
            if delivery.channel is not self.channel:
                continue
            tags.append(delivery.tag)
            reply_to, identity = items.receipt_to(delivery.properties), str(delivery.properties.message_id)
            if reply_to is None:
                continue
            if reply_to == self._session.reply_queue.address:
                self._receipts.done([identity])
            else:
                receipts[reply_to].append(identity)
                like[reply_to] = delivery.properties
        if self.channel is None or not tags:
            return
        # In this order, which the broker keeps on one channel: a crash in between repeats items, and hides none from
        # `join`.
        for reply_to, identities in receipts.items():
            for receipt in items.receipts(reply_to, identities):
                if self._session.publisher.keys is not None:
                    self._session.publisher.keys.sign(receipt, like=like[reply_to])
                self.channel.publish(receipt)
        self.channel.ack(tags)
        self._forget_tags(tags)

    def _reject(self, deliveries: list[Delivery]) -> None:
        for delivery in deliveries:
            if delivery.channel is self.channel:
                delivery.channel.reject(delivery.tag, requeue=True)
                self._forget_tags([delivery.tag])

    def _requeue_all(self, channel: Channel) -> None:
        """Requeue all unacked items in their order."""
        tags = [*self._unacked_before, *self._unacked]
        for first in range(0, len(tags), _IN_ORDER):
            channel.requeue(tags[first : first + _IN_ORDER])
        self._forget_tags(tags)

    def _forget_tags(self, tags: Iterable[int]) -> None:
        for tag in tags:
            if tag in self._unacked:
                del self._unacked[tag]
            else:
                self._unacked_before.pop(tag, None)

    def _look(self) -> None:
        """Requeue idle prefetched items: more of them than callers got in the last second."""
        self._looking = False
        taken = self._came - len(self._arrived)
        lately, self._seen = taken - self._seen, taken
        if self.channel is None or not self._arrived:
            return
        self._looking = True
        self.connection.loop.call_later(_IDLE, self._look)
        if len(self._arrived) > lately and not self._returning:
            self.connection.run(self._return(self.channel))

    async def _return(self, channel: Channel) -> None:
        """Requeue all prefetched items in their order, and stop consuming until a caller waits."""
        self._returning = True
        self._ack()
        # A quorum queue requeues items on their way to a cancelled consumer before those that arrived: wait for them.
        until = time.monotonic() + _ON_ITS_WAY
        while self._tag and len(self._unacked) < self._room and time.monotonic() < until:
            state = await channel.inspect(self._queue)
            await channel.inspect(self._queue)
            if not state.messages:
                break
            await self.connection.pause(_BETWEEN_LOOKS)
        self.consuming = False
        if self._tag:
            await channel.cancel(self._tag)
            self._tag = ""
        back = []
        while (delivery := self._pop()) is not None:
            back.append(delivery)
        self._came -= len(back)
        self._ack()
        if self._closing is not None or len(back) == len(self._unacked) + len(self._unacked_before):
            self._requeue_all(channel)
        else:
            # Callers hold some.
            self._reject(back)
        # Its answer proves that the queue has them.
        await channel.inspect(self._queue)
        self._returning = False
        if self._closing is not None:
            self._stopped(self._closing)
        else:
            self._want(self._wanted)

    def _stop(self, ended: Outcome[None]) -> None:
        if self._closing is not None:
            ended.tell(None)
            return
        self._closing = ended
        if self.channel is None:
            self._stopped(ended)
        elif not self._returning:
            self.connection.run(self._return(self.channel))

    def _stopped(self, ended: Outcome[None]) -> None:
        self.close()
        self._session.leave(self)
        ended.tell(None)
