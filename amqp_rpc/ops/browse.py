"""A cursor over a queue that loses nothing: each message is delivered, and then kept, moved or dropped.

Kept messages are requeued at the end, however it ends. A quorum queue counts that, and drops a message that was
requeued too often (`topology.dead_letter_arguments`). If a queue was declared without our limit, or a policy lowers it,
a message that was requeued several times is replaced by a copy at the queue's end. A reader who may not publish leaves
it where it is.

It is a seam: it knows messages, and not whether they are dead letters.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from functools import partial
from typing import Self

from amqp_rpc.amqp.channel import AddressedDelivery, BrokerAnswer, Channel, ChannelClosed, Delivery
from amqp_rpc.amqp.publisher import Publication, Publisher
from amqp_rpc.amqp.session import Session
from amqp_rpc.errors import BrokerError, PublishRefused
from amqp_rpc.message.dead_letter import renewed
from amqp_rpc.message.envelope import Message, Properties, lighter
from amqp_rpc.message.headers import HISTORY, delivery_count
from amqp_rpc.message.refusals import ReplyCode
from amqp_rpc.message.topology import NOWHERE, delayed_queue

#: A message that was requeued so many times is replaced by a copy.
MOST_RETURNS = 5
#: The default prefetch.
WINDOW = 100
#: Polls of the queue for messages that are on their way, and the seconds between two polls.
_POLLS, _PAUSE = 40, 0.005
#: Messages, and bytes of their bodies, that wait for confirms together.
_BATCH, _BATCH_BYTES = 100, 8 * 1024 * 1024


class Move(Publication):
    """The copy of a message that replaces it, in its queue or in another one; it is published once, or refused."""

    __slots__ = ("_lighter", "delivery", "signed")
    once = True

    def __init__(self, message: Message, delivery: Delivery, *, signed: bool) -> None:
        # Two messages may have the same id.
        super().__init__(message, None, identity=str(id(delivery)))
        #: The message that it replaces.
        self.delivery: Delivery = delivery
        # One that stays a dead letter keeps the signature of the server that buried it, or has none.
        self.signed: bool = signed
        self._lighter: Iterator[Message] | None = None

    def unwritable(self, publisher: Publisher, error: Exception) -> None:
        """Publish it with shorter headers of ours if AMQP can't carry them; refuse it where that is not enough."""
        self._lighter = self._lighter or lighter(self.message)
        if (message := next(self._lighter, None)) is None:
            super().unwritable(publisher, error)
            return
        self.message: Message = message
        self.written: bool = False
        publisher.send(self)

    def confirmed(self, publisher: Publisher) -> None:
        """End it: the broker has it, in its queue if that exists."""
        missing = PublishRefused(
            f"there is no queue {self.message.routing_key!r}; workers declare it when they are started"
        )
        publisher.end(self, missing if self.returned else None)

    def nacked(self, publisher: Publisher) -> None:
        """End it: its queue is full."""
        publisher.end(self, self.refusal)


def _mark(properties: Properties, body: bytes) -> object:
    """Return a mark that a copy and its later dead letter share, and no message that differs from them.

    The id alone is no such mark: two programs may give the same. A replay's history names its last death.
    """
    history = (properties.headers or {}).get(HISTORY)
    return properties.message_id, history if isinstance(history, str) else None, hash(body)


class Cursor:
    """Goes through the messages of a queue, in an ``async with`` block of a channel script.

    A queue that does not exist has no messages.
    """

    _channel: Channel

    def __init__(self, session: Session, queue: str, *, window: int = WINDOW) -> None:
        self._session = session
        self._queue, self._window = queue, window
        #: The number of messages at the beginning; -1 until it is known.
        self.expected: int = -1
        #: The ids of the messages that were moved to another queue, and whose copy was confirmed, or dropped.
        self.done: list[str] = []
        #: Deliveries that were not yielded yet, and the number of all deliveries.
        self._arrived: deque[AddressedDelivery] = deque()
        self._seen = 0
        #: The prefetch of all its consumers, and their tags.
        self._room = 0
        self._consumers: list[str] = []
        #: The number of messages that were yielded, and are unacked.
        self._unacked = 0
        self._moves: list[Move] = []
        self._bytes = 0
        #: All copies, by `_mark`, and whether each is in this queue: one may be delivered here before the end, and must
        #: not be yielded again.
        self._published: dict[object, bool] = {}
        #: True once it was asked whether this user may publish, and the broker's refusal.
        self._asked = False
        self._refusal: BrokerError | None = None
        #: The copies that the broker refused; their messages stay where they are.
        self.refused: list[Move] = []

    async def __aenter__(self) -> Self:
        self._channel = await self._session.open_channel()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None and self._consumers:
                await self._finish()
        finally:
            for move in self._moves:
                self._session.publisher.drop(move)
            self._channel.close()

    async def next(self) -> AddressedDelivery | None:
        """Return the next message, also one that arrived meanwhile; None at the end."""
        polls = 0
        while polls < _POLLS:
            while self._arrived:
                delivery = self._arrived.popleft()
                self._unacked += 1
                if not self._published or not self._is_copy(delivery):
                    return delivery
                polls = 0
            try:
                state = await self._channel.inspect(self._queue)
            except ChannelClosed as closed:
                if closed.code == ReplyCode.NOT_FOUND and self.expected < 0:
                    return None
                raise
            if self.expected < 0:
                self.expected = state.messages
            if self._arrived:
                continue
            if state.messages and self._unacked == self._room:
                await self._open_window()
            elif state.messages or self._seen < self.expected:
                # It is on its way, or another consumer has it.
                polls += 1
                await self._session.pause(_PAUSE)
            else:
                return None
        return None

    async def forbidden(self) -> BrokerError | None:
        """Return the broker's refusal if this user may not publish: asked once, by a message for no queue."""
        if not self._asked:
            self._asked = True
            with await self._session.open_channel() as probe:
                probe.publish(Message(NOWHERE, Properties(), b""))
                try:
                    await probe.inspect(self._queue)
                except ChannelClosed as closed:
                    self._refusal = closed.error if closed.code == ReplyCode.ACCESS_REFUSED else None
        return self._refusal

    async def keep(self, delivery: AddressedDelivery) -> None:
        """Leave a message in the queue.

        One that came by a delay can't be replaced: its routing key, which a copy would lose, says where it belongs.
        """
        often = (delivery_count(delivery.properties.headers) or 0) >= MOST_RETURNS
        if often and delayed_queue(delivery.routing_key) is None and await self.forbidden() is None:
            await self.move(delivery, renewed(delivery.properties, delivery.body, queue=self._queue))

    async def move(self, delivery: Delivery, message: Message) -> None:
        """Publish a copy in a message's place, which is acked once the broker has confirmed the copy."""
        move = Move(message, delivery, signed=message.routing_key != self._queue)
        self._moves.append(move)
        self._note(message)
        self._bytes += len(message.body)
        self._session.publisher.add(move)
        self._session.publisher.send(move)
        if len(self._moves) >= _BATCH or self._bytes >= _BATCH_BYTES:
            await self._settle_moves()

    def drop(self, delivery: Delivery) -> None:
        """Ack a message: it is gone."""
        self._ack(delivery)
        self.done.append(delivery.properties.message_id or "")

    async def _finish(self) -> None:
        """Wait for the confirms of copies, and requeue kept messages."""
        await self._settle_moves()
        # In this order: a requeued message would be delivered here again.
        for tag in self._consumers:
            self._channel.cancel(tag)
        before = self._channel.inspect(self._queue)
        self._channel.give_back()
        # With this answer, the broker has received the requeue, and the acks before it.
        state = await self._channel.inspect(self._queue)
        # A quorum queue has them a moment later: the next reader must find them. Another consumer may receive them.
        count = (await before).messages + self._unacked + len(self._arrived)
        for _ in range(_POLLS):
            if state.messages >= count:
                break
            await self._session.pause(_PAUSE)
            state = await self._channel.inspect(self._queue)

    async def _settle_moves(self) -> None:
        while self._moves:
            move = self._moves[0]
            ended = BrokerAnswer[None]()
            move.on_done(partial(ended.arrive, None))
            await ended
            self._moves.pop(0)
            # Its headers may have become shorter.
            self._note(move.message)
            if move.value is not None:
                self.refused.append(move)
            else:
                self._ack(move.delivery)
                if move.message.routing_key != self._queue:
                    self.done.append(str(move.message.properties.message_id))
        self._bytes = 0

    def _note(self, message: Message) -> None:
        self._published[_mark(message.properties, message.body)] = message.routing_key == self._queue

    def _is_copy(self, delivery: Delivery) -> bool:
        """Return whether a message is a copy, or its dead letter: one in this queue was not requeued before."""
        here = self._published.get(_mark(delivery.properties, delivery.body))
        return here is not None and not (here and delivery.redelivered)

    def _ack(self, delivery: Delivery) -> None:
        self._channel.ack([delivery.tag])
        self._unacked -= 1

    async def _open_window(self) -> None:
        # Another consumer, because unacked messages count towards a prefetch to the end. Taking one message after
        # another with basic.get costs a quorum queue 5 ms each.
        self._room += self._window
        self._channel.prefetch(self._window)
        self._consumers.append(
            await self._channel.consume(self._queue, self._on_delivery, acknowledge=True, addressed=True)
        )

    def _on_delivery(self, delivery: AddressedDelivery) -> None:
        self._seen += 1
        self._arrived.append(delivery)
