"""Going through a queue without losing what is in it: messages are taken one by one, and kept, moved or dropped.

What is kept goes back when the browsing ends, in any way. A quorum queue counts that, and drops what it got back too
often (`topology.dead_letter_arguments`): where a queue was declared without our bound, or a policy lowers it, a message
that has come back some times is put in anew, at the queue's end, and the old one acknowledged.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Self

from amqp_rpc.amqp.channel import Delivery, QueueState
from amqp_rpc.amqp.conversation import Conversation
from amqp_rpc.message.dead_letter import renewed
from amqp_rpc.message.envelope import Message
from amqp_rpc.message.headers import delivery_count
from amqp_rpc.message.text import text_of

if TYPE_CHECKING:
    from amqp_rpc.amqp.channel import Channel

#: How often a message is given back before it is put in anew.
MOST_RETURNS = 5
#: Messages that are delivered together, unless told otherwise.
WINDOW = 100
#: How often the queue is looked at for what is on its way, and the seconds between two looks.
_LOOKS, _BETWEEN_LOOKS = 40, 0.005
#: Messages, and bytes of their bodies, that wait for confirms together.
_BATCH, _BATCH_BYTES = 100, 8 * 1024 * 1024


class Browsing:
    """Goes through the messages of a queue, each of which is then given to `keep`, `move` or `drop`; in a ``with``.

    Args:
        conversation: It has not asked for anything yet.
        queue: Which exists.
        window: Messages that are delivered together.
    """

    def __init__(self, conversation: Conversation, queue: str, *, window: int = WINDOW) -> None:
        self._conversation = conversation
        self._queue = queue
        self._window = window
        #: Messages that came and were not yet taken in hand; how many came, and how many there were at the beginning.
        self._arrived: deque[Delivery] = deque()
        self._seen = self._expected = 0
        #: How many the broker may deliver before one is acknowledged, to these consumers.
        self._room = 0
        self._consumers: list[str] = []
        self._moving: list[tuple[Delivery, Message]] = []
        self._bytes = 0
        #: Messages that were taken, and not acknowledged.
        self._kept = 0
        self._confirms = False
        #: The ids of what no queue took.
        self._returned: set[str | None] = set()
        #: The ids of what was published here: it may come again before the end, and has been seen then.
        self._published: set[str | None] = set()
        #: What the broker did not take, and why; it stays where it was.
        self.refused: list[tuple[Message, str]] = []

    def __enter__(self) -> Self:
        self._expected = self._look().messages
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.flush()
            self._give_all_back()

    def __iter__(self) -> Iterator[Delivery]:
        """Take messages until there is none; what comes in meanwhile is taken too, what was moved here is not."""
        looks = 0
        while looks < _LOOKS:
            while self._arrived:
                looks = 0
                self._kept += 1
                delivery = self._arrived.popleft()
                if delivery.properties.message_id not in self._published:
                    yield delivery
            state = self._look()
            if self._arrived:
                continue
            if state.messages and self._kept == self._room:
                self._conversation.ask(self._open_window)
            elif state.messages or self._seen < self._expected:
                # It is on its way, or somebody else has it.
                looks += 1
                time.sleep(_BETWEEN_LOOKS)
            else:
                return

    def keep(self, delivery: Delivery) -> None:
        """Leave a message in the queue."""
        if (delivery_count(delivery.properties.headers) or 0) >= MOST_RETURNS:
            self.move(delivery, renewed(delivery.properties, delivery.body, queue=self._queue))

    def move(self, delivery: Delivery, message: Message) -> None:
        """Publish a message in another's place, which is acknowledged once the broker has confirmed it."""
        self._moving.append((delivery, message))
        self._published.add(message.properties.message_id)
        self._bytes += len(message.body)
        if len(self._moving) >= _BATCH or self._bytes >= _BATCH_BYTES:
            self.flush()

    def drop(self, delivery: Delivery) -> None:
        """Acknowledge a message: it is gone."""
        self._conversation.ask(lambda channel, done: done(channel.ack([delivery.tag])))
        self._kept -= 1

    def flush(self) -> None:
        """Publish what is to be moved, and wait for the confirms."""
        if not self._moving:
            return
        if not self._confirms:
            self._confirms = True
            self._conversation.ask(self._ask_for_confirms)
        moving, self._moving, self._bytes = self._moving, [], 0
        refused = self._conversation.ask(_Batch(moving, self._returned).begin)
        self.refused += refused
        self._kept -= len(moving) - len(refused)

    def _ask_for_confirms(self, channel: Channel, done: Callable[..., object]) -> None:
        channel.on_returned(lambda _key, properties: self._returned.add(properties.message_id))
        channel.confirms(done)

    def _look(self) -> QueueState:
        state: QueueState = self._conversation.ask(lambda channel, done: channel.inspect(self._queue, done))
        return state

    def _open_window(self, channel: Channel, done: Callable[..., object]) -> None:
        # One consumer more, since what is kept takes its place of a prefetch to the end. Taking one message after
        # another with basic.get costs a quorum queue 5 ms each.
        self._room += self._window
        channel.prefetch(self._window)
        self._consumers.append(channel.consume(self._queue, self._on_delivery, acknowledge=True, then=done).tag)

    def _on_delivery(self, delivery: Delivery) -> None:
        self._seen += 1
        self._arrived.append(delivery)

    def _give_all_back(self) -> None:
        states: list[QueueState] = []

        def give_back(channel: Channel, done: Callable[..., object]) -> None:
            # It would be delivered here again.
            for tag in self._consumers:
                channel.cancel(tag, lambda: None)
            channel.inspect(self._queue, states.append)
            channel.give_back()
            # The answer says that the broker has heard it, and what was acknowledged before.
            channel.inspect(self._queue, done)

        state: QueueState = self._conversation.ask(give_back)
        kept = self._kept + len(self._arrived)
        # A quorum queue has it back a moment later: who looks again at once is to find it. Somebody else may have it.
        for _ in range(_LOOKS):
            if state.messages >= states[0].messages + kept:
                return
            time.sleep(_BETWEEN_LOOKS)
            state = self._look()


class _Batch:
    """Messages on their way, and the deliveries in whose place they are; the connection's owner's."""

    def __init__(self, moving: list[tuple[Delivery, Message]], returned: set[str | None]) -> None:
        self._moving = moving
        self._returned = returned
        self._refused: list[tuple[Message, str]] = []
        self._left = len(moving)

    def begin(self, channel: Channel, done: Callable[..., object]) -> None:
        """Publish all; call back with what the broker did not take, and why."""
        for delivery, message in self._moving:
            self._publish(channel, delivery, message, done)

    def _publish(self, channel: Channel, delivery: Delivery, message: Message, done: Callable[..., object]) -> None:
        def confirmed(taken: bool) -> None:
            # In this order, by AMQP: a return comes before the confirm.
            if message.properties.message_id in self._returned:
                self._end(done, message, f"there is no queue {message.routing_key!r}")
            elif not taken:
                self._end(done, message, f"queue {message.routing_key!r} takes no more, by a bound perhaps")
            else:
                channel.ack([delivery.tag])
                self._end(done)

        try:
            channel.publish_confirmed(message, confirmed, mandatory=True)
        # Anybody's message, with anything in its headers.
        except Exception as error:
            self._end(done, message, f"it could not be written: {text_of(error)}")

    def _end(self, done: Callable[..., object], message: Message | None = None, why: str = "") -> None:
        if message is not None:
            self._refused.append((message, why))
        self._left -= 1
        if not self._left:
            done(self._refused)
