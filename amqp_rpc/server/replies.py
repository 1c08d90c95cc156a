"""The server's second connection: it publishes replies and dead letters, and says which deliveries are settled by it.

It is not the one that consumes: under a memory alarm the broker stops reading from connections that publish, and
acknowledgements must still get through (https://www.rabbitmq.com/docs/alarms). A reply is handed to the kernel before
its delivery is acknowledged, a dead letter is confirmed by the broker before: a crash in between repeats, never loses.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections import Counter, deque
from collections.abc import Callable, Collection, Mapping
from typing import Any

from amqp_rpc.amqp.channel import Channel, Delivery
from amqp_rpc.amqp.connection import Connection
from amqp_rpc.amqp.declared import Declared
from amqp_rpc.amqp.frames import address
from amqp_rpc.amqp.loop import IOThread
from amqp_rpc.errors import BrokerError
from amqp_rpc.message.dead_letter import dead_letter
from amqp_rpc.message.envelope import Message, Properties, lighter
from amqp_rpc.message.settings import Addresses
from amqp_rpc.message.topology import DIRECT_REPLY_TO
from amqp_rpc.server.state import State
from amqp_rpc.server.tasks import about_to_be_dropped

logger = logging.getLogger(__name__)

#: Seconds until what the broker did not take is published again.
_PUBLISH_AGAIN = 1.0
#: How often that is done with one message.
_MOST_REFUSALS = 5
#: Seconds until a queue that could not be declared is tried again: with its node away, what is for others goes out.
_AWAY = 2.0
_NOT_FOUND, _PRECONDITION_FAILED = 404, 406


class ReplyConnection:
    """A connection that publishes replies, and acks each delivery when its reply has left.

    Args:
        addresses: Where the broker is.
        state: The server's.
        name: What the broker's tools show for the connection.
        heartbeat: Seconds.
        owner: The thread that owns the connection.
        persistent: Whether the first attempt to connect is repeated for ever, instead of being an error.
    """

    def __init__(
        self,
        addresses: Addresses,
        state: State,
        *,
        name: str,
        heartbeat: float,
        owner: IOThread,
        persistent: bool = False,
    ) -> None:
        self.connection = Connection(
            addresses, self, name=name, heartbeat=heartbeat, owner=owner, persistent=persistent
        )
        self._state = state
        self._channel: Channel | None = None
        #: Replies that wait for a connection, and those that were published but have not left this process.
        self._unsent: deque[tuple[Message, Delivery, bool]] = deque()
        self._leaving: list[tuple[Message, Delivery, bool]] = []
        self._sending: deque[list[tuple[Message, Delivery, bool]]] = deque()

    def on_open(self) -> None:
        """Open the channel; the replies that waited are published on it."""
        self.connection.open_channel(self._opened, self._closed)

    def on_unblocked(self) -> None:
        """Do nothing: this connection holds nothing back."""

    def on_lost(self, _error: BrokerError) -> None:
        """Keep what was not sent for the next connection."""
        self._channel = None
        unsent = [each for batch in (*self._sending, self._leaving) for each in batch]
        self._unsent.extendleft(reversed(unsent))
        self._sending.clear()
        self._leaving.clear()

    def _opened(self, channel: Channel) -> None:
        self._channel = channel
        channel.on_returned(self._returned)
        unsent, self._unsent = self._unsent, deque()
        for message, delivery, mandatory in unsent:
            self.publish(message, delivery, mandatory)

    def _closed(self, _channel: Channel, error: BrokerError, _code: int) -> None:
        logger.warning("%s; opening another", error)
        self._channel = None
        self.connection.loop.call_later(_PUBLISH_AGAIN, self._reopen)

    def _reopen(self) -> None:
        if self._channel is None and self.connection.is_open:
            self.connection.open_channel(self._opened, self._closed)

    def publish(self, message: Message, delivery: Delivery, mandatory: bool) -> None:
        """Publish a reply, and ack its delivery once it has left; the I/O thread's."""
        try:
            sent = self._channel is not None and self._channel.publish(message, mandatory=mandatory)
        # A reply that AMQP can't carry: it is dropped, and its delivery is acked all the same.
        except Exception:
            logger.exception("A reply to %s could not be written", message.routing_key)
            self._state.acknowledge([delivery])
            return
        if not sent:
            self._unsent.append((message, delivery, mandatory))
            return
        self._leaving.append((message, delivery, mandatory))
        if len(self._leaving) == 1:
            # All that this turn of the loop publishes leaves together, or not.
            self.connection.loop.before_sleep(self._watch)

    def _watch(self) -> None:
        if self._leaving:
            self._sending.append(self._leaving)
            self._leaving = []
            self.connection.when_sent(self._left)

    def _left(self) -> None:
        self._state.acknowledge([delivery for _, delivery, _ in self._sending.popleft()])

    def _returned(self, queue: str, _properties: Properties) -> None:
        self._state.counters["returned"] += 1
        logger.info("A reply was dropped: its caller's queue %s is gone", queue)


class Replies(ReplyConnection):
    """Publishes replies, retries, requeues and dead letters; any thread may call its public methods.

    Args:
        addresses: As for `ReplyConnection`.
        state: As for `ReplyConnection`.
        name: As for `ReplyConnection`.
        heartbeat: As for `ReplyConnection`.
        owner: As for `ReplyConnection`.
        arguments: Those of the task queues and dead-letter queues that it publishes to, by name.
        prepared: The task queues, which are declared at the start with all that their retries need.
    """

    def __init__(
        self,
        addresses: Addresses,
        state: State,
        *,
        name: str,
        heartbeat: float,
        owner: IOThread,
        arguments: Mapping[str, dict[str, Any]],
        prepared: Collection[str],
    ) -> None:
        super().__init__(addresses, state, name=f"{name} (replies)", heartbeat=heartbeat, owner=owner)
        # The broker closes the connection that replies to a malformed name of direct reply-to, which any caller may
        # send: such replies have their own connection, which is opened for the first of them.
        self._direct = ReplyConnection(
            addresses,
            state,
            name=f"{name} (direct replies)",
            heartbeat=heartbeat,
            owner=owner,
            persistent=True,
        )
        self._direct_started = False
        self._arguments = arguments
        self._prepared = prepared
        #: Those that no attempt to declare has ended for.
        self._unprepared = set(prepared)
        self._confirming: Channel | None = None
        #: What is there on the channel with confirms; and queues with other arguments than ours, left as they are.
        self._declared: Declared | None = None
        self._found: set[str] = set()
        #: What must not be lost and the broker has not confirmed, by identity of its delivery.
        self._kept: dict[int, tuple[Message, Delivery]] = {}
        #: How often the broker did not take each of them.
        self._refusals: Counter[int] = Counter()
        self._confirm_opening = False
        #: Those of the kept ones that wait for their confirm, and whether each may have found no queue.
        self._unconfirmed: dict[int, bool] = {}

    def reply(self, message: Message, delivery: Delivery, *, mandatory: bool = True) -> None:
        """Publish a reply, and ack the delivery that it answers.

        Args:
            message: The reply.
            delivery: The request's.
            mandatory: Whether the broker returns it when the caller is gone.
        """
        direct = message.routing_key.startswith(DIRECT_REPLY_TO)
        self.connection.do(self._publish_directly if direct else self.publish, message, delivery, mandatory)

    def tell(self, message: Message) -> None:
        """Publish what may be lost."""
        self.connection.post(self._tell, message)

    def dead_letter(
        self, queue: str, delivery: Delivery, reason: str, details: Mapping[str, Any] | None = None
    ) -> None:
        """Copy a delivery to the dead-letter queue of its queue, with the reason and more, and ack it."""
        letter = dead_letter(
            delivery.properties, delivery.body, queue=queue, reason=reason, now=time.time(), details=details or {}
        )
        self.keep(letter, delivery)

    def close(self, timeout: float) -> None:
        """Close its connections; any thread but the I/O thread.

        Args:
            timeout: Seconds to wait for each good-bye of the broker.
        """
        self.connection.close(timeout)
        if self._direct_started:
            self._direct.connection.close(timeout)

    def keep(self, message: Message, delivery: Delivery) -> None:
        """Publish a message that must not be lost, and settle the delivery once the broker has confirmed it.

        Where the delivery's channel is closed by then, nothing is published: the broker gives it to another server.
        """
        self.connection.post(self._keep, message, delivery)

    def on_lost(self, error: BrokerError) -> None:
        """Keep what was not sent for the next connection."""
        super().on_lost(error)
        if self._declared is not None:
            self._declared.lose()
        self._confirming = self._declared = None
        self._confirm_opening = False
        self._unconfirmed.clear()
        if not self.connection.was_open:
            self._state.failed(error)

    def _opened(self, channel: Channel) -> None:
        super()._opened(channel)
        if self._kept or self._prepared:
            self._open_confirming()
        self._check_ready()

    def _check_ready(self, queue: str = "") -> None:
        self._unprepared.discard(queue)
        if not self._unprepared:
            self._state.ready("replies")

    def _publish_directly(self, message: Message, delivery: Delivery, mandatory: bool) -> None:
        if not self._direct_started:
            self._direct_started = True
            self._direct.connection.start()
        self._direct.publish(message, delivery, mandatory)

    def _tell(self, message: Message) -> None:
        if self._channel is not None:
            try:
                self._channel.publish(message)
            # One that AMQP can't carry.
            except Exception:
                logger.exception("A message to %s could not be written", message.routing_key)

    def _keep(self, message: Message, delivery: Delivery) -> None:
        self._kept[id(delivery)] = (message, delivery)
        if self._confirming is not None:
            self._keep_now(id(delivery))
        elif self._channel is not None and len(self._kept) == 1:
            self._open_confirming()

    def _open_confirming(self) -> None:
        if self._confirming is not None or self._confirm_opening:
            return
        self._confirm_opening = True

        def opened(channel: Channel) -> None:
            channel.on_returned(self._not_routed)
            channel.confirms(lambda: self._confirms(channel))

        self.connection.open_channel(opened, self._confirming_closed)

    def _confirms(self, channel: Channel) -> None:
        self._confirming, self._confirm_opening = channel, False
        if self._declared is None:
            self._declared = Declared(self.connection, self._not_declared)
            for queue in self._prepared:
                self._prepare(queue)
        for key in list(self._kept):
            self._keep_now(key)

    def _confirming_closed(self, _channel: Channel, error: BrokerError, code: int) -> None:
        logger.error("Dead letters and what goes back are not taken: %s; trying again in %.0f s", error, _PUBLISH_AGAIN)
        if code == _NOT_FOUND and self._declared is not None:
            # An exchange: a level of delay that somebody has deleted.
            self._declared.distrust()
        self._confirming, self._confirm_opening = None, False
        self._unconfirmed.clear()
        for key in list(self._kept):
            self._refused(key, str(error))
        self.connection.loop.call_later(_PUBLISH_AGAIN, self._confirm_again)

    def _confirm_again(self) -> None:
        if self._channel is not None and (self._kept or self._prepared):
            self._open_confirming()

    def _not_declared(self, queue: str, what: str, error: BrokerError, code: int) -> None:
        """Something that a queue's messages need could not be declared."""
        if code == _PRECONDITION_FAILED and what not in self._found:
            # Somebody declared it with arguments of their own, a bound perhaps: it is there, and that is enough.
            self._found.add(what)
            # A queue of tasks is declared by its consumer as well, which then ends the start, and says why.
            if what not in self._prepared:
                logger.warning("Queue %s is used as it was declared by somebody else: %s", what, error)
            self._keep_again(queue)
            return
        logger.error("Messages for %s are not taken: %s; trying again in %.0f s", queue, error, _AWAY)
        self._check_ready(queue)
        for key, (message, _) in list(self._kept.items()):
            if message.routing_key == queue:
                self._refused(key, str(error))
        self.connection.loop.call_later(_AWAY, lambda: self._keep_again(queue))

    def _keep_again(self, queue: str) -> None:
        if queue in self._prepared:
            self._prepare(queue)
        for key, (message, _) in list(self._kept.items()):
            if message.routing_key == queue:
                self._keep_now(key)

    def _prepare(self, queue: str) -> None:
        if self._declared is not None:
            self._declare(Message(queue, Properties(), b"", delay=1), lambda: self._check_ready(queue))

    def _refused(self, key: int, reason: str) -> None:
        """Count that the broker did not take a message; in the end let a call go: it must not stop what comes after.

        A task is never let go: it was accepted. Its delivery stays with this worker, and takes a place of the prefetch,
        until the broker takes what becomes of it.
        """
        self._refusals[key] += 1
        if self._refusals[key] < _MOST_REFUSALS:
            return
        message, _ = self._kept[key]
        if message.routing_key not in self._arguments:
            logger.error("A message for %s is lost, since the broker does not take it: %s", message.routing_key, reason)
            self._let_go(key)
        elif self._refusals[key] == _MOST_REFUSALS:
            logger.error(
                "A task for %s is kept here, since the broker does not take it: %s", message.routing_key, reason
            )

    def _let_go(self, key: int) -> None:
        kept = self._kept.pop(key, None)
        self._unconfirmed.pop(key, None)
        self._refusals.pop(key, None)
        if kept is not None:
            self._state.acknowledge([kept[1]])

    def _keep_now(self, key: int) -> None:
        channel, kept = self._confirming, self._kept.get(key)
        if channel is None or kept is None or key in self._unconfirmed:
            return
        message, _ = kept

        def declared() -> None:
            if self._kept.get(key) is not kept or key in self._unconfirmed:
                return
            if _is_another_s(kept[1]):
                self._let_go(key)
                return
            self._unconfirmed[key] = False
            self._write(key, channel, message, confirmed)

        def confirmed(taken: bool) -> None:
            # It may have been let go, and another delivery have its place by now.
            if self._kept.get(key) is not kept:
                return
            self._confirmed(key, message, taken)

        if self._declared is not None and self._declared.has(message):
            declared()
        else:
            self._declare(message, declared)

    def _confirmed(self, key: int, message: Message, taken: bool) -> None:
        unrouted = self._unconfirmed.pop(key, False)
        if taken and not unrouted:
            self._let_go(key)
            return
        if unrouted and self._declared is not None:
            # The broker confirms what no queue took as well: it was deleted, or is on a node that is away.
            self._declared.forget(message)
        self._refused(key, "its queue is not there" if unrouted else "it refuses more, by a bound of the queue perhaps")
        self.connection.loop.call_later(_PUBLISH_AGAIN, lambda: self._keep_now(key))

    def _not_routed(self, routing_key: str, _properties: Properties) -> None:
        """No queue took one of those with a routing key; which, is not known of messages without an id: all of them."""
        for key in self._unconfirmed:
            self._unconfirmed[key] |= address(self._kept[key][0])[1] == routing_key

    def _write(self, key: int, channel: Channel, message: Message, confirmed: Callable[[bool], object]) -> None:
        """Publish a message, with fewer headers where AMQP can't carry them: rather that than not at all."""
        try:
            channel.publish_confirmed(message, confirmed, mandatory=True)
        except Exception as error:
            for lighter_one in lighter(message):
                with contextlib.suppress(Exception):
                    channel.publish_confirmed(lighter_one, confirmed, mandatory=True)
                    logger.warning("A message for %s goes without some of its headers: %s", message.routing_key, error)
                    return
            self._unwritable(key, error)

    def _unwritable(self, key: int, error: Exception) -> None:
        """Let a call go that can't be written; a task was accepted: its delivery is neither settled nor tried again."""
        message, delivery = self._kept[key]
        if message.routing_key not in self._arguments:
            logger.error("A message for %s is lost, since it could not be written", message.routing_key, exc_info=error)
            self._let_go(key)
        else:
            logger.error(
                "What becomes of task [%s] could not be written for %s: it stays unacknowledged until this worker "
                "ends, and takes a place of the prefetch", delivery.properties.message_id, message.routing_key,
                exc_info=error,
            )  # fmt: skip
            del self._kept[key]
            self._unconfirmed.pop(key, None)

    def _declare(self, message: Message, then: Callable[[], object]) -> None:
        assert self._declared is not None
        arguments = None if message.routing_key in self._found else self._arguments.get(message.routing_key) or {}
        self._declared.declare(message, arguments, then)


def _is_another_s(delivery: Delivery) -> bool:
    """Return whether the broker has given a delivery to another server: a message for it would be there beside it.

    What remains: a loss that this process has not heard of yet, or that comes before the acknowledgement. Then the
    message and its original are both there, as after a crash in between.
    """
    # What nobody could get rid of for so long is rather there twice than never.
    return not (delivery.channel.is_open or about_to_be_dropped(delivery.properties))
