"""What a `Queue` takes: waited for, read, and held for the thread that took it until it is done."""

from __future__ import annotations

import contextlib
import logging
import operator
import threading
import time
from collections import OrderedDict
from queue import Empty
from typing import TYPE_CHECKING, Any

from amqp_rpc.amqp.channel import Delivery
from amqp_rpc.amqp.pending import Outcome
from amqp_rpc.amqp.publisher import Publication
from amqp_rpc.client.verdicts import closed
from amqp_rpc.errors import AmqpRpcError, BrokerError, CodecError, ConfigurationError, ConnectionLost, NotConnected
from amqp_rpc.message.text import plural
from amqp_rpc.message.topology import dead_letter_arguments
from amqp_rpc.queues import items
from amqp_rpc.queues.put import to_answer
from amqp_rpc.queues.taking import Taking

if TYPE_CHECKING:
    from amqp_rpc.amqp.connection import Connection
    from amqp_rpc.client.rpc import Caller
    from amqp_rpc.queues.receipts import Receipts

logger = logging.getLogger(__name__)

#: Seconds that a thread waits at most before it looks whether its connection is still one.
_LOOK = 5.0
#: Seconds to wait for an item that the broker says is there, and between two looks.
_ON_ITS_WAY, _BETWEEN_LOOKS = 1.0, 0.05

#: Seconds to wait until what a closed object had is back in its queue, and between two questions whether it is.
_GIVEN_BACK, _BETWEEN_ASKS = 1.0, 0.002


class Taken:
    """An item that was taken and is not done."""

    __slots__ = ("delivery", "mine", "value")

    def __init__(self, delivery: Delivery, value: Any) -> None:
        self.delivery = delivery
        self.value = value
        #: Those of the thread that took it.
        self.mine: OrderedDict[Taken, None] | None = None


class Getting:
    """Takes values from a queue; any thread may.

    Args:
        caller: The client's.
        receipts: The client's.
        queue: Its name.
        arguments: Those with which it is declared.
        timeout: Seconds for the broker's answer.
        limit: Bytes of an item at most.
    """

    def __init__(
        self,
        caller: Caller,
        receipts: Receipts,
        queue: str,
        arguments: dict[str, Any],
        *,
        timeout: float,
        limit: int,
    ) -> None:
        self._caller = caller
        self._queue = queue
        self._arguments = arguments
        self._timeout = timeout
        self._limit = limit
        self.taking = Taking(queue, arguments, caller.conversations, receipts.told_here)
        self._connection: Connection | None = None
        self._local = threading.local()
        #: All that is taken one by one and not done, by any thread.
        self._taken: dict[Taken, None] = {}
        #: Makes one step of finding one of them and removing it. A user's ``==`` runs in it, and may call again.
        self._lock = threading.RLock()
        self.closed = False

    @property
    def ahead(self) -> int:
        """How many items have come, and were not taken."""
        return len(self.taking.arrivals)

    def get(self, *, wait: bool, until: float) -> Any:
        """Take an item for the calling thread, until it says `done`; return its value.

        Raises:
            Empty: There is none.
            BrokerError: It is not known whether there is one.
        """
        taken = self.take(1, wait=wait, until=until)
        try:
            mine: OrderedDict[Taken, None] = self._local.mine
        except AttributeError:
            mine = self._local.mine = OrderedDict()
        taken.mine = mine
        mine[taken] = self._taken[taken] = None
        return taken.value

    def done(self, *item: Any) -> None:
        """Acknowledge what the calling thread has taken, or the item that is given.

        Raises:
            ValueError: There is no such item.
        """
        with self._lock:
            taken = self._find(*item)
            self._taken.pop(taken, None)
            if taken.mine is not None:
                taken.mine.pop(taken, None)
        self.settle([taken])

    def settle(self, some: list[Taken]) -> None:
        """Acknowledge items."""
        late = sum(self.closed or not self.taking.done(taken.delivery) for taken in some)
        if late:
            logger.warning(
                "Of queue %s %s done after the connection by which they came was lost, or this object was closed: "
                "they are taken, and done, again",
                self._queue, plural(late, "item was", "items were"),
            )  # fmt: skip

    def give_back(self, some: list[Taken]) -> None:
        """Put items back, for any taker."""
        for taken in some:
            self.taking.give_back(taken.delivery)

    def close(self, seconds: float) -> None:
        """Take no more; have what is done acknowledged, and the rest given back."""
        self.closed = True
        self.taking.end(ConnectionLost(closed(self._queue)))
        connection = self._connection
        if connection is not None and connection.alive and not self._caller.elsewhere:
            ended = Outcome[int]()
            connection.loop.leave(self.taking.close, ended)
            self._caller.wait(ended, time.monotonic() + seconds)
            if ended.done():
                self._wait_for_less(ended.value)
            else:
                logger.warning(
                    "Queue %s was closed before the broker had heard of all that is done; that is done again",
                    self._queue,
                )
        self._caller.ended()
        self._taken.clear()

    def take(self, count: int, *, wait: bool, until: float) -> Taken:
        """Take an item.

        Args:
            count: How many are wanted, one after another.
            wait: Whether to wait for one.
            until: Until when, on the monotonic clock.

        Raises:
            Empty: There is none.
            BrokerError: It is not known whether there is one.
        """
        # Who does not wait for an item waits for the broker.
        by = until if wait else time.monotonic() + to_answer(self._timeout)
        while True:
            if self.closed:
                raise ConfigurationError(closed(self._queue))
            delivery = self.taking.arrivals.take()
            if delivery is None:
                delivery = self._wait(count, until) if wait else self._look(count)
            try:
                return Taken(delivery, items.value(delivery.properties, delivery.body, limit=self._limit))
            except CodecError as error:
                self._bury(delivery, error, by)

    def _follow(self) -> Connection:
        connection = self._connection
        if connection is None or not self.taking.following or not connection.alive:
            connection = self._connection = self._caller.follow(self.taking, self.taking.begin)
            if self.closed:
                # Who closed it may have seen no connection.
                connection.loop.leave(self.taking.close, Outcome[int]())
        return connection

    def _wait(self, count: int, until: float) -> Delivery:
        while True:
            waiter = self.taking.arrivals.waiter()
            delivery = None
            try:
                # Who closed it has told those who waited then.
                self._check(None)
                if not waiter.done():
                    self._follow().loop.leave(self.taking.want, count)
                    self._caller.wait(waiter, min(until, time.monotonic() + _LOOK))
                delivery = self.taking.arrivals.take()
            finally:
                if self.taking.arrivals.leave(waiter):
                    self._caller.ended()
            if delivery is not None:
                return delivery
            self._check(waiter.value if waiter.done() else None)
            if time.monotonic() >= until:
                if self.taking.consuming:
                    raise Empty
                raise NotConnected(
                    f"it is not known whether queue {self._queue!r} is empty: there was no connection to the broker, "
                    "or no answer yet. Wait longer, with timeout="
                )

    def _look(self, count: int) -> Delivery:
        """Return what is there, or is on its way."""
        until = time.monotonic() + to_answer(self._timeout)
        found = float("inf")
        while True:
            self._check(None)
            outcome = Outcome[int | AmqpRpcError]()
            self._follow().loop.leave(self.taking.probe, outcome, count)
            self._caller.wait(outcome, until)
            if (delivery := self.taking.arrivals.take()) is not None:
                return delivery
            if not outcome.done():
                self._check(None)
                raise NotConnected(f"it is not known whether queue {self._queue!r} is empty: the broker did not answer")
            there, now = outcome.value, time.monotonic()
            self._check(there)
            found = min(found, now)
            # What is done keeps what follows it from coming, until its putters are told.
            if not there or (now > found + _ON_ITS_WAY and self.taking.settled):
                raise Empty
            waiter = self.taking.arrivals.waiter()
            self._caller.wait(waiter, now + _BETWEEN_LOOKS)
            if self.taking.arrivals.leave(waiter):
                self._caller.ended()
            if (delivery := self.taking.arrivals.take()) is not None:
                return delivery

    def _wait_for_less(self, consumers: int) -> None:
        """Wait until the queue has less consumers: only then it has what they had, in front of all else.

        RabbitMQ says that a channel is closed a moment before. Where others begin at the same time, it is not seen.
        """
        until = time.monotonic() + _GIVEN_BACK
        if not consumers:
            return
        # Without a connection it is not known when that is.
        with contextlib.suppress(BrokerError), self._caller.converse(_GIVEN_BACK) as conversation:
            while time.monotonic() < until:
                state = conversation.inspect(self._queue)
                if state is None or state.consumers < consumers:
                    return
                time.sleep(_BETWEEN_ASKS)

    def _check(self, told: object) -> None:
        if self.closed:
            raise ConfigurationError(closed(self._queue))
        if isinstance(told, AmqpRpcError):
            # Each thread raises one of its own.
            raise type(told)(*told.args)

    def _find(self, *item: Any) -> Taken:
        mine: OrderedDict[Taken, None] | None = getattr(self._local, "mine", None)
        if not item:
            if mine:
                return next(iter(mine))
            if self._taken:
                raise ValueError(
                    "task_done() called too many times by this thread: what is not done was taken by others; name the "
                    "item, task_done(item), to be done with theirs"
                )
            raise ValueError("task_done() called too many times")
        [value] = item
        candidates: list[Taken] = [*(mine or ()), *self._taken]
        for same in (operator.is_, operator.eq):
            for taken in candidates:
                if same(taken.value, value):
                    return taken
        raise ValueError("task_done() of an item that was not taken, or is done")

    def _bury(self, delivery: Delivery, error: CodecError, until: float) -> None:
        """Make a dead letter of an item that can't be read; where that can't be done, it comes again some time.

        It goes on without this thread, where that has no more time.
        """
        letter = items.dead(
            delivery.properties, delivery.body, queue=self._queue, reason=str(error), identity=self._caller.identity(),
            now=time.time(),
        )  # fmt: skip
        expires_at = time.monotonic() + self._timeout
        publication = _Letter(letter, dead_letter_arguments(self._arguments), timeout=self._timeout)

        def ended() -> None:
            self._buried(delivery, error, publication.value)

        try:
            self._caller.publish(publication)
        except AmqpRpcError as failure:
            self._buried(delivery, error, failure)
            return
        publication.on_done(ended)
        self._caller.wait(publication, min(until, expires_at))

    def _buried(self, delivery: Delivery, error: CodecError, failure: AmqpRpcError | None) -> None:
        """Take note of what became of a dead letter; any thread."""
        if failure is not None:
            logger.warning(
                "An item of queue %s can't be read (%s), nor be made a dead letter: %s", self._queue, error, failure
            )
            return
        logger.warning("Dead-lettered an item of queue %s: %s", self._queue, error)
        self.taking.done(delivery)


class _Letter(Publication):
    """A dead letter of an item; its queue may have other arguments."""

    __slots__ = ()

    guessed = True
