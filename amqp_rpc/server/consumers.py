"""The consumers of a server, one for each queue: each declares its queue, consumes it, and ends; the I/O thread's.

A queue of events has an exchange and bindings, too. The queue of a shared subscription is durable and keeps its
bindings: those that are not in the code any more are undone when a server starts. AMQP can't list a queue's bindings,
so they are kept in a record. The queue of a broadcast subscription is the instance's alone, and gone with its
connection.

It is a seam: below it there are queues and channels, above it deliveries that run.
"""

from __future__ import annotations

import json
import logging
import random
import secrets
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar

from amqp_rpc.amqp import declare
from amqp_rpc.amqp.channel import Channel, ChannelClosed, Delivery, QueueState
from amqp_rpc.amqp.connection import Connection
from amqp_rpc.amqp.keeper import Keeper
from amqp_rpc.errors import AccessRefused, AmqpRpcError, BrokerError, ConfigurationError, DeclaredOtherwise
from amqp_rpc.message import topology
from amqp_rpc.message.codec import JSON
from amqp_rpc.message.envelope import Message, Properties, republished
from amqp_rpc.message.exchanges import Binding, Exchange, other_exchange, recorded
from amqp_rpc.message.headers import CRASHES
from amqp_rpc.message.refusals import ReplyCode, consumer_timeout
from amqp_rpc.message.text import bounded_logger, plural
from amqp_rpc.message.timing import LONGEST, Repeats, backoff
from amqp_rpc.server import redelivered_check
from amqp_rpc.server.calls import CallDispatcher
from amqp_rpc.server.replies import Arrival, Replies
from amqp_rpc.server.state import State
from amqp_rpc.server.tasks import EventDispatcher, TaskDispatcher
from amqp_rpc.server.worker import Worker

logger: logging.Logger = bounded_logger(__name__)

#: Seconds until a queue is consumed again; and at most, if another program declared it with other arguments.
_PAUSE, _LONGEST_PAUSE = 0.5, 15.0
#: How often an empty record is read again, since another server may be changing it, and the seconds between.
_LOOKS, _LOOK_AGAIN = 5, (0.01, 0.05)
#: The looks at a queue until it is consumed unchecked, and the seconds until the next one, from and to; they grow with
#: each look, to about two seconds in all.
_MOST_LOOKS, _LOOK_AT_CALLS_AGAIN, _LONGEST_LOOK = 10, (0.01, 0.05), 16
#: Seconds after which RabbitMQ takes back an unacked delivery, by default; the first version in which a consumer can
#: set that; and the most seconds from a time limit until its task is settled.
_CONSUMER_TIMEOUT, _HAS_ARGUMENT, _SETTLED_IN = 1800.0, (4, 3), 60.0
#: Bytes of a record of bindings: one of a thousand has about 100 000.
_LARGEST_RECORD = 1024 * 1024
#: Unacked arrivals at most; and the seconds between two looks whether the last confirms have come.
_MOST_ARRIVING, _LAST_CONFIRM = 100, 0.01
#: Seconds, at random, between two arrivals that are suspected of killing workers.
_BETWEEN_SUSPECTS = (0.2, 0.6)

Bindings = frozenset[Binding]


class Consumer(Keeper):
    """Declares a queue and consumes it, on a channel of its own: an error of one queue leaves the others."""

    #: True where deliveries come with their exchange and routing key; and where they are run here.
    addressed: ClassVar[bool] = False
    runs: ClassVar[bool] = True
    #: What its queue is declared by, and the options: for advice. None where users declare no such queue.
    declared_by: ClassVar[tuple[str, str] | None] = None

    def __init__(
        self, state: State, worker: Worker, dispatcher: CallDispatcher | TaskDispatcher, *, prefetch: int
    ) -> None:
        super().__init__(f"queue {dispatcher.queue}")
        self.queue: str = dispatcher.queue
        #: The consumed queue: a broadcast subscription has another one for each connection.
        self.consumed: str = self.queue
        self._state = state
        self._worker = worker
        self._dispatcher = dispatcher
        #: Called with each delivery.
        self.deliver: Callable[[Delivery], object] = partial(worker.deliver, dispatcher)
        self._prefetch = prefetch
        self._tag = ""
        #: The channel that consumes, or the last one.
        self._consumes_on: Channel | None = None
        #: True once the log has warned of a time limit.
        self._warned = False
        #: The last reply code of the broker that refuses the queue, and how often in a row; None while it is consumed.
        self._refused_with: tuple[int, int] | None = (0, 0)
        #: An error that says more than the broker's, which follows.
        self._explanation: AmqpRpcError | None = None
        self._ending = False

    async def declare(self, channel: Channel) -> None:
        """Declare the queue; a channel script."""
        raise NotImplementedError

    async def declared(self, channel: Channel) -> QueueState:
        """Declare the queue, unless another program does; return its state."""
        if self._dispatcher.arguments is not None:
            return await channel.declare(self.queue, arguments=self._dispatcher.arguments)
        try:
            return await channel.inspect(self.queue)
        except ChannelClosed as closed:
            if closed.code == ReplyCode.NOT_FOUND:
                self._explanation = ConfigurationError(
                    f"there is no queue {self.queue!r}, and declare='passive' leaves it to another program to declare "
                    "it: start that one first"
                )
            raise

    def end(self) -> None:
        """Stop consuming; deliveries stay unacked until they are settled."""
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
            self._consumes_on = channel
            self._tag = await channel.consume(
                self.consumed,
                self.deliver,
                acknowledge=True,
                on_cancelled=self.cancelled,
                addressed=self.addressed,
                arguments=self._longer_timeout(),
            )

    def ready(self) -> None:
        """Report that the queue is consumed; or close the channel, if the server stops meanwhile."""
        self._refused_with = None
        if not self._ending:
            self._state.counters["consumed"] += self.runs
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
        if (why := consumer_timeout(str(error))) is not None:
            self._explanation = BrokerError(why)
        self._state.refused(self.queue, self._explanation or error, code, times, self.declared_by)
        self._explanation = None

    def pause(self, code: int) -> float:
        """Return the seconds until the queue is consumed again."""
        if code == ReplyCode.PRECONDITION_FAILED and self._refused_with is not None:
            # A person has to mend that; other refusals end when a node is back.
            return backoff(self._refused_with[1] + 1, first=_PAUSE, most=_LONGEST_PAUSE)
        return _PAUSE

    def wanted(self) -> bool:
        """Return whether the server goes on consuming."""
        return not self._ending

    def closed(self, error: BrokerError, code: int) -> None:
        """Report the end, if the server stops."""
        self._tag = ""
        # From RabbitMQ 4.3 on it cancels the consumer (0), and does not say why.
        if self._consumes_on is not None and (code == 0 or consumer_timeout(str(error)) is not None):
            self._worker.timed_out(self._dispatcher.queue, self._consumes_on)
        if self._ending:
            self._over()

    def lost(self, error: BrokerError) -> None:
        """Report the end, if the server stops; fail its start, if there never was a connection."""
        self._tag = ""
        # After the start it does nothing: the connection comes back.
        if not self.connection.was_open or isinstance(error, AccessRefused):
            self._state.failed(error)
        if self._ending:
            self._over()

    def _longer_timeout(self) -> dict[str, Any] | None:
        """Return the consumer's argument by which the broker waits as long as time limits allow; warn where it won't.

        AMQP can't ask for the broker's consumer_timeout. RabbitMQ 4.3 has the argument, for quorum queues; its classic
        queues have no such timeout, and refuse it.
        """
        if not isinstance(self._dispatcher, TaskDispatcher) or not self.runs:
            return None
        limits = self._dispatcher.time_limits
        longest = max((limit for limit in limits.values() if limit is not None), default=0.0)
        if not longest:
            return None
        knows = self.connection.version >= _HAS_ARGUMENT
        kind = None if self._dispatcher.arguments is None else self._dispatcher.arguments.get("x-queue-type")
        if knows and (kind == "classic" or self.consumed != self.queue):
            return None
        if knows and kind == "quorum" and None not in limits.values():
            # All that is prefetched may wait here for one thread.
            needed = longest * (self._prefetch + 1) + _SETTLED_IN
            return {"x-consumer-timeout": int(1000 * min(LONGEST, max(_CONSUMER_TIMEOUT, needed)))}
        if longest >= _CONSUMER_TIMEOUT and not self._warned:
            self._warned = True
            logger.warning(
                "queue %s: %s() has a time limit of %g s, and RabbitMQ takes back a task that is unacked for longer "
                "than its consumer_timeout, 30 minutes by default: raise that in rabbitmq.conf%s",
                self.queue, max(limits, key=lambda name: limits[name] or 0.0), longest,
                ", or give each task of the queue a time limit" if knows and kind == "quorum" else "",
            )  # fmt: skip
        return None

    async def _cancel(self, channel: Channel) -> None:
        await channel.cancel(self._tag)
        self._over()

    def _over(self) -> None:
        self._state.stop_delivering(self.queue)


class CallConsumer(Consumer):
    """Consumes a queue of calls."""

    declared_by: ClassVar[tuple[str, str]] = "Service", "queue_type= and max_length="
    _dispatcher: CallDispatcher

    async def declare(self, channel: Channel) -> None:
        """Declare the queue, and check it if it is not in use: its node may have been restarted."""
        arguments = self._dispatcher.arguments
        if arguments is not None and "x-max-length" in arguments:
            # In this order: a caller that finds the queue served finds this as well.
            await declare.ensure_exchange(self.connection, Exchange(topology.bounded(self.queue)))
        if arguments is None or arguments.get("x-queue-type") == "quorum":
            # A queue of another program is not deleted, and a quorum queue counts how often it returned a message.
            await self.declared(channel)
            return
        for look in range(_MOST_LOOKS):
            found = await self.declared(channel)
            if found.consumers or self._ending:
                return
            # With messages in it the queue can't be checked. Another server's probe is gone in a moment.
            if not found.messages and await redelivered_check.flags_redelivered(
                self.connection, self._dispatcher, self._worker
            ):
                return
            # At random, and for longer each time: servers that start together disturb each other's checks. On a busy
            # machine a check takes longer than the first pauses.
            pause = random.uniform(*_LOOK_AT_CALLS_AGAIN) * min(2 ** (look // 2), _LONGEST_LOOK)  # noqa: S311 - no secret
            await self.connection.pause(pause)
        if not (await self.declared(channel)).consumers:
            logger.warning(
                "queue %s: not checked for its `redelivered` flag, since it had messages in %d looks; consumed "
                "unchecked", self.queue, _MOST_LOOKS,
            )  # fmt: skip


class TaskConsumer(Consumer):
    """Consumes a queue of tasks. It needs no check: a redelivered task runs again anyway."""

    declared_by: ClassVar[tuple[str, str]] = "@service.task", "queue_type=, max_length= and max_priority="
    _dispatcher: TaskDispatcher

    async def declare(self, channel: Channel) -> None:
        """Declare the queue."""
        await self.declared(channel)


class ArrivalsConsumer(Consumer):
    """Moves the delayed tasks and retries whose time has come into their queue: it consumes the arrivals queue.

    RabbitMQ would do it, too. But what it can't hand on at that moment, it offers again after three minutes:
    docs/decisions/0007-tasks.md.

    Tasks that workers died with come one at a time. They pile up here while every worker is dead; moved together, they
    would meet the one that kills again, and be counted with it.
    """

    runs: ClassVar[bool] = False

    def __init__(self, state: State, worker: Worker, dispatcher: TaskDispatcher, replies: Replies) -> None:
        super().__init__(state, worker, dispatcher, prefetch=_MOST_ARRIVING)
        self.home: str = dispatcher.queue
        self.queue: str = topology.arrivals_queue(self.home)
        self.consumed: str = self.queue
        self.name: str = f"queue {self.queue}"
        self.deliver: Callable[[Delivery], object] = self._move
        self._replies = replies
        #: The arrivals whose acks have not left, by their ids.
        self._moving: dict[str | None, Arrival] = {}
        #: Those suspected of killing workers that wait here, and True during the pause after one of them.
        self._suspects: deque[Delivery] = deque()
        self._pausing = False

    async def declare(self, channel: Channel) -> None:
        """Declare the queue, and the exchange from which it gets its messages."""
        await declare.declare_arrivals(channel)
        await declare.declare_arrivals_at(channel, self.home)
        self._replies.look()

    def lost(self, error: BrokerError) -> None:
        """Forget what was under way: the broker requeues it."""
        while self._moving:
            self._release(next(iter(self._moving)))
        super().lost(error)

    def _move(self, delivery: Delivery) -> None:
        if CRASHES in (delivery.properties.headers or {}):
            if self._pausing:
                self._suspects.append(delivery)
                return
            self._pausing = True
            self.connection.loop.call_later(random.uniform(*_BETWEEN_SUSPECTS), self._next_suspect)  # noqa: S311 - no secret
        message = Message(self.home, republished(delivery.properties), delivery.body)
        identity = delivery.properties.message_id
        arrival = self._moving[identity] = self._replies.move(message, delivery)
        # Run before the arrival is acked, a task that kills this server would be in both queues.
        self._worker.arriving.setdefault((self.home, identity), [])
        arrival.on_done(partial(self.connection.post, partial(self._moved, identity, arrival)))

    def _next_suspect(self) -> None:
        self._pausing = False
        while self._suspects and not self._pausing:
            delivery = self._suspects.popleft()
            # The broker has requeued those of a closed channel.
            if delivery.channel.is_open:
                self._move(delivery)

    def _moved(self, identity: str | None, arrival: Arrival) -> None:
        """Wait until the ack, which is written, has left."""
        acked = partial(self._acked, identity, arrival)
        if self.connection.is_open:
            self.connection.when_sent(acked)
        else:
            acked()

    def _acked(self, identity: str | None, arrival: Arrival) -> None:
        # Another one with the same id may be under way.
        if self._moving.get(identity) is arrival:
            self._release(identity)

    def _release(self, identity: str | None) -> None:
        del self._moving[identity]
        for delivery in self._worker.arriving.pop((self.home, identity)):
            self._worker.accept(self._dispatcher, delivery)

    async def _cancel(self, channel: Channel) -> None:
        await channel.cancel(self._tag)
        # Those that were published are acked first: the broker has them twice. Other servers get the others.
        while any(arrival.written and not arrival.done() for arrival in self._moving.values()):
            await self.connection.pause(_LAST_CONFIRM)
        self.close()
        self._over()


class EventConsumer(Consumer):
    """Declares the exchange, the queue and the bindings of a subscription, and consumes the queue."""

    addressed: ClassVar[bool] = True
    declared_by: ClassVar[tuple[str, str]] = "@service.subscribe", "queue_type= and max_length="
    _dispatcher: EventDispatcher

    def __init__(self, state: State, worker: Worker, dispatcher: EventDispatcher, *, prefetch: int) -> None:
        super().__init__(state, worker, dispatcher, prefetch=prefetch)
        function = dispatcher.function
        assert function.subscription is not None
        assert function.task is not None
        self._subscription = function.subscription
        self._policy = function.task
        self.deliver: Callable[[Delivery], object] = partial(worker.deliver_event, dispatcher)
        #: True once the bindings were compared with the code.
        self._compared = False
        self._rename()

    async def declare(self, channel: Channel) -> None:
        """Declare and bind everything."""
        try:
            await declare.ensure_exchange(self.connection, self._subscription.exchange)
        except ChannelClosed as closed:
            if closed.conflict:
                self._explanation = DeclaredOtherwise(other_exchange(str(self._subscription.exchange), closed.error))
            raise
        if self._subscription.mode == "broadcast":
            await self._declare_instance(channel)
        else:
            await self._declare_shared(channel)

    def lost(self, error: BrokerError) -> None:
        """Choose a new name for an instance's queue, which is gone with the connection."""
        super().lost(error)
        self._rename()

    def _rename(self) -> None:
        if self._subscription.mode == "broadcast":
            # The old name won't do: the broker may hold the lost connection, and its queue, for a while.
            self.consumed: str = topology.instance_queue(self.queue, secrets.token_hex(8))
            self._dispatcher.home = self.consumed

    async def _declare_shared(self, channel: Channel) -> None:
        await self.declared(channel)
        wanted: Bindings = frozenset(self._subscription.bindings)
        # In this order: a binding that exists, or may exist, is always in the record.
        known = await change_record(self.connection, self.queue, self._state.repeats, add=wanted)
        await self._bind(channel)
        # Once per start: with servers of two versions, one that reconnects would undo the other's bindings.
        stale: Bindings = frozenset() if known is None or self._compared else known - wanted
        if stale:
            undone = await self._unbind(stale)
            await change_record(self.connection, self.queue, self._state.repeats, remove=undone)
        if known is None or wanted - known:
            # Events that are published once this server is ready must not be lost with the broker's last second.
            await self.connection.pause(declare.LASTING_AFTER)
        self._compared = True

    async def _unbind(self, stale: Bindings) -> Bindings:
        """Undo bindings, and return those that are undone: the broker may refuse some, and closes their channel."""
        undone, refused = set(stale), []
        channel: Channel | None = None
        for binding in sorted(stale, key=str):
            if channel is None or not channel.is_open:
                channel = await self.connection.open_channel()
            try:
                await channel.unbind(self.queue, binding.exchange, binding.key, arguments=dict(binding.arguments))
            except ChannelClosed as closed:
                # With its exchange the binding is gone.
                if closed.code != ReplyCode.NOT_FOUND:
                    undone.remove(binding)
                    refused.append(f"{binding.key!r} of exchange {binding.exchange!r}: {closed}")
            else:
                logger.info("queue %s: unbound from %s by %r", self.queue, binding.exchange, binding.key)
        if channel is not None:
            channel.close()
        if refused:
            some = plural(len(refused), "binding", "bindings")
            _warn(self._state.repeats, self.queue, "%s of its record can't be undone, such as %s", some, refused[0])
        return frozenset(undone)

    async def _declare_instance(self, channel: Channel) -> None:
        bound = self._policy.max_length
        arguments = None if bound is None else {"x-max-length": bound, "x-overflow": "drop-head"}
        await channel.declare(self.consumed, exclusive=True, arguments=arguments)
        await self._bind(channel)
        # A retry comes back through a delay queue. If this instance is gone by then, the retry ends in a queue that
        # drops it: a delay queue would keep an unroutable message for ever.
        await declare.declare_arrivals(channel)
        await channel.declare(topology.GONE, arguments=topology.GONE_ARGUMENTS)
        await channel.bind(topology.GONE, topology.ARRIVALS, topology.arrived_binding(topology.INSTANCES))
        await channel.bind(self.consumed, topology.ARRIVALS, topology.arrived_binding(self.consumed))

    async def _bind(self, channel: Channel) -> None:
        for binding in self._subscription.bindings:
            await channel.bind(self.consumed, binding.exchange, binding.key, arguments=dict(binding.arguments))


async def change_record(
    connection: Connection,
    queue: str,
    repeats: Repeats,
    *,
    add: Bindings = frozenset(),
    remove: Bindings = frozenset(),
) -> Bindings | None:
    """Change the record of a queue's bindings, and return the bindings before; None without a record, or if that fails.

    The record is the one message of a queue of its own. While a server has it unacked, others wait for a moment: the
    message is a lock as well (docs/decisions/0011-bindings-record.md).
    """
    channel = await connection.open_channel()
    try:
        return await _change(connection, channel, queue, repeats, add, remove)
    except ChannelClosed as closed:
        # The node of the record may be away.
        _warn(repeats, queue, "bindings that are not in the code any more stay: %s", closed)
        return None
    finally:
        # It requeues a record that is not acked.
        channel.close()


async def _change(
    connection: Connection, channel: Channel, queue: str, repeats: Repeats, add: Bindings, remove: Bindings
) -> Bindings | None:
    record = topology.bindings_record(queue)
    await channel.confirms()
    await channel.declare(record, arguments=topology.RECORD_ARGUMENTS)
    # More than one message if a server was killed between its publish and its ack.
    taken: list[Delivery] = []
    looks = _LOOKS
    while True:
        if (delivery := await channel.get(record)) is not None:
            taken.append(delivery)
        elif taken or not looks:
            break
        else:
            looks -= 1
            await connection.pause(random.uniform(*_LOOK_AGAIN))  # noqa: S311 - no secret
    read = [found for delivery in taken if (found := _read(delivery.body)) is not None]
    known: Bindings | None = frozenset().union(*(bindings for bindings, _ in read)) if read else None
    new = ((known or frozenset()) | add) - remove
    if dropped := sum(count for _, count in read):
        _warn(repeats, queue, "%d entries of the record of its bindings can't be ours; dropped", dropped)
    elif new == known and len(taken) == 1:
        return known
    # In this order: the new record is confirmed before the old one is acked.
    if not await channel.confirmed(Message(record, Properties(content_type=JSON, delivery_mode=2), _written(new))):
        _warn(repeats, queue, "the broker refuses the record of its bindings")
        return None
    channel.ack([delivery.tag for delivery in taken])
    return known


def _warn(repeats: Repeats, queue: str, text: str, *values: object) -> None:
    """Warn of a record, which any program may write."""
    if (times := repeats.again(f"{queue}: {text}")) is not None:
        logger.warning(f"queue %s: {text}%s", queue, *values, times)  # noqa: G004 - one of a few texts


def _written(bindings: Bindings) -> bytes:
    each = [{"exchange": b.exchange, "key": b.key, "arguments": dict(b.arguments)} for b in sorted(bindings, key=str)]
    return json.dumps(each, ensure_ascii=False).encode()


def _read(body: bytes) -> tuple[Bindings, int] | None:
    """Return the bindings in a record, and how many of its entries can't be any; None where it is no record at all."""
    if len(body) > _LARGEST_RECORD:
        return None
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        return None
    if not isinstance(found, list):
        return None
    bindings: set[Binding] = set()
    dropped = 0
    for each in found:
        try:
            bindings.add(recorded(each["exchange"], each["key"], each["arguments"]))
        except (ConfigurationError, TypeError, KeyError):
            dropped += 1
    return frozenset(bindings), dropped
