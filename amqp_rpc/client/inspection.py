"""Whether anybody consumes a queue, asked of the broker on a channel of its own; belongs to the connection's owner.

The broker answers for a queue that does not exist by closing the channel (404), which is why no other work shares it.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

from amqp_rpc.amqp.channel import QueueState
from amqp_rpc.errors import BrokerError

if TYPE_CHECKING:
    from amqp_rpc.amqp.channel import Channel
    from amqp_rpc.amqp.connection import Connection

#: Seconds for which an answer, or a reply from the queue's server, is proof enough that somebody is there.
#: Within it a burst of calls asks once; after it a call costs one more round trip, about a third of a millisecond.
PROOF_LASTS = 0.1

_NOT_FOUND = 404


class Inspector:
    """Asks for queues, one at a time, and remembers for a moment who was there."""

    def __init__(
        self,
        connection: Connection,
        found: Callable[[QueueState], object],
        not_found: Callable[[str, BrokerError | None], object],
    ) -> None:
        self._connection = connection
        self._found = found
        self._not_found = not_found
        self._channel: Channel | None = None
        self._opening = False
        self._asked: deque[str] = deque()
        self._proved: dict[str, float] = {}

    def served(self, queue: str) -> bool:
        """Return whether a server was there a moment ago."""
        return time.monotonic() - self._proved.get(queue, float("-inf")) <= PROOF_LASTS

    def saw_server(self, queue: str) -> None:
        """Take note that the queue's server has just answered."""
        self._proved[queue] = time.monotonic()

    def missed_server(self, queue: str) -> None:
        """Take note that nobody is there after all."""
        self._proved.pop(queue, None)

    def inspect(self, queue: str) -> None:
        """Ask for a queue, unless the question is under way."""
        if queue not in self._asked:
            self._asked.append(queue)
            if len(self._asked) == 1:
                self._ask()

    def _ask(self) -> None:
        if self._channel is not None and self._channel.is_open:
            self._channel.inspect(self._asked[0], self._answered)
        elif not self._opening:
            self._opening = True
            self._connection.open_channel(self._opened, self._closed)

    def _opened(self, channel: Channel) -> None:
        self._channel, self._opening = channel, False
        if self._asked:
            self._ask()

    def _answered(self, state: QueueState) -> None:
        self._asked.popleft()
        if state.consumers:
            self.saw_server(state.name)
        # In this order: whoever is told may ask again, and must find the next question under way.
        if self._asked:
            self._ask()
        self._found(state)

    def _closed(self, _channel: Channel, error: BrokerError, code: int) -> None:
        self._channel, self._opening = None, False
        if not self._asked:
            return
        queue = self._asked.popleft()
        if self._asked:
            self._ask()
        self._not_found(queue, None if code == _NOT_FOUND else error)
