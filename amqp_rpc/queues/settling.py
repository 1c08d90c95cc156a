"""Items that are done, on their way to be acknowledged: their putters are told before. The connection's side of it.

In this order a crash in between repeats an item, and hides none from who waits in `join`. What is done within some
milliseconds is told and acknowledged together: a receipt costs the broker as much as an item.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

from amqp_rpc.amqp.channel import Delivery
from amqp_rpc.queues import items
from amqp_rpc.queues.ahead import Windows

if TYPE_CHECKING:
    from amqp_rpc.amqp.channel import Channel
    from amqp_rpc.amqp.connection import Connection

#: Seconds until a receipt that the broker did not take is sent again.
_AGAIN = 0.5
#: Seconds in which what is done is gathered, and how many items are not gathered for longer.
_GATHERED, _ENOUGH = 0.005, 64
#: Receipts in one message at most.
_TOGETHER = 1000


class Settling:
    """The items of one object that are done; any thread may call `add`, the rest belongs to the connection's owner.

    Args:
        here: Tells a putter of this very client, where a receipt is to go to it; returns whether it was.
        windows: Those by which they came: in them they make room soon.
        delayed: Called when some won't for a while, as the broker has not taken their receipts.
        settled: Called when some are acknowledged.
    """

    def __init__(
        self,
        here: Callable[[str, str], bool],
        windows: Windows,
        delayed: Callable[[], object],
        settled: Callable[[], object],
    ) -> None:
        self._here = here
        self._windows = windows
        self._delayed = delayed
        self._settled = settled
        self._done: deque[tuple[Delivery, Connection]] = deque()
        #: Whether they are being gathered, and whether there are enough of them.
        self._gathering = False
        self._hurried = False
        self._unconfirmed = 0

    def add(self, delivery: Delivery, connection: Connection) -> None:
        """Have an item acknowledged, once its putter is told that it is done."""
        self._done.append((delivery, connection))
        if not self._gathering:
            self._gathering = True
            connection.loop.leave(connection.loop.call_later, _GATHERED, self.flush)
        elif not self._hurried and len(self._done) >= _ENOUGH:
            self._hurried = True
            connection.loop.leave(self.flush)

    def gathered(self) -> list[Delivery]:
        """Return what is done, of which nobody has been told."""
        # Copied in one step: any thread may add to it meanwhile.
        return [delivery for delivery, _ in self._done.copy()]

    @property
    def over(self) -> bool:
        """Whether nothing is on its way."""
        return not (self._done or self._unconfirmed)

    def forget(self) -> None:
        """Forget what was on its way: the channel by which it came is closed, and it is others' now."""
        self._unconfirmed = 0

    def flush(self) -> None:
        """Send receipts and acknowledgements for all that is done."""
        # In this order: what is done from now on asks for another round.
        self._gathering = self._hurried = False
        receipts: dict[str, list[Delivery]] = {}
        silent: list[Delivery] = []
        while self._done:
            delivery, connection = self._done.popleft()
            if not delivery.channel.is_open:
                continue
            self._windows.settles(delivery.tag)
            reply_to = items.receipt_to(delivery.properties)
            if reply_to is None or self._here(reply_to, str(delivery.properties.message_id)):
                silent.append(delivery)
                continue
            together = receipts.setdefault(reply_to, [])
            together.append(delivery)
            self._unconfirmed += 1
            if len(together) >= _TOGETHER:
                self._tell(reply_to, receipts.pop(reply_to), connection)
        if silent:
            self._acknowledge(silent)
        for reply_to, together in receipts.items():
            self._tell(reply_to, together, connection)

    def _tell(self, reply_to: str, deliveries: list[Delivery], connection: Connection) -> None:
        channel: Channel = deliveries[0].channel

        def confirmed(taken: bool) -> None:
            if not channel.is_open:
                # All that came by it was forgotten, and another one may have deliveries of the same tags.
                return
            if taken:
                self._unconfirmed -= len(deliveries)
                self._acknowledge(deliveries)
            else:
                for each in deliveries:
                    self._windows.settles(each.tag, soon=False)
                self._delayed()
                connection.loop.call_later(_AGAIN, lambda: self._tell_again(reply_to, deliveries, connection))

        # Where it is closed by now, all that came by it was forgotten.
        message = items.receipt(reply_to, [str(each.properties.message_id) for each in deliveries])
        channel.publish_confirmed(message, confirmed)

    def _tell_again(self, reply_to: str, deliveries: list[Delivery], connection: Connection) -> None:
        if deliveries[0].channel.is_open:
            for delivery in deliveries:
                self._windows.settles(delivery.tag)
            self._tell(reply_to, deliveries, connection)

    def _acknowledge(self, deliveries: list[Delivery]) -> None:
        deliveries[0].channel.ack([each.tag for each in deliveries])
        for each in deliveries:
            self._windows.settled(each.tag)
        self._settled()
