"""What has come from a queue, and the threads that wait for it; `taking` says when more comes. No I/O."""

from __future__ import annotations

from collections import deque

from amqp_rpc.amqp.channel import Delivery
from amqp_rpc.amqp.pending import Outcome
from amqp_rpc.errors import AmqpRpcError


class Arrivals:
    """The items that have come and were not taken, oldest first; any thread may call all of it."""

    def __init__(self) -> None:
        self._arrived: deque[Delivery] = deque()
        self._waiters: deque[Outcome[AmqpRpcError | None]] = deque()
        self._came = 0

    def __len__(self) -> int:
        return len(self._arrived)

    @property
    def taken(self) -> int:
        """How many were taken so far."""
        return self._came - len(self._arrived)

    @property
    def awaited(self) -> bool:
        """Whether somebody waits for one."""
        return bool(self._waiters)

    def take(self) -> Delivery | None:
        """Return an item that has arrived, or None."""
        while True:
            try:
                delivery = self._arrived.popleft()
            except IndexError:
                return None
            if delivery.channel.is_open:
                return delivery

    def waiter(self) -> Outcome[AmqpRpcError | None]:
        """Return what is told when an item arrives, or why none will; in the end it has to `leave`."""
        outcome = Outcome[AmqpRpcError | None]()
        self._waiters.append(outcome)
        if self._arrived:
            outcome.tell(None)
        return outcome

    def leave(self, outcome: Outcome[AmqpRpcError | None]) -> bool:
        """Do not wait any more, and return whether another one was woken in its place."""
        try:
            self._waiters.remove(outcome)
        except ValueError:
            return bool(self._arrived) and self._wake(1)
        return False

    def came(self, delivery: Delivery) -> None:
        """Take an item in, and wake one who waits."""
        self._came += 1
        self._arrived.append(delivery)
        self._wake(1)

    def fail(self, error: AmqpRpcError) -> None:
        """Tell all who wait that nothing will come."""
        self._wake(len(self._waiters), error)

    def clear(self) -> list[Delivery]:
        """Return all that was not taken, oldest first, and have it no more: as if it had never come."""
        found: list[Delivery] = []
        while True:
            try:
                found.append(self._arrived.popleft())
            except IndexError:
                self._came -= len(found)
                return found

    def _wake(self, count: int, error: AmqpRpcError | None = None) -> bool:
        """Tell so many; return whether there were as many."""
        for _ in range(count):
            try:
                self._waiters.popleft().tell(error)
            except IndexError:
                return False
        return True
