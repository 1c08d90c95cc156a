"""What a client can say of queues, and do with dead letters: for those who operate them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable

from amqp_rpc.amqp.channel import QueueState
from amqp_rpc.client.caller import Caller
from amqp_rpc.client.forms import Default
from amqp_rpc.ops.dead_letters import DeadLetters


class Operating(ABC):
    """The part of `Client` that is about queues."""

    _caller: Caller

    def dead_letters(self, queue: str, *, timeout: float | Default = Default.TIMEOUT) -> DeadLetters:
        """Return the dead letters of a queue, to be listed, replayed and dropped; the broker is not asked yet.

        Args:
            queue: The tasks' queue, or the calls': ``"thumbnails"``, ``"rpc_queue"``.
            timeout: Seconds that each of its methods may take (the client's, 30.0).

        Example:
            >>> for letter in client.dead_letters("thumbnails").list():  # doctest: +SKIP
            ...     print(letter.id, letter.reason)
        """
        return DeadLetters(self._caller, queue, timeout=self._seconds(timeout))

    def queue_states(
        self, queues: Iterable[str], *, timeout: float | Default = Default.TIMEOUT
    ) -> dict[str, QueueState | None]:
        """Return what the broker says of queues, by name: ``messages`` that wait, and ``consumers``; None for no queue.

        Args:
            queues: Their names.
            timeout: Seconds that it may take (the client's, 30.0).

        Raises:
            BrokerError: No connection, no permission, or no answer in time.
        """
        seconds = self._seconds(timeout)
        states: dict[str, QueueState | None] = {}
        for queue in queues:
            # Each on a channel of its own: the broker closes it where there is no such queue.
            with self._caller.converse(seconds) as conversation:
                states[queue] = conversation.inspect(queue)
        return states

    @abstractmethod
    def _seconds(self, timeout: float | Default) -> float:
        """Return the seconds that something gets."""
